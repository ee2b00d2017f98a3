"""The web workers' program: gunicorn on a socket that is open already, with a Flask application.

``python -m sidearm.workers.web --lifeline FD --ready FD --listen FD [--app SPEC] [gunicorn's own]``
is what :mod:`sidearm.workers.site` starts. The application is loaded as ``flask --app SPEC`` loads
it, in each worker, so that SIGHUP loads new code. With ``--check`` it is only loaded: settings and
code that cannot be are told by the exit status.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from flask import Flask
from flask.cli import ScriptInfo
from flask.logging import default_handler
from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.glogging import Logger

from .. import logs
from ..hub.platform import READ, wait_ready
from . import health
from .lifeline import end_with_parent

# Blocking workers, of which two already show what cannot live in one process's memory.
DEFAULT_WORKERS = 2


class WebWorkers(WSGIApplication):  # type: ignore[misc]  # gunicorn has no types
    """gunicorn with other defaults, which its own file, environment and arguments can change.

    Args:
        app_import_path: As ``flask --app`` takes it; None: as Flask finds it by itself.
        ready: The descriptor on which each worker that has loaded the application says so.
        log_format: ``"text"`` or ``"json"``.
    """

    def __init__(self, app_import_path: str | None, ready: int, log_format: str = "text") -> None:
        self.app_import_path = app_import_path
        self.ready = ready
        self.log_format = log_format
        self.loads = 0
        super().__init__("flask sidearm up [OPTIONS] -- [GUNICORN'S OPTIONS]", prog="gunicorn")

    def load_default_config(self) -> None:
        super().load_default_config()
        if "WEB_CONCURRENCY" not in os.environ:
            self.cfg.set("workers", DEFAULT_WORKERS)
        self.cfg.set("loglevel", "warning")  # `up` says itself what it starts
        self.cfg.set("default_proc_name", self.app_import_path or "app")
        # A socket in the working directory or home, on which nobody here speaks (gunicorn 25).
        if "control_socket_disable" in self.cfg.settings:
            self.cfg.set("control_socket_disable", True)

    def load_config(self) -> None:
        super().load_config()
        theirs = self.cfg.post_worker_init, self.cfg.on_reload, self.cfg.on_starting

        def post_worker_init(worker: Any) -> None:
            health.tell_draining(lambda: not worker.alive)
            theirs[0](worker)
            self.tell_ready()

        def on_reload(server: object) -> None:
            self.loads += 1  # in the master, before it forks the workers that have the new code
            theirs[1](server)

        def on_starting(server: Any) -> None:
            # A Unix socket's file is its opener's, such as systemd's: it stays at the end.
            server.systemd = True
            theirs[2](server)

        self.cfg.set("post_worker_init", post_worker_init)
        self.cfg.set("on_reload", on_reload)
        self.cfg.set("on_starting", on_starting)
        self._check_config()
        self.cfg.set("logger_class", formed(self.cfg.logger_class, self.log_format))

    def _check_config(self) -> None:
        """Refuse settings that take away from `up` what it does itself.

        Raises:
            ValueError: There is one; gunicorn shows it as a line.
        """
        if self.cfg.daemon:
            raise ValueError(
                "daemon is True, and 'flask sidearm up' has to see its web server. Leave it out;"
                " systemd or supervisor run 'up' in the background."
            )
        strange = [bind for bind in self.cfg.bind if not bind.startswith("fd://")]
        if strange:
            raise ValueError(
                f"bind is {strange[0]!r}, and 'flask sidearm up' opens the port itself. Give it"
                " --host and --port."
            )

    def load_wsgiapp(self) -> Any:
        app = ScriptInfo(app_import_path=self.app_import_path).load_app()
        adopt(app.logger, self.log_format)
        if answers_health(app):
            health.install(app)
        return app

    def tell_ready(self) -> None:
        """Say that a worker is there, and what kind it is, in one short line."""
        line = json.dumps(self.describe()) + "\n"
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(self.ready, line.encode())

    def describe(self) -> dict[str, Any]:
        """What a reader of the first lines wants to know, and how long a stop may take."""
        return {
            "workers": self.cfg.workers,
            "worker_class": self.cfg.worker_class_str,
            "threads": self.cfg.threads,
            "loads": self.loads,
            # After graceful_timeout gunicorn kills its workers itself.
            "stop_within": self.cfg.graceful_timeout + 5.0,
        }


def answers_health(app: Flask) -> bool:
    """Whether the settings let `up` answer for an application's health."""
    state: Any = app.extensions.get("sidearm")
    return state is None or state.settings.health is not False


def adopt(app_logger: logging.Logger, log_format: str) -> None:
    """Give a loaded application's log our form, where it has configured none.

    Args:
        app_logger: Flask's ``app.logger``, whose own handler is used where there is no other.
        log_format: ``"text"`` or ``"json"``.
    """
    formatter = logs.formatter_for("web", log_format)
    if not logging.root.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(formatter)
        logging.root.addHandler(handler)
        app_logger.removeHandler(default_handler)
    elif default_handler in app_logger.handlers:
        default_handler.setFormatter(formatter)


def formed(logger_class: type[Logger], log_format: str) -> type[Logger]:
    """Gunicorn's logger with our form of lines, unless a configuration of logging has another.

    Args:
        logger_class: The one that its settings choose.
        log_format: ``"text"`` or ``"json"``.
    """
    if getattr(logger_class, "is_formed", False):
        return logger_class

    class Formed(logger_class):  # type: ignore[misc]
        is_formed = True

        def setup(self, cfg: Any) -> None:
            super().setup(cfg)
            if cfg.logconfig or cfg.logconfig_dict or cfg.logconfig_json:
                return
            formatter = logs.formatter_for("web", log_format)
            streams: list[tuple[Any, str | None]] = [
                (self.error_log, cfg.errorlog),
                # A file of requests is for programs that know gunicorn's own lines.
                (self.access_log, cfg.accesslog if log_format == "text" else "-"),
            ]
            for log, where in streams:
                for handler in log.handlers:
                    if getattr(handler, "_gunicorn", False) and where == "-":
                        handler.setFormatter(formatter)

    return Formed


def main(arguments: Sequence[str]) -> None:
    """Run gunicorn until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m sidearm.workers.web", allow_abbrev=False)
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--ready", type=int, default=-1)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--listen", type=int, action="append", required=True)
    parser.add_argument("--draining", type=int, required=True)
    parser.add_argument("--log-format", choices=logs.FORMATS, default="text")
    parser.add_argument("--app")
    parser.add_argument("gunicorn", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)

    logs.begin("web", options.log_format)
    end_with_parent(options.lifeline)
    # Its other end is closed when `up` begins to drain.
    health.tell_draining(lambda: wait_ready(options.draining, READ, 0))
    theirs = options.gunicorn[1:]  # without the "--" that begins them
    # gunicorn reads sys.argv again when it reloads; the last word is what it takes for the module.
    binds = [word for each in options.listen for word in ("--bind", f"fd://{each}")]
    sys.argv = ["gunicorn", *binds, *theirs, options.app or "app"]
    workers = WebWorkers(options.app, options.ready, options.log_format)
    if options.check:
        workers.load()
    else:
        workers.run()


if __name__ == "__main__":
    main(sys.argv[1:])

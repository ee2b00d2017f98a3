"""The processes of a layout, as supervisor, systemd, a Procfile and containers start them."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flask import Flask
from flask.cli import prepare_import

from ...exceptions import ExportError
from .deployment import Deployment

#: uWSGI's own limit for a request's head, 4096, is less than what cookies may take.
HEAD_SIZE = 32_768  # bytes
#: Seconds that a worker of the streaming pool has for what is under way. An inline stream never
#: ends by itself, and gunicorn's default would hold up each restart by 30.
STREAM_GRACE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A process that something keeps running.

    Attributes:
        name: As it is called.
        service: As a container of it is called: other containers find it by this name.
        comment: What it is for.
        command_line: Its words.
        environment: Added to its environment.
        port: Where it listens, if it does.
        stop_signal: What asks it to end.
        stop_within: Seconds that it may take for that.
    """

    name: str
    service: str
    comment: str
    command_line: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    port: int | None = None
    stop_signal: str = "TERM"
    stop_within: int = 45


def programs_of(
    deployment: Deployment,
    *,
    python: str,
    host: str = "127.0.0.1",
    socket: str | None = None,
    with_services: bool = False,
) -> tuple[Program, ...]:
    """The processes of a deployment, in the order in which they start.

    Args:
        deployment: What to run.
        python: The interpreter.
        host: The address on which pools listen: the loopback's, so that nobody goes round the
            front, except in containers, whose network is their own.
        socket: The hub's socket; ``None``: its default.
        with_services: Whether Redis and nginx are among them.
    """
    choices = deployment.choices
    flask = (python, "-m", "flask", *(("--app", choices.flask_app) if choices.flask_app else ()))
    environment = {"SIDEARM_SOCKET": socket} if socket else {}
    if deployment.layout == "sidearm":
        return (
            Program(
                name="web",
                service="web",
                comment="Web workers and the hub, on one port; streams pass through it too.",
                command_line=(
                    *flask,
                    *("sidearm", "up", "--host", host, "--port", str(deployment.blocking.port)),
                    *("--workers", str(choices.workers)),
                ),
                environment=environment,
                port=deployment.blocking.port,
            ),
        )
    gunicorn = (python, "-m", "gunicorn", *_own_socket(python), "-w", str(choices.workers))
    pools = (
        Program(
            name="hub",
            service="hub",
            comment="Carries events from the workers that publish to those that stream.",
            command_line=(*flask, "sidearm", "hub"),
            environment=environment,
            stop_within=15,
        ),
        Program(
            name="worker-blocking",
            service=deployment.blocking.name,
            comment="Everything that does not stream.",
            command_line=(
                _uwsgi(deployment, python, host)
                if choices.blocking_server == "uwsgi"
                else (*gunicorn, choices.wsgi_app, "-b", f"{host}:{deployment.blocking.port}")
            ),
            environment=environment,
            port=deployment.blocking.port,
        ),
        Program(
            name="worker-nonblocking",
            service=deployment.streaming.name,
            comment="Streams stay in these workers (SIDEARM_HANDOFF is off, where the application"
            " reads app.config.from_prefixed_env()).",
            command_line=(
                *gunicorn,
                *("-k", "gevent", choices.wsgi_app),
                *("-b", f"{host}:{deployment.streaming.port}"),
                *("--graceful-timeout", str(STREAM_GRACE)),
                # gunicorn's default of 1000 would leave further clients waiting without a word.
                *("--worker-connections", str(deployment.streams)),
            ),
            environment={**environment, "FLASK_SIDEARM_HANDOFF": "false"},
            port=deployment.streaming.port,
            stop_within=STREAM_GRACE + 10,
        ),
    )
    return (*pools, *_services(deployment)) if with_services else pools


def _own_socket(python: str) -> tuple[str, ...]:
    """Both pools would have the same socket for gunicorn's control (gunicorn 25 and later)."""
    if python != sys.executable:
        return ()  # in containers each has its own files, and gunicorn's version is not known
    try:
        from gunicorn.config import Config
    except ImportError:  # such as on Windows, for whose servers nothing here is
        return ()
    known: Mapping[str, Any] = Config().settings
    return ("--no-control-socket",) if "control_socket_disable" in known else ()


def _uwsgi(deployment: Deployment, python: str, host: str) -> tuple[str, ...]:
    """The blocking pool under uWSGI; nginx speaks HTTP to it, as to gunicorn."""
    beside = Path(python).with_name("uwsgi")
    return (
        str(beside) if beside.is_file() else "uwsgi",
        *("--master", "--processes", str(deployment.choices.workers)),
        *("--module", deployment.choices.wsgi_app, "--need-app", "--pythonpath", "."),
        *("--http-socket", f"{host}:{deployment.blocking.port}"),
        # Each process begins with connections of its own, and may have threads in the background.
        *("--lazy-apps", "--enable-threads", "--single-interpreter"),
        *("--die-on-term", "--vacuum"),
        *("--buffer-size", str(HEAD_SIZE)),
        # A uWSGI from pip would run the Python outside of the virtual environment when it reloads.
        *(("--binary-path", python) if beside.is_file() else ()),
    )


def _services(deployment: Deployment) -> tuple[Program, ...]:
    run_dir = deployment.choices.run_dir
    configuration = f"{run_dir}/nginx.conf" if run_dir else "/etc/nginx/nginx.conf"
    return (
        Program(
            name="redis",
            service="redis",
            comment="For the application's own use; nothing is kept on the disk.",
            command_line=(
                *(
                    "redis-server",
                    "--bind",
                    "127.0.0.1",
                    "--port",
                    str(deployment.choices.redis_port),
                ),
                *("--save", "", "--appendonly", "no", "--daemonize", "no"),
            ),
        ),
        Program(
            name="nginx",
            service="nginx",
            comment='The front; "flask sidearm export nginx --layout talk" writes its file.',
            command_line=("nginx", "-c", configuration, "-g", "daemon off;"),
            stop_signal="QUIT",  # it ends what is under way
        ),
    )


def gunicorn_target(app: Flask, flask_app: str | None) -> str:
    """What ``flask --app`` was given, as gunicorn takes it.

    Args:
        app: What was loaded.
        flask_app: As ``flask --app`` takes it.

    Raises:
        ExportError: It cannot be told.
    """
    path, _, name = _split(flask_app)
    if path:
        module_name = prepare_import(path)
    else:
        module_name = next((n for n in ("wsgi", "app") if _module(n)), app.import_name)
    module = _module(module_name)
    if name:
        found = getattr(module, name, None)
        called = callable(found) and not isinstance(found, Flask)
        return f"{module_name}:{name}{'()' if called else ''}"
    # The order in which Flask looks.
    for name in ("app", "application"):
        if isinstance(getattr(module, name, None), Flask):
            return f"{module_name}:{name}"
    for name, value in vars(module).items() if module else ():
        if value is app:
            return f"{module_name}:{name}"
    for name in ("create_app", "make_app"):
        if callable(getattr(module, name, None)):
            return f"{module_name}:{name}()"
    raise ExportError(
        f"It is not known how gunicorn finds the application {app.name!r}. Name it with"
        ' "flask --app MODULE:NAME".'
    )


def _split(flask_app: str | None) -> tuple[str, str, str]:
    if not flask_app:
        return "", "", ""
    path, *name = re.split(r":(?![\\/])", flask_app, maxsplit=1)  # as Flask does it
    return path, ":", name[0] if name else ""


def _module(name: str) -> Any:
    return sys.modules.get(name)

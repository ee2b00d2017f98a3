"""Settings of gunicorn: ``gunicorn -c python:sidearm.gunicorn shop:app`` runs a hub, too.

The hub is started before gunicorn listens, is restarted when it dies, and is stopped after the
workers. A reload (SIGHUP) does not touch it. A new gunicorn (SIGUSR2) takes it over with every open
stream. When gunicorn is killed, it ends.

All other settings come from the command line and ``GUNICORN_CMD_ARGS`` as ever. A settings file of
your own takes these functions along::

    from sidearm.gunicorn import on_exit, on_starting, post_worker_init, pre_fork

What the functions do is done in the master process, except :func:`post_worker_init`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import Any

from .exceptions import StartError
from .hub.platform import READ, wait_ready
from .workers.health import tell_draining
from .workers.own_hub import python_path

__all__ = ["on_exit", "on_starting", "post_worker_init", "pre_fork"]


class _Keeper:
    """The process that keeps the hub, as gunicorn's master sees it.

    Both pipes end with the process at their other end, so neither a reaped child nor a signal that
    came at the wrong moment is missed.
    """

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        lifeline, self._held = os.pipe()
        self._ready, told = os.pipe()
        try:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "sidearm.workers.keeper"),
                    *("--lifeline", str(lifeline), "--ready", str(told), *arguments),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=(lifeline, told),
                process_group=0,  # Ctrl-C is for the master, which stops it in order
            )
        finally:
            os.close(lifeline)
            os.close(told)

    def wait_ready(self) -> bool:
        """Wait until the hub serves; False: it never will."""
        return os.read(self._ready, 4096) != b""

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended."""
        while wait_ready(self._ready, READ, 0):
            if not os.read(self._ready, 4096):
                return True
        return False

    def stop(self) -> None:
        """Have the hub and its keeper end, and wait until they have."""
        with contextlib.suppress(ProcessLookupError):
            # Not by Popen: the master reaps every child itself, and so does not tell it.
            os.kill(self._process.pid, signal.SIGTERM)
        while os.read(self._ready, 4096):
            pass
        self.forget()

    def forget(self) -> None:
        """Close the pipes."""
        for descriptor in (self._held, self._ready):
            with contextlib.suppress(OSError):
                os.close(descriptor)


class _Master:
    """What this process keeps: one hub for the one gunicorn that it is."""

    keeper: _Keeper | None = None

    def start(self, server: Any, *, replace: bool) -> _Keeper:
        uri = getattr(server.app, "app_uri", None)
        if uri is None or server.cfg.paste is not None:
            raise StartError(
                "'-c python:sidearm.gunicorn' wants the application as MODULE:NAME, and gunicorn"
                " was given none. Write 'gunicorn -c python:sidearm.gunicorn shop:app', or start"
                " the hub by 'flask sidearm hub'."
            )
        folders = [server.cfg.chdir, *filter(None, (server.cfg.pythonpath or "").split(","))]
        self.keeper = _Keeper(
            ["--app", uri, *(("--replace",) if replace else ())],
            {**os.environ, "PYTHONPATH": python_path(*folders)},
        )
        return self.keeper

    def leave_to_parent(self) -> None:
        """In a forked child: let the pipes end with the master, not with the last worker."""
        if self.keeper is not None:
            self.keeper.forget()
            self.keeper = None


_master = _Master()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_master.leave_to_parent)


def on_starting(server: Any) -> None:
    """Start the hub, and wait until it serves; gunicorn listens only then.

    Args:
        server: gunicorn's arbiter.

    Raises:
        StartError: It cannot start; what the hub wrote before says why.
    """
    # After SIGUSR2 the old master still has its hub: this one takes it over, with every stream.
    keeper = _master.start(server, replace=bool(server.master_pid))
    if not keeper.wait_ready():
        keeper.forget()
        _master.keeper = None
        raise StartError("The hub could not be started. The lines above say why.")


def pre_fork(server: Any, worker: Any) -> None:  # noqa: ARG001 (gunicorn's own signature)
    """Start the hub again if what keeps it was killed.

    Args:
        server: gunicorn's arbiter.
        worker: The worker that is about to be forked.
    """
    keeper = _master.keeper
    if keeper is not None and keeper.is_gone:
        server.log.error("What keeps Sidearm's hub has ended; it is started again.")
        keeper.forget()
        _master.start(server, replace=False)


def post_worker_init(worker: Any) -> None:
    """Let a worker that is about to end say that it is not ready.

    Args:
        worker: gunicorn's worker, which has loaded the application.
    """
    tell_draining(lambda: not worker.alive)


def on_exit(server: Any) -> None:  # noqa: ARG001 (gunicorn's own signature)
    """Stop the hub, after the workers.

    Args:
        server: gunicorn's arbiter.
    """
    keeper, _master.keeper = _master.keeper, None
    if keeper is not None:
        keeper.stop()

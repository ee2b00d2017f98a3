"""An application's hub: reads the application's settings, then becomes ``python -m sidearm.hub``.

``python -m sidearm.workers.own_hub --lifeline FD --ready FD --app URI`` is what
:mod:`sidearm.workers.keeper` starts. The application is loaded at each start, so a hub that is
restarted or replaced has the settings of now; the hub itself holds none of its memory.

While the hub of another process serves the application's socket, this one stands by: two launchers
of one application share a hub, and when the one that has it ends, the other goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flask import Flask

from ..exceptions import StartError
from ..hub.config import HubConfig
from ..logs import speaker
from .lifeline import end_with_parent

DEPTH = 20  # middlewares around an application
#: Where middlewares keep what they are around.
INNER = ("app", "wsgi_app", "application", "wrapped", "_app", "__wrapped__", "__self__")


def main(arguments: Sequence[str] | None = None) -> int:
    """Become the hub; only a failure returns, with the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sidearm.workers.own_hub")
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--ready", type=int, required=True)
    parser.add_argument("--app", required=True, metavar="URI", help="as gunicorn takes it")
    parser.add_argument("--replace", action="store_true")
    parser.add_argument("--number", type=int, default=0, help="which of several hubs, from 0")
    options = parser.parse_args(arguments)

    from gunicorn.util import import_app

    end_with_parent(options.lifeline)
    try:
        config = config_of(find_flask(import_app(options.app), options.app)).of(options.number)
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 1

    def stand_by(owner: str) -> None:
        speaker("hub")(
            f"The hub of another launcher (process {owner}) serves {config.socket}; this one"
            " stands by."
        )
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(options.ready, b'{"hubs": %d}\n' % config.hubs)

    if not options.replace:
        wait_for_turn(config.socket, stand_by)
    program = [sys.executable, "-m", "sidearm.hub", config.to_json()]
    pipes = ["--lifeline", str(options.lifeline), "--ready", str(options.ready)]
    arguments = [*program, *pipes, *(("--replace",) if options.replace else ())]
    os.execve(sys.executable, arguments, {**os.environ, **config.environment()})  # noqa: S606 (words of our own)
    return 1


def find_flask(application: Any, name: str) -> Flask:
    """The Flask application inside what a server calls.

    Args:
        application: A WSGI application: the Flask one, or a middleware around it.
        name: What it was loaded from.

    Raises:
        StartError: None is found.
    """
    found = application
    for _ in range(DEPTH):
        if isinstance(found, Flask):
            return found
        found = next((inner for key in INNER if (inner := getattr(found, key, None))), None)
    raise StartError(
        f"{name!r} is {application!r}, in which no Flask application is found, so the hub's"
        " settings are not known. Give gunicorn the Flask application, or start the hub by"
        " 'flask sidearm hub' and gunicorn without '-c python:sidearm.gunicorn'."
    )


def config_of(app: Flask) -> HubConfig:
    """What the application's settings tell its hub.

    Args:
        app: The application.

    Raises:
        StartError: It has no Sidearm, or wants no hub process.
    """
    state = app.extensions.get("sidearm")
    if state is None:
        raise StartError(
            f"The application {app.name!r} has no Sidearm, so no hub is of use to it. Call"
            " arm.init_app(app)."
        )
    if state.settings.hub == "memory":
        raise StartError(
            "SIDEARM_HUB is 'memory', so no process of this application would speak to the hub."
            " Set it to 'auto' or 'socket', or start gunicorn without"
            " '-c python:sidearm.gunicorn'."
        )
    config: HubConfig = state.hub_config()
    return config


def wait_for_turn(socket_path: str, stand_by: Callable[[str], None]) -> None:
    """Return when no hub serves a socket.

    Args:
        socket_path: The hub's socket.
        stand_by: Called with the process that serves it, if there is one.
    """
    import fcntl

    try:
        lock = os.open(socket_path + ".lock", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # none is there, or the hub itself will say what is wrong
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
        stand_by(owner)
        # The kernel gives it out when its owner is gone, however that went.
        fcntl.flock(lock, fcntl.LOCK_EX)
    finally:
        os.close(lock)


def python_path(*folders: str) -> str:
    """``PYTHONPATH`` with folders at its beginning.

    Args:
        folders: Where modules of the application are found.
    """
    known = os.environ.get("PYTHONPATH", "")
    return os.pathsep.join(dict.fromkeys(str(Path(folder).absolute()) for folder in folders)) + (
        os.pathsep + known if known else ""
    )


if __name__ == "__main__":
    sys.exit(main())

"""A whole deployment on one machine: the hub and the web workers, as ``flask sidearm up`` runs it.

What can be known beforehand (a platform without the means, a socket or port that is taken) is found
before anything is started. The port is opened here and inherited by the web workers: while they are
being restarted, connections wait.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..exceptions import StartError
from .hubs import Row
from .listener import keep_silent_ones_back, name_of, open_listener
from .processes import Child, Service, Supervisor
from .systemd import Notifier, take_listeners

WEB = "The web server"
DESCRIPTORS = 32  # that `up` may need itself, with two children that are being replaced


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What ``flask sidearm up`` runs.

    Attributes:
        app_import_path: As ``flask --app`` takes it; None: as Flask finds it by itself.
        app_name: As it stands in messages.
        hubs: The hub, or several.
        host: The address of the pages.
        port: Its port; 0 takes a free one. What the service manager has opened goes before both.
        gunicorn: Arguments for gunicorn.
        drain: Seconds in which it goes on serving, but says that it is not ready, before it stops.
        log_format: ``"text"`` or ``"json"``, of the web workers.
    """

    app_import_path: str | None
    app_name: str
    hubs: Row
    host: str
    port: int
    gunicorn: tuple[str, ...] = ()
    drain: float = 0.0  # seconds
    log_format: str = "text"

    def run(self, say: Callable[[str], None]) -> None:
        """Run until a signal stops it.

        Args:
            say: Prints a line.

        Raises:
            StartError: It cannot start; the message is one line that names value and cure.
            HubError: The hub's socket cannot be had, or another hub has it.
        """
        check_platform()
        check_descriptors()
        notifier, listeners = Notifier(os.environ), take_listeners()
        self.hubs.sweep()
        with contextlib.ExitStack() as stack:
            for listener in listeners:
                keep_silent_ones_back(listener)
            if not listeners:
                listeners = [open_listener(self.host, self.port)]
            for listener in listeners:
                stack.enter_context(listener)
            # Breaks for all workers at once when draining begins; they hold the other end.
            draining, held = os.pipe()
            stack.callback(os.close, draining)
            holding = stack.enter_context(contextlib.ExitStack())
            holding.callback(os.close, held)

            def drain() -> None:
                say(f"Draining: it serves for {self.drain:g} s more, and is not ready.")
                holding.close()

            def say_ready(children: Mapping[str, Child]) -> None:
                for line in self.describe(listeners, children):
                    say(line)

            def close(failure: StartError | None) -> None:
                if failure is None:
                    say("Stopping: first the web server, then the hub.")
                stack.close()  # the web server has them too, until it has stopped

            try:
                Supervisor(
                    (*self.hubs.services(), self.web_service(listeners, draining)),
                    say=say,
                    on_ready=say_ready,
                    on_stop=close,
                    notifier=notifier,
                    drain=self.drain,
                    on_drain=drain,
                ).run()
            finally:
                self.hubs.sweep_quietly()

    def web_service(self, listeners: Sequence[socket.socket], draining: int) -> Service:
        app = () if self.app_import_path is None else ("--app", self.app_import_path)
        descriptors = tuple(listener.fileno() for listener in listeners)
        listen = tuple(word for each in descriptors for word in ("--listen", str(each)))
        return Service(
            name=WEB,
            program=("-m", "sidearm.workers.web"),
            arguments=(
                *listen,
                *("--draining", str(draining), "--log-format", self.log_format),
                *app,
                *("--", *self.gunicorn),
            ),
            descriptors=(*descriptors, draining),
            environment={"SIDEARM_SOCKET": self.hubs.config.socket},
            reloads=True,
            checks=True,
        )

    def describe(
        self, listeners: Sequence[socket.socket], children: Mapping[str, Child]
    ) -> tuple[str, ...]:
        """The lines that stand there when everything answers."""
        address = " and ".join(map(name_of, listeners))
        return (
            f"Sidearm serves {self.app_name} on {address} (Ctrl-C stops it)",
            f"  web  {describe_workers(children[WEB].ready or {})}",
            f"  hub  {self.hubs.describe(children)}",
        )


def check_platform() -> None:
    """Find out whether this machine can run web workers and hub.

    Raises:
        StartError: It cannot; the message names what it lacks.
    """
    if not hasattr(socket, "AF_UNIX") or not hasattr(socket.socket, "sendmsg"):
        raise StartError(
            "'flask sidearm up' needs gunicorn and Unix sockets that pass descriptors, which this"
            " platform lacks. Use 'flask run', or a server such as waitress: streams are polled."
        )
    if importlib.util.find_spec("gunicorn") is None:
        raise StartError(
            "'flask sidearm up' needs gunicorn, which is not installed. Run 'pip install gunicorn'."
        )


def check_descriptors() -> None:
    """Find out whether there is room for the sockets and pipes that children need.

    Raises:
        StartError: There is not; the message names the limit.
    """
    with contextlib.ExitStack() as stack:
        for count in range(DESCRIPTORS):
            try:
                stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
            except OSError as error:
                raise StartError(
                    f"This process may open {count} more files, and needs {DESCRIPTORS}"
                    f" ({error.strerror}). Raise its limit: 'ulimit -n', or LimitNOFILE= in"
                    " systemd's unit; each open stream is a file of the hub, too."
                ) from error


def describe_workers(facts: Mapping[str, Any]) -> str:
    """The web workers in a few words, such as ``2 workers (gunicorn, sync)``."""
    count, threads = facts.get("workers", 1), facts.get("threads", 1)
    each = f", {threads} threads each" if threads > 1 else ""
    workers = "worker" if count == 1 else "workers"
    kind = facts.get("worker_class", "sync")
    blocking = ", blocking" if kind in ("sync", "gthread") else ""
    return f"{count} {workers} (gunicorn, {kind}{each}{blocking})"

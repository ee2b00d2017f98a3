"""What systemd says to a service by its environment, and what the service says to it.

Sockets that it has opened (sd_listen_fds(3)) and notes about the service's state (sd_notify(3)).
Both are a line or two of a protocol that is promised to stay. Of the packages for it, sdnotify is
no longer kept, systemd-python has to be compiled, and gunicorn's own functions leave the variables
to every child, whose notes would then count for ours.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import MutableMapping

from ..exceptions import StartError

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
_NOTIFY, _WATCHDOG = "NOTIFY_SOCKET", ("WATCHDOG_PID", "WATCHDOG_USEC")
_LISTEN = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class Notifier:
    """Tells the service manager what the service does; without one it says nothing.

    Args:
        environment: The process's, from which the variables are taken, so that no child speaks for
            the service.

    Attributes:
        interval: Seconds between two signs of life, half of what is allowed; None: none is wanted.
    """

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        self._address = environment.pop(_NOTIFY, "")
        pid, microseconds = (environment.pop(name, "") for name in _WATCHDOG)
        self.interval: float | None = None
        if self._address and microseconds.isdigit() and pid in ("", str(os.getpid())):
            self.interval = int(microseconds) / 2e6 or None

    def ready(self) -> None:
        """The service serves, or serves again after a reload."""
        self._say("READY=1", "STATUS=Web workers and hub serve.")

    def reloading(self) -> None:
        """The service loads its code again, and serves all the while."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=Web workers load the code again.")

    def stopping(self) -> None:
        """The service ends."""
        self._say("STOPPING=1", "STATUS=Stopping.")

    def alive(self) -> None:
        """The service is not stuck."""
        self._say("WATCHDOG=1")

    def _say(self, *assignments: str) -> None:
        if not self._address:
            return
        # One that begins with @ has no file (unix(7): abstract).
        address = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        # Nobody hears it: then there is nobody to tell, and the service goes on.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto("\n".join(assignments).encode(), address)


def take_listeners() -> list[socket.socket]:
    """The sockets that the service manager has opened for this process, in its order.

    Takes the variables out of the environment.

    Raises:
        StartError: One is no listening stream socket; the message says what to set in the unit.
    """
    values = {name: os.environ.pop(name, "") for name in _LISTEN}
    if values["LISTEN_PID"] != str(os.getpid()):
        return []  # for another process, whose child this one is
    count = values["LISTEN_FDS"]
    if not count.isdigit():
        raise StartError(f"LISTEN_FDS is {count!r}. Give the number of sockets that are inherited.")
    return [
        _listener(descriptor)
        for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    ]


def _listener(descriptor: int) -> socket.socket:
    try:
        listener = socket.socket(fileno=descriptor)
        listens = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise StartError(
            f"LISTEN_FDS promises descriptor {descriptor}, which is no socket ({error.strerror})."
            " Start it by systemd's unit of type socket, or without LISTEN_FDS."
        ) from error
    if listener.type != socket.SOCK_STREAM or not listens:
        raise StartError(
            f"Descriptor {descriptor} of LISTEN_FDS is no listening stream socket. In the unit of"
            " type socket, use ListenStream= and Accept=no."
        )
    listener.set_inheritable(False)
    return listener

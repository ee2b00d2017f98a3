"""Catches what a server writes to a plain socket, without a system call.

Servers that serve with threads or processes (gunicorn's ``sync`` and ``gthread``, ``flask run``)
write to a client through a plain :class:`socket.socket`. Python lets an object change its class
for one that adds methods and nothing else, and that is done here: while a client is being taken,
its server's socket has methods that keep what is written. The descriptor is not touched until it
is sure that the hub gets it.

Every other socket is taken by a stand-in (:mod:`~sidearm.events.handoff`), which costs twenty
system calls.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_Plain = socket.socket

#: What was written to each socket whose client is being taken.
_written: dict[socket.socket, bytearray] = {}


class _Watched(socket.socket):
    """A socket that keeps what is written to it."""

    __slots__ = ()  # with room for more, it could not take the plain one's place

    def sendall(self, data: Any, flags: int = 0, /) -> None:  # noqa: ARG002
        _written[self] += data

    def send(self, data: Any, flags: int = 0, /) -> int:  # noqa: ARG002
        _written[self] += data
        return len(data)

    def sendmsg(self, buffers: Iterable[Any], /, *_: Any) -> int:
        return self.send(b"".join(buffers))


class _Closed(socket.socket):
    """A socket whose client has gone to the hub, of a server that closes it at once.

    What it still writes is dropped: it is the end of the chunks, and an exception would cost more
    than all the rest.
    """

    __slots__ = ()

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        pass

    def send(self, data: Any, flags: int = 0, /) -> int:  # noqa: ARG002
        return len(data)

    def recv(self, size: int, flags: int = 0, /) -> bytes:  # noqa: ARG002
        return b""

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:  # noqa: ARG002
        return 0


_ended: list[socket.socket] = []
_ending = threading.Lock()


def ended_connection() -> socket.socket:
    """A connection whose other side has closed it: reading finds its end, writing fails.

    There is one for the whole process. Two threads never make one each: that which nobody keeps
    would be closed, while its descriptor is about to be used.
    """
    if not _ended:
        with _ending:
            if not _ended:
                ours, theirs = socket.socketpair()
                theirs.close()
                _ended.append(ours)
    return _ended[0]


class Capture:
    """Takes the client away from a server that writes to it through a plain socket.

    Args:
        plain: The server's socket; see :func:`can_capture`.
        closes: Whether the server closes it after this response, whatever happens.

    Attributes:
        client: The client's socket. What is sent has to go by the methods of ``_socket.socket``:
            its own are those that the server sees.
    """

    __slots__ = ("_closes", "_open", "client")

    def __init__(self, plain: socket.socket, *, closes: bool = False) -> None:
        self.client = plain
        self._closes = closes
        self._open = True
        _written[plain] = bytearray()
        plain.__class__ = _Watched

    def captured(self) -> bytes:
        """Return all that the server has written so far."""
        return bytes(_written[self.client])

    def restore(self) -> None:
        """Send what was captured to the client and give its socket back, if that is still due."""
        if not self._open:
            return
        self._open = False
        self.client.__class__ = _Plain
        # A client that has gone is the server's to find out, at its next write.
        with contextlib.suppress(OSError):
            self.client.sendall(_written.pop(self.client))

    def close(self) -> None:
        """Give the client away: to the server it looks as if it had closed the connection."""
        self._open = False
        client = self.client
        del _written[client]
        if self._closes:
            client.__class__ = _Closed
            _socket.socket.close(client)
        else:
            # A server may go on to use the descriptor as well as the object: Werkzeug's waits for
            # what is left to read, and would fail where there is none.
            client.__class__ = _Plain
            try:
                os.dup2(ended_connection().fileno(), client.fileno(), inheritable=False)
            except OSError:  # no descriptor for the first of them
                _socket.socket.close(client)


def can_capture(server_socket: object) -> bool:
    """Whether a server's socket is a plain one."""
    # By the module, too: gevent and eventlet put a class of their own in its place.
    return type(server_socket) is _Plain and _Plain.__module__ == "socket"

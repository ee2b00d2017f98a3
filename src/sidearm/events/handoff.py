"""Hands the client's socket to the hub, from inside the response's iterable (contract H1).

The view has ended and its task has settled; the server only has to write the response. So that
the hub takes over after the head that the *server* writes (status line, Date, cookies, whatever
middleware adds), and so that the worker is free at once, the iterable works in two steps:

1. The first ``next()`` keeps a duplicate of the client's descriptor and puts one end of a socket
   pair, the stand-in, over the descriptor that the server writes to. Then it yields a comment.
2. The server writes head and comment, into the stand-in. The second ``next()`` reads them from
   the pair's other end. If they are what a hub can continue, it sends the head on the real
   socket, passes the descriptor to the hub, closes its own ends, and stops. The server closes the
   stand-in, and takes the next request.

When there is nothing to read, some middleware collects chunks before it lets any through: two
larger comments push it. When what comes out is no plain 200 of open length, the bytes go to the
client as they are, its socket returns to its place, and the stream is polled instead (H2). So the
hand-off checks itself, whatever stands between this iterable and the server.

Where the server's socket is a plain Python object, neither duplicate nor stand-in is needed: what
it writes is caught before it reaches the kernel (:mod:`~sidearm.events.capture`).

Python's ``_socket`` is used instead of ``socket`` because gevent replaces the latter's classes.
"""

from __future__ import annotations

import _socket
import contextlib
import logging
import os
import re
import socket
from typing import TYPE_CHECKING

from ..hub import platform
from .capture import Capture, can_capture
from .servers import NotPossible

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .servers import ServerSocket

logger = logging.getLogger("sidearm.events")

COMMENT = b": ok\n\n"
PADDING = b":" + b" " * 4093 + b"\n\n"
#: A head and a comment fit; a larger buffer costs more than it saves.
CAPTURE_SIZE = 16_384  # bytes

# The client's own methods, whatever its server's object makes of them.
_send_all = _socket.socket.sendall
_receive = _socket.socket.recv

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] 200(?: |\r|$)")
#: Fields of the connection between the server and the client, which ends with the stream now.
# Both begin with bytes that have no case, for which a head is searched at once.
_DROPPED_FIELD = re.compile(
    rb"\r\n[ \t]*(?i:connection|keep-alive|transfer-encoding)[ \t]*:[^\r]*(?:\r(?!\n)[^\r]*)*"
)
_FORBIDDEN_FIELD = re.compile(rb"\r\n[ \t]*((?i:content-(?:length|encoding)))[ \t]*:")


# Taking it


class StandIn:
    """Takes the client's socket away from the server, and catches what the server writes.

    Attributes:
        client: The client's socket.
    """

    def __init__(self, server_socket: ServerSocket) -> None:
        """Put the stand-in over the server's descriptor.

        Raises:
            OSError: The descriptor is closed, or the process has no descriptors left.
        """
        server_fd = self._server_fd = server_socket.fileno()
        self._captured = bytearray()
        self._open = True
        with contextlib.ExitStack() as undo:
            self.client = _socket.socket(fileno=os.dup(server_fd))
            undo.callback(self.client.close)
            near, self._far = _socket.socketpair()
            undo.callback(self._far.close)
            try:
                # The server may rely on a write that does not block, or on one that does.
                os.set_blocking(near.fileno(), os.get_blocking(server_fd))
                self._far.setblocking(False)
                self._identity = _identity(near.fileno())
                server_socket.forget()
                os.dup2(near.fileno(), server_fd, inheritable=False)
            finally:
                near.close()
            undo.pop_all()

    def captured(self) -> bytes:
        """Return all that the server has written so far."""
        while True:
            try:
                piece = self._far.recv(CAPTURE_SIZE)
            except OSError:  # nothing more to read
                break
            self._captured += piece
            if len(piece) < CAPTURE_SIZE:
                break
        return bytes(self._captured)

    def restore(self) -> None:
        """Send what was captured to the client and give its socket back, if that is still due."""
        if not self._open:
            return
        captured = self.captured()
        try:
            # A client that has gone is the server's to find out, at its next write.
            with contextlib.suppress(OSError):
                self.client.sendall(captured)
            # A server that has closed its socket may have the number back for another client: an
            # iterable that is closed late, by the garbage collector, must not touch that one.
            if _identity(self._server_fd) == self._identity:
                os.dup2(self.client.fileno(), self._server_fd, inheritable=False)
        finally:
            self.close()

    def close(self) -> None:
        """Close our ends; the stand-in itself is the server's to close.

        The far end goes before the iterable ends: a server that goes on to write, or to read a
        request that the client sent behind this one, gets an error at once and closes.
        """
        self._open = False
        self.client.close()
        self._far.close()


def take(server_socket: ServerSocket) -> Capture | StandIn:
    """Take the client away from the server, in the cheapest way that there is.

    Raises:
        OSError: The descriptor is closed, or the process has no descriptors left.
    """
    held = server_socket.held
    if can_capture(held) and held.fileno() >= 0:
        return Capture(held, closes=server_socket.closes)
    return StandIn(server_socket)


def _identity(fd: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino


# Handing it over


def hand_off(
    server_socket: ServerSocket,
    give: Callable[[int], bool],
    answer: Callable[[], bytes],
    retry: bytes = b"",
) -> Iterator[bytes]:
    """Make the body that hands the client over, or answers by itself where that is impossible.

    Nothing is taken before the first ``next()``, so that a body that no server ever asks for has
    nothing to give back; closed in between, it gives the socket back.

    Args:
        server_socket: From :func:`~sidearm.events.servers.find_socket`.
        give: Passes a descriptor to the hub; tells whether the hub was there to take it.
        answer: What the client gets if it stays: the answer to one poll.
        retry: What follows the head of a client that leaves: when to come back, should the hub
            die, or have no room for it, on the way.
    """
    try:
        taken = take(server_socket)
    except OSError as error:
        log_once(f"the client's socket cannot be duplicated ({error})")
        yield answer()
        return
    try:
        yield COMMENT
        for _ in range(2):
            if taken.captured():
                break
            yield PADDING
        try:
            head = head_for_hub(taken.captured())
        except NotPossible as reason:
            log_once(str(reason))
        else:
            _send_away(taken, head + COMMENT + retry, give, answer)
            server_socket.done()
            return
    finally:
        taken.restore()
    yield answer()


def head_for_hub(written: bytes) -> bytes:
    """Make the head of a stream that the hub continues from the one that the server wrote.

    Args:
        written: The server's head, and at least our comment behind it.

    Returns:
        The head with ``Connection: close`` and without a coding of the transfer: the stream ends
        when its connection does (RFC 9112, 6.3).

    Raises:
        NotPossible: It is no plain 200 of open length.
    """
    if not written:
        raise NotPossible("a middleware holds the response back until it is complete")
    head, end, body = written.partition(b"\r\n\r\n")
    if not end or not head.startswith(b"HTTP/1."):
        raise NotPossible("what the server wrote is no HTTP/1 head")
    if not _STATUS_LINE.match(head):
        raise NotPossible(f"a middleware changed the status to {head[9:12].decode('latin-1')!r}")
    forbidden = _FORBIDDEN_FIELD.search(head)
    if forbidden is not None:
        # Only the name: each reason is logged once, and lengths are many.
        name = forbidden[1].decode().lower()
        raise NotPossible(f"a middleware added the header {name!r}")
    if COMMENT not in body:
        raise NotPossible("a middleware changed the body")
    return _DROPPED_FIELD.sub(b"", head) + b"\r\nConnection: close\r\n\r\n"


def _send_away(
    taken: Capture | StandIn, first: bytes, give: Callable[[int], bool], answer: Callable[[], bytes]
) -> None:
    client = taken.client
    try:
        _send_all(client, first)
        # After our head the server cannot go on: it may count on chunks, and on the next request.
        if not give(client.fileno()):
            _finish(client, answer())
    except OSError as error:
        logger.debug("A stream's client left before it was handed off: %s", error)
    finally:
        taken.close()


def _finish(client: _socket.socket, body: bytes) -> None:
    """Send the last bytes and the end, without the reset that unread input would make of it."""
    _send_all(client, body)
    client.shutdown(socket.SHUT_WR)
    with contextlib.suppress(BlockingIOError):
        for _ in range(4):  # as gunicorn: 64 KiB, not for ever
            if not _receive(client, CAPTURE_SIZE, platform.DONTWAIT):
                break


_logged: set[str] = set()


def log_once(reason: str) -> None:
    """Log, once in this process for each reason, why streams are polled."""
    if reason not in _logged:
        _logged.add(reason)
        logger.warning("Streams are answered by polling, not handed to the hub: %s.", reason)

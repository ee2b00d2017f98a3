"""The body as a stream: never beyond its limit, never taken for whole if it is not, and drained.

Werkzeug's ``LimitedStream`` does the counting. Where no length is announced (chunks) three things
of it are mended: a body of exactly the limit is no error, ``read()`` of a longer one is, and who
has met the limit meets it again.
"""

from __future__ import annotations

import logging
import socket
import time
from typing import IO, TYPE_CHECKING, Any

from werkzeug.exceptions import LengthRequired, RequestEntityTooLarge
from werkzeug.wsgi import LimitedStream, get_content_length

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

logger = logging.getLogger("sidearm.bodies")

PIECE = 64 * 1024  # bytes
#: What is thrown away of a body that nobody wanted to read, so that its sender sees the answer.
DRAIN_SIZE = 64 * 1024 * 1024  # bytes
DRAIN_TIME = 5.0  # seconds


def too_large(limit: int) -> RequestEntityTooLarge:
    """413, with the limit."""
    return RequestEntityTooLarge(f"At most {limit} bytes can be sent here.")


class BodyStream(LimitedStream):
    """A request's body.

    Attributes:
        ended: Whether its end was seen.
    """

    def __init__(self, stream: IO[bytes], limit: int, *, is_max: bool) -> None:
        super().__init__(stream, limit, is_max)
        self.ended = not is_max and limit == 0
        self._over = False

    @property
    def left(self) -> int:
        """How many bytes are still to come; -1 if nothing has told."""
        return -1 if self._limit_is_max else self.limit - self.tell()

    def readinto(self, b: Any) -> int | None:
        """Read into a buffer.

        Raises:
            RequestEntityTooLarge: The body is longer than its limit.
            ClientDisconnected: It ends too early.
        """
        size = super().readinto(b)
        if not self._limit_is_max and self.is_exhausted:
            self.ended = True
        return size

    def readall(self) -> bytes:
        """Read all that is left.

        Raises:
            RequestEntityTooLarge: The body is longer than its limit.
            ClientDisconnected: It ends too early.
        """
        pieces = bytearray()
        while piece := self.read(PIECE):
            pieces += piece
        return bytes(pieces)

    def on_exhausted(self) -> None:
        """At the limit: is it the end?"""
        if self.ended or not self._limit_is_max:
            return
        if not self._over:
            try:
                self._over = bool(self._stream.read(1))
            except (OSError, ValueError) as error:
                self.on_disconnect(error)
        if self._over:
            raise too_large(self.limit)
        self.ended = True

    def on_disconnect(self, error: Exception | None = None) -> None:
        """Nothing came: without an announced length that is the end."""
        super().on_disconnect(error)
        self.ended = True


def stream_of(environ: WSGIEnvironment, limit: int | None) -> BodyStream:
    """The body of a request.

    Args:
        environ: The request's.
        limit: The longest that is taken, in bytes.

    Raises:
        RequestEntityTooLarge: It announces to be longer.
        LengthRequired: It announces no length, and the server does not find its end.
    """
    length = get_content_length(environ)
    stream: IO[bytes] = environ["wsgi.input"]
    if length is not None:
        if limit is not None and length > limit:
            raise too_large(limit)
        return BodyStream(stream, length, is_max=False)
    if not environ.get("wsgi.input_terminated"):
        if environ.get("HTTP_TRANSFER_ENCODING"):
            raise LengthRequired("The server in front of this application needs a Content-Length.")
        return BodyStream(stream, 0, is_max=False)  # neither: there is none (RFC 9112, 6.3)
    return BodyStream(stream, 1 << 62 if limit is None else limit, is_max=True)


def drain(environ: WSGIEnvironment, body: BodyStream | None) -> None:
    """Throw away what is left of a body, after the answer has been sent (RFC 9112, 9.6).

    Closing a connection on which something unread has come makes the kernel reset it, and the
    sender, who is still busy sending, never sees the answer. So a short rest is read to its end,
    and the connection can be used again. For a longer one our side is closed, and what comes is
    read for a while.

    Args:
        environ: The request's.
        body: Its body, as far as it was read; ``None`` if it was refused unseen.
    """
    connection = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    try:
        if not isinstance(connection, socket.socket) or hasattr(connection, "unwrap"):
            _read_on(body if body is not None else stream_of(environ, None))
        elif body is not None and 0 <= body.left <= PIECE:
            _read_rest(connection, body)
        else:
            _linger(connection)
    except OSError:
        pass  # the other side has gone: it wanted no answer
    except Exception:  # a server's own, such as for a broken chunk; the answer is sent all the same
        logger.debug("The rest of a body could not be read.", exc_info=True)


def _read_rest(connection: socket.socket, body: BodyStream) -> None:
    patience = connection.gettimeout()
    connection.settimeout(DRAIN_TIME)
    try:
        body.readall()
    finally:
        connection.settimeout(patience)


def _linger(connection: socket.socket) -> None:
    deadline = time.monotonic() + DRAIN_TIME
    patience = connection.gettimeout()
    connection.shutdown(socket.SHUT_WR)
    buffer = bytearray(PIECE)
    left = DRAIN_SIZE
    try:
        while left > 0 and (remaining := deadline - time.monotonic()) > 0:
            connection.settimeout(remaining)
            size = connection.recv_into(buffer)
            if not size:
                break
            left -= size
    finally:
        connection.settimeout(patience)


def _read_on(stream: BodyStream) -> None:
    """Where there is no plain socket: through the server, which knows the body's end."""
    deadline = time.monotonic() + DRAIN_TIME
    left = DRAIN_SIZE
    while left > 0 and time.monotonic() < deadline:
        size = len(stream.read(PIECE))
        if not size:
            break
        left -= size

"""One HTTP/1.1 exchange over a real socket in which every wait has a deadline.

http.client would do but for one thing: after a timeout in the middle of a chunk its buffered reader
cannot be used again, and a stream's reader times out all the time.
"""

from __future__ import annotations

import http.client
import io
import re
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_HEAD_SIZE = 64 * 1024  # bytes
RECEIVE_SIZE = 64 * 1024  # bytes
_STATUS_LINE = re.compile(r"HTTP/1\.[01] (\d{3})(?: |$)")
_HEAD_END = b"\r\n\r\n"

#: Where to connect: host and port, or the path of a Unix socket.
Address = tuple[str, int] | str


@dataclass(frozen=True, slots=True)
class Head:
    """A response's status and headers; ``headers`` is case-insensitive."""

    status: int
    headers: http.client.HTTPMessage
    raw: bytes


class Connection:
    """A connection for one request; its response's body is read piece by piece.

    Attributes:
        socket: The socket, for tests that stop reading or set options.
        truncated: Whether the body ended before its own framing said so.
    """

    def __init__(
        self, address: Address, deadline: float, *, receive_buffer: int | None = None
    ) -> None:
        """Connect.

        Args:
            address: Where to.
            deadline: In the time of :func:`time.monotonic`.
            receive_buffer: The kernel's receive buffer in bytes; small for a slow reader.
        """
        self.truncated = False
        self._rest = b""
        self._body: _Body = _UntilClose()
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        if isinstance(address, tuple) and ":" in address[0]:
            family = socket.AF_INET6
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        try:
            if receive_buffer is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            self._wait_until(deadline)
            self.socket.connect(address)
        except BaseException:
            self.socket.close()
            raise

    def request(self, target: str, headers: Iterable[tuple[str, str]], deadline: float) -> Head:
        """Send a GET request and read the response's head.

        Args:
            target: Path and query.
            headers: Written as UTF-8, as a browser writes ``Last-Event-ID``.
            deadline: In the time of :func:`time.monotonic`.
        """
        lines = [f"GET {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers)]
        if any("\r" in line or "\n" in line for line in lines):
            raise ValueError(f"A line end inside the request's head: {lines!r}.")
        self._wait_until(deadline)
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode())
        head = self._read_head(deadline)
        while head.status < 200:
            head = self._read_head(deadline)
        self._body = _body_of(head)
        return head

    def read(self, deadline: float) -> bytes:
        """The next bytes of the body, whatever its framing; ``b""`` at its end.

        Raises:
            TimeoutError: Nothing came before the deadline. Reading can go on afterwards.
        """
        while not self._body.ended:
            received, self._rest = self._rest or self._receive(deadline), b""
            if not received:
                self.truncated = not self._body.at_close()
                return b""
            content = self._body.feed(received)
            if content:
                return content
        return b""

    def close(self) -> None:
        """Close the connection, as a client does that has enough."""
        self.socket.close()

    def abort(self) -> None:
        """Reset the connection (RST), as a client's crash or a firewall does."""
        linger = struct.pack("ii", 1, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.socket.close()

    def _read_head(self, deadline: float) -> Head:
        received = self._rest
        while _HEAD_END not in received:
            more = self._receive(deadline)
            if not more or len(received) > MAX_HEAD_SIZE:
                raise ConnectionError(f"The connection gave no response head: {received[:200]!r}.")
            received += more
        raw, _, self._rest = received.partition(_HEAD_END)
        status_line, _, fields = raw.partition(b"\r\n")
        match = _STATUS_LINE.match(status_line.decode("latin-1"))
        if match is None:
            raise ConnectionError(f"The response's status line is {status_line!r}.")
        headers = http.client.parse_headers(io.BytesIO(fields + _HEAD_END))
        return Head(int(match[1]), headers, raw + _HEAD_END)

    def _receive(self, deadline: float) -> bytes:
        self._wait_until(deadline)
        try:
            return self.socket.recv(RECEIVE_SIZE)
        except ConnectionResetError:
            # A browser sees a lost connection like an ended one, and reconnects.
            return b""

    def _wait_until(self, deadline: float) -> None:
        # A timeout of 0 would make the socket non-blocking, and report the wrong error.
        self.socket.settimeout(max(deadline - time.monotonic(), 0.001))


class _Body:
    """The framing of a body: bytes of the connection in, bytes of the content out."""

    ended = False

    def feed(self, received: bytes) -> bytes:
        raise NotImplementedError

    def at_close(self) -> bool:
        """The connection closed; whether the body was complete."""
        raise NotImplementedError


class _UntilClose(_Body):
    """A body that ends where the connection does."""

    def feed(self, received: bytes) -> bytes:
        return received

    def at_close(self) -> bool:
        self.ended = True
        return True


class _Sized(_Body):
    """A body of known length."""

    def __init__(self, length: int) -> None:
        self._left = length
        self.ended = length == 0

    def feed(self, received: bytes) -> bytes:
        content = received[: self._left]
        self._left -= len(content)
        self.ended = self._left == 0
        return content

    def at_close(self) -> bool:
        self.ended = True
        return False


class _Chunked(_Body):
    """A chunked body (RFC 9112, 7.1); trailers are read and dropped."""

    _MAX_LINE: Final = 4096  # bytes

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0
        self._step: Callable[[list[bytes]], bool] = self._size_line

    def feed(self, received: bytes) -> bytes:
        self._buffer += received
        content: list[bytes] = []
        while not self.ended and self._step(content):
            pass
        return b"".join(content)

    def at_close(self) -> bool:
        self.ended = True
        return False

    def _size_line(self, _: list[bytes]) -> bool:
        line = self._take_line()
        if line is None:
            return False
        try:
            self._left = int(line.partition(b";")[0], 16)
        except ValueError:
            raise ConnectionError(f"The size of a chunk is {line!r}.") from None
        self._step = self._data if self._left else self._trailer
        return True

    def _data(self, content: list[bytes]) -> bool:
        data = self._buffer[: self._left]
        self._buffer = self._buffer[len(data) :]
        self._left -= len(data)
        content.append(data)
        if self._left:
            return False
        self._step = self._data_end
        return True

    def _data_end(self, _: list[bytes]) -> bool:
        line = self._take_line()
        if line is None:
            return False
        if line:
            raise ConnectionError(f"A chunk is longer than its size says: {line[:80]!r}.")
        self._step = self._size_line
        return True

    def _trailer(self, _: list[bytes]) -> bool:
        line = self._take_line()
        self.ended = line == b""
        return bool(line)

    def _take_line(self) -> bytes | None:
        line, end, rest = self._buffer.partition(b"\r\n")
        if not end:
            if len(line) > self._MAX_LINE:
                raise ConnectionError(f"A chunk's line does not end: {line[:80]!r}.")
            return None
        self._buffer = rest
        return line


def _body_of(head: Head) -> _Body:
    """Choose the framing that RFC 9112, 6.3 gives to a response."""
    if head.status in (204, 304):
        return _Sized(0)
    if head.headers.get("Transfer-Encoding", "").strip().lower() == "chunked":
        return _Chunked()
    length = head.headers.get("Content-Length")
    return _UntilClose() if length is None else _Sized(int(length))

"""The figures for Prometheus over HTTP, on the loopback interface only.

Two requests are answered: GET and HEAD of ``/metrics``; everything else is refused. A framework for
that would be larger than the hub.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from ..exceptions import HubError
from .figures import CONTENT_TYPE, exposition
from .messages import Figures

HOST = "127.0.0.1"
PATH = "/metrics"
HEAD_LIMIT = 8192  # bytes
PATIENCE = 5.0  # seconds for a whole request
CONNECTIONS = 8  # at once: each is a descriptor that a stream could have


def open_port(port: int) -> socket.socket:
    """Listen for Prometheus.

    Raises:
        HubError: The port cannot be had.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(CONNECTIONS)
    except (OSError, OverflowError) as error:  # several hubs count on from the one that is set
        listener.close()
        raise HubError(
            f"SIDEARM_METRICS_PORT is {port}, and the hub cannot listen on {HOST}:{port}:"
            f" {getattr(error, 'strerror', error)}. Set it to a free port, or to None."
        ) from error
    listener.setblocking(False)
    return listener


class Metrics:
    """Answers Prometheus.

    Args:
        figures: Gives the figures.
    """

    def __init__(self, figures: Callable[[], Figures]) -> None:
        self._figures = figures
        self._open = 0

    async def serve(self, listener: socket.socket) -> asyncio.Server:
        """Begin to answer on a listening socket, which is closed with the server."""
        return await asyncio.start_server(self._answer, sock=listener, limit=HEAD_LIMIT)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS:
                async with asyncio.timeout(PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self.respond(head))
                    await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            return  # it has hung up, or is no HTTP client
        finally:
            self._open -= 1
            writer.close()

    def respond(self, head: bytes) -> bytes:
        """The whole response to a request's head (RFC 9112)."""
        method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
        target, _, version = rest.rpartition(b" ")
        if not version.startswith(b"HTTP/1."):
            return _response("400 Bad Request", "This is no HTTP/1 request.\n")
        if target.partition(b"?")[0] != PATH.encode():
            return _response("404 Not Found", f"The figures are at {PATH}.\n")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", "Use GET.\n", "Allow: GET, HEAD\r\n")
        response = _response("200 OK", exposition([self._figures()]), kind=CONTENT_TYPE)
        return response if method == b"GET" else response.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"


def _response(
    status: str, body: str, more: str = "", *, kind: str = "text/plain; charset=utf-8"
) -> bytes:
    data = body.encode()
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}\r\n{more}"
        "Connection: close\r\n\r\n"
    ).encode() + data

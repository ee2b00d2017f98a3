"""Flask-SocketIO, by WebSocket from the start, on gunicorn: with gevent, and with threads."""

from __future__ import annotations

from contextlib import AbstractContextManager

from ..load import Handshake
from ..system import Gunicorn, Running, System, missing_package, running

REQUEST = (
    b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: localhost\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
THREADS_LIMIT = 200  # clients; each takes three threads


def masked(text: bytes) -> bytes:
    """A WebSocket frame as a client sends it (RFC 6455, 5.2)."""
    mask = b"abcd"
    body = bytes(byte ^ mask[number % 4] for number, byte in enumerate(text))
    return bytes([0x81, 0x80 | len(text)]) + mask + body


# Engine.IO opens, the client joins the default namespace, Socket.IO confirms.
HANDSHAKE = Handshake(REQUEST, b'0{"sid"', masked(b"40"), b'40{"sid"')


class SocketIOGevent(System):
    """With gevent: a greenlet for each client."""

    name = "Flask-SocketIO (gevent)"
    is_slow = True
    limit = 1000

    def missing(self) -> str | None:
        """Its packages."""
        return missing_package("flask_socketio") or missing_package("gevent")

    def run(self) -> AbstractContextManager[Running]:
        """Run it."""
        app = "benchmarks.hub.apps.socketio_app:make_app('gevent')"
        args = ["--worker-class", "gevent", "--worker-connections", "19000"]
        return running(Gunicorn(app, *args), HANDSHAKE)


class SocketIOThreads(System):
    """With threads."""

    name = "Flask-SocketIO (threads)"
    is_slow = True
    limit = THREADS_LIMIT

    def missing(self) -> str | None:
        """Its packages."""
        return missing_package("flask_socketio")

    def run(self) -> AbstractContextManager[Running]:
        """Run it."""
        app = "benchmarks.hub.apps.socketio_app:make_app('threading')"
        threads = str(THREADS_LIMIT + 20)
        args = ["--worker-class", "gthread", "--threads", threads, "--worker-connections", "19000"]
        return running(Gunicorn(app, *args), HANDSHAKE)

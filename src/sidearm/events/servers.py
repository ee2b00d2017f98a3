"""Where each server keeps the socket of a request's client (contract H1).

PEP 3333 gives an application no socket, but most servers put theirs into the environ. What else a
server needs, so that its socket can be taken from under it, stands in a small class of its own.
"""

from __future__ import annotations

import functools
import importlib
from typing import TYPE_CHECKING, Any

from . import greenlets

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIEnvironment


class NotPossible(Exception):
    """The stream cannot be handed off; the message is the reason, for the log."""


class ServerSocket:
    """A client's socket, as its server holds it; of a server that needs nothing but its own.

    Args:
        server_socket: The server's own object.
        closes: Whether the server closes the connection after this response, whatever happens.

    Attributes:
        closes: The same.
    """

    __slots__ = ("_socket", "closes")

    def __init__(self, server_socket: Any, *, closes: bool = False) -> None:
        self._socket = server_socket
        self.closes = closes

    def fileno(self) -> int:
        """The descriptor that the server writes to; negative if it has closed it."""
        number: int = self._socket.fileno()
        return number

    @property
    def speaks_tls(self) -> bool:
        """Whether what is written to the descriptor is not what its client reads."""
        kind: type = type(self._socket)
        return _is_tls(kind)

    @property
    def held(self) -> Any:
        """The server's own object, where taking its client needs nothing else; or None."""
        return self._socket

    def forget(self) -> None:
        """Have an event loop stop watching the client: right before its descriptor is taken."""

    def done(self) -> None:
        """Tell the server that its response is over: right before the iterable ends."""


class GeventSocket(ServerSocket):
    """A socket in a process whose servers run on gevent's event loop.

    The loop leaves a descriptor that it has watched once in the kernel's set, and what is in the
    set is the connection and not its number. Without this it would go on to report, for as long as
    the hub holds the client, what is no business of the worker any more: a busy loop.
    """

    __slots__ = ()

    @property
    def held(self) -> None:
        """None: the loop has to let go of the client, too."""

    def forget(self) -> None:
        """Take the client's connection out of the loop's set."""
        greenlets.forget(self.fileno())


class EventletSocket(ServerSocket):
    """A socket of eventlet's own server."""

    __slots__ = ()

    def done(self) -> None:
        """Keep the server from writing the end of the body, into a socket that has no reader."""
        importlib.import_module("eventlet.wsgi").WSGI_LOCAL.already_handled = True


class Descriptor:
    """A descriptor of a server that has no object for it.

    Args:
        number: The descriptor.
    """

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """The descriptor; negative if there is none."""
        return self._number


def find_socket(environ: WSGIEnvironment) -> ServerSocket:
    """Return the socket of this request's client.

    Raises:
        NotPossible: The server gives none, or one that cannot be handed over.
    """
    protocol = _protocol(environ)
    if not protocol.startswith("HTTP/1."):
        raise NotPossible(f"{protocol or 'an unnamed protocol'} shares one connection")
    found = _located(environ)
    if found is None:
        server = environ.get("SERVER_SOFTWARE") or "unnamed"
        raise NotPossible(f"the server ({server}) does not give the client's socket")
    if found.speaks_tls:
        raise NotPossible("the server speaks TLS itself")
    return found


def locate_socket(environ: WSGIEnvironment) -> ServerSocket | None:
    """Return the socket of this request's client, also one that cannot be handed over.

    None where the server gives none, or where others share the connection.
    """
    return _located(environ) if _protocol(environ).startswith("HTTP/1.") else None


def _located(environ: WSGIEnvironment) -> ServerSocket | None:
    for find in FINDERS:
        found = find(environ)
        if found is not None:
            return found
    return None


def _protocol(environ: WSGIEnvironment) -> str:
    # Not HTTP_VERSION, which a client's own "Version" header sets.
    return str(environ.get("SERVER_PROTOCOL", ""))


def _in_environ(environ: WSGIEnvironment) -> ServerSocket | None:
    """Of gunicorn's workers, and of the development server (``flask run``)."""
    found = (
        environ.get("gunicorn.socket")  # sync, gthread, gevent
        or environ.get("gunicorn.sock")  # gevent_pywsgi
        or environ.get("werkzeug.socket")
    )
    if found is None:
        return None
    if greenlets.gevent_loop() is not None:
        return GeventSocket(found)
    # gunicorn's sync worker, the only one of its workers without threads, keeps no connection.
    return ServerSocket(
        found, closes="gunicorn.socket" in environ and not environ.get("wsgi.multithread", True)
    )


def _of_uwsgi(environ: WSGIEnvironment) -> ServerSocket | None:
    if "uwsgi.version" not in environ:
        return None
    # Only there inside of uWSGI.
    descriptor = Descriptor(importlib.import_module("uwsgi").connection_fd())
    return ServerSocket(descriptor) if greenlets.gevent_loop() is None else GeventSocket(descriptor)


def _of_eventlet(environ: WSGIEnvironment) -> ServerSocket | None:
    request_body = environ.get("eventlet.input")
    if request_body is None:
        return None
    found = request_body.get_socket()
    # It would hold our first piece back until others have joined it.
    environ["eventlet.minimum_write_chunk_size"] = 0
    return EventletSocket(found)


#: One function for each way in which servers give a socket; each returns it, or None.
FINDERS: tuple[Callable[[WSGIEnvironment], ServerSocket | None], ...] = (
    _in_environ,
    _of_uwsgi,
    _of_eventlet,
)


@functools.cache
def _is_tls(kind: type) -> bool:
    # By name: gevent, eventlet and pyOpenSSL have TLS sockets of their own.
    return any(cls.__name__ == "SSLSocket" for cls in kind.__mro__)

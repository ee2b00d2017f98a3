"""Where each server keeps the socket of a request's client (contract H1).

PEP 3333 gives an application no socket, but most servers put theirs into the environ. What else a
server needs, so that its socket can be taken from under it, stands in a small class of its own.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIEnvironment


class NotPossible(Exception):
    """The stream cannot be handed off; the message is the reason, for the log."""


class ServerSocket:
    """A client's socket, as its server holds it; of a server that needs nothing but its own.

    Args:
        server_socket: The server's own object.
    """

    __slots__ = ("_socket",)

    def __init__(self, server_socket: Any) -> None:
        self._socket = server_socket

    def fileno(self) -> int:
        """The descriptor that the server writes to; negative if it has closed it."""
        number: int = self._socket.fileno()
        return number

    def forget(self) -> None:
        """Have an event loop stop watching the client: right before its descriptor is taken."""

    def done(self) -> None:
        """Tell the server that its response is over: right before the iterable ends."""


def find_socket(environ: WSGIEnvironment) -> ServerSocket:
    """Return the socket of this request's client.

    Raises:
        NotPossible: The server gives none, or one that cannot be handed over.
    """
    protocol = str(environ.get("SERVER_PROTOCOL", ""))
    # Not HTTP_VERSION, which a client's own "Version" header sets.
    if not protocol.startswith("HTTP/1."):
        raise NotPossible(f"{protocol or 'an unnamed protocol'} shares one connection")
    for find in FINDERS:
        found = find(environ)
        if found is not None:
            return found
    server = environ.get("SERVER_SOFTWARE") or "unnamed"
    raise NotPossible(f"the server ({server}) does not give the client's socket")


def _in_environ(environ: WSGIEnvironment) -> ServerSocket | None:
    """Of gunicorn's sync and gthread workers, and of the development server (``flask run``)."""
    found = environ.get("gunicorn.socket") or environ.get("werkzeug.socket")
    if found is None:
        return None
    kind: type = type(found)
    reason = _obstacle(kind)
    if reason is not None:
        raise NotPossible(reason)
    return ServerSocket(found)


#: One function for each way in which servers give a socket; each returns it, or None.
FINDERS: tuple[Callable[[WSGIEnvironment], ServerSocket | None], ...] = (_in_environ,)


@functools.cache
def _obstacle(kind: type) -> str | None:
    for cls in kind.__mro__:
        # By name: gevent, eventlet and pyOpenSSL have TLS sockets of their own.
        if cls.__name__ == "SSLSocket":
            return "the server speaks TLS itself"
        if cls.__module__.startswith("gevent."):
            return "gevent's event loop still watches the socket"
    return None

"""The port on which a deployment is found."""

from __future__ import annotations

import errno
import os
import socket

from ..exceptions import StartError
from ..hub.platform import defer_accept

BACKLOG = 2048  # connections that wait while workers are busy or being restarted; gunicorn's own
#: Seconds for which a connection that says nothing is kept from the workers; longer than browsers
#: keep connections that they have opened in advance.
SILENCE = 180
#: No descriptor is left, in the process or on the machine.
FULL = (errno.EMFILE, errno.ENFILE)


def open_listener(host: str, port: int) -> socket.socket:
    """Listen on an address, so that workers can come and go behind it.

    Args:
        host: A name or an address, IPv4 or IPv6.
        port: 0 takes a free one.

    Raises:
        StartError: It cannot be had; the message names the address and the cure.
    """
    address = format_address(host, port)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # UnicodeError: a label that no name can have
        if getattr(error, "errno", None) in FULL:
            raise StartError(f"{address} cannot be had: {_cure(error, port)}") from error
        raise StartError(
            f"There is no address {host!r} ({_reason(error)}). Give --host a name or an address of"
            " this machine, such as 127.0.0.1."
        ) from error
    try:
        # A port whose last connections are still closing may be taken again at once.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
        # Browsers open connections that they may need later, and say nothing on them. A blocking
        # worker that accepted one would wait there until gunicorn killed it.
        defer_accept(listener, SILENCE)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise StartError(f"{address} cannot be had: {_cure(error, port)}") from error
    return listener


def name_of(listener: socket.socket) -> str:
    """Where a listener is found: an ``http`` URL, or the path of a Unix socket."""
    where = listener.getsockname()
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        return f"http://{format_address(*where[:2])}"
    return f"unix:{os.fsdecode(where)}".replace("\0", "@")


def keep_silent_ones_back(listener: socket.socket) -> None:
    """Do for a listener that was inherited what :func:`open_listener` does for its own.

    Args:
        listener: Any listening socket; one that is not TCP needs nothing.
    """
    if listener.family in (socket.AF_INET, socket.AF_INET6):
        defer_accept(listener, SILENCE)


def format_address(host: str, port: int) -> str:
    """``host:port``, with brackets around an IPv6 address (RFC 3986, 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _cure(error: Exception, port: int) -> str:
    if not isinstance(error, OSError):
        return _reason(error)
    if error.errno in FULL:
        return (
            "this process may open no more files. Raise its limit: 'ulimit -n', or LimitNOFILE= in"
            " systemd's unit."
        )
    if error.errno == errno.EADDRINUSE:
        return (
            f"another program listens there. Stop it, or choose another port, such as {port + 1}."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"this user may not listen there. Choose a port from 1024 up, such as {port + 8000}."
    if error.errno == errno.EADDRNOTAVAIL:
        return "it is no address of this machine. Give --host one that is, such as 127.0.0.1."
    return f"{_reason(error)}. Give another --host or --port."


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)

"""Where the client's socket is found, by what each server puts into the environ."""

from __future__ import annotations

import socket
import ssl
from typing import Any

import pytest

from sidearm.events.servers import NotPossible, find_socket


class TlsSocket(ssl.SSLSocket):
    def __init__(self) -> None:  # a real one would need a handshake
        pass

    def __del__(self) -> None:
        pass


GeventSocket = type("socket", (), {"__module__": "gevent._socket3"})


@pytest.mark.parametrize("key", ["gunicorn.socket", "werkzeug.socket"])
def test_the_socket_is_found_by_its_servers_name(key: str) -> None:
    """Both gunicorn's blocking workers and the development server give it in the environ."""
    near, far = socket.socketpair()
    with near, far:
        environ: dict[str, Any] = {"SERVER_PROTOCOL": "HTTP/1.1", key: near}

        assert find_socket(environ).fileno() == near.fileno()


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        ({"SERVER_PROTOCOL": "HTTP/1.1"}, "does not give the client's socket"),
        ({"SERVER_PROTOCOL": "HTTP/1.1", "SERVER_SOFTWARE": "waitress"}, "waitress"),
        ({"SERVER_PROTOCOL": "HTTP/2", "gunicorn.socket": object()}, "HTTP/2"),
        ({}, "unnamed protocol"),
        ({"SERVER_PROTOCOL": "HTTP/1.1", "werkzeug.socket": TlsSocket()}, "TLS"),
        ({"SERVER_PROTOCOL": "HTTP/1.1", "gunicorn.socket": GeventSocket()}, "gevent"),
    ],
    ids=["none", "named server", "HTTP/2", "nothing", "TLS", "gevent"],
)
def test_where_no_socket_can_be_had_the_reason_is_told(
    environ: dict[str, Any], reason: str
) -> None:
    """The log line can name what stands in the way."""
    with pytest.raises(NotPossible) as caught:
        find_socket(environ)
    assert reason in str(caught.value)

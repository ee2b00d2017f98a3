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


class EventletInput:
    def __init__(self, found: Any) -> None:
        self.get_socket = lambda: found


@pytest.mark.parametrize("key", ["gunicorn.socket", "gunicorn.sock", "werkzeug.socket"])
def test_the_socket_is_found_by_its_servers_name(key: str) -> None:
    """The workers of gunicorn and the development server give it in the environ."""
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
        ({"SERVER_PROTOCOL": "HTTP/1.1", "eventlet.input": EventletInput(TlsSocket())}, "TLS"),
    ],
    ids=["none", "named server", "HTTP/2", "nothing", "TLS", "eventlet's TLS"],
)
def test_where_no_socket_can_be_had_the_reason_is_told(
    environ: dict[str, Any], reason: str
) -> None:
    """The log line can name what stands in the way."""
    with pytest.raises(NotPossible) as caught:
        find_socket(environ)
    assert reason in str(caught.value)


def test_eventlets_server_gives_it_by_the_requests_body() -> None:
    """And it is told not to hold small pieces back."""
    near, far = socket.socketpair()
    with near, far:
        environ = {"SERVER_PROTOCOL": "HTTP/1.1", "eventlet.input": EventletInput(near)}

        assert find_socket(environ).fileno() == near.fileno()
        assert environ["eventlet.minimum_write_chunk_size"] == 0


@pytest.mark.parametrize(
    ("key", "threads", "closes"),
    [
        pytest.param("gunicorn.socket", False, True, id="gunicorn sync"),
        pytest.param("gunicorn.socket", True, False, id="gunicorn gthread"),
        pytest.param("werkzeug.socket", False, False, id="flask run"),
    ],
)
def test_only_a_server_that_keeps_no_connection_closes_each(
    key: str, *, threads: bool, closes: bool
) -> None:
    """One that might go on with a request behind the stream has to meet an error."""
    near, far = socket.socketpair()
    with near, far:
        environ = {"SERVER_PROTOCOL": "HTTP/1.1", key: near, "wsgi.multithread": threads}
        assert find_socket(environ).closes is closes

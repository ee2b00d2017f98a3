"""The port is opened before anything starts, and what is wrong with it is said with its cure."""

from __future__ import annotations

import contextlib
import socket
import sys

import pytest

from sidearm.exceptions import StartError
from sidearm.workers.listener import format_address, open_listener


def test_a_free_port_is_listened_on() -> None:
    """Port 0 takes a free one, and a client's connection waits there before anybody accepts."""
    with (
        open_listener("127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname(), timeout=5) as client,
    ):
        client.sendall(b"GET ")
        accepted, address = listener.accept()
        accepted.close()
        assert address == client.getsockname()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can keep silent connections back")
def test_connections_that_say_nothing_wait_behind_one_that_speaks() -> None:
    """What a browser has opened in advance is not accepted before it carries a request."""
    with open_listener("127.0.0.1", 0) as listener, contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(listener.getsockname(), timeout=5))
            for _ in range(3)
        ]
        for client in reversed(clients):
            client.sendall(b"GET ")
            accepted, address = listener.accept()
            accepted.close()
            assert address == client.getsockname()


def test_a_port_in_use_is_named_with_the_cure() -> None:
    """A taken port is one line that names the address and another port."""
    with open_listener("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError) as caught:
            open_listener("127.0.0.1", port)
    message = str(caught.value)
    assert f"127.0.0.1:{port}" in message
    assert "another program listens there" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "host",
    [
        pytest.param("192.0.2.1", id="somebody else's address"),  # RFC 5737: for documentation
        pytest.param("no.such.host.invalid", id="no name"),  # RFC 6761: never resolves
        pytest.param("a" * 64 + ".example", id="no label"),  # RFC 1035: at most 63 bytes
        pytest.param("nul\0byte", id="no text"),
    ],
)
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    """A host that is not this machine's is one line that names it and a host that is."""
    with pytest.raises(StartError) as caught:
        open_listener(host, 8000)
    assert host.partition("\0")[0] in str(caught.value)
    assert "127.0.0.1" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "written"), [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80"), ("shop", "shop:80")]
)
def test_addresses_are_written_as_urls_have_them(host: str, written: str) -> None:
    """An IPv6 address stands in brackets."""
    assert format_address(host, 80) == written

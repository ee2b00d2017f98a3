"""What a client is told with its head, before the hub says anything: here the hub is stopped."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

import pytest
from flask import Flask
from werkzeug.test import create_environ

from sidearm import Sidearm, event_stream, stream_position
from sidearm.hub.client import ask_figures
from sidearm.hub.eventstream import Parser
from sidearm.hub.position import parse
from sidearm.tasks.state import state_of
from sidearm.testing import HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def hub_server() -> Iterator[HubServer]:
    """A hub process of the test's own."""
    with HubServer() as server:
        yield server


def serve(app: Flask, query: str = "", **headers: str) -> bytes:
    """Serve one stream as a blocking server does, and give what its client has then."""
    client, server = socket.socketpair()
    with client, server:
        environ = create_environ(f"/stream{query}", headers=headers)
        environ["gunicorn.socket"] = server
        head = b""

        def start_response(status: str, fields: list[tuple[str, str]], *_: Any) -> Any:
            nonlocal head
            lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in fields)]
            head = "\r\n".join([*lines, "", ""]).encode()

        with closing(cast("Any", app.wsgi_app(environ, start_response))) as body:
            for piece in body:
                server.sendall(head + piece)
                head = b""
        client.settimeout(30)
        received = b""
        while b"retry: " not in received:
            received += client.recv(65536)
    return received.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("arguments", "query", "tells_place"),
    [
        pytest.param({}, "", True, id="newcomer"),
        pytest.param({}, "?last_event_id=0123456789-1", False, id="who resumes"),
        pytest.param({"snapshot": "all"}, "", False, id="snapshot"),
        pytest.param({"replay": 60}, "", False, id="replay"),
    ],
)
def test_e3_a_newcomer_can_resume_before_the_hub_has_seen_it(
    hub_server: HubServer, arguments: dict[str, Any], query: str, *, tells_place: bool
) -> None:
    """Its place comes with the head, unless something that no resumed stream gets comes first."""
    app = Flask(__name__)
    app.config["SIDEARM_SOCKET"] = hub_server.socket_path
    Sidearm(app)

    @app.get("/stream")
    def stream() -> Any:
        return event_stream("news", **arguments)

    with app.app_context():
        place = parse(stream_position())  # and so this process is connected
    assert place is not None
    pid = ask_figures(hub_server.socket_path, 30).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        body = serve(app, query)
    finally:
        os.kill(pid, signal.SIGCONT)
        state_of(app).hub.close()

    parser = Parser()
    parser.feed(body)
    told = parse(parser.last_event_id)
    assert parser.retry is not None
    assert (told is not None) is tells_place
    if told is not None:
        assert told.epoch == place.epoch
        assert told.time > place.time

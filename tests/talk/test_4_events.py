"""The talk's chapter 4, "Server-Sent Events", rows 4a and 4b, on the hub.

"literal" is the slide on Flask with Sidearm installed; "production" is Sidearm's answer. Real
servers run ``tests/apps/interesting.py``; nothing of it but the hub stands in for Redis.
"""

from __future__ import annotations

import json
import queue
import sqlite3
import urllib.error
import urllib.request
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, Response, stream_with_context

from sidearm.testing import EventSource, FlaskRunServer, UpServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidearm import Sidearm
    from sidearm.testing.servers import Server

APPS = Path(__file__).parents[1] / "apps"
SERVERS = {"up": UpServer, "flask run": FlaskRunServer}


@pytest.fixture(scope="module", params=list(SERVERS))
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    database = tmp_path_factory.mktemp("things") / "things.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY)")
    env = {"THINGS": str(database)}
    with SERVERS[request.param]("interesting:app", cwd=APPS, env=env) as server:
        yield server


def fetch(server: Server, path: str, *, post: bool = False) -> tuple[str, str]:
    """Ask as a browser does, which follows redirects; returns the final address and the page."""
    with urllib.request.urlopen(server.url + path, b"" if post else None, 30) as response:
        return response.geturl(), response.read().decode()


def open_stream(server: Server) -> EventSource:
    return EventSource(f"{server.url}/streams/interesting", timeout=30)


def test_4a_literal_a_generator_of_data_packets(arm: Sidearm) -> None:
    """The slide's response, a generator of ``data:`` packets, still streams."""
    app = Flask("yourapplication")
    app.testing = True
    arm.init_app(app)
    subscription: queue.SimpleQueue[Any] = queue.SimpleQueue()

    @app.route("/streams/interesting")
    def stream() -> Response:
        def generate() -> Iterator[bytes]:
            for event in iter(subscription.get, None):
                yield b"data: %s\r\n\r\n" % event  # str on the slide, which WSGI refuses today

        return Response(
            stream_with_context(generate()), direct_passthrough=True, mimetype="text/event-stream"
        )

    for event in (b"first", b"second", None):
        subscription.put(event)
    response = app.test_client().get("/streams/interesting", buffered=True)
    assert response.mimetype == "text/event-stream"
    assert response.data == b"data: first\r\n\r\ndata: second\r\n\r\n"


def test_4a_production_one_line_and_every_browser_hears(server: Server) -> None:
    """More streams than there are workers are open, pages still come, and all hear it, once."""
    with ExitStack() as stack:
        sources = [stack.enter_context(open_stream(server)) for _ in range(5)]
        before = int(fetch(server, "/")[1])
        for _ in range(3):
            fetch(server, "/create-something", post=True)
        assert int(fetch(server, "/")[1]) == before + 3
        events = [[source.next_event() for _ in range(3)] for source in sources]
    assert all(
        json.loads(event.data) == {"event": "created", "kind": "something"}
        for heard in events
        for event in heard
    )
    ids = [[event.id for event in heard] for heard in events]
    assert ids == [ids[0]] * 5
    assert len(set(ids[0])) == 3


def test_4b_literal_publish_then_redirect(server: Server) -> None:
    """The POST is answered by the redirect, and the browser sees the event."""
    with open_stream(server) as source:
        address, _ = fetch(server, "/create-something", post=True)
        assert address == f"{server.url}/"
        assert json.loads(source.next_event().data) == {"event": "created", "kind": "something"}


def test_4b_production_nobody_hears_of_what_was_not_created(server: Server) -> None:
    """The event leaves after the commit: who hears of a thing finds it, and of none that is not."""
    with open_stream(server) as source:
        before = int(fetch(server, "/")[1])
        with pytest.raises(urllib.error.HTTPError, match="409"):
            fetch(server, "/create-nothing", post=True)
        fetch(server, "/create-something", post=True)
        # The first that is heard is the second that was published.
        assert json.loads(source.next_event().data)["kind"] == "something"
        assert int(fetch(server, "/")[1]) == before + 1


def test_4b_production_who_comes_back_hears_what_was_missed(server: Server) -> None:
    """Redis Pub/Sub forgets who is away; a stream goes on from the last id."""
    with open_stream(server) as source:
        fetch(server, "/create-something", post=True)
        first = source.next_event()
        source.close()
        fetch(server, "/create-something", post=True)
        source.reconnect()
        missed = source.next_event()
    assert json.loads(missed.data) == {"event": "created", "kind": "something"}
    assert missed.id != first.id

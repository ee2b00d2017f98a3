"""An application that Sentry watches, as its documentation says; what it would send is kept."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from typing import Any

import sentry_sdk
from flask import Flask, Response, stream_with_context
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from sidearm import EventStream, Sidearm, after_commit, event_stream, publish
from sidearm.resources.sqlite import SQLite


class Recorder(Transport):
    """Keeps events instead of sending them."""

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.events: list[Any] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        """Keep what an envelope holds."""
        for item in envelope:
            event = item.get_event() or item.get_transaction_event()
            if event is not None:
                self.events.append(event)


class Broken(Exception):
    """What nobody handles."""


class Known(Exception):
    """What has a handler."""


sentry_sdk.init(
    "http://key@sentry.invalid/1",
    transport=Recorder,
    traces_sample_rate=1.0,
    auto_session_tracking=False,
)
app = Flask(__name__)
arm = Sidearm(app)
opened: list[Any] = []
get_database = arm.use(SQLite(os.environ["NOTES"], setup=opened.append))


class FailsToCommit:
    """A resource's value whose commit fails."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def commit(self) -> None:
        """Fail."""
        raise self.error

    def rollback(self) -> None:
        """Have nothing to undo."""


@arm.resource
def get_broken() -> Generator[FailsToCommit]:
    """What fails in a way that nobody handles."""
    yield FailsToCommit(Broken)


@arm.resource
def get_known() -> Generator[FailsToCommit]:
    """What fails in a way that has a handler."""
    yield FailsToCommit(Known)


def write(text: str) -> None:
    """Insert a row."""
    get_database().execute("INSERT INTO notes (text) VALUES (?)", (text,))


@app.errorhandler(Known)
def known(error: Known) -> tuple[str, int]:
    """Answer what is no surprise."""
    return "known", 409


@app.get("/good")
def good() -> str:
    write("good")
    return "good"


@app.get("/raises/<name>")
def raises(name: str) -> str:
    write("raises")
    raise {"broken": Broken, "known": Known}[name]


@app.get("/commit/<name>")
def commit(name: str) -> str:
    {"broken": get_broken, "known": get_known}[name]()
    write("commit")
    return "good"


@app.get("/callback")
def callback() -> str:
    def send_mail() -> None:
        raise Broken

    write("callback")
    after_commit(send_mail)
    return "good"


@app.get("/body/<name>")
def body(name: str) -> Response:
    @stream_with_context
    def pieces() -> Generator[str]:
        write("body")
        yield "piece"
        if name == "broken":
            raise Broken

    return Response(pieces())


@app.get("/live")
def live() -> EventStream:
    return event_stream("notes")


@app.get("/publish")
def tell() -> str:
    publish("notes", "news")
    return "published"


@app.get("/seen")
def seen() -> dict[str, Any]:
    """What Sentry was given since the last look, the newest record, and what is open."""
    client: Any = sentry_sdk.get_client()
    events, client.transport.events = client.transport.events, []
    transactions = [event for event in events if event.get("type") == "transaction"]
    return {
        "errors": [describe(event) for event in events if event not in transactions],
        "requests": [
            event["transaction"] for event in transactions if event["transaction"] != "seen"
        ],
        "record": [
            (each.round, each.committed, each.decided_by)
            for each in list(app.extensions["sidearm"].records)[-1:]
        ],
        "open": sum(map(is_open, opened)),
    }


def describe(event: Any) -> list[str]:
    """The exception of an event, where Sentry saw it, and in which endpoint."""
    exception = event["exception"]["values"][-1]
    return [exception["type"], exception["mechanism"]["type"], event.get("transaction", "none")]


def is_open(connection: Any) -> bool:
    """Whether a connection was not closed."""
    try:
        return connection.in_transaction is not None
    except sqlite3.ProgrammingError:
        return False

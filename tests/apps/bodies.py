"""Bodies that write to the database NOTES while they are sent."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response, jsonify, stream_with_context

from sidearm import Sidearm, after_response
from sidearm.resources.sqlite import SQLite

app = Flask(__name__)
arm = Sidearm(app)
get_db = arm.use(SQLite(lambda: os.environ["NOTES"], timeout=30))


@app.get("/finite")
def finite() -> Response:
    @stream_with_context
    def body() -> Iterator[str]:
        get_db().execute("INSERT INTO notes (text) VALUES ('finite')")
        yield "one"
        yield "two"

    return Response(body())


@app.get("/endless")
def endless() -> Response:
    @stream_with_context
    def body() -> Iterator[bytes]:
        get_db().execute("INSERT INTO notes (text) VALUES ('endless')")
        while True:
            yield b"x" * 65536

    return Response(body())


@app.get("/hanging")
def hanging() -> Response:
    @stream_with_context
    def body() -> Iterator[bytes]:
        get_db().execute("INSERT INTO notes (text) VALUES ('hanging')")
        try:
            while True:
                yield b"x" * 65536
        finally:
            threading.Event().wait()

    return Response(body())


@app.get("/records")
def records() -> list[str]:
    """How the bodies of this worker ended."""
    return [
        f"{record.task}: {record.decided_by}"
        for record in app.extensions["sidearm"].records
        if record.round == "body"
    ]


def saved() -> list[str]:
    """What is really saved."""
    with sqlite3.connect(os.environ["NOTES"]) as connection:
        return [text for (text,) in connection.execute("SELECT text FROM notes")]


@app.get("/saved")
def show_saved() -> list[str]:
    return saved()


@app.get("/late")
def late() -> Response:
    """Answer at once, and write when a file is there."""

    @after_response
    def write() -> None:
        deadline = time.monotonic() + 60
        while not Path(os.environ["NOTES"] + ".go").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        get_db().execute("INSERT INTO notes (text) VALUES ('late')")

    return jsonify("answered")

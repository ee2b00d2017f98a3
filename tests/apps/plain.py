"""A Flask application without Sidearm, for the tests of servers and clients."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from flask import Flask, Response

if TYPE_CHECKING:
    from collections.abc import Iterator

app = Flask(__name__)


@app.get("/pid")
def pid() -> str:
    return str(os.getpid())


@app.get("/name")
def name() -> str:
    return os.environ["MY_NAME"]


def counts() -> Iterator[bytes]:
    yield b"data: 0\n\nda"
    yield b"ta: 1\n\n"
    yield b"data: 2\n\n"


@app.get("/counts")
def stream() -> Response:
    return Response(counts(), mimetype="text/event-stream")


@app.get("/counts-closed")
def stream_closed() -> Response:
    return Response(counts(), mimetype="text/event-stream", headers={"Connection": "close"})

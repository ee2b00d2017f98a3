"""The application that the benchmarks serve: one ordinary view, one stream."""

from __future__ import annotations

import os

from flask import Flask

from sidearm import EventStream, Sidearm, event_stream

app = Flask(__name__)
Sidearm(app)


@app.get("/worker")
def worker() -> str:
    """The process that answers."""
    return str(os.getpid())


@app.get("/empty")
def empty() -> str:
    """Nothing."""
    return ""


@app.get("/stream")
def stream() -> EventStream:
    """A stream on which nothing happens."""
    return event_stream("quiet")

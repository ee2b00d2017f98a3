"""An application on several machines: streams of one channel, which the tests number."""

from __future__ import annotations

import os

from flask import Flask

from sidearm import EventStream, Sidearm, close_streams, event_stream, publish

app = Flask(__name__)
app.config.from_prefixed_env()
Sidearm(app)


@app.get("/stream/<user>")
def stream(user: str) -> EventStream:
    return event_stream("numbers", tags=[f"user:{user}"])


@app.post("/publish/<text>")
def publishing(text: str) -> str:
    # What one process publishes comes in its order.
    publish("numbers", f"{text} {os.getpid()}")
    return "published"


@app.post("/log-out/<user>")
def log_out(user: str) -> str:
    close_streams(f"user:{user}")
    return "out"

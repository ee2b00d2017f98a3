"""Sidearm's application."""

from __future__ import annotations

from flask import Flask, request

from sidearm import EventStream, Sidearm, event_stream, publish

app = Flask(__name__)
app.config["SIDEARM_HEARTBEAT"] = 0
Sidearm(app)


@app.get("/stream")
def stream() -> EventStream:
    """The events."""
    return event_stream("stock")


@app.post("/publish")
def publish_events() -> str:
    """Publish the body, so many times."""
    data = request.get_json()
    for _ in range(int(request.args["n"])):
        publish("stock", data, event="sold")
    return ""

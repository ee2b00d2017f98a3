"""The talk's application."""

from __future__ import annotations

import os
from collections.abc import Iterator

import redis
from flask import Flask, Response, request

app = Flask(__name__)
client = redis.Redis.from_url(os.environ["BENCH_REDIS"], max_connections=20_000)


@app.get("/stream")
def stream() -> Response:
    """The events."""

    def events() -> Iterator[bytes]:
        pubsub = client.pubsub()
        pubsub.subscribe("stock")
        yield b": ok\n\n"
        for message in pubsub.listen():
            if message["type"] == "message":
                yield b"event: sold\ndata: " + message["data"] + b"\n\n"

    return Response(events(), mimetype="text/event-stream")


@app.post("/publish")
def publish_events() -> str:
    """Publish the body, so many times."""
    for _ in range(int(request.args["n"])):
        client.publish("stock", request.get_data())
    return ""

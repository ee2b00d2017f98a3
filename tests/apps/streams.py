"""Channels to stream and to publish to, and what a test wants to know of a worker."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

from flask import Flask, Response, redirect, request

from sidearm import EventStream, Sidearm, event_stream, publish, publish_now, stream_position
from sidearm.events.inline import Subscription

app = Flask(__name__)
app.secret_key = "for the tests only"
app.config["SIDEARM_STREAM_ORIGINS"] = ["https://app.example"]
app.config.from_prefixed_env("TESTED")  # TESTED_SIDEARM_HANDOFF=false
Sidearm(app)


@app.after_request
def add_policy(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = "default-src 'self'"
    return response


@app.get("/streams/<channel>")
def stream(channel: str) -> EventStream:
    return event_stream(channel)


@app.get("/snapshots/<channel>")
def snapshot(channel: str) -> EventStream:
    response = event_stream(channel, snapshot=lambda: {"channel": channel}, retry=1234)
    response.set_cookie("seen", channel)
    return response


@app.get("/moved/<channel>")
def moved(channel: str) -> Any:
    return redirect(f"/streams/{channel}")


@app.get("/positions")
def position() -> str:
    return stream_position()


@app.post("/publish/<channel>")
def publishing(channel: str) -> str:
    for line in request.get_data(as_text=True).splitlines():
        publish(channel, line)
    return "published"


_counters: dict[str, int] = {}


@app.get("/counters/<channel>")
def counter(channel: str) -> EventStream:
    return event_stream(channel, snapshot=lambda: _counters.get(channel, 0))


@app.post("/counters/<channel>")
def count(channel: str) -> str:
    _counters[channel] = _counters.get(channel, 0) + 1
    publish_now(channel, _counters[channel])
    return "counted"


@app.get("/ping")
def ping() -> str:
    return "pong"


@app.get("/process")
def process() -> dict[str, int]:
    """What this worker holds."""
    return {
        "pid": os.getpid(),
        "descriptors": len(list(Path("/dev/fd").iterdir())),
        "threads": threading.active_count(),
        "watched": sum(map(_watched_by, Path("/proc/self/fdinfo").glob("*"))),
        "cpu": time.process_time_ns(),
    }


@app.get("/held")
def held() -> str:
    """How many streams this worker holds itself."""
    return str(sum(len(each._streams) for each in Subscription._shared.values()))


def _watched_by(epoll: Path) -> int:
    """How many connections an event loop's set holds (proc(5)); 0 for any other descriptor."""
    try:
        return epoll.read_text().count("tfd:")
    except OSError:  # it was this folder's own
        return 0


def make_joined() -> Flask:
    """The same application behind a middleware that joins every body."""
    inside = app.wsgi_app

    def joined(environ: Any, start_response: Any) -> list[bytes]:
        body = inside(environ, start_response)
        try:
            return [b"".join(body)]
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    app.wsgi_app = joined  # type: ignore[method-assign]
    return app

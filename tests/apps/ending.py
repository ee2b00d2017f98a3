"""Streams that end: jobs, log-outs, limits. Set by the environment, as a deployment would."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, request

from sidearm import EventStream, Sidearm, close_streams, event_stream, publish

app = Flask(__name__)
app.config.from_prefixed_env("TESTED")  # TESTED_SIDEARM_MAX_STREAMS=5
app.config.update(SIDEARM_RETRY=0.05, SIDEARM_RETRY_SPREAD=0.05)
Sidearm(app)

PAGE = """<!doctype html>
<title>ending</title>
<script>
  const source = new EventSource({url!r});
  window.seen = [];
  source.onmessage = source.ondone = (event) => window.seen.push(event.data);
  source.addEventListener("done", source.ondone);
  window.isClosed = () => source.readyState === EventSource.CLOSED;
</script>"""


@app.get("/pages/<channel>")
def page(channel: str) -> str:
    return PAGE.format(url=f"/streams/{channel}?{request.query_string.decode()}")


@app.get("/streams/<channel>")
def stream(channel: str) -> EventStream:
    max_age = request.args.get("max_age", type=float)
    return event_stream(*channel.split("+"), tags=request.args.getlist("tag"), max_age=max_age)


@app.post("/publish/<channel>")
def publishing(channel: str) -> str:
    end = "end" in request.args
    publish(channel, request.get_data(as_text=True), event="done" if end else None, end=end)
    return "published"


@app.post("/close/<tag>")
def closing(tag: str) -> str:
    close_streams(tag, channels=request.args.getlist("channel"))
    return "closed"


@app.get("/process")
def process() -> dict[str, Any]:
    return {"pid": os.getpid(), "address": request.remote_addr}

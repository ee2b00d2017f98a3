"""The application of ``streams``, with tags, ends and ages."""

from __future__ import annotations

from streams import app

from sidearm import EventStream, close_streams, event_stream, publish


@app.get("/tagged/<channel>/<tag>")
def tagged(channel: str, tag: str) -> EventStream:
    return event_stream(channel, tags=[tag])


@app.get("/two/<channel>")
def two(channel: str) -> EventStream:
    return event_stream(f"{channel}-a", f"{channel}-b", tags=["both"])


@app.get("/short/<channel>")
def short(channel: str) -> EventStream:
    return event_stream(channel, max_age=0.3)


@app.post("/close/<tag>")
def close(tag: str) -> str:
    close_streams(tag)
    return "closed"


@app.post("/revoke/<tag>/<channel>")
def revoke(tag: str, channel: str) -> str:
    close_streams(tag, channels=[channel])
    return "revoked"


@app.post("/last/<channel>")
def last(channel: str) -> str:
    publish(channel, "the last", end=True)
    return "published"

"""What the tests of ``flask sidearm up`` look at; SITE_FOLDER is where it and they leave marks."""

from __future__ import annotations

import os
import time
from pathlib import Path

from flask import Flask

from sidearm import EventStream, Sidearm, event_stream, publish

FOLDER = Path(os.environ["SITE_FOLDER"])
VERSION = (FOLDER / "version").read_text()

if (FOLDER / "broken").exists() and "SIDEARM_SOCKET" in os.environ:
    raise RuntimeError("broken in the workers only")

app = Flask(__name__)
app.config.from_prefixed_env()
Sidearm(app)


@app.get("/version")
def version() -> str:
    return VERSION


@app.get("/stream")
def stream() -> EventStream:
    return event_stream("news")


@app.post("/publish/<news>")
def publishing(news: str) -> str:
    publish("news", news)
    return "published"


@app.get("/slow")
def slow() -> str:
    """Answer when the test says so."""
    (FOLDER / "slow-has-begun").touch()
    deadline = time.monotonic() + 60
    while not (FOLDER / "slow-may-end").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return "slow but whole"

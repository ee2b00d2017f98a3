"""Writes in every way in which an application does."""

from __future__ import annotations

import logging
import sys
import warnings

from flask import Flask

from sidearm import EventStream, Sidearm, event_stream

app = Flask(__name__)
app.config["SIDEARM_MAX_STREAMS"] = 1
Sidearm(app)


@app.get("/stream")
def stream() -> EventStream:
    return event_stream("news")


@app.get("/noise")
def noise() -> str:
    print("printed\nin two lines")  # noqa: T201
    print("half", end="", flush=True)  # noqa: T201
    print('{"looks": like JSON', file=sys.stderr)  # noqa: T201
    warnings.warn("a warning of Python", stacklevel=1)
    logging.getLogger("shop").warning("logged %s", "in JSON", extra={"order": 7})
    app.logger.error("the application's own logger: \ud800")
    raise RuntimeError("out of order")

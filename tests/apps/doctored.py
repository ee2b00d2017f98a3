"""An application for ``flask sidearm doctor``, behind whatever front a test puts before it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flask import Flask, Response, redirect, render_template_string, request
from werkzeug.middleware.proxy_fix import ProxyFix

from sidearm import EventStream, Sidearm, event_stream, publish

FOLDER = Path(os.environ["FRONTED_FOLDER"])

app = Flask(__name__, root_path=str(FOLDER), instance_path=str(FOLDER / "instance"))
app.config.update(SIDEARM_ASSETS=True)
app.config.from_prefixed_env()
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1, x_prefix=1)  # type: ignore[method-assign]
Sidearm(app)

PAGE = """<!doctype html><title>a shop</title>
<link rel="stylesheet" href="{{ url_for('static', filename='shop.css') }}"><p>Hello"""


@app.get("/")
def index() -> str:
    return render_template_string(PAGE)


@app.get("/streams/stock")
def stock() -> EventStream:
    return event_stream("stock")


@app.get("/streams/timed")
def timed() -> Response:
    """A stream that is never silent, and ends all the same."""

    def events() -> Iterator[str]:
        for number in range(5):
            yield f"data: {number}\n\n"
            time.sleep(0.4)

    return Response(events(), mimetype="text/event-stream")


@app.get("/streams/mine")
def mine() -> EventStream | Response:
    if request.cookies.get("session") != "open":
        return redirect("/login")  # type: ignore[return-value]
    return event_stream("mine")


@app.get("/streams/forbidden")
def forbidden() -> Any:
    return "no", 401


@app.get("/streams/page")
def page() -> str:
    return "no stream"


@app.get("/loop")
def loop() -> Any:
    return redirect("/loop")


@app.get("/slide/stock")
def slide() -> Response:
    """The talk's stream, as on its slide: six small events, and nothing of Sidearm's."""

    def events() -> Iterator[str]:
        for number in range(6):
            yield f"data: {number}\n\n"
            time.sleep(1)
        time.sleep(600)  # then a quiet evening

    return Response(events(), mimetype="text/event-stream")


@app.post("/publish")
def publishing() -> str:
    publish("stock", "x" * 20)
    return "published"

"""The talk's chapter 4 with its own Redis: the POST view is the slide's, word for word."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, json, redirect, url_for
from redis import Redis

from sidearm import EventStream, Sidearm, event_stream, publish

app = Flask(__name__)
app.config.from_prefixed_env("TESTED")
Sidearm(app)
redis = Redis.from_url(os.environ["TESTED_SIDEARM_BROKER"])


def create_that_thing() -> None:
    """Whatever it is."""


@app.route("/streams/interesting")
def stream() -> EventStream:
    return event_stream("interesting-channel")


@app.route("/create-something", methods=["POST"])
def create_something() -> Any:
    create_that_thing()
    redis.publish(
        "interesting-channel",
        json.dumps({"event": "created", "kind": "something"}),
    )
    return redirect(url_for("index"))


@app.route("/create-for-good", methods=["POST"])
def create_for_good() -> Any:
    create_that_thing()
    publish("interesting-channel", {"event": "created", "kind": "kept"})
    return redirect(url_for("index"))


@app.route("/")
def index() -> str:
    return "index"

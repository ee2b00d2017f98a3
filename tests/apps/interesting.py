"""The talk's slides of chapter 4, "Server-Sent Events", on the hub; THINGS is the database.

The stream's view and the POST are the slides', with ``event_stream`` in the place of the Redis
subscription and ``publish`` in that of ``redis.publish``.
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, abort, redirect, url_for

from sidearm import EventStream, Sidearm, event_stream, publish
from sidearm.resources.sqlite import SQLite

app = Flask(__name__)
arm = Sidearm(app)
get_db = arm.use(SQLite(os.environ["THINGS"]))


@app.get("/")
def index() -> str:
    (count,) = get_db().execute("SELECT count(*) FROM things").fetchone()
    return str(count)


@app.route("/streams/interesting")
def stream() -> EventStream:
    return event_stream("interesting-channel")


@app.route("/create-something", methods=["POST"])
def create_something() -> Any:
    create_that_thing()
    publish("interesting-channel", {"event": "created", "kind": "something"})
    return redirect(url_for("index"))


@app.route("/create-nothing", methods=["POST"])
def create_nothing() -> Any:
    """The same, and then it turns out that it cannot be."""
    create_that_thing()
    publish("interesting-channel", {"event": "created", "kind": "nothing"})
    abort(409)


def create_that_thing() -> None:
    get_db().execute("INSERT INTO things DEFAULT VALUES")

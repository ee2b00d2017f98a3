"""Streams whose views and snapshots use a pool of two connections."""

from __future__ import annotations

import os

from flask import Flask
from sqlalchemy import QueuePool, create_engine

from sidearm import EventStream, Sidearm, event_stream, publish

engine = create_engine(
    f"sqlite:///{os.environ['NOTES']}", poolclass=QueuePool, pool_size=2, max_overflow=0
)
app = Flask(__name__)
arm = Sidearm(app)
get_connection = arm.use(engine)


def count() -> int:
    """How many notes there are."""
    return int(get_connection().exec_driver_sql("SELECT count(*) FROM notes").scalar_one())


@app.get("/stream")
def stream() -> EventStream:
    count()
    return event_stream("notes", snapshot=count)


@app.post("/add")
def add() -> str:
    get_connection().exec_driver_sql("INSERT INTO notes (text) VALUES ('note')")
    publish("notes", count())
    return "added"


@app.get("/out")
def out() -> str:
    """How many connections are out, of this worker's pool."""
    return str(engine.pool.checkedout())  # type: ignore[attr-defined]

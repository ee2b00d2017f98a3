"""What ``flask sidearm tasks`` is tried on: rounds that commit, roll back, drop, and are slow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, abort

from sidearm import Sidearm, after_commit, publish

app = Flask(__name__)
arm = Sidearm(app)


class Connection:
    def commit(self) -> None:
        """Keep it."""

    def rollback(self) -> None:
        """Undo it."""


@arm.resource
def get_connection() -> Iterator[Connection]:
    yield Connection()


@app.get("/")
def index() -> str:
    return str(os.getpid())


@app.get("/meet")
def meet() -> str:
    """Answer when another process has this request, too."""
    here = Path(os.environ["SITE_FOLDER"]) / f"meet-{os.getpid()}"
    here.touch()
    deadline = time.monotonic() + 60
    while len(list(here.parent.glob("meet-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    return str(os.getpid())


def send_mail() -> None:
    """Send nothing."""


@app.post("/buy/<int:item>")
def buy(item: int) -> str:
    get_connection()
    publish("shop", {"item": item})
    after_commit(send_mail)
    return str(os.getpid())


@app.post("/fail/<secret>")
def fail(secret: str) -> str:
    get_connection()
    publish("shop", secret)
    raise ValueError(secret)


@app.post("/full")
def full() -> str:
    get_connection()
    after_commit(send_mail)
    abort(409)


@app.cli.command("import-stock")
def import_stock() -> None:
    get_connection()
    raise RuntimeError("no stock")

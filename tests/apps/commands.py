"""An application whose commands end in every way that a command can; NOTES is its database."""

from __future__ import annotations

import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import click
from flask import Flask

from sidearm import Sidearm, after_commit, after_rollback, current_task
from sidearm.resources.sqlite import SQLite

__all__ = ["app", "current_task"]


def _fast(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA synchronous = OFF")


arm = Sidearm()
get_db = arm.use(SQLite(lambda: os.environ["NOTES"], setup=_fast))

app = Flask(__name__)
app.config["SIDEARM_HUB"] = "memory"
arm.init_app(app)


def write(text: str) -> None:
    """Insert a row, and let a file tell which callback ran."""
    get_db().execute("INSERT INTO notes (text) VALUES (?)", (text,))
    marks = Path(os.environ["NOTES"] + ".marks")
    after_commit(lambda: _append(marks, "committed"))
    after_rollback(lambda: _append(marks, "rolled back"))


def _append(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")


@app.cli.command()
def succeed() -> None:
    """Return."""
    write("succeed")


@app.cli.command()
def value() -> int:
    """Return something, which click ignores."""
    write("value")
    return 3


@app.cli.command("raise")
def raise_() -> None:
    """Raise."""
    write("raise")
    raise LookupError("on purpose")


@app.cli.command("sys-exit")
@click.argument("code")
def sys_exit(code: str) -> None:
    """Leave by ``sys.exit``."""
    write("sys-exit")
    codes: dict[str, Any] = {"0": 0, "3": 3, "none": None, "text": "a message"}
    sys.exit(codes[code])


@app.cli.command("ctx-exit")
@click.argument("code", type=int)
@click.pass_context
def ctx_exit(ctx: click.Context, code: int) -> None:
    """Leave by ``ctx.exit``."""
    write("ctx-exit")
    ctx.exit(code)


@app.cli.command()
def abort() -> None:
    """Leave by ``click.Abort``."""
    write("abort")
    raise click.Abort


@app.cli.command()
def interrupt() -> None:
    """Leave as by Ctrl-C."""
    write("interrupt")
    raise KeyboardInterrupt


@app.cli.command()
def usage() -> None:
    """Leave by an error of click's."""
    write("usage")
    raise click.UsageError("wrong")


@app.cli.command()
@click.pass_context
def fail(ctx: click.Context) -> None:
    """Leave by ``ctx.fail``."""
    write("fail")
    ctx.fail("failed")


@app.cli.command()
def caught() -> None:
    """Catch what was raised, also an exit."""
    write("caught")
    try:
        sys.exit(3)
    except SystemExit:
        click.echo("caught")


@app.cli.command()
def reraise() -> None:
    """Use the database for the first time while an error is handled, which then goes on."""
    try:
        raise LookupError("on purpose")
    except LookupError:
        write("reraise")
        raise


@app.cli.command()
def broken() -> None:
    """Do what no database will commit."""
    get_db().execute("PRAGMA foreign_keys = ON")
    get_db().execute("INSERT INTO entries (note) VALUES (42)")
    write("broken")


@app.cli.group()
def nested() -> None:
    """A group."""


@nested.command("write")
@click.option("--fail/--good", default=False)
def nested_write(*, fail: bool) -> None:
    """Write inside of a group."""
    write("nested")
    if fail:
        sys.exit(1)


@app.cli.command()
@click.pass_context
def invoking(ctx: click.Context) -> None:
    """Run another command in this one."""
    ctx.invoke(succeed)
    write("invoking")
    ctx.exit(4)


@app.cli.command()
@click.argument("count", type=int)
def jobs(count: int) -> None:
    """Push a context for each job, as a worker of a queue does."""
    for _ in range(count):
        with app.app_context():
            get_db().execute("INSERT INTO notes (text) VALUES ('job')")

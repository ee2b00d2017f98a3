"""The database, and what SQLite needs to be told when several workers share one file.

PostgreSQL needs nothing here: its own settings are in ``config.py``.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase

from sidearm import Sidearm
from sidearm.signing import spent_tokens_table

_INSERTS: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class Base(DeclarativeBase):
    """The base of every model."""


db = SQLAlchemy(metadata=Base.metadata)

arm = Sidearm()
arm.use(db, commit="task")

spent_tokens_table(Base.metadata)  # which links of accounts.py were used


def prepare(app: Flask) -> None:
    """See to the settings of every new SQLite connection; other databases need none."""
    with app.app_context():
        if db.engine.dialect.name == "sqlite":
            event.listen(db.engine, "connect", _configure_sqlite)


def insert_if_new(model: type[Base], **values: Any) -> None:
    """Insert a row, unless one with the same unique columns is there.

    Two requests may insert it at once, so whoever wants the row inserts first and looks then.
    """
    insert = _INSERTS[db.engine.dialect.name]
    db.session.execute(insert(model).values(**values).on_conflict_do_nothing())


def _configure_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    cursor = connection.cursor()
    # Readers go on while one worker writes; the next writer waits for BUSY_TIMEOUT (config.py).
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()

"""The database, and what SQLite needs to be told when several workers share one file.

PostgreSQL needs nothing here: its own settings are in ``config.py``.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    """The base of every model."""


db = SQLAlchemy(metadata=Base.metadata)


def prepare(app: Flask) -> None:
    """See to the settings of every new SQLite connection; other databases need none."""
    with app.app_context():
        if db.engine.dialect.name == "sqlite":
            event.listen(db.engine, "connect", _configure_sqlite)


def _configure_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    cursor = connection.cursor()
    # Readers go on while one worker writes; the next writer waits for BUSY_TIMEOUT (config.py).
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()

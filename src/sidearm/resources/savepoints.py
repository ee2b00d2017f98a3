"""Savepoints of what people have: SQLAlchemy's objects, and connections of the DB-API (PEP 249)."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from typing import Any

from ..exceptions import NoSavepoint
from ..tasks.claims import Savepoint
from .transactions import probe_for

_numbers = itertools.count(1)


def savepoint_of(value: Any, name: str) -> Savepoint | None:
    """Begin a savepoint of what a resource gave.

    Args:
        value: A session or connection of SQLAlchemy, or a DB-API connection.
        name: The resource's name, for the error.

    Returns:
        The savepoint, or ``None`` if there is nothing that could be undone: the value can neither
        commit nor roll back.

    Raises:
        NoSavepoint: It can, and has no savepoints that are known here.
    """
    if hasattr(value, "begin_nested"):
        return Nested(value)
    if hasattr(value, "cursor") and hasattr(value, "rollback"):
        return Statements(value)
    if hasattr(value, "commit") or hasattr(value, "rollback"):
        raise NoSavepoint(name, value)
    return None


class Statements(Savepoint):
    """A savepoint by SQL statements (ISO 9075: SAVEPOINT, RELEASE, ROLLBACK TO)."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._name = f"sidearm_{next(_numbers)}"
        # sqlite3 begins with the first statement that writes, and a savepoint is none; SQLite then
        # takes the savepoint for the transaction, and its release for the commit.
        if isinstance(connection, sqlite3.Connection) and not connection.in_transaction:
            self._execute("BEGIN")
        self._execute(f"SAVEPOINT {self._name}")

    def release(self) -> None:
        if self._is_there():
            self._execute(f"RELEASE SAVEPOINT {self._name}")

    def rollback(self) -> None:
        if self._is_there():
            self._execute(f"ROLLBACK TO SAVEPOINT {self._name}")
            self._execute(f"RELEASE SAVEPOINT {self._name}")

    def _is_there(self) -> bool:
        # A commit or rollback by hand has ended it with its transaction.
        probe = probe_for(self._connection)
        return probe is None or probe(self._connection)

    def _execute(self, statement: str) -> None:
        cursor = self._connection.cursor()
        try:
            cursor.execute(statement)
        finally:
            cursor.close()


class Nested(Savepoint):
    """A savepoint of a SQLAlchemy session or connection."""

    def __init__(self, value: Any) -> None:
        from sqlalchemy.exc import UnboundExecutionError

        # A session with several databases may have no default.
        with contextlib.suppress(UnboundExecutionError):
            _begin_by_hand(value.connection() if callable(value.connection) else value)
        self._nested = value.begin_nested()

    def release(self) -> None:
        if self._nested.is_active:
            self._nested.commit()

    def rollback(self) -> None:
        if self._nested.is_active or self._failed():
            self._nested.rollback()

    def _failed(self) -> bool:
        # A flush that failed leaves its session's savepoint to be rolled back.
        session = getattr(self._nested, "session", None)
        return session is not None and session.get_nested_transaction() is self._nested


def _begin_by_hand(connection: Any) -> None:
    """Let SQLite's transaction begin before its first savepoint, which would stand for it."""
    if connection.dialect.name != "sqlite":
        return
    driver = connection.connection.dbapi_connection
    if isinstance(driver, sqlite3.Connection) and not driver.in_transaction:
        connection.exec_driver_sql("BEGIN")

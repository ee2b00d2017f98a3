"""Whether what a resource gives can be worked with now: the server is asked, not believed."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from typing import Any


def reach(value: Any) -> None:
    """Ask the server behind a connection, session or client for something trivial.

    Args:
        value: What a resource gave. Of a kind that is not known, having it is enough.

    Raises:
        Exception: It does not answer; the driver's own error.
    """
    if isinstance(value, sqlite3.Connection):
        # SELECT 1 would not touch the file.
        value.execute("PRAGMA schema_version").fetchone()
    elif type(value).__module__.partition(".")[0] == "sqlalchemy":
        from sqlalchemy import literal, select

        value.execute(select(literal(1)))  # as each database spells it
    elif callable(getattr(value, "cursor", None)):  # DB-API (PEP 249)
        cursor = value.cursor()
        try:
            cursor.execute("SELECT 1")
            cursor.fetchone()
        finally:
            cursor.close()
    elif callable(getattr(value, "ping", None)):
        value.ping()


def reach_generated(function: Callable[[], Generator[Any]]) -> None:
    """Claim what a generator function yields, ask it, and release it.

    Args:
        function: The generator function of a resource.

    Raises:
        Exception: It cannot be claimed, or does not answer.
    """
    generator = function()
    try:
        value = next(generator)
    except RuntimeError as error:
        if str(error).startswith("Working outside of request context"):
            return  # what it claims depends on a request, and here is none
        raise
    try:
        reach(value)
    finally:
        try:
            rollback = getattr(value, "rollback", None)
            if callable(rollback):
                rollback()
        finally:
            next(generator, None)


def reach_pooled(pool: Any) -> None:
    """Take a connection out of a pool, ask, and give it back.

    Args:
        pool: Has ``getconn()`` and ``putconn(connection)``.

    Raises:
        Exception: None can be had, or none answers.
    """
    try:
        _reach_one(pool)
    except Exception:
        # The server may have been restarted, and the pool may hold connections of before.
        check = getattr(pool, "check", None)
        if not callable(check):
            raise
        check()
        _reach_one(pool)


def _reach_one(pool: Any) -> None:
    connection = pool.getconn()
    try:
        reach(connection)
        connection.rollback()
    finally:
        pool.putconn(connection)

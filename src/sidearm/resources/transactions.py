"""Whether a connection is in a transaction, as its driver knows it without asking the server."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from ..exceptions import TransactionAborted

#: libpq's ``PQTRANS_INTRANS`` and ``PQTRANS_INERROR``, which psycopg 2 and 3 pass on.
_IN_TRANSACTION = (2, 3)
_IN_ERROR = 3

Probe = Callable[[Any], bool]


def probe_for(value: Any) -> Probe | None:
    """What tells of values of one type whether they are in a transaction.

    Args:
        value: What a resource gave.

    Returns:
        A function of such a value; ``None`` if its driver is not known to tell. Those of sqlite3,
        psycopg 2 and 3, and SQLAlchemy's connections do.
    """
    if isinstance(value, sqlite3.Connection):
        return _sqlite
    if type(value).__module__.partition(".")[0] == "sqlalchemy":
        return _sqlalchemy if hasattr(value, "in_transaction") else None
    if hasattr(getattr(value, "info", None), "transaction_status"):
        return _libpq
    return None


def _sqlite(connection: sqlite3.Connection) -> bool:
    # With autocommit=False (Python 3.12) one is always open: then it is as if always written.
    try:
        return connection.in_transaction
    except sqlite3.ProgrammingError:  # it is closed
        return False


def _sqlalchemy(connection: Any) -> bool:
    return bool(connection.in_transaction())


def _libpq(connection: Any) -> bool:
    return not connection.closed and connection.info.transaction_status in _IN_TRANSACTION


def refuse_aborted(connection: Any, name: str) -> None:
    """Refuse to commit a transaction that the database would roll back without a word.

    Args:
        connection: A driver's connection; of those of libpq it is known.
        name: The resource's name.

    Raises:
        TransactionAborted: A statement in it has failed.
    """
    status = getattr(getattr(connection, "info", None), "transaction_status", None)
    if status == _IN_ERROR:
        raise TransactionAborted(name)


def refuse_aborted_under(connection: Any, name: str) -> None:
    """The same for a connection of SQLAlchemy's.

    Raises:
        TransactionAborted: A statement in it has failed.
    """
    if not connection.closed and not connection.invalidated and connection.in_transaction():
        refuse_aborted(connection.connection.dbapi_connection, name)

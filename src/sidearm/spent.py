"""What may act once: tokens and webhooks; rows, written in the transaction of the task that acts.

The row is inserted "on conflict do nothing". Of several tasks that insert one identifier at the
same time, the database lets one, and the others wait for its outcome: after its commit they have
inserted nothing, after its rollback the next one may. Nothing has to be locked or read before.

A row can go when its token has expired. Every process deletes such rows at times, after it has
spent one, in a task of its own that nobody waits for.
"""

from __future__ import annotations

import functools
import sqlite3
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from .exceptions import NoSpentTokens
from .resources.generator import GeneratorResource
from .tasks.actions import after_response
from .tasks.claims import Resource, Transaction
from .tasks.context import require_task

if TYPE_CHECKING:
    from sqlalchemy import MetaData, Table

TABLE = "sidearm_spent_tokens"

#: The table for whoever keeps a schema in SQL; for SQLite and PostgreSQL.
CREATE_SPENT_TOKENS = f"""\
CREATE TABLE {TABLE} (
    id VARCHAR(18) NOT NULL PRIMARY KEY,
    expires BIGINT NOT NULL
);
CREATE INDEX {TABLE}_expires ON {TABLE} (expires);
"""

PRUNE_INTERVAL = 3600.0  # seconds between two times in one process
_GRACE = 60  # seconds for which a row outlives its token: clocks differ

#: What :meth:`SpentTokens.add_with` says of what has acted before.
SAME, ANOTHER = "same", "another"
_RACE = "another task was faster"


def spent_tokens_table(metadata: MetaData) -> Table:
    """Declare the table of spent tokens, so that ``create_all()`` and Alembic make it.

    Args:
        metadata: The application's, such as ``db.metadata`` or ``Base.metadata``.

    Returns:
        The table; nothing has to be done with it.
    """
    from sqlalchemy import BigInteger, Column, String, Table

    if TABLE in metadata.tables:
        return metadata.tables[TABLE]
    return Table(
        TABLE,
        metadata,
        Column("id", String(18), primary_key=True),
        Column("expires", BigInteger, nullable=False, index=True),
    )


class SpentTokens:
    """Where the tokens of one kind are known to be spent.

    Args:
        purpose: The kind's.
        chosen: What ``single_use=`` named: the function of a resource, or what ``arm.use`` took.
        resources: The declared ones, to choose from where none was named.
        what: What acts, for errors, before the purpose.
        how: How a resource is named, for errors.
    """

    def __init__(
        self,
        purpose: str,
        chosen: Any,
        resources: list[Resource],
        *,
        what: str = "Tokens for",
        how: str | None = None,
    ) -> None:
        self._purpose = purpose
        self._what = what
        self._how = how
        self._chosen = chosen
        self._resources = resources
        self._next_prune = 0.0  # a reading of time.monotonic()

    def require(self) -> None:
        """Find out how to reach the table.

        Raises:
            NoSpentTokens: No resource was declared, or there are several to choose from.
        """
        if self._chosen is None:
            self._chosen = functools.partial(_value_of, self._only_resource())

    def has(self, id_: str | None) -> bool:
        """Whether a token was spent, as far as this task sees."""
        sql = f"SELECT 1 FROM {TABLE} WHERE id = "  # noqa: S608 - a constant
        return bool(self._run(lambda rows: rows.fetchone(sql, id_)))

    def add_with(self, id_: str, content: str, ends: datetime) -> Spending | str:
        """Let something act whose content has to be the same when it comes again.

        Args:
            id_: Its identifier.
            content: An identifier of what it holds, too.
            ends: Until when the rows have to be there.

        Returns:
            The row that was written; or :data:`SAME` or :data:`ANOTHER`, for what has acted.
        """
        row = self.add(id_, ends)
        if row is not None:
            self.add(content, ends)
            return row
        task = require_task("A delivery")
        if task.doomed == _RACE:
            return SAME  # nothing can be read any more in this transaction
        return SAME if self.has(content) else ANOTHER

    def add(self, id_: str | None, ends: datetime) -> Spending | None:
        """Spend a token.

        Args:
            id_: Its identifier.
            ends: Until when the row has to be there.

        Returns:
            The row that was written, or ``None`` if the token was spent before.
        """
        until = int(ends.timestamp()) + _GRACE
        try:
            added = bool(self._run(lambda rows: rows.insert(id_, until)))
        except Exception as error:
            if _lost_the_race(error):
                require_task(self._what).doom(_RACE)
                return None
            raise
        if not added:
            return None
        if time.monotonic() >= self._next_prune:
            self._next_prune = time.monotonic() + PRUNE_INTERVAL
            after_response(self.prune)
        return Spending(f"{self._what} {self._purpose!r}", self._value())

    def prune(self) -> None:
        """Delete the rows of tokens that have expired, and commit that."""
        now = int(time.time())

        def delete(rows: Rows) -> None:
            rows.delete(now)
            rows.commit()

        self._run(delete)

    def _run(self, action: Callable[[Rows], Any]) -> Any:
        rows = rows_of(self._value(), f"{self._what} {self._purpose!r}")
        try:
            return action(rows)
        except Exception as error:
            text = str(error).lower()
            if TABLE in text and ("no such table" in text or "does not exist" in text):
                error.add_note(
                    f"Sidearm keeps spent tokens in the table {TABLE}. Make it with"
                    " sidearm.signing.CREATE_SPENT_TOKENS, or declare it with"
                    " sidearm.signing.spent_tokens_table(metadata)."
                )
            raise

    def _value(self) -> Any:
        self.require()
        chosen = self._chosen
        session = getattr(chosen, "session", None)
        if hasattr(chosen, "init_app") and session is not None:  # Flask-SQLAlchemy
            return session
        # A scoped_session can be called too, and gives its session.
        return chosen()

    def _only_resource(self) -> Resource:
        found = [each for each in self._resources if not isinstance(each, GeneratorResource)]
        found = found or list(self._resources)
        if len(found) == 1:
            return found[0]
        raise NoSpentTokens(self._purpose, [each.name for each in found], self._what, self._how)


def _value_of(resource: Any) -> Any:
    if resource.joins:
        return resource.registry()
    return require_task(f"{resource.name}()").claim(resource)


def _lost_the_race(error: Exception) -> bool:
    """Whether PostgreSQL, above READ COMMITTED, says so that another task has spent the token.

    It cannot show a row that is newer than the transaction (SQLSTATE 40001), so it fails.
    """
    told = getattr(error, "orig", error)
    state = getattr(told, "sqlstate", None) or getattr(told, "pgcode", None)
    return state == "40001" and "concurrent update" in str(told)


class Spending:
    """The row of a token that was just spent.

    Args:
        what: What acts, and its purpose, for errors.
        value: The session or connection by which it was written.
    """

    def __init__(self, what: str, value: Any) -> None:
        self._what = what
        self._name = ""
        self._transaction: Transaction | None = None
        round_ = require_task("A token").open_round()
        for claim in list(round_.claims.values()) if round_ is not None else ():
            if claim.explicit and claim.value is _plain(value):
                self._name, self._transaction = claim.resource.name, claim.transaction()

    def require_committed(self) -> None:
        """Refuse to go on if the application commits by hand, and has not.

        Raises:
            RuntimeError: The row's transaction is still open.
        """
        if self._transaction is not None and self._transaction.open:
            raise RuntimeError(
                f"{self._what} are for one use, and the view has not committed that: {self._name}"
                " is committed by hand, so this one would work again. Commit in the view, or let"
                " the task do it with arm.use(..., commit='task'). If nothing is to be kept,"
                " answer with an error status."
            )


def _plain(value: Any) -> Any:
    """The session of a ``scoped_session``."""
    registry = getattr(value, "registry", None)
    return value() if registry is not None and callable(value) else value


class Rows(ABC):
    """The statements on the table, by one kind of connection."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    @abstractmethod
    def fetchone(self, sql: str, id_: str | None) -> Any:
        """Run a query for one identifier."""

    @abstractmethod
    def insert(self, id_: str | None, expires: int) -> bool:
        """Insert a row, unless it is there."""

    @abstractmethod
    def delete(self, now: int) -> None:
        """Delete the rows that are older."""

    def commit(self) -> None:
        """Commit, also where the application does that by hand."""
        self.connection.commit()


class DBAPIRows(Rows):
    """By a connection of the DB-API (PEP 249) to SQLite or PostgreSQL."""

    def __init__(self, connection: Any, mark: str) -> None:
        super().__init__(connection)
        self._mark = mark

    def fetchone(self, sql: str, id_: str | None) -> Any:
        return self._execute(f"{sql}{self._mark}", id_)[1]

    def insert(self, id_: str | None, expires: int) -> bool:
        mark = self._mark
        sql = f"INSERT INTO {TABLE} (id, expires) VALUES ({mark}, {mark}) ON CONFLICT DO NOTHING"  # noqa: S608
        return self._execute(sql, id_, expires)[0] == 1

    def delete(self, now: int) -> None:
        self._execute(f"DELETE FROM {TABLE} WHERE expires < {self._mark}", now)  # noqa: S608

    def _execute(self, sql: str, *values: Any) -> tuple[int, Any]:
        cursor = self.connection.cursor()
        try:
            cursor.execute(sql, values)
            return cursor.rowcount, cursor.fetchone() if cursor.description else None
        finally:
            cursor.close()


class SQLAlchemyRows(Rows):
    """By a session or a connection of SQLAlchemy."""

    def fetchone(self, sql: str, id_: str | None) -> Any:
        from sqlalchemy import text

        return self.connection.execute(text(f"{sql}:id"), {"id": id_}).fetchone()

    def insert(self, id_: str | None, expires: int) -> bool:
        from sqlalchemy import column, table
        from sqlalchemy.exc import IntegrityError

        spent = table(TABLE, column("id"), column("expires"))
        values = {"id": id_, "expires": expires}
        dialect = self._dialect()
        if dialect in {"postgresql", "sqlite"}:
            from sqlalchemy.dialects import postgresql, sqlite

            insert = (sqlite if dialect == "sqlite" else postgresql).insert
            statement = insert(spent).values(values).on_conflict_do_nothing()
            # Of an INSERT, SQLAlchemy does not always tell how many rows it wrote.
            written = self.connection.execute(statement.returning(spent.c.id))
            return written.fetchone() is not None
        try:
            with self.connection.begin_nested():
                self.connection.execute(spent.insert().values(values))
        except IntegrityError:
            return False
        return True

    def delete(self, now: int) -> None:
        from sqlalchemy import text

        sql = f"DELETE FROM {TABLE} WHERE expires < :now"  # noqa: S608 - a constant
        self.connection.execute(text(sql), {"now": now})

    def _dialect(self) -> str:
        connection: Any = self.connection
        if callable(connection.connection):  # a session
            connection = connection.connection()
        name: str = connection.dialect.name
        return name


def rows_of(value: Any, what: str) -> Rows:
    """The statements for what a resource gave.

    Args:
        value: A session or connection of SQLAlchemy, of sqlite3, psycopg or psycopg2.
        what: What acts, and its purpose, for the error.

    Raises:
        TypeError: It is nothing of these.
    """
    if isinstance(value, sqlite3.Connection):
        return DBAPIRows(value, "?")
    module = type(value).__module__.partition(".")[0]
    if module in {"psycopg", "psycopg2"}:
        return DBAPIRows(value, "%s")
    if "sqlalchemy" in sys.modules:
        from sqlalchemy.engine import Connection
        from sqlalchemy.orm import Session, scoped_session

        if isinstance(value, (Session, scoped_session, Connection)):
            return SQLAlchemyRows(value)
    raise TypeError(
        f"{what} are for one use, and that is to be kept in {value!r}. Sidearm writes it with a"
        " session or connection of SQLAlchemy, sqlite3 or psycopg; name such a resource with"
        " single_use= or once=."
    )

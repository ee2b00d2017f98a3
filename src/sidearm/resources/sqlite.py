"""sqlite3 connections, one for each task, whose commits by hand are followed."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, Literal

from ..exceptions import TransactionAborted
from ..tasks.claims import Claim, CommitMode, Resource, Savepoint, Transaction
from .reach import reach
from .savepoints import savepoint_of


class Connection(sqlite3.Connection):
    """A ``sqlite3.Connection`` that tells its claim when a transaction ends by hand."""

    sidearm_claim: SQLiteClaim | None = None

    def commit(self) -> None:
        """Commit the open transaction."""
        self.about_to_commit()
        super().commit()
        self._tell("commit")

    def rollback(self) -> None:
        """Roll the open transaction back."""
        super().rollback()
        if self.sidearm_claim is not None:
            self.sidearm_claim.is_lost = False  # the application knows
        self._tell("rollback")

    def cursor(self, factory: Any = None) -> Any:
        """Return a cursor that tells of transactions which its statements end."""
        return super().cursor(factory or Cursor)

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        """Execute a statement; ``COMMIT`` and ``ROLLBACK`` end the transaction like the methods."""
        before = self.in_transaction
        self.about_to_execute(sql)
        with _failures(self):
            cursor = super().execute(sql, *parameters)
        self.statement_ended(sql, before=before)
        return cursor

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        """Execute a statement for each set of parameters."""
        with _failures(self):
            return super().executemany(sql, parameters)

    def executescript(self, sql: str) -> sqlite3.Cursor:
        """Execute a script, before which sqlite3 commits."""
        before = self.in_transaction
        if before:
            self.about_to_commit()
        cursor = super().executescript(sql)
        if before:
            self.script_ended()
        return cursor

    def about_to_commit(self) -> None:
        """Refuse a commit by hand that the task refuses.

        Raises:
            TaskDoomed: It was told to fail.
        """
        claim = self.sidearm_claim
        if claim is not None and claim.round is not None:
            claim.round.refuse_if_doomed(claim.resource)

    def about_to_execute(self, sql: str) -> None:
        """The same, where a statement would commit.

        Raises:
            TaskDoomed: The task was told to fail.
        """
        if _commits(sql):
            self.about_to_commit()

    def script_ended(self) -> None:
        """Tell that a script has begun with a commit."""
        self._tell("commit")

    def statement_ended(self, sql: str, *, before: bool) -> None:
        """Tell if a statement has ended the transaction that was open before it."""
        if before and not self.in_transaction:
            self._tell("commit" if _commits(sql) else "rollback")

    def statement_failed(self, *, before: bool) -> None:
        """Tell if SQLite has rolled everything back for a statement, as it does for a full disk."""
        if before and not self.in_transaction and self.sidearm_claim is not None:
            self.sidearm_claim.is_lost = True
            self._tell("rollback")

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[False]:
        # The C implementation commits without calling the methods above.
        if exc_type is None:
            self.about_to_commit()
        result = super().__exit__(exc_type, exc, traceback)
        self._tell("commit" if exc_type is None else "rollback")
        return result

    def _tell(self, how: str) -> None:
        if self.sidearm_claim is not None:
            self.sidearm_claim.ended(how)


class Cursor(sqlite3.Cursor):
    """A cursor of :class:`Connection`."""

    def execute(self, sql: str, *parameters: Any) -> Cursor:
        """Execute a statement; ``COMMIT`` and ``ROLLBACK`` are seen."""
        connection = self.connection
        before = connection.in_transaction
        if isinstance(connection, Connection):
            connection.about_to_execute(sql)
        with _failures(connection):
            super().execute(sql, *parameters)
        if isinstance(connection, Connection):
            connection.statement_ended(sql, before=before)
        return self

    def executemany(self, sql: str, parameters: Any, /) -> Cursor:
        """Execute a statement for each set of parameters."""
        with _failures(self.connection):
            super().executemany(sql, parameters)
        return self

    def executescript(self, sql: str, /) -> Cursor:
        """Execute a script, before which sqlite3 commits."""
        connection = self.connection
        before = connection.in_transaction
        if before and isinstance(connection, Connection):
            connection.about_to_commit()
        super().executescript(sql)
        if before and isinstance(connection, Connection):
            connection.script_ended()
        return self


def _commits(sql: str) -> bool:
    return sql.lstrip()[:6].upper().startswith(("COMMIT", "END"))


@contextmanager
def _failures(connection: sqlite3.Connection) -> Generator[None]:
    """See to it that a connection tells what a failing statement has ended."""
    before = connection.in_transaction
    try:
        yield
    except sqlite3.Error:
        if isinstance(connection, Connection):
            connection.statement_failed(before=before)
        raise


class SQLite(Resource):
    """A SQLite database: ``get_db = arm.use(SQLite("shop.db"))``, then ``get_db()`` in a task.

    Args:
        database: The path, as for ``sqlite3.connect``, or a function that returns it (called in
            the task, so that it may read ``current_app.config``).
        commit: ``"task"`` or ``"explicit"``.
        timeout: Seconds to wait for another writer's lock.
        setup: Called with each new connection, for pragmas and functions.
        options: Further arguments of ``sqlite3.connect``.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] | Callable[[], str | os.PathLike[str]],
        *,
        commit: CommitMode = "task",
        timeout: float = 5.0,
        setup: Callable[[sqlite3.Connection], Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__("sqlite3", commit)
        self._database = database
        self._timeout = timeout
        self._setup = setup
        self._options = options

    def claim(self) -> Claim:
        """Open a connection."""
        database = self._database
        path = database() if callable(database) else database
        connection = sqlite3.connect(
            path, timeout=self._timeout, factory=Connection, **self._options
        )
        try:
            if self._setup is not None:
                self._setup(connection)
        except BaseException:
            connection.close()
            raise
        return SQLiteClaim(self, connection, connection.close)

    def reach(self) -> None:
        """Raise unless the file is a database that can be read."""
        claim = self.claim()
        try:
            reach(claim.value)
        finally:
            claim.release()


class SQLiteClaim(Claim):
    """A claimed connection; ``in_transaction`` tells whether something was written.

    Attributes:
        is_lost: Whether SQLite rolled back what the task is to commit, for a statement that failed.
    """

    tells: ClassVar[bool] = True
    is_lost = False

    def __init__(
        self, resource: Resource, connection: Connection, release: Callable[[], None]
    ) -> None:
        super().__init__(resource, connection)
        self._release = release
        self._current: Transaction | None = None
        connection.sidearm_claim = self

    def transaction(self) -> Transaction | None:
        # SQLite begins a transaction with the first statement that writes, or by a plain BEGIN.
        if self._current is None and self._is_open():
            self._current = Transaction(self, wrote=True)
        return self._current

    def _is_open(self) -> bool:
        try:
            return bool(self.value.in_transaction)
        except sqlite3.ProgrammingError:  # closed by hand
            return False

    def ended(self, how: str) -> None:
        """Take note that the application committed or rolled back."""
        transaction, self._current = self._current, None
        if transaction is not None and self.round is not None:
            self.round.transaction_ended(transaction, how)

    def savepoint(self) -> Savepoint | None:
        return savepoint_of(self.value, self.resource.name)

    def commit(self) -> None:
        if self.is_lost:
            raise TransactionAborted(self.resource.name)
        self.value.commit()

    def rollback(self) -> None:
        self.value.rollback()

    def release(self) -> None:
        self.value.sidearm_claim = None
        self._release()

"""psycopg 3: its cursors, its connections, and its pool."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from .drivers import Driver, only_reads
from .trace import Work

if TYPE_CHECKING:
    from .points import Points

#: On a connection: what SQLAlchemy does by it is seen by SQLAlchemy's events.
OF_SQLALCHEMY = "_sidearm_fault_sqlalchemy"


class PsycopgDriver(Driver):
    """psycopg 3: its cursors, its connections, and its pool."""

    def __init__(self, points: Points) -> None:
        super().__init__(points)
        self._local = threading.local()

    def install(self, stack: ExitStack) -> None:  # noqa: ARG002 - the points put all back
        import psycopg

        points = self._points
        self._error: type[Exception] = psycopg.OperationalError
        points.replace(psycopg.Cursor, "execute", self._execute)
        points.replace(psycopg.Cursor, "executemany", self._execute)
        points.replace(psycopg.Transaction, "__exit__", self._leave_block)
        points.replace(psycopg.Connection, "commit", self._commit)
        points.replace(psycopg.Connection, "rollback", self._rollback)
        if "psycopg_pool" in sys.modules:
            import psycopg_pool

            self._timeout: type[Exception] = psycopg_pool.PoolTimeout
            points.replace(psycopg_pool.ConnectionPool, "getconn", self._getconn)
            points.replace(psycopg_pool.ConnectionPool, "putconn", self._putconn)

    @contextmanager
    def _unseen(self) -> Generator[None]:
        """Let the pool, or SQLAlchemy, talk to the server for themselves."""
        before = getattr(self._local, "unseen", False)
        self._local.unseen = True
        try:
            yield
        finally:
            self._local.unseen = before

    def _work(self, connection: Any) -> Work | None:
        trace = self._points.active
        if trace is None or getattr(self._local, "unseen", False):
            return None
        if OF_SQLALCHEMY in vars(connection):
            return None
        return self.work_of(trace, connection, "psycopg")

    def _execute(
        self, original: Callable[..., Any], cursor: Any, query: Any, *args: Any, **named: Any
    ) -> Any:
        connection = cursor.connection
        work = self._work(connection)
        if work is None:
            return original(cursor, query, *args, **named)
        sql = _as_text(query, cursor)
        ends_well = sql.lstrip().lower().startswith(("commit", "end"))
        ends = ends_well and connection.info.transaction_status.name == "INTRANS"
        if ends:
            error = self.committing(work, connection, "psycopg", self._error)
        else:
            error = self.statement(work, sql, connection, self._error)
        if error is not None:
            with self._unseen():
                spoil(connection, error)
            raise error
        result = original(cursor, query, *args, **named)
        work.opened += 0 if ends or only_reads(sql) else 1
        if connection.info.transaction_status.name == "IDLE":
            rolls_back = sql.lstrip().lower().startswith(("rollback", "abort"))
            work.rolled_back() if rolls_back else self.committed(work)
        return result

    def _leave_block(self, original: Callable[..., Any], block: Any, *args: Any) -> Any:
        """The end of ``with connection.transaction():``, which calls no ``commit()``."""
        connection = block.connection
        work = self._work(connection)
        if work is None or block.savepoint_name:
            return original(block, *args)
        error = None
        if args[0] is None:
            error = self.committing(work, connection, "psycopg", self._error)
        if error is not None:
            original(block, type(error), error, error.__traceback__)
            raise error
        result = original(block, *args)
        self.committed(work) if args[0] is None else work.rolled_back()
        return result

    def _commit(self, original: Callable[..., Any], connection: Any) -> Any:
        work = self._work(connection)
        status = connection.info.transaction_status.name
        if work is None or status == "IDLE":
            return original(connection)
        error = self.committing(work, connection, "psycopg", self._error)
        if error is not None:
            raise error
        original(connection)
        if status == "INERROR":  # PostgreSQL answers ROLLBACK, and the driver is content
            work.lost += max(1, work.opened)
            work.rolled_back()
        self.committed(work)
        return None

    def _rollback(self, original: Callable[..., Any], connection: Any) -> Any:
        work = self._work(connection)
        original(connection)
        if work is not None:
            work.rolled_back()

    def _getconn(self, original: Callable[..., Any], pool: Any, *args: Any, **named: Any) -> Any:
        self.connecting("the pool", self._timeout)
        with self._unseen():
            connection = original(pool, *args, **named)
        self._count(pool, 1)
        return connection

    def _putconn(self, original: Callable[..., Any], pool: Any, connection: Any) -> Any:
        self._count(pool, -1)
        with self._unseen():
            return original(pool, connection)

    def _count(self, pool: Any, change: int) -> None:
        trace = self._points.trace
        if trace is not None:
            _, out, _ = trace.pools.get(id(pool), ("", 0, None))
            trace.pools[id(pool)] = (f"the pool {pool.name}", out + change, None)


def _as_text(query: Any, cursor: Any) -> str:
    if isinstance(query, bytes):
        return query.decode("utf-8", "replace")
    if hasattr(query, "as_string"):
        return str(query.as_string(cursor))
    return str(query)


def spoil(connection: Any, error: BaseException) -> None:
    """Leave a transaction of PostgreSQL in the failed state in which a real error leaves it."""
    import psycopg

    if isinstance(error, Exception) and not connection.autocommit and not connection.closed:
        with contextlib.suppress(psycopg.Error), psycopg.Cursor(connection) as cursor:
            cursor.execute("SELECT 1 / 0")

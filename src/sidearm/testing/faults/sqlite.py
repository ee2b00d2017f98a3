"""sqlite3: ``sqlite3.connect``, and the connections of Sidearm's own resource."""

from __future__ import annotations

import sqlite3
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .drivers import Driver, only_reads
from .trace import Work

if TYPE_CHECKING:
    from .points import Points


class SQLiteDriver(Driver):
    """``sqlite3.connect``, and the connections of :class:`~sidearm.resources.sqlite.SQLite`."""

    def __init__(self, points: Points) -> None:
        super().__init__(points)
        self._local = threading.local()

    def install(self, stack: ExitStack) -> None:  # noqa: ARG002 - the points put all back
        points = self._points
        executing = ("execute", "executemany", "executescript")
        statements: dict[str, Callable[..., Any]] = dict.fromkeys(executing, self._execute)
        ends: dict[str, Callable[..., Any]] = {
            "commit": self._commit,
            "rollback": self._rollback,
            "__exit__": self._exit,
        }
        # SQLAlchemy connects by sqlite3.dbapi2, and is watched by its own events.
        points.replace(sqlite3, "connect", self._connect)
        if "sidearm.resources.sqlite" in sys.modules:
            from ...resources import sqlite

            for name, wrapper in statements.items():
                points.replace(sqlite.Cursor, name, wrapper)
            for name, wrapper in {**statements, **ends}.items():
                points.replace(sqlite.Connection, name, wrapper)
        self._cursor_class = self._subclass(sqlite3.Cursor, **statements)
        self._connection_class = self._subclass(
            sqlite3.Connection, **statements, **ends, cursor=self._cursor
        )

    def _subclass(self, base: Any, **wrappers: Callable[..., Any]) -> Any:
        """A class of the driver's, whose methods are wrapped."""

        def wrapped(name: str, wrapper: Callable[..., Any]) -> Callable[..., Any]:
            original = getattr(base, name)
            return lambda this, *args, **named: wrapper(original, this, *args, **named)

        methods = {name: wrapped(name, wrapper) for name, wrapper in wrappers.items()}
        return type(f"Seen{base.__name__}", (base,), methods)

    def _cursor(
        self, original: Callable[..., Any], connection: Any, factory: Any = None
    ) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = original(connection, factory or self._cursor_class)
        return cursor

    def _connect(self, original: Callable[..., Any], *args: Any, **named: Any) -> Any:
        self.connecting("sqlite3", sqlite3.OperationalError)
        if len(args) < 6:  # the factory is the sixth
            named.setdefault("factory", self._connection_class)
        connection = original(*args, **named)
        trace = self._points.active
        if trace is not None and hasattr(connection, "__dict__"):
            trace.opened.append(weakref.ref(connection))
        return connection

    def _work(self, connection: Any) -> Work | None:
        trace = self._points.active
        return None if trace is None else self.work_of(trace, connection, "sqlite3")

    def _execute(self, original: Callable[..., Any], on: Any, sql: str, *args: Any) -> Any:
        """A statement by a cursor, or by a connection, which may ask a cursor in its turn."""
        connection = on if isinstance(on, sqlite3.Connection) else on.connection
        work = self._work(connection)
        if work is None or getattr(self._local, "executing", False):
            return original(on, sql, *args)
        before = connection.in_transaction
        words = sql.split(None, 1)
        verb = words[0].rstrip(";").lower() if words else ""
        base = sqlite3.OperationalError
        if before and verb in ("commit", "end"):
            error = self.committing(work, connection, "sqlite3", base)
        else:
            error = self.statement(work, sql, connection, base)
        if error is not None:
            raise error
        self._local.executing = True
        try:
            result = original(on, sql, *args)
        finally:
            self._local.executing = False
        after = connection.in_transaction
        if before and not after:
            ends_well = verb in ("commit", "end") or original.__name__ == "executescript"
            self.committed(work) if ends_well else work.rolled_back()
        elif not only_reads(sql):
            work.opened += 1
            if not after:  # without a transaction each statement commits itself
                self.committed(work)
        return result

    def _commit(self, original: Callable[..., Any], connection: Any) -> Any:
        work = self._work(connection)
        if work is None or not connection.in_transaction:
            return original(connection)
        error = self.committing(work, connection, "sqlite3", sqlite3.OperationalError)
        if error is not None:
            raise error
        original(connection)
        self.committed(work)
        return None

    def _rollback(self, original: Callable[..., Any], connection: Any) -> Any:
        work = self._work(connection)
        original(connection)
        if work is not None:
            work.rolled_back()

    def _exit(self, original: Callable[..., Any], connection: Any, *args: Any) -> Any:
        work = self._work(connection)
        if work is None or not connection.in_transaction:
            return original(connection, *args)
        error = None
        if args[0] is None:
            error = self.committing(work, connection, "sqlite3", sqlite3.OperationalError)
        if error is not None:
            connection.rollback()
            raise error
        result = original(connection, *args)
        self.committed(work) if args[0] is None else work.rolled_back()
        return result

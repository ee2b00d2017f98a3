"""Every engine of the process, by SQLAlchemy's own events."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from .drivers import Driver, only_reads
from .psycopg import OF_SQLALCHEMY, spoil
from .trace import Work

_SESSION = "_sidearm_fault_session"


class SQLAlchemyDriver(Driver):
    """Every engine of the process, by SQLAlchemy's own events."""

    def install(self, stack: ExitStack) -> None:
        from sqlalchemy import event
        from sqlalchemy.engine import Connection, Dialect, Engine

        points = self._points
        for class_ in (Engine, Dialect):  # listening sets it, and nothing takes it back
            stack.callback(setattr, class_, "_has_events", class_._has_events)
        listeners: list[tuple[Any, str, Callable[..., Any]]] = [
            (Engine, "do_execute", self._do_execute),
            (Engine, "do_executemany", self._do_execute),
            (Engine, "do_execute_no_params", self._do_execute_no_params),
            (Engine, "after_cursor_execute", self._after_cursor_execute),
            (Engine, "commit", self._on_commit),
            (Engine, "rollback", self._on_rollback),
        ]
        if "sqlalchemy.orm" in sys.modules:
            from sqlalchemy.orm import Session

            listeners.append((Session, "after_begin", self._after_begin))
        for target, name, listener in listeners:
            event.listen(target, name, listener)
            stack.callback(event.remove, target, name, listener)
        points.replace(Engine, "raw_connection", self._raw_connection)
        points.replace(Connection, "_commit_impl", self._commit_impl)

    def _raw_connection(self, original: Callable[..., Any], engine: Any) -> Any:
        self.connecting(engine.dialect.name, engine.dialect.loaded_dbapi.OperationalError)
        trace = self._points.trace
        if trace is not None:
            known = trace.pools.get(id(engine.pool))
            if known is None and hasattr(engine.pool, "checkedout"):
                before = engine.pool.checkedout()
                name = f"the pool of the {engine.dialect.name} engine"
                trace.pools[id(engine.pool)] = (name, -before, engine.pool)
        connection = original(engine)
        if engine.dialect.driver == "psycopg":
            vars(connection.driver_connection)[OF_SQLALCHEMY] = True
        return connection

    def _work(self, connection: Any) -> Work | None:
        trace = self._points.active
        if trace is None or connection.closed or connection.invalidated:
            return None
        try:
            info = connection.info
        except NotImplementedError:  # an engine that meets its database for the first time
            return None
        return self.work_of(trace, info, connection.dialect.name)

    def _value(self, connection: Any) -> Any:
        """The session that uses a connection, or the connection itself."""
        session = connection.info.get(_SESSION)
        found = session() if session is not None else None
        return found if found is not None and found.in_transaction() else connection

    def _after_begin(self, session: Any, _: Any, connection: Any) -> None:
        if self._points.trace is not None:
            connection.info[_SESSION] = weakref.ref(session)

    def _do_execute(self, cursor: Any, statement: str, _: Any, context: Any) -> None:
        connection = context.root_connection
        work = self._work(connection)
        if work is None:
            return
        base = connection.dialect.loaded_dbapi.OperationalError
        error = self.statement(work, statement, self._value(connection), base)
        if error is not None:
            if connection.dialect.driver == "psycopg":
                spoil(cursor.connection, error)
            if not isinstance(error, Exception):
                work.rolled_back()  # SQLAlchemy throws the connection away
            raise error

    def _do_execute_no_params(self, cursor: Any, statement: str, context: Any) -> None:
        self._do_execute(cursor, statement, None, context)

    def _after_cursor_execute(self, connection: Any, _: Any, statement: str, *__: Any) -> None:
        work = self._work(connection)
        if work is not None and not only_reads(statement):
            if connection._is_autocommit_isolation():
                work.opened += 1
                self.committed(work)
            else:
                work.opened += 1

    def _on_commit(self, connection: Any) -> None:
        """Fail a commit, if it has to, with the error that SQLAlchemy makes of its driver's."""
        work = self._work(connection)
        if work is None:
            return
        dbapi = connection.dialect.loaded_dbapi
        name = connection.dialect.name
        error = self.committing(work, self._value(connection), name, dbapi.OperationalError)
        if error is None:
            return
        if isinstance(error, Exception):
            from sqlalchemy.exc import DBAPIError

            raise DBAPIError.instance(
                "COMMIT", None, error, dbapi.Error, dialect=connection.dialect
            ) from error
        raise error

    def _commit_impl(self, original: Callable[..., Any], connection: Any) -> Any:
        work = self._work(connection)
        failed = _has_failed(connection)
        result = original(connection)
        if work is not None:
            if failed:
                work.lost += max(1, work.opened)
                work.rolled_back()
            self.committed(work)
        return result

    def _on_rollback(self, connection: Any) -> None:
        work = self._work(connection)
        if work is not None:
            work.rolled_back()


def _has_failed(connection: Any) -> bool:
    """Whether PostgreSQL will answer a commit with a rollback."""
    if connection.dialect.driver != "psycopg" or connection.closed or connection.invalidated:
        return False
    driver = connection.connection.driver_connection
    return bool(driver.info.transaction_status.name == "INERROR")

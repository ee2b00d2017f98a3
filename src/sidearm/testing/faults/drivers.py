"""Where statements, connections and commits are seen, by the driver.

sqlite3, psycopg 3 and its pool, redis-py, and all that SQLAlchemy drives.

A fault is raised where the driver itself would raise, with a class that is the driver's own
``OperationalError`` too: SQLAlchemy wraps it, and the application's handlers catch it, as the real
one. A connection that was made before the runs began, or by another driver, is not seen; the table
says of whose claims that is true.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import sys
import threading
import weakref
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from .trace import Trace, Work

if TYPE_CHECKING:
    from .points import Points

_WORK = "_sidearm_fault_work"
_SESSION = "_sidearm_fault_session"
_OF_SQLALCHEMY = "_sidearm_fault_sqlalchemy"
_READS = ("select", "show", "pragma", "explain", "values", "table", "set", "savepoint", "release")
_BEGINS = ("begin", "start")
_FROM = re.compile(r"\bFROM\s+\(*([\w.\"]+)", re.IGNORECASE)
SHOWN = 60  # characters of a statement


def watch(points: Points, stack: ExitStack) -> None:
    """See what the drivers do that this process has loaded, until the stack is left."""
    _SQLite(points).install()
    if "psycopg" in sys.modules:
        _Psycopg(points).install()
    if "redis" in sys.modules:
        _Redis(points).install()
    if "sqlalchemy" in sys.modules:
        _SQLAlchemy(points).install(stack)


class _Driver:
    """What all of them do."""

    def __init__(self, points: Points) -> None:
        self._points = points

    def work_of(self, trace: Trace, holder: Any, name: str) -> Work:
        """What is known of a connection in this run; kept on the connection, by its attributes."""
        attributes: dict[str, Any] = holder if isinstance(holder, dict) else vars(holder)
        known = attributes.get(_WORK)
        if known is None or known[0] is not trace:
            known = attributes[_WORK] = (trace, trace.work(name))
        work: Work = known[1]
        return work

    def statement(
        self, work: Work, sql: str, value: Any, base: type[Exception]
    ) -> BaseException | None:
        """Take note of a statement that is about to be executed; returns what fails it."""
        trace = self._points.active
        if trace is None:
            return None
        self.claimed(trace, work, value)
        if work.claim is not None:
            work.claim.seen = True
        name = work.claim.name if work.claim is not None else work.name
        shown = summary(sql)
        step, kind = trace.reach(f"{name}: {shown}", ("statement", name, shown))
        step.in_driver = True
        return trace.make(kind, base) if kind is not None else None

    def claimed(self, trace: Trace, work: Work, value: Any) -> None:
        """Find the claim that a connection or session belongs to."""
        if work.claim is None or work.claim.released:
            work.claim = next(
                (t for t in trace.claims if t.claim.value is value and not t.released), None
            )

    def committing(
        self, work: Work, value: Any, name: str, base: type[Exception]
    ) -> BaseException | None:
        """Take note of a commit that is about to be done; returns what fails it."""
        trace = self._points.active
        if trace is None:
            return None
        self.claimed(trace, work, value)
        if trace.within is not None and trace.within.key[0] == "commit":
            return trace.driver(base)
        name = work.claim.name if work.claim is not None else name
        step, kind = trace.reach(f"commit of {name} by hand", ("commit by hand", name))
        step.in_driver = True
        return trace.make(kind, base) if kind is not None else None

    def committed(self, work: Work) -> None:
        """Take note of a commit that was done."""
        trace = self._points.trace
        if trace is None or not work.opened:
            return
        within = trace.within
        by_task = within is not None and within.key[0] == "commit"
        (work.by_task if by_task else work.by_hand)[trace.response] += work.opened
        work.opened = 0

    def connecting(self, name: str, base: type[Exception]) -> None:
        """Take note of a connection that is about to be made or taken out.

        Raises:
            BaseException: What fails it.
        """
        trace = self._points.active
        if trace is None:
            return
        if trace.within is not None and trace.within.key[0] == "claim":
            error = trace.driver(base)
        else:
            step, kind = trace.reach(f"connection of {name}", ("connect", name))
            step.in_driver = True
            error = trace.make(kind, base) if kind is not None else None
        if error is not None:
            raise error


def summary(sql: str) -> str:
    """A statement in three words, ``INSERT INTO orders``: without its values, which may be secret.

    Two runs take the same step if it is the same: values and names of savepoints differ.
    """
    words = sql.split()
    if not words:
        return "(empty)"
    verb = words[0].upper().strip("(;")
    if verb in ("SELECT", "DELETE", "WITH"):
        found = _FROM.search(sql)
        verb = verb if found is None else f"{verb} FROM {found[1]}"
    elif verb in ("INSERT", "UPDATE", "CREATE", "DROP", "ALTER"):
        rest = [word.partition("(")[0] for word in words[1:3]]
        verb = " ".join([verb, *rest[: 1 if verb == "UPDATE" else 2]])
    return verb[:SHOWN]


def only_reads(sql: str) -> bool:
    """Whether a statement changes no rows, as far as its words tell."""
    words = sql.lower().split()
    if not words:
        return True
    first = words[0].lstrip("(")
    if first == "with":
        return not {"insert", "update", "delete", "merge"} & {word.lstrip("(") for word in words}
    return first in _READS or first in _BEGINS


# -- sqlite3


class _SQLite(_Driver):
    """``sqlite3.connect``, and the connections of :class:`~sidearm.resources.sqlite.SQLite`."""

    def __init__(self, points: Points) -> None:
        super().__init__(points)
        self._local = threading.local()

    def install(self) -> None:
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


# -- psycopg


class _Psycopg(_Driver):
    """psycopg 3: its cursors, its connections, and its pool."""

    def __init__(self, points: Points) -> None:
        super().__init__(points)
        self._local = threading.local()

    def install(self) -> None:
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
        if _OF_SQLALCHEMY in vars(connection):
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


# -- redis-py


class _Redis(_Driver):
    """redis-py: each command, and each pipeline when it is executed."""

    def install(self) -> None:
        from redis import ConnectionError as RedisConnectionError
        from redis.client import Pipeline, Redis

        self._error: type[Exception] = RedisConnectionError
        self._points.replace(Redis, "execute_command", self._command)
        self._points.replace(Pipeline, "execute", self._pipeline)

    def _command(self, original: Callable[..., Any], client: Any, *args: Any, **named: Any) -> Any:
        self._come_by(str(args[0]).upper())
        return original(client, *args, **named)

    def _pipeline(
        self, original: Callable[..., Any], pipeline: Any, *args: Any, **named: Any
    ) -> Any:
        self._come_by("pipeline")
        return original(pipeline, *args, **named)

    def _come_by(self, command: str) -> None:
        trace = self._points.active
        if trace is None:
            return
        step, kind = trace.reach(f"redis: {command}", ("redis", command))
        step.in_driver = True
        if kind is not None:
            raise trace.make(kind, self._error)


# -- SQLAlchemy


class _SQLAlchemy(_Driver):
    """Every engine of the process, by SQLAlchemy's own events."""

    def install(self, stack: ExitStack) -> None:
        from sqlalchemy import event
        from sqlalchemy.engine import Connection, Engine

        points = self._points
        has_events = vars(Engine).get("_has_events", False)
        stack.callback(setattr, Engine, "_has_events", has_events)
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
            # What SQLAlchemy does by it is seen by SQLAlchemy's events.
            vars(connection.driver_connection)[_OF_SQLALCHEMY] = True
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

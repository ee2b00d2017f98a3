"""T7, T12 and T13 on PostgreSQL: psycopg's pool, SQLAlchemy's engine and session."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from flask import Flask, Response, stream_with_context
from needed import or_skip

from sidearm import Sidearm, after_commit, current_task
from sidearm.exceptions import TransactionAborted
from sidearm.testing import PostgresServer

psycopg = pytest.importorskip("psycopg", reason="pip install 'psycopg[binary]' psycopg-pool")
psycopg_pool = pytest.importorskip("psycopg_pool")
sqlalchemy = pytest.importorskip("sqlalchemy")
orm = pytest.importorskip("sqlalchemy.orm")


class Broken(Exception):
    """What is raised here."""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with or_skip(PostgresServer) as server:
        yield server


class CountingPool(psycopg_pool.ConnectionPool):  # type: ignore[misc]
    """The pool, counting what is out: its own figures count connections that are being made."""

    out = 0

    def getconn(self, timeout: float | None = None) -> Any:
        connection = super().getconn(timeout)
        self.out += 1
        return connection

    def putconn(self, connection: Any) -> None:
        self.out -= 1
        super().putconn(connection)


class Store:
    """A table, written through one kind of resource and read through none."""

    def __init__(self, server: PostgresServer, kind: str, arm: Sidearm) -> None:
        self.server = server
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("DROP TABLE IF EXISTS notes")
            connection.execute("CREATE TABLE notes (id serial PRIMARY KEY, text text UNIQUE)")
        self._close: Callable[[], None]
        if kind == "psycopg pool":
            pool = CountingPool(
                server.url, min_size=1, max_size=2, open=True, check=CountingPool.check_connection
            )
            self.get, self._close = arm.use(pool), pool.close
            self._out = lambda: pool.out
        else:
            url = server.url.replace("postgresql:", "postgresql+psycopg:")
            engine = sqlalchemy.create_engine(url, pool_size=2, max_overflow=0)
            used = engine if kind == "engine" else orm.sessionmaker(engine)
            self.get, self._close = arm.use(used), engine.dispose
            self._out = engine.pool.checkedout
        self._text = (lambda sql: sql) if kind == "psycopg pool" else sqlalchemy.text

    def write(self, text: str, connection: Any = None) -> None:
        sql = f"INSERT INTO notes (text) VALUES ('{text}')"
        (connection or self.get()).execute(self._text(sql))

    def saved(self) -> list[str]:
        with psycopg.connect(self.server.url) as connection:
            rows = connection.execute("SELECT text FROM notes ORDER BY id").fetchall()
        return [text for (text,) in rows]

    def out(self) -> int:
        return int(self._out())

    def close(self) -> None:
        self._close()


@pytest.fixture(params=["psycopg pool", "engine", "session"])
def store(request: pytest.FixtureRequest, server: PostgresServer, arm: Sidearm) -> Iterator[Store]:
    store = Store(server, request.param, arm)
    yield store
    store.close()


@pytest.fixture
def app(arm: Sidearm) -> Flask:
    app = Flask("testapp")
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.testing = True
    arm.init_app(app)
    return app


def test_t12_a_request_commits_or_rolls_back(store: Store, app: Flask) -> None:
    """Success, a handled status, an exception; nothing stays out of the pool."""

    @app.get("/<int:status>")
    def view(status: int) -> tuple[str, int]:
        store.write(str(status))
        if status == 501:
            raise Broken
        return "answered", status

    client = app.test_client()
    assert [client.get(f"/{status}").status_code for status in (200, 409, 501, 201)] == [
        200,
        409,
        500,
        201,
    ]
    assert store.saved() == ["200", "201"]
    assert store.out() == 0


def test_t12_a_statement_that_failed_ends_as_a_rollback(
    store: Store, app: Flask, arm: Sidearm
) -> None:
    """PostgreSQL takes nothing more in a failed transaction, and commits none of it."""
    with arm.task("first"):
        store.write("row")
    with pytest.raises((psycopg.Error, sqlalchemy.exc.DBAPIError)), arm.task("second"):
        store.write("other")
        store.write("row")
    assert store.saved() == ["row"]
    assert store.out() == 0


def test_t7_savepoints(store: Store, app: Flask, arm: Sidearm) -> None:
    """An error in one is undone, and the task goes on, which PostgreSQL allows only so."""
    ran: list[str] = []

    def write(text: str) -> None:
        after_commit(lambda: ran.append(text))
        store.write(text)

    with arm.task("work"):
        write("before")
        with pytest.raises((psycopg.Error, sqlalchemy.exc.DBAPIError)), current_task.savepoint():
            write("undone")
            write("before")  # is there
        with current_task.savepoint():
            write("kept")
        write("after")
    assert store.saved() == ran == ["before", "kept", "after"]
    assert store.out() == 0


def test_t7_a_savepoint_whose_transaction_was_ended_by_hand(
    store: Store, app: Flask, arm: Sidearm
) -> None:
    """A commit by hand ends the savepoint with its transaction; leaving the block is no error."""
    with app.app_context(), arm.task("import"):
        store.write("before")
        with current_task.savepoint():
            store.write("inside")
            store.get().commit()
        store.write("after")
    assert store.saved() == ["before", "inside", "after"]
    assert store.out() == 0


def test_dj_17_a_callback_writes_through_a_closure(store: Store, app: Flask, arm: Sidearm) -> None:
    """The driver is asked whether its connection is in a transaction: what it wrote is saved."""
    with app.app_context(), arm.task("import"):
        store.write("work")
        connection = store.get()
        after_commit(lambda: store.write("callback", connection))
    assert store.saved() == ["work", "callback"]
    assert store.out() == 0


def test_t6_a_body_that_streams(store: Store, app: Flask) -> None:
    """It has a connection while it is sent, and none afterwards."""

    @app.get("/")
    def view() -> Response:
        store.write("view")

        def body() -> Iterator[str]:
            store.write("body")
            yield str(store.out())

        return Response(stream_with_context(body()))

    assert app.test_client().get("/").text == "1"
    assert store.saved() == ["view", "body"]
    assert store.out() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the server's own processes are asked for")
def test_t3_a_connection_that_the_server_cut(
    store: Store, server: PostgresServer, app: Flask, arm: Sidearm
) -> None:
    """The commit fails and is told, the pool gets it back, and the next task works."""
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
    with pytest.raises(Exception, match=r"terminating|closed|lost"), arm.task("cut"):
        store.write("lost")
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(f"{cut} AND backend_type = 'client backend'")
    assert store.saved() == []
    assert store.out() == 0
    with arm.task("next"):
        store.write("saved")
    assert store.saved() == ["saved"]


@pytest.mark.parametrize("catches", ["in the view", "outside a savepoint"])
def test_t5_t7_a_swallowed_error_is_no_commit(store: Store, app: Flask, catches: str) -> None:
    """PostgreSQL answers COMMIT with ROLLBACK then, and no driver tells: so nobody hears of it."""
    left: list[str] = []

    def savepoint() -> Any:
        return current_task.savepoint() if catches == "outside a savepoint" else nullcontext()

    @app.post("/")
    def view() -> str:
        store.write("order")
        after_commit(lambda: left.append("mail"))
        try:
            with savepoint():
                store.write("order")
                # A session sends it only now.
                store.get().execute(store._text("SELECT 1"))
        except (psycopg.Error, sqlalchemy.exc.DBAPIError):
            pass
        return "saved"

    @app.errorhandler(TransactionAborted)
    def refused(error: TransactionAborted) -> tuple[str, int]:
        return str(error), 503

    answer = app.test_client().post("/")
    if catches == "in the view":
        assert answer.status_code == 503
        assert "cannot be committed" in answer.text
        assert (store.saved(), left) == ([], [])
    else:
        assert (answer.status_code, store.saved(), left) == (200, ["order"], ["mail"])
    assert store.out() == 0


def test_t5_a_commit_by_hand_of_what_postgresql_refuses_is_an_error(
    server: PostgresServer, arm: Sidearm, app: Flask
) -> None:
    """It answers COMMIT with ROLLBACK; the line that commits is told, and no callback runs."""
    store = Store(server, "session", arm)
    ran: list[str] = []
    with pytest.raises(TransactionAborted), app.app_context(), arm.task("work"):
        store.write("order")
        after_commit(lambda: ran.append("mail"))
        with pytest.raises(sqlalchemy.exc.DBAPIError):
            store.get().execute(sqlalchemy.text("SELECT nothing"))
        store.get().commit()
    assert (store.saved(), ran, store.out()) == ([], [], 0)
    store.close()

"""``sidearm_faults`` on PostgreSQL: psycopg's pool, SQLAlchemy's engine and session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
import pytest
import redis
import sqlalchemy
from needed import or_skip
from psycopg_pool import ConnectionPool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import sessionmaker

from sidearm import Sidearm, after_commit, current_task, publish
from sidearm.exceptions import FaultsFound
from sidearm.testing import Faults, PostgresServer, RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask

    from sidearm.testing import FaultRun

ERRORS = (psycopg.Error, DBAPIError)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with or_skip(PostgresServer) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE notes (text text)")
        yield server


class Notes:
    """A table, written through one kind of resource and read through none."""

    def __init__(self, server: PostgresServer, kind: str, commit: Any, arm: Sidearm) -> None:
        self._server = server
        self._text: Callable[[str], Any] = sqlalchemy.text
        self.close: Callable[[], None]
        if kind == "pool":
            pool = ConnectionPool(server.url, min_size=1, max_size=3, open=True)
            self.get, self.close, self._text = arm.use(pool, commit=commit), pool.close, str
        else:
            engine = sqlalchemy.create_engine(server.url.replace(":", "+psycopg:", 1))
            used = engine if kind == "engine" else sessionmaker(engine)
            self.get, self.close = arm.use(used, commit=commit), engine.dispose

    def write(self, text: str) -> None:
        self.get().execute(self._text(f"INSERT INTO notes VALUES ('{text}')"))

    def clear(self) -> None:
        with psycopg.connect(self._server.url) as connection:
            connection.execute("DELETE FROM notes")

    def saved(self) -> list[str]:
        with psycopg.connect(self._server.url) as connection:
            rows = connection.execute("SELECT text FROM notes ORDER BY text").fetchall()
        return [text for (text,) in rows]


@pytest.fixture(params=["pool", "engine", "session"])
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def notes(
    request: pytest.FixtureRequest, server: PostgresServer, kind: str, arm: Sidearm
) -> Iterator[Notes]:
    notes = Notes(server, kind, getattr(request, "param", "task"), arm)
    yield notes
    notes.close()


def test_a_sound_view_passes(app: Flask, notes: Notes) -> None:
    """Two statements, a savepoint, an event, a callback that writes: all of it or nothing."""

    @app.post("/")
    def view() -> str:
        notes.write("first")
        with current_task.savepoint():
            notes.write("second")
        publish("notes", 2)
        after_commit(lambda: notes.write("third"))
        return "written"

    def check(run: FaultRun) -> None:
        saved = notes.saved()
        assert saved[:2] == (["first", "second"] if run.committed else [])
        assert saved[2:] in ([], ["third"])

    client = app.test_client()
    report = Faults().run(lambda: client.post("/"), reset=notes.clear, check=check)
    assert report.notes == []
    assert notes.saved() == ["first", "second", "third"]
    names = [step.partition(": ")[2] for step in report.steps]
    assert names.count("INSERT INTO notes") == 3
    assert {"SAVEPOINT", "RELEASE"} <= set(names)


@pytest.mark.parametrize("notes", ["explicit"], indirect=True)
def test_it_finds_a_swallowed_error(app: Flask, notes: Notes, kind: str) -> None:
    """PostgreSQL answers COMMIT with ROLLBACK in a failed transaction, and no driver tells.

    Of a session Sidearm itself sees such a commit by hand, and refuses it.
    """

    @app.post("/")
    def view() -> str:
        notes.write("first")
        try:
            notes.write("second")
        except ERRORS:
            app.logger.warning("no second")
        notes.get().commit()
        return "written"

    client = app.test_client()
    if kind == "session":
        report = Faults().run(lambda: client.post("/"), reset=notes.clear)
        refused = [run for run in report.runs if "TransactionAborted" in run.log]
        assert [run.status for run in refused] == [500]
        return
    with pytest.raises(FaultsFound) as caught:
        Faults().run(lambda: client.post("/"), reset=notes.clear)
    [problem] = caught.value.report.problems
    assert "was told to commit a transaction that had failed: the database rolled it" in problem


@pytest.mark.parametrize("kind", ["pool"])
@pytest.mark.parametrize("notes", ["explicit"], indirect=True)
@pytest.mark.parametrize("way", ["block", "statement"])
def test_t13_psycopg_s_other_ways_to_commit_are_steps(app: Flask, notes: Notes, way: str) -> None:
    """``with connection.transaction():`` and ``COMMIT`` fail like ``commit()``."""

    @app.post("/")
    def view() -> str:
        if way == "block":
            with notes.get().transaction():
                notes.write("first")
        else:
            notes.write("first")
            notes.get().execute("COMMIT")
        return "written"

    def check(run: FaultRun) -> None:
        assert notes.saved() == (["first"] if run.status == 200 else [])

    client = app.test_client()
    report = Faults().run(lambda: client.post("/"), reset=notes.clear, check=check)
    assert "commit of connection by hand" in report.steps
    assert report.runs[0].outcomes == [("connection", "committed by hand")]


@pytest.mark.parametrize("notes", ["explicit"], indirect=True)
def test_t13_aa_commit_by_hand_is_a_step(app: Flask, notes: Notes) -> None:
    """It fails like any other; what comes after it can fail a request whose work is saved."""

    @app.post("/")
    def view() -> str:
        notes.write("first")
        notes.get().commit()
        return "written"

    @app.post("/page")
    def view_with_page() -> str:
        view()
        notes.get().execute(notes._text("SELECT text FROM notes"))
        return "written"

    client = app.test_client()
    report = Faults().run(lambda: client.post("/"), reset=notes.clear)
    by_hand = [run for run in report.runs if run.step.endswith("by hand")]
    assert [(run.status, run.fault) for run in by_hand] == [
        (500, "Exception"),
        (None, "BaseException"),
    ]
    with pytest.raises(FaultsFound, match="told of a failure"):
        Faults().run(lambda: client.post("/page"), reset=notes.clear)


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with or_skip(RedisServer) as server:
        yield server


@pytest.mark.parametrize("kind", ["pool"])
def test_h6_a_redis_that_fails_costs_no_commit(
    app: Flask, arm: Sidearm, notes: Notes, redis_server: RedisServer
) -> None:
    """What waited for the commit is lost with the server; a command in the view fails the view."""
    client_of_redis = redis.Redis(port=redis_server.port)
    waiting = arm.use(client_of_redis)

    @app.post("/")
    def view() -> str:
        waiting.get("left")
        notes.write("first")
        waiting.set("left", 4)
        return "written"

    def restore() -> None:
        notes.clear()
        client_of_redis.flushall()

    def check(run: FaultRun) -> None:
        assert notes.saved() == (["first"] if run.committed else [])
        assert client_of_redis.get("left") in ((b"4", None) if run.committed else (None,))

    client = app.test_client()
    report = Faults().run(lambda: client.post("/"), reset=restore, check=check)
    client_of_redis.close()
    answers = {run.step: run.status for run in report.runs if run.fault == "Exception"}
    assert (answers["redis: GET"], answers["redis: pipeline"]) == (500, 200)


@pytest.mark.parametrize("kind", ["pool", "engine"])
def test_it_finds_a_connection_that_is_not_given_back(
    app: Flask, server: PostgresServer, kind: str
) -> None:
    """Taken by hand, and given back only where all goes well: the pool itself is counted."""
    kept: list[Any] = []
    pool = ConnectionPool(server.url, min_size=1, max_size=9, open=True)
    engine = sqlalchemy.create_engine(server.url.replace(":", "+psycopg:", 1))

    @app.post("/")
    def view() -> str:
        if kind == "pool":
            kept.append(pool.getconn())
            kept[-1].execute("SELECT 1")
            pool.putconn(kept.pop())
        else:
            kept.append(engine.connect())
            kept[-1].execute(sqlalchemy.text("SELECT 1"))
            kept.pop().close()
        return "read"

    client = app.test_client()
    with pytest.raises(FaultsFound, match="misses 1 connection after the run"):
        Faults().run(lambda: client.post("/"))
    for connection in kept:
        if kind == "pool":
            pool.putconn(connection)
        else:
            connection.close()
    pool.close()
    engine.dispose()

"""Contracts T3 to T9 where nothing may be lost, or kept, without a word."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, abort, request_finished

from sidearm import Sidearm, TaskSettled, after_commit, after_response, current_task
from sidearm.resources.sqlite import SQLite
from sidearm.signals import release_failed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Broken(Exception):
    """What is raised here."""


@pytest.mark.parametrize("kind", ["generator", "pool", "engine"])
def test_t13_a_callback_saves_nothing_that_nobody_committed_on_a_raw_connection(
    app: Flask, make: Any, serve: Any, kind: str
) -> None:
    """A callback that has nothing to do with it is no commit by hand."""
    store = make(kind, "explicit")
    ran: list[str] = []

    def view() -> str:
        store.write("never committed")
        after_commit(lambda: ran.append("callback"))
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert store.saved() == []
    assert store.out() == 0


@pytest.mark.parametrize("how", ["execute", "executemany", "cursor.execute", "cursor.executemany"])
def test_t5_whatever_lets_sqlite_roll_back_is_seen(
    handled: Flask, make: Any, serve: Any, how: str
) -> None:
    """A statement that takes everything with it is no commit, by each method that sends one."""
    store = make("sqlite3")
    ran: list[str] = []

    def view() -> str:
        store.write("order")
        after_commit(lambda: ran.append("mail"))
        database = store.connection()
        (number,) = database.execute("SELECT max(id) FROM notes").fetchone()
        target = database.cursor() if how.startswith("cursor") else database
        parameters: Any = (number,)
        if how.endswith("many"):
            parameters = [parameters]
        try:
            sql = "INSERT OR ROLLBACK INTO notes VALUES (?, 'twice')"
            getattr(target, how.rpartition(".")[2])(sql, parameters)
        except sqlite3.IntegrityError:
            pass
        return "saved"

    serve(view)
    assert handled.test_client().get("/").status_code == 500
    assert (store.saved(), ran, store.out()) == ([], [], 0)


def test_t13_a_script_of_a_cursor_begins_with_a_commit(
    app: Flask, arm: Sidearm, tmp_path: Path
) -> None:
    """As the connection's own does."""
    get = arm.use(SQLite(tmp_path / "script.db"))
    ran: list[str] = []
    with pytest.raises(Broken), app.app_context():
        get().execute("CREATE TABLE t (x)")
        get().execute("INSERT INTO t VALUES (1)")
        after_commit(lambda: ran.append("callback"))
        get().cursor().executescript("CREATE TABLE u (x)")
        assert ran == ["callback"]
        raise Broken


def test_t13_a_session_that_had_begun_before_it_was_claimed_is_followed(
    app: Flask, arm: Sidearm, make: Any, serve: Any
) -> None:
    """A resource may prepare its session before it gives it."""
    from sqlalchemy import text
    from sqlalchemy.orm import Session

    store = make("session")
    ran: list[str] = []

    @arm.resource(commit="explicit")
    def get_session() -> Iterator[Session]:
        with Session(store.engine) as session:
            session.execute(text("SELECT 1"))
            yield session

    def view() -> str:
        get_session().execute(text("INSERT INTO notes (text) VALUES ('never committed')"))
        after_commit(lambda: ran.append("callback"))
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert (store.saved(), ran) == ([], [])


@pytest.mark.parametrize("claims", [True, False])
@pytest.mark.parametrize("where", ["request_finished", "teardown_request"])
def test_t8_after_response_that_is_registered_after_the_settling_runs(
    app: Flask, serve: Any, where: str, claims: bool
) -> None:
    """Whether the view registered something too or not."""
    ran: list[str] = []

    def view() -> str:
        if claims:
            after_response(lambda: ran.append("of the view"))
        return "ok"

    def late(*_: Any, **__: Any) -> None:
        after_response(lambda: ran.append("late"))

    serve(view)
    if where == "teardown_request":
        app.teardown_request(late)
        app.test_client().get("/", buffered=True)
    else:
        with request_finished.connected_to(late, app):
            app.test_client().get("/", buffered=True)
    assert sorted(ran) == (["late", "of the view"] if claims else ["late"])


@pytest.mark.parametrize("claims", [True, False])
@pytest.mark.parametrize("status", [200, 409])
def test_t4_a_teardown_of_the_application_context_follows_its_request(
    app: Flask, ledger: Any, serve: Any, status: int, claims: bool
) -> None:
    """What it claims commits if the request did."""
    thing, late = ledger.resource("thing"), ledger.resource("late")
    app.teardown_appcontext(lambda _: late() and None)

    def view() -> str:
        if claims:
            thing()
        if status != 200:
            abort(status)
        return "ok"

    serve(view)
    assert app.test_client().get("/").status_code == status
    end = "commit late" if status == 200 else "rollback late"
    assert ledger.lines[-3:] == ["claim late", end, "release late"]


def test_t7_a_savepoint_that_cannot_be_undone_in_a_callback_is_not_saved(
    app: Flask, arm: Sidearm
) -> None:
    """The errors are told as they are, and the callback's round is rolled back."""
    lines: list[str] = []

    class Connection:
        def cursor(self) -> Connection:
            return self

        def close(self) -> None: ...

        def execute(self, statement: str) -> None:
            lines.append(statement.split(maxsplit=1)[0])
            if statement.startswith("ROLLBACK TO"):
                raise OSError("the cable is cut")

        def commit(self) -> None:
            lines.append("commit")

        def rollback(self) -> None:
            lines.append("rollback")

    @arm.resource
    def get_connection() -> Iterator[Connection]:
        yield Connection()

    def callback() -> None:
        get_connection()
        try:
            with current_task.savepoint():
                raise Broken
        except Exception as error:  # noqa: BLE001 - what it is, is looked at
            lines.append(type(error).__name__)

    with app.app_context(), arm.task("work"):
        after_commit(callback)
    assert lines == ["SAVEPOINT", "ROLLBACK", "ExceptionGroup", "rollback"]


def test_t1_a_command_that_is_invoked_in_a_block_is_a_task_of_its_own(
    app: Flask, arm: Sidearm, ledger: Any
) -> None:
    """Its exit status decides about it, and the block goes on."""
    thing = ledger.resource("thing")

    @app.cli.command("bad")
    def bad() -> None:
        thing()
        raise SystemExit(3)

    with app.app_context(), arm.task("outer"):
        thing()
        assert app.test_cli_runner().invoke(args=["bad"]).exit_code == 3
        assert ledger.lines == ["claim thing", "claim thing", "rollback thing", "release thing"]
    assert ledger.lines[4:] == ["commit thing", "release thing"]


def test_t3_a_receiver_that_ends_the_process_skips_no_release(
    app: Flask, arm: Sidearm, ledger: Any
) -> None:
    """Everything is given back, and then it is raised."""
    first = ledger.resource("first")
    second = ledger.resource("second", release=OSError("gone"))

    def receive(*_: Any, **__: Any) -> None:
        raise SystemExit(1)

    with (
        release_failed.connected_to(receive, app),
        pytest.raises(SystemExit),
        app.app_context(),
        arm.task("work"),
    ):
        first()
        second()
    assert ledger.of("release") == ["release second", "release first"]


def test_t9_nothing_can_be_said_of_a_task_in_a_round_after_it(app: Flask, serve: Any) -> None:
    """``doom()`` and ``keep()`` are about the request, which is decided."""
    errors: list[BaseException] = []

    def late(_: Any) -> None:
        for say in (current_task.doom, current_task.keep):
            try:
                say()
            except TaskSettled as error:
                errors.append(error)

    serve(lambda: "ok", endpoint="view")
    app.teardown_request(late)
    app.test_client().get("/")
    assert len(errors) == 2

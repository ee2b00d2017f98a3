"""Contract T13: who commits, and to which transaction callbacks and events belong."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.exc import IntegrityError, PendingRollbackError

from sidearm import Sidearm, after_commit, after_rollback, current_task, publish
from sidearm.exceptions import TaskDoomed
from sidearm.resources.sqlite import SQLite
from sidearm.signals import held_dropped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask


class Broken(Exception):
    """What views raise here."""


# -- C6


@pytest.mark.parametrize("commit", ["task", "explicit"])
def test_c6_event_of_an_explicit_commit_leaves(
    handled: Flask, make: Any, serve: Any, captured: Any, commit: str
) -> None:
    """``add``, ``publish``, ``commit()``, then ``1/0``: the order is kept, the event left, once."""
    store = make("flask-sqlalchemy", commit)
    ran = []

    def view() -> None:
        store.db.session.add(store.Note(text="order"))
        publish("orders", {"id": 1})
        after_commit(lambda: ran.append("callback"))
        store.db.session.commit()
        _ = 1 / 0

    serve(view)
    assert handled.test_client().get("/").status_code == 500
    assert store.saved() == ["order"]
    assert [event.data for event in captured.events] == [{"id": 1}]
    assert ran == ["callback"]
    assert store.out() == 0


@pytest.mark.parametrize("commit", ["task", "explicit"])
def test_c6_event_of_an_explicit_rollback_is_dropped(
    app: Flask, make: Any, serve: Any, captured: Any, commit: str
) -> None:
    """``add``, ``publish``, ``rollback()``, then ``return "ok"``: no event, no callback."""
    store = make("flask-sqlalchemy", commit)
    ran = []

    def view() -> str:
        store.db.session.add(store.Note(text="order"))
        publish("orders", {"id": 1})
        after_commit(lambda: ran.append("callback"))
        store.db.session.rollback()
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert store.saved() == []
    assert captured.events == []
    assert ran == []


@pytest.mark.parametrize("commit", ["task", "explicit"])
@pytest.mark.parametrize("read_first", [True, False])
def test_c6_event_published_after_the_commit_leaves(
    app: Flask, make: Any, serve: Any, captured: Any, commit: str, read_first: bool
) -> None:
    """``publish`` after the commit, a read and no write after it: it leaves."""
    store = make("flask-sqlalchemy", commit)

    def view() -> str:
        order = store.Note(text="order")
        store.db.session.add(order)
        store.db.session.commit()
        if read_first:
            assert order.id == 1
        publish("orders", {"id": 1})
        assert order.text == "order"
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert store.saved() == ["order"]
    assert [event.data for event in captured.events] == [{"id": 1}]


# -- explicit: the application commits, and nothing changes for it


def test_t13_flask_sqlalchemy_commits_nothing_by_itself(
    app: Flask, arm: Sidearm, tmp_path: Path, make: Any, serve: Any
) -> None:
    """By default its users go on committing by hand: what they did not commit is not saved."""
    store = make("flask-sqlalchemy", None)

    def view() -> str:
        store.write("committed")
        store.commit()
        store.write("not committed")
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert store.saved() == ["committed"]
    assert store.out() == 0


def test_t13_explicit_commits_nothing_by_itself(app: Flask, explicit: Any, serve: Any) -> None:
    """So for every resource with ``commit="explicit"``, whatever the outcome."""

    def view() -> str:
        explicit.write("committed")
        explicit.commit()
        explicit.write("not committed")
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert explicit.saved() == ["committed"]
    assert explicit.out() == 0


def test_t13_what_was_committed_by_hand_stays(handled: Flask, explicit: Any, serve: Any) -> None:
    """A task that fails later cannot undo what the application committed; the rest rolls back."""

    def view() -> None:
        explicit.write("first")
        explicit.commit()
        explicit.write("second")
        raise Broken

    serve(view)
    assert handled.test_client().get("/").status_code == 500
    assert explicit.saved() == ["first"]
    assert explicit.out() == 0


def test_t13_callbacks_leave_with_each_commit(app: Flask, arm: Sidearm, explicit: Any) -> None:
    """An explicit commit lets what was registered before it leave, at once; see the row there."""
    seen = []
    with arm.task("import"):
        for text in ("one", "two"):
            explicit.write(text)
            explicit.rows()
            after_commit(lambda: seen.append(explicit.saved()))
            explicit.commit()
            assert seen[-1][-1] == text
    assert seen == [["one"], ["one", "two"]]
    assert explicit.out() == 0


def test_t13_a_rollback_drops_only_what_belongs_to_it(
    app: Flask, arm: Sidearm, explicit: Any
) -> None:
    """An explicit rollback drops what was registered in its transaction, and nothing else."""
    ran = []
    with arm.task("import"):
        explicit.write("one")
        after_commit(lambda: ran.append("one"))
        explicit.commit()
        explicit.write("two")
        explicit.rows()
        after_commit(lambda: ran.append("two"))
        after_rollback(lambda: ran.append("two rolled back"))
        explicit.rollback()
        explicit.write("three")
        after_commit(lambda: ran.append("three"))
        explicit.commit()
    assert ran == ["one", "two rolled back", "three"]
    assert explicit.saved() == ["one", "three"]


def test_t13_after_rollback_does_not_run_after_a_commit_by_hand(
    handled: Flask, explicit: Any, serve: Any
) -> None:
    """Its transaction was committed: it does not run, although the task fails later."""
    ran = []

    def view() -> None:
        explicit.write("row")
        after_rollback(lambda: ran.append("rollback"))
        explicit.commit()
        raise Broken

    serve(view)
    handled.test_client().get("/")
    assert explicit.saved() == ["row"]
    assert ran == []


def test_t13_what_was_registered_after_the_commit_falls_with_the_task(
    handled: Flask, explicit: Any, serve: Any, captured: Any
) -> None:
    """Registered in no open transaction, it belongs to the task: a failure drops it."""
    ran = []

    def view() -> None:
        explicit.write("row")
        explicit.commit()
        after_commit(lambda: ran.append("late"))
        publish("orders", 1)
        raise Broken

    serve(view)
    handled.test_client().get("/")
    assert explicit.saved() == ["row"]
    assert ran == []
    assert captured.events == []


def test_t13_what_was_never_committed_is_dropped_and_named(
    app: Flask, explicit: Any, serve: Any, captured: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A good task whose transaction wrote and was never committed: dropped, logged, signalled."""
    caplog.set_level(logging.INFO)
    ran = []
    signalled: list[str] = []

    def send_the_receipt() -> None:
        ran.append("receipt")

    def view() -> str:
        explicit.write("forgotten")
        explicit.rows()
        after_commit(send_the_receipt)
        publish("orders", {"id": 1})
        return "ok"

    def receive(_: Any, calls: Any, **__: Any) -> None:
        signalled.append(str(calls))

    serve(view)
    with held_dropped.connected_to(receive, app):
        assert app.test_client().get("/").text == "ok"
    assert (explicit.saved(), ran, captured.events) == ([], [], [])
    told = " ".join(signalled)
    assert "send_the_receipt" in told
    assert "publish('orders')" in told
    warnings = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert any("send_the_receipt" in line for line in warnings)
    assert any("publish('orders')" in line for line in warnings)
    assert explicit.out() == 0


def test_t13_an_unflushed_change_counts_as_written(
    app: Flask, make: Any, arm: Sidearm, captured: Any
) -> None:
    """``add()`` without flush or commit is lost work, and takes its event with it."""
    store = make("flask-sqlalchemy", "explicit")
    with arm.task("work"):
        store.db.session.add(store.Note(text="forgotten"))
        publish("orders", 1)
    assert (store.saved(), captured.events) == ([], [])


@pytest.mark.parametrize("order", ["publish first", "write first"])
def test_t13_the_order_of_writing_and_publishing_does_not_matter(
    app: Flask, explicit: Any, arm: Sidearm, captured: Any, order: str
) -> None:
    """Published before the first write of the transaction that is never committed: see below.

    With a transaction open (a read began it) the event belongs to it, and falls with it. SQLite's
    own driver begins none for a read: what is registered then belongs to no transaction.
    """
    with arm.task("work"):
        if order == "publish first":
            explicit.rows()
            publish("orders", 1)
            explicit.write("forgotten")
        else:
            explicit.write("forgotten")
            explicit.rows()
            publish("orders", 1)
    assert explicit.saved() == []
    if order == "write first" or type(explicit).__name__ != "SQLiteStore":
        assert captured.events == []


def test_t13_a_task_that_only_read_lets_everything_leave(
    app: Flask, explicit: Any, serve: Any, captured: Any
) -> None:
    """A transaction that wrote nothing is nothing that could be lost."""
    ran = []

    def view() -> str:
        explicit.rows()
        publish("seen", 1)
        after_commit(lambda: ran.append("callback"))
        explicit.rows()
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert [event.channel for event in captured.events] == ["seen"]
    assert ran == ["callback"]


@pytest.mark.parametrize(
    ("statement", "writes"),
    [
        ("SELECT text FROM notes", False),
        ("  select count(*) from notes", False),
        ("WITH all_of AS (SELECT text FROM notes) SELECT count(*) FROM all_of", False),
        ("PRAGMA user_version", False),
        ("INSERT INTO notes (text) VALUES ('text()')", True),
        ("UPDATE notes SET text = 'x'", True),
        ("DELETE FROM notes", True),
        ("-- a comment\nUPDATE notes SET text = 'x'", True),
        ("INSERT INTO notes (text) VALUES ('text()') RETURNING id", True),
    ],
)
def test_t13_textual_sql_tells_what_it_is(
    app: Flask, arm: Sidearm, make: Any, captured: Any, statement: str, writes: bool
) -> None:
    """A statement by ``text()`` that returns no rows is a write; a read is none."""
    from sqlalchemy import text

    store = make("session", "explicit")
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("INSERT INTO notes (text) VALUES ('there')")
    with arm.task("work"):
        store.connection().execute(text(statement))
        publish("orders", 1)
    assert store.saved() == ["there"]
    assert len(captured.events) == (0 if writes else 1)


def test_t13_core_statements_are_writes(app: Flask, arm: Sidearm, make: Any, captured: Any) -> None:
    """Core's ``insert()``, which no flush sees, is a write."""
    from sqlalchemy import insert

    store = make("flask-sqlalchemy", "explicit")
    with arm.task("work"):
        store.db.session.execute(insert(store.Note).values(text="core"))
        publish("orders", 1)
    assert (store.saved(), captured.events) == ([], [])


def test_t13_a_closed_session_drops_what_it_had_written(
    app: Flask, arm: Sidearm, make: Any, captured: Any
) -> None:
    """``close()``, which neither commits nor rolls back, loses the work and so its events."""
    store = make("session", "explicit")
    with arm.task("work"):
        store.write("lost")
        store.rows()
        publish("orders", 1)
        store.connection().close()
    assert (store.saved(), captured.events) == ([], [])
    assert store.out() == 0


# -- several resources


@pytest.mark.parametrize("other_commits", [True, False])
def test_t13_a_commit_by_hand_waits_for_another_open_transaction(
    app: Flask, arm: Sidearm, make: Any, other_commits: bool
) -> None:
    """What belongs to two open transactions leaves with the second commit, or with neither."""
    one, two = make("session", "explicit"), make("sqlite3", "explicit")
    ran = []
    with arm.task("both"):
        one.write("one")
        one.rows()
        two.write("two")
        after_commit(lambda: ran.append("callback"))
        one.commit()
        assert ran == []
        if other_commits:
            two.commit()
            assert ran == ["callback"]
        else:
            two.rollback()
    assert ran == (["callback"] if other_commits else [])
    assert (one.saved(), two.saved()) == (["one"], ["two"] if other_commits else [])


def test_t13_with_a_task_resource_beside_it_callbacks_wait_for_the_task(
    handled: Flask, make: Any, serve: Any
) -> None:
    """A commit by hand beside an open resource that the task commits lets nothing leave yet."""
    by_hand, by_task = make("session", "explicit"), make("generator")
    ran = []
    errors = [Broken()]

    def view() -> str:
        by_task.write("by task")
        by_hand.write("by hand")
        by_hand.rows()
        after_commit(lambda: ran.append("callback"))
        by_hand.commit()
        assert ran == []
        if errors:
            raise errors.pop()
        return "ok"

    serve(view)
    client = handled.test_client()
    assert client.get("/").status_code == 500
    assert (ran, by_task.saved(), by_hand.saved()) == ([], [], ["by hand"])
    assert client.get("/").status_code == 200
    assert (ran, by_task.saved()) == (["callback"], ["by task"])


# -- commits by hand under commit="task"


def test_t13_under_task_mode_a_commit_by_hand_is_followed_too(
    app: Flask, arm: Sidearm, make: Any
) -> None:
    """Where the driver tells, a commit by hand lets callbacks leave; the task commits the rest."""
    for kind in ("sqlite3", "session", "flask-sqlalchemy"):
        store = make(kind)
        ran: list[str] = []
        with arm.task("work"):
            store.write("one")
            store.rows()
            after_commit(lambda ran=ran: ran.append("one"))  # type: ignore[misc]
            store.commit()
            assert ran == ["one"]
            store.write("two")
            store.rows()
            after_commit(lambda ran=ran: ran.append("two"))  # type: ignore[misc]
        assert ran == ["one", "two"]
        assert store.saved() == ["one", "two"]
        assert store.out() == 0


def test_t13_a_raw_connection_follows_the_task(handled: Flask, notes: Any, serve: Any) -> None:
    """A raw connection tells nothing: its task's outcome decides, whatever it did by hand."""
    ran = []
    errors = [Broken()]

    def view() -> str:
        notes.write("row")
        after_commit(lambda: ran.append("callback"))
        notes.commit()
        assert ran == []
        if errors:
            raise errors.pop()
        return "ok"

    serve(view)
    client = handled.test_client()
    client.get("/")
    assert (ran, notes.saved()) == ([], ["row"])
    client.get("/")
    assert (ran, notes.saved()) == (["callback"], ["row", "row"])


# -- what runs at a commit by hand


def test_t13_a_callback_at_a_commit_by_hand_can_query_and_write(
    app: Flask, explicit: Any, arm: Sidearm
) -> None:
    """It reads, and what it writes and commits is saved; the view goes on."""
    seen = []

    def callback() -> None:
        seen.extend(explicit.rows())
        explicit.write("audit")
        explicit.commit()

    with arm.task("work"):
        explicit.write("order")
        explicit.rows()
        after_commit(callback)
        explicit.commit()
        explicit.write("more")
        explicit.commit()
    assert seen == ["order"]
    assert explicit.saved() == ["order", "audit", "more"]
    assert explicit.out() == 0


def test_t13_a_callback_that_raises_at_a_commit_by_hand_is_isolated(
    app: Flask, explicit: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The view's own ``commit()`` returns as ever; the error is logged, the rest runs."""
    ran = []

    def failing() -> None:
        raise Broken("of the callback")

    def view() -> str:
        explicit.write("row")
        explicit.rows()
        after_commit(failing)
        after_commit(lambda: ran.append("rest"))
        explicit.commit()
        ran.append("view")
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert ran == ["rest", "view"]
    assert "of the callback" in caplog.text
    assert explicit.saved() == ["row"]


def test_t13_objects_can_be_read_in_a_callback_at_a_commit_by_hand(
    app: Flask, make: Any, arm: Sidearm
) -> None:
    """Reading an expired attribute in the callback works, and the view's session goes on."""
    store = make("flask-sqlalchemy", "explicit")
    db = store.db
    seen = []
    with arm.task("work"):
        order = store.Note(text="order")
        db.session.add(order)
        after_commit(lambda: seen.append((order.id, order.text)))
        db.session.commit()
        order.text = "changed"
        db.session.commit()
    assert seen == [(1, "order")]
    assert store.saved() == ["changed"]


def test_t13_a_failed_commit_by_hand_drops_what_waited(
    handled: Flask, make: Any, serve: Any, captured: Any
) -> None:
    """A commit by hand that fails is a rollback, also where the view goes on after it."""
    from sqlalchemy.exc import IntegrityError

    store = make("flask-sqlalchemy", "explicit")
    db = store.db
    ran = []

    def view() -> str:
        db.session.add(store.Note(text=None))
        publish("orders", "never saved")
        after_commit(lambda: ran.append("never"))
        try:
            db.session.commit()
        except IntegrityError:
            db.session.rollback()
        db.session.add(store.Note(text="second try"))
        publish("orders", "saved")
        db.session.commit()
        return "ok"

    serve(view)
    assert handled.test_client().get("/").text == "ok"
    assert store.saved() == ["second try"]
    assert [event.data for event in captured.events] == ["saved"]
    assert ran == []


def test_t13_a_savepoint_that_ends_is_no_commit(
    app: Flask, make: Any, arm: Sidearm, captured: Any
) -> None:
    """``begin_nested()`` that is released lets nothing leave; the outer commit does."""
    store = make("flask-sqlalchemy", "explicit")
    db = store.db
    with arm.task("work"):
        with db.session.begin_nested():
            db.session.add(store.Note(text="inside"))
            publish("orders", 1)
        assert captured.events == []
        db.session.commit()
        assert len(captured.events) == 1


def test_t13_sqlite_with_the_connections_own_context_manager(
    app: Flask, tmp_path: Path, arm: Sidearm
) -> None:
    """``with connection:`` commits or rolls back by hand, and is followed."""
    path = tmp_path / "with.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    get_db = arm.use(SQLite(path, commit="explicit"))
    ran = []
    with arm.task("work"):
        with get_db() as connection:
            connection.execute("INSERT INTO notes VALUES ('one')")
            after_commit(lambda: ran.append("one"))
        assert ran == ["one"]
        with pytest.raises(Broken), get_db() as connection:
            connection.execute("INSERT INTO notes VALUES ('two')")
            after_commit(lambda: ran.append("two"))
            raise Broken
    assert ran == ["one"]


@pytest.mark.parametrize("statement", ["COMMIT", "commit", "END", "ROLLBACK"])
def test_t13_sqlite_by_a_statement(app: Flask, arm: Sidearm, make: Any, statement: str) -> None:
    """A transaction that is ended by a statement is committed or not as the statement says."""
    store = make("sqlite3", "explicit")
    ran = []
    with arm.task("work"):
        store.write("row")
        after_commit(lambda: ran.append("callback"))
        store.connection().execute(statement)
    if statement == "ROLLBACK":
        assert (store.saved(), ran) == ([], [])
    else:
        assert (store.saved(), ran) == (["row"], ["callback"])


def test_t13_sqlite_by_a_script(app: Flask, arm: Sidearm, make: Any) -> None:
    """``executescript()`` commits what is open before it begins (the driver's own rule)."""
    store = make("sqlite3", "explicit")
    ran = []
    with arm.task("work"):
        store.write("row")
        after_commit(lambda: ran.append("callback"))
        store.connection().executescript("CREATE TABLE other (text TEXT);")
    assert (store.saved(), ran) == (["row"], ["callback"])


@pytest.mark.parametrize("through", ["connection", "cursor"])
def test_t13_sqlite_with_transactions_begun_by_hand(
    app: Flask, arm: Sidearm, tmp_path: Path, through: str
) -> None:
    """``isolation_level=None`` with ``BEGIN`` and ``COMMIT`` by hand, as savepoints need it."""
    path = tmp_path / "by-hand.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    get_db = arm.use(SQLite(path, commit="explicit", isolation_level=None))
    ran: list[str] = []
    with pytest.raises(Broken), arm.task("work"):
        execute = get_db().execute if through == "connection" else get_db().cursor().execute
        for text, end in (("one", "COMMIT"), ("two", "ROLLBACK"), ("three", "COMMIT")):
            execute("BEGIN")
            execute("INSERT INTO notes VALUES (?)", (text,))
            after_commit(lambda text=text: ran.append(text))  # type: ignore[misc]
            execute(end)
        raise Broken
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT text FROM notes").fetchall() == [("one",), ("three",)]
    assert ran == ["one", "three"]


def test_t13_what_is_dropped_is_named_with_its_place(
    app: Flask, arm: Sidearm, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The log line of a dropped callback or event says where in the code it was registered."""
    store = make("sqlite3", "explicit")
    with arm.task("work"):
        store.write("forgotten")
        after_commit(print)
        publish("orders", 1)
    lines = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    for call in ("after_commit(", "publish('orders')"):
        (line,) = [each for each in lines if call in each]
        assert Path(__file__).name in line


# -- declaring


def test_t13_commit_is_one_of_two(arm: Sidearm) -> None:
    """Anything but the two modes is refused by value."""
    with pytest.raises(ValueError, match="'never'"):
        arm.resource(commit="never")(generator)  # type: ignore[arg-type, call-overload]
    with pytest.raises(ValueError, match="'never'"):
        arm.use(SQLite(":memory:"), commit="never")  # type: ignore[arg-type]


def generator() -> Iterator[None]:
    """A resource of nothing."""
    yield


def test_t12_flask_sqlalchemy_keeps_its_own_scope_and_removal(
    app: Flask, make: Any, serve: Any
) -> None:
    """Sidearm only settles it: the session is the application's own, removed by its owner."""
    store = make("flask-sqlalchemy", "task")
    sessions = []

    def view() -> str:
        store.write("row")
        sessions.append(store.db.session())
        return "ok"

    serve(view)
    app.test_client().get("/"), app.test_client().get("/")
    assert sessions[0] is not sessions[1]
    assert not list(sessions[0])
    assert store.saved() == ["row", "row"]


def test_t12_a_scoped_session_is_settled_and_removed(
    app: Flask, arm: Sidearm, tmp_path: Path, make: Any, serve: Any
) -> None:
    """SQLAlchemy's ``scoped_session``, used as before, settles with the task and is removed."""
    from sqlalchemy.orm import scoped_session, sessionmaker

    store = make("session")
    registry = scoped_session(sessionmaker(store.engine))
    assert arm.use(registry) is registry
    ran = []
    outcomes: list[Callable[[], Any]] = [lambda: "ok", lambda: ("no", 409)]

    def view() -> Any:
        registry.add(store.Note(text=f"row {len(outcomes)}"))
        after_commit(lambda: ran.append("callback"))
        return outcomes.pop(0)()

    serve(view)
    client = app.test_client()
    assert client.get("/").status_code == 200
    assert client.get("/").status_code == 409
    assert store.saved() == ["row 2"]
    assert ran == ["callback"]
    assert not registry.registry.has()
    assert store.out() == 0


def test_t12_a_sessionmaker_gives_one_session_for_each_task(
    app: Flask, arm: Sidearm, make: Any
) -> None:
    """The same session within a task, a new one in the next, closed in between."""
    store = make("session")
    with arm.task("one"):
        first = store.connection()
        assert store.connection() is first
        store.write("row")
    with arm.task("two"):
        assert store.connection() is not first
    assert not first.in_transaction()
    assert store.saved() == ["row"]


def test_t12_sqlite_takes_its_path_from_the_application(
    app: Flask, arm: Sidearm, tmp_path: Path
) -> None:
    """``SQLite`` may be given a function, which reads ``current_app.config`` in the task."""
    from flask import current_app

    app.config["DATABASE"] = tmp_path / "configured.db"
    get_db = arm.use(SQLite(lambda: current_app.config["DATABASE"]))
    with arm.task("work"):
        get_db().execute("CREATE TABLE notes (text TEXT)")
    assert (tmp_path / "configured.db").exists()


def test_t12_a_generator_may_yield_a_session(
    app: Flask, arm: Sidearm, make: Any, captured: Any
) -> None:
    """A generator that yields a SQLAlchemy session is followed like ``arm.use(sessionmaker)``."""
    from sqlalchemy.orm import Session

    store = make("session")

    @arm.resource(commit="explicit")
    def get_session() -> Iterator[Session]:
        with Session(store.engine) as session:
            yield session

    with arm.task("work"):
        get_session().add(store.Note(text="kept"))
        publish("orders", 1)
        get_session().commit()
        assert len(captured.events) == 1
        get_session().add(store.Note(text="forgotten"))
        publish("orders", 2)
    assert store.saved() == ["kept"]
    assert len(captured.events) == 1
    assert store.out() == 0


def test_t13_a_callbacks_commit_saves_nothing_that_nobody_committed(
    explicit: Any, arm: Any
) -> None:
    """A callback of no transaction writes, and the task's own forgotten write stays lost."""
    with arm.task("work"):
        after_commit(lambda: explicit.write("of the callback"))
        explicit.write("forgotten")
    assert explicit.saved() == ["of the callback"]


@pytest.mark.parametrize("commit", ["task", "explicit"])
def test_tx_04_a_commit_by_hand_in_a_doomed_task_is_refused(
    app: Flask, make: Any, serve: Any, commit: str
) -> None:
    """It says why, and nothing is committed; what runs after the rollback may commit again."""
    store = make("flask-sqlalchemy", commit)

    def audit() -> None:
        store.write("what happened")
        store.db.session.commit()

    def view() -> str:
        store.write("work")
        after_rollback(audit)
        current_task.doom("sold out")
        with pytest.raises(TaskDoomed, match=r"db\.session .* 'view' is to fail .sold out"):
            store.db.session.commit()
        return "ok"

    serve(view)
    assert app.test_client().get("/").status_code == 200
    assert store.saved() == ["what happened"]
    assert store.out() == 0


@pytest.mark.parametrize(
    "end",
    [
        lambda connection: connection.commit(),
        lambda connection: connection.execute(" commit"),
        lambda connection: connection.cursor().execute("END"),
        lambda connection: connection.executescript("SELECT 1"),
        lambda connection: connection.cursor().executescript("SELECT 1"),
        lambda connection: connection.__exit__(None, None, None),
    ],
    ids=["method", "statement", "cursor", "script", "cursor's script", "block"],
)
def test_tx_04_every_way_to_commit_a_connection_of_sqlite3(
    app: Flask, make: Any, serve: Any, end: Any
) -> None:
    """Python's module has several."""
    store = make("sqlite3", "explicit")

    def view() -> str:
        store.write("work")
        current_task.doom("sold out")
        with pytest.raises(TaskDoomed):
            end(store.connection())
        return "ok"

    serve(view)
    assert app.test_client().get("/").status_code == 200
    assert store.saved() == []
    assert store.out() == 0


def test_tx_06_work_after_a_commit_by_hand_that_failed_is_refused(
    handled: Flask, make: Any, serve: Any
) -> None:
    """With the first error shown; swallowing that one does not make a success of it."""
    store = make("flask-sqlalchemy", "task")
    session = store.db.session

    def view() -> str:
        session.add_all([store.Note(id=7, text="one"), store.Note(id=7, text="another")])
        with pytest.raises(IntegrityError):
            session.commit()
        with pytest.raises(PendingRollbackError, match="UNIQUE constraint failed"):
            store.rows()
        return "ok"

    serve(view)
    assert handled.test_client().get("/").status_code == 500
    assert store.saved() == []
    assert store.out() == 0

"""Contract T7's savepoints: a part of a task that is undone alone, with what it registered."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask

from sidearm import Sidearm, after_commit, after_rollback, current_task, publish
from sidearm.exceptions import NoSavepoint, TaskSettled
from sidearm.testing import capture

if TYPE_CHECKING:
    from collections.abc import Callable

KINDS = ["generator", "pool", "engine", "sqlite3", "session", "flask-sqlalchemy"]
TOLD = ["sqlite3", "session", "flask-sqlalchemy"]


class Broken(Exception):
    """What leaves blocks here."""


class Work:
    """A table, and callbacks that tell the name of the row that they were registered with."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.ran: list[str] = []

    def write(self, name: str) -> None:
        self.store.write(name)
        after_commit(lambda: self.ran.append(name))

    def undone(self, name: str) -> None:
        """Write a row in a savepoint that is rolled back."""
        with pytest.raises(Broken), current_task.savepoint():
            self.write(name)
            raise Broken

    def kept(self, name: str) -> None:
        """Write a row in a savepoint that is kept."""
        with current_task.savepoint():
            self.write(name)


@pytest.fixture(params=KINDS)
def work(request: pytest.FixtureRequest, make: Any) -> Work:
    return Work(make(request.param, "task"))


@pytest.fixture
def run(arm: Sidearm, app: Flask) -> Callable[[Callable[[], None]], None]:
    """Run a function as a task."""

    def run(function: Callable[[], None]) -> None:
        with arm.task("work"):
            function()

    return run


def check(work: Work, names: list[str]) -> None:
    assert work.store.saved() == names
    assert work.ran == names
    assert work.store.out() == 0


def test_dj_04_registered_in_a_savepoint_in_another(work: Work, run: Any) -> None:
    """Not run when either ends, once after the task's commit."""

    def task() -> None:
        work.store.rows()
        with current_task.savepoint():
            work.kept("inner")
            assert work.ran == []
        assert work.ran == []

    run(task)
    check(work, ["inner"])


def test_dj_05_kept_rolled_back_kept(work: Work, run: Any) -> None:
    """First and third callback run, in that order; rows are the first's and third's."""

    def task() -> None:
        work.kept("first")
        work.undone("second")
        work.kept("third")

    run(task)
    check(work, ["first", "third"])


def test_dj_06_a_kept_savepoint_of_a_task_that_fails(work: Work, run: Any) -> None:
    """Its callback is not run, its row not saved: on SQLite a release could have committed it."""

    def task() -> None:
        work.kept("kept")
        raise Broken

    with pytest.raises(Broken):
        run(task)
    check(work, [])


def test_dj_07_kept_inside_of_one_that_is_rolled_back(work: Work, run: Any) -> None:
    """B's callback is dropped with A; the later one runs."""

    def task() -> None:
        with pytest.raises(Broken), current_task.savepoint():
            work.write("A")
            work.kept("B")
            raise Broken
        work.write("later")

    run(task)
    check(work, ["later"])


def test_dj_08_rolled_back_inside_of_one_that_is_kept(work: Work, run: Any) -> None:
    """A's callback still runs."""

    def task() -> None:
        with current_task.savepoint():
            work.write("A")
            work.undone("B")

    run(task)
    check(work, ["A"])


def test_dj_09_before_in_and_after(work: Work, run: Any) -> None:
    """In the order of registration, whatever the depth."""

    def task() -> None:
        work.write("before")
        with current_task.savepoint():
            work.write("in")
            work.kept("deeper")
        work.write("after")

    run(task)
    check(work, ["before", "in", "deeper", "after"])


def test_ra_05_one_in_the_task_one_in_a_savepoint(work: Work, run: Any) -> None:
    """The first's callback once, the second's never."""

    def task() -> None:
        work.write("task")
        work.undone("savepoint")

    run(task)
    check(work, ["task"])


def test_ra_06_the_same_function_in_the_task_and_in_two_savepoints(work: Work, run: Any) -> None:
    """It runs once."""

    def callback() -> None:
        work.ran.append("task")

    def task() -> None:
        work.store.write("task")
        after_commit(callback)
        for _ in range(2):
            with pytest.raises(Broken), current_task.savepoint():
                work.store.write("savepoint")
                after_commit(callback)
                raise Broken

    run(task)
    check(work, ["task"])


def test_tx_12_tx_13_first_claimed_in_a_savepoint(work: Work, run: Any) -> None:
    """Rolled back with it, usable again, and what is done then is saved by one commit."""

    def task() -> None:
        work.undone("undone")
        assert work.store.rows() == []
        work.write("again")

    run(task)
    check(work, ["again"])


def test_t7_claimed_before_only_read(work: Work, run: Any) -> None:
    """A savepoint that is the first to write; on SQLite its release must not be the commit."""

    def task() -> None:
        work.store.rows()
        work.kept("kept")
        assert work.store.saved() == []
        work.undone("undone")
        assert work.store.rows() == ["kept"]

    run(task)
    check(work, ["kept"])


def test_t7_events_and_mirrors_of_a_savepoint(
    work: Work, run: Any, app: Flask, ledger: Any
) -> None:
    """Its events are dropped, and its ``after_rollback`` runs when it is rolled back."""

    def task() -> None:
        publish("news", "task")
        after_rollback(lambda: work.ran.append("never"))
        with pytest.raises(Broken), current_task.savepoint():
            work.store.write("undone")
            publish("news", "savepoint")
            after_rollback(lambda: work.ran.append("undone"))
            raise Broken
        assert work.ran == ["undone"]

    with capture(app) as captured:
        run(task)
    assert [event.text for event in captured.events] == ["task"]
    assert captured.dropped == [("publish('news')", "its savepoint was rolled back")]
    assert work.ran == ["undone"]
    assert work.store.saved() == []


def test_t7_in_a_request_and_in_a_callback(work: Work, app: Flask, serve: Any) -> None:
    """Wherever something can be claimed."""

    def callback() -> None:
        work.undone("undone in the callback")
        work.kept("callback")

    def view() -> str:
        work.kept("view")
        work.undone("undone in the view")
        after_commit(callback)
        return "ok"

    serve(view)
    assert app.test_client().get("/").status_code == 200
    check(work, ["view", "callback"])


@pytest.mark.parametrize("kind", ["session", "flask-sqlalchemy"])
def test_t7_an_integrity_error_at_the_end_of_a_savepoint(make: Any, run: Any, kind: str) -> None:
    """The flush at its end fails: it is undone, the error goes on, and so may the task."""
    from sqlalchemy.exc import IntegrityError

    work = Work(make(kind, "task"))
    store = work.store

    def session() -> Any:
        return store.db.session if kind == "flask-sqlalchemy" else store.connection()

    def task() -> None:
        work.write("before")
        with pytest.raises(IntegrityError), current_task.savepoint():
            session().add(store.Note(text=None))
            after_commit(lambda: work.ran.append("never"))
        work.write("after")

    run(task)
    check(work, ["before", "after"])


def test_t13_a_savepoint_that_was_rolled_back_wrote_nothing(make: Any, run: Any) -> None:
    """Who commits by hand has nothing to commit then, and loses no callback for it."""
    work = Work(make("flask-sqlalchemy", "explicit"))

    def task() -> None:
        work.store.rows()
        with pytest.raises(Broken), current_task.savepoint():
            work.store.write("undone")
            work.store.db.session.flush()
            raise Broken
        after_commit(lambda: work.ran.append("ran"))

    run(task)
    assert work.ran == ["ran"]
    assert work.store.saved() == []


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_t13_ended_by_hand_inside(make: Any, run: Any, end: str) -> None:
    """A commit or rollback by hand ends the transaction, and the savepoint with it."""
    for kind in TOLD:
        work = Work(make(kind, "explicit"))

        def task(work: Work = work) -> None:
            work.store.rows()
            with current_task.savepoint():
                work.write("by hand")
                getattr(work.store, end)()

        run(task)
        check(work, ["by hand"] if end == "commit" else [])


def test_t7_what_has_no_savepoints_says_so(arm: Sidearm, ledger: Any, run: Any) -> None:
    """A resource that can roll back, and only as a whole, is named."""
    thing = ledger.resource("thing")

    def task() -> None:
        thing()
        with current_task.savepoint():
            raise AssertionError

    with pytest.raises(NoSavepoint, match="thing"):
        run(task)


def test_t7_what_cannot_roll_back_needs_none(arm: Sidearm, run: Any) -> None:
    """A client without transactions is left alone."""

    @arm.resource
    def get_client() -> Any:
        yield object()

    ran: list[str] = []

    def task() -> None:
        get_client()
        with current_task.savepoint():
            ran.append("inside")

    run(task)
    assert ran == ["inside"]


def test_t7_too_late(arm: Sidearm, app: Flask) -> None:
    """A task that has settled begins none."""
    with arm.task("work") as task:
        pass
    with pytest.raises(TaskSettled, match="savepoint"), task.savepoint():
        raise AssertionError


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("raises", [False, True])
def test_t7_a_mirror_of_a_savepoint_settles_nothing_of_the_task(
    work: Work, run: Any, fails: bool, raises: bool
) -> None:
    """Its callback works on what the task has open, which the task alone commits or rolls back."""

    def mirror() -> None:
        work.store.rows()
        work.store.write("mirror")
        if raises:
            raise Broken

    def task() -> None:
        work.store.write("outer")
        with pytest.raises(Broken), current_task.savepoint():
            after_rollback(mirror)
            raise Broken
        if fails:
            current_task.doom()

    run(task)
    assert ("outer" in work.store.saved()) is not fails
    assert fails <= (work.store.saved() == [])
    assert work.store.out() == 0


def test_t7_a_savepoint_of_a_callback_covers_what_its_task_had(work: Work, run: Any) -> None:
    """A connection that the callback has by closure, before the block and in it."""

    def callback() -> None:
        work.store.write("before")
        with pytest.raises(Broken), current_task.savepoint():
            work.store.write("inside")
            raise Broken

    def task() -> None:
        work.store.write("task")
        after_commit(callback)

    run(task)
    assert work.store.saved() == ["task", "before"]


def test_t7_a_savepoint_of_a_callback_that_has_its_connection_by_closure(
    make: Any, run: Any
) -> None:
    """Nothing tells the callback's round of it but the round of its task."""
    store = make("sqlite3", "task")

    def task() -> None:
        connection = store.connection()

        def callback() -> None:
            insert = "INSERT INTO notes (text) VALUES (?)"
            connection.execute(insert, ("before",))
            with pytest.raises(Broken), current_task.savepoint():
                connection.execute(insert, ("inside",))
                raise Broken

        after_commit(callback)

    run(task)
    assert store.saved() == ["before"]


def test_t7_what_a_savepoint_leaves_and_drops_keeps_its_order(app: Flask, arm: Sidearm) -> None:
    """What was registered before it waits on in its order; its own mirrors run in theirs."""
    ran: list[str] = []
    with app.app_context(), arm.task("import"):
        for name in ("first", "second"):
            after_commit(functools.partial(ran.append, name))
        with pytest.raises(LookupError), current_task.savepoint():
            for name in ("third", "fourth"):
                after_commit(functools.partial(ran.append, name))
                after_rollback(functools.partial(ran.append, f"not {name}"))
            raise LookupError
        assert ran == ["not third", "not fourth"]
        after_commit(functools.partial(ran.append, "fifth"))
    assert ran[2:] == ["first", "second", "fifth"]

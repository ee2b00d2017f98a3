"""Contract T7 without savepoints: ``after_commit`` and ``after_rollback``."""

from __future__ import annotations

import functools
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from sidearm import (
    OutsideTask,
    Sidearm,
    TaskSettled,
    after_commit,
    after_rollback,
    current_task,
    publish,
)
from sidearm.signals import callback_failed

if TYPE_CHECKING:
    from flask import Flask


class Broken(Exception):
    """What callbacks and views raise here."""


class Killed(BaseException):
    """No ``Exception``."""


# -- when


def test_dj_01_a_callback_runs_once_after_the_commit(arm: Sidearm, app: Flask, store: Any) -> None:
    """Not before the commit, once after it, and the row is there."""
    seen = []
    with arm.task("work"):
        store.write("row")
        after_commit(lambda: seen.append(store.saved()))
        assert seen == []
    assert seen == [["row"]]
    assert store.out() == 0


def test_dj_01_in_a_request_it_runs_before_the_response_leaves(
    app: Flask, store: Any, serve: Any
) -> None:
    """In a request it has run when the client has its answer, and not before the view returned."""
    seen = []

    def view() -> str:
        store.write("row")
        after_commit(lambda: seen.append(store.saved()))
        return str(len(seen))

    serve(view)
    assert app.test_client().get("/").text == "0"
    assert seen == [["row"]]


def test_dj_02_without_any_resource_it_is_held_and_runs_once(
    arm: Sidearm, app: Flask, serve: Any
) -> None:
    """In a task that claimed nothing a callback is held, and runs once when the task ends well."""
    ran = []

    def view() -> str:
        after_commit(lambda: ran.append("request"))
        return str(len(ran))

    serve(view)
    assert app.test_client().get("/").text == "0"
    assert ran == ["request"]
    with arm.task("work"):
        after_commit(lambda: ran.append("block"))
        assert ran == ["request"]
    with app.app_context():
        after_commit(lambda: ran.append("context"))
        assert ran == ["request", "block"]
    assert ran == ["request", "block", "context"]


@pytest.mark.parametrize("register", [after_commit, after_rollback])
def test_dj_02_outside_of_a_task_it_is_an_error(app: Flask, register: Any) -> None:
    """Outside of a task it raises ``RuntimeError`` that tells how to get one."""

    def send_mail() -> None:
        pytest.fail("it ran")

    with pytest.raises(RuntimeError, match="Working outside of a task") as caught:
        register(send_mail)
    assert isinstance(caught.value, OutsideTask)
    assert "send_mail" in str(caught.value)
    assert "arm.task(" in str(caught.value)


def test_dj_03_it_does_not_run_when_the_work_raises(handled: Flask, store: Any, serve: Any) -> None:
    """No row, and the callback never runs."""
    ran = []

    def view() -> None:
        store.write("row")
        after_commit(lambda: ran.append("callback"))
        raise Broken

    serve(view)
    assert handled.test_client().get("/").status_code == 500
    assert store.saved() == []
    assert ran == []
    assert store.out() == 0


def test_dj_10_each_task_runs_its_own_callbacks(arm: Sidearm, app: Flask, notes: Any) -> None:
    """The second of two tasks runs only what it registered itself."""
    ran = []
    for name in ("first", "second"):
        with arm.task(name):
            notes.write(name)
            after_commit(functools.partial(ran.append, name))
    assert ran == ["first", "second"]


def test_dj_11_a_failed_tasks_callbacks_do_not_run_in_the_next(
    handled: Flask, notes: Any, serve: Any
) -> None:
    """A failed task's callback is not run by the good one that follows."""
    ran = []
    errors = [Broken()]

    def view() -> str:
        notes.write("row")
        after_commit(lambda: ran.append("failed" if errors else "good"))
        if errors:
            raise errors.pop()
        after_commit(lambda: ran.append("good too"))
        return "ok"

    serve(view)
    client = handled.test_client()
    assert client.get("/").status_code == 500
    assert ran == []
    assert client.get("/").status_code == 200
    assert ran == ["good", "good too"]


@pytest.mark.parametrize("kind", ["sqlite3", "session"])
def test_dj_12_a_connection_closed_before_the_commit_drops_its_callbacks(
    handled: Flask, make: Any, serve: Any, kind: str
) -> None:
    """A connection that the view closes saves nothing: its callback is not run, then or later."""
    store = make(kind)
    ran = []

    def closing() -> str:
        store.write("lost")
        store.rows()
        after_commit(lambda: ran.append("lost"))
        store.connection().close()
        return "ok"

    def good() -> str:
        store.write("kept")
        after_commit(lambda: ran.append("kept"))
        return "ok"

    serve(closing, "/closing")
    serve(good, "/good")
    client = handled.test_client()
    client.get("/closing")
    assert ran == []
    assert client.get("/good").status_code == 200
    assert ran == ["kept"]
    assert store.saved() == ["kept"]
    assert store.out() == 0


def test_dj_13_nothing_is_left_to_run_after_a_callback_that_raised(
    handled: Flask, notes: Any, serve: Any
) -> None:
    """The task that follows one whose callback raised runs its own callbacks, and no other."""
    ran = []

    def view() -> str:
        number = len(ran)

        @after_commit
        def callback() -> None:
            ran.append(number)
            if number == 0:
                raise Broken

        return "ok"

    serve(view)
    client = handled.test_client()
    client.get("/")
    client.get("/")
    assert ran == [0, 1]


# -- isolation


@pytest.mark.parametrize("claims", [True, False])
def test_dj_14_15_one_failing_callback_stops_no_other(
    handled: Flask, notes: Any, serve: Any, caplog: pytest.LogCaptureFixture, claims: bool
) -> None:
    """The rows stay, the rest runs, one ERROR names the function; without a resource too."""
    ran = []
    error = Broken("no such host")

    def send_the_mail() -> None:
        ran.append("mail")
        raise error

    def view() -> str:
        if claims:
            notes.write("row")
        after_commit(lambda: ran.append("before"))
        after_commit(send_the_mail)
        after_commit(lambda: ran.append("after"))
        return "bought"

    serve(view)
    signalled: list[Any] = []

    def receive(sender: Any, callback: Any, exception: BaseException, **_: Any) -> None:
        signalled.append((sender, exception))

    with callback_failed.connected_to(receive):
        response = handled.test_client().get("/")
    assert (response.status_code, response.text) == (200, "bought")
    assert notes.saved() == (["row"] if claims else [])
    assert notes.out() == 0
    assert ran == ["before", "mail", "after"]
    assert signalled == [(handled, error)]
    errors = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert send_the_mail.__qualname__ in errors[0].getMessage()
    assert errors[0].exc_info is not None
    assert errors[0].exc_info[1] is error


def test_ra_07_committed_work_stays_when_a_callback_raises(
    handled: Flask, store: Any, serve: Any
) -> None:
    """Whatever the resource: the work is saved and readable, the response is unchanged."""

    def view() -> str:
        store.write("row")

        @after_commit
        def callback() -> None:
            store.rows()
            store.write("half a callback")
            raise Broken

        return "ok"

    serve(view)
    assert handled.test_client().get("/").text == "ok"
    assert store.saved() == ["row"]
    assert store.out() == 0


def test_ra_08_all_waiting_callbacks_run_when_several_raise(arm: Sidearm, app: Flask) -> None:
    """Every callback runs, also when each one raises."""
    ran = []

    def failing(number: int) -> None:
        ran.append(number)
        raise Broken(number)

    with arm.task("work"):
        for number in range(5):
            after_commit(functools.partial(failing, number))
    assert ran == [0, 1, 2, 3, 4]


def test_t7_a_base_exception_in_a_callback_goes_on_after_everything_is_done(
    handled: Flask, ledger: Any, serve: Any
) -> None:
    """A process told to end in a callback has saved, run and released all before it does."""
    ran = []
    thing = ledger.resource("thing")

    def view() -> str:
        thing()

        @after_commit
        def killed() -> None:
            raise Killed

        after_commit(lambda: ran.append("rest"))
        return "ok"

    serve(view)
    with pytest.raises(Killed):
        handled.test_client().get("/")
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]
    assert ran == ["rest"]


def test_t7_failing_callbacks_never_raise_from_a_block(
    arm: Sidearm, app: Flask, notes: Any
) -> None:
    """Nor do they raise out of ``arm.task()`` or a pushed context: the work is saved."""

    def failing() -> None:
        raise Broken

    with arm.task("block"):
        notes.write("block")
        after_commit(failing)
    with app.app_context():
        notes.write("context")
        after_commit(failing)
    assert notes.saved() == ["block", "context"]
    assert notes.out() == 0


# -- order


@pytest.mark.parametrize("outcome", ["commit", "rollback"])
def test_ra_12_callbacks_run_first_to_last(arm: Sidearm, app: Flask, outcome: str) -> None:
    """In the order of registration, whichever of the two kinds."""
    ran = []
    register = after_commit if outcome == "commit" else after_rollback
    with arm.task("work") as task:
        for number in range(10):
            register(functools.partial(ran.append, number))
        if outcome == "rollback":
            task.doom()
    assert ran == list(range(10))


def test_ra_10_equal_registrations_are_never_merged(arm: Sidearm, app: Flask) -> None:
    """Two registrations that compare equal and share a hash both run."""
    ran = []

    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 1

        def __call__(self) -> None:
            ran.append("ran")

    def same() -> None:
        ran.append("same")

    with arm.task("work"):
        after_commit(Equal())
        after_commit(Equal())
        after_commit(same)
        after_commit(same)
    assert ran == ["ran", "ran", "same", "same"]


def test_t7_callbacks_run_between_the_last_commit_and_the_first_release(
    arm: Sidearm, app: Flask, ledger: Any
) -> None:
    """After every resource has committed, before any is released."""
    first, second = map(ledger.resource, ("first", "second"))
    with arm.task("work"):
        first()
        after_commit(lambda: ledger.lines.append("callback"))
        second()
    assert ledger.lines == [
        *("claim first", "claim second", "commit first", "commit second", "callback"),
        *("release second", "release first"),
    ]


def test_t7_callbacks_and_events_leave_in_one_order(
    app: Flask, arm: Sidearm, captured: Any
) -> None:
    """Callbacks and events of one task leave in the order in which they were registered."""
    seen = []
    with arm.task("work"):
        publish("a", 1)
        after_commit(lambda: seen.append([event.data for event in captured.events]))
        publish("a", 2)
        after_commit(lambda: seen.append([event.data for event in captured.events]))
    assert seen == [[1], [1, 2]]


# -- what a callback does


def test_dj_16_a_callback_reads_what_was_committed(arm: Sidearm, app: Flask, store: Any) -> None:
    """A callback that reads the database sees what the task committed."""
    seen = []
    with arm.task("work"):
        store.write("row")
        after_commit(lambda: seen.extend(store.rows()))
    assert seen == ["row"]
    assert store.out() == 0


def test_dj_17_what_a_callback_writes_is_saved(app: Flask, store: Any, serve: Any) -> None:
    """A callback's writes are a round of their own, never silently lost."""

    def view() -> str:
        store.write("order")
        after_commit(lambda: store.write("audit"))
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert store.saved() == ["order", "audit"]
    assert store.out() == 0


def test_dj_17_in_a_task_that_claimed_nothing_too(arm: Sidearm, app: Flask, store: Any) -> None:
    """Also where the callback is the first to claim."""
    with arm.task("work"):
        after_commit(lambda: store.write("audit"))
    assert store.saved() == ["audit"]
    assert store.out() == 0


def test_t7_each_callback_is_a_round_of_its_own(arm: Sidearm, app: Flask, store: Any) -> None:
    """What one callback wrote is saved, what the next one wrote before it raised is not."""

    def failing() -> None:
        store.write("lost")
        raise Broken

    with arm.task("work"):
        store.write("work")
        after_commit(lambda: store.write("first"))
        after_commit(failing)
        after_commit(lambda: store.write("third"))
    assert store.saved() == ["work", "first", "third"]
    assert store.out() == 0


def test_t7_what_a_callback_claims_is_released(arm: Sidearm, app: Flask, ledger: Any) -> None:
    """A resource that only a callback claims is committed and released, once."""
    thing = ledger.resource("thing")
    with arm.task("work"):
        after_commit(lambda: thing().use())
    assert ledger.lines == ["claim thing", "use thing", "commit thing", "release thing"]


def test_t7_a_commit_that_fails_in_a_callback_is_the_callbacks_failure(
    handled: Flask, arm: Sidearm, ledger: Any, notes: Any, serve: Any
) -> None:
    """It is logged and signalled as one, and the response is unchanged."""
    thing = ledger.resource("thing", commit=Broken("of the callback"))
    failed: list[BaseException] = []

    def receive(_: Any, exception: BaseException, **__: Any) -> None:
        failed.append(exception)

    def view() -> str:
        notes.write("work")
        after_commit(thing)
        after_commit(lambda: notes.write("next"))
        return "ok"

    serve(view)
    with callback_failed.connected_to(receive, handled):
        assert handled.test_client().get("/").text == "ok"
    assert [str(each) for each in failed] == ["of the callback"]
    assert notes.saved() == ["work", "next"]
    assert ledger.lines == ["claim thing", "commit thing", "rollback thing", "release thing"]


def test_dj_18_a_callback_may_register_another(arm: Sidearm, app: Flask, notes: Any) -> None:
    """It runs, exactly once, in the same settling, after those that were there before."""
    ran = []

    def first() -> None:
        ran.append("first")
        after_commit(third)

    def third() -> None:
        ran.append("third")
        notes.write("of the third")
        after_commit(lambda: ran.append("fourth"))

    with arm.task("work"):
        after_commit(first)
        after_commit(lambda: ran.append("second"))
    assert ran == ["first", "second", "third", "fourth"]
    assert notes.saved() == ["of the third"]
    assert notes.out() == 0


def test_dj_18_what_a_failing_callback_registered_is_dropped(arm: Sidearm, app: Flask) -> None:
    """It belongs to that callback's round, which rolled back; its ``after_rollback`` runs."""
    ran = []

    def failing() -> None:
        after_commit(lambda: ran.append("commit"))
        after_rollback(lambda: ran.append("rollback"))
        raise Broken

    with arm.task("work"):
        after_commit(failing)
        after_commit(lambda: ran.append("next"))
    assert sorted(ran) == ["next", "rollback"]


def test_ra_09_a_callback_that_writes_again_does_not_trigger_itself(
    arm: Sidearm, app: Flask, store: Any
) -> None:
    """Saving again what triggered a callback runs it no second time."""
    ran = []

    def callback() -> None:
        ran.append("callback")
        store.write("again")

    with arm.task("work"):
        store.write("row")
        after_commit(callback)
    assert ran == ["callback"]
    assert store.saved() == ["row", "again"]


def test_t7_a_callback_publishes_after_its_own_commit(
    arm: Sidearm, app: Flask, captured: Any, notes: Any
) -> None:
    """What a callback publishes leaves when its own work is saved."""

    def callback() -> None:
        notes.write("audit")
        publish("audits", 1)
        assert captured.events == []

    with arm.task("work"):
        after_commit(callback)
    assert [event.channel for event in captured.events] == ["audits"]
    assert notes.saved() == ["audit"]


def test_t7_a_callback_may_run_a_task_of_its_own(arm: Sidearm, app: Flask, store: Any) -> None:
    """``arm.task()`` in a callback is independent, as anywhere."""
    ran = []

    def callback() -> None:
        with pytest.raises(Broken), arm.task("inner"):
            store.write("lost")
            raise Broken
        with arm.task("inner"):
            store.write("inner")
            after_commit(lambda: ran.append("inner"))

    with arm.task("outer"):
        after_commit(callback)
    assert store.saved() == ["inner"]
    assert ran == ["inner"]
    assert store.out() == 0


def test_c5_callbacks_read_and_write_with_flask_sqlalchemy(
    app: Flask, make: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The true values, the audit row really there, no error logged, no connection out."""
    store = make("flask-sqlalchemy")
    db, note_class = store.db, store.Note
    seen: list[Any] = []

    def view() -> Any:
        user = note_class(text="ann@example.org")
        db.session.add(user)
        after_commit(lambda: seen.append((user.id, user.text)))

        @after_commit
        def audit() -> None:
            found = db.session.execute(db.select(note_class)).scalars().all()
            db.session.add(note_class(text=f"audit of {len(found)}"))

        return {"id": user.id}

    serve(view)
    response = app.test_client().get("/")
    assert response.status_code == 200
    assert seen == [(1, "ann@example.org")]
    assert store.saved() == ["ann@example.org", "audit of 1"]
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []
    assert store.out() == 0


@pytest.mark.parametrize("commit", ["task", "explicit"])
def test_c5_the_same_when_the_application_commits(
    app: Flask, make: Any, serve: Any, caplog: pytest.LogCaptureFixture, commit: str
) -> None:
    """The same where the view itself commits at its end, in both modes."""
    store = make("flask-sqlalchemy", commit)
    db, note_class = store.db, store.Note
    seen: list[Any] = []

    def view() -> Any:
        user = note_class(text="ann@example.org")
        db.session.add(user)
        after_commit(lambda: seen.append((user.id, user.text)))

        @after_commit
        def audit() -> None:
            db.session.add(note_class(text="audit"))
            db.session.commit()

        db.session.commit()
        return {"id": user.id, "text": user.text}

    serve(view)
    response = app.test_client().get("/")
    assert response.json == {"id": 1, "text": "ann@example.org"}
    assert seen == [(1, "ann@example.org")]
    assert store.saved() == ["ann@example.org", "audit"]
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []
    assert store.out() == 0


# -- registering


def test_dj_19_what_cannot_be_called_is_refused_at_once(
    app: Flask, arm: Sidearm, notes: Any
) -> None:
    """``TypeError`` at that line, nothing registered, and the task goes on."""
    ran = []
    with arm.task("work"):
        notes.write("row")
        for register in (after_commit, after_rollback, current_task.after_commit):
            with pytest.raises(TypeError, match="'not a function'"):
                register("not a function")  # type: ignore[type-var]
        after_commit(lambda: ran.append("good"))
    assert ran == ["good"]
    assert notes.saved() == ["row"]


@pytest.mark.parametrize("register", [after_commit, after_rollback])
def test_t7_the_decorator_gives_back_its_function(app: Flask, arm: Sidearm, register: Any) -> None:
    """As on the slide: the decorated function is still there under its name."""

    def function() -> None:
        """Do nothing."""

    with arm.task("work"):
        assert register(function) is function


def test_t7_any_callable_will_do(app: Flask, arm: Sidearm) -> None:
    """Bound methods, partials, builtins and objects are callbacks too."""
    ran: list[int] = []

    class Callable:
        def __call__(self) -> None:
            ran.append(2)

        def method(self) -> None:
            ran.append(3)

    with arm.task("work"):
        after_commit(functools.partial(ran.append, 1))
        after_commit(Callable())
        after_commit(Callable().method)
        after_commit(ran.copy)
        after_commit(threading.Event().set)
    assert ran == [1, 2, 3]


@pytest.mark.parametrize("kind", ["request", "block", "context"])
def test_ra_03_registering_on_a_settled_task_is_an_error(
    app: Flask, arm: Sidearm, serve: Any, kind: str
) -> None:
    """A task that has settled says so, instead of holding what nobody will run."""
    kept: list[Any] = []

    def remember() -> str:
        kept.append(current_task._get_current_object())  # type: ignore[attr-defined]
        return "ok"

    serve(remember)
    if kind == "request":
        app.test_client().get("/")
    else:
        with arm.task("work") if kind == "block" else app.app_context():
            remember()
    (task,) = kept
    for late in (task.after_commit, task.after_rollback):
        with pytest.raises(TaskSettled, match="settled") as caught:
            late(lambda: pytest.fail("it ran"))
        assert isinstance(caught.value, RuntimeError)
    with pytest.raises(TaskSettled):
        task.doom("late")
    with pytest.raises(TaskSettled):
        task.keep()


@pytest.mark.parametrize("failed", [False, True])
def test_ra_03_registering_in_a_teardown_function_is_for_its_own_round(
    handled: Flask, serve: Any, failed: bool
) -> None:
    """In Flask's own teardown the request's work has settled; what comes follows its outcome."""
    ran: list[str] = []

    @handled.teardown_request
    def teardown(_: Any) -> None:
        after_commit(lambda: ran.append("commit"))
        after_rollback(lambda: ran.append("rollback"))
        with pytest.raises(TaskSettled):
            current_task.keep()

    def view() -> str:
        after_commit(lambda: ran.append("view"))
        if failed:
            raise Broken
        return "ok"

    serve(view)
    handled.test_client().get("/")
    assert ran == (["rollback"] if failed else ["view", "commit"])


# -- after_rollback, the mirror


def test_t7_after_rollback_runs_after_the_rollback_only(
    app: Flask, arm: Sidearm, store: Any
) -> None:
    """It runs after a rollback, when the rows are gone, and never after a commit."""
    seen = []
    with arm.task("good"):
        store.write("kept")
        after_rollback(lambda: seen.append("after a commit"))
    with pytest.raises(Broken), arm.task("bad"):
        store.write("lost")
        after_rollback(lambda: seen.append(store.saved()))
        raise Broken
    assert seen == [["kept"]]
    assert store.out() == 0


def test_t7_what_an_after_rollback_callback_writes_is_saved(
    handled: Flask, store: Any, serve: Any
) -> None:
    """The mirror: a round of its own, so a failure can be written down."""

    def view() -> None:
        store.write("order")
        after_rollback(lambda: store.write("failed attempt"))
        raise Broken

    serve(view)
    assert handled.test_client().get("/").status_code == 500
    assert store.saved() == ["failed attempt"]
    assert store.out() == 0


def test_t7_a_failing_after_rollback_callback_is_isolated(
    handled: Flask, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One that raises is logged and signalled; the rest runs; the first error is answered."""
    ran = []

    @handled.errorhandler(Broken)
    def handler(error: Broken) -> Any:
        return str(error), 418

    def failing() -> None:
        raise Broken("of the callback")

    def view() -> None:
        after_rollback(failing)
        after_rollback(lambda: ran.append("rest"))
        raise Broken("of the view")

    serve(view)
    response = handled.test_client().get("/")
    assert (response.status_code, response.text) == (418, "of the view")
    assert ran == ["rest"]
    assert "of the callback" in caplog.text


def test_ra_02_a_doomed_task_runs_no_callback(arm: Sidearm, app: Flask, notes: Any) -> None:
    """Work that is rolled back without an error runs no ``after_commit`` callback."""
    ran = []
    with arm.task("work") as task:
        notes.write("row")
        after_commit(lambda: ran.append("callback"))
        task.doom("not today")
    assert ran == []
    assert notes.saved() == []


def test_ra_11_an_error_before_the_commit_leaves_the_next_task_clean(
    handled: Flask, store: Any, serve: Any
) -> None:
    """An error just before the commit leaves no transaction, resource or callback behind."""
    ran = []
    failing = [True]

    @handled.after_request
    def last(response: Any) -> Any:
        if failing and failing.pop():
            raise Broken
        return response

    def view() -> str:
        store.write("row")
        number = len(failing)
        after_commit(lambda: ran.append(number))
        return "ok"

    serve(view)
    client = handled.test_client()
    assert client.get("/").status_code == 500
    assert (store.saved(), ran, store.out()) == ([], [], 0)
    assert client.get("/").status_code == 200
    assert (store.saved(), ran, store.out()) == (["row"], [0], 0)

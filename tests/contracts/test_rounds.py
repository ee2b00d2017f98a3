"""Contract T9 at its edges: what runs after the settling, and threads that share a task."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import logging
import sqlite3
import threading
import time
from collections import deque
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING, Any

import pytest
from flask import (
    Flask,
    Response,
    appcontext_tearing_down,
    request_finished,
    request_tearing_down,
    stream_with_context,
)
from flask.sessions import SecureCookieSessionInterface
from flasks import MERGED, call, raises

from sidearm import (
    OutsideTask,
    Sidearm,
    TaskSettled,
    after_commit,
    after_response,
    current_task,
    publish,
)
from sidearm.tasks import context, flask_contexts
from sidearm.tasks.callbacks import Held
from sidearm.tasks.claims import Claim, Resource
from sidearm.tasks.flask_contexts import current_request_context, push_of
from sidearm.tasks.outcome import Decision
from sidearm.tasks.task import Round, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 30.0  # seconds


class Broken(Exception):
    """What the application raises here."""


class Killed(BaseException):
    """What ends a request from outside."""


class Sessions(SecureCookieSessionInterface):
    """Sessions that do something of the test's when they are opened or saved."""

    def __init__(self) -> None:
        self.on_open: Callable[[], Any] = lambda: None
        self.on_save: Callable[[], Any] = lambda: None

    def open_session(self, *args: Any) -> Any:
        self.on_open()
        return super().open_session(*args)

    def save_session(self, *args: Any) -> None:
        self.on_save()
        super().save_session(*args)


@pytest.fixture
def sessions(app: Flask) -> Sessions:
    """The session interface of :func:`app`."""
    app.secret_key = "only for tests"
    app.session_interface = sessions = Sessions()
    return sessions


def run_in_thread(call: Callable[[], Any]) -> threading.Thread:
    """Start a thread that carries the context along, as asgiref's do."""
    thread = threading.Thread(target=contextvars.copy_context().run, args=(call,))
    thread.start()
    return thread


def join(thread: threading.Thread) -> None:
    """Wait for a thread's end."""
    thread.join(PATIENCE)
    assert not thread.is_alive()


def raise_(exception: BaseException) -> None:
    """Raise, in an expression."""
    raise exception


# -- between the settling and the end of the context


@pytest.mark.parametrize("where", ["save_session", "request_finished"])
@pytest.mark.parametrize("claims", [True, False])
def test_t8_t9_an_error_after_the_settling_has_its_page_and_its_callbacks(
    handled: Flask, ledger: Any, serve: Any, sessions: Sessions, where: str, claims: bool
) -> None:
    """The 500 handler may claim, for a round that is rolled back; ``after_response`` is kept."""
    thing, again = ledger.resource("thing"), ledger.resource("again")
    ran: list[str] = []

    def view() -> str:
        if claims:
            thing()
            after_response(lambda: ran.append("after_response"))
        return "ok"

    @handled.errorhandler(500)
    def page(_: Any) -> tuple[str, int]:
        again()
        sessions.on_save = lambda: None
        return "the page", 500

    serve(view)
    broken = Broken("on its way")
    if where == "save_session":
        sessions.on_save = lambda: raise_(broken)
        answer = handled.test_client().get("/", buffered=True)
    else:
        times = iter([lambda: raise_(broken)])
        with request_finished.connected_to(lambda *_, **__: next(times, lambda: None)(), handled):
            answer = handled.test_client().get("/", buffered=True)
    assert (answer.status_code, answer.text) == (500, "the page")
    work = ["claim thing", "commit thing", "release thing"] if claims else []
    assert ledger.lines == [*work, "claim again", "rollback again", "release again"]
    assert ran == (["after_response"] if claims else [])


def test_t8_after_response_outlives_a_base_exception_after_the_settling(
    app: Flask, ledger: Any, serve: Any, sessions: Sessions
) -> None:
    """There is no response then: what was committed is followed by what belongs to it."""
    thing = ledger.resource("thing")
    ran: list[str] = []

    def view() -> str:
        thing()
        after_response(lambda: ran.append("after_response"))
        return "ok"

    serve(view)
    sessions.on_save = lambda: raise_(Killed())
    with pytest.raises(Killed):
        app.test_client().get("/")
    assert ran == ["after_response"]
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]


@pytest.mark.parametrize("status", [200, 404])
@pytest.mark.parametrize("claims", [True, False])
@pytest.mark.parametrize("where", ["save_session", "teardown_request", "teardown, blueprint's"])
def test_t9_what_runs_after_the_settling_has_a_round_of_its_own(
    app: Flask,
    ledger: Any,
    serve: Any,
    sessions: Sessions,
    where: str,
    claims: bool,
    status: int,
    captured: Any,
) -> None:
    """Whatever the view did; its outcome is the request's."""
    thing, late = ledger.resource("thing"), ledger.resource("late")

    def view() -> tuple[str, int]:
        if claims:
            thing()
        return "answer", status

    serve(view)
    if where == "save_session":
        sessions.on_save = late
    elif where == "teardown_request":
        app.teardown_request(lambda _: late() and None)
    else:
        app.teardown_request_funcs.setdefault(None, []).insert(0, lambda _: late() and None)
    assert app.test_client().get("/").status_code == status
    end = "commit" if status == 200 else "rollback"
    work = [f"claim thing|{end} thing|release thing"] if claims else []
    assert "|".join(ledger.lines) == "|".join([*work, f"claim late|{end} late|release late"])
    assert [record.round for record in captured.records] == ["work", "teardown"]


def test_t9_a_teardown_that_cannot_be_saved_is_logged(
    app: Flask, ledger: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The response tells of the view's work, which is saved; no teardown function is skipped."""
    late = ledger.resource("late", commit=Broken("the disk is full"))
    ran: list[str] = []
    serve(lambda: "ok", endpoint="view")
    app.teardown_request(lambda _: ran.append("first"))
    app.teardown_request(lambda _: late() and None)
    assert app.test_client().get("/").text == "ok"
    assert ran == ["first"]
    assert ledger.lines == ["claim late", "commit late", "rollback late", "release late"]
    assert any("the disk is full" in str(record.exc_info) for record in caplog.records)


def test_t9_a_claim_in_a_late_teardown_that_fails_runs_no_function_twice(
    app: Flask, ledger: Any, arm: Sidearm
) -> None:
    """What another teardown function claimed settles when all of them have run."""
    thing = ledger.resource("thing", commit=Broken("too late"))
    ran: list[str] = []
    app.teardown_appcontext(lambda _: ran.append("last"))
    app.teardown_appcontext(lambda _: thing() and None)
    app.teardown_appcontext(lambda _: ran.append("first"))
    with raises(Broken), app.app_context():
        pass
    assert ran == ["first", "last"]
    assert ledger.lines == ["claim thing", "commit thing", "rollback thing", "release thing"]


@pytest.mark.parametrize("kind", ["app_context", "request context"])
def test_t9_a_context_that_is_pushed_again_has_a_round_again(
    app: Flask, ledger: Any, kind: str
) -> None:
    """Each push that tears down settles what was claimed in it."""
    thing = ledger.resource("thing")
    pushed = app.app_context() if kind == "app_context" else app.test_request_context()
    for _ in range(3):
        ledger.lines.clear()
        with pushed:
            thing()
            after_commit(lambda: ledger.lines.append("callback"))
        assert ledger.lines == ["claim thing", "commit thing", "callback", "release thing"]


def test_t2_t9_a_thread_that_carries_a_context_beyond_its_end_claims_nothing(
    app: Flask, ledger: Any, serve: Any
) -> None:
    """Nothing would settle it: an error, whether the request had a task or not."""
    thing = ledger.resource("thing")
    errors: list[BaseException] = []
    over = threading.Event()
    threads: list[threading.Thread] = []

    def work() -> None:
        assert over.wait(PATIENCE)
        for _ in range(2):
            try:
                thing()
            except (OutsideTask, TaskSettled) as error:
                errors.append(error)

    def idle() -> str:
        threads.append(run_in_thread(work))
        return "ok"

    def busy() -> str:
        thing()
        return idle()

    serve(idle, "/idle")
    serve(busy, "/busy")
    app.test_client().get("/idle")
    app.test_client().get("/busy")
    with app.app_context():
        threads.append(run_in_thread(work))
    over.set()
    for thread in threads:
        join(thread)
    assert len(errors) == 6
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]


def test_t3_a_receiver_of_the_last_signal_claims_nothing_that_nobody_settles(
    app: Flask, ledger: Any
) -> None:
    """Receivers of ``appcontext_tearing_down`` have no order: it is settled, or an error."""
    thing = ledger.resource("thing")
    errors: list[BaseException] = []

    def claim(*_: Any, **__: Any) -> None:
        try:
            thing()
        except OutsideTask as error:
            errors.append(error)

    with appcontext_tearing_down.connected_to(claim, app):
        for turn in range(1, 4):
            with app.app_context():
                pass
            assert ledger.count("claim") == ledger.count("release")
            assert ledger.count("claim") + len(errors) == turn


# -- error handlers, and what the code says of its outcome


def test_t4_doom_after_an_exception_that_commits(
    handled: Flask, ledger: Any, serve: Any, captured: Any
) -> None:
    """An error handler that dooms is heard, also where ``keep()`` was said."""
    thing = ledger.resource("thing")

    def view() -> None:
        thing()
        current_task.keep()
        raise Broken

    @handled.errorhandler(Broken)
    def page(_: Broken) -> str:
        current_task.doom("the handler knows better")
        return "page"

    serve(view)
    assert handled.test_client().get("/").text == "page"
    assert ledger.lines == ["claim thing", "rollback thing", "release thing"]
    assert captured.records[-1].decided_by == "doomed: the handler knows better"


def test_t4_doom_after_an_exception_that_commits_in_a_request_pushed_by_hand(
    app: Flask, ledger: Any
) -> None:
    """The same where no response decides."""
    thing = ledger.resource("thing")
    with app.test_request_context():
        thing()
        current_task.keep()
        try:
            raise Broken
        except Broken as broken:
            with pytest.raises(Broken):
                call(app.handle_user_exception, broken)
        current_task.doom("after all")
    assert ledger.lines == ["claim thing", "rollback thing", "release thing"]


def test_t4_keep_in_an_error_handler_comes_too_late(
    handled: Flask, ledger: Any, serve: Any
) -> None:
    """What the view did is rolled back by then: silence would be a lie."""
    thing = ledger.resource("thing")
    errors: list[str] = []

    def view() -> None:
        thing()
        raise Broken

    @handled.errorhandler(Broken)
    def page(_: Broken) -> str:
        try:
            current_task.keep()
        except TaskSettled as error:
            errors.append(str(error))
        return "page"

    serve(view)
    handled.test_client().get("/")
    assert ledger.lines == ["claim thing", "rollback thing", "release thing"]
    assert len(errors) == 1
    assert "keep()" in errors[0]


def test_t5_a_session_that_claims_hides_no_failed_commit(
    handled: Flask, ledger: Any, serve: Any, sessions: Sessions
) -> None:
    """The session is opened again for the error page, in the page's round."""
    thing = ledger.resource("thing", commit=Broken("the disk is full"))
    store = ledger.resource("store")
    sessions.on_open = store

    def view() -> str:
        thing()
        return "ok"

    @handled.errorhandler(Broken)
    def page(error: Broken) -> tuple[str, int]:
        return f"not saved: {error}", 503

    serve(view)
    answer = handled.test_client().get("/")
    assert (answer.status_code, answer.text) == (503, "not saved: the disk is full")
    assert ledger.count("claim") == ledger.count("release") == 3


def test_t5_a_session_that_cannot_be_opened_again_hides_no_failed_commit(
    handled: Flask, ledger: Any, serve: Any, sessions: Sessions
) -> None:
    """Both are told; the commit's error chooses the handler."""
    thing = ledger.resource("thing", commit=Broken("the disk is full"))

    def view() -> str:
        thing()
        sessions.on_open = lambda: raise_(OSError("no sessions"))
        return "ok"

    @handled.errorhandler(Broken)
    def page(error: Broken) -> tuple[str, int]:
        return f"not saved: {error}; {error.__notes__}", 503

    serve(view)
    answer = handled.test_client().get("/")
    assert answer.status_code == 503
    assert "no sessions" in answer.text


def test_t3_a_rollback_that_fails_after_an_exception_in_after_request_is_told(
    handled: Flask, ledger: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The error page's original exception carries it."""
    thing = ledger.resource("thing", rollback=OSError("the cable is cut"))
    told: list[Any] = []

    def view() -> str:
        thing()
        return "ok"

    @handled.after_request
    def fail_once(response: Response) -> Response:
        if not told:
            raise Broken
        return response

    @handled.errorhandler(500)
    def page(error: Any) -> tuple[str, int]:
        told.append(error.original_exception)
        return "page", 500

    serve(view)
    assert handled.test_client().get("/").text == "page"
    [broken] = told
    assert isinstance(broken, Broken)
    assert "the cable is cut" in broken.__notes__[0]
    assert ledger.lines == ["claim thing", "rollback thing", "release thing"]


def test_t3_a_base_exception_of_a_callback_at_a_commit_by_hand_is_raised(
    app: Flask, make: Any
) -> None:
    """A worker's time limit is not swallowed; what was committed is, and so are later callbacks."""
    store = make("session", "explicit")
    ran: list[str] = []
    with pytest.raises(Killed), app.app_context():
        store.write("kept")
        after_commit(lambda: raise_(Killed()))
        after_commit(lambda: ran.append("later"))
        store.commit()
    assert ran == ["later"]
    assert store.saved() == ["kept"]
    assert store.out() == 0


# -- streamed bodies


def test_t6_two_generators_in_one_body_have_a_round_each(
    app: Flask, ledger: Any, serve: Any
) -> None:
    """Flask leaves the contexts at the end of each."""
    thing = ledger.resource("thing")

    def piece(text: str) -> Iterator[str]:
        thing()
        ledger.lines.append(text)
        yield text

    def view() -> Response:
        first = stream_with_context(piece("first"))
        return Response(chain(first, stream_with_context(piece("second"))))

    serve(view)
    assert app.test_client().get("/").text == "firstsecond"
    assert ledger.count("claim") == ledger.count("commit") == ledger.count("release")
    assert ledger.lines[-1] == "release thing"
    assert ledger.count("rollback") == 0


def test_t6_the_second_generator_of_a_body_rolls_back_alone(
    app: Flask, ledger: Any, serve: Any
) -> None:
    """If it raises, what the first one did is saved already, where Flask tore down between."""
    thing = ledger.resource("thing")

    def fail() -> Iterator[str]:
        thing()
        yield "half"
        raise Broken

    def view() -> Response:
        return Response(stream_with_context(fail()))

    def chained() -> Response:
        return Response(chain(["start"], stream_with_context(fail())))

    serve(view, "/one")
    serve(chained, "/two")
    for path in ("/one", "/two"):
        ledger.lines.clear()
        with pytest.raises(Broken):
            app.test_client().get(path, buffered=True)
        assert ledger.lines == ["claim thing", "rollback thing", "release thing"]


def test_t6_a_body_that_a_client_block_leaves_half_read_is_abandoned(
    app: Flask, ledger: Any, serve: Any, captured: Any
) -> None:
    """It has not come to its end, whatever Flask's teardown says."""
    thing = ledger.resource("thing")

    def body() -> Iterator[str]:
        thing()
        yield "one"
        yield "two"

    serve(lambda: Response(stream_with_context(body())), endpoint="view")
    with app.test_client() as client:
        response = client.get("/")
        assert next(response.iter_encoded()) == b"one"
    response.close()
    assert ledger.lines == ["claim thing", "rollback thing", "release thing"]
    assert captured.records[-1].decided_by == "the body was abandoned"


# -- threads that share a task


def test_tx_05_a_claim_under_way_while_the_task_settles_is_given_back(
    app: Flask, arm: Sidearm, serve: Any
) -> None:
    """The thread gets an error; the request does not wait, and nothing stays open."""
    lines: list[str] = []
    claiming, answered = threading.Event(), threading.Event()
    errors: list[BaseException] = []
    threads: list[threading.Thread] = []

    class Slow:
        def rollback(self) -> None:
            lines.append("rollback")

        def commit(self) -> None:
            lines.append("commit")

    @arm.resource
    def slow() -> Iterator[Slow]:
        claiming.set()
        assert answered.wait(PATIENCE)
        try:
            yield Slow()
        finally:
            lines.append("release")

    def claim() -> None:
        try:
            slow()
        except RuntimeError as error:
            errors.append(error)

    def view() -> str:
        assert current_task.name == "view"
        threads.append(run_in_thread(claim))
        assert claiming.wait(PATIENCE)
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    answered.set()
    join(threads[0])
    assert lines == ["rollback", "release"]
    [error] = errors
    assert isinstance(error, TaskSettled)
    assert "slow" in str(error)


@pytest.mark.parametrize("kind", ["request", "context"])
def test_t1_two_threads_that_begin_one_task_share_it(
    app: Flask, ledger: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Both find none and make one: one of them wins, and one claim is shared."""
    thing = ledger.resource("thing")
    together = threading.Barrier(2, timeout=PATIENCE)
    real = context.Task

    def slowly(*args: Any) -> Any:
        together.wait()
        return real(*args)

    values: list[Any] = []
    pushed = app.test_request_context() if kind == "request" else app.app_context()
    with pushed:
        monkeypatch.setattr(context, "Task", slowly)
        threads = [run_in_thread(lambda: values.append(thing())) for _ in range(2)]
        for thread in threads:
            join(thread)
        monkeypatch.undo()
    assert len(values) == 2
    assert values[0] is values[1]
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]


def test_t1_threads_may_share_a_block(app: Flask, arm: Sidearm, ledger: Any) -> None:
    """Each entering is a task of its own, however they are left."""
    thing = ledger.resource("thing")
    block = arm.task("import")
    turns = [threading.Event() for _ in range(4)]
    failed: list[BaseException] = []

    def first() -> None:
        with block:
            thing()
            turns[0].set()
            assert turns[1].wait(PATIENCE)
        turns[2].set()

    def second() -> None:
        assert turns[0].wait(PATIENCE)
        try:
            with block:
                thing()
                turns[1].set()
                assert turns[2].wait(PATIENCE)
                raise Broken
        except Broken as broken:
            failed.append(broken)

    threads = [run_in_thread(first), run_in_thread(second)]
    for thread in threads:
        join(thread)
    assert len(failed) == 1
    assert ledger.of("commit", "rollback", "release") == [
        "commit thing",
        "release thing",
        "rollback thing",
        "release thing",
    ]


# -- what another thread adds at the very moment of the settling

SUCCESS = Decision(True, "the test's")


class SettlingClaims(dict[Any, Any]):
    """The claims of a round that is settled just before or after one more is put there."""

    def __init__(self, settle: Callable[[], Any], when: str) -> None:
        super().__init__()
        self._settle, self._when = settle, when

    def __setitem__(self, resource: Any, claim: Any) -> None:
        if self._when == "before":
            self._settle()
        super().__setitem__(resource, claim)
        if self._when == "after":
            self._settle()


class SettlingCalls(deque[Any]):
    """What a round holds; it is settled just before or after one more is put there."""

    def __init__(self, settle: Callable[[], Any], when: str) -> None:
        super().__init__()
        self._settle, self._when = settle, when

    def append(self, held: Any) -> None:
        if self._when == "before":
            self._settle()
        super().append(held)
        if self._when == "after":
            self._settle()


def test_t2_t9_a_claim_that_comes_just_before_the_settling_is_settled(
    app: Flask, arm: Sidearm, ledger: Any
) -> None:
    thing = ledger.resource("thing")
    with app.app_context(), arm.task("import") as task:
        task.round.claims = SettlingClaims(lambda: task.round.settle(SUCCESS), "after")
        assert thing() is not None
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]


def test_t2_t9_a_claim_that_comes_just_after_the_settling_is_given_back(
    app: Flask, arm: Sidearm, ledger: Any
) -> None:
    thing = ledger.resource("thing")
    with app.app_context(), arm.task("import") as task:
        task.round.claims = SettlingClaims(lambda: task.round.settle(SUCCESS), "before")
        with pytest.raises(TaskSettled, match="thing"):
            thing()
    assert ledger.lines == ["claim thing", "rollback thing", "release thing"]


def test_t7_t9_a_callback_that_comes_just_before_the_settling_runs_once(
    app: Flask, arm: Sidearm, ledger: Any
) -> None:
    with app.app_context(), arm.task("import") as task:
        task.round.held = SettlingCalls(lambda: task.round.settle(SUCCESS), "after")
        after_commit(lambda: ledger.lines.append("callback"))
    assert ledger.lines == ["callback"]


def test_t7_t9_a_callback_that_comes_just_after_the_settling_is_refused(
    app: Flask, arm: Sidearm, ledger: Any
) -> None:
    with app.app_context(), arm.task("import") as task:
        task.round.held = SettlingCalls(lambda: task.round.settle(SUCCESS), "before")
        with pytest.raises(TaskSettled, match="after_commit"):
            after_commit(lambda: ledger.lines.append("callback"))
        assert not task.round.held
    assert ledger.lines == []


def test_t7_a_rollbacks_callback_never_runs_because_it_comes_just_after_a_commit(
    app: Flask, arm: Sidearm, ledger: Any
) -> None:
    """The first callback registers another one while the round lets its callbacks go."""
    with app.app_context(), arm.task("import") as task:
        round_ = task.round

        @after_commit
        def first() -> None:
            late = Held(lambda: ledger.lines.append("after_rollback"), on="rollback")
            round_.mirrors = True
            round_.held.append(late)  # as a thread does that saw the round open

    assert ledger.lines == []


def test_t7_t9_a_thread_that_begins_a_callbacks_round_as_the_callback_ends_leaks_nothing(
    app: Flask, arm: Sidearm, ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round that it begins is settled with the callback, whatever it claims there or not."""
    thing = ledger.resource("thing")
    began = threading.Event()
    refused: list[BaseException] = []
    threads: list[threading.Thread] = []

    def of_callback(parent: Round) -> Round:
        began.set()
        deadline = time.monotonic() + PATIENCE
        while parent.calling and time.monotonic() < deadline:
            time.sleep(0.001)
        round_ = real(parent)
        made.append(round_)
        return round_

    def claim() -> None:
        try:
            thing()
        except TaskSettled as error:
            refused.append(error)

    made: list[Round] = []
    real = Round.of_callback
    monkeypatch.setattr(Round, "of_callback", of_callback)
    with app.app_context(), arm.task("import") as task:
        work = task.round

        @after_commit
        def callback() -> None:
            threads.append(run_in_thread(claim))
            assert began.wait(PATIENCE)

    for thread in threads:
        join(thread)
    assert task.round is work
    assert [round_.state for round_ in made] == ["closed"]
    assert len(refused) == 1 - ledger.count("claim")
    assert ledger.count("claim") == ledger.count("release")


def test_t9_of_two_threads_that_settle_a_round_one_does(
    app: Flask, arm: Sidearm, ledger: Any
) -> None:
    """Both see it open; the second does nothing, whatever the first has come to."""
    thing = ledger.resource("thing")
    with app.app_context(), arm.task("import") as task:
        round_ = task.round

        class Connection:
            def commit(self) -> None:
                ledger.lines.append("commit again")
                round_.state = "open"  # what a thread saw that comes now
                assert round_.settle(SUCCESS) == []
                round_.state = "committing"

        @arm.resource
        def again() -> Iterator[Connection]:
            yield Connection()

        thing()
        again()
    assert ledger.lines == ["claim thing", "commit thing", "commit again", "release thing"]


def test_t9_a_round_that_is_opened_again_in_the_moment_of_the_teardown_takes_nothing(
    app: Flask, ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The teardown did not see it: nobody would settle it."""
    thing = ledger.resource("thing")
    real = Task.new_round

    def torn_down_meanwhile(task: Task, *args: Any) -> Any:
        round_ = real(task, *args)
        task.torn_down = push_of(current_request_context(None))
        return round_

    with app.test_request_context():
        task = current_task._get_current_object()  # type: ignore[attr-defined]
        task.round.settle(SUCCESS)
        monkeypatch.setattr(Task, "new_round", torn_down_meanwhile)
        with pytest.raises(TaskSettled):
            thing()
        assert task.round.state == "closed"
    assert ledger.lines == []


def test_t2_t9_a_round_that_another_thread_began_just_before_an_error_page_leaks_nothing(
    handled: Flask, ledger: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It claims between the rollback and the error page's round: what it got is settled."""
    thing = ledger.resource("thing")
    real = Task.new_round
    threads: list[threading.Thread] = []

    def new_round(task: Task, kind: str, decided: Any = None) -> Any:
        if kind == "error page":
            threads.append(run_in_thread(thing))
            join(threads[0])
        return real(task, kind, decided)

    def view() -> None:
        thing()
        raise Broken

    serve(view)
    monkeypatch.setattr(Task, "new_round", new_round)
    assert handled.test_client().get("/").status_code == 500
    assert len(threads) == 1
    assert ledger.count("claim") == ledger.count("release") == 2
    assert ledger.count("commit") == 0


def test_t7_t9_a_callback_is_held_while_another_thread_claims(
    app: Flask, arm: Sidearm, ledger: Any
) -> None:
    """Its transactions are looked up as the other thread adds one more claim."""
    others = [ledger.resource("other")]
    ran: list[str] = []

    class Telling(Claim):
        """One that is asked for its transaction while another thread claims."""

        tells = True

        def transaction(self) -> None:
            if others:
                join(run_in_thread(others.pop()))

    class Told(Resource):
        def claim(self) -> Claim:
            return Telling(self, object())

    told = arm.use(Told("told"))
    with app.app_context(), arm.task("import"):
        told()
        after_commit(lambda: ran.append("callback"))
    assert ran == ["callback"]
    assert ledger.count("claim") == ledger.count("release") == 1


def test_t7_what_another_thread_registers_as_a_savepoint_is_undone_moves_nothing(
    app: Flask, arm: Sidearm
) -> None:
    """What is inside is dropped, what is outside waits in its order, and the new one is last."""
    ran: list[str] = []

    class Growing(deque[Any]):
        """What a round holds; another thread adds to it as soon as somebody has counted it."""

        def __len__(self) -> int:
            length = super().__len__()
            if late:
                super().append(late.pop())
            return length

    late: list[Held] = []
    with app.app_context(), arm.task("import") as task:
        after_commit(lambda: ran.append("outside"))
        task.round.held = Growing(task.round.held)
        with pytest.raises(Broken), current_task.savepoint():
            after_commit(lambda: ran.append("inside"))
            late.append(Held(lambda: ran.append("another thread's")))
            raise Broken
    assert ran == ["outside", "another thread's"]


def test_t3_t7_a_callback_that_closes_its_connection_stops_nothing(
    app: Flask, arm: Sidearm, serve: Any
) -> None:
    """The work is saved: the next callback runs, everything is released, the answer stays."""
    lines: list[str] = []

    @arm.resource
    def get_connection() -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(":memory:")) as connection:
            yield connection
        lines.append("released")

    def view() -> str:
        connection = get_connection()
        after_commit(connection.close)
        after_commit(lambda: lines.append("second"))
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert lines == ["second", "released"]


def test_t3_a_claim_that_cannot_be_asked_stops_no_callback(
    app: Flask, arm: Sidearm, ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its driver raises then."""
    thing = ledger.resource("thing")

    def broken(_: object) -> bool:
        raise Broken

    with app.app_context(), arm.task("import") as task:
        thing()
        task.round.can_look = True
        for claim in task.round.claims.values():
            claim.can_look = True
            monkeypatch.setattr(type(claim), "unsaved", broken)
        after_commit(lambda: ledger.lines.append("callback"))
    assert ledger.lines == ["claim thing", "commit thing", "callback", "release thing"]


# -- sessions of SQLAlchemy


def test_t12_one_database_object_serves_several_applications(tmp_path: Any) -> None:
    """Each has a Sidearm of its own, and each one's writes are saved."""
    from flask_sqlalchemy import SQLAlchemy

    db = SQLAlchemy()

    class Note(db.Model):  # type: ignore[misc, name-defined]
        id = db.Column(db.Integer, primary_key=True)
        text = db.Column(db.String)

    applications = []
    for name in ("one", "two"):
        app = Flask(name)
        app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path / name}.db"
        arm = Sidearm(app)
        arm.use(db, commit="task")
        db.init_app(app)
        with app.app_context():
            db.create_all()

        @app.get("/")
        def view() -> str:
            db.session.add(Note(text="saved"))
            return "ok"

        applications.append(app)
    for app in applications:
        assert app.test_client().get("/").text == "ok"
    for app in applications:
        with app.app_context():
            assert db.session.scalars(db.select(Note.text)).all() == ["saved"]
            db.engine.dispose()


@pytest.fixture
def scoped(arm: Sidearm, make: Any) -> Iterator[Any]:
    """A scoped session that the task commits, its sessionmaker, and a class."""
    from sqlalchemy.orm import scoped_session, sessionmaker

    store = make("session")
    store.factory = sessionmaker(store.engine)
    store.session = scoped_session(store.factory)
    arm.use(store.session)
    yield store
    store.session.remove()


def test_t12_a_session_made_beside_a_scoped_one_is_the_applications_own(
    app: Flask, scoped: Any, serve: Any
) -> None:
    """It is not taken for the scoped one, whose writes would then be lost."""

    def view() -> str:
        with closing(scoped.factory()) as own:
            assert own.query(scoped.Note).count() == 0
        scoped.session.add(scoped.Note(text="saved"))
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert scoped.saved() == ["saved"]
    assert scoped.out() == 0


@pytest.mark.parametrize("where", ["save_session", "teardown_request"])
def test_t3_t10_a_scoped_session_that_is_used_after_the_settling_goes_back(
    app: Flask, scoped: Any, serve: Any, sessions: Sessions, where: str
) -> None:
    """No connection is kept until the thread's next request."""

    def read(*_: Any) -> None:
        scoped.session.query(scoped.Note).count()

    def view() -> str:
        scoped.session.add(scoped.Note(text="saved"))
        return "ok"

    serve(view)
    if where == "save_session":
        sessions.on_save = read
    else:
        app.teardown_request(read)
    assert app.test_client().get("/").text == "ok"
    assert scoped.saved() == ["saved"]
    assert scoped.out() == 0


def test_t1_an_inner_task_whose_teardown_raises_gives_the_outer_session_back(
    app: Flask, arm: Sidearm, scoped: Any, serve: Any
) -> None:
    """The outer task goes on with its own, and what it wrote is saved."""
    fails = [Broken("in a teardown function")]

    @app.teardown_appcontext
    def fail(_: Any) -> None:
        if fails:
            raise fails.pop()

    def view() -> str:
        scoped.session.add(scoped.Note(text="outer"))
        outer = scoped.session()
        with raises(Broken), arm.task("inner"):
            assert scoped.session() is not outer
        assert scoped.session() is outer
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert scoped.saved() == ["outer"]
    assert scoped.out() == 0


def test_t1_an_inner_task_that_cannot_begin_gives_the_outer_session_back(
    app: Flask, arm: Sidearm, scoped: Any, serve: Any
) -> None:
    """Also where a receiver of ``appcontext_pushed`` raises."""
    from flask import appcontext_pushed

    def view() -> str:
        scoped.session.add(scoped.Note(text="outer"))
        outer = scoped.session()

        def fail(_: Any) -> None:
            raise Broken

        with (
            appcontext_pushed.connected_to(fail, app),
            pytest.raises(Broken),
            arm.task("inner"),
        ):
            pytest.fail("it was entered")
        assert scoped.session() is outer
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert scoped.saved() == ["outer"]


def test_t9_logging_is_quiet_where_nothing_failed(
    app: Flask, ledger: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A teardown function that claims is no incident."""
    thing = ledger.resource("thing")
    serve(lambda: "ok", endpoint="view")
    app.teardown_request(lambda _: thing() and None)
    with caplog.at_level(logging.INFO, "sidearm"):
        assert app.test_client().get("/").text == "ok"
    assert not caplog.records


@pytest.mark.parametrize("outer_first", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_t1_t12_the_session_of_an_inner_context_settles_with_the_request(
    handled: Flask, make: Any, serve: Any, outer_first: bool, fails: bool
) -> None:
    """Flask-SQLAlchemy would remove it at the context's end, and its work with it."""
    store = make("flask-sqlalchemy", "task")

    def view() -> str:
        if outer_first:
            store.write("outer")
        with handled.app_context():
            store.write("inner")
        with handled.app_context():
            store.write("another")
        if not outer_first:
            store.write("outer")
        if fails:
            raise Broken
        return "ok"

    serve(view)
    for _ in range(2):
        assert handled.test_client().get("/").status_code == (500 if fails else 200)
    assert sorted(store.saved()) == ([] if fails else sorted(["another", "inner", "outer"] * 2))
    assert store.out() == 0


def test_t1_t12_the_same_in_a_block(app: Flask, arm: Sidearm, make: Any) -> None:
    """Inside ``arm.task()`` an inner context belongs to that task."""
    store = make("flask-sqlalchemy", "task")
    with app.test_request_context(), arm.task("import"):
        store.write("outer")
        with app.app_context():
            store.write("inner")
        assert store.saved() == []
    assert sorted(store.saved()) == ["inner", "outer"]
    assert store.out() == 0


def test_t13_a_commit_by_hand_in_an_inner_context_lets_its_event_leave(
    handled: Flask, make: Any, serve: Any, captured: Any
) -> None:
    """Its transaction is the inner session's, whatever becomes of the outer one."""
    store = make("flask-sqlalchemy", "explicit")

    def view() -> None:
        store.write("outer")
        store.commit()
        with handled.app_context():
            store.write("inner")
            publish("notes", "inner")
            store.commit()
        raise Broken

    serve(view)
    assert handled.test_client().get("/").status_code == 500
    assert store.saved() == ["outer", "inner"]
    assert [event.data for event in captured.events] == ["inner"]
    assert store.out() == 0


def test_t1_t12_a_threads_own_session_settles_with_the_task(
    app: Flask, scoped: Any, serve: Any
) -> None:
    """A thread that shares the task has a scope of its own, and its work is saved too."""

    def view() -> str:
        scoped.session.add(scoped.Note(text="outer"))
        scoped.session.flush()
        scoped.session.commit()
        scoped.session.query(scoped.Note).count()
        join(run_in_thread(lambda: scoped.session.add(scoped.Note(text="thread"))))
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert scoped.saved() == ["outer", "thread"]
    assert scoped.out() == 0


# -- what a callback writes through what it kept (DJ-17)


@pytest.mark.parametrize("asks", [True, False])
def test_t13_a_rollback_by_hand_in_a_callback_drops_what_it_registered(
    app: Flask, arm: Sidearm, make: Any, asks: bool
) -> None:
    """Also where it works on a connection that it kept."""
    store = make("sqlite3")
    ran: list[str] = []
    with app.app_context(), arm.task("work"):
        store.write("work")
        kept = store.connection()

        def callback() -> None:
            connection = store.connection() if asks else kept
            connection.execute("INSERT INTO notes (text) VALUES ('undone')")
            after_commit(lambda: ran.append("of what was undone"))
            connection.rollback()
            after_commit(lambda: ran.append("of the callback"))

        after_commit(callback)
    assert store.saved() == ["work"]
    assert ran == ["of the callback"]


def test_dj_17_what_a_callback_writes_through_a_closure_is_saved(
    app: Flask, store: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It need not ask for the connection again; each callback settles alone."""

    def view() -> str:
        store.write("order")
        connection = store.connection()

        def write(text: str) -> None:
            with monkeypatch.context() as patch:
                patch.setattr(store, "connection", lambda: connection)
                store.write(text)

        def fail() -> None:
            write("lost")
            raise Broken

        after_commit(lambda: write("first"))
        after_commit(fail)
        after_commit(lambda: write("third"))
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert store.saved() == ["order", "first", "third"]
    assert store.out() == 0


@pytest.mark.parametrize("knows", [True, False])
def test_t5_what_sqlite_rolled_back_by_itself_is_no_commit(
    handled: Flask, make: Any, serve: Any, knows: bool
) -> None:
    """For a full disk, or as a constraint asks for it, all work before the statement is lost."""
    store = make("sqlite3")
    ran: list[str] = []

    def view() -> str:
        store.write("order")
        after_commit(lambda: ran.append("mail"))
        database = store.connection()
        (number,) = database.execute("SELECT max(id) FROM notes").fetchone()
        try:
            database.execute("INSERT OR ROLLBACK INTO notes VALUES (?, 'twice')", (number,))
        except sqlite3.IntegrityError:
            if knows:
                database.rollback()
                store.write("another")
        return "saved"

    serve(view)
    answer = handled.test_client().get("/")
    assert answer.status_code == (200 if knows else 500)
    assert store.saved() == (["another"] if knows else [])
    assert ran == []
    assert store.out() == 0


# -- commands and teardown functions


def test_t7_t9_a_callback_of_a_command_shares_its_claims(app: Flask, ledger: Any) -> None:
    """It is the command's own task that the callback works in, also after one that was ended."""
    thing = ledger.resource("thing")

    def interrupted() -> None:
        raise KeyboardInterrupt

    @app.cli.command("work")
    def work() -> None:
        thing()
        after_commit(interrupted)
        after_commit(lambda: ledger.lines.append(f"callback {thing() is not None}"))

    with raises(KeyboardInterrupt) if MERGED else contextlib.nullcontext():
        app.test_cli_runner().invoke(args=["work"])
    assert ledger.lines[:3] == ["claim thing", "commit thing", "callback True"]
    assert ledger.lines[-1] == "release thing"
    assert ledger.count("claim") == ledger.count("release") == 1


@pytest.mark.parametrize("kind", ["context", "request"])
def test_t2_t9_a_teardown_function_that_claims_and_raises_leaves_nothing(
    app: Flask, ledger: Any, serve: Any, kind: str
) -> None:
    """Nothing that Flask still calls then could see it."""
    thing = ledger.resource("thing")
    serve(lambda: "ok", endpoint="view")

    @app.teardown_appcontext
    def teardown(_: Any) -> None:
        thing()
        raise Broken

    def end() -> None:
        if kind == "request":
            app.test_client().get("/")
        else:
            app.app_context().__enter__().pop()

    for _ in range(2):
        ledger.lines.clear()
        with raises(Broken):
            end()
        assert ledger.lines == ["claim thing", "rollback thing", "release thing"]


# -- what would do nothing is not called


@pytest.mark.parametrize(
    "name", ["do_teardown_request", "do_teardown_appcontext", "preprocess_request"]
)
def test_t9_a_method_of_flask_that_somebody_has_wrapped_is_called(
    app: Flask, serve: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Tracing tools wrap it on the class, before or after Sidearm is imported."""
    calls: list[object] = []
    real = vars(Flask)[name]

    @functools.wraps(real)
    def traced(*args: Any) -> None:
        calls.append(args[0])
        real(*args)

    assert flask_contexts.own_method(name) is real
    monkeypatch.setattr(Flask, name, traced)
    assert flask_contexts.own_method(name) is None
    serve(lambda: "ok")
    app.test_client().get("/")
    assert calls == [app]


@pytest.mark.parametrize("signal", [request_tearing_down, appcontext_tearing_down])
def test_t9_a_receiver_of_teardown_is_told_where_there_is_no_function(
    app: Flask, serve: Any, signal: Any
) -> None:
    told: list[object] = []

    def receiver(sender: object, **_: Any) -> None:
        told.append(sender)

    serve(lambda: "ok")
    with signal.connected_to(receiver, app):
        app.test_client().get("/")
    assert told == [app]

"""Contracts T3 and T5: in which order resources settle, when, and what a failing commit becomes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from flask import (
    Blueprint,
    Flask,
    Response,
    after_this_request,
    flash,
    get_flashed_messages,
    got_request_exception,
    redirect,
    request,
    session,
)
from flask.sessions import SecureCookieSessionInterface
from flasks import raises
from werkzeug.exceptions import HTTPException
from werkzeug.test import EnvironBuilder

from sidearm import Sidearm, after_commit, after_rollback, current_task, publish
from sidearm.signals import release_failed
from sidearm.tasks.task import CLOSED, STATES, Round

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path


class CommitError(Exception):
    """What a database says at COMMIT."""


class Boom(Exception):
    """Another error, to be told from the first."""


class Killed(BaseException):
    """No ``Exception``."""


def all_of(error: BaseException) -> list[BaseException]:
    """The error, those in its group, and those it was raised from or during."""
    found: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or each in found:
            continue
        found.append(each)
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions
        waiting += [each.__cause__, each.__context__]
    return found


def told(error: BaseException) -> str:
    """Everything that an error says: its message, its notes, those of its group."""
    return " ".join(f"{each} {' '.join(getattr(each, '__notes__', []))}" for each in all_of(error))


# -- T3: order


def test_t3_commit_in_claim_order_release_in_reverse(app: Flask, ledger: Any, serve: Any) -> None:
    """Resources commit in the order in which they were claimed, and are released in reverse."""
    first, second, third = map(ledger.resource, ("first", "second", "third"))

    def view() -> str:
        second(), first(), third(), first()
        return "ok"

    serve(view)
    app.test_client().get("/")
    assert ledger.lines == [
        *("claim second", "claim first", "claim third"),
        *("commit second", "commit first", "commit third"),
        *("release third", "release first", "release second"),
    ]


def test_t3_rollback_and_release_in_reverse(arm: Sidearm, app: Flask, ledger: Any) -> None:
    """They roll back in reverse, all of them, and are then released in reverse."""
    first, second = map(ledger.resource, ("first", "second"))
    with pytest.raises(Boom), arm.task("work"):
        first(), second()
        raise Boom
    assert ledger.lines == [
        *("claim first", "claim second"),
        *("rollback second", "rollback first"),
        *("release second", "release first"),
    ]


def test_tx_09_the_order_is_always_that_of_the_claims(
    arm: Sidearm, app: Flask, ledger: Any
) -> None:
    """The same resources, claimed in another order by the next task, commit in that order."""
    first, second = map(ledger.resource, ("first", "second"))
    for order in ((first, second), (second, first)):
        with arm.task("work"):
            for claim in order:
                claim()
    assert ledger.of("commit") == [
        *("commit first", "commit second"),
        *("commit second", "commit first"),
    ]


def test_pt_20_a_good_view_commits_once_and_rolls_nothing_back(
    app: Flask, ledger: Any, serve: Any
) -> None:
    """A good view with one resource: one commit, no rollback, one release."""
    thing = ledger.resource("thing")

    def view() -> str:
        thing()
        return "ok"

    serve(view)
    app.test_client().get("/")
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]


# -- T3: commits that fail


def test_t3_the_first_commit_that_fails_ends_the_committing(
    arm: Sidearm, app: Flask, ledger: Any
) -> None:
    """What has not committed rolls back, and the error names what had."""
    claims = [
        ledger.resource("ledger"),
        ledger.resource("stock", commit=CommitError("deferred constraint")),
        ledger.resource("audit"),
    ]
    with pytest.raises(CommitError) as caught, arm.task("purchase"):
        for claim in claims:
            claim()
    assert ledger.of("commit") == ["commit ledger", "commit stock"]
    assert ledger.of("rollback") == ["rollback audit", "rollback stock"]
    assert ledger.of("release") == ["release audit", "release stock", "release ledger"]
    assert "deferred constraint" in str(caught.value)
    assert "ledger" in told(caught.value)


def test_tx_08_a_half_saved_task_is_loud(
    arm: Sidearm, app: Flask, ledger: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """When one had committed for good and the next fails, a log line of ERROR or above has both."""
    ledger_, stock = ledger.resource("ledger"), ledger.resource("stock", commit=CommitError())
    with pytest.raises(CommitError) as caught, arm.task("purchase"):
        ledger_(), stock()
    assert "ledger" in told(caught.value)
    assert "stock" in told(caught.value)
    lines = [each for each in caplog.records if each.levelname in {"ERROR", "CRITICAL"}]
    assert any("ledger" in each.getMessage() and "stock" in each.getMessage() for each in lines)


def test_tx_07_nothing_is_said_to_be_saved_when_nothing_was(
    arm: Sidearm, app: Flask, ledger: Any
) -> None:
    """Where the first commit fails, both roll back and are released, and the error goes on."""
    error = CommitError("the first")
    first, second = ledger.resource("first", commit=error), ledger.resource("second")
    with pytest.raises(CommitError) as caught, arm.task("work"):
        first(), second()
    assert caught.value is error
    assert ledger.of("commit") == ["commit first"]
    assert ledger.of("rollback") == ["rollback second", "rollback first"]
    assert ledger.count("release") == 2
    assert not getattr(error, "__notes__", [])


def test_ra_04_tx_10_no_callback_runs_after_a_failing_commit(
    arm: Sidearm, app: Flask, ledger: Any
) -> None:
    """``after_commit`` callbacks do not run when the commit fails, ``after_rollback`` ones do."""
    ran = []
    thing = ledger.resource("thing", commit=CommitError())
    with pytest.raises(CommitError), arm.task("work"):
        thing()
        after_commit(lambda: ran.append("commit"))
        after_rollback(lambda: ran.append("rollback"))
    assert ran == ["rollback"]


def test_ra_01_callbacks_wait_for_every_commit(arm: Sidearm, app: Flask, make: Any) -> None:
    """With two databases in one task callbacks run when *both* have committed."""
    one, two = make("generator"), make("session")
    seen = []
    with arm.task("both"):
        one.write("one")
        two.write("two")
        after_commit(lambda: seen.append((one.saved(), two.saved())))
    assert seen == [(["one"], ["two"])]
    assert (one.out(), two.out()) == (0, 0)


def test_t3_a_failing_second_commit_drops_all_callbacks(
    handled: Flask, make: Any, ledger: Any, serve: Any
) -> None:
    """Half saved is not saved: no callback runs when the second of two commits fails."""
    store, second = make("generator"), ledger.resource("second", commit=CommitError())
    ran = []

    def view() -> str:
        store.write("first")
        second()
        after_commit(lambda: ran.append("commit"))
        return "ok"

    serve(view)
    assert handled.test_client().get("/").status_code == 500
    assert store.saved() == ["first"]
    assert ran == []
    assert store.out() == 0


@pytest.mark.parametrize("error", [Killed(), SystemExit(0), KeyboardInterrupt()])
def test_t3_a_base_exception_in_a_commit_rolls_back_and_releases_too(
    arm: Sidearm, app: Flask, ledger: Any, error: BaseException
) -> None:
    """A process that is told to end in the middle of a commit still rolls back and releases."""
    first, second = ledger.resource("first", commit=error), ledger.resource("second")
    with pytest.raises(type(error)), arm.task("work"):
        first(), second()
    assert ledger.of("rollback") == ["rollback second", "rollback first"]
    assert ledger.of("release") == ["release second", "release first"]


@pytest.mark.parametrize("error", [Killed(), SystemExit(0)])
def test_t3_a_base_exception_in_a_requests_commit_goes_on(
    handled: Flask, ledger: Any, serve: Any, error: BaseException
) -> None:
    """In a request it is no page: it leaves the application, when all is released."""
    first, second = ledger.resource("first", commit=error), ledger.resource("second")

    def view() -> str:
        first(), second()
        return "ok"

    serve(view)
    with pytest.raises(type(error)):
        handled.test_client().get("/")
    assert ledger.of("release") == ["release second", "release first"]


# -- T3: rollbacks and releases that fail


@pytest.mark.parametrize("failure", [Boom("rollback"), Killed("rollback")])
def test_t3_a_failing_rollback_stops_no_other(
    arm: Sidearm, app: Flask, ledger: Any, failure: BaseException
) -> None:
    """The others roll back, all are released, and both errors are reported."""
    claims = [
        ledger.resource("a"),
        ledger.resource("b", rollback=failure),
        ledger.resource("c"),
    ]
    with pytest.raises(BaseException) as caught, arm.task("work"):
        for claim in claims:
            claim()
        raise CommitError("the work")
    assert ledger.of("rollback") == ["rollback c", "rollback b", "rollback a"]
    assert ledger.of("release") == ["release c", "release b", "release a"]
    found = all_of(caught.value)
    assert failure in found
    assert any(isinstance(each, CommitError) for each in found)


@pytest.mark.parametrize("failure", [Boom("release"), Killed("release")])
def test_t3_a_failing_release_after_a_rollback_stops_no_other(
    arm: Sidearm, app: Flask, ledger: Any, failure: BaseException
) -> None:
    """The other resources are released, and both errors are reported."""
    claims = [
        ledger.resource("a"),
        ledger.resource("b", release=failure),
        ledger.resource("c"),
    ]
    with pytest.raises(BaseException) as caught, arm.task("work"):
        for claim in claims:
            claim()
        raise CommitError("the work")
    assert ledger.of("release") == ["release c", "release b", "release a"]
    found = all_of(caught.value)
    assert failure in found
    assert any(isinstance(each, CommitError) for each in found)


def test_t3_several_errors_are_one_group(arm: Sidearm, app: Flask, ledger: Any) -> None:
    """Several errors of one settling come as one ``ExceptionGroup`` that has them all."""
    claims = [
        ledger.resource("a", rollback=Boom("rollback a")),
        ledger.resource("b", rollback=Boom("rollback b"), release=Boom("release b")),
    ]
    with pytest.raises(ExceptionGroup) as caught, arm.task("work") as task:
        for claim in claims:
            claim()
        task.doom("rehearsal")
    assert {str(each) for each in all_of(caught.value) if isinstance(each, Boom)} == {
        *("rollback a", "rollback b", "release b")
    }
    assert ledger.count("release") == 2


def test_t3_a_failing_commit_and_a_failing_rollback_are_both_reported(
    arm: Sidearm, app: Flask, ledger: Any
) -> None:
    """A commit and then the rollback of another resource fail: a group of both."""
    first = ledger.resource("first", commit=CommitError("commit first"))
    second = ledger.resource("second", rollback=Boom("rollback second"))
    with pytest.raises(ExceptionGroup) as caught, arm.task("work"):
        first(), second()
    assert {type(each) for each in caught.value.exceptions} == {CommitError, Boom}


@pytest.mark.parametrize("failure", [Boom("release"), Killed("release")])
def test_t3_a_failing_release_after_the_commit_is_logged_and_signalled(
    handled: Flask,
    make: Any,
    ledger: Any,
    serve: Any,
    caplog: pytest.LogCaptureFixture,
    failure: BaseException,
) -> None:
    """After a complete commit nothing turns the response into an error."""
    store = make("generator")
    bad, other = ledger.resource("bad", release=failure), ledger.resource("other")
    signalled: list[Any] = []

    def view() -> str:
        store.write("work")
        bad(), other()
        return "bought"

    def receive(sender: Any, **facts: Any) -> None:
        signalled.append((sender, facts["resource"], facts["exception"]))

    serve(view)
    with release_failed.connected_to(receive):
        response = handled.test_client().get("/")
    assert (response.status_code, response.text) == (200, "bought")
    assert store.saved() == ["work"]
    assert store.out() == 0
    assert ledger.of("release") == ["release other", "release bad"]
    assert signalled == [(handled, "bad", failure)]
    errors = [each for each in caplog.records if each.levelname == "ERROR"]
    assert len(errors) == 1
    assert "bad" in errors[0].getMessage()
    assert errors[0].exc_info is not None
    assert errors[0].exc_info[1] is failure


def test_t3_a_failing_release_after_a_commit_raises_nothing_from_a_block(
    arm: Sidearm, app: Flask, ledger: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor does it raise out of ``arm.task()``: what was saved is saved."""
    thing = ledger.resource("thing", release=Boom())
    with arm.task("work"):
        thing()
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]
    assert "thing" in caplog.text


def test_pt_11_a_rollback_that_raises_after_a_refused_200_is_answered_by_its_handler(
    handled: Flask, ledger: Any, serve: Any
) -> None:
    """The handler of the rollback's error answers instead of the 200."""
    thing = ledger.resource("thing", rollback=Boom())

    @handled.errorhandler(Boom)
    def handler(_: Boom) -> Any:
        return "the database is gone", 503

    def view() -> str:
        thing()
        current_task.doom("rehearsal")
        return "ok"

    serve(view)
    response = handled.test_client().get("/")
    assert (response.status_code, response.text) == (503, "the database is gone")
    assert ledger.count("release") == 1


def test_pt_12_a_rollback_that_raises_after_the_view_raised(
    handled: Flask, ledger: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler of the rollback's error gets its turn, and both errors are reported."""
    thing = ledger.resource("thing", rollback=Boom("of the rollback"))
    seen: list[BaseException] = []

    @handled.errorhandler(Boom)
    def handler(error: Boom) -> Any:
        seen.append(error)
        return "the database is gone", 503

    def view() -> None:
        thing()
        raise CommitError("of the view")

    serve(view)
    response = handled.test_client().get("/")
    assert (response.status_code, response.text) == (503, "the database is gone")
    assert ledger.count("release") == 1
    assert "of the view" in told(seen[0]) or "of the view" in caplog.text


def test_pt_13_a_rollback_that_raises_is_not_swallowed(app: Flask, ledger: Any, serve: Any) -> None:
    """Without a handler it is raised, under ``PROPAGATE_EXCEPTIONS``, like any error."""
    failure = Boom("of the rollback")
    thing = ledger.resource("thing", rollback=failure)

    def view() -> Any:
        thing()
        return "no", 409

    serve(view)
    with pytest.raises(BaseException) as caught:
        app.test_client().get("/")
    assert failure in all_of(caught.value)
    assert ledger.count("release") == 1


def test_pt_13_without_propagation_it_is_the_500_page(
    handled: Flask, ledger: Any, serve: Any
) -> None:
    """And the 500 page otherwise."""
    thing = ledger.resource("thing", rollback=Boom())

    def view() -> str:
        thing()
        current_task.doom("rehearsal")
        return "ok"

    serve(view)
    assert handled.test_client().get("/").status_code == 500
    assert ledger.count("release") == 1


def test_t3_a_failed_settling_leaves_the_next_task_clean(
    handled: Flask, arm: Sidearm, ledger: Any, serve: Any, notes: Any
) -> None:
    """Whatever failed: the next request works, with claims of its own."""
    bad = ledger.resource("bad", rollback=Killed(), release=Killed())
    state = {"bad": True}

    def view() -> str:
        notes.write("work")
        if state["bad"]:
            bad()
            raise Boom
        return "ok"

    serve(view)
    client = handled.test_client()
    with pytest.raises(BaseException) as caught:
        client.get("/")
    assert any(isinstance(each, Killed) for each in all_of(caught.value))
    assert notes.out() == 0
    state["bad"] = False
    assert client.get("/").text == "ok"
    assert notes.saved() == ["work"]


# -- T5: when


class NotingSession(SecureCookieSessionInterface):
    """Flask's own session, which writes down when it is saved."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def save_session(self, *args: Any) -> None:
        self.lines.append("session saved")
        super().save_session(*args)


def test_t5_commit_follows_after_request_and_precedes_session_save(
    app: Flask, ledger: Any, serve: Any
) -> None:
    """The order: after_request functions of request, blueprint, app; commit; session; bytes."""
    lines = ledger.lines
    thing = ledger.resource("thing")
    app.session_interface = NotingSession(lines)

    def noting(name: str) -> Callable[[Response], Response]:
        def function(response: Response) -> Response:
            lines.append(name)
            return response

        return function

    blueprint = Blueprint("pages", __name__)
    blueprint.after_request(noting("after_request of the blueprint"))
    app.after_request(noting("after_request of the app"))

    @blueprint.get("/")
    def view() -> str:
        thing()
        session["user"] = 7
        after_this_request(noting("after_this_request"))
        return "ok"

    app.register_blueprint(blueprint)

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        lines.append(f"head {status}")
        return lambda _: None

    body: Any = app.wsgi_app(EnvironBuilder("/").get_environ(), start_response)
    body.close()
    assert sorted(lines[1:4]) == [
        *("after_request of the app", "after_request of the blueprint", "after_this_request")
    ]
    assert [lines[0], *lines[4:]] == [
        *("claim thing", "commit thing", "release thing"),
        *("session saved", "head 200 OK"),
    ]


@pytest.mark.parametrize("when", ["before init_app", "after init_app", "another extension's"])
def test_t5_the_commit_is_last_whenever_functions_were_registered(
    when: str, arm: Sidearm, ledger: Any
) -> None:
    """The commit comes after ``after_request`` functions whatever the order of installation."""
    app = Flask(__name__)
    app.config.update(TESTING=True)
    thing = ledger.resource("thing")

    def after(response: Response) -> Response:
        ledger.lines.append("after_request")
        return response

    if when == "before init_app":
        app.after_request(after)
    arm.init_app(app)
    if when == "after init_app":
        app.after_request(after)
    if when == "another extension's":
        app.after_request_funcs.setdefault(None, []).insert(0, after)

    @app.get("/")
    def view() -> str:
        thing()
        return "ok"

    client = app.test_client()
    for _ in range(2):
        client.get("/")
        assert ledger.lines == ["claim thing", "after_request", "commit thing", "release thing"]
        ledger.lines.clear()


def test_t5_the_row_is_there_when_the_first_byte_leaves(app: Flask, store: Any, serve: Any) -> None:
    """A client that reads its answer finds the work saved, also with a body that streams."""
    seen = []

    def view() -> Response:
        store.write("work")

        def body() -> Generator[str]:
            seen.append((store.saved(), store.out()))
            yield "ok"

        return Response(body())

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert seen == [(["work"], 0)]


# -- T5: a commit that fails


@pytest.fixture
def bank(handled: Flask, tmp_path: Path, arm: Sidearm) -> Any:
    """The view of C3, on SQLite: a deferred foreign key dangles, so COMMIT itself fails.

    The view also logs in, flashes, registers a callback and publishes, and answers 201.
    """
    path = tmp_path / "bank.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE account (id INTEGER PRIMARY KEY);"
            "CREATE TABLE entry (id INTEGER PRIMARY KEY, account INTEGER"
            " REFERENCES account DEFERRABLE INITIALLY DEFERRED);"
        )

    class Bank:
        claims = releases = 0
        app = handled

        def __init__(self) -> None:
            self.ran: list[str] = []
            self.connection = sqlite3.connect(path)
            self.connection.execute("PRAGMA foreign_keys = ON")

        def rows(self) -> int:
            with closing(sqlite3.connect(path)) as other:
                return int(other.execute("SELECT count(*) FROM entry").fetchone()[0])

    bank = Bank()

    @arm.resource
    def get_connection() -> Generator[sqlite3.Connection]:
        bank.claims += 1
        try:
            yield bank.connection
        finally:
            bank.releases += 1
            assert not bank.connection.in_transaction

    @handled.post("/entry")
    def view() -> Any:
        get_connection().execute("INSERT INTO entry (account) VALUES (42)")
        session["user"] = 7
        flash("Booked.")
        after_commit(lambda: bank.ran.append("commit"))
        after_rollback(lambda: bank.ran.append("rollback"))
        publish("entries", {"account": 42})
        return "booked", 201, {"X-View": "yes", "Set-Cookie": "seen=1"}

    @handled.after_request
    def headers(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        response.headers.add("Vary", "Origin")
        response.headers["Access-Control-Allow-Origin"] = "https://shop.example"
        return response

    @handled.get("/whoami")
    def whoami() -> Any:
        return {"user": session.get("user"), "flashes": get_flashed_messages()}

    @handled.post("/deposit")
    def deposit() -> Any:
        get_connection().execute("INSERT INTO account VALUES (42)")
        get_connection().execute("INSERT INTO entry (account) VALUES (42)")
        return "ok"

    bank.get_connection = get_connection  # type: ignore[attr-defined]
    yield bank
    bank.connection.close()


def check_nothing_was_saved(bank: Any, client: Any, captured: Any) -> None:
    assert bank.rows() == 0
    assert bank.ran == ["rollback"]
    assert captured.events == []
    assert bank.claims == bank.releases
    # The connection is back and usable.
    assert client.post("/deposit").status_code == 200
    assert bank.rows() == 1
    assert client.get("/whoami").json == {"user": None, "flashes": []}


def test_c3_a_failing_commit_is_answered_by_the_handler_of_its_class(
    bank: Any, captured: Any
) -> None:
    """On SQLite: exactly the application's 409, with ``after_request``'s headers, no cookie."""

    @bank.app.errorhandler(sqlite3.IntegrityError)
    def handler(error: sqlite3.IntegrityError) -> Any:
        return {"error": "conflict"}, 409, {"X-Handler": "yes"}

    client = bank.app.test_client()
    response = client.post("/entry")
    assert (response.status_code, response.json) == (409, {"error": "conflict"})
    assert response.headers["X-Handler"] == "yes"
    assert response.headers["Content-Security-Policy"] == "default-src 'self'"
    assert response.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    assert "Origin" in response.headers.getlist("Vary")
    assert "Set-Cookie" not in response.headers
    assert "X-View" not in response.headers
    assert int(response.headers["Content-Length"]) == len(response.data)
    assert response.headers.getlist("Content-Type") == ["application/json"]
    check_nothing_was_saved(bank, client, captured)


def test_pt_10_a_failing_commit_without_a_handler_is_the_500_page(
    bank: Any, captured: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Flask's 500 page with ``original_exception``, logged and signalled once as any other."""
    originals: list[Any] = []
    signalled: list[Any] = []

    @bank.app.errorhandler(500)
    def page(error: Any) -> Any:
        originals.append(error.original_exception)
        return "our own 500 page", 500

    def receive(_: Any, exception: BaseException, **__: Any) -> None:
        signalled.append(exception)

    client = bank.app.test_client()
    with got_request_exception.connected_to(receive, bank.app):
        response = client.post("/entry")
    assert (response.status_code, response.text) == (500, "our own 500 page")
    assert response.headers["Content-Security-Policy"] == "default-src 'self'"
    assert "Set-Cookie" not in response.headers
    assert [type(each) for each in originals] == [sqlite3.IntegrityError]
    assert signalled == originals
    logged = [each for each in caplog.records if each.name == bank.app.logger.name]
    assert [each.levelname for each in logged] == ["ERROR"]
    assert "/entry" in logged[0].getMessage()
    check_nothing_was_saved(bank, client, captured)


def test_t5_without_any_handler_it_is_flasks_own_500_page(bank: Any, captured: Any) -> None:
    """Where the application handles nothing, its client sees Flask's page, not the server's."""
    client = bank.app.test_client()
    response = client.post("/entry")
    assert response.status_code == 500
    assert "Internal Server Error" in response.text
    assert "Content-Security-Policy" in response.headers
    assert "Set-Cookie" not in response.headers
    check_nothing_was_saved(bank, client, captured)


@pytest.mark.parametrize("config", [{"PROPAGATE_EXCEPTIONS": True}, {"TRAP": True}])
def test_pt_10_under_propagate_exceptions_the_error_is_raised(
    bank: Any, captured: Any, config: dict[str, bool]
) -> None:
    """The very error of the database leaves the application, as an unhandled one of a view does."""
    bank.app.config["PROPAGATE_EXCEPTIONS"] = None if "TRAP" in config else True
    client = bank.app.test_client()
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        client.post("/entry")
    check_nothing_was_saved(bank, client, captured)


def test_pt_09_under_propagate_exceptions_a_handler_still_answers(bank: Any, captured: Any) -> None:
    """A handler of the class is asked first, as Flask asks it for a view's error."""
    bank.app.config["PROPAGATE_EXCEPTIONS"] = True

    @bank.app.errorhandler(sqlite3.Error)
    def handler(_: sqlite3.Error) -> Any:
        return "handled", 409

    client = bank.app.test_client()
    assert client.post("/entry").status_code == 409
    check_nothing_was_saved(bank, client, captured)


def test_t5_a_handler_with_a_success_status_cannot_save_it(bank: Any, captured: Any) -> None:
    """What the handler answers is sent, and the work is lost all the same."""

    @bank.app.errorhandler(sqlite3.IntegrityError)
    def handler(_: sqlite3.IntegrityError) -> Any:
        return "shrug", 200

    client = bank.app.test_client()
    response = client.post("/entry")
    assert (response.status_code, response.text) == (200, "shrug")
    assert "Set-Cookie" not in response.headers
    check_nothing_was_saved(bank, client, captured)


def test_t5_a_handler_can_use_the_database_and_the_session(bank: Any) -> None:
    """It queries at once; what it puts into the session is its own, and is sent."""

    @bank.app.errorhandler(sqlite3.IntegrityError)
    def handler(_: sqlite3.IntegrityError) -> Any:
        rows = bank.get_connection().execute("SELECT count(*) FROM entry").fetchone()[0]
        bank.get_connection().execute("INSERT INTO account VALUES (1)")
        flash("That did not work.")
        return {"rows": rows, "user": session.get("user")}, 409

    client = bank.app.test_client()
    response = client.post("/entry")
    assert response.json == {"rows": 0, "user": None}
    assert client.get("/whoami").json == {"user": None, "flashes": ["That did not work."]}
    assert bank.claims == bank.releases
    assert bank.connection.execute("SELECT count(*) FROM account").fetchone() == (0,)


def test_t5_the_session_from_before_is_kept(bank: Any) -> None:
    """Who was logged in before stays so, although the failed view logged in somebody else."""

    @bank.app.errorhandler(sqlite3.IntegrityError)
    def handler(_: sqlite3.IntegrityError) -> Any:
        return "conflict", 409

    client = bank.app.test_client()
    with client.session_transaction() as before:
        before["user"] = 1
    client.post("/entry")
    assert client.get("/whoami").json == {"user": 1, "flashes": []}


def test_t5_a_log_out_of_failed_work_is_not_sent_either(bank: Any, handled: Flask) -> None:
    """Clearing the session in a view whose commit fails clears nothing."""

    @handled.post("/logout")
    def logout() -> str:
        bank.get_connection().execute("INSERT INTO entry (account) VALUES (42)")
        session.clear()
        return "bye"

    client = handled.test_client()
    with client.session_transaction() as before:
        before["user"] = 1
    assert client.post("/logout").status_code == 500
    assert client.get("/whoami").json == {"user": 1, "flashes": []}


@pytest.mark.parametrize("handler", ["class", "500", "none"])
def test_t5_nothing_runs_twice_for_a_failing_commit(
    handler: str, handled: Flask, ledger: Any, serve: Any
) -> None:
    """Each ``after_request`` and teardown function, the session and the commit run once."""
    lines = ledger.lines
    thing = ledger.resource("thing", commit=CommitError())
    handled.session_interface = NotingSession(lines)

    @handled.after_request
    def after(response: Response) -> Response:
        lines.append("after_request")
        return response

    @handled.teardown_request
    def teardown(_: Any) -> None:
        lines.append("teardown")

    if handler != "none":

        @handled.errorhandler(CommitError if handler == "class" else 500)
        def handle(_: Any) -> Any:
            lines.append("handler")
            return "failed", 500

    def view() -> str:
        thing()
        return "ok"

    serve(view)
    assert handled.test_client().get("/").status_code == 500
    assert lines == [
        *("claim thing", "after_request", "commit thing", "rollback thing", "release thing"),
        *(("handler",) if handler != "none" else ()),
        *("session saved", "teardown"),
    ]


def test_t5_the_view_is_sent_only_if_it_was_saved(handled: Flask, ledger: Any, serve: Any) -> None:
    """A redirect of a view whose commit fails is not sent: no ``Location`` leaves."""
    thing = ledger.resource("thing", commit=CommitError())

    def view() -> Any:
        thing()
        return redirect("/thanks")

    serve(view)
    response = handled.test_client().get("/")
    assert response.status_code == 500
    assert "Location" not in response.headers


def test_t5_an_http_exception_of_a_commit_is_its_own_page(
    handled: Flask, ledger: Any, serve: Any
) -> None:
    """A commit that raises an ``HTTPException`` is answered like one that a view raises."""

    class Locked(HTTPException):
        code = 423
        description = "somebody else holds it"

    thing = ledger.resource("thing", commit=Locked())

    def view() -> Any:
        thing()
        return "ok"

    serve(view)
    response = handled.test_client().get("/")
    assert response.status_code == 423
    assert "somebody else holds it" in response.text


def test_t5_blueprint_handlers_are_asked(app: Flask, ledger: Any) -> None:
    """The handler of the view's own blueprint is asked before the application's."""
    thing = ledger.resource("thing", commit=CommitError())
    blueprint = Blueprint("orders", __name__)

    @blueprint.errorhandler(CommitError)
    def of_blueprint(_: CommitError) -> Any:
        return "the blueprint's", 409

    @app.errorhandler(CommitError)
    def of_app(_: CommitError) -> Any:
        return "the app's", 409

    @blueprint.get("/order")
    def order() -> str:
        thing()
        return "ok"

    @app.get("/other")
    def other() -> str:
        thing()
        return "ok"

    app.register_blueprint(blueprint)
    client = app.test_client()
    assert client.get("/order").text == "the blueprint's"
    assert client.get("/other").text == "the app's"


def test_t5_a_handler_that_raises_becomes_the_500_page(
    handled: Flask, ledger: Any, serve: Any
) -> None:
    """A handler of the commit's error that fails itself is an unhandled error: the 500 page."""
    thing = ledger.resource("thing", commit=CommitError())

    @handled.errorhandler(CommitError)
    def handler(_: CommitError) -> Any:
        thing()
        raise Boom

    def view() -> str:
        thing()
        return "ok"

    serve(view)
    response = handled.test_client().get("/")
    assert response.status_code == 500
    assert ledger.count("claim") == ledger.count("release") == 2


def test_t5_headers_are_passed_on_once_and_cookies_never(
    handled: Flask, ledger: Any, serve: Any
) -> None:
    """What ``after_request`` adds is on the error page once; what it sets as a cookie is not.

    Flask-Login sets its "remember me" cookie there: that is a log-in of the failed work.
    """
    thing = ledger.resource("thing", commit=CommitError())

    @handled.errorhandler(CommitError)
    def handler(_: CommitError) -> Any:
        return "failed", 409, {"X-Once": "the handler's"}

    @handled.after_request
    def after(response: Response) -> Response:
        response.headers["X-Once"] = "after_request's"
        response.headers["X-Request-Id"] = request.headers["X-Request-Id"]
        response.set_cookie("remember_token", "ann")
        return response

    def view() -> Any:
        thing()
        return "ok", 200, {"ETag": '"of-the-lost-page"'}

    serve(view)
    response = handled.test_client().get("/", headers={"X-Request-Id": "r1"})
    assert response.headers.getlist("X-Once") in (["after_request's"], ["the handler's"])
    assert response.headers.getlist("X-Request-Id") == ["r1"]
    assert "ETag" not in response.headers
    assert "Set-Cookie" not in response.headers


def test_t5_a_commit_that_fails_in_every_kind_of_task_is_raised(
    app: Flask, arm: Sidearm, ledger: Any
) -> None:
    """Outside a request a failing commit is raised where the work ends, after the release."""
    thing = ledger.resource("thing", commit=CommitError())
    for block in (arm.task("block"), app.app_context(), app.test_request_context()):
        with raises(CommitError), block:
            thing()
    assert ledger.count("commit") == ledger.count("release") == 3


def test_t5_a_failing_commit_does_not_skip_others_teardown_functions(
    app: Flask, ledger: Any
) -> None:
    """A commit that fails as a pushed context ends keeps no teardown function from running."""
    thing = ledger.resource("thing", commit=CommitError())

    @app.teardown_appcontext
    def teardown(_: Any) -> None:
        ledger.lines.append("teardown")

    with raises(CommitError), app.app_context():
        thing()
    assert ledger.lines.count("teardown") == 1
    assert ledger.count("release") == 1


def test_t5_a_read_needs_no_session(app: Flask, notes: Any, serve: Any) -> None:
    """Sidearm looks at no session by itself: a plain page gets no cookie and no ``Vary``."""

    def view() -> dict[str, Any]:
        return {"rows": notes.rows()}

    serve(view)
    response = app.test_client().get("/")
    assert "Set-Cookie" not in response.headers
    assert "Vary" not in response.headers


def test_t9_every_round_moves_through_the_states_and_never_back(
    handled: Flask, arm: Sidearm, ledger: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A success, a failure with its error page, a commit that fails, callbacks: each moves on."""
    moves: list[tuple[Any, str]] = []

    def watch(round_: Any, name: str, value: Any) -> None:
        if name == "state" and not hasattr(round_, name):
            assert value == "open"
        elif name == "state":
            assert value in STATES[round_.state], f"{round_.state} -> {value}"
            moves.append((round_, value))
        object.__setattr__(round_, name, value)

    monkeypatch.setattr(Round, "__setattr__", watch)
    thing, broken = ledger.resource("thing"), ledger.resource("broken", commit=Boom())

    def good() -> str:
        thing()
        after_commit(thing)
        return "ok"

    def bad() -> None:
        thing()
        raise Boom

    def uncommitted() -> str:
        broken()
        return "ok"

    for view in (good, bad, uncommitted):
        serve(view, f"/{view.__name__}")
    client = handled.test_client()
    assert [client.get(f"/{path}").status_code for path in ("good", "bad", "uncommitted")] == [
        200,
        500,
        500,
    ]
    rounds = {id(round_): round_ for round_, _ in moves}
    assert len(rounds) == 6  # three views, a callback, two error pages
    assert {round_.state for round_ in rounds.values()} == {CLOSED}


def test_t5_after_this_requests_headers_are_on_the_page_of_a_failed_commit(
    handled: Flask, ledger: Any, serve: Any
) -> None:
    """Also where there is no other ``after_request`` function; the view's own are not."""
    broken = ledger.resource("broken", commit=Boom())

    def view() -> Response:
        broken()

        @after_this_request
        def add(response: Response) -> Response:
            response.headers["X-Added"] = "yes"
            return response

        return Response("sold", headers={"X-Sold": "yes"})

    serve(view)
    response = handled.test_client().get("/")
    assert response.status_code == 500
    assert response.headers.get("X-Added") == "yes"
    assert "X-Sold" not in response.headers

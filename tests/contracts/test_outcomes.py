"""Contract T4: why a task commits or rolls back, and the cases C1 and C2."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, Response, abort, make_response, redirect, request, url_for
from flask.views import MethodView, View
from flasks import REDIRECT_STATUS
from werkzeug.exceptions import Conflict, HTTPException, ImATeapot, NotFound

from sidearm import (
    Sidearm,
    TaskSettled,
    after_commit,
    after_rollback,
    commit_on,
    current_task,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse


class Broken(Exception):
    """What a view raises here."""


class Stopped(BaseException):
    """As ``gevent.Timeout``: no ``Exception``, and raised in the middle of a view."""


def last_record(app: Flask) -> Any:
    return app.extensions["sidearm"].records[-1]


def work_of(app: Flask) -> Any:
    """The record of the only round of work."""
    records = [each for each in app.extensions["sidearm"].records if each.round == "work"]
    assert len(records) == 1
    return records[0]


@pytest.fixture
def attempt(
    handled: Flask, notes: Any, serve: Callable[..., Any], captured: Any
) -> Callable[..., TestResponse]:
    """Answer ``/`` with a row, a callback, and then what the test says; returns the response.

    Whether the two were kept must be the same for both, for the opposite callback the opposite,
    and for the record; ``attempt.kept`` tells.
    """
    outcomes: list[str] = []

    def attempt(
        end: Callable[[], Any], *, decorate: Callable[[Any], Any] = lambda view: view
    ) -> TestResponse:
        @decorate
        def view() -> Any:
            notes.write("work")
            after_commit(lambda: outcomes.append("committed"))
            after_rollback(lambda: outcomes.append("rolled back"))
            return end()

        serve(view, endpoint="view")
        response = handled.test_client().get("/")
        saved = notes.saved()
        assert notes.out() == 0
        assert notes.pool.claims >= 1
        assert saved in ([], ["work"])
        attempt.kept = bool(saved)  # type: ignore[attr-defined]
        assert outcomes == ["committed" if saved else "rolled back"]
        assert work_of(handled).committed is bool(saved)
        return response

    return attempt


# -- by status


@pytest.mark.parametrize("status", [400, 404, 409, 411, 422, 499, 500, 503, 599])
def test_pt_01_a_returned_error_status_rolls_back(attempt: Any, status: int) -> None:
    """A view that returns 4xx or 5xx without raising is rolled back; its response is unchanged."""
    response = attempt(lambda: ("bad", status, {"X-Own": "yes"}))
    assert not attempt.kept
    assert (response.status_code, response.text, response.headers["X-Own"]) == (
        status,
        "bad",
        "yes",
    )


@pytest.mark.parametrize("status", [200, 201, 204, 301, 302, 303, 304, 399])
def test_pt_02_a_returned_success_or_redirect_commits(attempt: Any, status: int) -> None:
    """A view that returns any status below 400 is committed."""
    response = attempt(lambda: ("", status))
    assert response.status_code == status
    assert attempt.kept


def test_pt_03_an_unhandled_exception_rolls_back_and_is_flasks_500_page(
    attempt: Any, handled: Flask
) -> None:
    """An exception that nobody handles rolls back, and Flask answers with its 500 page."""

    def end() -> None:
        raise Broken

    response = attempt(end)
    assert response.status_code == 500
    assert "Internal Server Error" in response.text
    assert not attempt.kept
    assert "Broken" in work_of(handled).decided_by


def test_pt_03_under_propagate_exceptions_it_is_raised(
    app: Flask, notes: Any, serve: Callable[..., Any]
) -> None:
    """Where exceptions propagate, it rolls back and the very exception is raised."""
    error = Broken("the very one")

    def view() -> None:
        notes.write("work")
        raise error

    serve(view)
    with pytest.raises(Broken) as caught:
        app.test_client().get("/")
    assert caught.value is error
    assert notes.saved() == []
    assert notes.out() == 0


@pytest.mark.parametrize("status", [200, 302, 418])
def test_pt_04_an_exception_that_a_handler_answers_rolls_back(
    attempt: Any, handled: Flask, status: int
) -> None:
    """A handler that turns an exception into a page does not make the work good again."""

    @handled.errorhandler(Broken)
    def handler(_: Broken) -> Any:
        return "mended", status

    def end() -> None:
        raise Broken

    response = attempt(end)
    assert (response.status_code, response.text) == (status, "mended")
    assert not attempt.kept
    assert "Broken" in work_of(handled).decided_by


def test_t4_a_handler_for_every_exception_rolls_back_too(attempt: Any, handled: Flask) -> None:
    """Also where one handler takes every ``Exception``, HTTP errors included."""

    @handled.errorhandler(Exception)
    def handler(_: Exception) -> Any:
        return "fine, really"

    response = attempt(lambda: abort(409))
    assert (response.status_code, response.text) == (200, "fine, really")
    assert not attempt.kept


def test_t4_a_handler_of_the_500_page_that_answers_200_rolls_back(
    attempt: Any, handled: Flask
) -> None:
    """Also where it becomes a 500 first, and the handler of that one answers 200."""

    @handled.errorhandler(500)
    def handler(error: Any) -> Any:
        assert isinstance(error.original_exception, Broken)
        return "sorry", 200

    def end() -> None:
        raise Broken

    response = attempt(end)
    assert (response.status_code, response.text) == (200, "sorry")
    assert not attempt.kept


def test_t4_a_handler_that_raises_is_rolled_back_as_well(attempt: Any, handled: Flask) -> None:
    """An error handler that fails itself changes nothing of the outcome."""

    @handled.errorhandler(Broken)
    def handler(_: Broken) -> Any:
        raise LookupError

    def end() -> None:
        raise Broken

    assert attempt(end).status_code == 500
    assert not attempt.kept


def test_t4_what_a_view_catches_itself_is_no_failure(attempt: Any) -> None:
    """An exception that never left the view does not fail its task."""

    def end() -> str:
        try:
            raise Broken
        except Broken:
            return "handled here"

    assert attempt(end).status_code == 200
    assert attempt.kept


def test_t4_an_exception_that_the_caller_is_handling_is_no_failure(attempt: Any) -> None:
    """A server or test that calls the application inside an ``except`` block fails no task."""
    try:
        raise Broken
    except Broken:
        assert attempt(lambda: "ok").status_code == 200
    assert attempt.kept


def test_t4_a_block_inside_an_except_block_is_no_failure(
    app: Flask, arm: Sidearm, notes: Any
) -> None:
    """The same for ``arm.task()`` and pushed contexts: only what *leaves* them counts."""
    try:
        raise Broken
    except Broken:
        with arm.task("inside"):
            notes.write("task")
        with app.app_context():
            notes.write("context")
        with app.test_request_context():
            notes.write("request context")
    assert notes.saved() == ["task", "context", "request context"]


# -- HTTP exceptions


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda: redirect("/done"), id="returned"),
        pytest.param(lambda: abort(redirect("/done")), id="aborted"),
    ],
)
def test_c1_a_redirect_commits_returned_or_raised(attempt: Any, handled: Flask, end: Any) -> None:
    """``abort(redirect(...))`` is a redirect, and commits as a returned one does."""
    response = attempt(end)
    assert (response.status_code, response.location) == (REDIRECT_STATUS, "/done")
    assert attempt.kept
    assert str(REDIRECT_STATUS) in work_of(handled).decided_by


def test_c1_abort_409_does_not_commit(attempt: Any, handled: Flask) -> None:
    """``abort(409)`` rolls back, and the record names the rule."""
    assert attempt(lambda: abort(409)).status_code == 409
    assert not attempt.kept
    assert "409" in work_of(handled).decided_by


@pytest.mark.parametrize(
    ("status", "kept"), [(200, True), (202, True), (303, True), (409, False), (503, False)]
)
def test_t4_an_http_exception_counts_by_its_response(attempt: Any, status: int, kept: bool) -> None:
    """An ``HTTPException`` that carries a response counts by that one's status, not by its own."""

    def end() -> None:
        raise NotFound(response=make_response("own", status))

    assert attempt(end).status_code == status
    assert attempt.kept is kept


def test_t4_a_returned_http_exception_counts_by_its_status(attempt: Any) -> None:
    """An ``HTTPException`` that a view returns, which Flask takes as a response, counts alike."""
    assert attempt(Conflict).status_code == 409
    assert not attempt.kept


def test_t4_an_http_exception_of_ones_own_counts_by_its_code(attempt: Any, handled: Flask) -> None:
    """So does a subclass that the application wrote and handles."""

    class OutOfStock(HTTPException):
        code = 409
        description = "sold"

    @handled.errorhandler(OutOfStock)
    def handler(error: OutOfStock) -> Any:
        return {"error": error.description}, 200

    def end() -> None:
        raise OutOfStock

    response = attempt(end)
    assert (response.status_code, response.json) == (200, {"error": "sold"})
    assert not attempt.kept


def test_t4_routing_redirects_are_no_failure(handled: Flask, notes: Any) -> None:
    """The redirect from ``/dir`` to ``/dir/`` leaves what ``before_request`` wrote committed."""

    @handled.before_request
    def count() -> None:
        notes.write(request.path)

    @handled.get("/dir/")
    def directory() -> str:
        return "listing"

    response = handled.test_client().get("/dir")
    assert response.status_code == 308
    assert notes.saved() == ["/dir"]
    assert last_record(handled).committed
    assert notes.out() == 0


@pytest.mark.parametrize("path", ["/nowhere", "/post-only"])
def test_t4_a_routing_error_fails_what_before_request_did(
    handled: Flask, notes: Any, path: str
) -> None:
    """404 and 405, which routing raises, fail the task."""

    @handled.before_request
    def count() -> None:
        notes.write(request.path)

    handled.add_url_rule("/post-only", "post_only", lambda: "", methods=["POST"])
    assert handled.test_client().get(path).status_code in {404, 405}
    assert notes.saved() == []
    assert notes.out() == 0


# -- before and after the view


def test_t4_an_exception_in_before_request_fails(handled: Flask, notes: Any, serve: Any) -> None:
    """An exception that leaves a before-request function rolls back, and the view never runs."""

    @handled.before_request
    def before() -> None:
        notes.write("before")
        raise Broken

    @handled.errorhandler(Broken)
    def handler(_: Broken) -> str:
        return "mended"

    serve(lambda: pytest.fail("the view ran"), endpoint="view")
    assert handled.test_client().get("/").text == "mended"
    assert notes.saved() == []
    assert notes.out() == 0


@pytest.mark.parametrize(("status", "saved"), [(200, ["before"]), (401, [])])
def test_t4_a_response_of_before_request_counts_by_its_status(
    handled: Flask, notes: Any, serve: Any, status: int, saved: list[str]
) -> None:
    """A before-request function that answers instead of the view decides by its status."""

    @handled.before_request
    def before() -> Any:
        notes.write("before")
        return "from before", status

    serve(lambda: pytest.fail("the view ran"), endpoint="view")
    assert handled.test_client().get("/").status_code == status
    assert notes.saved() == saved


@pytest.mark.parametrize(("status", "kept"), [(500, False), (201, True)])
def test_t4_the_status_that_leaves_is_what_counts(
    attempt: Any, handled: Flask, status: int, kept: bool
) -> None:
    """An ``after_request`` function that replaces the status decides with it."""

    @handled.after_request
    def replace(response: Response) -> Response:
        response.status_code = status
        return response

    assert attempt(lambda: ("", 409 if kept else 200)).status_code == status
    assert attempt.kept is kept


def test_t4_an_exception_in_after_request_fails(attempt: Any, handled: Flask) -> None:
    """An ``after_request`` function that raises makes a 500 page, and nothing is saved."""
    calls = []

    @handled.after_request
    def after(response: Response) -> Response:
        calls.append(response.status_code)
        if len(calls) == 1:
            raise Broken
        return response

    assert attempt(lambda: "ok").status_code == 500
    assert not attempt.kept


def test_t4_a_value_that_is_no_response_fails(attempt: Any) -> None:
    """A view that returns ``None`` fails like one that raises."""
    assert attempt(lambda: None).status_code == 500
    assert not attempt.kept


# -- what is no Exception


@pytest.mark.parametrize("error", [SystemExit(0), SystemExit(3), KeyboardInterrupt(), Stopped()])
def test_t4_every_base_exception_fails(
    app: Flask, notes: Any, serve: Any, error: BaseException
) -> None:
    """``SystemExit`` (0 too), ``KeyboardInterrupt`` and timeouts in a view roll back and go on."""
    ran = []

    def view() -> None:
        notes.write("work")
        after_commit(lambda: ran.append("commit"))
        after_rollback(lambda: ran.append("rollback"))
        raise error

    serve(view)
    with pytest.raises(type(error)) as caught:
        app.test_client().get("/")
    assert caught.value is error
    assert notes.saved() == []
    assert notes.out() == 0
    assert ran == ["rollback"]
    assert type(error).__name__ in last_record(app).decided_by


def test_t4_keep_does_not_keep_a_base_exception(app: Flask, notes: Any, serve: Any) -> None:
    """A view that was killed in the middle is not committed because it had said ``keep()``."""

    def view() -> None:
        notes.write("half")
        current_task.keep()
        raise Stopped

    serve(view)
    with pytest.raises(Stopped):
        app.test_client().get("/")
    assert notes.saved() == []
    assert notes.out() == 0


# -- doom and keep


def test_pt_08_a_doomed_task_rolls_back_and_its_200_is_sent(attempt: Any, handled: Flask) -> None:
    """``doom()`` rolls back; the response is sent as it is, and the record has the reason."""

    def end() -> Any:
        current_task.doom("only a rehearsal")
        return "looks fine", 200, {"X-Own": "yes"}

    response = attempt(end)
    assert (response.status_code, response.text, response.headers["X-Own"]) == (
        200,
        "looks fine",
        "yes",
    )
    assert not attempt.kept
    assert "only a rehearsal" in work_of(handled).decided_by


def test_tx_01_doom_twice_is_as_once(attempt: Any) -> None:
    """A second ``doom()`` is no error and changes nothing."""

    def end() -> str:
        current_task.doom("first")
        current_task.doom("second")
        return "ok"

    assert attempt(end).status_code == 200
    assert not attempt.kept


def test_tx_03_a_resource_claimed_after_doom_works_and_is_rolled_back(
    app: Flask, notes: Any, serve: Any
) -> None:
    """A doomed task can go on working; nothing of it is kept."""

    def view() -> dict[str, Any]:
        current_task.doom("from the start")
        notes.write("late")
        return {"rows": notes.rows()}

    serve(view)
    assert app.test_client().get("/").json == {"rows": ["late"]}
    assert notes.saved() == []
    assert notes.out() == 0


def test_dj_20_doom_survives_a_swallowed_error(attempt: Any) -> None:
    """Inner code that doomed the task is not undone by outer code that swallowed its error."""

    def inner() -> None:
        try:
            raise Broken
        except Broken as error:
            current_task.doom(f"inner work failed: {error!r}")
            raise

    def end() -> str:
        with contextlib.suppress(Broken):
            inner()
        return "ok"

    assert attempt(end).status_code == 200
    assert not attempt.kept


def test_t4_doom_is_stronger_than_keep_and_commit_on(attempt: Any) -> None:
    """Who doomed meant it: ``keep()`` and ``@commit_on`` do not save the work."""

    def end() -> Any:
        current_task.keep()
        current_task.doom("sure")
        return "no", 403

    attempt(end, decorate=commit_on(403))
    assert not attempt.kept


def test_t4_doom_in_after_request_counts(attempt: Any, handled: Flask) -> None:
    """The task can be doomed until the last ``after_request`` function has run."""

    @handled.after_request
    def veto(response: Response) -> Response:
        current_task.doom("vetoed")
        return response

    assert attempt(lambda: "ok").status_code == 200
    assert not attempt.kept


def test_tx_02_doom_after_the_commit_is_an_error(app: Flask, notes: Any, serve: Any) -> None:
    """``doom()`` in a callback is too late, and says so instead of being ignored."""
    errors: list[Exception] = []

    def view() -> str:
        notes.write("work")

        @after_commit
        def late() -> None:
            try:
                current_task.doom("too late")
            except TaskSettled as error:
                errors.append(error)

        return "ok"

    serve(view)
    assert app.test_client().get("/").status_code == 200
    assert len(errors) == 1
    assert isinstance(errors[0], RuntimeError)
    assert notes.saved() == ["work"]


@pytest.mark.parametrize("end", [lambda: ("no", 409), lambda: abort(409), lambda: 1 / 0])
def test_t4_keep_commits_all_the_same(attempt: Any, handled: Flask, end: Any) -> None:
    """After ``keep()`` an error response, an abort or an exception still commits the work."""

    def kept() -> Any:
        current_task.keep()
        return end()

    assert attempt(kept).status_code in {409, 500}
    assert attempt.kept
    assert "kept" in work_of(handled).decided_by


# -- commit_on


@pytest.fixture
def shop(handled: Flask, notes: Any) -> FlaskClient:
    @handled.post("/login")
    @commit_on(401, 403)
    def login() -> Any:
        notes.write("login_attempt")
        abort(int(request.args["status"]))

    @handled.post("/order")
    def order() -> Any:
        notes.write("order")
        abort(int(request.args["status"]))

    return handled.test_client()


def test_c2_an_abort_keeps_nothing_by_default(handled: Flask, notes: Any) -> None:
    """Neither the attempt nor the order of two views that ``abort(403)`` is saved."""
    for path in ("/login", "/order"):

        def view(path: str = path) -> Any:
            notes.write(path)
            abort(403)

        handled.add_url_rule(path, path, view)
    client = handled.test_client()
    assert [client.get(path).status_code for path in ("/login", "/order")] == [403, 403]
    assert notes.saved() == []


def test_c2_commit_on_keeps_what_the_one_view_did(
    shop: FlaskClient, handled: Flask, notes: Any
) -> None:
    """With ``@commit_on(403)`` on the one view its attempt is kept, and still no order."""
    assert shop.post("/login?status=403").status_code == 403
    assert "commit_on" in last_record(handled).decided_by
    assert "403" in last_record(handled).decided_by
    assert shop.post("/order?status=403").status_code == 403
    assert notes.saved() == ["login_attempt"]
    assert not last_record(handled).committed


def test_t4_commit_on_is_for_the_statuses_it_names(shop: FlaskClient, notes: Any) -> None:
    """Another error status of the same view rolls back."""
    assert shop.post("/login?status=401").status_code == 401
    assert shop.post("/login?status=409").status_code == 409
    assert notes.saved() == ["login_attempt"]


def test_t4_commit_on_takes_a_returned_status(attempt: Any) -> None:
    """It works for a status that is returned, as for one that is raised."""
    assert attempt(lambda: ("no", 403), decorate=commit_on(403)).status_code == 403
    assert attempt.kept


@pytest.mark.parametrize("status", [200, 302, 404])
def test_t4_commit_on_counts_the_abort_whatever_its_page_is(
    attempt: Any, handled: Flask, status: int
) -> None:
    """A handler that dresses the 403 as another status does not take the permission back."""
    handled.register_error_handler(403, lambda _: ("nothing to see here", status))
    assert attempt(lambda: abort(403), decorate=commit_on(403)).status_code == status
    assert attempt.kept
    assert "commit_on 403" in work_of(handled).decided_by


def test_t4_commit_on_does_not_excuse_other_exceptions(attempt: Any, handled: Flask) -> None:
    """A crash that a handler answers with 403 is a crash."""

    @handled.errorhandler(Broken)
    def handler(_: Broken) -> Any:
        return "no", 403

    def end() -> None:
        raise Broken

    assert attempt(end, decorate=commit_on(403)).status_code == 403
    assert not attempt.kept


def test_t4_commit_on_works_on_class_based_views(handled: Flask, notes: Any) -> None:
    """It decorates a method of a ``MethodView`` and stands in a ``View``'s ``decorators``."""

    class Login(MethodView):
        @commit_on(403)
        def post(self) -> Any:
            notes.write("method")
            abort(403)

        def get(self) -> Any:
            notes.write("other method")
            abort(403)

    class Decorated(View):
        decorators = (commit_on(403),)

        def dispatch_request(self) -> Any:
            notes.write("decorators")
            return "no", 403

    handled.add_url_rule("/login", view_func=Login.as_view("login"))
    handled.add_url_rule("/decorated", view_func=Decorated.as_view("decorated"))
    client = handled.test_client()
    client.post("/login")
    client.get("/login")
    client.get("/decorated")
    assert notes.saved() == ["method", "decorators"]


def test_t4_commit_on_works_on_async_views(handled: Flask, ledger: Any) -> None:
    """It works on an ``async`` view."""
    pytest.importorskip("asgiref")
    thing = ledger.resource("thing")

    @handled.get("/")
    @commit_on(403)
    async def view() -> Any:
        thing()
        return "no", 403

    assert handled.test_client().get("/").status_code == 403
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]


def test_t4_commit_on_keeps_the_views_name_and_annotations() -> None:
    """The decorated view is found by ``url_for`` as before."""

    @commit_on(403)
    def login(name: str = "x") -> str:
        """Log in."""
        return name

    assert login.__name__ == "login"
    assert login.__doc__ == "Log in."
    assert login.__annotations__["return"] == "str"


@pytest.mark.parametrize("statuses", [(), ("403",), (42,), (600,), (403, None)])
def test_t4_commit_on_refuses_what_is_no_status(statuses: tuple[Any, ...]) -> None:
    """Nothing, text and numbers that are no status are refused at that line, by value."""
    with pytest.raises((ValueError, TypeError)) as caught:
        commit_on(*statuses)
    assert repr(statuses) in str(caught.value)


# -- settings and the application's own rule


@pytest.mark.parametrize(
    ("setting", "status", "kept"),
    [
        (range(500, 600), 409, True),
        (range(500, 600), 500, False),
        ([409], 500, True),
        ({409}, 409, False),
        ((302,), 302, False),
        ([], 500, True),
    ],
)
def test_pt_06_the_failing_statuses_are_a_setting(
    setting: Any, status: int, kept: bool, tmp_path: Any
) -> None:
    """``SIDEARM_FAIL_STATUSES`` says which statuses fail; a returned 500 commits if it says so."""
    app = Flask(__name__)
    app.config.update(TESTING=True, SIDEARM_FAIL_STATUSES=setting)
    arm = Sidearm(app)
    lines: list[str] = []

    class Thing:
        def commit(self) -> None:
            lines.append("commit")

        def rollback(self) -> None:
            lines.append("rollback")

    @arm.resource
    def thing() -> Any:
        yield Thing()

    @app.get("/")
    def view() -> Any:
        thing()
        return "x", status

    assert app.test_client().get("/").status_code == status
    assert lines == ["commit" if kept else "rollback"]


def test_t4_an_exception_fails_whatever_the_statuses_say(tmp_path: Any) -> None:
    """An exception that left the view fails the task also where no status does."""
    app = Flask(__name__)
    app.config.update(SIDEARM_FAIL_STATUSES=[], SIDEARM_HUB="memory")
    arm = Sidearm(app)
    lines: list[str] = []

    class Thing:
        def commit(self) -> None:
            lines.append("commit")

        def rollback(self) -> None:
            lines.append("rollback")

    @arm.resource
    def thing() -> Any:
        yield Thing()

    @app.get("/")
    def view() -> Any:
        thing()
        raise Broken

    assert app.test_client().get("/").status_code == 500
    assert lines == ["rollback"]


def test_pt_05_the_applications_rule_can_commit_an_exception(
    attempt: Any, arm: Sidearm, handled: Flask
) -> None:
    """The application's own rule may say that an exception commits."""

    @arm.outcome
    def rule(outcome: Any) -> bool | None:
        return True if isinstance(outcome, Broken) else None

    @handled.errorhandler(Broken)
    def handler(_: Broken) -> str:
        return "mended"

    def end() -> None:
        raise Broken

    assert attempt(end).text == "mended"
    assert attempt.kept
    assert "rule" in work_of(handled).decided_by


@pytest.mark.parametrize("status", [409, 500])
def test_pt_05_the_rule_for_an_exception_is_not_overruled_by_its_page(
    attempt: Any, arm: Sidearm, handled: Flask, status: int
) -> None:
    """The rule is asked with the exception *or*, if there is none, the response: once."""
    asked = []

    @arm.outcome
    def rule(outcome: Any) -> bool | None:
        asked.append(type(outcome))
        return True if isinstance(outcome, Broken) else None

    if status == 409:
        handled.register_error_handler(Broken, lambda _: ("conflict", 409))

    def end() -> None:
        raise Broken

    assert attempt(end).status_code == status
    assert attempt.kept
    assert "rule" in work_of(handled).decided_by
    assert asked == [Broken]


def test_pt_07_the_applications_rule_can_refuse_a_200(attempt: Any, arm: Sidearm) -> None:
    """It may refuse a 200, which is sent all the same."""

    @arm.outcome
    def rule(outcome: Any) -> bool | None:
        if isinstance(outcome, Exception):
            return None
        return "X-Rehearsal" not in outcome.headers

    response = attempt(lambda: ("ok", 200, {"X-Rehearsal": "1"}))
    assert (response.status_code, response.text) == (200, "ok")
    assert not attempt.kept


@pytest.mark.parametrize(("status", "kept"), [(200, True), (409, False)])
def test_t4_a_rule_that_says_none_leaves_it_to_the_settings(
    attempt: Any, arm: Sidearm, status: int, kept: bool
) -> None:
    """``None`` means: no opinion."""
    arm.outcome(lambda outcome: None)
    attempt(lambda: ("x", status))
    assert attempt.kept is kept


def test_t4_a_rule_that_raises_fails_the_task(attempt: Any, arm: Sidearm) -> None:
    """A rule that breaks is an error of the application, and no reason to commit."""

    @arm.outcome
    def rule(outcome: Any) -> bool | None:
        raise LookupError("the rule is broken")

    assert attempt(lambda: "ok").status_code == 500
    assert not attempt.kept


def test_t4_the_rule_is_asked_of_the_response_that_leaves(attempt: Any, arm: Sidearm) -> None:
    """Without an exception it is given the finished response."""
    seen = []

    @arm.outcome
    def rule(outcome: Any) -> bool | None:
        seen.append(outcome)
        return None

    attempt(lambda: ("x", 201))
    assert [each.status_code for each in seen] == [201]


# -- before the error handlers run


def test_t4_the_rollback_comes_before_the_error_handler(
    handled: Flask, ledger: Any, serve: Any
) -> None:
    """What failed is rolled back and released before any error handler runs."""
    thing = ledger.resource("thing")

    @handled.errorhandler(Broken)
    def handler(_: Broken) -> str:
        ledger.lines.append("handler")
        return "mended"

    def view() -> None:
        thing()
        raise Broken

    serve(view)
    handled.test_client().get("/")
    assert ledger.lines == ["claim thing", "rollback thing", "release thing", "handler"]


def test_t4_what_an_error_handler_claims_is_claimed_anew_and_rolled_back(
    handled: Flask, store: Any, serve: Any
) -> None:
    """A handler can query at once, sees nothing of the failed work, and saves nothing."""
    seen = []

    @handled.errorhandler(Broken)
    def handler(_: Broken) -> str:
        seen.extend(store.rows())
        store.write("from the handler")
        return "mended"

    def view() -> None:
        store.write("work")
        store.rows()
        raise Broken

    serve(view)
    assert handled.test_client().get("/").text == "mended"
    assert seen == []
    assert store.saved() == []
    assert store.out() == 0


def test_t4_a_handler_can_query_after_a_failed_flush(handled: Flask, make: Any, serve: Any) -> None:
    """After an ``IntegrityError`` a handler's query works, instead of ``PendingRollbackError``."""
    from sqlalchemy.exc import IntegrityError

    store = make("session")

    @handled.errorhandler(IntegrityError)
    def handler(_: IntegrityError) -> Any:
        return {"rows": store.rows()}, 409

    def view() -> None:
        store.connection().add(store.Note(text=None))
        store.connection().flush()

    serve(view)
    response = handled.test_client().get("/")
    assert (response.status_code, response.json) == (409, {"rows": []})
    assert store.out() == 0


def test_t4_what_a_handler_publishes_or_registers_is_dropped(
    handled: Flask, serve: Any, captured: Any
) -> None:
    """An error page's callbacks are those of a failed task: only ``after_rollback`` runs."""
    ran = []

    @handled.errorhandler(Broken)
    def handler(_: Broken) -> str:
        after_commit(lambda: ran.append("commit"))
        after_rollback(lambda: ran.append("rollback"))
        return "mended"

    def view() -> None:
        raise Broken

    serve(view)
    assert handled.test_client().get("/").text == "mended"
    assert ran == ["rollback"]


def test_t4_a_handler_that_claims_in_after_request_is_rolled_back(
    handled: Flask, notes: Any, serve: Any
) -> None:
    """So is what an ``after_request`` function writes once the view has failed."""

    @handled.after_request
    def audit(response: Response) -> Response:
        notes.write("audit")
        return response

    def view() -> None:
        raise Broken

    serve(view)
    assert handled.test_client().get("/").status_code == 500
    assert notes.saved() == []
    assert notes.out() == 0


def test_t4_after_request_of_a_good_view_belongs_to_the_task(
    handled: Flask, notes: Any, serve: Any
) -> None:
    """What an ``after_request`` function writes after a good view is committed with it."""

    @handled.after_request
    def audit(response: Response) -> Response:
        notes.write("audit")
        return response

    def view() -> str:
        notes.write("work")
        return "ok"

    serve(view)
    handled.test_client().get("/")
    assert notes.saved() == ["work", "audit"]
    assert notes.pool.claims == 1
    assert notes.out() == 0


# -- extensions that swallow exceptions


@pytest.mark.parametrize("order", ["before Sidearm", "after Sidearm", "after the first request"])
def test_t4_an_extension_that_swallows_exceptions_hides_nothing(
    order: str, arm: Sidearm, ledger: Any
) -> None:
    """A wrapped ``handle_user_exception`` that answers by itself, as Flask-RESTful's does."""
    app = Flask(__name__)
    app.config.update(TESTING=True)
    thing = ledger.resource("thing")

    def install_restful() -> None:
        inner = app.handle_user_exception

        def handle(*args: Any) -> Any:
            if isinstance(args[-1], Broken):
                return app.make_response(({"message": "handled the RESTful way"}, 200))
            return inner(*args)

        app.handle_user_exception = handle  # type: ignore[method-assign]

    @app.get("/")
    def view() -> None:
        thing()
        raise Broken

    @app.get("/good")
    def good() -> str:
        thing()
        return "ok"

    client = app.test_client()
    if order == "before Sidearm":
        install_restful()
    arm.init_app(app)
    if order == "after Sidearm":
        install_restful()
    elif order == "after the first request":
        client.get("/good")
        ledger.lines.clear()
        install_restful()
        client.get("/good")
        ledger.lines.clear()

    response = client.get("/")
    assert response.json == {"message": "handled the RESTful way"}
    assert ledger.lines == ["claim thing", "rollback thing", "release thing"]


# -- contexts and blocks


def test_t4_a_block_commits_if_nothing_leaves_it(arm: Sidearm, app: Flask, store: Any) -> None:
    """``arm.task()`` commits at its end."""
    with arm.task("import"):
        store.write("row")
        assert store.saved() == []
    assert store.saved() == ["row"]
    assert store.out() == 0


@pytest.mark.parametrize("error", [Broken, Stopped, SystemExit, ImATeapot])
def test_t4_a_block_rolls_back_if_anything_leaves_it(
    arm: Sidearm, app: Flask, store: Any, error: type[BaseException]
) -> None:
    """Whatever leaves the block rolls it back and goes on, unchanged."""
    raised = error()
    with pytest.raises(error) as caught, arm.task("import"):
        store.write("row")
        raise raised
    assert caught.value is raised
    assert store.saved() == []
    assert store.out() == 0


@pytest.mark.parametrize("push", ["app_context", "test_request_context"])
def test_t4_a_pushed_context_settles_by_what_leaves_it(app: Flask, store: Any, push: str) -> None:
    """A context pushed by hand commits, or rolls back if an exception leaves it."""
    with getattr(app, push)():
        store.write("good")
    with pytest.raises(Broken), getattr(app, push)():
        store.write("bad")
        raise Broken
    assert store.saved() == ["good"]
    assert store.out() == 0


def test_t4_a_block_can_be_doomed_and_kept(arm: Sidearm, app: Flask, notes: Any) -> None:
    """``doom()`` and ``keep()`` mean in a block what they mean in a view."""
    with arm.task("doomed") as task:
        notes.write("doomed")
        task.doom("rehearsal")
    with pytest.raises(Broken), arm.task("kept"):
        notes.write("kept")
        current_task.keep()
        raise Broken
    assert notes.saved() == ["kept"]


def test_t4_url_building_in_a_view_is_no_failure(attempt: Any) -> None:
    """Ordinary use of Flask's helpers (which catch exceptions of their own) fails nothing."""
    assert attempt(lambda: url_for("view")).text == "/"
    assert attempt.kept
    assert sys.exc_info() == (None, None, None)


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
def test_t4_head_and_options_settle_as_get_does(
    handled: Flask, notes: Any, serve: Any, method: str
) -> None:
    """Whatever the method: what a request wrote is committed with a good answer."""

    @handled.before_request
    def count() -> None:
        notes.write(request.method)

    serve(lambda: "ok", endpoint="view")
    assert handled.test_client().open("/", method=method).status_code == 200
    assert notes.saved() == [method]
    assert notes.out() == 0

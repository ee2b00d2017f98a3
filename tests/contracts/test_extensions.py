"""Beside other extensions: what they answer fails a task all the same (T4), and they work as ever.

Flask-RESTful and Flask-RESTX put handlers of their own around Flask's, and answer what leaves their
endpoints before Flask's handlers see it. Flask-DebugToolbar writes into the page after the view.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

import pytest
from flask import (
    Blueprint,
    Flask,
    Response,
    appcontext_pushed,
    make_response,
    redirect,
    stream_with_context,
)
from flasks import before_3_2

from sidearm import Sidearm, after_commit, after_rollback, current_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.test import TestResponse

#: When the API meets the application: before Sidearm does, after it, or as a late blueprint.
ORDERS = ("before", "after", "blueprint")


class Broken(Exception):
    """What a view raises here."""


class Endpoint:
    """An application with Sidearm and one endpoint of an API, which writes a row.

    Attributes:
        first, end: What the endpoint does before and after it has written.
        left: The callbacks that ran.
    """

    def __init__(self, kind: str, order: str, arm: Sidearm, notes: Any) -> None:
        rest = importlib.import_module(kind.lower().replace("-", "_"))
        self.kind = kind
        self.app = Flask("testapp")
        self.app.config["PROPAGATE_EXCEPTIONS"] = False
        self.arm = arm
        self.notes = notes
        self.abort = rest.abort
        self.first: Callable[[], Any] = dict
        self.end: Callable[[], Any] = dict
        self.left: list[str] = []
        if order != "before":
            arm.init_app(self.app)
        target: Any = Blueprint("api", __name__) if order == "blueprint" else self.app
        self.api = rest.Api(target)
        endpoint = self

        class Notes(rest.Resource):  # type: ignore[misc, name-defined]
            def post(self) -> Any:
                endpoint.first()
                endpoint.notes.write("work")
                after_commit(lambda: endpoint.left.append("committed"))
                after_rollback(lambda: endpoint.left.append("rolled back"))
                return endpoint.end()

            def get(self) -> Any:
                return endpoint.end()

        self.api.add_resource(Notes, "/notes")
        if order == "blueprint":
            self.app.register_blueprint(target)
        if order == "before":
            arm.init_app(self.app)

    def post(self, end: Callable[[], Any]) -> TestResponse:
        """Ask for what writes a row and then ends so."""
        self.end = end
        response = self.app.test_client().post("/notes")
        assert self.notes.out() == 0
        return response

    def was(self, outcome: str, rule: str) -> None:
        """Check the row, the callbacks and the record of the only round of work."""
        assert self.notes.saved() == (["work"] if outcome == "committed" else [])
        assert self.left == [outcome]
        works = [each for each in self.records if each.round == "work"]
        assert [(each.committed, each.decided_by) for each in works] == [
            (outcome == "committed", rule)
        ]

    @property
    def records(self) -> list[Any]:
        return list(self.app.extensions["sidearm"].records)


@pytest.fixture(params=["Flask-RESTful", "Flask-RESTX"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the two in turn."""
    kind: str = request.param
    return kind


@pytest.fixture(params=ORDERS)
def endpoint(request: pytest.FixtureRequest, kind: str, arm: Sidearm, notes: Any) -> Endpoint:
    """An endpoint of an API, which was put on the application before or after Sidearm."""
    return Endpoint(kind, request.param, arm, notes)


def test_t4_an_apis_answer_commits(endpoint: Endpoint) -> None:
    """The API makes the response, and the task sees its status."""
    response = endpoint.post(lambda: ({"id": 1}, 201, {"X-Note": "1"}))
    assert (response.status_code, response.json) == (201, {"id": 1})
    assert response.headers["X-Note"] == "1"
    endpoint.was("committed", "status 201")


def test_t4_an_exception_that_an_api_answers_rolls_back(endpoint: Endpoint) -> None:
    """The client gets the API's own JSON; the record names the exception."""

    def end() -> None:
        raise Broken

    response = endpoint.post(end)
    assert (response.status_code, response.json) == (500, {"message": "Internal Server Error"})
    endpoint.was("rolled back", "exception Broken")


def test_t4_an_apis_abort_rolls_back(endpoint: Endpoint) -> None:
    """``abort()`` of the API carries data for its answer."""
    response = endpoint.post(lambda: endpoint.abort(409, message="taken", stock=0))
    assert (response.status_code, response.json) == (409, {"message": "taken", "stock": 0})
    endpoint.was("rolled back", "status 409 (exception Conflict)")


def test_t4_keep_is_kept_under_an_api(endpoint: Endpoint) -> None:
    """What the task says counts, whoever makes the answer."""

    def end() -> None:
        current_task.keep()
        endpoint.abort(403, message="later")

    response = endpoint.post(end)
    assert (response.status_code, response.json) == (403, {"message": "later"})
    endpoint.was("committed", "kept")


def test_t4_an_exception_that_an_api_lets_through_rolls_back(endpoint: Endpoint) -> None:
    """Where exceptions propagate, as in tests and in debug mode."""
    endpoint.app.config["PROPAGATE_EXCEPTIONS"] = True

    def end() -> None:
        raise Broken

    with pytest.raises(Broken):
        endpoint.post(end)
    endpoint.was("rolled back", "exception Broken")
    assert endpoint.notes.out() == 0


def test_t4_the_first_request_of_all_is_seen_although_its_view_claims_nothing(
    endpoint: Endpoint,
) -> None:
    """An API that came after Sidearm hides no exception, and what its handler does is undone."""
    handled(endpoint, 200)

    def end() -> None:
        raise Broken

    endpoint.end = end
    response = endpoint.app.test_client().get("/notes")
    assert (response.status_code, response.json["message"]) == (200, "broken")
    assert endpoint.notes.saved() == []
    assert endpoint.notes.out() == 0
    assert {each.decided_by for each in endpoint.records} == {"exception Broken"}


def test_t4_an_apis_handler_finds_the_work_undone(endpoint: Endpoint) -> None:
    """Its answer may be a success: the exception has decided, and what the handler did goes too."""
    handled(endpoint, 200)

    def end() -> None:
        raise Broken

    response: Any = endpoint.post(end)
    assert (response.status_code, response.json["message"]) == (200, "broken")
    endpoint.was("rolled back", "exception Broken")
    assert endpoint.notes.pool.claims == endpoint.notes.pool.releases


def handled(endpoint: Endpoint, status: int) -> None:
    """Let the API answer ``Broken`` by itself; a handler of the API's writes a row, too."""
    if endpoint.kind == "Flask-RESTful":
        endpoint.api.errors = {"Broken": {"message": "broken", "status": status}}
        return

    @endpoint.api.errorhandler(Broken)  # type: ignore[untyped-decorator]
    def answer(error: Broken) -> Any:
        assert endpoint.notes.rows() == []
        endpoint.notes.write("of the handler")
        return {"message": "broken"}, status


def test_t5_a_commit_that_fails_is_answered_by_the_api(endpoint: Endpoint, ledger: Any) -> None:
    """The client of an API gets JSON for work that was not saved, and no success."""
    handled(endpoint, 409)
    endpoint.first = ledger.resource("thing", commit=Broken("too late"))
    response = endpoint.post(lambda: ({"id": 1}, 201))
    assert (response.status_code, response.json["message"]) == (409, "broken")
    assert int(response.headers["Content-Length"]) == len(response.data)
    endpoint.was("rolled back", "the commit of thing failed: Broken")
    assert ledger.count("claim") == ledger.count("release")


def test_r1_a_representation_counts_under_an_api_by_flasks_make_response(
    endpoint: Endpoint,
) -> None:
    """The API makes JSON of values by itself; a response it sends as it is."""

    class Note:
        text = "work"

    @endpoint.arm.represent(Note)
    def represent(note: Note) -> dict[str, str]:
        return {"text": note.text}

    response = endpoint.post(lambda: make_response((Note(), 201)))
    assert (response.status_code, response.json) == (201, {"text": "work"})
    endpoint.was("committed", "status 201")


# -- Flask-DebugToolbar


class Page:
    """An application with the toolbar, whose pages write a row.

    Attributes:
        toolbar: The toolbar.
    """

    HTML = "<!doctype html><html><body>{}</body></html>"

    def __init__(self, order: str, arm: Sidearm, notes: Any) -> None:
        from flask_debugtoolbar import DebugToolbarExtension

        self.app = Flask("testapp")
        self.app.config.update(
            DEBUG_TB_ENABLED=True, PROPAGATE_EXCEPTIONS=False, SECRET_KEY="for tests only"
        )
        self.notes = notes
        self.toolbar = DebugToolbarExtension()
        if order == "before":
            self.toolbar.init_app(self.app)
        arm.init_app(self.app)
        if order == "after":
            self.toolbar.init_app(self.app)

    def get(self, end: Callable[[], Any]) -> TestResponse:
        """Ask for the page of a view that writes a row and ends so."""

        def view() -> Any:
            self.notes.write("work")
            return end()

        self.app.add_url_rule("/", "view", view)
        response = self.app.test_client().get("/")
        assert self.notes.out() == 0
        assert self.toolbar.debug_toolbars_var.get({}) == {}
        assert int(response.headers["Content-Length"]) == len(response.data)
        return response

    def was(self, saved: list[str], rule: str) -> None:
        """Check the row and the record of the round of work."""
        assert self.notes.saved() == saved
        records = self.app.extensions["sidearm"].records
        assert [each.decided_by for each in records if each.round == "work"] == [rule]


@pytest.fixture(params=["before", "after"])
def page(request: pytest.FixtureRequest, arm: Sidearm, notes: Any) -> Page:
    """A page with the toolbar, which was installed before Sidearm or after it."""
    return Page(request.param, arm, notes)


TOOLBAR = 'id="flDebug"'


def test_t4_the_toolbar_is_in_the_page_of_a_task_that_commits(page: Page) -> None:
    """It writes into the response before the task settles."""
    response = page.get(lambda: Page.HTML.format("good"))
    assert response.status_code == 200
    assert "good" in response.text
    assert TOOLBAR in response.text
    page.was(["work"], "status 200")


def test_t4_an_exception_rolls_back_beside_the_toolbar(page: Page) -> None:
    """The handler's page has the toolbar in it, also where it is no error page."""

    @page.app.errorhandler(Broken)
    def answer(error: Broken) -> Any:
        return Page.HTML.format("handled")

    def end() -> None:
        raise Broken

    response = page.get(end)
    assert response.status_code == 200
    assert "handled" in response.text
    assert TOOLBAR in response.text
    page.was([], "exception Broken")


def test_t4_a_redirect_that_the_toolbar_stops_commits(page: Page) -> None:
    """It shows a page with status 200 in its place."""
    response = page.get(lambda: redirect("/elsewhere"))
    assert response.status_code == 200
    assert "/elsewhere" in response.text
    page.was(["work"], "status 200")


def test_t5_a_commit_that_fails_is_answered_beside_the_toolbar(page: Page, ledger: Any) -> None:
    """The page that had the toolbar in it is not sent; nothing of it is left."""
    thing = ledger.resource("thing", commit=Broken("too late"))
    page.app.before_request(lambda: thing() and None)

    @page.app.errorhandler(Broken)
    def answer(error: Broken) -> Any:
        return Page.HTML.format("not saved"), 409

    response = page.get(lambda: Page.HTML.format("good"))
    assert (response.status_code, response.text) == (409, Page.HTML.format("not saved"))
    page.was([], "the commit of thing failed: Broken")


def test_t4_the_toolbar_shows_the_statements_of_a_task(
    app: Flask, make: Callable[..., Any]
) -> None:
    """Those of the view; what is flushed by the commit comes after the page was written."""
    from flask_debugtoolbar import DebugToolbarExtension

    app.config.update(DEBUG_TB_ENABLED=True, SQLALCHEMY_RECORD_QUERIES=True)
    store = make("flask-sqlalchemy", commit="task")
    DebugToolbarExtension(app)

    @app.get("/<int:flush>")
    def view(flush: int) -> str:
        store.write(f"note {flush}")
        if flush:
            store.connection().flush()
        return Page.HTML.format("good")

    client = app.test_client()
    assert "INSERT" not in client.get("/0").text
    assert "INSERT" in client.get("/1").text
    assert store.saved() == ["note 0", "note 1"]
    assert store.out() == 0


# -- what claims where a context is pushed


@before_3_2
def test_t1_a_claim_where_flask_pushes_the_application_context_is_a_task_of_its_own(
    handled: Flask, ledger: Any, serve: Any
) -> None:
    """There is no request yet; it settles when the context is left, as the request did."""
    thing = ledger.resource("thing")

    def view() -> None:
        thing()
        raise Broken

    handled.register_error_handler(Broken, lambda error: ("handled", 409))
    serve(view)
    with appcontext_pushed.connected_to(lambda app: thing(), handled):
        assert handled.test_client().get("/").status_code == 409
    assert ledger.lines == [
        *("claim thing", "claim thing"),
        *("rollback thing", "release thing"),
        *("rollback thing", "release thing"),
    ]


@pytest.mark.parametrize("again", ["for a body", "for a client's block"])
def test_t9_a_claim_where_a_context_is_pushed_again_begins_anew(
    app: Flask, ledger: Any, serve: Any, again: str
) -> None:
    """Flask pushes it for a body under ``stream_with_context``, and for a test's block."""
    thing = ledger.resource("thing")
    if again == "for a body":
        serve(lambda: Response(stream_with_context(iter(["whole"]))), endpoint="view")
    else:
        serve(lambda: "whole", endpoint="view")
    client = app.test_client()
    block = contextlib.nullcontext() if again == "for a body" else client
    with appcontext_pushed.connected_to(lambda app: thing(), app), block:
        assert client.get("/").text == "whole"
    # How often Flask pushes it depends on its version.
    assert ledger.count("claim") > 0
    assert ledger.count("claim") == ledger.count("commit") == ledger.count("release")

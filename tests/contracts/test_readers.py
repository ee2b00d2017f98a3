"""Whose pages may read streams (contract H12): decided alike for every way to answer."""

from __future__ import annotations

import inspect
import logging
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, Response, abort, jsonify, request, session
from flask.views import MethodView, View

from sidearm import EventStream, Sidearm, after_commit, event_stream, publish_now
from sidearm.events.exceptions import ForeignReader
from sidearm.exceptions import SettingError
from sidearm.testing import read_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.test import TestResponse

FRIEND = "https://app.example"
STRANGER = "https://evil.example"
CROSS_SITE = {"Sec-Fetch-Site": "cross-site"}


@pytest.fixture
def calls() -> list[str]:
    """A word for each view that ran."""
    return []


def make_app(calls: list[str], before: Callable[[], Any] | None = None, **settings: Any) -> Flask:
    app = Flask("read")
    app.config.update(TESTING=True, SECRET_KEY="for tests only, and long enough", **settings)
    if before is not None:
        app.before_request(before)
    Sidearm(app)

    @app.get("/declared")
    def declared() -> EventStream:
        calls.append("declared")
        return event_stream("news", snapshot=lambda: calls.append("query") or "all")

    @app.get("/undeclared")
    def undeclared() -> Any:
        calls.append("undeclared")
        return event_stream("news", snapshot=lambda: calls.append("query") or "all")

    @app.get("/page")
    def page() -> str:
        calls.append("page")
        return "a page"

    return app


@pytest.fixture
def app(calls: list[str]) -> Flask:
    return make_app(calls, SIDEARM_STREAM_ORIGINS=[FRIEND])


def ask(app: Flask, path: str = "/declared", method: str = "GET", **headers: str) -> TestResponse:
    """Ask as a browser does; underscores of a header's name are hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return app.test_client().open(
        path, method=method, headers=named, base_url="http://shop.example"
    )


REFUSED = [
    pytest.param({"Sec-Fetch-Site": "cross-site", "Origin": STRANGER}, id="another site"),
    pytest.param({"Sec-Fetch-Site": "cross-site"}, id="another site that does not say its name"),
    pytest.param({"Sec-Fetch-Site": "cross-site", "Origin": "http://shop.example"}, id="detour"),
    pytest.param({"Sec-Fetch-Site": "same-site", "Origin": "http://a.shop.example"}, id="sibling"),
    pytest.param({"Sec-Fetch-Site": "same-site", "Origin": "http://shop.example:81"}, id="port"),
    pytest.param({"Origin": STRANGER}, id="an old browser"),
    pytest.param({"Origin": "https://shop.example"}, id="another scheme"),
    pytest.param({"Origin": "null"}, id="a sandbox"),
    pytest.param({"Origin": FRIEND.upper()}, id="not as a browser writes it"),
    pytest.param({"Origin": f"{FRIEND}.evil.example"}, id="it only begins so"),
    pytest.param({"Origin": ""}, id="empty"),
    pytest.param({"Sec-Fetch-Site": "nonsense", "Origin": STRANGER}, id="a word of the future"),
]

ALLOWED = [
    pytest.param({}, id="no browser"),
    pytest.param({"Sec-Fetch-Site": "same-origin"}, id="own page"),
    pytest.param({"Sec-Fetch-Site": "none"}, id="typed"),
    pytest.param({"Sec-Fetch-Site": "same-site"}, id="a link on a sibling"),
    pytest.param({"Origin": "http://shop.example"}, id="own page in an old browser"),
    # The application sees another host than browsers do, and they know better.
    pytest.param({"Sec-Fetch-Site": "same-origin", "Origin": "https://out.example"}, id="proxy"),
]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("headers", REFUSED)
def test_h12_page_of_another_origin_is_refused_before_the_view_runs(
    app: Flask, calls: list[str], headers: dict[str, str], method: str
) -> None:
    """So no query is made for it; and one whose view does not say so makes no snapshot."""
    answer = ask(app, "/declared", method, **headers)
    assert answer.status_code == 403
    assert calls == []
    answer = ask(app, "/undeclared", method, **headers)
    assert answer.status_code == 403
    assert calls == ["undeclared"]
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("path", ["/declared", "/undeclared"])
@pytest.mark.parametrize("headers", ALLOWED)
def test_h12_own_pages_and_what_is_no_page_read(
    app: Flask, path: str, headers: dict[str, str]
) -> None:
    """Without a header of CORS, which they do not need."""
    answer = ask(app, path, **headers)
    assert answer.status_code == 200
    assert [event.event for event in read_events(answer)] == ["snapshot"]
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


def test_h12_what_is_no_stream_is_left_alone(app: Flask) -> None:
    """Whatever asks for it."""
    answer = ask(app, "/page", Origin=STRANGER, **CROSS_SITE)
    assert answer.text == "a page"
    assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


def test_h12_the_refusal_says_what_to_do(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """In the answer, and once for each endpoint in the log: the browser's console does not."""
    for number in range(3):
        answer = ask(app, Origin=f"https://{number}.example", **CROSS_SITE)
        assert f"https://{number}.example" in answer.text
        for word in ("Sec-Fetch-Site", "SIDEARM_STREAM_ORIGINS", "http://shop.example"):
            assert word in answer.text
    ask(app, "/undeclared", Origin=STRANGER)
    told = [record.getMessage() for record in caplog.records if record.name == "sidearm.events"]
    assert len(told) == 2
    assert "'declared'" in told[0]
    assert "SIDEARM_STREAM_ORIGINS" in told[1]


def test_h12_the_refusal_carries_no_markup(app: Flask) -> None:
    """What a client says is text."""
    answer = ask(app, Origin="https://<script>alert(1)</script>")
    assert answer.status_code == 403
    assert "<script>" not in answer.text


def test_h12_the_application_may_answer_the_refusal(app: Flask) -> None:
    """By its error handler, which gets the facts."""

    @app.errorhandler(ForeignReader)
    def foreign(error: ForeignReader) -> tuple[dict[str, Any], int]:
        return {"reader": error.reader, "site": error.site, "own": error.origin}, 403

    for path in ("/declared", "/undeclared"):
        answer = ask(app, path, Origin=STRANGER, **CROSS_SITE)
        assert answer.status_code == 403
        assert answer.json == {
            "reader": STRANGER,
            "site": "cross-site",
            "own": "http://shop.example",
        }


# Origins that may


@pytest.mark.parametrize("site", ["cross-site", "same-site", None])
@pytest.mark.parametrize("path", ["/declared", "/undeclared"])
def test_h12_a_named_origin_reads(app: Flask, path: str, site: str | None) -> None:
    """With cookies if it wants, and it sees what ``sidearm.js`` looks at."""
    headers = {} if site is None else {"Sec-Fetch-Site": site}
    answer = ask(app, path, Origin=FRIEND, **headers)
    assert answer.status_code == 200
    assert [event.event for event in read_events(answer)] == ["snapshot"]
    assert answer.headers.getlist("Access-Control-Allow-Origin") == [FRIEND]
    assert answer.headers.getlist("Access-Control-Allow-Credentials") == ["true"]
    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"Sidearm-Stream", "Retry-After"} <= set(exposed)
    assert "Origin" in ", ".join(answer.headers.getlist("Vary"))


def test_h12_other_headers_of_cors_are_replaced(app: Flask) -> None:
    """Two of a kind, or a star beside cookies, are refused by browsers (Fetch, 4.10)."""

    @app.after_request
    def for_everybody(response: Response) -> Response:
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.vary.add("Accept")
        return response

    answer = ask(app, Origin=FRIEND, **CROSS_SITE)
    assert answer.headers.getlist("Access-Control-Allow-Origin") == [FRIEND]
    assert ", ".join(answer.headers.getlist("Vary")) == "Accept, Origin"


def test_h12_a_named_origin_sees_the_end(app: Flask) -> None:
    """Without the headers the 204 would be no answer, and its client would never stop."""
    with app.app_context():
        publish_now("news", "the last", end=True)
    events = ask(app, Origin=FRIEND, **CROSS_SITE)
    last_id = next(
        line[4:] for line in reversed(events.text.splitlines()) if line.startswith("id: ")
    )
    answer = ask(app, Origin=FRIEND, Last_Event_ID=last_id, **CROSS_SITE)
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == FRIEND


def test_h12_a_named_origin_sees_that_a_log_in_is_wanted(app: Flask) -> None:
    """What a view answers that says that it streams, whatever it is; ``Vary`` stays whole."""

    @app.get("/members")
    def members() -> EventStream:
        session["seen"] = True
        if request.args.get("how") == "by a response":
            refusal = jsonify("Log in.")
            refusal.vary.add("Accept")
            refusal.status_code = 401
            abort(refusal)
        abort(401)

    for how in ("by a response", "by a status"):
        answer = ask(app, f"/members?how={how}", Origin=FRIEND, **CROSS_SITE)
        assert answer.status_code == 401
        assert answer.headers.getlist("Access-Control-Allow-Origin") == [FRIEND]
        expected = {"Origin", "Cookie"} | ({"Accept"} if "response" in how else set())
        assert set(answer.vary) == expected
    answer = ask(app, "/members")
    assert answer.status_code == 401
    assert "Access-Control-Allow-Origin" not in answer.headers


# Preflights


def preflight(app: Flask, path: str = "/declared", **headers: str) -> TestResponse:
    asked = {
        "Origin": FRIEND,
        "Access_Control_Request_Method": "GET",
        "Access_Control_Request_Headers": "last-event-id",
    }
    return ask(app, path, "OPTIONS", **(asked | headers))


@pytest.mark.parametrize("path", ["/declared", "/undeclared"])
def test_h12_a_named_origin_may_send_its_last_event_id(calls: list[str], path: str) -> None:
    """Nobody who wants a log-in is asked: a preflight has no cookies."""
    app = make_app(calls, lambda: ("Log in.", 401), SIDEARM_STREAM_ORIGINS=[FRIEND])
    answer = preflight(app, path)
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == FRIEND
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    assert answer.headers["Access-Control-Allow-Headers"] == "Last-Event-ID"
    assert int(answer.headers["Access-Control-Max-Age"]) > 0
    assert "Origin" in answer.vary
    assert calls == []


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        pytest.param("/declared", {"Origin": STRANGER}, id="a stranger"),
        pytest.param("/declared", {"Access_Control_Request_Method": "POST"}, id="no reading"),
        pytest.param(
            "/declared",
            {"Access_Control_Request_Headers": "authorization,last-event-id"},
            id="more than an id",
        ),
        pytest.param("/nowhere", {}, id="no such path"),
    ],
)
def test_h12_other_preflights_are_the_applications_own(
    app: Flask, path: str, headers: dict[str, str]
) -> None:
    """Flask's own answer, or that of another extension."""
    answer = preflight(app, path, **headers)
    assert "Access-Control-Allow-Origin" not in answer.headers


# Which views are asked for


def test_h12_every_kind_of_view_that_says_so_is_asked_for(calls: list[str]) -> None:
    """Before it runs: also under several rules, in classes, and where it was there first."""
    app = Flask("kinds")
    app.testing = True

    @app.get("/one")
    @app.get("/other")
    def one() -> EventStream:
        calls.append("one")
        return event_stream("news")

    Sidearm(app)
    app.add_url_rule("/third", view_func=one)

    class Mixed(MethodView):
        def get(self) -> EventStream:
            calls.append("get")
            return event_stream("news")

        def post(self) -> str:
            return "posted"

    class Simple(View):
        def dispatch_request(self) -> EventStream:
            calls.append("simple")
            return event_stream("news")

    class Called:
        def __call__(self) -> EventStream:
            calls.append("called")
            return event_stream("news")

    app.add_url_rule("/mixed", view_func=Mixed.as_view("mixed"))
    app.add_url_rule("/simple", view_func=Simple.as_view("simple"))
    app.add_url_rule("/called", "called", Called())
    app.add_url_rule("/by-name", endpoint="named")

    @app.endpoint("named")
    def named() -> EventStream:
        calls.append("named")
        return event_stream("news")

    paths = ["/one", "/other", "/third", "/mixed", "/simple", "/called", "/by-name"]
    for path in paths:
        for method in ("GET", "HEAD"):
            assert ask(app, path, method, Origin=STRANGER, **CROSS_SITE).status_code == 403, path
    assert calls == []
    assert [ask(app, path).status_code for path in paths] == [200] * len(paths)
    assert calls == ["one", "one", "one", "get", "simple", "called", "named"]
    assert ask(app, "/mixed", "POST", Origin=STRANGER, **CROSS_SITE).text == "posted"


def test_h12_a_view_may_be_a_coroutine(calls: list[str]) -> None:
    """Flask runs it as it would without."""
    pytest.importorskip("asgiref")
    app = make_app(calls)

    @app.get("/async")
    async def asynchronous() -> EventStream:
        calls.append("async")
        return event_stream("news")

    assert ask(app, "/async", Origin=STRANGER).status_code == 403
    assert calls == []
    assert ask(app, "/async").status_code == 200


def test_h12_no_other_view_is_touched(app: Flask) -> None:
    """What does not stream costs what it did; and what does keeps its name."""
    before = dict(app.view_functions)
    ask(app, "/page")
    after = app.view_functions
    assert after["page"] is before["page"]
    assert after["undeclared"] is before["undeclared"]
    assert inspect.unwrap(after["declared"]) is before["declared"]
    assert after["declared"].__name__ == "declared"
    ask(app, "/page")
    assert app.view_functions == after


def test_h12_the_origin_is_what_the_settings_say(calls: list[str]) -> None:
    """Behind a proxy that hides it."""
    app = make_app(calls, SIDEARM_ORIGIN="https://shop.example")
    assert ask(app, Origin="https://shop.example").status_code == 200
    assert ask(app, Origin="http://shop.example").status_code == 403


# The setting


def test_h12_origins_are_written_as_browsers_write_them(calls: list[str]) -> None:
    """However the setting has them."""
    origins = ["HTTPS://App.example:443/", "https://bücher.example", "http://localhost:5173"]
    app = make_app(calls, SIDEARM_STREAM_ORIGINS=origins)
    for origin in (FRIEND, "https://xn--bcher-kva.example", "http://localhost:5173"):
        answer = ask(app, Origin=origin, **CROSS_SITE)
        assert answer.headers["Access-Control-Allow-Origin"] == origin


@pytest.mark.parametrize(
    "value",
    [
        FRIEND,
        None,
        ["*"],
        ["null"],
        [None],
        [7],
        [[FRIEND]],
        ["app.example"],
        ["https://app.example/path"],
        ["https://*.app.example"],
        ["ftp://app.example"],
        [FRIEND, ""],
    ],
)
def test_h12_a_wrong_origin_fails_at_start_up(value: Any) -> None:
    """By the setting's name."""
    app = Flask("wrong")
    app.config["SIDEARM_STREAM_ORIGINS"] = value
    with pytest.raises(SettingError, match="SIDEARM_STREAM_ORIGINS"):
        Sidearm(app)


def test_h12_refusals_roll_back(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    """A view that worked before it asked for its stream has failed."""
    done: list[str] = []

    @app.get("/working")
    def working() -> Any:
        after_commit(partial(done.append, "committed"))
        return event_stream("news")

    with caplog.at_level(logging.ERROR):
        assert ask(app, "/working", Origin=STRANGER).status_code == 403
    assert done == []
    assert ask(app, "/working").status_code == 200
    assert done == ["committed"]

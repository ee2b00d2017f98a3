"""Contracts D1 and D2: no redirect leaves the origin unnoticed, and going back goes back.

With the cases C15 and C18 to C21 that are about redirects, and the behaviours RR.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, Response, after_this_request, redirect, request, url_for
from flasks import REDIRECT_STATUS
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.middleware.proxy_fix import ProxyFix

from sidearm import (
    RedirectLoop,
    SettingError,
    Sidearm,
    UnsafeRedirect,
    is_different_url,
    is_safe_url,
    redirect_back,
    redirect_target,
)
from sidearm.signals import redirect_leaving

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from werkzeug.test import TestResponse

ELSEWHERE = "https://evil.example/path?token=secret#there"
HERE = "http://localhost"
HTMX = {"HX-Request": "true"}


def make_app(**config: Any) -> Flask:
    """An application with Sidearm, whose ``/do`` goes back, to ``/`` if nowhere else."""
    app = Flask("redirects")
    app.config.update(TESTING=True, SECRET_KEY="for tests only", **config)
    Sidearm(app)
    app.add_url_rule("/", "index", lambda: "index")

    @app.route("/do", methods=["GET", "POST", "PUT"])
    def do() -> Any:
        return redirect_back(url_for("index"))

    return app


def location(response: TestResponse) -> str:
    """Where a response redirects to; the redirect stays on this host."""
    assert response.status_code in {302, 303}
    return response.headers["Location"]


# -- whose origin


FORGED = "evil.example"


@pytest.mark.parametrize(
    ("config", "own"),
    [
        ({"SIDEARM_ORIGIN": "https://shop.example"}, "https://shop.example"),
        ({"SIDEARM_ORIGIN": "HTTPS://Shop.Example:443/"}, "https://shop.example"),
        ({"SIDEARM_ORIGIN": "http://bücher.example:8000"}, "http://xn--bcher-kva.example:8000"),
        ({"SERVER_NAME": "shop.example"}, "http://shop.example"),
        ({"SERVER_NAME": "Shop.Example:8000"}, "http://shop.example:8000"),
    ],
)
def test_d1_a_forged_host_gains_nothing(config: dict[str, Any], own: str) -> None:
    """Where a setting tells the origin, the Host header is not asked."""
    client = make_app(**config).test_client()
    for host in (FORGED, "localhost"):
        headers = {"Host": host}
        forged = client.get("/do", query_string={"next": f"http://{FORGED}/x"}, headers=headers)
        true = client.get("/do", query_string={"next": f"{own}/x"}, headers=headers)
        assert (location(forged), location(true)) == ("/", f"{own}/x")


def test_d1_a_host_that_flask_does_not_trust_is_refused_by_flask() -> None:
    """TRUSTED_HOSTS answers 400; one of the list is an origin."""
    client = make_app(TRUSTED_HOSTS=[".shop.example"]).test_client()
    query = {"next": f"http://{FORGED}/x"}
    assert client.get("/do", query_string=query, headers={"Host": FORGED}).status_code == 400
    query = {"next": "http://a.shop.example/x"}
    response = client.get("/do", query_string=query, headers={"Host": "a.shop.example"})
    assert location(response) == "http://a.shop.example/x"


def test_d1_subdomains_of_server_name_are_origins_where_flask_routes_them() -> None:
    """With subdomain matching the host is one's own, and one that only ends alike is not."""
    app = Flask("subdomains", subdomain_matching=True)
    app.config.update(TESTING=True, SERVER_NAME="shop.example")
    Sidearm(app)
    with app.test_request_context(base_url="http://admin.shop.example"):
        assert is_safe_url("http://admin.shop.example/x")
        assert not is_safe_url("http://shop.example/x")
    with (
        pytest.warns(UserWarning, match="doesn't match configured server name"),
        app.test_request_context(base_url="http://evilshop.example"),
    ):
        assert not is_safe_url("http://evilshop.example/x")


@pytest.mark.parametrize("host", ["", "evil.example@", "a b", "[", "a/b", "\xe9", "x:99999", "%"])
def test_d1_a_host_that_is_none_makes_no_origin(host: str) -> None:
    """Rubbish in the header never raises, and paths go on working."""
    app = make_app()
    environ = {"HTTP_HOST": host}
    with app.test_request_context("/do", environ_overrides=environ):
        assert is_safe_url("/käse")
        assert not is_safe_url(f"http://{host}/")
        assert not is_safe_url(f"//{host}/")
        assert is_different_url("/käse")


def test_d1_outside_a_request_the_settings_tell() -> None:
    """A mail's link can be judged by a command; without a setting only paths are safe."""
    with make_app(SIDEARM_ORIGIN="https://shop.example").app_context():
        assert is_safe_url("https://shop.example/x")
        assert is_safe_url("//shop.example/x")
    app = make_app(SERVER_NAME="shop.example", PREFERRED_URL_SCHEME="https")
    with app.app_context():
        assert is_safe_url("https://shop.example/x")
        assert not is_safe_url("http://shop.example/x")
    with make_app().app_context():
        assert is_safe_url("/käse")
        assert not is_safe_url("//localhost/x")


def test_d1_d2_c15_behind_a_proxy_and_under_a_prefix() -> None:
    """Scheme, host, port and prefix are what ProxyFix makes of the proxy's headers."""
    app = make_app()
    app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
        app.wsgi_app, x_proto=1, x_host=1, x_port=1, x_prefix=1
    )
    headers = {
        "Host": "127.0.0.1:8000",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "shop.example:8443",
        "X-Forwarded-Port": "8443",
        "X-Forwarded-Prefix": "/shop",
    }
    client = app.test_client()

    def going_to(target: str, **more: str) -> str:
        query = {"next": target}
        return location(client.get("/do", query_string=query, headers={**headers, **more}))

    assert going_to("/shop/x") == "/shop/x"
    assert going_to("https://shop.example:8443/shop/x") == "https://shop.example:8443/shop/x"
    assert going_to("http://127.0.0.1:8000/shop/x") == "/shop/"
    assert going_to("http://shop.example:8443/shop/x") == "/shop/"
    assert going_to("https://shop.example/shop/x") == "/shop/"
    assert going_to("/shop/do") == "/shop/do"  # without the query, it is another page
    assert going_to("", Referer="https://shop.example:8443/shop/y") == (
        "https://shop.example:8443/shop/y"
    )


# -- other hosts, by list


@pytest.mark.parametrize(
    ("target", "allowed"),
    [
        ("https://shop.app.example/x", True),
        ("https://SHOP.App.Example/x", True),
        ("https://app.example", True),
        ("https://a.b.app.example:443/", True),
        ("//shop.app.example/x", True),
        ("http://shop.app.example/x", True),
        ("https://pay.example:8443/x", True),
        ("https://xn--bcher-kva.example/", True),
        *((f"https://other.example{trick}.app.example", False) for trick in "\\/?#\t@\uff0e\u3002"),
        ("https://other.example%5C.app.example", False),
        ("https://evilapp.example", False),
        ("https://app.example.evil.example", False),
        ("https://shop.app.example:8443/", False),
        ("https://pay.example/x", False),
        ("https://a.pay.example:8443/x", False),
        ("https://user@shop.app.example/", False),
        ("https://a..app.example/", False),
        ("https://.app.example/", False),
        ("https://app.example./", False),
        ("ftp://shop.app.example/", False),
        ("javascript:alert('.app.example')", False),
        ("java\x01script://shop.app.example/%0aalert(1)", False),
    ],
)
def test_d1_c20_rr10_other_hosts_are_allowed_by_list_and_never_by_ending(
    target: str, allowed: bool
) -> None:
    """By query, form and referrer: labels of the host are compared, as a browser reads it."""
    client = make_app(
        SIDEARM_REDIRECT_HOSTS=[".app.example", "pay.example:8443", "bücher.example"]
    ).test_client()
    expected = target if allowed else "/"
    for response in (
        client.get("/do", query_string={"next": target}),
        client.post("/do", data={"next": target}),
        client.get("/do", environ_overrides={"HTTP_REFERER": target.encode().decode("latin-1")}),
    ):
        assert location(response).lower() == expected.lower()


def test_d1_no_list_leads_from_https_to_http() -> None:
    """What a page was sent to encrypted does not go on in the clear."""
    app = make_app(SIDEARM_REDIRECT_HOSTS=["pay.example"])
    with app.test_request_context(base_url="https://shop.example"):
        assert is_safe_url("https://pay.example/")
        assert not is_safe_url("http://pay.example/")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SIDEARM_ORIGIN", "shop.example"),
        ("SIDEARM_ORIGIN", "https://shop.example/prefix"),
        ("SIDEARM_ORIGIN", "https://user@shop.example"),
        ("SIDEARM_ORIGIN", "ftp://shop.example"),
        ("SIDEARM_ORIGIN", "https://"),
        ("SIDEARM_ORIGIN", "\ud800"),
        ("SIDEARM_ORIGIN", ["https://shop.example"]),
        ("SIDEARM_ORIGIN", ""),
        ("SIDEARM_REDIRECT_HOSTS", "pay.example"),
        ("SIDEARM_REDIRECT_HOSTS", ["https://pay.example"]),
        ("SIDEARM_REDIRECT_HOSTS", ["pay.example/x"]),
        ("SIDEARM_REDIRECT_HOSTS", ["*"]),
        ("SIDEARM_REDIRECT_HOSTS", ["*.pay.example"]),
        ("SIDEARM_REDIRECT_HOSTS", ["..pay.example"]),
        ("SIDEARM_REDIRECT_HOSTS", [".example"]),
        ("SIDEARM_REDIRECT_HOSTS", [".0.0.1"]),
        ("SIDEARM_REDIRECT_HOSTS", [""]),
        ("SIDEARM_REDIRECT_HOSTS", [None]),
        ("SIDEARM_CHECK_REDIRECTS", True),
        ("SIDEARM_CHECK_REDIRECTS", "warn"),
    ],
)
def test_d1_a_wrong_setting_fails_at_start_by_its_name(key: str, value: Any) -> None:
    """Nobody finds out by a redirect."""
    with pytest.raises(SettingError, match=f"^{key} is ") as caught:
        make_app(**{key: value})
    assert caught.value.key == key


# -- what leaves


def answer(
    app: Flask, headers: dict[str, str], status: int = 200, client_headers: Any = None
) -> TestResponse:
    """A response of ``/answer`` with headers of the test's choice."""
    app.add_url_rule("/answer", "answer", lambda: ("body", status, headers))
    return app.test_client().get("/answer", headers=client_headers)


LEAVING = [
    (302, {"Location": ELSEWHERE}),
    (301, {"location": "//evil.example"}),
    (303, {"Location": "http:evil.example"}),  # relative, until Werkzeug has rewritten it
    (307, {"Location": "/\t/evil.example"}),
    (308, {"Location": "https:evil.example"}),
    (302, {"Location": "x-test+scheme:go"}),
    (302, {"Location": "//[evil"}),  # which Werkzeug cannot read, nor anybody
    (200, {"Refresh": f"0; url={ELSEWHERE}"}),
    (200, {"refresh": "5;URL = '//evil.example'"}),
    (200, {"Refresh": '5, url="//evil.example"x"'}),
    (200, {"Refresh": "5 https://evil.example"}),
    (200, {"Refresh": "5\xa0https://evil.example"}),
    (200, {"Refresh": "5; url 'https://evil.example'"}),
    (404, {"Refresh": "0;javascript:alert(1)"}),
    (200, {"Refresh": "5\x0bhttps://evil.example"}),
    (204, {"HX-Redirect": ELSEWHERE}),
    (200, {"hx-redirect": "/\\evil.example"}),
    (200, {"HX-Location": "//evil.example"}),
    (200, {"HX-Location": json.dumps({"path": ELSEWHERE, "target": "#main"})}),
    (200, {"HX-Location": '{"path": "/x", "path": "//evil.example"}'}),
    (200, {"HX-Location": '{"path": ["//evil.example"]}'}),
    (200, {"HX-Location": "{" * 5000}),
    (200, {"HX-Location": '{"target": "#main"}'}),
    (200, {"Turbo-Location": "https://evil.example"}),
]


@pytest.mark.parametrize(("status", "headers"), LEAVING, ids=range(len(LEAVING)))
def test_d1_every_header_that_redirects_is_held_to_the_rule(
    status: int, headers: dict[str, str]
) -> None:
    """Also where Werkzeug's rewriting makes another target of it."""
    (name,) = headers
    with pytest.raises(UnsafeRedirect) as caught:
        answer(make_app(SIDEARM_CHECK_REDIRECTS="raise"), headers, status)
    assert caught.value.header.lower() == name.lower()
    assert caught.value.origin == HERE


STAYING = [
    (302, {"Location": "/things?next=//evil.example"}),
    (302, {"Location": "things"}),
    (302, {"Location": "@evil.example"}),
    (302, {"Location": "#"}),
    (302, {"Location": f"{HERE}/käse"}),
    (302, {"Location": "/" + "a" * 10_000}),  # long, and no way out
    (201, {"Location": ELSEWHERE}),  # where the new thing is; nobody goes there
    (200, {"Location": ELSEWHERE}),
    (200, {"Refresh": "5"}),
    (200, {"Refresh": "5; url=/x"}),
    (200, {"Refresh": "5; url='/x'"}),
    (200, {"Refresh": f"5 ;URL={HERE}/x"}),
    (200, {"HX-Redirect": "/x"}),
    (200, {"HX-Location": json.dumps({"path": "/x", "target": "//evil.example"})}),
    (200, {"Turbo-Location": f"{HERE}/x"}),
    (200, {"Content-Location": ELSEWHERE, "Link": f"<{ELSEWHERE}>; rel=next"}),
]


@pytest.mark.parametrize(("status", "headers"), STAYING, ids=range(len(STAYING)))
def test_d1_rr05_rr21_redirects_inside_the_site_are_left_alone(
    status: int, headers: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """In the strict mode nothing is logged, and every header is as it was."""
    response = answer(make_app(SIDEARM_CHECK_REDIRECTS="raise"), headers, status)
    assert response.status_code == status
    bare = answer(make_app(SIDEARM_CHECK_REDIRECTS="off"), headers, status)
    assert response.headers.to_wsgi_list() == bare.headers.to_wsgi_list()
    assert not caplog.records


def test_d1_a_list_counts_for_what_leaves_too() -> None:
    """A redirect to a payment provider is made on purpose."""
    config = {"SIDEARM_CHECK_REDIRECTS": "raise", "SIDEARM_REDIRECT_HOSTS": ["pay.example"]}
    headers = {"Location": "https://pay.example/checkout"}
    assert answer(make_app(**config), headers, 303).status_code == 303


def test_d1_rr19_by_default_it_leaves_and_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One record with the target and the place in the code, and without what its query holds."""
    app = make_app()
    signals: list[Any] = []

    def hear(sender: Flask, **facts: Any) -> None:
        signals.append((sender, facts))

    with redirect_leaving.connected_to(hear), caplog.at_level(logging.DEBUG, "sidearm"):
        response = answer(app, {"Location": ELSEWHERE}, 302)

    assert (response.status_code, response.headers["Location"]) == (302, ELSEWHERE)
    (record,) = [each for each in caplog.records if each.name == "sidearm.redirects"]
    assert record.levelno == logging.WARNING
    message = record.getMessage()
    assert "The view 'answer'" in message
    assert "test_redirects.py:" in message
    assert "https://evil.example/path" in message
    assert "SIDEARM_REDIRECT_HOSTS" in message
    assert "secret" not in caplog.text
    ((sender, facts),) = signals
    assert sender is app
    assert facts["error"].target == ELSEWHERE
    assert facts["refused"] is False


def test_d1_off_looks_at_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The setting's third value."""
    response = answer(make_app(SIDEARM_CHECK_REDIRECTS="off"), {"Location": ELSEWHERE}, 302)
    assert response.headers["Location"] == ELSEWHERE
    assert not caplog.records


def test_d1_a_password_in_a_target_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Nor the name before it."""
    answer(make_app(), {"Location": "https://user:secret@evil.example/path"}, 302)
    (record,) = caplog.records
    assert "'https://...@evil.example/path'" in record.getMessage()
    assert "secret" not in caplog.text


def test_d1_a_forged_target_splits_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """The target is written as Python writes a text."""
    answer(make_app(), {"HX-Redirect": "https://evil.example/\x1b[2K\u2028forged"})
    (record,) = caplog.records
    assert "\x1b" not in record.getMessage()
    assert "\u2028" not in record.getMessage()


def test_d1_rr01_rr18_a_refused_redirect_reaches_the_applications_handler() -> None:
    """One exception, which is registered like any other; what was added to all responses stays."""
    app = make_app(SIDEARM_CHECK_REDIRECTS="raise")

    @app.errorhandler(UnsafeRedirect)
    def refused(error: UnsafeRedirect) -> Any:
        return f"not to {error.target}", 400

    response = answer(app, {"Location": ELSEWHERE}, 302)
    assert (response.status_code, response.text) == (400, f"not to {ELSEWHERE}")
    assert "Location" not in response.headers


def test_d1_a_refused_redirect_without_a_handler_is_the_500_page() -> None:
    """In production nobody hears of the exception but the log."""
    app = make_app(SIDEARM_CHECK_REDIRECTS="raise", PROPAGATE_EXCEPTIONS=False)

    @app.errorhandler(500)
    def page(error: Any) -> Any:
        return type(error.original_exception).__name__, 500

    response = answer(app, {"Location": ELSEWHERE}, 302)
    assert (response.status_code, response.text) == (500, "UnsafeRedirect")
    assert "Location" not in response.headers


@pytest.mark.parametrize("handled", [UnsafeRedirect, 500])
def test_d1_a_handler_that_makes_the_same_mistake_does_not_get_through(handled: Any) -> None:
    """It is answered with the bare 500 page."""
    app = make_app(SIDEARM_CHECK_REDIRECTS="raise", PROPAGATE_EXCEPTIONS=False)
    app.register_error_handler(handled, lambda _: redirect(ELSEWHERE))
    response = answer(app, {"Location": ELSEWHERE}, 302)
    assert response.status_code == 500
    assert "evil.example" not in str(response.headers)


def test_d1_a_redirect_that_an_after_request_function_makes_is_seen() -> None:
    """Also if it was registered after Sidearm, or during the request."""
    app = make_app(SIDEARM_CHECK_REDIRECTS="raise")

    def turn(response: Response) -> Response:
        response.headers["HX-Redirect"] = ELSEWHERE
        return response

    @app.get("/turning")
    def turning() -> str:
        after_this_request(turn)
        return "body"

    with pytest.raises(UnsafeRedirect):
        app.test_client().get("/turning")
    app = make_app(SIDEARM_CHECK_REDIRECTS="raise")
    app.after_request(turn)
    with pytest.raises(UnsafeRedirect):
        app.test_client().get("/")


def test_d1_t4_the_work_of_a_refused_redirect_is_rolled_back(
    app_with_notes: tuple[Flask, Callable[[], int]],
) -> None:
    """As with every exception that fails a task; also when a handler answers it."""
    app, count = app_with_notes
    app.register_error_handler(UnsafeRedirect, lambda _: ("refused", 200))
    response = app.test_client().post("/write", query_string={"to": "/x"})
    assert response.status_code == REDIRECT_STATUS
    assert count() == 1
    assert app.test_client().post("/write", query_string={"to": ELSEWHERE}).text == "refused"
    assert count() == 1
    records = [each for each in app.extensions["sidearm"].records if each.round == "work"]
    assert [(each.committed, each.decided_by) for each in records] == [
        (True, f"status {REDIRECT_STATUS}"),
        (False, "exception UnsafeRedirect"),
    ]


def test_d1_t5_the_page_of_a_failed_commit_is_looked_at_too(
    app_with_notes: tuple[Flask, Callable[[], int]],
) -> None:
    """It is a response like any other."""
    app, count = app_with_notes
    app.register_error_handler(sqlite3.IntegrityError, lambda _: redirect(ELSEWHERE))
    app.register_error_handler(UnsafeRedirect, lambda _: ("refused", 400))
    response = app.test_client().post("/write", query_string={"to": "/x", "dangling": "yes"})
    assert (response.status_code, response.text) == (400, "refused")
    assert count() == 0


@pytest.fixture
def app_with_notes(tmp_path: Path) -> Iterator[tuple[Flask, Callable[[], int]]]:
    """An application whose ``/write`` adds a row and redirects, and what counts the rows."""
    path = tmp_path / "notes.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE authors (id INTEGER PRIMARY KEY);"
            "CREATE TABLE notes (author REFERENCES authors DEFERRABLE INITIALLY DEFERRED)"
        )
    app = Flask("notes")
    app.config.update(SIDEARM_CHECK_REDIRECTS="raise", TESTING=True)

    @Sidearm(app).resource
    def get_database() -> Generator[sqlite3.Connection]:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            yield connection

    @app.post("/write")
    def write() -> Any:
        author = 7 if "dangling" in request.args else None
        get_database().execute("INSERT INTO notes VALUES (?)", (author,))
        return redirect(request.args["to"])

    def count() -> int:
        with closing(sqlite3.connect(path)) as connection:
            (number,) = connection.execute("SELECT count(*) FROM notes").fetchone()
        return int(number)

    return app, count


def test_d1_an_ordinary_response_is_not_made_twice() -> None:
    """Only one that redirects is asked for its final headers before it leaves."""
    asked: list[int] = []

    class Counted(Response):
        def get_wsgi_headers(self, environ: Any) -> Any:
            asked.append(self.status_code)
            return super().get_wsgi_headers(environ)

    app = make_app()
    app.response_class = Counted
    app.test_client().get("/")
    assert asked == [200]
    app.test_client().get("/do")
    assert asked == [200, 302, 302]


# -- going back


def test_d2_the_form_is_asked_then_the_query_then_the_referrer() -> None:
    """The first that is safe, and not this page, is the one."""
    client = make_app().test_client()

    def going_to(form: str = "", query: str = "", referrer: str = "") -> str:
        headers = {"Referer": referrer}
        return location(
            client.post("/do", data={"next": form}, query_string={"next": query}, headers=headers)
        )

    assert going_to("/form", "/query", f"{HERE}/page") == "/form"
    assert going_to("", "/query", f"{HERE}/page") == "/query"
    assert going_to("//evil.example", "/query", f"{HERE}/page") == "/query"
    assert going_to("//evil.example", "javascript:x", f"{HERE}/page") == f"{HERE}/page"
    assert going_to("", "", "https://evil.example/") == "/"
    assert going_to() == "/"


def test_d2_rr11_rr13_rr14_the_target_is_a_url_or_nothing() -> None:
    """So that ``redirect_target() or ...`` works."""
    app = make_app()
    for given_, expected in {"/x": "/x", "http://localhost/x": "http://localhost/x"}.items():
        with app.test_request_context("/do", query_string={"next": given_}):
            assert redirect_target() == expected
    for given_ in ("", "//evil.example", "http://evil.example/x"):
        with app.test_request_context("/do", query_string={"next": given_}):
            assert redirect_target() is None
    with app.test_request_context("/do"):
        assert redirect_target() is None


def test_d1_rr16_nothing_is_no_target() -> None:
    """Asked about, it is not safe; given as a fallback, it is an error at that line."""
    with make_app().test_request_context("/do"):
        assert not is_safe_url(None)
        assert not is_different_url(None)
        for nothing in (None, "", b"/x"):
            with pytest.raises(TypeError, match=r"redirect_back\(\) was given"):
                redirect_back(nothing)  # type: ignore[arg-type]


def test_d1_rr17_the_querys_own_fields_make_no_target() -> None:
    """A field of another name is not asked, and is no argument of url_for."""
    client = make_app().test_client()
    query = {"protocol": "javascript", "_scheme": "javascript", "host": "evil.example"}
    assert location(client.get("/do", query_string=query)) == "/"


@pytest.mark.parametrize(
    "same",
    [
        *(
            "/do?a=1&b=2",
            f"{HERE}/do?b=2&a=1",
            "?a=1&b=2",
            "?b=2&a=1#there",
            "#there",
            "do?a=1&b=2",
        ),
        *(
            "//LOCALHOST/do?a=1&b=2",
            "./d%6f?a=%31&b=2",
            "/x/../do?a=1&b=2",
            f"{HERE}:80/do?a=1&b=2",
        ),
        *("", "?"),  # which leave as an empty Location
    ],
)
def test_d2_what_would_come_round_again_is_skipped(same: str) -> None:
    """The page of this request, however it is written, by every source."""
    app = make_app()
    with app.test_request_context("/do?a=1&b=2", headers={"Referer": same}):
        assert not is_different_url(same)
        assert redirect_target() is None
    with app.test_request_context("/do?a=1&b=2", method="POST", data={"next": same}):
        assert redirect_target() is None


@pytest.mark.parametrize(
    "other",
    ["/do", "/do?a=1", "/do?a=1&b=2&b=3", "/do?a=1&b=", "/other?a=1&b=2", "/DO?a=1&b=2", "x", "/?"],
)
def test_d2_another_path_or_another_query_is_another_page(other: str) -> None:
    """One of the two is enough, where the slide asks for both."""
    with make_app().test_request_context("/do?a=1&b=2"):
        assert is_different_url(other)


def test_d2_the_same_page_under_a_prefix_and_with_other_letters() -> None:
    """Compared is what the server gets, decoded."""
    app = make_app()
    with app.test_request_context("/käse", base_url=f"{HERE}/läden", query_string="q=日"):
        for same in ("/läden/käse?q=日", "/l%C3%A4den/k%C3%A4se?q=%E6%97%A5", "käse?q=日"):
            assert not is_different_url(same)
        assert is_different_url("/käse?q=日")


def test_d2_a_fallback_that_is_this_page_is_an_error_and_no_loop() -> None:
    """A GET would come round for ever; after a POST the page is a new one."""
    app = make_app()
    app.add_url_rule("/round", "round", lambda: redirect_back("/round"), methods=["GET", "POST"])
    client = app.test_client()
    with pytest.raises(RedirectLoop, match="redirect_back\\('/round'\\)"):
        client.get("/round", headers={"Referer": f"{HERE}/round"})
    assert location(client.get("/round", headers={"Referer": f"{HERE}/x"})) == f"{HERE}/x"
    assert location(client.post("/round")) == "/round"


@pytest.mark.parametrize("mode", ["off", "log", "raise"])
def test_d2_rr15_rr20_a_fallback_on_another_host_is_refused(mode: str) -> None:
    """In every mode; unless the host is on the list."""
    app = make_app(SIDEARM_CHECK_REDIRECTS=mode)
    with app.test_request_context("/do"), pytest.raises(UnsafeRedirect) as caught:
        redirect_back(ELSEWHERE)
    assert caught.value.target == ELSEWHERE
    app = make_app(SIDEARM_CHECK_REDIRECTS=mode, SIDEARM_REDIRECT_HOSTS=["evil.example"])
    with app.test_request_context("/do"):
        assert redirect_back(ELSEWHERE).location == ELSEWHERE


@pytest.mark.parametrize(
    ("method", "status"), [("GET", 302), ("HEAD", 302), ("POST", 303), ("PUT", 303)]
)
def test_d2_after_a_post_the_browser_goes_on_with_get(method: str, status: int) -> None:
    """303 says so; 302 leaves it to the browser."""
    assert make_app().test_client().open("/do", method=method).status_code == status


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_d2_rr12_rr22_a_status_that_is_asked_for_is_kept(code: int) -> None:
    """For the referrer and for the fallback."""
    app = make_app()
    for headers in ({}, {"Referer": f"{HERE}/page"}):
        with app.test_request_context("/do", method="POST", headers=headers):
            response = redirect_back("/", code)
            assert response.status_code == code
            assert response.location == headers.get("Referer", "/")


def test_d1_rr08_going_back_keeps_the_port() -> None:
    """The same host on another port is another origin."""
    client = make_app().test_client()
    base = {"base_url": "http://localhost:8000"}
    page = "http://localhost:8000/page"
    assert location(client.get("/do", headers={"Referer": page}, **base)) == page
    other = "http://localhost:8001/page"
    assert location(client.get("/do", headers={"Referer": other}, **base)) == "/"


def test_d2_the_fallback_may_be_an_endpoint() -> None:
    """With the values for its URL, which is then made by url_for."""
    app = make_app()
    app.add_url_rule("/item/<int:number>", "item", str)
    with app.test_request_context("/do"):
        assert redirect_back("item", number=7, tab="b").location == "/item/7?tab=b"
        assert redirect_back("index").location == "/"
        with pytest.raises(TypeError, match="values for an endpoint: number"):
            redirect_back("/item", number=7)


def test_d2_c21_htmx_is_told_in_its_own_header() -> None:
    """204 and HX-Redirect; a script would follow a Location and show the page inside the page."""
    client = make_app().test_client()

    def ask(current: str | None = None, query: str = "", **headers: str) -> TestResponse:
        sent = {**headers, **({"HX-Current-URL": current} if current else {})}
        return client.post("/do", query_string={"next": query}, headers=sent)

    def told(response: TestResponse) -> str:
        assert response.status_code == 204
        assert "Location" not in response.headers
        assert "HX-Request" in response.vary
        return response.headers["HX-Redirect"]

    page = f"{HERE}/page?tab=2"
    assert told(ask(page, **HTMX)) == page
    assert told(ask(page, "/x", **HTMX)) == "/x"
    assert told(ask("https://evil.example/page", **HTMX)) == "/"
    assert told(ask(None, "//evil.example", **HTMX)) == "/"
    assert told(ask(page, "//evil.example", **HTMX)) == page
    assert told(ask(None, "/käse", **HTMX)) == "/k%C3%A4se"

    plain = ask(page)  # a header that htmx did not send
    assert (plain.status_code, plain.headers["Location"]) == (303, "/")
    assert "HX-Redirect" not in plain.headers
    assert "HX-Request" in plain.vary


def header_bytes() -> st.SearchStrategy[str]:
    """What a server can pass on of a header: any bytes, as ISO 8859-1."""
    return st.binary(max_size=60).map(lambda value: value.decode("latin-1"))


@given(header_bytes(), header_bytes(), header_bytes(), st.sampled_from(["GET", "POST"]))
def test_d2_rubbish_in_a_header_or_in_the_query_never_raises(
    referrer: str, current: str, query: str, method: str
) -> None:
    """It is skipped, and what is answered stays here."""
    app = make_app(SIDEARM_CHECK_REDIRECTS="raise")
    for headers in ({}, {"HTTP_HX_REQUEST": "true", "HTTP_HX_CURRENT_URL": current}):
        environ = {"HTTP_REFERER": referrer, "QUERY_STRING": f"next={query}", **headers}
        response = app.test_client().open("/do", method=method, environ_overrides=environ)
        assert response.status_code in {204, 302, 303}


def test_d2_functions_need_a_sidearm() -> None:
    """On an application without one the error says what to do."""
    app = Flask("bare")
    with app.test_request_context(), pytest.raises(RuntimeError, match="has no Sidearm"):
        is_safe_url("//x")

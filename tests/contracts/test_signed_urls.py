"""S4: whole URLs that are signed, and links with a host that no request can choose."""

from __future__ import annotations

import logging
import string
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest
from flask import Blueprint, Flask, request
from flask.views import MethodView
from hypothesis import assume, given, strategies
from werkzeug.routing import BaseConverter, BuildError

from sidearm import (
    SettingError,
    Sidearm,
    SidearmError,
    external_url_for,
    signed_url_for,
    signed_url_required,
)
from sidearm.exceptions import SecretKeyError, UnknownOrigin
from sidearm.settings import Settings
from sidearm.signing import BadSignedURL, ExpiredSignedURL

if TYPE_CHECKING:
    from flask.testing import FlaskClient

KEY, OTHER_KEY = "a key that is long enough", "another key of that kind"
ORIGIN = "https://shop.example"


def made(**config: Any) -> Flask:
    """An application with a few signed views, each of which shows what it was asked."""
    app = Flask("testapp")
    app.config.update({"SECRET_KEY": KEY, "SIDEARM_ORIGIN": ORIGIN, **config})
    Sidearm(app)

    @app.get("/orders/<int:order_id>/file")
    @signed_url_required
    def download(order_id: int) -> dict[str, Any]:
        return {"order": order_id, "args": list(request.args.items(multi=True))}

    @app.get("/export")
    @signed_url_required(ignore=["utm_source", "fbclid", "tag", "", "*", "utm_.*"])
    def export() -> dict[str, Any]:
        return {"args": list(request.args.items(multi=True))}

    @app.post("/hook")
    @signed_url_required
    def hook() -> str:
        return "hooked"

    @app.route("/both", methods=["GET", "POST"])
    @signed_url_required
    def both() -> str:
        return request.method

    return app


@pytest.fixture
def app() -> Flask:
    return made()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def link(app: Flask, endpoint: str, **values: Any) -> str:
    with app.app_context():
        return signed_url_for(endpoint, **values)


def opened(app: Flask, url: str, **options: Any) -> int:
    """The status of a URL that is opened where it says."""
    return visit(app, url, **options).status_code


def visit(app: Flask, url: str, method: str = "GET", base_url: str | None = None) -> Any:
    parts = urlsplit(url)
    base = base_url or f"{parts.scheme or 'http'}://{parts.netloc or 'localhost'}"
    return app.test_client().open(
        unquote(parts.path), method=method, base_url=base, query_string=parts.query
    )


# What is good.


def test_la01_la02_a_signed_url_opens_its_view(app: Flask) -> None:
    """Its signature is in the query; without it the view does not run."""
    url = link(app, "download", order_id=7, _max_age=3600)
    assert url.startswith("https://shop.example/orders/7/file?")
    assert [name for name, _ in parse_qsl(urlsplit(url).query)] == ["_expires", "_signature"]
    assert visit(app, url).json["order"] == 7
    assert opened(app, url.partition("?")[0]) == 403
    assert opened(app, url.partition("&_signature")[0]) == 403


@pytest.mark.parametrize("max_age", [3600, timedelta(hours=1), None])
def test_la03_a_signed_url_ends(app: Flask, monkeypatch: pytest.MonkeyPatch, max_age: Any) -> None:
    """410, when it was good; by default after a week."""
    url = link(app, "download", order_id=7, _max_age=max_age)
    age = 3600 if max_age else 7 * 86400
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + age - 5)
    assert opened(app, url) == 200
    monkeypatch.setattr(time, "time", lambda: now + age + 5)
    assert opened(app, url) == 410
    assert opened(app, url + "x") == 403
    fresh = made()
    fresh.register_error_handler(ExpiredSignedURL, lambda error: (error.endpoint or "", 410))
    assert visit(fresh, url).text == "download"


def test_la04_reserved_names_are_an_error_when_signing(app: Flask) -> None:
    """They are added here."""
    for name in ("_expires", "_signature", "_signed"):
        with pytest.raises(ValueError, match=name):
            link(app, "export", **{name: "1"})


VALUES = {
    "empty": {"tag": ""},
    "several": {"tag": ["b", "a", ""]},
    "quotes": {"q": 'O\'Brien & "co" <=;> 100% + 1/2 \\ #?'},
    "letters": {"q": "Grüße 🧵", "schlüssel": "ß"},
    "signature": {"x_signature": "1", "q": "_signature=abc&_expires=9", "signature": "2"},
    "lines": {"q": "a\r\nb\tc"},
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("endpoint", ["download", "export"])
def test_la05_la06_parameters_are_read_as_they_were(
    app: Flask, endpoint: str, values: dict[str, Any]
) -> None:
    """Empty ones, several of a name, those that look like ours."""
    route = {"order_id": 7} if endpoint == "download" else {}
    url = link(app, endpoint, **route, **values)
    expected = [
        [name, each]
        for name, value in values.items()
        for each in (value if isinstance(value, list) else [value])
    ]
    answer = visit(app, url)
    assert answer.status_code == 200
    assert [pair for pair in answer.json["args"] if not pair[0].startswith("_")] == expected


def test_s4_browsers_leave_a_url_as_it_is(app: Flask) -> None:
    """Nothing stands in the query that one of WHATWG's sets would have them escape."""
    url = link(app, "export", q=string.printable)
    allowed = set(string.ascii_letters + string.digits + "-._~%=&")
    assert set(urlsplit(url).query) <= allowed


def test_s4_the_order_of_the_query_does_not_matter(app: Flask) -> None:
    """But that of one name's values does: the view would see another order."""
    url = link(app, "export", b="1", a="2", tag=["x", "y"])
    path, _, query = url.partition("?")
    parts = query.split("&")
    assert opened(app, f"{path}?{'&'.join(reversed(parts))}") == 403
    x, y = parts.index("tag=x"), parts.index("tag=y")
    turned = list(reversed(parts))
    x, y = turned.index("tag=x"), turned.index("tag=y")
    turned[x], turned[y] = turned[y], turned[x]
    assert opened(app, f"{path}?{'&'.join(turned)}") == 200


# What is not.


def test_la07_what_was_added_is_refused(app: Flask) -> None:
    """Also a bare name, an empty part, a second signature or expiry."""
    url = link(app, "download", order_id=7)
    for added in ("a=1", "a", "", "_expires=9999999999", "_signature=x", "=", "_signed=a"):
        assert opened(app, f"{url}&{added}") == 403, added
        assert opened(app, url.replace("?", f"?{added}&")) == 403, added


def test_s4_another_spelling_is_refused(app: Flask) -> None:
    """Of the query's names and values, and of the signature's last letter."""
    url = link(app, "download", order_id=7, q="a b")
    assert opened(app, url) == 200
    for old, new in (("q=", "%71="), ("a%20b", "a+b"), ("a%20b", "%61%20b"), ("_exp", "%5Fexp")):
        assert opened(app, url.replace(old, new)) == 403, new
    letters = string.ascii_letters + string.digits + "-_"
    same = [letter for letter in letters if opened(app, url[:-1] + letter) == 200]
    assert same == [url[-1]]


@given(data=strategies.data())
def test_s4_any_change_is_refused(data: Any) -> None:
    """Somewhere in the path or the query something is put in place of something."""
    app = made()
    url = link(app, "export", tag="a b", q="é", _external=False)
    start = data.draw(strategies.integers(1, len(url)))
    end = data.draw(strategies.integers(start, min(len(url), start + 3)))
    some = strategies.text(string.ascii_letters + string.digits + "-_=&%+.,;/", max_size=3)
    changed = url[:start] + data.draw(some) + url[end:]
    assume(changed != url)
    old, new = (each.partition("?")[2].split("&") for each in (url, changed))
    if sorted(old) == sorted(new) and changed.startswith("/export?"):
        return  # another order
    assert opened(app, changed) in {403, 404, 308}


def test_la12_another_host_is_refused(app: Flask) -> None:
    """Unless it was signed without one; the scheme may be another behind a proxy."""
    url = link(app, "download", order_id=7)
    assert opened(app, url) == 200
    assert opened(app, url, base_url="http://shop.example") == 200
    for host in ("evil.example", "shop.example:8000", "shop.example.", "localhost"):
        assert opened(app, url, base_url=f"https://{host}") == 403, host
    relative = link(app, "download", order_id=7, _external=False)
    assert relative.startswith("/orders/7/file?")
    for host in ("shop.example", "other.example:8000"):
        assert opened(app, relative, base_url=f"https://{host}") == 200, host
    assert opened(app, url.removeprefix("https://shop.example")) == 403


def test_s4_the_log_names_the_host_that_was_asked(
    app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """A proxy that passes another Host on is the usual reason."""
    url = link(app, "download", order_id=7)
    with caplog.at_level(logging.INFO, "sidearm.signing"):
        opened(app, url, base_url="http://127.0.0.1:8000")
    assert "the host '127.0.0.1:8000'" in caplog.text
    assert "_signature" not in caplog.text


def test_s4_the_method_is_signed(app: Flask) -> None:
    """``GET`` is good for ``HEAD``; what is posted to only is signed for that."""
    get, post = link(app, "both"), link(app, "both", _method="POST")
    statuses = [
        opened(app, url, method=method) for url in (get, post) for method in ("GET", "HEAD", "POST")
    ]
    assert statuses == [200, 200, 403, 403, 403, 200]
    assert opened(app, link(app, "hook"), method="POST") == 200


def test_s4_a_url_for_one_view_opens_no_other(app: Flask) -> None:
    """The path is signed."""
    url = link(app, "download", order_id=7)
    assert opened(app, url.replace("/7/", "/8/")) == 403
    assert opened(app, url.replace("/orders/7/file", "/export")) == 403


def test_la13_keys_rotate(app: Flask) -> None:
    """Former keys are good while they are listed."""
    old = link(made(SECRET_KEY=OTHER_KEY), "download", order_id=7)
    assert opened(app, old) == 403
    app.config["SECRET_KEY_FALLBACKS"] = [OTHER_KEY]
    assert opened(app, old) == 200
    assert opened(app, link(app, "download", order_id=7)) == 200


# Names to ignore.


def test_c19_trackers_may_add_what_is_ignored(app: Flask) -> None:
    """And nothing else, and only where they are named."""
    tracked = "&utm_source=mail&fbclid=1"
    url = link(app, "export", tag="", page=2)
    assert opened(app, url) == 200
    assert opened(app, url + tracked) == 200
    assert opened(app, url + "&fbclid=&utm_source") == 200  # LA-08: in any order, without values
    assert opened(app, url.replace("?", "?fbclid=%zz&")) == 200
    assert opened(app, url + tracked + "&page=9") == 403
    assert opened(app, url + "&page=2") == 403
    assert opened(app, link(app, "download", order_id=7) + tracked) == 403


def test_c19_what_is_ignored_never_replaces_what_is_signed(app: Flask) -> None:
    """Neither before, behind nor instead of it."""
    url = link(app, "export", utm_source="ours")
    assert visit(app, url).json["args"][0] == ["utm_source", "ours"]
    assert opened(app, url + "&fbclid=1") == 200
    for forged in (
        url.replace("utm_source=ours", "utm_source=theirs"),
        url.replace("utm_source=ours&", ""),
        url + "&utm_source=theirs",
        url.replace("?", "?utm_source=theirs&"),
        url.replace("_signed=utm_source", "_signed="),
        url.replace("_signed=utm_source&", ""),
        url.replace("_signed=utm_source&", "").replace("=ours", "=theirs"),
        url.replace("?", "?_signed=x&").replace("=ours", "=theirs"),
        url.replace("utm_source=ours", "utm%5Fsource=theirs"),
    ):
        assert opened(app, forged) == 403, forged


def test_la09_ignored_names_are_taken_literally(app: Flask) -> None:
    """No pattern, no beginning of a name, nothing of ours."""
    url = link(app, "export", q="1")
    for added in ("utm_medium=1", "utm_source2=1", "xutm_source=1", "anything=1"):
        assert opened(app, f"{url}&{added}") == 403, added
    everything = made(SIDEARM_SIGNED_URL_IGNORE=["_signature", "_expires", "_signed"])
    url = link(everything, "download", order_id=7)
    assert opened(everything, url) == 200
    assert opened(everything, url.replace("_expires=", "_expires=9")) == 403
    assert opened(everything, url.partition("&_sig")[0]) == 403


def test_la10_ignoring_is_no_way_past(app: Flask) -> None:
    """A URL without a signature is refused, whatever else it has."""
    assert opened(app, "https://shop.example/export?utm_source=1&fbclid=2") == 403
    assert opened(app, "https://shop.example/export") == 403


def test_la11_names_that_every_view_ignores() -> None:
    """By a setting; views add their own."""
    app = made(SIDEARM_SIGNED_URL_IGNORE=("mc_eid",))
    assert opened(app, link(app, "download", order_id=7) + "&mc_eid=1") == 200
    assert opened(app, link(app, "export") + "&mc_eid=1&fbclid=2") == 200
    url = link(app, "download", order_id=7, mc_eid="ours")
    assert opened(app, url) == 200
    assert opened(app, url.replace("ours", "theirs")) == 403


@pytest.mark.parametrize("ignore", ["utm_source", [1]])
def test_s4_names_to_ignore_are_a_list(ignore: Any) -> None:
    """A text would be a list of letters."""
    with pytest.raises(TypeError, match="Give a list of names"):
        signed_url_required(ignore=ignore)
    with pytest.raises(SettingError, match="SIDEARM_SIGNED_URL_IGNORE"):
        Settings.from_config({"SIDEARM_SIGNED_URL_IGNORE": ignore})


# Where.


def test_la14_a_route_parameter_that_is_an_object(app: Flask) -> None:
    """What the URL shows of it is signed."""

    class Slug(BaseConverter):
        def to_url(self, value: Any) -> str:
            return quote(value["slug"], safe="")

    app.url_map.converters["slug"] = Slug
    view = signed_url_required(lambda product: product)
    app.add_url_rule("/products/<slug:product>", "product", view)
    url = link(app, "product", product={"slug": "grüner tee", "id": 7})
    assert visit(app, url).text == "grüner tee"


def test_c15_under_a_prefix_and_in_a_blueprint(app: Flask) -> None:
    """The prefix is in the link, and is signed."""
    blueprint = Blueprint("files", __name__, url_prefix="/files")

    @blueprint.get("/one")
    @signed_url_required
    def one() -> str:
        return "one"

    @blueprint.get("/link")
    def make() -> str:
        return signed_url_for(".one")

    app.register_blueprint(blueprint)
    client = app.test_client()
    url = client.get("/files/link", base_url="http://localhost/shop").text
    assert url.startswith("https://shop.example/shop/files/one?")
    query = urlsplit(url).query
    statuses = [
        client.get("/files/one", base_url=base_url, query_string=query).status_code
        for base_url in ("https://shop.example/shop", "https://shop.example")
    ]
    assert statuses == [200, 403]
    app.config["APPLICATION_ROOT"] = "/shop"
    assert link(app, "files.one").startswith("https://shop.example/shop/files/one?")


def test_s4_an_anchor_is_not_signed(app: Flask) -> None:
    """Browsers keep it to themselves."""
    url = link(app, "export", _anchor="top of page")
    assert url.endswith("#top%20of%20page")
    assert opened(app, url.partition("#")[0]) == 200


def test_s4_a_url_lives_no_longer_than_the_setting_allows(app: Flask) -> None:
    """As a token no longer than its kind."""
    with pytest.raises(ValueError, match="SIDEARM_SIGNED_URL_MAX_AGE allows 604800"):
        link(app, "export", _max_age=timedelta(days=8))
    for wrong in (0, -5):
        with pytest.raises(ValueError, match="more than zero"):
            link(app, "export", _max_age=wrong)


def test_s4_a_refusal_is_the_applications_to_answer(app: Flask) -> None:
    """By class, as every error."""
    app.register_error_handler(BadSignedURL, lambda error: (f"no: {error.endpoint}", 403))
    assert visit(app, "https://shop.example/export").text == "no: export"


def test_s4_without_a_key_a_signed_view_is_an_error_at_start() -> None:
    """At the line that adds it; without any, at the first use."""
    app = Flask("testapp")
    app.config["SIDEARM_ORIGIN"] = ORIGIN
    Sidearm(app)
    with pytest.raises(SecretKeyError, match="The signed view 'x' signs with it"):
        app.add_url_rule("/x", "x", signed_url_required(lambda: ""))
    app.config["SECRET_KEY"] = KEY
    app.add_url_rule("/y", "y", signed_url_required(lambda: ""))
    app.config["SECRET_KEY"] = None
    with app.app_context(), pytest.raises(SecretKeyError):
        signed_url_for("y")


def test_s4_a_url_for_a_view_that_checks_nothing_is_not_signed(app: Flask) -> None:
    """It would promise what nobody keeps: the decorator is missing, or in a wrong place."""

    @signed_url_required
    @app.get("/open")
    def open_() -> str:
        return "open to all"

    with pytest.raises(ValueError, match="nothing in that view checks signatures"):
        link(app, "open_")
    with pytest.raises(BuildError):
        link(app, "nowhere")


def test_s4_class_based_views(app: Flask) -> None:
    """Decorated whole, or one method of them."""

    class Whole(MethodView):
        decorators = (signed_url_required(ignore=["a"]),)

        def get(self) -> str:
            return "whole"

    class One(MethodView):
        @signed_url_required(ignore=["a"])
        def get(self) -> str:
            return "one"

        def post(self) -> str:
            return "not signed"

    urls = []
    for class_ in (Whole, One):
        name = class_.__name__.lower()
        app.add_url_rule(f"/{name}", view_func=class_.as_view(name))
        url = link(app, name, a="ours")
        urls.append((name, url))
    with pytest.raises(ValueError, match="nothing in that view"):
        link(app, "one", _method="POST")
    for name, url in urls:
        assert visit(app, url).text == name
        assert opened(app, url.replace("ours", "theirs")) == 403


# The origin.


def test_s4_the_request_does_not_choose_the_host_of_a_link() -> None:
    """A forged ``Host`` gains nothing: with the setting it is not asked, without it an error."""
    app = made()
    app.add_url_rule("/mail", "mail", lambda: external_url_for("export", page=2))
    app.add_url_rule("/signed", "signed", lambda: signed_url_for("export"))
    client = app.test_client()
    for path in ("/mail", "/signed"):
        answer = client.get(path, base_url="http://evil.example")
        assert answer.text.startswith("https://shop.example/export?")

    app = made(SIDEARM_ORIGIN=None, PROPAGATE_EXCEPTIONS=True)
    app.add_url_rule("/mail", "mail", lambda: external_url_for("export", page=2))
    app.add_url_rule("/signed", "signed", lambda: signed_url_for("export"))
    app.add_url_rule("/relative", "relative", lambda: signed_url_for("export", _external=False))
    client = app.test_client()
    for path in ("/mail", "/signed"):
        with pytest.raises(UnknownOrigin, match="Set SIDEARM_ORIGIN") as caught:
            client.get(path, base_url="http://evil.example")
        assert isinstance(caught.value, (SidearmError, RuntimeError))
    assert client.get("/relative", base_url="http://evil.example").text.startswith("/export?")
    with app.app_context(), pytest.raises(UnknownOrigin):
        signed_url_for("export")


@pytest.mark.parametrize(
    ("config", "host", "origin"),
    [
        ({"SERVER_NAME": "shop.example:8000"}, "evil.example", "http://shop.example:8000"),
        ({"TRUSTED_HOSTS": ["shop.example"]}, "shop.example", "http://shop.example"),
        ({"TRUSTED_HOSTS": [".example"]}, "two.example:81", "http://two.example:81"),
        ({"SIDEARM_ORIGIN": "https://a.b", "SERVER_NAME": "c.d"}, "c.d", "https://a.b"),
        ({"DEBUG": True}, "localhost:5000", "http://localhost:5000"),
    ],
)
def test_s4_where_the_origin_comes_from(config: dict[str, Any], host: str, origin: str) -> None:
    """Our setting, then Flask's; in debug mode the request's own host, with a log line."""
    app = made(**{"SIDEARM_ORIGIN": None, **config})
    app.add_url_rule("/mail", "mail", lambda: external_url_for("mail", a="b", _anchor="c"))
    answer = app.test_client().get("/mail", base_url=f"http://{host}")
    assert answer.text == f"{origin}/mail?a=b#c"


def test_s4_trusted_hosts_turn_others_away() -> None:
    """Flask's own check, on which ours stands."""
    app = made(SIDEARM_ORIGIN=None, TRUSTED_HOSTS=["shop.example"])
    app.add_url_rule("/mail", "mail", lambda: external_url_for("mail"))
    assert app.test_client().get("/mail", base_url="http://evil.example").status_code == 400


def test_s4_in_debug_mode_it_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    """The developer learns of it before the users do."""
    app = made(SIDEARM_ORIGIN=None, DEBUG=True)
    app.add_url_rule("/mail", "mail", lambda: external_url_for("mail"))
    for _ in range(2):
        app.test_client().get("/mail")
    assert caplog.text.count("SIDEARM_ORIGIN is not set") == 1


def test_s4_subdomains_of_the_origin() -> None:
    """The rule's own stands before the host."""
    app = Flask("testapp", subdomain_matching=True)
    app.config.update(SECRET_KEY=KEY, SIDEARM_ORIGIN=ORIGIN, SERVER_NAME="shop.example")
    Sidearm(app)
    app.add_url_rule("/x", "x", signed_url_required(lambda: "x"), subdomain="api")
    url = link(app, "x")
    assert url.startswith("https://api.shop.example/x?")
    assert opened(app, url) == 200
    with pytest.raises(ValueError, match="_external=False"):
        link(app, "x", _external=False)


@pytest.mark.parametrize(
    ("value", "origin"),
    [
        ("https://shop.example", "https://shop.example"),
        ("HTTPS://Shop.Example:443", "https://shop.example"),
        ("https://shop.example/", "https://shop.example"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        (None, None),
    ],
)
def test_s4_the_setting_of_the_origin(value: Any, origin: str | None) -> None:
    """As browsers write it."""
    assert Settings.from_config({"SIDEARM_ORIGIN": value}).origin == origin


@pytest.mark.parametrize(
    "value",
    [
        "shop.example",
        "https://",
        "https://shop.example/shop",
        "https://user@shop.example",
        "https://shop.example:0",
        "https://shop.example:65536",
        "https://shop example",
        "ftp://shop.example",
        "https://shop.example\n",
        f"https://{'a' * 64}.example",
        "https://.example",
        "",
        5,
    ],
)
def test_s4_a_wrong_origin_fails_at_start_by_its_name(value: Any) -> None:
    """What is no origin, and what is more than one."""
    with pytest.raises(SettingError, match="SIDEARM_ORIGIN"):
        Settings.from_config({"SIDEARM_ORIGIN": value})

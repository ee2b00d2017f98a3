"""Q1: a raw view's body is parsed by nobody, read in pieces, and never longer than its limit."""

from __future__ import annotations

import io
from functools import wraps
from typing import TYPE_CHECKING, Any

import pytest
from flask import Blueprint, Flask, Request, request
from flask.views import MethodView, View
from flask_wtf import CSRFProtect

from sidearm import BodyNotParsed, Sidearm, raw_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

FORM = "application/x-www-form-urlencoded"
LIMIT = 1000  # bytes

PARSED: dict[str, Callable[[], Any]] = {
    "form": lambda: request.form,
    "files": lambda: request.files,
    "values": lambda: request.values,
    "json": lambda: request.json,
    "get_json()": lambda: request.get_json(silent=True, force=True),
}


def read_in_pieces() -> str:
    """The body's size, read as the documentation does."""
    size = 0
    while piece := request.stream.read(64):
        size += len(piece)
    return str(size)


def chunked(size: int) -> dict[str, Any]:
    """A body of so many bytes whose length is not announced, as a server gives it."""
    return {
        "input_stream": io.BytesIO(b"x" * size),
        "headers": {"Transfer-Encoding": "chunked"},
        "environ_overrides": {"wsgi.input_terminated": True},
    }


def test_q1_a_form_is_left_as_it_came(app: Flask, client: FlaskClient) -> None:
    """All of it is in the stream, and in ``get_data()``, whatever its type says."""
    app.add_url_rule(
        "/stream",
        "stream",
        raw_body(max_content_length=LIMIT)(lambda: request.stream.read()),  # noqa: PLW0108
        methods=["POST"],
    )
    app.add_url_rule(
        "/data",
        "data",
        raw_body(max_content_length=LIMIT)(lambda: request.data + request.get_data()),
        methods=["POST"],
    )
    assert client.post("/stream", data=b"a=1&b=2", content_type=FORM).data == b"a=1&b=2"
    assert client.post("/data", data=b"a=1", content_type=FORM).data == b"a=1a=1"
    upload = {"file": (io.BytesIO(b"content"), "name.txt")}
    assert b"content" in client.post("/stream", data=upload).data


@pytest.mark.parametrize("name", PARSED)
@pytest.mark.parametrize("type_", [FORM, "application/json", "multipart/form-data; boundary=x", ""])
def test_q1_the_parsed_body_is_an_error_that_names_the_decorator(
    app: Flask, client: FlaskClient, name: str, type_: str
) -> None:
    """In the view; whatever the body is, so that it shows with the first request."""
    seen: list[Any] = []

    @app.post("/raw")
    @raw_body(max_content_length=LIMIT)
    def raw() -> bytes:
        with pytest.raises(BodyNotParsed, match=r"@raw_body .*\(endpoint 'raw'\)") as caught:
            PARSED[name]()
        seen.append(caught.value)
        return request.get_data()

    assert client.post("/raw", data=b"a=1", content_type=type_).data == b"a=1"
    assert seen[0].what == f"request.{name}"
    assert seen[0].endpoint == "raw"
    assert isinstance(seen[0], RuntimeError)
    assert "csrf" not in str(seen[0])


def test_q1_what_other_extensions_parse_before_the_view_is_the_same_error(
    app: Flask, client: FlaskClient
) -> None:
    """A ``before_request`` function is told, registered before the view or after; others go on."""
    app.before_request(lambda: request.form.get("token") and None)

    @app.post("/raw")
    @raw_body(max_content_length=LIMIT)
    def raw() -> str:
        raise AssertionError("It is not reached.")

    @app.post("/form")
    def form() -> str:
        return request.form["a"]

    with pytest.raises(BodyNotParsed, match=r"request\.form"):
        client.post("/raw", data={"a": "1"})
    assert client.post("/form", data={"a": "1"}).text == "1"


def test_q1_csrf_protect_is_told_how_to_exempt_the_view(app: Flask, client: FlaskClient) -> None:
    """And what the error says works."""
    csrf = CSRFProtect(app)

    @app.post("/raw")
    @raw_body(max_content_length=LIMIT)
    def raw() -> bytes:
        return request.get_data()

    with pytest.raises(BodyNotParsed, match=r"@csrf\.exempt above") as caught:
        client.post("/raw", data=b"x")
    call = str(caught.value).partition("or csrf.exempt('")[2].partition("'")[0]
    csrf.exempt(call)
    assert client.post("/raw", data=b"x").data == b"x"


def test_q1_a_view_exempted_by_decorator_reads_its_body(app: Flask, client: FlaskClient) -> None:
    """``@csrf.exempt`` stands above ``@raw_body``."""
    csrf = CSRFProtect(app)

    @app.post("/raw")
    @csrf.exempt
    @raw_body(max_content_length=LIMIT)
    def raw() -> bytes:
        return request.get_data()

    assert client.post("/raw", data=b"a=1", content_type=FORM).data == b"a=1"


@pytest.mark.parametrize("size", [0, 1, LIMIT - 1, LIMIT])
def test_q1_up_to_the_limit_and_no_byte_less(app: Flask, client: FlaskClient, size: int) -> None:
    """A body of exactly the limit is whole, read in pieces or at once, its length told or not."""
    app.add_url_rule(
        "/raw", "raw", raw_body(max_content_length=LIMIT)(read_in_pieces), methods=["POST"]
    )
    at_once = raw_body(max_content_length=LIMIT)(lambda: str(len(request.get_data())))
    app.add_url_rule("/at-once", "at_once", at_once, methods=["POST"])
    for path in ("/raw", "/at-once"):
        assert client.post(path, data=b"x" * size).text == str(size)
        assert client.post(path, **chunked(size)).text == str(size)


def test_q1_a_body_that_says_it_is_too_long_is_not_read(app: Flask, client: FlaskClient) -> None:
    """413 before anything of it is read, and before the view; the application's own page."""
    app.add_url_rule(
        "/raw", "raw", raw_body(max_content_length=LIMIT)(read_in_pieces), methods=["POST"]
    )
    app.register_error_handler(413, lambda error: (f"ours: {error.description}", 413))
    happened: list[str] = []

    class Body(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            happened.append("read")
            return super().read(size)

    app.before_request(lambda: happened.append("another function"))
    app.teardown_request(lambda _: happened.append("answered"))
    told = {"CONTENT_LENGTH": str(LIMIT + 1)}
    answer = client.post("/raw", input_stream=Body(b"x"), environ_overrides=told)
    assert (answer.status_code, answer.text) == (413, "ours: At most 1000 bytes can be sent here.")
    assert happened[0] == "answered"  # what comes then is the draining


@pytest.mark.parametrize("catch", [False, True])
def test_q1_a_body_without_a_length_is_stopped_at_the_limit(
    app: Flask, client: FlaskClient, *, catch: bool
) -> None:
    """In pieces and at once; and who goes on reading meets the limit again."""

    @app.post("/<path:how>")
    @raw_body(max_content_length=LIMIT)
    def raw(how: str) -> str:
        if catch:
            with pytest.raises(Exception, match="413"):
                request.get_data()
        return str(len(request.get_data())) if how == "all" else read_in_pieces()

    for how in ("all", "pieces"):
        answer = client.post(f"/{how}", **chunked(LIMIT + 1))
        assert answer.status_code == 413


def test_q1_a_body_that_ends_too_early_is_not_taken_for_whole(
    app: Flask, client: FlaskClient
) -> None:
    """400, when its sender has left before all that was announced had come."""
    app.add_url_rule(
        "/raw", "raw", raw_body(max_content_length=LIMIT)(read_in_pieces), methods=["POST"]
    )
    for terminated in ({}, {"wsgi.input_terminated": True}):
        told = {"CONTENT_LENGTH": "20", **terminated}
        answer = client.post("/raw", input_stream=io.BytesIO(b"x" * 10), environ_overrides=told)
        assert answer.status_code == 400


def test_q1_without_length_and_without_end_it_is_411(app: Flask, client: FlaskClient) -> None:
    """A server that cannot tell where chunks end would else give an empty body."""
    app.add_url_rule(
        "/raw", "raw", raw_body(max_content_length=LIMIT)(read_in_pieces), methods=["POST"]
    )
    answer = client.post(
        "/raw", input_stream=io.BytesIO(b"x"), headers={"Transfer-Encoding": "chunked"}
    )
    assert answer.status_code == 411
    assert client.post("/raw").text == "0"


def test_q1_flasks_limits_are_those_of_other_views(app: Flask, client: FlaskClient) -> None:
    """A raw view may take more than ``MAX_CONTENT_LENGTH``; form limits are not asked (C17)."""
    app.config.update(MAX_CONTENT_LENGTH=100, MAX_FORM_MEMORY_SIZE=10)

    @app.post("/raw")
    @raw_body(max_content_length=LIMIT)
    def raw() -> str:
        return f"{request.max_content_length}: {read_in_pieces()}"

    @app.post("/lower")
    @raw_body(max_content_length=LIMIT)
    def lower() -> str:
        request.max_content_length = 5  # Flask 3.1's own, before anything is read
        return read_in_pieces()

    @app.post("/form")
    def form() -> str:
        return str(len(request.form["a"]))

    body = b"a=" + b"x" * 498
    assert client.post("/raw", data=body, content_type=FORM).text == "1000: 500"
    for sent in ({"data": b"x" * 6}, chunked(6)):
        assert client.post("/lower", **sent).status_code == 413
    for sent in ({"data": b"x" * 5}, chunked(5)):
        assert client.post("/lower", **sent).text == "5"
    assert client.post("/form", data=body, content_type=FORM).status_code == 413
    assert client.post("/form", data=b"a=12345", content_type=FORM).text == "5"


def test_q1_in_a_blueprint_and_in_class_based_views(app: Flask, client: FlaskClient) -> None:
    """Each has its own limit, known before other functions run."""
    app.before_request(lambda: seen.append(request.max_content_length))
    seen: list[Any] = []
    blueprint = Blueprint("hooks", __name__, url_prefix="/hooks")

    @blueprint.post("/")
    @raw_body(max_content_length=1)
    def hook() -> bytes:
        return request.stream.read()

    class Methods(MethodView):
        @raw_body(max_content_length=2)
        def post(self) -> bytes:
            return request.stream.read()

        def put(self) -> str:
            return request.form["a"]

    class Decorated(View):
        methods = ("POST",)
        decorators = (raw_body(max_content_length=3),)

        def dispatch_request(self) -> bytes:
            return request.stream.read()

    class Dispatched(View):
        methods = ("POST",)

        @raw_body(max_content_length=4)
        def dispatch_request(self) -> bytes:
            return request.stream.read()

    app.register_blueprint(blueprint)
    for cls in (Methods, Decorated, Dispatched):
        app.add_url_rule(f"/{cls.__name__}", view_func=cls.as_view(cls.__name__))
    for limit, path in enumerate(("hooks/", "Methods", "Decorated", "Dispatched"), 1):
        body = b"x" * limit
        assert client.post(f"/{path}", data=body, content_type=FORM).data == body
        assert client.post(f"/{path}", data=body + b"x", content_type=FORM).status_code == 413
    assert seen == [1, 2, 3, 4]
    assert client.put("/Methods", data={"a": "form"}).text == "form"


def test_q1_async_views(app: Flask, client: FlaskClient) -> None:
    """The same, in another thread."""

    @app.post("/raw")
    @raw_body(max_content_length=LIMIT)
    async def raw() -> str:
        with pytest.raises(BodyNotParsed):
            request.form  # noqa: B018
        return read_in_pieces()

    assert client.post("/raw", data=b"a=1", content_type=FORM).text == "3"


def test_q1_the_applications_own_request_class_stays(app: Flask, client: FlaskClient) -> None:
    """What it adds is there; what it overrides of the parsing is not asked."""

    class OwnRequest(Request):
        trace = "none"

        def get_json(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("It was to parse.")

    app.request_class = OwnRequest

    @app.post("/raw")
    @raw_body(max_content_length=LIMIT)
    def raw() -> str:
        with pytest.raises(BodyNotParsed):
            request.get_json()
        assert isinstance(request._get_current_object(), OwnRequest)  # type: ignore[attr-defined]
        return f"{request.trace} {read_in_pieces()}"

    for _ in range(2):
        assert client.post("/raw", data=b"{}", content_type="application/json").text == "none 2"


def test_q1_views_from_before_and_views_that_come_later(client: FlaskClient) -> None:
    """Sidearm may be installed after the routes; ``@app.endpoint`` may bring the function last."""
    app = Flask("late")
    app.before_request(lambda: request.form and None)

    @app.post("/before")
    @raw_body(max_content_length=LIMIT)
    def before() -> str:
        raise AssertionError("It is not reached.")

    arm = Sidearm(app)
    assert arm is not None
    other = Flask("other")
    other.before_request(lambda: request.form and None)
    Sidearm(other)
    other.add_url_rule("/later", "later", methods=["POST"])
    other.endpoint("later")(before)
    for each, path in ((app, "/before"), (other, "/later")):
        each.testing = True
        with pytest.raises(BodyNotParsed, match=r"request\.form was asked for"):
            each.test_client().post(path, data={"a": "1"})


def test_q1_a_mark_that_a_decorator_hides_is_found_at_the_view(
    app: Flask, client: FlaskClient
) -> None:
    """Then it is too late if somebody has parsed the body, and says so; else it works."""

    def hiding(view: Any) -> Any:
        return lambda: view()  # noqa: PLW0108 - no functools.wraps

    hidden = hiding(raw_body(max_content_length=LIMIT)(read_in_pieces))
    app.add_url_rule("/raw", "raw", hidden, methods=["POST"])
    assert client.post("/raw", data=b"a=1", content_type=FORM).text == "3"
    assert client.post("/raw", data=b"x" * 1001, content_type=FORM).status_code == 413


def test_q1_a_body_that_was_parsed_already_is_an_error(app: Flask, client: FlaskClient) -> None:
    """It would else be empty."""

    def parsing(view: Any) -> Any:
        def parsed() -> Any:
            request.form  # noqa: B018
            return view()

        return parsed

    view = parsing(raw_body(max_content_length=LIMIT)(read_in_pieces))
    app.add_url_rule("/raw", "raw", view, methods=["POST"])
    with pytest.raises(BodyNotParsed, match="parsed it already"):
        client.post("/raw", data=b"a=1", content_type=FORM)
    assert client.post("/raw").text == "0"


def test_q1_decorators_that_use_wraps_hide_nothing(app: Flask, client: FlaskClient) -> None:
    """A ``login_required`` above it changes nothing."""

    def required(view: Any) -> Any:
        @wraps(view)
        def checked(*args: Any) -> Any:
            return view(*args)

        return checked

    app.before_request(lambda: request.form and None)
    view = required(raw_body(max_content_length=LIMIT)(read_in_pieces))
    app.add_url_rule("/raw", "raw", view, methods=["POST"])
    with pytest.raises(BodyNotParsed):
        client.post("/raw", data={"a": "1"})


def test_q1_an_application_without_raw_views_is_left_alone(app: Flask) -> None:
    """No function runs for its requests."""
    app.add_url_rule("/", "index", lambda: "")
    assert not app.url_value_preprocessors.get(None)


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "1", None])
def test_q1_a_wrong_limit_is_an_error_where_it_stands(limit: Any) -> None:
    """Not with the first request."""
    with pytest.raises((TypeError, ValueError), match=r"max_content_length of @raw_body is "):
        raw_body(max_content_length=limit)


def test_q1_the_decorator_without_a_limit_says_how_to_give_one() -> None:
    """``@raw_body`` alone, or called without."""
    with pytest.raises(TypeError):
        raw_body(lambda: "")  # type: ignore[call-arg,arg-type,misc]
    with pytest.raises(TypeError):
        raw_body()  # type: ignore[call-arg]

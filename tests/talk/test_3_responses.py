"""The talk's chapter 3, "Response Creation", row by row.

"literal" is the slide on Flask with Sidearm installed; "production" is Sidearm's answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flask
import pytest
from flask import (
    Flask,
    Response,
    after_this_request,
    jsonify,
    make_response,
    render_template,
    request,
)
from jinja2 import DictLoader

from sidearm import Sidearm

if TYPE_CHECKING:
    from werkzeug.test import TestResponse


class CustomFlask(Flask):
    """The slide's class."""

    def make_response(self, rv: Any) -> Response:
        if hasattr(rv, "to_json"):
            return jsonify(rv.to_json())
        return Flask.make_response(self, rv)


class User:
    """The slide's class."""

    def __init__(self, id: int, username: str) -> None:
        self.id = id
        self.username = username

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "username": self.username}


class Product:
    """A class that is not ours to change."""

    def __init__(self, name: str, cost: int) -> None:
        self.name = name
        self.cost = cost


@pytest.fixture
def app(arm: Sidearm) -> Flask:
    return install(Flask("yourapplication"), arm)


@pytest.fixture
def custom_app(arm: Sidearm) -> Flask:
    """The slide's application, with Sidearm in it."""
    return install(CustomFlask("yourapplication"), arm)


def install(app: Flask, arm: Sidearm) -> Flask:
    app.config.update(TESTING=True)
    app.jinja_loader = DictLoader({"index.html": "<h1>Hello</h1>"})
    arm.init_app(app)
    return app


def get(app: Flask) -> TestResponse:
    return app.test_client().get("/")


def test_3a_literal_a_string_becomes_a_response(app: Flask) -> None:
    """What render_template() returns is sent as a page."""

    @app.route("/")
    def index() -> str:
        return render_template("index.html")

    response = get(app)

    assert (response.status_code, response.text) == (200, "<h1>Hello</h1>")
    assert response.content_type == "text/html; charset=utf-8"


def test_3a_production_a_value_becomes_a_response(app: Flask) -> None:
    """A value with a form is as good as a string, alone, in a list, or with a status."""

    @app.route("/")
    def index() -> Any:
        return [User(42, "john"), {"friends": {"best": User(43, "jane")}}], 203

    response = get(app)

    assert (response.status_code, response.content_type) == (203, "application/json")
    assert response.json == [
        {"id": 42, "username": "john"},
        {"friends": {"best": {"id": 43, "username": "jane"}}},
    ]


def test_3b_literal_make_response_then_a_header(app: Flask) -> None:
    """make_response() gives an object that the view can change."""

    @app.route("/")
    def index() -> Response:
        body = render_template("index.html")
        response = make_response(body)
        response.headers["X-Powered-By"] = "Not-PHP/1.0"
        return response

    response = get(app)

    assert response.text == "<h1>Hello</h1>"
    assert response.headers["X-Powered-By"] == "Not-PHP/1.0"


def test_3b_production_make_response_takes_values_too(app: Flask) -> None:
    """make_response() converts what a view's return converts, and a tuple can say the same."""

    @app.route("/")
    def index() -> Any:
        if request.args:
            return User(42, "john"), {"X-Powered-By": "Not-PHP/1.0"}
        response = make_response(User(42, "john"))
        response.headers["X-Powered-By"] = "Not-PHP/1.0"
        return response

    client = app.test_client()

    for response in (client.get("/"), client.get("/?tuple=1")):
        assert response.json == {"id": 42, "username": "john"}
        assert response.headers["X-Powered-By"] == "Not-PHP/1.0"


def test_3c_literal_custom_flask_converts_to_json(custom_app: Flask) -> None:
    """The slide's CustomFlask and its User, unchanged, with Sidearm installed."""

    @custom_app.route("/")
    def index() -> Any:
        return User(42, "john")

    response = get(custom_app)

    assert response.status_code == 200
    assert response.json == {"id": 42, "username": "john"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((User(42, "john"), 201), {"id": 42, "username": "john"}),
        ((User(42, "john"), {"X-Made": "1"}), {"id": 42, "username": "john"}),
        ((User(42, "john"), 201, {"X-Made": "1"}), {"id": 42, "username": "john"}),
        ([User(42, "john")], [{"id": 42, "username": "john"}]),
        ({"user": User(42, "john")}, {"user": {"id": 42, "username": "john"}}),
    ],
    ids=["status", "headers", "status-and-headers", "list", "dict"],
)
def test_3c_production_tuples_and_lists_where_the_slide_fails(
    custom_app: Flask, value: Any, expected: Any
) -> None:
    """The slide's code sees a value only when it stands alone; with Sidearm it is seen anywhere."""
    slide = CustomFlask("slide")
    slide.config.update(TESTING=True)
    for app in (slide, custom_app):
        app.add_url_rule("/", "index", lambda: value)

    with pytest.raises(TypeError):
        get(slide)

    response = get(custom_app)
    assert response.json == expected
    assert response.status_code == (201 if isinstance(value, tuple) and 201 in value else 200)
    assert ("X-Made" in response.headers) is (isinstance(value, tuple) and {"X-Made": "1"} in value)


def test_3c_production_represent_needs_no_subclass(app: Flask, arm: Sidearm) -> None:
    """A class gets its form from outside: no CustomFlask, no to_json()."""

    @arm.represent(Product)
    def product_json(product: Product) -> dict[str, Any]:
        return {"name": product.name}

    @app.route("/")
    def index() -> Any:
        return {"sold": [Product("cup", cost=3)], "to": User(42, "john")}, 201

    response = get(app)

    assert response.status_code == 201
    assert response.json == {"sold": [{"name": "cup"}], "to": {"id": 42, "username": "john"}}


def test_3d_literal_responses_are_passed_down_a_stack_and_replaced(app: Flask) -> None:
    """A response is made of what the view returned; each function may put another in its place."""
    stack: list[Response] = []

    @app.after_request
    def replace(response: Response) -> Response:
        stack.append(response)
        return Response("another", status=202)

    @app.after_request
    def look(response: Response) -> Response:  # runs before the one above
        stack.append(response)
        return response

    @app.route("/")
    def index() -> str:
        return render_template("index.html")

    response = get(app)

    assert not hasattr(flask, "response")
    assert stack[0] is stack[1]
    assert stack[0].get_data(as_text=True) == "<h1>Hello</h1>"
    assert (response.status_code, response.text) == (202, "another")


def test_3d_production_a_converted_value_goes_down_the_same_stack(app: Flask) -> None:
    """What Sidearm converts is a response like any other, and what replaces it may be a value."""
    seen: list[tuple[int, Any]] = []

    @app.after_request
    def replace(response: Response) -> Response:
        seen.append((response.status_code, response.get_json()))
        return make_response(User(43, "jane"), 203, {**response.headers, "X-Replaced": "1"})

    @app.route("/")
    def index() -> Any:
        @after_this_request
        def remember(response: Response) -> Response:
            response.set_cookie("seen", "yes")
            return response

        return User(42, "john"), 201

    response = get(app)

    assert seen == [(201, {"id": 42, "username": "john"})]
    assert (response.status_code, response.json) == (203, {"id": 43, "username": "jane"})
    assert response.headers["X-Replaced"] == "1"
    assert "seen=yes" in response.headers["Set-Cookie"]

"""Chapter 1, State Management: rows 1a to 1d, with Sidearm installed on the application."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from flask import Flask, current_app, g, request, session

from sidearm import Sidearm, after_commit, after_rollback, current_task, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: In the words of Flask 3.1, and of 3.2.
NO_REQUEST = r"[Ww]orking outside of request context|There is no request in this context"


@pytest.fixture
def get_connection(arm: Sidearm) -> Callable[[], str]:
    """A resource, whose value tells how many tasks have claimed it."""
    claims: list[None] = []

    @arm.resource
    def get_connection() -> Iterator[str]:
        claims.append(None)
        yield f"connection {len(claims)}"

    return get_connection


def test_1a_setup_state(app: Flask) -> None:
    """Literal: at setup ``g.foo = 42`` raises, outside of an application context."""
    with pytest.raises(RuntimeError, match=r"[Ww]orking outside of application context"):
        g.foo = 42


def test_1a_setup_state_production(app: Flask, get_connection: Callable[[], str]) -> None:
    """Production: resources and ``after_commit`` raise in the same style, and say how to go on."""
    for use in (get_connection, lambda: after_commit(print), lambda: after_rollback(print)):
        with pytest.raises(RuntimeError, match="Working outside of a task") as caught:
            use()
        assert 'with arm.task("' in str(caught.value)
    with pytest.raises(RuntimeError, match=r"publish\('orders'\)"):
        publish("orders")
    assert not current_task


def test_1b_application_bound(app: Flask) -> None:
    """Literal: in a pushed app context ``g`` works, and ``request.args`` raises."""
    ctx = app.app_context()
    ctx.push()
    g.foo = 42
    assert g.foo == 42
    with pytest.raises(RuntimeError, match=NO_REQUEST):
        _ = request.args
    ctx.pop()


def test_1b_application_bound_production(
    app: Flask, arm: Sidearm, get_connection: Callable[[], str]
) -> None:
    """Production: such a context is a task, as is ``with arm.task("import"):``."""
    ran = []
    ctx = app.app_context()
    ctx.push()
    assert get_connection() == get_connection() == "connection 1"
    after_commit(lambda: ran.append("context"))
    ctx.pop()
    with arm.task("import"):
        assert current_app.name == app.name
        assert get_connection() == "connection 2"
        with pytest.raises(RuntimeError, match=NO_REQUEST):
            _ = request.args
        after_commit(lambda: ran.append("block"))
    assert ran == ["context", "block"]


def test_1c_request_bound(app: Flask) -> None:
    """Literal: a request context pushes an app context; ``request.url`` and ``g.foo`` work."""
    ctx = app.test_request_context()
    ctx.push()
    assert request.url == "http://localhost/"
    g.foo = 42
    assert g.foo == 42
    ctx.pop()
    with pytest.raises(RuntimeError, match=r"[Ww]orking outside of application context"):
        _ = g.foo


def test_1c_request_bound_production(app: Flask, get_connection: Callable[[], str]) -> None:
    """Production: the request is one task, also for an app context that is pushed inside it."""
    ctx = app.test_request_context()
    ctx.push()
    assert get_connection() == "connection 1"
    with app.app_context():
        assert get_connection() == "connection 1"
    ctx.pop()
    with pytest.raises(RuntimeError, match="Working outside of a task"):
        get_connection()


def test_1d_lifetimes(app: Flask) -> None:
    """Literal: ``g`` lives with the app context, ``request`` and ``session`` with the request's."""
    with app.app_context():
        g.foo = 42
        assert current_app.name == app.name
        for name, use in (
            ("request", lambda: request.url),
            ("session", lambda: session.get("user")),
        ):
            with pytest.raises(RuntimeError, match=NO_REQUEST):
                use()
            assert name
    with app.app_context():
        assert "foo" not in g

    @app.get("/")
    def index() -> dict[str, bool]:
        session["user"] = 7
        return {"foo": "foo" in g, "user": "user" in session}

    client = app.test_client()
    assert client.get("/").json == {"foo": False, "user": True}


def test_1d_lifetimes_production(app: Flask, get_connection: Callable[[], str]) -> None:
    """Production: a claim lives as long as its task, and never longer, whatever is kept pushed."""

    @app.get("/")
    def index() -> str:
        return get_connection()

    with app.app_context():
        assert get_connection() == "connection 1"
        client = app.test_client()
        with client:
            assert client.get("/").text == "connection 2"
        assert client.get("/").text == "connection 3"
        assert get_connection() == "connection 1"
    with app.app_context():
        assert get_connection() == "connection 4"

"""What goes wrong with the talk's ``SimpleRequest`` (15), and not with Sidearm."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from flask import Flask, Request, request

from sidearm import Sidearm, raw_body

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

LIMIT = 1000  # bytes


class SimpleRequest(Request):
    """The slide's."""

    want_form_data_parsed = False
    data = None  # type: ignore[assignment]


def site(*, slide: bool) -> Flask:
    """An upload and a log-in form; the upload parses nothing, by the slide or by Sidearm."""
    app = Flask("site")
    Sidearm(app)
    if slide:
        app.request_class = SimpleRequest
        app.config["MAX_CONTENT_LENGTH"] = LIMIT

    @app.post("/login")
    def login() -> str:
        return f"welcome, {request.form.get('name', 'nobody')}"

    @app.post("/upload")
    def upload() -> str:
        size = 0
        while piece := request.stream.read(100):
            size += len(piece)
        return str(size)

    if not slide:
        app.view_functions["upload"] = raw_body(max_content_length=LIMIT)(upload)
    return app


def upload_in_chunks(app: Flask, size: int) -> TestResponse:
    """Send a body without a length, as a server gives it."""
    sent: dict[str, Any] = {
        "input_stream": io.BytesIO(b"x" * size),
        "headers": {"Transfer-Encoding": "chunked"},
        "environ_overrides": {"wsgi.input_terminated": True},
    }
    return app.test_client().post("/upload", **sent)


def test_footgun_15_the_slide_empties_every_form_of_the_application() -> None:
    """The request class is the application's, so nobody can log in."""
    answer = site(slide=True).test_client().post("/login", data={"name": "john"})
    assert answer.text == "welcome, nobody"


def test_footgun_15_sidearm_turns_it_off_for_one_view() -> None:
    """The other views have their forms."""
    app = site(slide=False)
    assert app.test_client().post("/login", data={"name": "john"}).text == "welcome, john"
    assert app.test_client().post("/upload", data={"name": "john"}).text == "9"


def test_footgun_15_flask_refuses_a_body_of_exactly_the_limit_that_is_read_in_pieces() -> None:
    """The last look, for the end, is taken for one byte too many."""
    assert upload_in_chunks(site(slide=True), LIMIT).status_code == 413
    assert upload_in_chunks(site(slide=True), LIMIT - 1).text == str(LIMIT - 1)


def test_footgun_15_sidearm_takes_a_body_of_exactly_the_limit() -> None:
    """And no byte more."""
    assert upload_in_chunks(site(slide=False), LIMIT).text == str(LIMIT)
    assert upload_in_chunks(site(slide=False), LIMIT + 1).status_code == 413

"""The talk's chapter 7, "Customisation": row 7b, a request that parses no form.

"literal" is the slide on Flask with Sidearm installed; "production" is Sidearm's answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from flask import Request, request

from sidearm import BodyNotParsed, raw_body

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient

FORM = "application/x-www-form-urlencoded"


class SimpleRequest(Request):
    """The slide's."""

    want_form_data_parsed = False
    data = None  # type: ignore[assignment]


def test_7b_literal_a_request_class_that_parses_no_form(app: Flask, client: FlaskClient) -> None:
    """The view finds the whole body in the stream, whatever its type says."""
    app.request_class = SimpleRequest

    @app.post("/upload")
    def upload() -> bytes:
        assert request.data is None
        assert not request.form
        return request.stream.read()

    assert client.post("/upload", data=b"a=1&b=2", content_type=FORM).data == b"a=1&b=2"


def test_7b_production_one_view_parses_nothing_and_the_others_go_on(
    app: Flask, client: FlaskClient
) -> None:
    """The slide's idea for one endpoint; the forms of all others are there."""

    @app.post("/upload")
    @raw_body(max_content_length=1 << 20)
    def upload() -> Any:
        with pytest.raises(BodyNotParsed, match="@raw_body"):
            request.form  # noqa: B018
        return request.stream.read()

    @app.post("/form")
    def form() -> str:
        return request.form["a"]

    assert client.post("/upload", data=b"a=1&b=2", content_type=FORM).data == b"a=1&b=2"
    assert client.post("/upload", data=b"x" * (1 << 20 | 1)).status_code == 413
    assert client.post("/form", data={"a": "1"}).text == "1"


def test_7b_production_in_an_application_with_the_slides_request_class(
    app: Flask, client: FlaskClient
) -> None:
    """Who has it keeps it, and is told where a form would be looked for in vain."""
    app.request_class = SimpleRequest

    @app.post("/upload")
    @raw_body(max_content_length=1 << 20)
    def upload() -> Any:
        assert isinstance(request._get_current_object(), SimpleRequest)  # type: ignore[attr-defined]
        with pytest.raises(BodyNotParsed, match="@raw_body"):
            request.form  # noqa: B018
        return request.data

    assert client.post("/upload", data=b"a=1&b=2", content_type=FORM).data == b"a=1&b=2"

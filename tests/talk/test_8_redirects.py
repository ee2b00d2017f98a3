"""The talk's chapter 8, "Secure Redirects": row 8a.

"literal" is the slide on Flask with Sidearm installed; "production" is Sidearm's answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import slide_redirects as slide
from flask import Flask, url_for

import sidearm

if TYPE_CHECKING:
    from flask.testing import FlaskClient

HERE = "http://localhost"


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """``/slide`` goes back as on the slide, ``/ours`` by Sidearm's function of that name."""
    app.add_url_rule("/", "index", lambda: "index")

    @app.get("/slide")
    def slides() -> Any:
        return slide.redirect_back(url_for("index"))

    @app.route("/ours", methods=["GET", "POST"])
    def ours() -> Any:
        return sidearm.redirect_back(url_for("index"))

    return app.test_client()


def test_8a_literal_redirect_back(client: FlaskClient) -> None:
    """The slide goes to ``next``, else to the page before, and not to another host."""

    def going_to(next: str = "", referrer: str = "") -> str:
        response = client.get(
            "/slide", query_string={"next": next}, headers={"Referer": referrer} if referrer else {}
        )
        return response.headers["Location"]

    assert going_to("/x?page=2") == "/x?page=2"
    assert going_to("", f"{HERE}/x?page=2") == f"{HERE}/x?page=2"
    assert going_to("http://evil.example/") == "/"
    assert going_to() == "/"


def test_8a_literal_the_slides_questions(app: Flask) -> None:
    """``is_safe_url`` and ``is_different_url`` answer as the slide means them."""
    with app.test_request_context("/x?page=2"):
        assert slide.is_safe_url("/y")
        assert not slide.is_safe_url("//evil.example")
        assert slide.is_different_url("/y?page=3")
        assert not slide.is_different_url(f"{HERE}/x?page=2")


def test_8a_production_the_same_names_take_the_slides_place(
    app: Flask, client: FlaskClient
) -> None:
    """They are called alike, and answer what the slide answers where it is right."""
    with app.test_request_context("/x?page=2"):
        assert sidearm.is_safe_url("/y")
        assert not sidearm.is_safe_url("//evil.example")
        assert sidearm.is_different_url("/y?page=3")
        assert not sidearm.is_different_url(f"{HERE}/x?page=2")
    response = client.get("/ours", query_string={"next": "/x?page=2"})
    assert (response.status_code, response.headers["Location"]) == (302, "/x?page=2")


@pytest.mark.parametrize(
    "hostile", ["////evil.example", "http:evil.example", "/\t/evil.example", "\\\\evil.example"]
)
def test_8a_production_going_back_stays_on_the_origin(client: FlaskClient, hostile: str) -> None:
    """Whatever is asked for; after a POST the browser goes on with GET."""
    for query, form, referrer in ((hostile, "", ""), ("", hostile, ""), ("", "", hostile)):
        response = client.post(
            "/ours",
            query_string={"next": query},
            data={"next": form},
            headers={"Referer": referrer},
        )
        assert (response.status_code, response.headers["Location"]) == (303, "/")


def test_8a_production_the_slides_mistake_does_not_go_unnoticed(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The literal code goes on working, and what leaves the site by it is in the log."""
    client.get("/slide", query_string={"next": "/x?page=2"})
    assert not caplog.records
    response = client.get("/slide", query_string={"next": "////evil.example"})
    assert response.headers["Location"].startswith("//")
    (record,) = caplog.records
    assert record.name == "sidearm.redirects"
    assert "evil.example" in record.getMessage()

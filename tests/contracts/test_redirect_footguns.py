"""What goes wrong with the talk's slide on redirects (8, 9), and not with Sidearm.

Each number has a test of the slide that shows the fault, and one of Sidearm.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import slide_redirects as slide
from ada_url import URL
from flask import Flask

import sidearm

if TYPE_CHECKING:
    from collections.abc import Callable

    from werkzeug.test import TestResponse

ORIGIN = "http://app.example:8000"
UNSAFE = [
    case["target"]
    for line in (Path(__file__).parents[1] / "data/redirect-cases.jsonl").read_text().splitlines()
    if not (case := json.loads(line))["safe"]
]


def answers(app: Flask, is_safe_url: Callable[[str], bool]) -> tuple[int, int]:
    """How many unsafe targets a check accepts, and with how many it raises."""
    accepted = raised = 0
    with app.test_request_context("/account/login?next=x", base_url=ORIGIN):
        for target in UNSAFE:
            try:
                accepted += is_safe_url(target)
            except ValueError:
                raised += 1
    return accepted, raised


def go_back(app: Flask, redirect_back: Callable[[str], Any], **request: Any) -> TestResponse:
    """Answer a request of ``/do`` by going back, with ``/`` to fall back on."""
    app.add_url_rule("/do", "do", lambda: redirect_back("/"), methods=["GET", "POST"])
    return app.test_client().open("/do", **request)


def test_footgun_8_the_slide_lets_targets_out_and_others_crash_it(app: Flask) -> None:
    """Urlparse reads URLs as no browser does."""
    accepted, raised = answers(app, slide.is_safe_url)
    assert accepted > 100
    assert raised > 10


def test_footgun_8_sidearm_does_neither(app: Flask) -> None:
    """It reads them as Chromium does, and Werkzeug before it."""
    assert answers(app, sidearm.is_safe_url) == (0, 0)


def test_footgun_8_the_slide_leaves_the_site(app: Flask) -> None:
    """From end to end: four slashes are two, after Werkzeug's rewriting."""
    response = go_back(app, slide.redirect_back, query_string={"next": "////evil.example"})
    assert URL(response.headers["Location"], f"{ORIGIN}/do").hostname == "evil.example"


def test_footgun_8_sidearm_stays(app: Flask) -> None:
    """The fallback is the answer."""
    response = go_back(app, sidearm.redirect_back, query_string={"next": "////evil.example"})
    assert response.headers["Location"] == "/"


FORGED = {"query_string": {"next": "http://evil.example/?x=1"}, "headers": {"Host": "evil.example"}}


def test_footgun_8_the_slide_trusts_the_host_header(app: Flask) -> None:
    """So whoever can set it (in front of a cache) chooses the origin."""
    app.config["SERVER_NAME"] = "app.example:8000"
    response = go_back(app, slide.redirect_back, **FORGED)
    assert response.headers["Location"] == "http://evil.example/?x=1"


def test_footgun_8_sidearm_trusts_the_settings(app: Flask) -> None:
    """Where they tell the host, the header does not."""
    app.config["SERVER_NAME"] = "app.example:8000"
    assert go_back(app, sidearm.redirect_back, **FORGED).headers["Location"] == "/"


def test_footgun_9_going_back_on_the_slide_does_not_go_back(app: Flask) -> None:
    """Path and query must both differ, and two pages without a query have the same one."""
    page = "http://localhost/page"
    response = go_back(app, slide.redirect_back, method="POST", headers={"Referer": page})
    assert response.headers["Location"] == "/"


@pytest.mark.parametrize("referrer", ["/page", "/do?x=1"])
def test_footgun_9_sidearm_goes_back(app: Flask, referrer: str) -> None:
    """One of the two is enough."""
    page = f"http://localhost{referrer}"
    response = go_back(app, sidearm.redirect_back, method="POST", headers={"Referer": page})
    assert response.headers["Location"] == page

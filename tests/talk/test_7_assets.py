"""The talk's chapter 7, "Customization", its first half: row 7a, "Simple Cache Busting".

"literal" is the slide on Flask with Sidearm installed; "production" is Sidearm's answer.
"""

from __future__ import annotations

import re
from hashlib import md5
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from asset_site import IMMUTABLE, Site
from flask import Flask, render_template_string, url_for

from sidearm import Sidearm

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = """<link rel="stylesheet" href="{{ url_for('static', filename='style.css') }}">"""


def install_slide(app: Flask) -> str:
    """The slide, with its parenthesis mended, and for Python 3 (md5 takes bytes)."""
    revision = md5(version("Flask").encode()).hexdigest()[:14]

    @app.url_defaults
    def static_cache_buster(endpoint: str, values: dict[str, Any]) -> None:
        if endpoint == "static":
            values["_v"] = revision

    return revision


def test_7a_literal_simple_cache_busting() -> None:
    """Every URL of a static file carries the package's version, and no other URL does."""
    app = Flask("slide")
    Sidearm(app)
    revision = install_slide(app)
    app.add_url_rule("/", "index", lambda: render_template_string(TEMPLATE))

    page = app.test_client().get("/").text

    assert page == f'<link rel="stylesheet" href="/static/style.css?_v={revision}">'
    with app.test_request_context():
        assert url_for("index") == "/"


def test_7a_production_the_hash_of_the_content(tmp_path: Path) -> None:
    """The same template: what changes is what changed, for ever kept by browsers until then."""
    site = Site(tmp_path)
    site.write("style.css", "a { background: url(a.png) }")
    site.write("other.css", "b { }")
    site.write("a.png", b"a")

    def href() -> str:
        with site.app.test_request_context():
            (found,) = re.findall('href="(.*)"', render_template_string(TEMPLATE))
        return str(found)

    before, other = href(), site.url("other.css")
    response = site.get(before)
    assert response.headers["Cache-Control"] == IMMUTABLE
    assert re.fullmatch(r"a \{ background: url\(a\.\w{16}\.png\) \}", response.text)

    site.write("a.png", b"another")
    site.start()
    assert href() != before
    assert site.url("other.css") == other


def test_7a_production_the_slide_and_the_hash_together(tmp_path: Path) -> None:
    """Who has the slide in an application need not take it out first."""
    site = Site(tmp_path)
    site.write("style.css", "a { }")
    revision = install_slide(site.app)
    assert re.fullmatch(rf"/static/style\.\w{{16}}\.css\?_v={revision}", site.url("style.css"))
    assert site.text(site.url("style.css")) == "a { }"

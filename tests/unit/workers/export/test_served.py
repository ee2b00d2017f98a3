"""Which locations of its own a front has, and in which order."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask

from sidearm import EventStream, Sidearm
from sidearm.exceptions import ExportError
from sidearm.settings import Settings
from sidearm.workers.export.deployment import Choices, Served, describe, server_name_of
from sidearm.workers.topology import Layout, pools_of, read_topology


def served(*views: tuple[str, Any]) -> tuple[Served, ...]:
    """The locations for rules, each with what its view is said to return."""
    app = Flask("testapp", static_folder=None)
    Sidearm(app)
    for number, (rule, returned) in enumerate(views):

        def view(**values: Any) -> Any: ...

        view.__annotations__["return"] = returned
        app.add_url_rule(rule, f"view{number}", view)
    layout: Layout = "talk"
    topology = read_topology(app, pools=pools_of(layout), layout=layout)
    choices = Choices(flask_app="testapp", wsgi_app="testapp:app", directory="/srv")
    return describe(app, topology, choices, Settings(), "hub.sock").served


def pool_for(path: str, locations: tuple[Served, ...]) -> str | None:
    """As nginx chooses: an exact path, else the first expression that matches."""
    for each in locations:
        if each.location.path == path:
            return each.pool
    for each in locations:
        if each.location.path is None and re.search(each.location.pattern, path):
            return each.pool
    return None


def test_w3_a_wide_stream_takes_nothing_from_a_narrower_page() -> None:
    """Rules in any order: what Werkzeug would match is what the front matches."""
    found = served(
        ("/<path:anything>", EventStream),
        ("/about", str),
        ("/items/<int:item>", str),
        ("/<channel>/live", EventStream),
        ("/unrelated/<path:rest>", str),
    )
    pools = {path: pool_for(path, found) for path in ("/about", "/items/7", "/x/live", "/x/y")}
    assert pools == {
        "/about": "blocking",
        "/items/7": "blocking",
        "/x/live": "streaming",
        "/x/y": "streaming",
    }


def test_w3_pages_beside_a_stream_have_no_location_of_their_own() -> None:
    """What no stream's expression matches is the front's "everything else"."""
    found = served(("/live/<channel>", EventStream), ("/about", str), ("/a/<path:rest>", str))
    assert [each.location.example for each in found] == ["/live/x"]


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("", ""),
        ("shop.example", "shop.example"),
        ("*.shop.example", "*.shop.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("my_host", "my_host"),
        ("192.0.2.7", "192.0.2.7"),
        ("::1", "[::1]"),
        ("[2001:DB8::7]", "[2001:db8::7]"),
    ],
)
def test_w3_server_names(given: str, written: str) -> None:
    """A host name, a wildcard's, an address."""
    assert server_name_of(given) == written


@pytest.mark.parametrize(
    "given",
    ["a b", "a;return 200", "https://shop.example", "shop.example:8000", "shop.example/x", "a..b",
     "-a", "bücher.example", "a\nb", "*", "shop.*"],
)  # fmt: skip
def test_w3_what_is_no_server_name_is_refused(given: str) -> None:
    """Before it stands in a file, whose language it might speak."""
    with pytest.raises(ExportError, match="Give one host name") as caught:
        server_name_of(given)
    assert repr(given) in str(caught.value)

"""URL rules as fronts match them: never fewer paths than Werkzeug."""

from __future__ import annotations

import re

import pytest
from werkzeug.routing import BaseConverter, Map, Rule

from sidearm.workers.export.locations import (
    Location,
    alternatives,
    location_of,
    precedence_of,
)


class Look(BaseConverter):
    """A converter whose expression Go cannot read."""

    regex = r"(?!admin)[a-z]+"


class Name(BaseConverter):
    """A converter whose value nobody can think of."""

    regex = r"quite-[q-z]{9}-special"


def location(text: str, prefix: str = "") -> Location:
    rule = Rule(text, endpoint="x")
    Map([rule], converters={"look": Look, "name": Name})
    return location_of(rule, prefix)


@pytest.mark.parametrize(
    ("rule", "path", "pattern"),
    [
        ("/streams/stock", "/streams/stock", "^/streams/stock$"),
        ("/a.b+c", "/a.b+c", r"^/a\.b\+c$"),
        ("/live/", "/live/", "^/live/$"),
        ("/cost$", None, r"^/cost\$$"),  # a variable, in nginx's eyes
        ("/s/<channel>", None, "^/s/(?:[^/]{1,})$"),
        ("/s/<int:item>/x", None, r"^/s/(?:\d+)/x$"),
        ("/s/<path:rest>", None, "^/s/(?:[^/].*?)$"),
        ("/s/<any(a,b.c):kind>", None, r"^/s/(?:(?:a|b\.c))$"),
        ("/s/<look:word>", None, "^/s/[^/]+$"),
        ("/s/<uuid:key>", None, None),
    ],
)
def test_w3_rules(rule: str, path: str | None, pattern: str | None) -> None:
    """A static rule is an exact path; a converter's own expression stands where all can read it."""
    found = location(rule)
    assert found.path == path
    if pattern is not None:
        assert found.pattern == pattern
    assert found.example is not None
    assert re.search(found.pattern, found.example)


def test_w3_an_example_is_a_path_that_the_rule_matches() -> None:
    """It is what a check asks a front's configuration for."""
    for text in ("/s/<int:a>-<float:b>/<c>", "/s/<path:a>/x", "/s/<any(p,q):a>", "/s/<uuid:a>"):
        rule = Rule(text, endpoint="x")
        urls = Map([rule]).bind("localhost")
        example = location_of(rule).example
        assert example is not None
        assert urls.match(example)[0] == "x"


def test_w3_no_example_is_made_up() -> None:
    """Where no value fits, there is none."""
    assert location("/s/<name:x>").example is None


def test_w3_a_prefix_and_its_special_characters() -> None:
    """It stands before path and pattern, in each one's own spelling."""
    found = location("/s/<x>", "/v1.0")
    assert found.pattern == r"^/v1\.0/s/(?:[^/]{1,})$"
    assert found.example == "/v1.0/s/x"
    assert location("/s", "/v1.0").path == "/v1.0/s"


def test_w3_one_expression_for_several() -> None:
    """It matches what each of them does, and nothing longer."""
    joined = alternatives([location("/a"), location("/b/<int:n>")])
    assert re.search(joined, "/a")
    assert re.search(joined, "/b/7")
    assert not re.search(joined, "/a/b")
    assert not re.search(joined, "/x/b/7")


def test_w3_the_first_expression_that_matches_is_werkzeugs_choice() -> None:
    """Whatever order the rules were written in, a front that takes the first one agrees."""
    texts = [
        "/<path:anything>",
        "/<section>/live",
        "/streams/<path:rest>",
        "/streams/<channel>",
        "/streams/<int:number>",
        "/streams/stock",
        "/streams/<channel>/log",
    ]
    urls = Map([Rule(text, endpoint=text) for text in texts])
    rules = sorted(urls.iter_rules(), key=precedence_of)
    for path in ("/streams/stock", "/streams/7", "/streams/x", "/streams/x/log", "/a/live", "/a/b"):
        first = next(rule for rule in rules if re.search(location_of(rule).pattern, path))
        assert first.rule == urls.bind("localhost").match(path)[0], path

"""Which targets are safe: a browser's own verdict on known ones, and the standard's on random ones.

``tests/data/redirect-cases.jsonl`` holds targets, and whether Chromium 156 stayed on the origin
with each, from a page at ``BASE``: as ``new URL()`` reads it, as a ``Location`` of its bytes, and
as the ``Location`` that ``flask.redirect()`` makes of it. Those that real applications use have the
source "good".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from ada_url import URL
from flask import Flask, redirect
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidearm import Sidearm, is_different_url, is_safe_url
from sidearm.redirects.verdict import MAX_LENGTH, Destinations

ORIGIN = "http://app.example:8000"
BASE = f"{ORIGIN}/account/login?next=x"
CASES: list[dict[str, Any]] = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "data/redirect-cases.jsonl").read_text().splitlines()
]

#: What URLs, and tricks with them, are made of.
PIECES = [
    *("http:", "https:", "HTTP:", "//", "/", "\\", "@", ":", ":80", ":8000", "?", "#", ".", ".."),
    *("evil.example", "app.example", "app.example:8000", "user:pw@", "[::1]", "127.1", "0x7f.1"),
    *("\t", "\n", "\r", "\0", "\x01", "\x1f", "\x7f", "\x85", " ", "\xa0", "\u3000", "\u2028"),
    *("\uff0f", "\uff3c", "\uff1a", "\uff20", "\u3002", "\u202e", "\u200b", "\ufeff", "\xad"),
    *("%2f", "%5c", "%09", "%00", "%40", "%2e", "%", "xn--", "xn--a", "javascript:", "data:", "x:"),
    *("a", "1", "-", "+", ";", "=", "&", "|", "[", "]", "'", '"', "<", "é", "日本", "\ud800"),
]


LISTING = Flask("listing")
LISTING.config["SIDEARM_REDIRECT_HOSTS"] = ["pay.example", ".shop.example"]
Sidearm(LISTING)


@pytest.fixture(scope="module")
def app() -> Flask:
    app = Flask("verdicts")
    Sidearm(app)
    return app


def readings(app: Flask, target: str) -> list[str]:
    """What a browser may be given for a target, by the ways that it can take."""
    with app.test_request_context(base_url=ORIGIN, path="/account/login"):
        sent = dict(redirect(target).get_wsgi_headers({}))["Location"]
    before, mark, after = target.partition("?")
    return [
        target,
        sent,
        target.strip(),
        sent.strip(),
        before.replace("\\", "/") + mark + after,
        target.encode().decode("latin-1"),
        urljoin(BASE, sent),
    ]


def judge(app: Flask, target: Any) -> bool:
    with app.test_request_context(base_url=ORIGIN, path="/account/login", query_string="next=x"):
        return is_safe_url(target)


def test_d1_no_target_is_accepted_with_which_chromium_left(app: Flask) -> None:
    """Nor one that goes nowhere, or has a script in it."""
    unsafe = [case["target"] for case in CASES if not case["safe"]]
    assert len(unsafe) > 800
    assert [target for target in unsafe if judge(app, target)] == []


def test_d1_what_applications_use_is_accepted(app: Flask) -> None:
    """Of their own targets none is refused."""
    good = [case["target"] for case in CASES if case["source"] == "good"]
    assert len(good) > 100
    assert [target for target in good if not judge(app, target)] == []


@settings(max_examples=400)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=8).map("".join))
@example("//evil.example")
@example("/\t/evil.example")
@example("/.//evil.example")
@example("http:evil.example")
@example("12:30//evil.example")
def test_d1_what_is_accepted_stays_on_the_origin_however_it_is_read(
    app: Flask, target: str
) -> None:
    """Random targets: by the URL standard, raw, rewritten by Werkzeug, stripped, joined."""
    if judge(app, target):
        for reading in readings(app, target):
            assert URL(reading, BASE).origin == ORIGIN, reading


@settings(max_examples=400)
@given(st.lists(st.sampled_from([*PIECES, ".shop.example", "pay.example", "b"]), max_size=7))
@example(["https:", "//", "b", ".shop.example", "/", "日本"])
@example(["https:", "//", "evil.example", "\\", ".shop.example"])
def test_d1_what_a_list_lets_pass_is_on_it_however_it_is_read(pieces: list[str]) -> None:
    """Random targets again, with other hosts allowed: here or there, and nowhere else."""
    target = "".join(pieces)
    if judge(LISTING, target):
        for reading in readings(LISTING, target):
            url = URL(reading, BASE)
            name = url.hostname
            assert url.protocol in {"http:", "https:"}
            assert not url.username
            assert url.origin == ORIGIN or (
                url.port == "" and (name == "pay.example" or f".{name}".endswith(".shop.example"))
            ), reading


@settings(max_examples=400)
@given(
    case=st.sampled_from([case["target"] for case in CASES]),
    places=st.lists(st.tuples(st.floats(0, 1), st.sampled_from(PIECES)), min_size=1, max_size=3),
    cut=st.integers(0, 2),
)
def test_d1_known_targets_with_something_changed_stay_on_the_origin(
    app: Flask, case: str, places: list[tuple[float, str]], cut: int
) -> None:
    """A piece put in, or in the place of some characters, anywhere."""
    for place, piece in places:
        at = round(place * len(case))
        case = case[:at] + piece + case[at + cut :]
    if judge(app, case):
        for reading in readings(app, case):
            assert URL(reading, BASE).origin == ORIGIN, reading


@given(
    st.text()
    | st.text(st.characters(categories=["Cs", "Cc", "Zs"]))
    | st.binary()
    | st.none()
    | st.integers()
    | st.lists(st.text())
)
def test_d1_nothing_that_is_asked_about_raises(app: Flask, target: Any) -> None:
    """Rubbish of every type is not safe, or is a path; it is never an error."""
    assert judge(app, target) in {True, False}
    with app.test_request_context(base_url=ORIGIN, path="/account/login"):
        assert is_different_url(target) in {True, False}


@pytest.mark.parametrize(
    "target",
    [
        "/" * (1 << 20),
        "a" * (1 << 20),
        "//" + "a." * (1 << 19),
        "http://" + "-" * (1 << 20),
        "[" * (1 << 20),
        "/" + "\ud800" * (1 << 20),
        "/" + "é" * (MAX_LENGTH // 6 + 1),
        "/" + "a" * MAX_LENGTH,
    ],
    ids=range(8),
)
def test_d1_what_is_too_long_for_a_head_is_refused(app: Flask, target: str) -> None:
    """Also if it is its percent-encoding that makes it so."""
    assert judge(app, target) is False
    with app.test_request_context(base_url=ORIGIN, path="/account/login"):
        assert is_different_url(target) in {True, False}
    Destinations(ORIGIN, ()).include(target)  # what leaves is judged in whole, and raises neither


@pytest.mark.parametrize(
    "target", ["/" + "a" * (MAX_LENGTH - 1), "/" + "é" * ((MAX_LENGTH - 1) // 6)], ids=range(2)
)
def test_d1_the_longest_target_is_accepted(app: Flask, target: str) -> None:
    """The limit is what it says."""
    assert judge(app, target) is True


@pytest.mark.parametrize(
    "target",
    ["/things", "?a=b", "example.com", "@example.com", f"{ORIGIN}/things", "//app.example:8000/"],
)
def test_d1_rr05_rr06_rr07_paths_and_this_origin_are_safe(app: Flask, target: str) -> None:
    """Relative names stay relative: a browser makes paths of this site of them."""
    assert judge(app, target)


@pytest.mark.parametrize(
    "target",
    [
        *("//x.org/", "///x.org/", "http:///x.org/", "http:x.org", "http:/x.org", "https:///x.org"),
        *("java\x01script:alert(1)", "javascript:alert(1)", "/lol\r\nwat", "\0/lolwat"),
        *("http://app.example/", "http://app.example:8001/", "https://app.example:8000/"),
        *("x-test+scheme:go", "", " /x", "/x ", "http://app.example:8000@x.org/"),
        *(
            "http://user@app.example:8000/",
            "http://app%2Eexample:8000/",
            "http://app.example.:8000",
        ),
    ],
)
def test_d1_rr02_rr03_rr04_rr08_rr09_other_places_are_not(app: Flask, target: str) -> None:
    """Other hosts, ports and schemes, users, controls; what needs to be read twice."""
    assert not judge(app, target)

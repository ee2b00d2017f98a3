"""Contract P4: what ``doctor`` reads, and what it says."""

from __future__ import annotations

import json

import httpx
import pytest

from sidearm.doctor.findings import Report, fault, note
from sidearm.doctor.origins import doubled
from sidearm.doctor.printing import as_json, as_text
from sidearm.doctor.probing import Answer, Prober, hops_of
from sidearm.doctor.site import is_hashed, references_of
from sidearm.doctor.target import Target, checked_url, headers_from, origin_of
from sidearm.exceptions import DoctorError


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("shop.7fbdeb5c3e4902ce.css", True),  # Sidearm
        ("LICENSE.1234567890123456", True),
        ("base.5f3c2a1b9d8e.css", True),  # Django
        ("application-1a2b3c4d5e6f7a8b9c0d1a2b3c4d5e6f.js", True),  # Rails
        ("index-BXk2d9aF.js", True),  # Vite
        ("main.1a2b3c4d.js", True),  # webpack
        ("bootstrap.min.css", False),
        ("jquery-3.7.1.min.js", False),
        ("photo-20240131.jpg", False),  # a date
        ("facade-decorate.css", False),
        ("defaced.css", False),
        ("report-version2.pdf", False),
    ],
)
def test_p4_which_names_tell_their_content(name: str, expected: bool) -> None:
    assert is_hashed(f"https://shop.example/static/{name}?v=1") is expected


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://shop.example", "https://shop.example/"),
        ("  http://shop.example:8080/shop#top ", "http://shop.example:8080/shop"),
        ("http://[::1]:80/", "http://[::1]:80/"),
    ],
)
def test_p4_urls_are_written_as_browsers_open_them(given: str, url: str) -> None:
    assert checked_url(given) == url


@pytest.mark.parametrize(
    "given", ["", "shop", "//shop/", "file:///x", "http://", "http://x:0/", "http://x:99999/"]
)
def test_p4_what_is_no_url_is_refused(given: str) -> None:
    with pytest.raises(DoctorError, match="is no URL of a web site"):
        checked_url(given)


def test_p4_origins_leave_out_the_schemes_own_port() -> None:
    assert origin_of("https://Shop.example:443/x") == "https://shop.example"
    assert origin_of("http://shop.example:443/x") == "http://shop.example:443"
    assert origin_of("http://[::1]:8000/") == "http://[::1]:8000"


def test_p4_headers_and_cookies_are_put_together() -> None:
    assert headers_from(["X-A:  b:c "], ["a=1", "b=2"]) == {"X-A": "b:c", "Cookie": "a=1; b=2"}
    for wrong in ("a", ": b", "a: b\r\nc: d"):
        with pytest.raises(DoctorError, match="--header"):
            headers_from([wrong], [])


def test_p4_paths_are_below_the_application() -> None:
    target = Target(url="https://x.example/shop/", headers={}, patience=1, silence=1)
    assert target.below("/streams/a") == "https://x.example/shop/streams/a"
    assert target.below("https://cdn.example/a.css") == "https://cdn.example/a.css"
    assert doubled(target.below("/streams/a")) == "https://x.example/shop/streams//a"


def test_p4_files_of_a_page() -> None:
    """Relative ones are resolved, and what is none is left out."""
    page = b"""<link rel="stylesheet" href="a.css"><link rel="canonical" href="http://in.example/">
        <script src="/b.js"></script><img src="data:,x"><img src="a.css"><a href="/c.html">"""
    head = httpx.Response(200, headers={"Content-Type": "text/html; charset=utf-8"})
    files, links = references_of(Answer(head, page), "https://x.example/shop/")
    assert files == ["https://x.example/shop/a.css", "https://x.example/b.js"]
    assert links == ["http://in.example/"]


def test_p4_hops_are_told_by_their_headers() -> None:
    headers = {"Server": "nginx/1.22.1", "Via": "1.1 varnish, 2.0 Caddy", "CF-Ray": "x"}
    found = hops_of(httpx.Response(200, headers=headers))
    assert found == ["varnish", "Caddy", "Cloudflare", "nginx"]
    assert hops_of(httpx.Response(200)) == []


def test_p4_a_report_for_people_and_for_programs() -> None:
    """Faults stand last, near the prompt; what a server says commands no terminal."""
    report = Report("https://x.example/", passed=["all is well"])
    report.findings += [
        fault("idle-timeout", "https://x.example/s", "cut \x1b[2J", "raise it"),
        note("http-version", "https://x.example/", "old", "renew it"),
    ]
    lines = as_text(report).splitlines()
    assert lines[0] == "ok      all is well"
    assert lines[1] == "note    http-version, https://x.example/"
    assert lines[4:] == [
        "FAULT   idle-timeout, https://x.example/s",
        "        cut ?[2J",
        "        What to do: raise it",
        "1 fault, 1 note.",
    ]
    read = json.loads(as_json(report))
    assert (read["faults"], read["passed"]) == (1, ["all is well"])
    assert read["findings"][0]["check"] == "idle-timeout"


def test_p4_a_cookie_goes_to_the_application_and_to_nobody_else() -> None:
    """Its own origin, and pools that were named; a CDN in a page is neither."""
    cookie = {"Cookie": "session=x"}
    prober = Prober(
        Target(
            url="https://x.example/",
            pools=("http://x.example:8000/",),
            headers=cookie,
            patience=1,
            silence=1,
        )
    )
    try:
        assert prober.headers_for("https://x.example/streams/a", {}) == cookie
        assert prober.headers_for("http://x.example:8000/streams/a", {}) == cookie
        for other in ("https://cdn.example/a.css", "http://x.example/", "http://x.example:8001/"):
            assert prober.headers_for(other, {"Accept_Encoding": "br"}) == {"Accept-Encoding": "br"}
    finally:
        prober.close()

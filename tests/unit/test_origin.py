"""How an origin is written, and which hosts make none."""

from __future__ import annotations

import pytest

from sidearm.origin import serialize_origin


@pytest.mark.parametrize(
    ("scheme", "host", "origin"),
    [
        ("http", "shop.example", "http://shop.example"),
        ("https", "Shop.Example:443", "https://shop.example"),
        ("https", "shop.example:80", "https://shop.example:80"),
        ("http", "[::1]:8000", "http://[::1]:8000"),
        ("http", "127.0.0.1:80", "http://127.0.0.1"),
    ],
)
def test_d1_an_origin_is_written_as_browsers_write_it(scheme: str, host: str, origin: str) -> None:
    """So that two of them can be compared as texts."""
    assert serialize_origin(scheme, host) == origin


@pytest.mark.parametrize(
    "host",
    [
        *("", "shop.example/x", "user@shop.example", "shop.example?x", "shop.example#x"),
        *("shop.example\\x", "shop%2Eexample", "b\xfccher.example", "a b", "[", "shop.example:x"),
    ],
)
def test_d1_what_is_more_than_a_host_makes_no_origin(host: str) -> None:
    """Nothing of it is cut off to make one."""
    assert serialize_origin("http", host) is None


def test_d1_only_web_schemes_have_one() -> None:
    """A WebSocket's request is none that is redirected."""
    assert serialize_origin("ws", "shop.example") is None

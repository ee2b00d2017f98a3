"""How addresses are counted."""

from __future__ import annotations

from typing import Any

import pytest

from sidearm.hub.config import HubConfig
from sidearm.hub.limits import Limits


def limits(**settings: Any) -> Limits:
    return Limits(HubConfig(socket="", **settings))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("203.0.113.7", "::ffff:203.0.113.7"),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2"),
        ("2001:DB8:0:1::1", "2001:db8:0:1::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_h7_one_client_has_one_key(one: str, other: str) -> None:
    """Spelling does not matter, and a home has all addresses of its IPv6 network."""
    assert limits().key_of(one) == limits().key_of(other) != b""


@pytest.mark.parametrize(
    ("one", "other"),
    [("203.0.113.7", "203.0.113.8"), ("2001:db8:0:1::1", "2001:db8:0:2::1")],
)
def test_h7_two_clients_have_two_keys(one: str, other: str) -> None:
    """Neighbours do not count for each other."""
    assert limits().key_of(one) != limits().key_of(other)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
def test_h7_loopback_counts_only_if_so_set(address: str) -> None:
    """A proxy that the application does not know of is every client."""
    assert limits().key_of(address) == b""
    assert limits(limit_loopback=True).key_of(address) != b""


@pytest.mark.parametrize("address", [None, "", "unix:", "nonsense", "1.2.3", "a" * 500, "1\0"])
def test_h7_what_is_no_address_is_not_counted(address: str | None) -> None:
    """A client behind a Unix socket has none, and a header may say anything."""
    assert limits(limit_loopback=True).key_of(address) == b""


def test_h7_limits_name_the_setting_that_is_reached() -> None:
    """In all, or for one address; 0 is no limit."""
    both = limits(max_streams=10, max_streams_per_address=2)
    assert both.reached(9, 1) is None
    assert both.reached(10, 0) == "SIDEARM_MAX_STREAMS"
    assert both.reached(3, 2) == "SIDEARM_MAX_STREAMS_PER_ADDRESS"
    none = limits(max_streams=0, max_streams_per_address=0)
    assert none.reached(10**6, 10**6) is None
    assert none.key_of("203.0.113.7") == b""

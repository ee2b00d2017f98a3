"""H7: a request goes to one hub after the other, and does not wait for each that is stuck."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from sidearm.hub import client
from sidearm.hub.client import PATIENCE

CONNECTED, UNKNOWN = object(), None


@pytest.mark.parametrize(
    ("links", "waits", "asked"),
    [
        ([UNKNOWN] * 4, 0.0, 4),  # nobody is there: the kernel says so at once
        ([UNKNOWN] * 4, PATIENCE, 1),
        ([UNKNOWN, UNKNOWN, CONNECTED, UNKNOWN, CONNECTED], PATIENCE, 2),
        ([CONNECTED] * 4, PATIENCE, 2),
        ([UNKNOWN], PATIENCE, 1),
    ],
)
def test_h7_a_request_waits_for_two_hubs_at_most(
    monkeypatch: pytest.MonkeyPatch, links: list[object], waits: float, asked: int
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    callers: list[Any] = [SimpleNamespace(link=link) for link in links]
    tried = []
    for caller in client._in_turn(callers):
        tried.append(caller)
        now += waits
    assert len(tried) == asked
    assert all(caller.link is CONNECTED for caller in tried[1:] if waits)

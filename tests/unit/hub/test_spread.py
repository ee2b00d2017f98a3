"""How long clients wait before they come back, so that they do not come back all at once."""

from __future__ import annotations

import os
import re
import socket
from typing import Any

import pytest

from sidearm.hub.config import HubConfig
from sidearm.hub.spread import Spread
from sidearm.hub.subscribers import Group, Subscriber


def spread(**settings: Any) -> Spread:
    return Spread(HubConfig(socket="", **settings))


def waits(of: Spread, streams: int, count: int = 2000) -> list[int]:
    """What so many streams are told, in milliseconds."""
    fields = (of.field(1.0, streams) for _ in range(count))
    return [int(re.fullmatch(rb"retry: (\d+)\n\n", field)[1]) for field in fields]  # type: ignore[index]


def test_h6_the_spread_follows_the_number_of_streams() -> None:
    """Ten thousand are spread over as many seconds as it takes at so many a second."""
    told = waits(spread(retry_spread=3.0, reconnect_rate=500.0), 10_000)
    assert all(1000 <= wait <= 21_000 for wait in told)
    # In each fifth of the range about a fifth of them: none of the bounds is met by chance.
    for fifth in range(5):
        begin = 1000 + fifth * 4000
        assert 250 < sum(begin <= wait < begin + 4000 for wait in told) < 550


def test_h6_where_there_are_few_the_workers_word_stands() -> None:
    """Nothing more is sent."""
    assert spread(retry_spread=3.0, reconnect_rate=500.0).field(1.0, 1500) == b""
    assert spread(retry_spread=3.0, reconnect_rate=0.0).field(1.0, 100_000) == b""


def test_h6_those_that_are_there_are_told_again_when_many_have_come() -> None:
    """Once for each growth by half, and again after the number has fallen and risen."""
    range_of = spread(retry_spread=1.0, reconnect_rate=100.0)
    assert not range_of.has_grown(100)
    assert not range_of.has_grown(150)
    assert range_of.has_grown(151)
    assert not range_of.has_grown(151)
    assert not range_of.has_grown(220)
    assert range_of.has_grown(1000)
    assert not range_of.has_grown(50)
    assert range_of.has_grown(1000)


@pytest.mark.parametrize("streams", [1, 10, 100_000])
def test_h6_the_range_is_never_narrower_than_its_setting(streams: int) -> None:
    """Which a site may have chosen wide."""
    assert spread(retry_spread=300.0, reconnect_rate=500.0).width(streams) == 300.0


@pytest.mark.parametrize("shortest", [1.5, None])
def test_h5_a_successor_knows_whose_wait_it_may_make_longer(shortest: float | None) -> None:
    """A view's own word stays its word under the new hub."""
    near, far = socket.socketpair()
    with near, far:
        old = Subscriber.adopt(os.dup(near.fileno()))
        old.group = Group(("a",))
        old.shortest_wait = shortest
        new = Subscriber.restore(old.state()._replace(descriptor=os.dup(near.fileno())))
        assert new.shortest_wait == shortest
        old.close()
        new.close()

"""The log: order, and what it keeps and knows it has lost."""

from __future__ import annotations

import time
from typing import Any

import pytest

from sidearm.hub import log as log_module
from sidearm.hub.config import HubConfig
from sidearm.hub.eventstream import Parser
from sidearm.hub.log import ENTRY_OVERHEAD, NANOSECONDS, Log
from sidearm.hub.position import Clock, parse

BODY = b"data: x\n"


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time in nanoseconds, to be set by the test."""
    now = [1000 * NANOSECONDS]
    monkeypatch.setattr(time, "monotonic_ns", lambda: now[0])
    return now


def make_log(**settings: Any) -> Log:
    return Log(HubConfig(socket="", **settings), Clock("0123456789", 0))


def time_of(frame: bytes) -> int:
    """The time of a frame's id."""
    parser = Parser()
    parser.feed(frame)
    position = parse(parser.last_event_id)
    assert position is not None
    return position.time


def test_positions_grow_while_the_clock_stands_still(now: list[int]) -> None:
    """Two events never share a position, and nothing comes before what was told already."""
    log = make_log()
    mark = log.mark()
    times = [time_of(log.append("a", BODY, keep=True)) for _ in range(3)]
    assert mark < times[0] < times[1] < times[2]
    now[0] += 1000
    assert time_of(log.append("a", BODY, keep=True)) == now[0]


def test_since_merges_channels_in_order(now: list[int]) -> None:
    """Several channels are told as one history."""
    log = make_log()
    start = log.mark()
    frames = [log.append(channel, BODY, keep=True) for channel in "abcab"]
    assert log.since(("a", "b"), start) == [frames[n] for n in (0, 1, 3, 4)]
    assert log.since(("a", "b"), time_of(frames[1])) == frames[3:]
    assert log.since(("z",), start) == []


def test_live_only_events_are_not_kept(now: list[int]) -> None:
    """They take no position, and no room."""
    log = make_log()
    start = log.mark()
    assert log.append("a", BODY, keep=False) == BODY + b"\n"
    assert (len(log), log.size, log.last) == (0, 0, start)


def test_count_limits_each_channel(now: list[int]) -> None:
    """A busy channel loses its oldest events, and the log knows it; a quiet one loses nothing."""
    log = make_log(history_count=2)
    start = log.mark()
    quiet = log.append("quiet", BODY, keep=True)
    frames = [log.append("busy", BODY, keep=True) for _ in range(5)]
    assert log.since(("quiet",), start) == [quiet]
    assert log.since(("busy",), time_of(frames[2])) == frames[3:]
    assert log.since(("busy",), time_of(frames[1])) is None
    assert log.since(("quiet", "busy"), start) is None
    assert log.newest(("busy",), start) == frames[3:]


def test_bytes_limit_all_channels_together(now: list[int]) -> None:
    """The oldest events go first, whatever their channel."""
    size = len(make_log().append("a", BODY, keep=True)) + ENTRY_OVERHEAD
    log = make_log(history_bytes=3 * size)
    start = log.mark()
    frames = [log.append(channel, BODY, keep=True) for channel in "abcd"]
    assert log.size == 3 * size
    assert log.since(("a",), start) is None
    assert log.since(("b", "c", "d"), start) == frames[1:]


def test_age_limits_events_and_ids(now: list[int]) -> None:
    """Events go when they are too old, also where nothing is published."""
    log = make_log(history_age=10.0)
    start = log.mark()
    first = log.append("a", BODY, keep=True)
    now[0] += 9 * NANOSECONDS
    assert log.since(("a",), start) == [first]
    assert not log.too_old(start)
    now[0] += 2 * NANOSECONDS
    assert log.too_old(start)
    assert log.since(("a",), start) is None
    assert len(log) == 0


def test_nothing_is_kept_with_a_count_of_zero(now: list[int]) -> None:
    """Without history every event is a loss for who was not there."""
    log = make_log(history_count=0)
    start = log.mark()
    last = log.append("a", BODY, keep=True)
    assert log.since(("a",), start) is None
    assert log.since(("a",), time_of(last)) == []
    assert log.since(("b",), start) == []


def test_floors_are_bounded(now: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A log with very many channels forgets which of them lost something, not that one did."""
    monkeypatch.setattr(log_module, "FLOORS", 3)
    log = make_log(history_count=0)
    start = log.mark()
    for n in range(10):
        log.append(f"channel {n}", BODY, keep=True)
    assert len(log._floors) == 3
    assert log.since(("channel 0",), start) is None
    assert log.since(("never used",), start) is None
    assert log.since(("never used",), log.mark()) == []


@pytest.mark.parametrize("channels", [("a", "b"), ()])
def test_losses_elsewhere_are_noted(now: list[int], channels: tuple[str, ...]) -> None:
    """What a worker gave up cannot be resumed over; without names it may be any channel."""
    log = make_log()
    start = log.mark()
    now[0] += 1
    mark = log.lose(channels)
    assert log.since(("a",), start) is None
    assert log.since(("a",), mark) == []
    assert (log.since(("c",), start) is None) == (channels == ())


def test_e3_loss_elsewhere_outlives_the_events_before_it(now: list[int]) -> None:
    """When an older event leaves the history, the newer loss is still known."""
    log = make_log(history_count=1)
    before = time_of(log.append("a", BODY, keep=True))
    now[0] += 1
    mark = log.lose(("a",))
    after = log.append("a", BODY, keep=True)  # the event from before the loss goes
    assert log.since(("a",), before) is None
    assert log.since(("a",), mark) == [after]


def test_memory_is_given_back(now: list[int]) -> None:
    """Channels that nobody uses any more leave nothing behind."""
    log = make_log(history_age=1.0)
    for n in range(100):
        log.append(f"channel {n}", BODY, keep=True)
    now[0] += 5 * NANOSECONDS
    log.append("last", BODY, keep=True)
    assert list(log._channels) == ["last"]
    assert not log._floors
    assert len(log) == 1

"""E3, E4: a copy of a broker's log, whose positions no clock of this machine makes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from sidearm.hub.closing import Closings
from sidearm.hub.config import HubConfig
from sidearm.hub.core import Hub
from sidearm.hub.followed import MOMENTS, FollowedLog, Moments
from sidearm.hub.log import NANOSECONDS
from sidearm.hub.messages import Fetch, Handoff
from sidearm.hub.opening import begin
from sidearm.hub.position import Clock

BODY = b"data: x\n"


def make(**limits: float) -> FollowedLog:
    log = FollowedLog(HubConfig(socket="", **limits))  # type: ignore[arg-type]
    log.begin_again("aaaaaaaaaa", 1000)
    log.moments.begin_again(1000)
    return log


def moment(log: FollowedLog) -> str:
    """A position as a worker makes it now."""
    clock = log.moments.clock
    return clock.text_at(time.monotonic_ns())


def test_e4_a_view_saw_what_the_hub_had_seen() -> None:
    """The place of a moment is that of the newest entry which had come by then."""
    log = make()
    views = [moment(log)]
    start = time.time_ns()
    for place in range(start, start + 5):
        log.take(place, "a", BODY, keep=True)
        log.moments.note(place)
        views.append(moment(log))
    assert [log.located(view) for view in views] == [
        log.clock.text(place) for place in (1000, *range(start, start + 5))
    ]


def test_e3_events_grow_old_by_the_clock_of_the_log() -> None:
    """A wall clock that was set between the beginnings of two hubs makes nothing old."""
    log = make()
    hour = 3600 * NANOSECONDS
    log.begin_again("bbbbbbbbbb", 1000, log.clock.offset - hour)
    place = time.time_ns() - hour
    frame = log.take(place, "a", BODY, keep=True)
    assert log.since(("a",), place - 1) == [frame]


def test_e4_before_the_log_nothing_was_seen() -> None:
    """A view that looked at another log has seen nothing of this one."""
    log = make()
    view = moment(log)
    log.begin_again("bbbbbbbbbb", 5000)
    log.moments.begin_again(5000)
    assert log.located(view) == view
    assert log.located(moment(log)) == log.clock.text(5000)
    assert log.located(None) is None
    assert log.located("away") == "away"


def test_e4_old_moments_get_coarser_and_never_later() -> None:
    """However many there were, a moment's place is never one that came after it."""
    moments = Moments(1)
    clock = Clock(moments.clock.epoch, 0)
    seen: list[tuple[int, int]] = []
    for place in range(2, MOMENTS + 5000):
        moments.note(place)
        seen.append((time.monotonic_ns() + moments.clock.offset, place))
    assert len(moments.state().moments) <= MOMENTS
    for when, place in seen[::97]:
        assert moments.place_at(when) <= place
    assert moments.place_at(seen[-1][0]) == seen[-1][1]
    assert clock.epoch == moments.clock.epoch


def test_e3_now_is_the_newest_entry() -> None:
    """Time that passes makes no position, so a quiet log's newest id never gets too old."""
    log = make(history_age=0.0)
    log.take(2000, "a", BODY, keep=True)
    assert log.mark() == 2000
    assert log.since(("a",), 2000) == []
    assert not log.too_old(2000)
    assert log.since(("a",), 1500) is None, "the event itself is gone, by its age"


def test_e3_what_is_ahead() -> None:
    """An id of this log that has not come yet may come; of any other log it never will."""
    log = make()
    assert log.is_ahead(log.clock.text(1001))
    assert not log.is_ahead(log.clock.text(1000))
    assert not log.is_ahead("bbbbbbbbbb-fff")
    assert not log.is_ahead(None)


def test_h5_a_successor_knows_the_moments() -> None:
    """The state that goes over holds all that is needed to place a view that ran before."""
    log = make()
    log.take(2000, "a", BODY, keep=True)
    log.moments.note(2000)
    view = moment(log)
    log.take(3000, "a", BODY, keep=True)
    log.moments.note(3000)
    new = FollowedLog.restore(HubConfig(socket="", history_age=1e10), log.state(), [])
    assert new.located(view) == new.clock.text(2000)
    assert (new.clock.epoch, new.last) == ("aaaaaaaaaa", 3000)


@pytest.mark.parametrize("kind", [Handoff, Fetch])
def test_e3_who_has_the_newest_event_gets_no_gap_however_old_it_is(kind: type[Any]) -> None:
    """Nothing comes while a broker is away, and that is longer than the view would look back."""
    log = make()
    minute_ago = time.time_ns() - 60 * 1_000_000_000
    log.take(minute_ago, "a", BODY, keep=True)
    place = log.clock.text(minute_ago)
    request = kind(channels=("a",), position=place, last_event_id=place, replay=5.0)
    assert begin(log, Closings(), request).gap is None
    older = kind(channels=("a",), position=place, last_event_id=log.clock.text(1000), replay=5.0)
    assert begin(log, Closings(), older).gap == "old"


def test_e5_what_is_no_text_is_left_out_and_nothing_else() -> None:
    """Any program may publish anything to a channel that is passed on."""
    with tempfile.TemporaryDirectory(prefix="sa-", dir="/tmp") as folder:
        hub = Hub(HubConfig(socket=str(Path(folder) / "hub.sock")))
        try:
            hub.pass_on([("a", b"one"), ("a", b"\xff\x00"), ("a", b"two")])
            figures = hub.figures()
        finally:
            hub.close()
    assert (figures.published, figures.refused_events) == (2, 1)

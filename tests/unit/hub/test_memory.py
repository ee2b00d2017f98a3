"""The hub in the process, and with it how every stream begins."""

from __future__ import annotations

import json
import time

import msgspec
import pytest

from sidearm.hub import opening
from sidearm.hub.config import HubConfig
from sidearm.hub.eventstream import Event, Parser, encode_body
from sidearm.hub.memory import MemoryHub
from sidearm.hub.messages import Fetch, Handoff


@pytest.fixture
def hub() -> MemoryHub:
    return MemoryHub()


def publish(hub: MemoryHub, channel: str, *values: object, keep: bool = True) -> None:
    hub.publish((channel, encode_body(value), keep) for value in values)


def read(body: bytes) -> tuple[list[Event], Parser]:
    parser = Parser()
    return parser.feed(body), parser


def data(body: bytes) -> list[str]:
    return [each.data for each in read(body)[0]]


def test_newcomer_gets_snapshot_then_what_came_since(hub: MemoryHub) -> None:
    """The view's position decides; what was there before is in the snapshot."""
    publish(hub, "a", "before")
    position = hub.position()
    publish(hub, "a", "since")
    assert data(hub.fetch(Fetch(("a",), position, snapshot=b"data: all\n\n"))) == ["all", "since"]


def test_polls_follow_each_other_without_gap_or_duplicate(hub: MemoryHub) -> None:
    """Each answer ends with the place from which the next poll goes on, even an empty one."""
    _, parser = read(hub.fetch(Fetch(("a",), hub.position(), retry=2000)))
    assert parser.retry == 2000
    for n in range(5):
        place = parser.last_event_id
        if n % 2:
            publish(hub, "a", n)
            publish(hub, "b", "other")
        events, parser = read(hub.fetch(Fetch(("a",), hub.position(), place)))
        assert [each.data for each in events] == ([str(n)] if n % 2 else [])
        assert parser.last_event_id > place


def test_snapshot_is_not_for_who_resumes(hub: MemoryHub) -> None:
    """A client that misses nothing needs no snapshot."""
    place = hub.position()
    publish(hub, "a", 1)
    assert data(hub.fetch(Fetch(("a",), hub.position(), place, b"data: all\n\n"))) == ["1"]


def test_view_older_than_the_log_gets_a_gap_and_all_there_is() -> None:
    """The hub was started anew between the view and the stream."""
    former, hub = MemoryHub(), MemoryHub()
    publish(hub, "a", 1, 2)
    events, parser = read(hub.fetch(Fetch(("a",), former.position(), snapshot=b"data: all\n\n")))
    gap, *others = events
    assert gap.event == "sidearm:gap"
    told = json.loads(gap.data)
    assert told["reason"] == "epoch"
    assert told["position"] < others[1].id
    assert [each.data for each in others] == ["all", "1", "2"]
    assert parser.last_event_id > gap.id


def test_view_that_history_does_not_reach_gets_a_gap() -> None:
    """A slow view and a busy channel: what was lost in between is told."""
    hub = MemoryHub(HubConfig(socket="", history_count=2))
    position = hub.position()
    publish(hub, "a", 1, 2, 3)
    gap, *others = read(hub.fetch(Fetch(("a",), position)))[0]
    assert json.loads(gap.data) == {"reason": "old", "position": gap.id}
    assert [each.data for each in others] == ["2", "3"]
    assert hub.stats().gaps == 1
    # What it missed lies before the place that it was told, and nothing after it is missing.
    assert position < gap.id < others[0].id
    assert data(hub.fetch(Fetch(("a",), hub.position(), gap.id))) == ["2", "3"]


def test_old_id_is_old_even_if_nothing_was_lost() -> None:
    """What is kept for so long says nothing about the time before."""
    hub = MemoryHub(HubConfig(socket="", history_age=60.0))
    ancient = hub.position_at(time.monotonic_ns() - 61 * 10**9)
    [gap] = read(hub.fetch(Fetch(("a",), hub.position(), ancient)))[0]
    assert json.loads(gap.data)["reason"] == "old"
    recent = hub.position_at(time.monotonic_ns() - 59 * 10**9)
    assert data(hub.fetch(Fetch(("a",), hub.position(), recent))) == []


def test_without_a_position_a_stream_begins_now(hub: MemoryHub) -> None:
    """There is no view to join."""
    publish(hub, "a", 1)
    assert data(hub.fetch(Fetch(("a",)))) == []


def test_replay_and_position_meet(hub: MemoryHub) -> None:
    """The further of the two counts, and nothing comes twice."""
    publish(hub, "a", 1)
    position = hub.position()
    publish(hub, "a", 2)
    assert data(hub.fetch(Fetch(("a",), position, replay=60.0))) == ["1", "2"]
    assert data(hub.fetch(Fetch(("a",), position, replay=0.0))) == ["2"]


def test_e3_replayed_events_leave_a_newcomer_at_its_own_place(hub: MemoryHub) -> None:
    """Its last id is not that of an old event, which would soon be too old to resume from."""
    publish(hub, "a", 1)
    position = hub.position()
    start = opening.begin(hub._log, hub._closings, Handoff(("a",), position, replay=60.0))
    events, parser = read(b"".join(start.parts))
    assert [each.data for each in events] == ["1"]
    assert events[0].id < position
    assert parser.last_event_id == position


def test_e3_a_newcomer_that_knows_its_place_is_not_told_again(hub: MemoryHub) -> None:
    """Its worker has told it; what it missed since follows, and a snapshot is never left out."""
    publish(hub, "a", "before")
    told = Handoff(("a",), hub.position(), knows_place=True)
    assert opening.begin(hub._log, hub._closings, told).parts == []
    publish(hub, "a", "since")
    for message in (told, msgspec.structs.replace(told, knows_place=False)):
        events, parser = read(b"".join(opening.begin(hub._log, hub._closings, message).parts))
        assert [each.data for each in events] == ["since"]
        assert parser.last_event_id == events[0].id
    both = msgspec.structs.replace(told, snapshot=b"data: all\n\n")
    assert data(b"".join(opening.begin(hub._log, hub._closings, both).parts)) == ["all", "since"]


def test_e3_a_newcomer_that_knows_a_place_of_another_log_is_told_the_gap(hub: MemoryHub) -> None:
    """With the place in this log: the one that its worker told it is of no use."""
    told = Handoff(("a",), MemoryHub().position(), knows_place=True)
    start = opening.begin(hub._log, hub._closings, told)
    events, parser = read(b"".join(start.parts))
    assert start.gap == "epoch"
    assert [each.event for each in events] == ["sidearm:gap"]
    assert parser.last_event_id.startswith(hub._log.clock.epoch)


def test_nobody_takes_a_socket(hub: MemoryHub) -> None:
    """Streams are polled here."""
    assert not hub.handoff(Handoff(("a",)), 0)


def test_figures_tell_what_there_is(hub: MemoryHub) -> None:
    """Tests wait by them, and people look at them."""
    publish(hub, "a", 1, 2)
    publish(hub, "a", 3, keep=False)
    figures = hub.stats()
    assert (figures.published, figures.history_events) == (3, 2)
    assert hub.position().startswith(figures.epoch)

"""A stream is cut while it opens, after each of its bytes (contracts E3, E4)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from sidearm.hub import opening
from sidearm.hub.closing import Closings
from sidearm.hub.config import HubConfig
from sidearm.hub.eventstream import Event, Parser, encode, encode_body
from sidearm.hub.log import Log
from sidearm.hub.messages import Fetch, Handoff, Opening

SNAPSHOT = encode("a\nb", event="snapshot")
REQUESTS = [Handoff, Fetch]


@pytest.fixture
def log() -> Log:
    return Log(HubConfig(socket="", history_count=4))


def publish(log: Log, channel: str, *texts: str) -> None:
    for text in texts:
        log.append(channel, encode_body(text), keep=True)


def open_stream(log: Log, request: Handoff | Fetch) -> bytes:
    """All that a stream is sent when it opens, in the way in which it is asked for."""
    begin = opening.begin if isinstance(request, Handoff) else opening.all_due
    return b"".join(begin(log, Closings(), request).parts)


def seen_when_cut(
    log: Log, request: Handoff | Fetch, after: int, first_words: bytes = b""
) -> tuple[list[Event], list[Event]]:
    """What a client sees that is cut after so many bytes and comes back as a browser does.

    Args:
        log: Where the events are.
        request: How its stream opens.
        after: So many bytes come.
        first_words: What comes with the head.
    """
    parser = Parser(request.last_event_id or "")
    before = parser.feed((first_words + open_stream(log, request))[:after])
    place = parser.last_event_id
    # Its view runs again.
    again = msgspec.structs.replace(
        request, last_event_id=place or None, position=log.clock.text(log.mark())
    )
    return before, Parser(place).feed(open_stream(log, again))


def names(events: list[Event]) -> list[str]:
    return [each.data if each.event == "message" else each.event for each in events]


def check_each_cut(
    log: Log, request: Handoff | Fetch, expected: list[str], first_words: bytes = b""
) -> None:
    """Whatever byte is the last one: nothing is missed, and nothing comes twice for an id.

    Args:
        log: Where the events are.
        request: How the stream opens.
        expected: What a client sees that is not cut.
        first_words: What comes with the head.
    """
    given = request.last_event_id or ""
    body = first_words + open_stream(log, request)
    whole = Parser(given)
    assert names(whole.feed(body)) == expected
    assert whole.last_event_id > given
    for after in range(len(body) + 1):
        before, since = seen_when_cut(log, request, after, first_words)
        parser = Parser(given)
        parser.feed(body[:after])
        if parser.last_event_id == given:
            # It comes back as it came. What its new view has seen already is in its new snapshot.
            left = ["snapshot"] if "snapshot" in expected else []
            if "sidearm:gap" in expected:
                left = ["sidearm:gap", *left]
            assert names(since)[: len(left)] == left, body[:after]
        else:
            assert names(before) + names(since) == expected, body[:after]


@pytest.mark.parametrize("kind", REQUESTS)
def test_e4_a_newcomer_that_is_cut_has_its_place_after_the_snapshot(
    log: Log, kind: type[Opening]
) -> None:
    """With the whole snapshot, and what was published while it was made."""
    publish(log, "news", "old")
    request: Any = kind(("news",), log.clock.text(log.mark()), snapshot=SNAPSHOT, retry=1000)
    check_each_cut(log, request, ["snapshot"])
    publish(log, "news", "1", "2")
    check_each_cut(log, request, ["snapshot", "1", "2"])


@pytest.mark.parametrize("kind", REQUESTS)
@pytest.mark.parametrize("told", ["nonsense", "0123456789-5", "{epoch}-ffffffffffffffff"])
def test_e3_e4_a_gap_before_a_snapshot_is_no_place(
    log: Log, kind: type[Opening], told: str
) -> None:
    """Who is cut between the two gets both again."""
    position = log.clock.text(log.mark())
    publish(log, "news", "1")
    told = told.format(epoch=log.clock.epoch)
    request: Any = kind(("news",), position, told, SNAPSHOT)
    parser = Parser(told)
    body = open_stream(log, request)
    assert names(parser.feed(body)) == ["sidearm:gap", "snapshot", "1"]
    last = Parser(told)
    for after in range(len(body) + 1):
        before, since = seen_when_cut(log, request, after)
        last = Parser(told)
        last.feed(body[:after])
        if last.last_event_id == told:
            assert names(since)[:2] == ["sidearm:gap", "snapshot"], body[:after]
        else:
            assert names(before) + names(since) == ["sidearm:gap", "snapshot", "1"], body[:after]
    assert last.last_event_id != told


@pytest.mark.parametrize("kind", REQUESTS)
def test_e3_a_gap_without_a_snapshot_is_a_place(log: Log, kind: type[Opening]) -> None:
    """From there the client goes on, also if nothing more comes."""
    request: Any = kind(("news",), log.clock.text(log.mark()), "nonsense")
    parser = Parser("nonsense")
    gap = parser.feed(b"".join(opening.begin(log, Closings(), request).parts))
    assert names(gap) == ["sidearm:gap"]
    assert parser.last_event_id == gap[0].id
    for after in range(len(open_stream(log, request)) + 1):
        before, since = seen_when_cut(log, request, after)
        assert names(before) + names(since) == ["sidearm:gap"], after


@pytest.mark.parametrize("kind", REQUESTS)
def test_e3_a_view_that_saw_too_little_gets_the_gap_until_its_snapshot_has_come(
    log: Log, kind: type[Opening]
) -> None:
    """The history has lost events since it looked; the next view has seen them."""
    position = log.clock.text(log.mark())
    publish(log, "news", *"123456")
    request: Any = kind(("news",), position, snapshot=SNAPSHOT)
    body = open_stream(log, request)
    assert names(Parser().feed(body)) == ["sidearm:gap", "snapshot", *"3456"]
    for after in range(len(body) + 1):
        before, since = seen_when_cut(log, request, after)
        assert "snapshot" in names(before) or names(since)[0] == "snapshot", body[:after]


@pytest.mark.parametrize("snapshot", [None, SNAPSHOT])
@pytest.mark.parametrize("kind", REQUESTS)
def test_e3_a_replay_that_is_cut_goes_on_where_it_was(
    log: Log, kind: type[Opening], snapshot: bytes | None
) -> None:
    """No id comes before the first of its events, and so none of them is passed over."""
    publish(log, "news", "1", "2")
    position = log.clock.text(log.mark())
    publish(log, "news", "3")
    request: Any = kind(("news",), position, snapshot=snapshot, replay=60.0)
    expected = ["1", "2", "3"] if snapshot is None else ["snapshot", "1", "2", "3"]
    body = open_stream(log, request)
    assert names(Parser().feed(body)) == expected
    for after in range(len(body) + 1):
        before, since = seen_when_cut(log, request, after)
        both = names(before) + names(since)
        # Its first events come again to whoever has no id.
        assert both[-len(expected) :] == expected, body[:after]


@pytest.mark.parametrize("kind", REQUESTS)
def test_e7_last_events_of_ended_channels_come_before_the_place(
    log: Log, kind: type[Opening]
) -> None:
    """Who is cut before the last of them is told it when it comes back."""
    publish(log, "job:7", "done")
    log.end("job:7")
    request: Any = kind(("job:7", "job:8"), log.clock.text(log.mark()), snapshot=SNAPSHOT)
    body = open_stream(log, request)
    assert names(Parser().feed(body)) == ["snapshot", "done"]
    for after in range(len(body) + 1):
        before, since = seen_when_cut(log, request, after)
        both = names(before) + names(since)
        assert both[-2:] == ["snapshot", "done"], body[:after]


def test_e3_without_a_snapshot_a_newcomer_has_its_place_at_once(log: Log) -> None:
    """With the head, if its worker tells it, or else in the hub's first bytes."""
    place = log.clock.text(log.mark())
    told = Handoff(("news",), place, knows_place=True)
    assert open_stream(log, told) == b""
    head = b"retry: 1000\n\nid: %b\n\n" % place.encode()
    assert open_stream(log, Handoff(("news",), place)) == b"id: %b\n\n" % place.encode()
    publish(log, "news", "1", "2")
    check_each_cut(log, told, ["1", "2"], first_words=head)
    check_each_cut(log, msgspec.structs.replace(told, knows_place=False), ["1", "2"])

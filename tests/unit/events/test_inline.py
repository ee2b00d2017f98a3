"""How a stream's beginning and what the hub tells meanwhile become one, without a socket."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidearm.events.inline import Client, Stream
from sidearm.hub.messages import Fetched, Handoff
from sidearm.settings import Settings


class Waiter:
    """Nobody waits: what a stream has is asked for when it is there."""

    def wait(self, seconds: float | None) -> None:
        raise AssertionError(f"The stream would wait for {seconds}.")

    def wake(self) -> None:
        pass


class Loop:
    key = None

    def waiter(self) -> Waiter:
        return Waiter()

    def watch(self, descriptor: int, on_readable: Callable[[], None]) -> Callable[[], None]:
        raise AssertionError("There is no socket.")


def stream(limit: int = 1000) -> Stream:
    settings = Settings(subscriber_buffer=limit)
    return Stream(Handoff(("news",)), Loop(), settings, Client({}, settings))


def told(of: Stream) -> bytes:
    return next(of.live(None))  # type: ignore[arg-type]  # it is asked for the last id only


def test_h1_what_the_beginning_holds_is_not_told_again() -> None:
    """Neither what came before the beginning did, nor what comes after it and was in it."""
    each = stream()
    for place in (5, 6, 7, 8):
        each.put(b"%d " % place, place)
    assert each.begin(Fetched(b"5 6 ", place=6, channels=("news",)))
    each.put(b"again", 8)
    each.put(b"9 ", 9)

    assert told(each) == b"7 8 9 "


def test_h1_what_has_no_place_is_told_whenever_it_comes() -> None:
    """An event that is live only is in no beginning."""
    each = stream()
    each.put(b"live ", 0)
    each.begin(Fetched(b"", place=6, channels=("news",)))
    each.put(b"too", 0)

    assert told(each) == b"live too"


def test_h2_a_hub_that_tells_no_place_has_answered_a_poll() -> None:
    """One that is older does not say on what a stream would go on."""
    assert not stream().begin(Fetched(b"all"))


def test_h4_more_than_the_limit_ends_a_stream_that_does_not_read() -> None:
    """What waits is let go; one event alone may be larger than the limit."""
    each = stream(limit=10)
    each.begin(Fetched(b"", place=1, channels=("news",)))
    each.put(b"larger than the limit", 2)
    assert told(each) == b"larger than the limit"
    each.put(b"12345", 3)
    each.put(b"123456", 4)

    with pytest.raises(StopIteration):
        told(each)


def test_h3_a_heartbeat_is_for_quiet_streams_only() -> None:
    """One that had an event since the last is not quiet."""
    each = stream()
    each.begin(Fetched(b"", place=1, channels=("news",)))
    each.put(b"event ", 2)
    each.beat(b"beat", 3)
    assert told(each) == b"event "
    each.beat(b"beat", 4)
    assert told(each) == b"beat"


def test_e7_the_last_frame_ends_the_stream() -> None:
    """Nothing that comes later follows it."""
    each = stream()
    each.begin(Fetched(b"", place=1, channels=("news",)))
    each.finish(b"the end")
    each.put(b"too late", 2)

    assert b"".join(each.live(None)) == b"the end"  # type: ignore[arg-type]

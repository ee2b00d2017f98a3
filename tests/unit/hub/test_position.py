"""Positions: what clients see, and what is read back from them."""

from __future__ import annotations

import time

import pytest

from sidearm.hub.position import Clock, Position, is_end, parse


def test_text_is_read_back() -> None:
    """A position survives its way through a client."""
    position = Position("0123456789", time.time_ns())
    assert parse(str(position)) == position


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "0123456789",
        "0123456789-",
        "0123456789-0",
        "0123456789-01",
        "0123456789-+1",
        "0123456789-1_0",
        "0123456789- 1",
        "0123456789-1\n",
        "0123456789-\u0661",
        "0123456789-10000000000000000",
        "0123456789-A",
        "012345678-1",
        "0123456789-1-1",
    ],
)
def test_only_what_a_hub_wrote_is_read(text: str) -> None:
    """Anything else is no position: one place has one spelling."""
    assert parse(text) is None


def test_two_clocks_have_two_epochs() -> None:
    """A log that begins anew is another log."""
    assert Clock.start().epoch != Clock.start().epoch


def test_clock_reads_as_wall_time() -> None:
    """A position tells when."""
    assert abs(Clock.start().now() - time.time_ns()) < 5e9


def test_reading_of_the_monotonic_clock_becomes_a_position() -> None:
    """A worker that knows epoch and offset tells the same position as the hub."""
    hub = Clock.start()
    worker = Clock(hub.epoch, hub.offset)
    before = hub.now()
    position = parse(worker.text_at(time.monotonic_ns()))
    assert position is not None
    assert position.epoch == hub.epoch
    assert before <= position.time <= hub.now()


def test_e7_end_is_a_position_with_a_mark() -> None:
    """It survives its way through a client, and is known by the channels of its stream."""
    clock = Clock("0123456789", 0)
    text = clock.end(255, ("job:7", "user:1"))
    place = parse(text)
    assert place is not None
    assert (place.epoch, place.time, str(place)) == ("0123456789", 255, text)
    assert is_end(text, ("user:1", "job:7", "job:7"))
    assert not is_end(text, ("job:7",))
    assert not is_end(text, ("job:8", "user:1"))


@pytest.mark.parametrize(
    "text",
    ["", "0123456789-ff", "0123456789-ff-end", "0123456789-ff-end-", "0123456789-ff-end-0000000g"],
)
def test_e7_anything_else_is_no_end(text: str) -> None:
    """No id that a client may send by mistake ends its stream."""
    assert not is_end(text, ("job:7",))

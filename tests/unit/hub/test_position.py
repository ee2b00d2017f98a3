"""Positions: what clients see, and what is read back from them."""

from __future__ import annotations

import time

import pytest

from sidearm.hub.position import Clock, Position, parse


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

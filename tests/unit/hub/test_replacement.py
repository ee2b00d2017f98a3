"""Whether a hub is replaced, and who is told, without a socket."""

from __future__ import annotations

import os
from typing import Any, cast

import pytest

from sidearm.exceptions import ProtocolError
from sidearm.hub.connection import Connection
from sidearm.hub.messages import Message, NotReplaced, Replace, Replacing, TakeOver
from sidearm.hub.replacement import RESERVE, Replacement
from sidearm.hub.state import STATE_VERSION

TAKE_OVER = TakeOver((STATE_VERSION,), 1 << 20)


class Told:
    """What was said to whom."""

    def __init__(self) -> None:
        self.all: list[tuple[object, Message]] = []
        self.wanted: list[bool] = []
        self.replacement = Replacement(lambda whom, what: self.all.append((whom, what)))

    def look_after(self) -> None:
        self.replacement.want = self.wanted.append


def somebody() -> Connection:
    """A connection, which is only compared."""
    return cast("Any", object())


def test_h5_who_looks_after_the_hub_is_asked_for_a_new_one() -> None:
    """If nobody does, the answer says that the asking process has to become it."""
    told, operator = Told(), somebody()
    told.replacement.take(operator, Replace(), 10)
    told.look_after()
    told.replacement.take(operator, Replace(), 10)
    pid = os.getpid()
    assert told.all == [(operator, Replacing(pid, False)), (operator, Replacing(pid, True))]
    assert told.wanted == [True]


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(TakeOver((STATE_VERSION + 1,), 1 << 20), "Restart it", id="version"),
        pytest.param(TakeOver((STATE_VERSION,), 99 + RESERVE), "LimitNOFILE", id="room"),
    ],
)
def test_h5_refusal_is_told_to_all_who_want_it(message: TakeOver, reason: str) -> None:
    """Once; afterwards nobody waits any more."""
    told, first, second = Told(), somebody(), somebody()
    told.look_after()
    for operator in (first, second):
        told.replacement.take(operator, Replace(), 100)
    told.all.clear()
    for _ in range(2):
        with pytest.raises(ProtocolError, match=reason):
            told.replacement.take(somebody(), message, 100)
    assert len(told.all) == 2
    assert {whom for whom, _ in told.all} == {first, second}
    for _, what in told.all:
        assert isinstance(what, NotReplaced)
        assert reason in what.reason
    assert told.replacement.failed == 2
    assert told.replacement.successor is None


def test_h5_exactly_enough_descriptors_are_enough() -> None:
    """What it holds, and what a process needs itself."""
    told, new = Told(), somebody()
    told.replacement.take(new, TakeOver((STATE_VERSION,), 100 + RESERVE), 100)
    assert told.replacement.successor is new


def test_h5_a_second_one_waits_its_turn_and_spoils_nothing() -> None:
    """It is refused; who waits for the first is told nothing wrong."""
    told, operator, first, second = Told(), somebody(), somebody(), somebody()
    told.look_after()
    told.replacement.take(operator, Replace(), 10)
    told.all.clear()
    told.replacement.take(first, TAKE_OVER, 10)
    with pytest.raises(ProtocolError, match="another process"):
        told.replacement.take(second, TAKE_OVER, 10)
    assert told.replacement.successor is first
    assert (told.all, told.replacement.failed) == ([], 0)
    told.replacement.forget(first)
    told.replacement.take(second, TAKE_OVER, 10)
    assert told.replacement.successor is second


def test_h5_hub_that_is_about_to_stop_is_not_replaced() -> None:
    """Its connections end with it."""
    told = Told()
    told.replacement.is_possible = False
    with pytest.raises(ProtocolError, match="about to stop"):
        told.replacement.take(somebody(), TAKE_OVER, 10)

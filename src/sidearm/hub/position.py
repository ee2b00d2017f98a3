"""Positions in the log: opaque to clients, times to us.

A position is the log's *epoch* (random, one for each hub process) and a time in nanoseconds. The
time is the machine's monotonic clock plus an *offset* that the hub fixes at its start so that it
reads as wall time. The monotonic clock is the same in every process of one machine, so a worker
that has heard epoch and offset once knows "now" as a position without asking, and what it knows
stays in order with what the hub assigns, whatever happens to the wall clock.
"""

from __future__ import annotations

import re
import secrets
import time
from typing import NamedTuple

_TEXT = re.compile(r"([0-9a-f]{10})-([1-9a-f][0-9a-f]{0,15})", re.ASCII)


class Position(NamedTuple):
    """A place in one log.

    Attributes:
        epoch: Names the log.
        time: Nanoseconds since 1970, as that log's clock counts them.
    """

    epoch: str
    time: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.time:x}"


def parse(text: str) -> Position | None:
    """Read a position as a client sent it; None for anything that no hub ever wrote."""
    match = _TEXT.fullmatch(text)
    return Position(match[1], int(match[2], 16)) if match else None


class Clock(NamedTuple):
    """Turns the machine's monotonic clock into positions of one log.

    Attributes:
        epoch: Names the log.
        offset: Nanoseconds between ``time.monotonic_ns()`` and a position's time.
    """

    epoch: str
    offset: int

    @classmethod
    def start(cls) -> Clock:
        """A clock for a new log, with an epoch that no other log has."""
        return cls(secrets.token_hex(5), time.time_ns() - time.monotonic_ns())

    def now(self) -> int:
        """The time of a position that is taken now."""
        return time.monotonic_ns() + self.offset

    def text(self, time_ns: int) -> str:
        """The position with this time, as clients see it."""
        return f"{self.epoch}-{time_ns:x}"

    def text_at(self, monotonic_ns: int) -> str:
        """The position of a reading of ``time.monotonic_ns()``, as clients see it."""
        return self.text(monotonic_ns + self.offset)

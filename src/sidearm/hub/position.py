"""Positions in the log: opaque to clients, times to us.

A position is the log's *epoch* (random, one for each hub process) and a time in nanoseconds. The
time is the machine's monotonic clock plus an *offset* that the hub fixes at its start so that it
reads as wall time. The monotonic clock is the same in every process of one machine, so a worker
that has heard epoch and offset once knows "now" as a position without asking, and what it knows
stays in order with what the hub assigns, whatever happens to the wall clock.

An *end* is a position with a mark: the stream of these channels ended there. The client sends it
back like any id, so that every worker knows, without asking anybody, that this client has seen the
end. The mark is made of the channels' names: on another stream the same id is a position, no more.
"""

from __future__ import annotations

import functools
import re
import secrets
import time
import zlib
from collections.abc import Iterable
from typing import NamedTuple

_TEXT = re.compile(r"([0-9a-f]{10})-([1-9a-f][0-9a-f]{0,15})(?:-end-([0-9a-f]{8}))?", re.ASCII)
_LONGEST = 10 + 1 + 16 + 5 + 8  # characters


class Position(NamedTuple):
    """A place in one log.

    Attributes:
        epoch: Names the log.
        time: Nanoseconds since 1970, as that log's clock counts them.
        mark: Of an end: which channels' stream ended there. Empty: none did.
    """

    epoch: str
    time: int
    mark: str = ""

    def __str__(self) -> str:
        return f"{self.epoch}-{self.time:x}" + (f"-end-{self.mark}" if self.mark else "")


def parse(text: str) -> Position | None:
    """Read a position as a client sent it; None for anything that no hub ever wrote."""
    return _parse(text) if len(text) <= _LONGEST else None


@functools.lru_cache(maxsize=256)  # one stream's is read several times while it opens
def _parse(text: str) -> Position | None:
    match = _TEXT.fullmatch(text)
    return Position(match[1], int(match[2], 16), match[3] or "") if match else None


def mark_of(channels: Iterable[str]) -> str:
    """The mark of the end of a stream of these channels, in whatever order they are named."""
    # No name holds a line end. It is a checksum and no secret: a client that makes one up ends
    # its own stream.
    return f"{zlib.crc32(chr(10).join(sorted(set(channels))).encode()):08x}"


def is_end(text: str, channels: Iterable[str]) -> bool:
    """Whether an id says that its client has seen the end of the stream of these channels."""
    place = parse(text)
    return place is not None and place.mark == mark_of(channels)


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

    def end(self, time_ns: int, channels: Iterable[str]) -> str:
        """The end, at this time, of a stream of these channels, as its client sees it."""
        return f"{self.text(time_ns)}-end-{mark_of(channels)}"

    def text_at(self, monotonic_ns: int) -> str:
        """The position of a reading of ``time.monotonic_ns()``, as clients see it."""
        return f"{self.epoch}-{monotonic_ns + self.offset:x}"

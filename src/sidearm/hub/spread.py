"""How long clients wait before they come back, so that they do not come back all at once.

Each stream is told a wait of its own, and keeps it for the day when it loses its connection. Where
there are many streams, the waits are drawn from so wide a range that about ``reconnect_rate`` of
them come back in a second. A stream that was opened while there were few is told again, with a
heartbeat, once there are many.
"""

from __future__ import annotations

import random

from . import eventstream
from .config import HubConfig

GROWTH = 1.5  # times as wide, before those that are there are told again


class Spread:
    """The range of the waits. Knows no stream and no clock.

    Args:
        config: How wide it is at least, and how many may come back in a second.
    """

    __slots__ = ("_least", "_rate", "_told")

    def __init__(self, config: HubConfig) -> None:
        self._least = config.retry_spread
        self._rate = config.reconnect_rate
        self._told = self._least

    def width(self, streams: int) -> float:
        """How wide the range is for so many streams (seconds)."""
        return max(self._least, streams / self._rate) if self._rate else self._least

    def field(self, shortest: float, streams: int) -> bytes:
        """What tells a stream its wait; empty where what its worker has told it will do.

        Args:
            shortest: The shortest wait (seconds).
            streams: How many there are.
        """
        width = self.width(streams)
        if width <= self._least:
            return b""
        wait = shortest + width * random.random()  # noqa: S311 - no secret
        return eventstream.retry_field(round(wait * 1000))

    def has_grown(self, streams: int) -> bool:
        """Whether those that are there must be told again; they have been, after this said so."""
        width = self.width(streams)
        grown = width > self._told * GROWTH
        if grown or width < self._told / GROWTH:
            self._told = width
        return grown

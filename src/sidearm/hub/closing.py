"""Which streams were closed by their tag, and when: for those that were not there to be closed.

A stream can be on its way from its worker while it is closed, and one that is polled is never
there. So what was closed is remembered for longer than a request takes, with the time at which it
was said: it counts for a stream whose view ran before, and not for one whose view ran after.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

TAGS = 10_000
AGE = 600_000_000_000  # nanoseconds; no request takes longer from its view to its hand-off
ALL = ""  # no channel has this name


class Closings:
    """What was closed of late. Times are those of the log's positions."""

    __slots__ = ("_by_tag",)

    def __init__(self) -> None:
        # For each tag, the last time at which each channel, or ALL, was closed; oldest tag first.
        self._by_tag: OrderedDict[str, dict[str, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_tag)

    def add(self, tag: str, channels: Iterable[str], time: int) -> None:
        """Remember that streams with this tag were closed, or lost these channels."""
        closed = self._by_tag.setdefault(tag, {})
        for channel in tuple(channels) or (ALL,):
            closed[channel] = max(time, closed.get(channel, 0))
        self._by_tag.move_to_end(tag)
        while len(self._by_tag) > TAGS or self._newest_of_the_oldest() < time - AGE:
            self._by_tag.popitem(last=False)

    def closed_since(self, tags: Iterable[str], time: int) -> bool:
        """Whether streams with one of these tags were closed at a time or later."""
        return any(self._by_tag.get(tag, {}).get(ALL, -1) >= time for tag in tags)

    def left_of(self, channels: tuple[str, ...], tags: Iterable[str], time: int) -> tuple[str, ...]:
        """The channels that are left to a stream with these tags whose view ran at a time."""
        for closed in [self._by_tag[tag] for tag in tags if tag in self._by_tag]:
            if closed.get(ALL, -1) >= time:
                return ()
            channels = tuple(each for each in channels if closed.get(each, -1) < time)
        return channels

    def _newest_of_the_oldest(self) -> int:
        return max(next(iter(self._by_tag.values())).values())

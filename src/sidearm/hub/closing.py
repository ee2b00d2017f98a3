"""Which streams were closed by their tag, and when: for those that were not there to be closed.

A stream can be on its way from its worker while it is closed, and one that is polled is never
there. So what was closed is remembered for longer than a request takes, with the time at which it
was said: it counts for a stream whose view ran before, and not for one whose view ran after. And
with the place in the log at which it arrived: what was published before is still for that stream.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .state import ClosedState

TAGS = 10_000
AGE = 600_000_000_000  # nanoseconds; no request takes longer from its view to its hand-off
ALL = ""  # no channel has this name


class Closing(NamedTuple):
    """One closing.

    Attributes:
        time: When it was said.
        place: The log's position when it arrived.
    """

    time: int
    place: int


class Closings:
    """What was closed of late. Times are those of the log's positions."""

    __slots__ = ("_by_tag",)

    def __init__(self) -> None:
        # For each tag, the last closing of each channel, or of ALL; oldest tag first.
        self._by_tag: OrderedDict[str, dict[str, Closing]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_tag)

    def add(self, tag: str, channels: Iterable[str], time: int, place: int) -> None:
        """Remember that streams with this tag were closed, or lost these channels."""
        closed = self._by_tag.setdefault(tag, {})
        for channel in tuple(channels) or (ALL,):
            closed[channel] = max(Closing(time, place), closed.get(channel, Closing(0, 0)))
        self._by_tag.move_to_end(tag)
        while len(self._by_tag) > TAGS or self._newest_of_the_oldest() < time - AGE:
            self._by_tag.popitem(last=False)

    def state(self) -> Iterator[ClosedState]:
        """What a successor has to know."""
        for tag, closed in self._by_tag.items():
            for channel, closing in closed.items():
                yield tag, channel, closing.time, closing.place

    def restore(self, closings: Iterable[ClosedState]) -> None:
        """Remember what a predecessor did."""
        for tag, channel, time, place in closings:
            self._by_tag.setdefault(tag, {})[channel] = Closing(time, place)

    def closed_at(self, tags: Iterable[str], time: int) -> int | None:
        """The place at which streams with one of these tags were closed, at a time or later.

        Returns:
            The first such place, or None.
        """
        found = [self._by_tag[tag].get(ALL) for tag in tags if tag in self._by_tag]
        return min((each.place for each in found if each and each.time >= time), default=None)

    def left_of(self, channels: tuple[str, ...], tags: Iterable[str], time: int) -> tuple[str, ...]:
        """Those of the channels that were not taken from streams with these tags since a time."""
        for closed in [self._by_tag[tag] for tag in tags if tag in self._by_tag]:
            channels = tuple(
                each for each in channels if each not in closed or closed[each].time < time
            )
        return channels

    def _newest_of_the_oldest(self) -> int:
        return max(each.time for each in next(iter(self._by_tag.values())).values())

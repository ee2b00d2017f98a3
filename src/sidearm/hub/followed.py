"""The newest part of a broker's log, as this hub has followed it.

Its positions are the broker's, so no clock of this machine may make one: the machine's clock and
the broker's differ, and each may be set back. "Now" is the newest entry that this hub has seen:
what is published after a view ran has a later position than all that the hub had seen when it ran,
whatever any clock says. Workers do not know what the hub has seen, and name a reading of the
machine's monotonic clock instead, a *moment*; the hub knows what it had seen at that moment.
"""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Iterable

import msgspec

from . import eventstream, position
from .config import HubConfig
from .log import Log
from .position import Clock
from .state import Kept, LogState, MomentsState

MOMENTS = 20_000


class Moments:
    """What the hub had seen at which reading of the machine's monotonic clock.

    Args:
        place: What it has seen now.

    Attributes:
        clock: Writes moments as positions, in an epoch that only this hub and its successors know.
    """

    __slots__ = ("_places", "_times", "clock")

    def __init__(self, place: int) -> None:
        self.clock = Clock.start()
        self._times = [0]
        self._places = [place]

    def state(self) -> MomentsState:
        """What a successor has to know."""
        return MomentsState(*self.clock, list(zip(self._times, self._places, strict=True)))

    @classmethod
    def restore(cls, state: MomentsState) -> Moments:
        """Those of a predecessor."""
        moments = cls(0)
        moments.clock = Clock(state.epoch, state.offset)
        moments._times = [moment for moment, _ in state.moments]
        moments._places = [place for _, place in state.moments]
        return moments

    def note(self, place: int) -> None:
        """From now on the hub has seen everything up to a place."""
        self._times.append(time.monotonic_ns() + self.clock.offset)
        self._places.append(place)
        if len(self._times) > MOMENTS:
            # Of the older half, every second is enough: an earlier place is as right as a later.
            del self._times[1 : MOMENTS // 2 : 2], self._places[1 : MOMENTS // 2 : 2]

    def begin_again(self, place: int) -> None:
        """The hub follows another log; before now it had seen nothing of it."""
        self._times, self._places = [0], [0]
        self.note(place)

    def place_at(self, moment: int) -> int:
        """What the hub had seen at a moment; 0: nothing of this log."""
        # Just before an entry came in, it was not seen yet.
        return self._places[max(0, bisect_right(self._times, moment) - 1)]


class FollowedLog(Log):
    """A copy of the newest part of a broker's log. Until it is followed it is a log of its own.

    Attributes:
        moments: What of it had been seen when.
    """

    __slots__ = ("moments",)

    def __init__(self, config: HubConfig, clock: Clock | None = None) -> None:
        super().__init__(config, clock)
        self.moments = Moments(self.last)

    def state(self) -> LogState:
        """What a successor has to know, without the events."""
        return msgspec.structs.replace(super().state(), moments=self.moments.state())

    @classmethod
    def restore(cls, config: HubConfig, state: LogState, kept: Iterable[Kept]) -> FollowedLog:
        """The log of a predecessor, under limits of its own."""
        log = super().restore(config, state, kept)
        assert isinstance(log, cls)  # noqa: S101
        if state.moments is not None:
            log.moments = Moments.restore(state.moments)
        return log

    def begin_again(self, epoch: str, floor: int, offset: int | None = None) -> None:
        """Follow a log from its beginning, or what is left of it; nothing is kept yet.

        Args:
            epoch: Names it.
            floor: The position of the newest entry that is gone.
            offset: Of its clock, if that is known.
        """
        self.clock = Clock(epoch, Clock.start().offset if offset is None else offset)
        self.first = self.last = self._floor = floor
        self.size = 0
        for each in (self._channels, self._order, self._floors, self._ends):
            each.clear()

    def mark(self) -> int:
        """The position of the newest entry that was seen."""
        return self.last

    def too_old(self, time: int) -> bool:  # noqa: ARG002
        """Never: in a quiet log an old position may still be the newest one, and floors tell."""
        return False

    def reach_place(self, time: int) -> None:
        """Note that there is an entry, whatever is in it."""
        self.last = time

    def take(self, time: int, channel: str, body: bytes, keep: bool) -> bytes:  # noqa: FBT001
        """Take an event in, at its place, and return its frame."""
        self._ends.pop(channel, None)
        self.last = time
        if not keep:
            return eventstream.frame(body, None)
        return self._keep(time, channel, body, self.clock.now())

    def lose_at(self, time: int, channels: tuple[str, ...]) -> None:
        """Note that events of these channels will never come."""
        self.last = time
        self._raise_floors(channels, time)

    def located(self, text: str | None) -> str | None:
        """A position that a worker made, as one of the log."""
        place = None if text is None else position.parse(text)
        if place is None or place.epoch != self.moments.clock.epoch:
            return text
        seen = self.moments.place_at(place.time)
        # Of another log, which the view looked at, nothing is known any more.
        return self.clock.text(seen) if seen else text

    def is_ahead(self, text: str | None) -> bool:
        """Whether an id may be one that this hub has not reached yet."""
        place = None if text is None else position.parse(text)
        return place is not None and place.epoch == self.clock.epoch and place.time > self.last

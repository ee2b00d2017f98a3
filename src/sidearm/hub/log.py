"""The hub's log: events in one order, each at a position, kept for a while.

Only the newest events stay: so many for each channel, so many bytes in all, so many seconds. What
goes leaves a mark behind, its channel's *floor*, so that the log knows, and does not guess, whether
it can still tell everything that a channel saw since a position. Floors are few: the oldest are
melted into one floor for every channel.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator

from . import eventstream
from .config import HubConfig
from .position import Clock
from .state import Kept, LogState

NANOSECONDS = 1_000_000_000  # in a second
FLOORS = 10_000  # channels
ENDS = 10_000  # channels
# What one kept event costs beside its frame: a deque's slot, a tuple, an entry of the order.
ENTRY_OVERHEAD = 250  # bytes


class Log:
    """The events of one hub. Not for several threads at once.

    Attributes:
        clock: Tells the time as positions, and the log's epoch.
        first: The time of the log's beginning.
        last: The time of the newest position that was assigned or told to somebody.
        size: Bytes kept.
    """

    __slots__ = (
        "_age",
        "_bytes",
        "_channels",
        "_count",
        "_ends",
        "_floor",
        "_floors",
        "_order",
        "clock",
        "first",
        "last",
        "size",
    )

    def __init__(self, config: HubConfig, clock: Clock | None = None) -> None:
        self.clock = clock or Clock.start()
        self.first = self.last = self.clock.now()
        self.size = 0
        self._count = config.history_count
        self._age = int(config.history_age * NANOSECONDS)
        self._bytes = config.history_bytes
        self._channels: dict[str, deque[tuple[int, bytes]]] = {}
        # Position to channel, oldest first: the front leaves when bytes or age say so, and any may
        # leave from the middle when its channel is full.
        self._order: OrderedDict[int, str] = OrderedDict()
        self._floors: OrderedDict[str, int] = OrderedDict()
        self._floor = 0
        # When each finished channel had its last event, the oldest first. It is remembered for
        # longer than the event itself.
        self._ends: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def state(self) -> LogState:
        """What a successor has to know, without the events."""
        floors = list(self._floors.items())
        ends = list(self._ends.items())
        return LogState(*self.clock, self.first, self.last, self._floor, floors, ends)

    def kept(self) -> Iterator[Kept]:
        """Every event that is kept, oldest first."""
        channels = {name: iter(entries) for name, entries in self._channels.items()}
        for time, channel in self._order.items():
            _, frame = next(channels[channel])
            yield time, channel, frame

    @classmethod
    def restore(cls, config: HubConfig, state: LogState, kept: Iterable[Kept]) -> Log:
        """The log of a predecessor, under limits of its own."""
        log = cls(config, Clock(state.epoch, state.offset))
        log.first, log.last, log._floor = state.first, state.last, state.floor
        log._floors.update(state.floors)
        log._ends.update(state.ends)
        for time, channel, frame in kept:
            log._channels.setdefault(channel, deque()).append((time, frame))
            log._order[time] = channel
            log.size += len(frame) + ENTRY_OVERHEAD
        for channel in list(log._channels):
            while len(log._channels.get(channel, ())) > log._count:
                log._forget(channel)
        log._expire(log.clock.now())
        return log

    def mark(self) -> int:
        """A position for now: after every event so far, before every event to come."""
        self.last = max(self.last, self.clock.now())
        return self.last

    def append(self, channel: str, body: bytes, keep: bool) -> bytes:  # noqa: FBT001
        """Take an event in, and return its frame.

        Args:
            channel: Where it belongs.
            body: Its encoded fields, without id.
            keep: Whether it gets an id and can be resumed from; else it is live only.
        """
        self._ends.pop(channel, None)
        if not keep:
            return eventstream.frame(body, None)
        now = self.clock.now()
        # The clock may stand still between two events, and nanoseconds are few in a burst.
        self.last = max(self.last + 1, now)
        return self._keep(self.last, channel, body, now)

    def _keep(self, time: int, channel: str, body: bytes, now: int) -> bytes:
        """Keep an event, and return its frame."""
        frame = eventstream.frame(body, self.clock.text(time))
        entries = self._channels.get(channel)
        if entries is None:
            entries = self._channels[channel] = deque()
        entries.append((time, frame))
        self._order[time] = channel
        self.size += len(frame) + ENTRY_OVERHEAD
        if len(entries) > self._count:
            self._forget(channel)
        self._expire(now)
        return frame

    def end(self, channel: str) -> None:
        """Note that the event that was appended just now is its channel's last, until another."""
        self._ends[channel] = self.last
        self._ends.move_to_end(channel)
        if len(self._ends) > ENDS:
            self._ends.popitem(last=False)

    def has_ended(self, channels: Iterable[str]) -> bool:
        """Whether each of these channels has had its last event."""
        return bool(self._ends) and all(channel in self._ends for channel in channels)

    def ended(self, channels: Iterable[str]) -> tuple[str, ...]:
        """Which of these channels have had their last event."""
        return tuple(channel for channel in channels if channel in self._ends)

    def last_words(self, channels: Iterable[str], time: int) -> list[bytes]:
        """The last events, still kept, of those of the channels that ended at a time or before."""
        found: list[tuple[int, bytes]] = []
        for channel in channels:
            end = self._ends.get(channel)
            entries = self._channels.get(channel)
            if end is not None and end <= time and entries and entries[-1][0] == end:
                found.append(entries[-1])
        found.sort()
        return [frame for _, frame in found]

    def since(self, channels: tuple[str, ...], time: int) -> list[bytes] | None:
        """The frames of these channels after a time, in order; None if one of them is lost."""
        self._expire(self.clock.now())
        if time < self.reach(channels):
            return None
        return self.newest(channels, time)

    def is_quiet_since(self, channels: Iterable[str], time: int) -> bool:
        """Whether nothing is known of these channels after a time: no event, no loss, no end."""
        if time < self._floor:
            return False
        for channel in channels:
            entries = self._channels.get(channel)
            if (
                (entries and entries[-1][0] > time)
                or self._floors.get(channel, 0) > time
                or channel in self._ends
            ):
                return False
        return True

    def newest(self, channels: tuple[str, ...], time: int, until: int | None = None) -> list[bytes]:
        """What is still kept of these channels after a time, and up to another, in order."""
        found: list[tuple[int, bytes]] = []
        for channel in channels:
            for entry in reversed(self._channels.get(channel, ())):
                if entry[0] <= time:
                    break
                found.append(entry)
        found.sort()
        return [frame for place, frame in found if until is None or place <= until]

    def reach(self, channels: Iterable[str]) -> int:
        """The time since which everything of these channels can be told."""
        return max(self._floor, *(self._floors.get(channel, 0) for channel in channels))

    def lose(self, channels: tuple[str, ...]) -> int:
        """Note that events of these channels will never come, at the position that is returned.

        Args:
            channels: Empty: it may be any channel.
        """
        # Later than every event so far: who has seen the newest has missed these all the same.
        self.last = mark = max(self.last + 1, self.clock.now())
        self._raise_floors(channels, mark)
        return mark

    def _raise_floors(self, channels: tuple[str, ...], mark: int) -> None:
        for channel in channels:
            self._floors[channel] = mark
            self._floors.move_to_end(channel)
        if not channels:
            self._floor = mark

    def too_old(self, time: int) -> bool:
        """Whether a time lies before all that is kept, whatever the channel."""
        return time < self.clock.now() - self._age

    def _expire(self, now: int) -> None:
        """Let go of what is too old, and of the oldest while there are too many bytes."""
        oldest = now - self._age
        order = self._order
        while order:
            time = next(iter(order))
            if time >= oldest and self.size <= self._bytes:
                break
            self._forget(order[time])
        floors = self._floors
        while floors and (len(floors) > FLOORS or next(iter(floors.values())) < oldest):
            self._floor = max(self._floor, floors.popitem(last=False)[1])

    def _forget(self, channel: str) -> None:
        """Let go of a channel's oldest event."""
        entries = self._channels[channel]
        time, frame = entries.popleft()
        if not entries:
            del self._channels[channel]
        del self._order[time]
        self.size -= len(frame) + ENTRY_OVERHEAD
        # An event that was lost elsewhere may have set it higher already.
        self._floors[channel] = max(time, self._floors.get(channel, 0))
        self._floors.move_to_end(channel)

"""The leading hub's log as the hubs beside it read it: all that happened, in order, for a while.

What :mod:`~sidearm.hub.log` keeps is for clients: by channel, and only what can be resumed from. A
hub that follows has to hear of everything, also of what is live only, of closings and of losses.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from operator import attrgetter

from ..brokers import Entry, Event, Item, Limits
from .log import ENTRY_OVERHEAD, NANOSECONDS

READ_COUNT = 500  # entries in one answer
READ_SIZE = 4 << 20  # bytes in one answer, unless one entry alone is larger
HELD = 4  # times as many bytes are kept as there may be, for who follows and has not read them

_position = attrgetter("position")


class Feed:
    """Entries that are kept until they are too old, or too many bytes.

    Args:
        limits: How much is kept.
        last: The position before the first entry.

    Attributes:
        last: The position of the newest entry.
    """

    __slots__ = ("_age", "_begin", "_bytes", "_entries", "_size", "last")

    def __init__(self, limits: Limits, last: int) -> None:
        kept = limits.at_least()
        self._age = int(kept.age * NANOSECONDS)
        self._bytes = kept.size
        self._entries: list[Entry] = []
        self._begin = 0  # those before it have gone, and leave the list together
        self._size = 0
        self.last = last

    def append(self, items: Iterable[Item], now: int, read: int | None = None) -> list[Entry]:
        """Take items in, and return their entries.

        Nothing that is added here goes before the next call: who follows has to read it first.

        Args:
            items: What happened, in order.
            now: The time, as a position's.
            read: The position up to which all that follow have read; None: nobody follows.
        """
        self._trim(now, self.last if read is None else read)
        added = []
        for item in items:
            # The clock may stand still between two entries.
            position = max(self.last + 1, now)
            added.append(Entry(position, self.last, item))
            self.last = position
        self.restore(added)
        return added

    def after(self, position: int) -> Sequence[Entry]:
        """The first of the entries after a position, as many as fit one answer."""
        start = bisect_right(self._entries, position, lo=self._begin, key=_position)
        size = 0
        for end in range(start, min(start + READ_COUNT, len(self._entries))):
            size += _size(self._entries[end])
            if size > READ_SIZE and end > start:
                return self._entries[start:end]
        return self._entries[start : start + READ_COUNT]

    def kept(self) -> Sequence[Entry]:
        """Every entry that is kept, oldest first."""
        return self._entries[self._begin :]

    def restore(self, entries: Sequence[Entry]) -> None:
        """Take in what a predecessor had; the next after what is there already."""
        self._entries += entries
        self._size += sum(map(_size, entries))
        if entries:
            self.last = entries[-1].position

    def _trim(self, now: int, read: int) -> None:
        oldest = now - self._age
        entries, begin = self._entries, self._begin
        while begin < len(entries):
            position = entries[begin].position
            allowed = self._bytes if position <= read else HELD * self._bytes
            if position >= oldest and self._size <= allowed:
                break
            self._size -= _size(entries[begin])
            begin += 1
        if begin > len(entries) // 2:
            del entries[:begin]
            begin = 0
        self._begin = begin


def _size(entry: Entry) -> int:
    return ENTRY_OVERHEAD + (len(entry.item.body) if isinstance(entry.item, Event) else 0)

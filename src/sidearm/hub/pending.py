"""What a worker published while the hub was away or slow: waits here, bounded, in order.

The oldest goes first when there is too much: events carry the newest value, so the newest are worth
most. What goes is counted, and its channels are remembered until the hub has been told.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import NamedTuple

from .messages import Lost, encode

LOST_CHANNELS = 1000  # beyond it, every channel counts as having a gap


class Chunk(NamedTuple):
    """The events of one call of ``publish``, encoded for the hub.

    Attributes:
        data: The message.
        events: How many it holds.
        channels: The channels that they belong to; None: too many to name.
        since: When it was published (``time.monotonic()``).
    """

    data: bytes
    events: int
    channels: frozenset[str] | None
    since: float


class Pending:
    """A bounded queue of chunks. Not for several threads at once.

    Args:
        count: Events that may wait.
        size: Bytes that may wait.
        age: Seconds that they may wait.
    """

    def __init__(self, count: int, size: int, age: float) -> None:
        self._limits = (count, size, age)
        self._chunks: deque[Chunk] = deque()
        self._count = 0
        self._size = 0
        self._sent = 0
        #: Channels of dropped events, of which the hub has not been told; None: too many to name.
        self.lost: set[str] | None = set()
        #: When the last of them was dropped (``time.monotonic()``).
        self.lost_since = 0.0
        #: Whether a chunk was dropped of which the hub has a part: its connection is of no use.
        self.torn = False

    def __len__(self) -> int:
        return len(self._chunks)

    @property
    def has_work(self) -> bool:
        """Whether there is something to tell the hub."""
        return bool(self._chunks) or self.lost is None or bool(self.lost)

    def is_worth_a_thread(self, now: float) -> bool:
        """Whether something waits that must be told soon; old losses wait for the next event."""
        return bool(self._chunks) or (self.has_work and now - self.lost_since <= self._limits[2])

    def add(self, chunk: Chunk, now: float, sent: int = 0) -> Counter[str]:
        """Append a chunk, of which the hub may have its first bytes (only if nothing waited).

        Returns:
            How many events were dropped, by reason.
        """
        self._chunks.append(chunk)
        self._count += chunk.events
        self._size += len(chunk.data)
        self._sent = sent or self._sent
        return self.trim(now)

    def trim(self, now: float) -> Counter[str]:
        """Drop the oldest while a limit is passed; how many events went, by reason."""
        count, size, age = self._limits
        dropped: Counter[str] = Counter()
        while self._chunks:
            if self._count > count:
                reason = f"more than {count} events waited"
            elif self._size > size:
                reason = f"more than {size} bytes waited"
            elif now - self._chunks[0].since > age:
                reason = f"they waited for more than {age:g} seconds"
            else:
                break
            dropped[reason] += self._drop(now)
        return dropped

    def drop_all(self, reason: str, now: float) -> Counter[str]:
        """Drop everything."""
        dropped: Counter[str] = Counter()
        while self._chunks:
            dropped[reason] += self._drop(now)
        return dropped

    def head(self) -> memoryview:
        """The bytes of the oldest chunk that the hub does not have yet."""
        return memoryview(self._chunks[0].data)[self._sent :]

    def sent(self, size: int) -> None:
        """Note that the hub took so many bytes of :meth:`head`."""
        self._sent += size
        if self._sent == len(self._chunks[0].data):
            self._pop()

    def take(self, count: int, size: int) -> list[Chunk]:
        """Take the oldest chunks out, at least one: so many events and bytes, about."""
        taken: list[Chunk] = []
        while self._chunks and count > 0 and size > 0:
            chunk = self._pop()
            count -= chunk.events
            size -= len(chunk.data)
            taken.append(chunk)
        return taken

    def lose(self, channels: frozenset[str] | None, now: float) -> None:
        """Note that events of these channels will never come, and that the hub must hear of it."""
        self.lost_since = now
        if channels is None or self.lost is None:
            self.lost = None
        else:
            self.lost |= channels
            if len(self.lost) > LOST_CHANNELS:
                self.lost = None

    def take_lost(self, now: float) -> Chunk | None:
        """What to tell the hub of losses, as a chunk that stands for no event; None: nothing."""
        if self.lost is not None and not self.lost:
            return None
        channels = None if self.lost is None else frozenset(self.lost)
        self.lost = set()
        return Chunk(encode(Lost(tuple(sorted(channels or ())))), 0, channels, now)

    def begin_again(self) -> None:
        """Note that the connection is gone: what it has a part of must be sent whole."""
        self._sent = 0
        self.torn = False

    def _drop(self, now: float) -> int:
        self.torn = self.torn or self._sent > 0
        chunk = self._pop()
        self.lose(chunk.channels, now)
        return chunk.events

    def _pop(self) -> Chunk:
        chunk = self._chunks.popleft()
        self._count -= chunk.events
        self._size -= len(chunk.data)
        self._sent = 0
        return chunk

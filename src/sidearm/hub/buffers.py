"""How much memory holds what waits for slow subscribers.

Data that was sent to a whole group is one object, however many of its members wait for it, and so
is an event of the history: each counts once. So a thousand that never read cost little more than
one, and the bound is one of memory, not of the sum of what each of them misses.
"""

from __future__ import annotations

from typing import TypeAlias, cast

Part: TypeAlias = "bytes | memoryview"

# What one object costs beside its bytes: its own head, and its entry here.
OBJECT_OVERHEAD = 150  # bytes


class Buffers:
    """Counts the objects that somebody waits for.

    Attributes:
        size: Their bytes.
    """

    __slots__ = ("_holders", "size")

    def __init__(self) -> None:
        # By id: whoever waits for an object holds it, so no other can have its id.
        self._holders: dict[int, int] = {}
        self.size = 0

    def hold(self, part: Part) -> None:
        """Count one more that waits for this, or for a rest of it."""
        whole = _whole(part)
        holders = self._holders.get(id(whole), 0)
        self._holders[id(whole)] = holders + 1
        if not holders:
            self.size += len(whole) + OBJECT_OVERHEAD

    def release(self, part: Part) -> None:
        """Count one less."""
        whole = _whole(part)
        holders = self._holders.pop(id(whole)) - 1
        if holders:
            self._holders[id(whole)] = holders
        else:
            self.size -= len(whole) + OBJECT_OVERHEAD


def _whole(part: Part) -> bytes:
    """The object of which this is a part; a view here is always one of bytes."""
    return cast("bytes", part.obj) if isinstance(part, memoryview) else part

"""How many descriptors this process may have, and when they are about to run out."""

from __future__ import annotations

from . import platform

RESERVE = 64  # kept free for workers and for the hub itself


class Descriptors:
    """The process's table of descriptors.

    Attributes:
        limit: How many there may be.
    """

    def __init__(self) -> None:
        self.limit = 0
        self._ceiling = 0
        self.learn_limit()

    @property
    def reserve(self) -> int:
        """How many are kept free."""
        return self.limit - self._ceiling

    def learn_limit(self) -> None:
        """See how many there may be; somebody may change it (prlimit)."""
        self.limit = platform.raise_descriptor_limit()
        self._ceiling = self.limit - min(RESERVE, self.limit // 4)

    def are_scarce(self, newest: int) -> bool:
        """Whether the newest descriptor is one of the reserve.

        Descriptors are given out from the lowest free one, so a number tells how full it is.
        """
        if newest >= self._ceiling:
            self.learn_limit()
        return newest >= self._ceiling

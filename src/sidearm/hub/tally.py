"""What happened so far: all of it counted, some of it logged."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

WARNING_INTERVAL = 10.0  # seconds between two warnings of one kind

logger = logging.getLogger("sidearm.hub")


class Tally:
    """Counters with warnings.

    Attributes:
        counts: How often each thing has happened, by its name in the figures.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys(
            (
                "opened",
                "published",
                "refused_streams",
                "refused_descriptors",
                "lost_descriptors",
                "refused_events",
                "refused_connections",
                "gaps",
                "takeovers",
            ),
            0,
        )
        self._warned: dict[str, float] = {}

    def warn(self, kind: str, text: str, *values: object) -> None:
        """Log a warning, unless one of its kind was just logged: the counters know them all."""
        now = time.monotonic()
        if now - self._warned.get(kind, -WARNING_INTERVAL) >= WARNING_INTERVAL:
            self._warned[kind] = now
            logger.warning(text, *values)

    def restore(self, counts: Mapping[str, int]) -> None:
        """Go on counting where a predecessor stopped; what it alone counts is left out."""
        self.counts.update((name, counts[name]) for name in self.counts.keys() & counts.keys())

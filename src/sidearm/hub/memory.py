"""A hub in the process: a log, and nothing else. For tests and for an application without streams.

No socket, no thread: what is published is in the log when the call returns. There is nobody to
hand a client's socket to, so streams are answered by polling.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Iterable

from . import opening
from .closing import Closings
from .config import HubConfig
from .log import Log
from .messages import Fetch, Figures, Handoff, PublishedEvent


class MemoryHub:
    """The interface of :class:`~sidearm.hub.client.HubClient` on a log in this process.

    Args:
        config: How much is kept; its socket is not used.
    """

    follows_broker = False

    def __init__(self, config: HubConfig | None = None) -> None:
        self._log = Log(config or HubConfig(socket=""))
        self._closings = Closings()
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._published = 0
        self._gaps = 0

    def position(self) -> str:
        """Now, as a position in the log."""
        return self.position_at(time.monotonic_ns())

    def position_at(self, monotonic_ns: int) -> str:
        """A reading of ``time.monotonic_ns()`` as a position in the log."""
        return self._log.clock.text_at(monotonic_ns)

    def place_at(self, monotonic_ns: int) -> str:
        """The same: there is no other log."""
        return self.position_at(monotonic_ns)

    def publish(self, events: Iterable[PublishedEvent], ends: Collection[int] = ()) -> None:
        """Append ``(channel, body, keep)`` in order. Who is not there misses what is not kept.

        Args:
            events: The events.
            ends: Which of them, by index, are the last of their channel.
        """
        with self._lock:
            for number, (channel, body, keep) in enumerate(events):
                self._log.append(channel, body, keep)
                self._published += 1
                if number in ends:
                    self._log.end(channel)

    def close_streams(self, tag: str, channels: tuple[str, ...] = ()) -> None:
        """End the streams with a tag, or take channels from them."""
        time_ns = time.monotonic_ns() + self._log.clock.offset
        with self._lock:
            self._closings.add(tag, channels, time_ns, self._log.mark())

    def handoff(self, message: Handoff, descriptor: int) -> bool:  # noqa: ARG002
        """Decline: a client's socket needs a hub with a process of its own."""
        return False

    def fetch(self, message: Fetch) -> bytes:
        """All frames that are due now for a polled stream."""
        with self._lock:
            start = opening.all_due(self._log, self._closings, message)
            self._gaps += start.gap is not None
            return b"".join(start.parts)

    def stats(self) -> Figures:
        """The figures of this log; what only a hub with subscribers has is zero."""
        with self._lock:
            return Figures(
                epoch=self._log.clock.epoch,
                pid=os.getpid(),
                uptime=time.monotonic() - self._began,
                history_events=len(self._log),
                history_bytes=self._log.size,
                published=self._published,
                gaps=self._gaps,
            )

    def close(self, flush_seconds: float = 1.0) -> None:
        """Do nothing: there is nothing to give back."""

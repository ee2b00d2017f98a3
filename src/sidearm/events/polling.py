"""One answer of a stream that is polled (contract H2): what is due, when to come back, the end.

A blocking worker is never held by a stream. Where the client's socket cannot be handed over, the
answer is a whole ``text/event-stream`` that ends: every ``EventSource`` comes back by itself after
``retry`` milliseconds, with the last id that it saw. So nothing is missed, only later.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

from ..hub.eventstream import retry_field
from ..hub.messages import Fetch, Handoff

if TYPE_CHECKING:
    from ..hub.client import HubClient
    from ..hub.memory import MemoryHub
    from ..settings import Settings

POLL_INTERVAL = 2000  # milliseconds, as the field
LONGEST_TURN = 60.0  # seconds


def poll(hub: HubClient | MemoryHub, settings: Settings, opening: Handoff) -> bytes:
    """Answer one poll; with the hub away nothing is due, and clients come back spread out."""
    body = None
    # Without a position the hub was away when the view looked. It may be back with a new log, but
    # from where in it this client has to hear is unknown; its next request tells.
    if opening.position is not None:
        body = hub.fetch(
            Fetch(
                channels=opening.channels,
                position=opening.position,
                last_event_id=opening.last_event_id,
                snapshot=opening.snapshot,
                retry=POLL_INTERVAL if opening.retry is None else opening.retry,
                replay=opening.replay,
                tags=opening.tags,
            )
        )
    if body is None:
        wait = spread_out(opening.retry, settings)
        return retry_field(_turns.wait(wait, settings.reconnect_rate))
    return body


class Turns:
    """Has clients come back one after another while the hub is away, so many in a second.

    With few clients each waits as long as it would; with many, the last of them waits until all
    others have had their turn. How many there are need not be known.
    """

    def __init__(self) -> None:
        self._last = 0.0
        self._lock = threading.Lock()

    def wait(self, least: int, rate: float) -> int:
        """Give one client its turn; how long it waits for it (ms).

        Args:
            least: It waits at least so long (ms).
            rate: Clients in a second; 0: any number.
        """
        if not rate:
            return least
        with self._lock:
            now = time.monotonic()
            self._last = min(max(now, self._last) + 1 / rate, now + LONGEST_TURN)
            return max(least, round((self._last - now) * 1000))


_turns = Turns()


def spread_out(retry: int | None, settings: Settings) -> int:
    """Return a reconnection time (ms) that no other stream has.

    Ten thousand clients that lose their streams together must not come back together.

    Args:
        retry: What the view asked for, if it did.
        settings: The bounds.
    """
    least = settings.retry * 1000 if retry is None else retry
    return round(least + random.random() * settings.retry_spread * 1000)  # noqa: S311 - no secret

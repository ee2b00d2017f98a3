"""Asks Redis for a log as so many hubs do, and does nothing with it.

What Redis does for fifty hubs can be measured where fifty hubs have no room. Run as a program, with
the URL, the key, how many, and a channel; it says "read" each time when all of them have read an
event of that channel.
"""

from __future__ import annotations

import asyncio
import sys
import time

from sidearm.brokers import Broker, Event, Limits, open_broker
from sidearm.hub.following import GATHER, GATHER_COUNT, WAIT


class Readers:
    """So many readers.

    Args:
        broker: Where the log is.
        count: How many.
        end: The channel of what is told.
    """

    def __init__(self, broker: Broker, count: int, end: str) -> None:
        self._broker = broker
        self._count = count
        self._end = end
        self._at_end = 0

    async def run(self) -> None:
        """Read for ever."""
        await asyncio.gather(*(self._read() for _ in range(self._count)))

    async def _read(self) -> None:
        reader = self._broker.reader()
        last, arrived = (await reader.head()).last, 0.0
        while True:
            entries = await reader.read(last, WAIT)
            if not entries:
                await reader.head()
                continue
            last = entries[-1].position
            now = time.monotonic()
            is_dense = now - arrived < 2 * GATHER and len(entries) < GATHER_COUNT
            arrived = now
            for entry in entries:
                if isinstance(entry.item, Event) and entry.item.channel == self._end:
                    self._at_end += 1
            if self._at_end == self._count:
                self._at_end = 0
                print("read", flush=True)
            await asyncio.sleep(GATHER if is_dense else 0)


def main() -> None:
    """Read what the arguments name."""
    _, url, key, count, end = sys.argv
    asyncio.run(Readers(open_broker(url, key, Limits(0, 0)), int(count), end).run())


if __name__ == "__main__":
    main()

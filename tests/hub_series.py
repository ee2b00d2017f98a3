"""Hubs that take over from one another while somebody publishes."""

from __future__ import annotations

import itertools
import sys
import threading
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from hub_streams import PATIENCE, event, wait_for

from sidearm.hub.config import HubConfig
from sidearm.testing import HubServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidearm.hub.client import HubClient


class Hubs:
    """One hub after the other on one socket; each takes over from the one before."""

    def __init__(self, folder: str, **settings: Any) -> None:
        self.config = HubConfig(socket=f"{folder}/hub.sock", **settings)
        self._servers = ExitStack()
        self.current = self._start()

    def start(self) -> None:
        """Start a hub where the one before has died."""
        self.current = self._start()

    def replace(self) -> HubServer:
        """Start a hub that takes over, and wait until the old one has ended."""
        old, self.current = self.current, self._start("--replace")
        wait_for(self.config.socket, lambda figures: figures.pid == self.current.pid)
        assert old.wait_for_exit(PATIENCE) == 0
        return old

    def close(self) -> None:
        self._servers.close()

    def _start(self, *arguments: str) -> HubServer:
        class Next(HubServer):
            def command(self) -> list[str]:
                program = [sys.executable, "-m", "sidearm.hub", "--log-level", "INFO"]
                return [*program, *arguments, self.config.to_json()]

        return self._servers.enter_context(Next(lambda _: self.config, start_timeout=PATIENCE))


@contextmanager
def publishing(hub: HubClient) -> Iterator[Callable[[], int]]:
    """Publish numbers from 0 up, ten in a second; gives a stop that tells how many."""
    stopping = threading.Event()
    published = itertools.count()
    count = 0

    def publish() -> None:
        nonlocal count
        while not stopping.wait(0.1):
            hub.publish([event("a", next(published))])
            count += 1

    thread = threading.Thread(target=publish)
    thread.start()

    def stop() -> int:
        stopping.set()
        thread.join()
        return count

    try:
        yield stop
    finally:
        stop()

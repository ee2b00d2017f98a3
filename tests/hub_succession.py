"""Hubs that follow each other on one socket, as processes."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from hub_streams import PATIENCE, wait_for

from sidearm.hub.config import HubConfig
from sidearm.testing import HubServer


class Succession:
    """One hub after the other.

    Args:
        folder: A private one, with a short path.
        settings: Of the hub.

    Attributes:
        config: What the first was started with, and those that get no settings of their own.
        path: The socket.
        current: The hub that was started last.
    """

    def __init__(self, folder: str, **settings: Any) -> None:
        self.path = f"{folder}/hub.sock"
        self.config = HubConfig(socket=self.path, **settings)
        self._servers = ExitStack()
        self.current = self._start(self.config)

    def start_replacement(self, **settings: Any) -> None:
        """Start a hub that takes over, with these settings or the first one's."""
        config = HubConfig(socket=self.path, **settings) if settings else self.config
        self._old, self.current = self.current, self._start(config, "--replace")

    def wait_until_replaced(self) -> None:
        """Wait until it serves, and the old one has ended."""
        wait_for(self.path, lambda figures: figures.pid == self.current.pid)
        assert self._old.wait_for_exit(PATIENCE) == 0

    def replace(self) -> HubServer:
        """Start a hub that takes over, and wait until the old one has ended; gives the old one."""
        self.start_replacement()
        self.wait_until_replaced()
        return self._old

    def kill(self) -> None:
        """End it without a word (SIGKILL)."""
        self.current.kill()

    def start_anew(self) -> None:
        """Start a hub that knows of no other."""
        self.current = self._start(self.config)

    def close(self) -> None:
        """End them all."""
        self._servers.close()

    def _start(self, config: HubConfig, *arguments: str) -> HubServer:
        class Next(HubServer):
            def command(self) -> list[str]:
                program = [sys.executable, "-m", "sidearm.hub", "--log-level", "INFO"]
                return [*program, *arguments, config.to_json()]

        return self._servers.enter_context(Next(lambda _: config, start_timeout=PATIENCE))

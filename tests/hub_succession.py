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
        settings: Of the first, and of those that get none of their own.

    Attributes:
        path: The socket.
        current: The hub that was started last.
    """

    def __init__(self, folder: str, **settings: Any) -> None:
        self.path = f"{folder}/hub.sock"
        self._settings = settings
        self._servers = ExitStack()
        self.current = self._start(settings)

    def start_replacement(self, **settings: Any) -> None:
        """Start a hub that takes over."""
        self._old, self.current = self.current, self._start(settings, "--replace")

    def wait_until_replaced(self) -> None:
        """Wait until it serves, and the old one has ended."""
        wait_for(self.path, lambda figures: figures.pid == self.current.pid)
        assert self._old.wait_for_exit(PATIENCE) == 0

    def kill(self) -> None:
        """End it without a word (SIGKILL)."""
        self.current.kill()

    def start_anew(self) -> None:
        """Start a hub that knows of no other."""
        self.current = self._start({})

    def close(self) -> None:
        """End them all."""
        self._servers.close()

    def _start(self, settings: dict[str, Any], *arguments: str) -> HubServer:
        config = HubConfig(socket=self.path, **(settings or self._settings))

        class Next(HubServer):
            def command(self) -> list[str]:
                return [sys.executable, "-m", "sidearm.hub", *arguments, config.to_json()]

        return self._servers.enter_context(Next(lambda _: config, start_timeout=PATIENCE))

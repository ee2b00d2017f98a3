"""A log of each kind with hubs on it, for the tests of what every broker promises."""

from __future__ import annotations

import secrets
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from hub_streams import wait_for_hub

from sidearm.brokers import HUB, open_broker
from sidearm.hub.client import HubClient
from sidearm.hub.config import HubConfig
from sidearm.hub.publisher import Publisher
from sidearm.testing import HubServer

if TYPE_CHECKING:
    from typing import Self


class _Replacement(HubServer):
    def command(self) -> list[str]:
        return [*super().command(), "--replace"]


class Site:
    """Hubs and workers that share one log.

    Args:
        url: Of the broker, or of the hub's own log.
        settings: Of every hub.

    Attributes:
        key: What the broker's keys begin with: no two sites have the same.
        dropped: What workers have given up: how many events, and why.
    """

    def __init__(self, url: str = HUB, **settings: Any) -> None:
        self.url = url
        self.key = f"test-{secrets.token_hex(4)}"
        self.settings = {"heartbeat": 0, "broker": url, "broker_key": self.key, **settings}
        self.dropped: list[tuple[int, str]] = []
        self._hubs: list[HubServer] = []
        self._open = ExitStack()

    def hub(self, **settings: Any) -> HubServer:
        """Start a hub."""
        chosen = {**self.settings, **settings}
        server = HubServer(lambda path: HubConfig(socket=path, **chosen))
        self._hubs.append(server)
        return self._open.enter_context(server)

    def hub_at(self, socket_path: str) -> HubServer:
        """The hub with a socket."""
        return next(hub for hub in self._hubs if hub.socket_path == socket_path)

    def replace(self, hub: HubServer) -> HubServer:
        """Start a hub that takes over from another."""
        config = hub.config
        new = _Replacement(lambda _: config)
        return self._open.enter_context(new)

    def worker(self, hub: HubServer, **options: Any) -> HubClient:
        """A worker on a hub's machine, which has found it."""
        publisher = None
        if self.url != HUB:
            config = hub.config
            broker = open_broker(self.url, self.key, config.broker_limits())
            publisher = Publisher(
                broker, on_drop=lambda *drop: self.dropped.append(drop), **options
            )
        client = HubClient(hub.socket_path, publisher=publisher)
        self._open.callback(client.close, 0.1)
        wait_for_hub(client)
        return client

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

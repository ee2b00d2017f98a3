"""A log of each kind with hubs on it, for the tests of what every broker promises."""

from __future__ import annotations

import itertools
import secrets
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from hub_streams import PATIENCE, PAUSE, wait_for_hub

from sidearm.brokers import HUB, open_broker
from sidearm.hub.client import HubClient
from sidearm.hub.config import HubConfig
from sidearm.hub.publisher import Publisher
from sidearm.testing import HubServer

if TYPE_CHECKING:
    from typing import Self


class Replacement(HubServer):
    """A hub that takes over from the one that serves its socket."""

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
        new = Replacement(lambda _: config)
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


class Row(Site):
    """Hubs of one machine that share its streams: the first, which leads, has the log.

    Attributes:
        leader: It runs from the beginning; :meth:`hub` starts one that follows.
    """

    def __init__(self, hubs: int = 4, **settings: Any) -> None:
        super().__init__(hubs=hubs, **settings)
        self.leader: HubServer

    def hub(self, **settings: Any) -> HubServer:
        """Start the next hub."""
        number, chosen = len(self._hubs), {**self.settings, **settings}

        def make_config(socket_path: str) -> HubConfig:
            first = self.leader.socket_path if number else socket_path
            return HubConfig(socket=first, **chosen).of(number)

        server = HubServer(make_config)
        self._hubs.append(server)
        return self._open.enter_context(server)

    def worker(self, hub: HubServer, **options: Any) -> HubClient:
        """A worker whose streams all go to one hub, as long as that is there."""
        client = HubClient(
            self.leader.socket_path, on_drop=lambda *drop: self.dropped.append(drop), **options
        )
        self._open.callback(client.close, 0.1)
        client._turns = itertools.repeat(hub.config.number)
        deadline = time.monotonic() + PATIENCE
        while client.path_of(client.position()) != hub.socket_path:
            assert time.monotonic() < deadline, f"No stream would go to {hub.socket_path!r}."
            time.sleep(PAUSE)
        return client

    def __enter__(self) -> Self:
        self.leader = self.hub()
        return self

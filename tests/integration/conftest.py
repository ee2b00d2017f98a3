"""A hub for tests that need no settings of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hub_streams import wait_for, wait_for_hub

from sidearm.hub.client import HubClient
from sidearm.hub.config import HubConfig
from sidearm.testing import HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def hub_server() -> Iterator[HubServer]:
    """One hub process, without heartbeats, for the tests of a module."""
    with HubServer(lambda path: HubConfig(socket=path, heartbeat=0)) as server:
        yield server


@pytest.fixture
def hub(hub_server: HubServer) -> Iterator[HubClient]:
    """A worker's end of the hub's socket; nobody listens yet."""
    wait_for(hub_server.socket_path, lambda figures: not figures.subscribers)
    client = HubClient(hub_server.socket_path)
    wait_for_hub(client)
    yield client
    client.close()

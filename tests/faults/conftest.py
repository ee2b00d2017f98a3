"""Hubs that take over from one another, and room for thousands of clients."""

from __future__ import annotations

import resource
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hub_streams import wait_for_hub
from hub_succession import Succession

from sidearm.hub.client import HubClient

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def folder() -> Iterator[str]:
    """A private folder, whose path is short enough for a socket."""
    with TemporaryDirectory(prefix="sa-") as folder:
        yield folder


@pytest.fixture
def heartbeat() -> float:
    """Seconds between two heartbeats of :func:`hubs`; none."""
    return 0


@pytest.fixture
def hubs(folder: str, heartbeat: float) -> Iterator[Succession]:
    """The first hub of several."""
    hubs = Succession(folder, heartbeat=heartbeat)
    yield hubs
    hubs.close()


@pytest.fixture
def hub(hubs: Succession) -> Iterator[HubClient]:
    """A worker's end of the hub's socket."""
    client = HubClient(hubs.path)
    wait_for_hub(client)
    yield client
    client.close(flush_seconds=0)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """As many as this process may have: each client is one descriptor of the tests, too."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)

"""Contract H6 on a real server: how long clients are told to wait follows how many there are."""

from __future__ import annotations

import itertools
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hub_streams import PATIENCE

from sidearm.exceptions import SettingError
from sidearm.hub.config import HubConfig
from sidearm.hub.eventstream import Parser
from sidearm.settings import Settings
from sidearm.testing import EventSource, GunicornServer, HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator

APPS = Path(__file__).parent.parent / "apps"
START_TIMEOUT = 60.0  # seconds, on a machine that does much else
OWN = 100  # milliseconds: the longest wait that the application asks for
RATE = 0.000001  # a second: one stream more makes the range a million seconds wide


@contextmanager
def deployment(app: str) -> Iterator[tuple[HubServer, GunicornServer]]:
    """A hub for which every stream is one too many, and a worker that has met it."""
    with (
        HubServer(
            lambda path: HubConfig(socket=path, retry_spread=0.05, reconnect_rate=RATE),
            start_timeout=START_TIMEOUT,
        ) as hub,
        GunicornServer(
            app,
            cwd=APPS,
            env={"SIDEARM_SOCKET": hub.socket_path},
            start_timeout=START_TIMEOUT,
        ) as server,
    ):
        # A worker that has not met the hub yet has its first streams polled.
        server.wait_until(lambda: _is_handed_over(server.url, hub), PATIENCE, "a hand-off")
        yield hub, server


def test_h6_the_second_stream_waits_longer_than_the_first_would() -> None:
    """The worker tells the hub from where on it may count, and the hub knows how many there are."""
    with deployment("ending:app") as (hub, server):
        hub.wait_until(lambda: hub.hub_figures().subscribers == 0, PATIENCE, "nobody")
        with (
            EventSource(f"{server.url}/streams/a", timeout=PATIENCE) as first,
            EventSource(f"{server.url}/streams/a", timeout=PATIENCE) as second,
        ):
            hub.wait_until(lambda: hub.hub_figures().subscribers == 2, PATIENCE, "both")
            urllib.request.urlopen(f"{server.url}/publish/a", b"now", PATIENCE).close()
            assert first.next_event().data == second.next_event().data == "now"
            assert 50 <= (first.retry or 0) <= OWN
            assert (second.retry or 0) > OWN  # by chance not, once in twenty millions


def test_h6_a_wait_that_the_view_names_stays_as_it_is() -> None:
    """Among many, too."""
    with (
        deployment("streams:app") as (hub, server),
        EventSource(f"{server.url}/streams/a", timeout=PATIENCE),
    ):
        hub.wait_until(lambda: hub.hub_figures().subscribers >= 1, PATIENCE, "a first stream")
        with EventSource(f"{server.url}/snapshots/a", timeout=PATIENCE) as source:
            # The snapshot follows whatever the hub says first.
            assert source.next_event().event == "snapshot"
            assert source.retry == 1234


def test_h6_while_the_hub_is_away_clients_come_back_one_after_another() -> None:
    """Each answer of a worker names a later turn than the one before."""
    env = {"TESTED_SIDEARM_RECONNECT_RATE": "0.1"}
    with GunicornServer("ending:app", cwd=APPS, env=env, start_timeout=START_TIMEOUT) as server:
        waits = []
        for _ in range(4):
            with urllib.request.urlopen(f"{server.url}/streams/a", timeout=PATIENCE) as response:
                parser = Parser("")
                parser.feed(response.read())
                waits.append(parser.retry or 0)
    # Ten seconds apart, less what has passed between the requests.
    assert waits[0] <= 10_000
    assert all(later <= wait + 10_001 for wait, later in itertools.pairwise(waits))
    assert waits[3] > OWN


@pytest.mark.parametrize("value", ["fast", -1, float("nan"), float("inf"), True, None])
def test_h6_a_wrong_rate_is_an_error_at_the_start(value: object) -> None:
    """By its name, with what to give instead."""
    with pytest.raises(SettingError, match=r"SIDEARM_RECONNECT_RATE is .*a number for each second"):
        Settings.from_config({"SIDEARM_RECONNECT_RATE": value})


def _is_handed_over(url: str, hub: HubServer) -> bool:
    before = hub.hub_figures().opened
    with urllib.request.urlopen(f"{url}/streams/a", timeout=PATIENCE) as response:
        response.read(1)
    return hub.hub_figures().opened > before

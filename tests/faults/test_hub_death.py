"""Contract H6: the hub is killed under a site; every client comes back and knows its place."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browsers import PATIENCE, Browser, Browsers

from sidearm.testing import UpServer

if TYPE_CHECKING:
    from collections.abc import Iterator

APPS = Path(__file__).parent.parent / "apps"
CLIENTS = int(os.environ.get("DEATH_CLIENTS", "500"))


class Requests:
    """Publishes by steady requests of the application, and counts what comes of them."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered = 0
        self.failures: list[str] = []
        self._thread.start()

    def stop(self) -> int:
        self._stopping.set()
        self._thread.join()
        return self.answered

    def _run(self) -> None:
        while not self._stopping.wait(0.02):
            try:
                url = f"{self._url}/publish/{self.answered}"
                with urllib.request.urlopen(url, b"", PATIENCE) as response:
                    assert response.read() == b"published"
                self.answered += 1
            except OSError as error:
                self.failures.append(repr(error))


@pytest.fixture
def site(tmp_path: Path, many_descriptors: None) -> Iterator[UpServer]:
    (tmp_path / "version").write_text("1")
    env = {"SITE_FOLDER": str(tmp_path), "PYTHONPATH": str(APPS)}
    with UpServer("whole_site:app", cwd=APPS, env=env, start_timeout=PATIENCE) as site:
        yield site


def test_h6_killed_hub_costs_no_request_and_no_client_its_place(site: UpServer) -> None:
    """All come back; each has every event, or the gap event where some may be missing."""
    browsers = Browsers()
    requests = Requests(site.url)
    try:
        browsers.open(site.url, "/stream", CLIENTS)
        browsers.run(lambda: all(browser.is_open and browser.events for browser in browsers.all))
        _have_all_get_some(browsers, requests)
        os.kill(site.hub_figures().pid, signal.SIGKILL)
        killed = time.monotonic()
        browsers.run(
            lambda: all(
                browser.connections >= 2 and browser.is_open and _has_gap(browser)
                for browser in browsers.all
            )
        )
        spread = max(browser.parser.retry or 0 for browser in browsers.all) / 1000
        sys.stderr.write(
            f"{CLIENTS} clients: back {time.monotonic() - killed:.1f} s later. They were told to"
            f" wait for {spread:.1f} s at most.\n"
        )
        _have_all_get_some(browsers, requests)
    finally:
        requests.stop()
        browsers.close()
    assert requests.failures == []
    for browser in browsers.all:
        # The order between two workers' events is that of their arrival.
        numbers = [event.data for event in browser.events if event.event == "message"]
        assert len(numbers) == len(set(numbers)), "an event came twice"


def _have_all_get_some(browsers: Browsers, requests: Requests) -> None:
    """Wait until each browser has every one of some events in a row, published from now on."""
    first = requests.answered + 1  # the one under way may have been published before
    browsers.run(lambda: requests.answered >= first + 5)
    wanted = {str(n) for n in range(first, requests.answered)}
    late = browsers.all

    def all_have() -> bool:
        nonlocal late
        late = [each for each in late if not wanted <= {event.data for event in each.events}]
        return not late

    browsers.run(all_have)


def _has_gap(browser: Browser) -> bool:
    return any(event.event == "sidearm:gap" for event in browser.events)

"""Contract H6: the hub is killed under a site; every client comes back and knows its place."""

from __future__ import annotations

import heapq
import os
import selectors
import signal
import socket
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidearm.hub.eventstream import Event, Parser
from sidearm.testing import UpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APPS = Path(__file__).parent.parent / "apps"
CLIENTS = int(os.environ.get("DEATH_CLIENTS", "500"))
PATIENCE = 120.0  # seconds


class Browser:
    """One EventSource: comes back after ``retry`` with its last id, as the HTML standard says.

    Attributes:
        events: What it was sent, over all connections.
        connections: How many it has had.
        is_open: Whether it has one whose head has come.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.connections = 0
        self.is_open = False
        self.parser = Parser()
        self.head = b""
        self.socket: socket.socket | None = None

    def connect(self, port: int) -> socket.socket:
        """Ask for the stream."""
        self.connections += 1
        self.head, self.is_open = b"", False
        last = self.parser.last_event_id
        self.parser = Parser(last, retry=self.parser.retry)
        self.socket = socket.create_connection(("127.0.0.1", port))
        header = f"Last-Event-ID: {last}\r\n" if last else ""
        request = f"GET /stream HTTP/1.1\r\nHost: localhost\r\n{header}\r\n"
        self.socket.sendall(request.encode())
        self.socket.setblocking(False)
        return self.socket

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        if not self.is_open:
            self.head += data
            head, end, data = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            # Any other status ends a plain EventSource for good.
            assert head.startswith(b"HTTP/1.1 200 "), head
            assert b"text/event-stream" in head
            self.is_open = True
        self.events += self.parser.feed(data)


class Browsers:
    """Many of them in one thread."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int]] = []
        self.all = [Browser() for _ in range(count)]
        for number in range(count):
            self._connect(number)

    def run(self, until: Callable[[], bool]) -> None:
        """Read, and come back, until a condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not until():
            assert time.monotonic() < deadline, (
                f"{sum(browser.is_open for browser in self.all)} of {len(self.all)} are there."
            )
            while self._due and self._due[0][0] <= time.monotonic():
                self._connect(heapq.heappop(self._due)[1])
            for key, _ in self._selector.select(0.02):
                self._read(key.data)

    def close(self) -> None:
        self._selector.close()
        for browser in self.all:
            if browser.socket is not None:
                browser.socket.close()

    def _connect(self, number: int) -> None:
        try:
            end = self.all[number].connect(self._port)
        except OSError:
            self._come_back(number)
            return
        self._selector.register(end, selectors.EVENT_READ, number)

    def _read(self, number: int) -> None:
        browser = self.all[number]
        assert browser.socket is not None
        try:
            data = browser.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if data:
            browser.feed(data)
            return
        self._selector.unregister(browser.socket)
        browser.socket.close()
        browser.is_open = False
        self._come_back(number)

    def _come_back(self, number: int) -> None:
        retry = self.all[number].parser.retry or 1000
        heapq.heappush(self._due, (time.monotonic() + retry / 1000, number))


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
    browsers = Browsers(site.port, CLIENTS)
    requests = Requests(site.url)
    try:
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

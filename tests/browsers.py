"""Many browsers with one stream each, which come back as the HTML standard says."""

from __future__ import annotations

import heapq
import selectors
import socket
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sidearm.hub.eventstream import Event, Parser

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 120.0  # seconds


class Browser:
    """One EventSource: comes back after ``retry`` with its last id, as the HTML standard says.

    Args:
        url: Of the site.
        path: Of the stream.
        like: One whose place in the stream it takes over, with all that it has heard.

    Attributes:
        events: What it was sent, over all connections.
        connections: How many it has had.
        is_open: Whether it has one whose head has come.
        is_over: Whether it was told by 204 not to come back.
    """

    def __init__(self, url: str, path: str, like: Browser | None = None) -> None:
        parts = urlsplit(url)
        self._address = (str(parts.hostname), int(parts.port or 80))
        self._path = path
        self.events: list[Event] = list(like.events) if like else []
        self.connections = 0
        self.is_open = self.is_over = False
        self.parser = Parser(like.parser.last_event_id if like else "")
        self.head = b""
        self.socket: socket.socket | None = None

    def connect(self) -> socket.socket:
        """Ask for the stream."""
        self.connections += 1
        self.head, self.is_open = b"", False
        last = self.parser.last_event_id
        self.parser = Parser(last, retry=self.parser.retry)
        self.socket = socket.create_connection(self._address)
        header = f"Last-Event-ID: {last}\r\n" if last else ""
        request = f"GET {self._path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n"
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
            if head.startswith(b"HTTP/1.1 204 "):
                self.is_over = True
                return
            # So does any other status, and none is due.
            assert head.startswith(b"HTTP/1.1 200 "), head
            assert b"text/event-stream" in head
            self.is_open = True
        self.events += self.parser.feed(data)


class Browsers:
    """Many of them in one thread.

    Attributes:
        all: Each of them.
    """

    def __init__(self) -> None:
        self.all: list[Browser] = []
        self._selector = selectors.DefaultSelector()
        self._due: list[tuple[float, int]] = []

    def open(
        self, url: str, path: str, count: int = 1, like: Browser | None = None
    ) -> list[Browser]:
        """Let some more come, with the arguments of each."""
        new = [Browser(url, path, like) for _ in range(count)]
        self.all += new
        for number in range(len(self.all) - count, len(self.all)):
            self._connect(number)
        return new

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
        """Let all of them leave."""
        self._selector.close()
        for browser in self.all:
            if browser.socket is not None:
                browser.socket.close()

    def _connect(self, number: int) -> None:
        try:
            end = self.all[number].connect()
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
        if not browser.is_over:
            self._come_back(number)

    def _come_back(self, number: int) -> None:
        retry = self.all[number].parser.retry or 1000
        heapq.heappush(self._due, (time.monotonic() + retry / 1000, number))

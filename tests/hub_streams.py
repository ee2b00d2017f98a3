"""What the tests of the hub share: its clients' end of a stream, and waiting by its figures."""

from __future__ import annotations

import itertools
import select
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sidearm.hub.client import HubClient, ask_figures
from sidearm.hub.eventstream import Event, Parser, encode_body
from sidearm.hub.messages import Figures, Handoff, PublishedEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Self

PATIENCE = 30.0  # seconds; every wait ends
PAUSE = 0.02  # seconds between two questions
# Smaller ones would wait for delayed acknowledgements.
SMALL = 32_768  # bytes


def event(channel: str, data: Any, *, keep: bool = True) -> PublishedEvent:
    """An event as a worker publishes it."""
    return channel, encode_body(data), keep


def figures_of(socket_path: str) -> Figures:
    """A hub's figures, with more patience than a person has."""
    return ask_figures(socket_path, PATIENCE)


def wait_for(socket_path: str, condition: Callable[[Figures], bool]) -> Figures:
    """Ask a hub for its figures until they fulfil a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition(figures := figures_of(socket_path)):
        assert time.monotonic() < deadline, f"Waited in vain; the figures are {figures}."
        time.sleep(PAUSE)
    return figures


def wait_for_hub(hub: HubClient) -> str:
    """Wait until the hub is there, and return a position of now.

    A request waits for a quarter of a second at most, and a busy machine may take longer.
    """
    deadline = time.monotonic() + PATIENCE
    while (position := hub.position()) is None:
        assert time.monotonic() < deadline, f"No hub came up on {hub.socket_path!r}."
        time.sleep(PAUSE)
    return position


class Stream:
    """A browser's end of a stream: a TCP connection whose other end goes to the hub."""

    def __init__(self, hub: HubClient, *channels: str, small: bool = False, **fields: Any) -> None:
        """Open it as a worker does.

        Args:
            hub: The worker's end of the hub's socket.
            channels: What to listen to.
            small: Whether the kernel's buffers are to be small, so that they are soon full.
            fields: More of :class:`~sidearm.hub.messages.Handoff`.
        """
        place = wait_for_hub(hub)
        fields.setdefault("position", place)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            if small:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
            self.socket = socket.socket()
            if small:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
            self.socket.connect(listener.getsockname())
            served, _ = listener.accept()
        with served:
            deadline = time.monotonic() + PATIENCE
            while not hub.handoff(Handoff(channels, **fields), served.fileno()):
                assert time.monotonic() < deadline, "The hub takes no client."
                time.sleep(PAUSE)
        self.raw = b""
        self.parser = Parser(fields.get("last_event_id") or "")
        self._events: list[Event] = []

    def read(self, patience: float = PATIENCE, limit: int = 1 << 16) -> bytes:
        """The next bytes, up to a limit; ``b""`` at the end of the stream."""
        self.socket.settimeout(patience)
        try:
            data = self.socket.recv(limit)
        except ConnectionResetError:
            data = b""
        self.raw += data
        self._events += self.parser.feed(data)
        return data

    def events(self, count: int) -> list[Event]:
        """The next so many events."""
        deadline = time.monotonic() + PATIENCE
        while len(self._events) < count:
            assert time.monotonic() < deadline, f"{count} events are due: {self._events}"
            assert self.read(), f"The stream ended after {self._events} and {self.raw[-200:]!r}."
        events, self._events = self._events[:count], self._events[count:]
        return events

    def data(self, count: int) -> list[str]:
        """The data of the next so many events."""
        return [event.data for event in self.events(count)]

    def read_until(self, condition: Callable[[Self], bool]) -> None:
        """Read until a condition holds."""
        deadline = time.monotonic() + PATIENCE
        while not condition(self):
            assert time.monotonic() < deadline
            assert self.read(), f"The stream ended with {self.raw[-200:]!r}."

    def rest(self) -> list[Event]:
        """All events up to the stream's end."""
        while self.read():
            continue
        return self.pending_events()

    def pending_events(self) -> list[Event]:
        """The events that were read already, and not asked for yet."""
        events, self._events = self._events, []
        return events

    def is_quiet(self, seconds: float) -> bool:
        """Whether nothing comes for some time."""
        return not self._events and not select.select([self.socket], [], [], seconds)[0]

    def close(self) -> None:
        """Go away, like a browser whose tab is closed."""
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def publish_all(hub: HubClient, events: Iterable[PublishedEvent]) -> None:
    """Publish, and wait until the hub has every event, and the one with the next stream too."""
    batch = list(events)
    paths = {hub.socket_path, hub.path_of(hub.position())}
    expected = {path: figures_of(path).published + len(batch) for path in paths}
    hub.publish(batch)
    for path, count in expected.items():
        wait_for(path, lambda figures, count=count: figures.published >= count)


@contextmanager
def publishing(hub: HubClient, channel: str = "a") -> Iterator[Callable[[], int]]:
    """Publish numbers from 0 up, ten in a second; gives a stop that tells how many."""
    stopping = threading.Event()
    published = itertools.count()
    count = 0

    def publish() -> None:
        nonlocal count
        while not stopping.wait(0.1):
            hub.publish([event(channel, next(published))])
            count += 1

    thread = threading.Thread(target=publish)
    thread.start()

    def stop() -> int:
        stopping.set()
        thread.join()
        return count

    try:
        yield stop
    finally:
        stop()

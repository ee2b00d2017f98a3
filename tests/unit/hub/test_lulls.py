"""Hand-offs in quick succession, with a real hub whose rounds the test calls itself."""

from __future__ import annotations

import select
import socket
import threading
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from sidearm.hub import connection, lulls
from sidearm.hub.config import HubConfig
from sidearm.hub.core import Hub
from sidearm.hub.eventstream import encode_body
from sidearm.hub.link import Link
from sidearm.hub.messages import Handoff, Publish, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 30.0  # seconds


class Workers:
    """A hub, and what its workers do."""

    def __init__(self, stack: ExitStack) -> None:
        folder = stack.enter_context(TemporaryDirectory(prefix="sa-", dir="/tmp"))
        self.hub = Hub(HubConfig(socket=str(Path(folder) / "hub.sock"), heartbeat=0))
        self._closes = stack.enter_context(ExitStack())
        self._closes.callback(self.hub.close)
        self._stack = stack
        self.clients: list[socket.socket] = []

    def connect(self, role: str) -> Link:
        """A worker's connection, which the hub welcomes."""
        links: list[Link] = []
        connecting = threading.Thread(
            target=lambda: links.append(Link(self.hub.listener.path, role, PATIENCE))
        )
        connecting.start()
        while connecting.is_alive():
            self.serve(0.01)
        self._stack.callback(links[0].close)
        return links[0]

    def hand_over(self, link: Link, snapshot: bytes | None = None) -> None:
        """Hand a client over."""
        client, server = socket.socketpair()
        self._stack.enter_context(client)
        client.settimeout(PATIENCE)
        self.clients.append(client)
        with server:
            log = self.hub.log
            message = Handoff(("news",), log.clock.text(log.mark()), snapshot=snapshot)
            link.send(encode(message), PATIENCE, server.fileno())

    def is_woken(self, seconds: float = 0) -> bool:
        """Whether the hub's loop would call it."""
        return bool(select.select([self.hub], [], [], seconds)[0])

    def serve(self, seconds: float = PATIENCE) -> None:
        """One round, if the hub is woken for it."""
        if self.is_woken(seconds):
            self.hub.wake()

    def stop(self) -> None:
        """End the hub, which happens once."""
        self._closes.close()

    def opened(self) -> int:
        """How many clients the hub has taken."""
        return self.hub.figures().opened


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    """A hub for which any two hand-offs come in quick succession."""
    monkeypatch.setattr(lulls, "LULL", 3600.0)
    with ExitStack() as stack:
        yield Workers(stack)


def test_h1_hand_offs_in_quick_succession_are_read_together(workers: Workers) -> None:
    """The third one wakes nobody; all that came meanwhile is taken when the lull is over."""
    link = workers.connect("handoff")
    for count in (1, 2):
        workers.hand_over(link)
        workers.serve()
        assert workers.opened() == count
    for _ in range(3):
        workers.hand_over(link)
    assert not workers.is_woken()
    assert workers.opened() == 2

    workers.hub.end_lulls()
    assert workers.opened() == 5


def test_h1_a_single_hand_off_is_never_kept_waiting(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where each comes long after the other, each wakes the hub."""
    monkeypatch.setattr(lulls, "LULL", 0.0)
    link = workers.connect("handoff")
    for count in range(1, 6):
        workers.hand_over(link)
        workers.serve()
        assert workers.opened() == count
        assert not workers.hub.lulls


def test_h1_the_hub_is_woken_again_after_a_lull(workers: Workers) -> None:
    """When nothing came for a while, the next hand-off is taken at once."""
    link = workers.connect("handoff")
    for _ in range(2):
        workers.hand_over(link)
        workers.serve()
    assert workers.hub.lulls
    for _ in range(2):
        workers.hub.end_lulls()
    assert not workers.hub.lulls

    workers.hand_over(link)
    workers.serve()
    assert workers.opened() == 3


@pytest.mark.parametrize("keep", [True, False], ids=["kept", "live only"])
def test_e4_an_event_finds_the_clients_that_came_before_it(workers: Workers, *, keep: bool) -> None:
    """Those that wait are taken before the event, and get it even where nothing is kept of it."""
    link, publishing = workers.connect("handoff"), workers.connect("publish")
    for _ in range(2):
        workers.hand_over(link)
        workers.serve()
    workers.hand_over(link)
    publishing.send(encode(Publish([("news", encode_body("now"), keep)])), PATIENCE)
    workers.serve()

    assert workers.opened() == 3
    for client in workers.clients:
        received = b""
        while b"data: now" not in received:
            received += client.recv(1000)


@pytest.mark.parametrize(
    ("bound", "value"), [("READS", 16), ("READ_LIMIT", 2000)], ids=["by count", "by size"]
)
def test_h1_more_than_one_round_reads_does_not_wait(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    """What is left of a long queue is read in the next round, and not after the next lull."""
    monkeypatch.setattr(connection, bound, value)
    link = workers.connect("handoff")
    for _ in range(2):
        workers.hand_over(link)
        workers.serve()
    for _ in range(48):
        workers.hand_over(link)
    workers.hub.end_lulls()
    while workers.is_woken():
        workers.hub.wake()

    assert workers.opened() == 2 + 48


def test_h1_long_messages_begin_no_lull(workers: Workers) -> None:
    """A few of them fill the kernel's buffer, and the worker would have to wait for the hub."""
    link = workers.connect("handoff")
    for count in range(1, 6):
        workers.hand_over(link, b"data: " + b"x" * lulls.SMALL + b"\n\n")
        workers.serve()
        assert workers.opened() == count


def test_h7_a_worker_that_ends_in_a_lull_loses_no_client(workers: Workers) -> None:
    """The end of its connection wakes the hub, which takes what waits first."""
    link = workers.connect("handoff")
    for _ in range(2):
        workers.hand_over(link)
        workers.serve()
    workers.hand_over(link)
    link.close()
    workers.serve()

    assert workers.opened() == 3
    assert workers.hub.figures().connections == 0
    assert not workers.hub.lulls


def test_h7_a_hub_that_stops_in_a_lull_takes_what_waits(workers: Workers) -> None:
    """Each client that was handed over gets its first words before its connection ends."""
    link = workers.connect("handoff")
    for _ in range(2):
        workers.hand_over(link)
        workers.serve()
    workers.hand_over(link)
    assert not workers.is_woken()
    workers.stop()

    assert workers.opened() == 3
    assert workers.clients[2].recv(1000).startswith(b"id: ")

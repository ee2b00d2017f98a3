"""How much clients that never read slow down those that do (contract H4).

Two hubs have as many readers each; at one of them there are as many again who read nothing, and
whose buffers are full. The hubs take turns: some paced events at one, then at the other. Each event
carries the time at which it was published, and each delivery to a reader is one latency.
"""

from __future__ import annotations

import contextlib
import random
import re
import select
import socket
import statistics
import time
from collections.abc import Iterator

from sidearm.hub.client import HubClient, ask_figures
from sidearm.hub.config import HubConfig
from sidearm.hub.eventstream import encode_body
from sidearm.hub.messages import Handoff
from sidearm.testing import HubServer

from .measure import allow_descriptors, bounded, ratio

READERS = 1000
DEAF = 1000
PACE = 10  # events a second
EVENTS = 10  # in a turn
ROUNDS = 10
FILLING = 12  # events with which the buffers of those that do not read are filled
FILLING_SIZE = 12_000  # bytes
SMALL = 32_768  # bytes; a kernel buffer that is soon full
LIMIT = 300.0  # seconds after which the benchmark gives up
GOAL = 1.5

_PUBLISHED = re.compile(rb"data: (\d+)\n")


class Side:
    """One hub with its clients.

    Attributes:
        p50: The median latency of each turn, in milliseconds.
        p99: The 99th percentile of each turn.
    """

    def __init__(self, server: HubServer, deaf: int) -> None:
        self._server = server
        self._deaf = deaf
        self._hub = HubClient(server.socket_path)
        self._poll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._latencies: list[float] = []
        self.p50: list[float] = []
        self.p99: list[float] = []

    def connect(self) -> None:
        """Open all streams, and fill the buffers of those that will not read."""
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            for number in range(READERS + self._deaf):
                self._connect_one(listener, reads=number < READERS)
        while ask_figures(self._server.socket_path).subscribers < READERS + self._deaf:
            time.sleep(0.01)
        if self._deaf:
            for number in range(FILLING):
                self._hub.publish([("benchmark", encode_body("x" * FILLING_SIZE), True)])
                self._drain(2.0 if number == FILLING - 1 else 0.1)
            pending = ask_figures(self._server.socket_path).pending_bytes
            assert pending > self._deaf, "Nothing waits for those that do not read."

    def _connect_one(self, listener: socket.socket, *, reads: bool) -> None:
        client = socket.socket()
        if not reads:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        client.connect(listener.getsockname())
        served, _ = listener.accept()
        with served:
            if not reads:
                served.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
            message = Handoff(channels=("benchmark",), position=self._hub.position())
            while not self._hub.handoff(message, served.fileno()):
                time.sleep(0.01)
        client.setblocking(False)
        self._sockets[client.fileno()] = client
        if reads:
            self._poll.register(client, select.EPOLLIN)

    def _drain(self, seconds: float) -> None:
        """Read what comes, until nothing does for so long."""
        while self._poll.poll(seconds):
            self._read(0.0)

    def _read(self, seconds: float) -> None:
        for descriptor, _ in self._poll.poll(seconds):
            data = self._sockets[descriptor].recv(1 << 20)
            now = time.monotonic_ns()
            for published in _PUBLISHED.findall(data):
                self._latencies.append((now - int(published)) / 1e6)

    def turn(self) -> None:
        """Publish at the pace, and note the latencies."""
        self._latencies = []
        due = time.monotonic()
        for number in range(1, EVENTS + 1):
            text = str(time.monotonic_ns())
            self._hub.publish([("benchmark", encode_body(text), True)])
            while len(self._latencies) < number * READERS:
                self._read(0.1)
            due += 1 / PACE
            time.sleep(max(0.0, due - time.monotonic()))
        cuts = statistics.quantiles(self._latencies, n=100)
        self.p50.append(cuts[49])
        self.p99.append(cuts[98])

    @property
    def disconnected(self) -> int:
        """How many were cut because too much waited for them."""
        return ask_figures(self._server.socket_path).disconnected_slow

    def close(self) -> None:
        """Hang up."""
        self._hub.close()
        self._poll.close()
        for client in self._sockets.values():
            client.close()


@contextlib.contextmanager
def side(deaf: int) -> Iterator[Side]:
    """Run a hub with its clients."""

    def config(path: str) -> HubConfig:
        return HubConfig(socket=path, heartbeat=0, max_streams_per_address=0)

    with HubServer(config) as server, contextlib.closing(Side(server, deaf)) as each:
        each.connect()
        yield each


def main() -> None:
    """Print the medians and the ratio."""
    allow_descriptors(2 * (2 * READERS + DEAF) + 200)
    with (
        bounded(LIMIT, "The benchmark of slow clients") as check,
        side(0) as alone,
        side(DEAF) as beside,
    ):
        turns = [alone, beside]
        for each in turns:  # the first turn of each warms up
            each.turn()
            each.p50.clear()
            each.p99.clear()
        for _ in range(ROUNDS):
            random.shuffle(turns)
            for each in turns:
                each.turn()
                check()
        cut = beside.disconnected
    print(
        f"{READERS} readers, {EVENTS} events at {PACE} a second in each of {ROUNDS} turns; medians"
        f" of the latencies ({cut} of {DEAF} that never read were cut)"
    )
    print("  {:<34}{:>10}{:>10}".format("", "p50", "p99"))
    for name, each in (("readers alone", alone), (f"beside {DEAF} that never read", beside)):
        p50, p99 = statistics.median(each.p50), statistics.median(each.p99)
        print(f"  {name:<34}{p50:>7.2f} ms{p99:>7.2f} ms")
    ratios = ratio(beside.p50, alone.p50), ratio(beside.p99, alone.p99)
    print("  {:<34}{:>10.2f}{:>10.2f}".format("ratio", *ratios) + f"   (goal: p99 {GOAL})")


if __name__ == "__main__":
    main()

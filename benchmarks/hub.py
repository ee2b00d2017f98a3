"""The hub's CPU per delivery, memory per stream and CPU per connect, beside one plain ``send``.

Both get the same sockets over a Unix socket, the same events, and the same clients, in turns.
Paced: ten events a second, each of which is one pass over all clients. Burst: a hundred events at
once, which the hub joins into few passes.
"""

from __future__ import annotations

import contextlib
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path

from sidearm.hub.client import HubClient, ask_figures
from sidearm.hub.eventstream import encode_body, frame
from sidearm.hub.messages import Handoff
from sidearm.testing import HubServer

from .measure import KIB, MICROSECOND, allow_descriptors, bounded, cpu_clock, memory

STREAMS = 1000
PACE = 10  # events a second
PACED_EVENTS = 20
BURST_EVENTS = 100
ROUNDS = 5
BUDGET = 30.0  # seconds after which no further round begins
LIMIT = 300.0  # seconds after which the benchmark gives up
PAUSE = 0.002  # seconds between two looks

MARK = b"#"  # once in each event, so that deliveries can be counted in any pieces
DATA = {"id": 7, "left": 4, "mark": MARK.decode(), "name": "A side-arm flask, 500 ml"}

Check = Callable[[], None]


class Contestant(ABC):
    """A process that takes sockets and events."""

    pid: int
    name: str

    @abstractmethod
    def take(self, descriptor: int, check: Check) -> None:
        """Give it a client's socket."""

    @abstractmethod
    def wait_taken(self, count: int, check: Check) -> None:
        """Wait until it has so many."""

    @abstractmethod
    def publish(self, count: int) -> None:
        """Give it so many events at once."""


class Hub(Contestant):
    """The hub."""

    name = "hub"

    def __init__(self, server: HubServer) -> None:
        self.pid = server.pid
        self._socket_path = server.socket_path
        self._client = HubClient(server.socket_path)
        self._event = ("benchmark", encode_body(DATA, "sold"), True)

    def take(self, descriptor: int, check: Check) -> None:
        message = Handoff(channels=("benchmark",), position=self._client.position(), retry=1000)
        # On a busy machine the hub may be late, and a worker would have the client poll meanwhile.
        while not self._client.handoff(message, descriptor):
            check()
            time.sleep(PAUSE)

    def wait_taken(self, count: int, check: Check) -> None:
        while ask_figures(self._socket_path).subscribers < count:
            check()
            time.sleep(PAUSE)

    def publish(self, count: int) -> None:
        self._client.publish([self._event] * count)

    def close(self) -> None:
        """Hang up."""
        self._client.close()


class PlainSend(Contestant):
    """One ``send`` per delivery; see :mod:`benchmarks.plain_send`."""

    name = "plain send"

    def __init__(self, control: socket.socket, pid: int) -> None:
        self.pid = pid
        self._control = control
        # As long as what the hub sends.
        event = frame(encode_body(DATA, "sold"), "0123456789-0123456789abcdef")
        self._message = len(event).to_bytes(4, "big") + event

    def take(self, descriptor: int, check: Check) -> None:  # noqa: ARG002
        socket.send_fds(self._control, [bytes(4)], [descriptor])
        assert self._control.recv(1) == b"\0"

    def wait_taken(self, count: int, check: Check) -> None:
        """Each was acknowledged."""

    def publish(self, count: int) -> None:
        self._control.sendall(self._message * count)


class Clients:
    """The other ends of the sockets, which read and count."""

    def __init__(self) -> None:
        self._sockets: dict[int, socket.socket] = {}
        self._poll = select.epoll()
        self.events = 0

    def connect(self, contestant: Contestant, count: int, check: Check) -> None:
        """Open connections and give their served ends away."""
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            for _ in range(count):
                client = socket.create_connection(listener.getsockname())
                served, _ = listener.accept()
                with served:
                    contestant.take(served.fileno(), check)
                client.setblocking(False)
                self._sockets[client.fileno()] = client
                self._poll.register(client, select.EPOLLIN)
                check()
        contestant.wait_taken(count, check)

    def read(self, seconds: float) -> None:
        """Read what comes within so many seconds, until nothing does."""
        for descriptor, _ in self._poll.poll(seconds):
            self.events += self._sockets[descriptor].recv(1 << 20).count(MARK)

    def wait(self, events: int, check: Check) -> None:
        """Read until so many deliveries have come in all."""
        while self.events < events:
            self.read(0.1)
            check()
        assert self.events == events, f"{self.events} deliveries, not {events}"

    def close(self) -> None:
        """Hang up."""
        self._poll.close()
        for client in self._sockets.values():
            client.close()


@contextlib.contextmanager
def hub() -> Iterator[Contestant]:
    """Run the hub."""
    with HubServer() as server:
        contestant = Hub(server)
        try:
            yield contestant
        finally:
            contestant.close()


@contextlib.contextmanager
def plain_send() -> Iterator[Contestant]:
    """Run what it is compared with."""
    with tempfile.TemporaryDirectory(prefix="sa-") as folder, socket.socket(socket.AF_UNIX) as unix:
        path = str(Path(folder) / "s")
        unix.bind(path)
        unix.listen(1)
        unix.settimeout(20)
        command = [sys.executable, "-m", "benchmarks.plain_send", path]
        with subprocess.Popen(command, cwd=Path(__file__).parent.parent) as process:
            try:
                control, _ = unix.accept()
                with control:
                    yield PlainSend(control, process.pid)
            finally:
                process.kill()


class Figures:
    """What one contestant took, in microseconds and bytes."""

    def __init__(self) -> None:
        self.paced: list[float] = []
        self.burst: list[float] = []
        self.connect: list[float] = []
        self.memory: list[float] = []

    def row(self) -> list[float]:
        """The medians, in the table's order."""
        columns = (self.paced, self.burst, self.connect, self.memory)
        return [statistics.median(column) for column in columns]


def measure(contestant: Contestant, clients: Clients, figures: Figures, check: Check) -> None:
    """Connect, then publish in both ways."""
    clock = cpu_clock(contestant.pid)
    before, began = memory(contestant.pid), clock()
    clients.connect(contestant, STREAMS, check)
    figures.connect.append((clock() - began) / STREAMS / MICROSECOND)
    figures.memory.append((memory(contestant.pid) - before) / STREAMS)

    began, due = clock(), time.monotonic()
    for number in range(1, PACED_EVENTS + 1):
        contestant.publish(1)
        clients.wait(number * STREAMS, check)
        due += 1 / PACE
        time.sleep(max(0.0, due - time.monotonic()))
    figures.paced.append((clock() - began) / PACED_EVENTS / STREAMS / MICROSECOND)

    began = clock()
    contestant.publish(BURST_EVENTS)
    clients.wait((PACED_EVENTS + BURST_EVENTS) * STREAMS, check)
    figures.burst.append((clock() - began) / BURST_EVENTS / STREAMS / MICROSECOND)


def main() -> None:
    """Print the table."""
    allow_descriptors(2 * STREAMS + 200)
    figures = {"hub": Figures(), "plain send": Figures()}
    with bounded(LIMIT, "The benchmark of the hub") as check:
        began = time.monotonic()
        while len(figures["hub"].burst) < ROUNDS and time.monotonic() < began + BUDGET:
            for run in (hub, plain_send):
                with run() as contestant, contextlib.closing(Clients()) as clients:
                    measure(contestant, clients, figures[contestant.name], check)
    rounds = len(figures["hub"].burst)
    print(
        f"{STREAMS} streams of one channel; medians of {rounds} rounds: {PACED_EVENTS} events at"
        f" {PACE} a second, a burst of {BURST_EVENTS}"
    )
    columns = ("CPU/delivery, paced", "in a burst", "CPU/connect", "memory")
    print("  {:<12}{:>22}{:>14}{:>14}{:>12}".format("", *columns))
    rows = {name: each.row() for name, each in figures.items()}
    for name, (paced, burst, connect, size) in rows.items():
        cpu = f"{paced:>19.2f} us{burst:>11.2f} us{connect:>11.1f} us"
        print(f"  {name:<12}{cpu}{size / KIB:>8.2f} KiB")
    ratios = [a / b if b > 0 else float("nan") for a, b in zip(*rows.values(), strict=True)]
    print("  {:<12}{:>22.2f}{:>14.2f}{:>14.2f}{:>12.2f}".format("ratio", *ratios))


if __name__ == "__main__":
    main()

"""Real hubs on a real Redis, with real connections; and what each of them took."""

from __future__ import annotations

import contextlib
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import redis

from sidearm.brokers import Event, open_broker
from sidearm.hub.client import HubClient
from sidearm.hub.config import HubConfig
from sidearm.hub.eventstream import encode_body
from sidearm.hub.messages import Handoff
from sidearm.testing import HubServer, RedisServer

from ..hub.load import Handshake, Load
from ..hub.phases import LOAD_CORE, SERVER_CORE
from ..hub.system import ROOT, SSE_REQUEST, event_data
from ..measure import NANOSECONDS, cpu_clock, memory, on_core
from .simulation import Fleet, arrivals

PATIENCE = 60.0  # seconds
PAUSE = 0.01  # seconds
END = "end"  # the channel of an event that readers tell of
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"

Check = Callable[[], None]


class Taken(NamedTuple):
    """What a phase took.

    Attributes:
        seconds: How long it lasted.
        events: How many were published in it.
        broker: Redis's processor time, in seconds.
        hub: A hub's, in seconds; the mean of all; 0 where there are readers alone.
        answers: How often Redis answered each hub.
        size: Bytes that Redis sent to each hub.
        deliveries: How many events came to subscribers.
        longest: Seconds until the last of them had come.
    """

    seconds: float
    events: int
    broker: float
    hub: float
    answers: float
    size: float
    deliveries: int = 0
    longest: float = 0.0


class Rig:
    """A Redis, and hubs whose subscribers are spread as in a :class:`~.simulation.Fleet`.

    Args:
        fleet: How many hubs and subscribers.
        server: The Redis.
        only_reads: Whether the hubs do nothing but read the log, all in one process.
    """

    def __init__(self, fleet: Fleet, server: RedisServer, *, only_reads: bool = False) -> None:
        if fleet.subscribers % max(1, fleet.hubs * fleet.channels):
            raise ValueError(f"{fleet} has not as many subscribers on each channel of each hub.")
        self.fleet = fleet
        self._only_reads = only_reads
        self._server = server
        self._key = f"fleet-{secrets.token_hex(4)}"
        self._broker_clock = cpu_clock(server.pid)
        self._redis = redis.Redis(port=server.port)
        self._broker = open_broker(server.url, self._key, self._config("/").broker_limits())
        self._appender = self._broker.appender()
        self._number = 0
        self._hubs: list[HubServer] = []
        self._readers: subprocess.Popen[str] | None = None
        self._hub_clocks: list[Callable[[], int]] = []
        self._load: Load | None = None
        self._empty = 0

    def _config(self, socket_path: str) -> HubConfig:
        return HubConfig(
            socket=socket_path,
            broker=self._server.url,
            broker_key=self._key,
            heartbeat=0,
            max_streams_per_address=0,
        )

    @contextlib.contextmanager
    def run(self, check: Check) -> Iterator[Rig]:
        """Run the hubs, and connect all subscribers."""
        with contextlib.ExitStack() as stack:
            stack.callback(self._redis.close)
            stack.callback(self._appender.close)
            if self._only_reads:
                self._start_readers(stack)
            else:
                self._start_hubs(stack)
            if self.fleet.subscribers:
                self._empty = self._memory()
                self._connect(stack, check)
            self.publish(100.0, 20)  # everything is used once before it is measured
            yield self

    def _start_hubs(self, stack: contextlib.ExitStack) -> None:
        with on_core(SERVER_CORE):
            hubs = [stack.enter_context(HubServer(self._config)) for _ in range(self.fleet.hubs)]
        for hub in hubs:
            hub.wait_until(lambda hub=hub: hub.hub_figures().epoch)
        self._hubs, self._hub_clocks = hubs, [cpu_clock(hub.pid) for hub in hubs]

    def _start_readers(self, stack: contextlib.ExitStack) -> None:
        command = [sys.executable, "-m", f"{__package__}.readers", self._server.url, self._key]
        process = subprocess.Popen(
            [*command, str(self.fleet.hubs), END], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        stack.enter_context(process)
        stack.callback(process.kill)
        self._readers = process
        while self._redis.info("clients")["blocked_clients"] < self.fleet.hubs:
            time.sleep(PAUSE)

    def _connect(self, stack: contextlib.ExitStack, check: Check) -> None:
        count = self.fleet.subscribers
        with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
            port = listener.getsockname()[1]
            handing = threading.Thread(target=self._hand_all, args=(listener,), daemon=True)
            handing.start()
            load = stack.enter_context(Load(port, count, Handshake(SSE_REQUEST)))
            ready = load.wait_ready(count, PATIENCE).ready
            handing.join(PATIENCE)
        if ready < count or handing.is_alive():
            raise RuntimeError(f"Of {count} subscribers {ready} are ready.")
        while sum(hub.hub_figures().subscribers for hub in self._hubs) < count:
            check()
            time.sleep(PAUSE)
        self._load = load

    def _hand_all(self, listener: socket.socket) -> None:
        """Do what a view and its worker do, without either."""
        with contextlib.ExitStack() as stack:
            clients = [HubClient(hub.socket_path) for hub in self._hubs]
            for client in clients:
                stack.callback(client.close, 0.1)
            for number in range(self.fleet.subscribers):
                accepted, _ = listener.accept()
                client = clients[number % len(clients)]
                channel = f"c{number // len(clients) % self.fleet.channels}"
                with accepted:
                    accepted.sendall(HEAD)
                    message = Handoff((channel,), position=client.position())
                    while not client.handoff(message, accepted.fileno()):
                        time.sleep(PAUSE)

    def memory(self) -> float:
        """Bytes of a hub's memory for each of its streams."""
        return (self._memory() - self._empty) / self.fleet.subscribers

    def _memory(self) -> int:
        return sum(memory(hub.pid) for hub in self._hubs)

    def publish(self, rate: float, count: int, seed: int = 1) -> Taken:
        """Publish at random times, one append each, and wait until all has arrived."""
        channels = self.fleet.channels
        expected = count * self.fleet.subscribers // channels
        if self._load is not None:
            self._load.begin()
        broker, hubs = self._used()
        answers, size = self._answers(), self._size()
        began = time.monotonic()
        for number, due in enumerate(arrivals(rate, count, seed)):
            time.sleep(max(0.0, began + due - time.monotonic()))
            self._append(f"c{number * 7919 % channels}")  # a prime: no two neighbours
        deliveries, longest = self._wait(expected)
        took = time.monotonic() - began
        size, answers = self._size() - size, self._answers() - answers
        broker_now, hubs_now = self._used()
        parts = max(1, self.fleet.hubs)
        return Taken(
            seconds=took,
            events=count,
            broker=broker_now - broker,
            hub=(hubs_now - hubs) / parts,
            answers=answers / parts,
            size=size / parts,
            deliveries=deliveries,
            longest=longest,
        )

    def idle(self, seconds: float) -> Taken:
        """Let nothing happen for so long."""
        broker, hubs = self._used()
        time.sleep(seconds)
        broker_now, hubs_now = self._used()
        hub = (hubs_now - hubs) / max(1, self.fleet.hubs)
        return Taken(seconds, 0, broker_now - broker, hub, 0.0, 0.0)

    def _used(self) -> tuple[float, float]:
        """The processor time so far of Redis and of all hubs, in seconds."""
        hubs = sum(clock() for clock in self._hub_clocks)
        return self._broker_clock() / NANOSECONDS, hubs / NANOSECONDS

    def _append(self, channel: str) -> None:
        self._number += 1
        item = Event(channel, encode_body(event_data()))
        self._appender.append("fleet", self._number, [item])

    def _wait(self, expected: int) -> tuple[int, float]:
        """Wait until the subscribers, or else the hubs, have everything."""
        if self._load is not None:
            found = self._load.wait(expected, PATIENCE)
            if found.count < expected:
                raise RuntimeError(f"Of {expected} deliveries {found.count} came.")
            return found.count, found.longest / NANOSECONDS
        if self._readers is not None:
            self._append(END)
            assert self._readers.stdout is not None
            self._readers.stdout.readline()
        for hub in self._hubs:  # asking costs it a little
            hub.wait_until(lambda hub=hub: hub.hub_figures().published >= self._number, PATIENCE)
        return 0, 0.0

    def _answers(self) -> int:
        stats = self._redis.info("commandstats")
        return int(stats.get("cmdstat_xread", {"calls": 0})["calls"])

    def _size(self) -> int:
        return int(self._redis.info("stats")["total_net_output_bytes"])


@contextlib.contextmanager
def running(fleet: Fleet, check: Check, *, only_reads: bool = False) -> Iterator[Rig]:
    """Run a Redis and a fleet on it, on a core of their own."""
    with (
        on_core(SERVER_CORE),
        RedisServer() as server,
        on_core(LOAD_CORE),
        Rig(fleet, server, only_reads=only_reads).run(check) as rig,
    ):
        check()
        yield rig

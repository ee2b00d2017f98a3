"""What is measured of one system in one round."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ..measure import MICROSECOND, NANOSECONDS, memory, on_core
from .load import Deliveries, Load, busy
from .system import Running, System

PACE = 10  # events a second
BURST = 100  # events at once
WARM_UP = 20  # events; a new connection acknowledges its first 16 segments one by one
PATIENCE = 150.0  # seconds for one phase
SETTLE = 0.5  # seconds until a server has done what it does after a connect
PAUSE = 0.5  # seconds between two publishes to a crowd
SERVER_CORE, LOAD_CORE = 0, 1

Check = Callable[[], None]


@dataclass(frozen=True)
class Scale:
    """How large a run is.

    Attributes:
        subscribers: For the paced events and the bursts.
        crowd: For single events.
        paced: Events.
        bursts: How many.
        singles: Events to the crowd.
        rounds: Of each system.
        slow_rounds: Of the slow ones.
        crowd_rounds: Of single events.
    """

    subscribers: int
    crowd: int
    paced: int
    bursts: int
    singles: int
    rounds: int
    slow_rounds: int
    crowd_rounds: int


QUICK = Scale(1000, 3000, 20, 2, singles=5, rounds=3, slow_rounds=1, crowd_rounds=1)
WHOLE = Scale(5000, 15_000, 30, 2, singles=10, rounds=3, slow_rounds=1, crowd_rounds=1)


@dataclass
class Figures:
    """What one system took: a number for each round, in bytes, microseconds and milliseconds.

    Attributes:
        subscribers: How many it had.
        memory: Bytes of each idle connection.
        hub_memory: Of them, those of the hub's process; Sidearm alone has one.
        paced: CPU of each delivery, of paced events.
        burst: CPU of each delivery in bursts.
        rate: Deliveries in a second of a burst.
        p50: Latency of paced events.
        p99: The same.
        crowd: From one publish until the last of the crowd has it.
        busiest: The largest part of a phase in which the load's program was busy.
        lost: Deliveries that did not come in time.
    """

    subscribers: int = 0
    memory: list[float] = field(default_factory=list)
    hub_memory: list[float] = field(default_factory=list)
    connect: list[float] = field(default_factory=list)
    paced: list[float] = field(default_factory=list)
    burst: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    crowd: list[float] = field(default_factory=list)
    busiest: float = 0.0
    lost: int = 0


class TooFew(RuntimeError):
    """A system that did not take all subscribers."""


def measure(system: System, scale: Scale, figures: Figures, check: Check) -> None:
    """Connect, then publish in both ways."""
    count = figures.subscribers = min(system.limit, scale.subscribers)
    with on_core(SERVER_CORE), system.run() as server, on_core(LOAD_CORE):
        time.sleep(SETTLE)
        empty, hub_empty, began = server.memory(), hub_memory(server), server.cpu()
        with Load(server.port, count, server.handshake) as load:
            connect(server, load, count)
            check()
            figures.connect.append((server.cpu() - began) / count / MICROSECOND)
            time.sleep(SETTLE)
            figures.memory.append((server.memory() - empty) / count)
            figures.hub_memory.append((hub_memory(server) - hub_empty) / count)
            pace(server, load, scale, figures)
            check()
            for _ in range(scale.bursts):
                burst(server, load, figures)
                check()


def measure_crowd(system: System, scale: Scale, figures: Figures, check: Check) -> None:
    """Publish one event to very many, several times."""
    with (
        on_core(SERVER_CORE),
        system.run() as server,
        on_core(LOAD_CORE),
        Load(server.port, scale.crowd, server.handshake) as load,
    ):
        connect(server, load, scale.crowd)
        check()
        for _ in range(scale.singles):
            load.begin()
            server.publish()
            figure = load.wait(scale.crowd, PATIENCE)
            figures.lost += scale.crowd - figure.count
            figures.crowd.append(figure.longest / MICROSECOND / 1000)
            check()
            time.sleep(PAUSE)
        server.read_answers()


def connect(server: Running, load: Load, count: int) -> None:
    """Wait until all clients are subscribed, and have an event to show for it.

    Raises:
        TooFew: They are not.
    """
    crowd = load.wait_ready(count, PATIENCE)
    if crowd.ready < count:
        raise TooFew(f"Of {count} clients {crowd.ready} are ready, {crowd.ended} were sent away.")
    deadline = time.monotonic() + PATIENCE
    while True:
        load.begin()
        server.publish()
        figure = load.wait(count, 5)
        if figure.count == count:
            break
        if time.monotonic() > deadline:
            raise TooFew(f"Of {count} clients {figure.count} get events.")
    server.read_answers()


def pace(server: Running, load: Load, scale: Scale, figures: Figures) -> None:
    """Publish events one after another, whether or not the last one has arrived."""
    count = load.count
    for _ in range(WARM_UP):
        load.begin()
        server.publish()
        load.wait(count, PATIENCE)
    load.begin()
    began, due = server.cpu(), time.monotonic()
    first = due
    for _ in range(scale.paced):
        server.publish()
        due += 1 / PACE
        time.sleep(max(0.0, due - time.monotonic()))
    figure = load.wait(scale.paced * count, PATIENCE)
    seconds = time.monotonic() - first
    used = server.cpu() - began
    server.read_answers()
    note(figures, figure, scale.paced * count, seconds)
    figures.paced.append(used / max(1, figure.count) / MICROSECOND)
    figures.p50.append(figure.p50 / MICROSECOND / 1000)
    figures.p99.append(figure.p99 / MICROSECOND / 1000)


def burst(server: Running, load: Load, figures: Figures) -> None:
    """Publish many at once."""
    wanted = BURST * load.count
    load.begin()
    began, first = server.cpu(), time.monotonic_ns()
    server.publish(BURST)
    figure = load.wait(wanted, PATIENCE)
    used = server.cpu() - began
    server.read_answers()
    seconds = (figure.last - first) / NANOSECONDS
    note(figures, figure, wanted, seconds)
    figures.burst.append(used / max(1, figure.count) / MICROSECOND)
    figures.rate.append(figure.count / seconds)


def note(figures: Figures, figure: Deliveries, wanted: int, seconds: float) -> None:
    """Keep what says whether the figures can be believed."""
    figures.lost += wanted - figure.count
    figures.busiest = max(figures.busiest, busy(figure, seconds))


def hub_memory(server: Running) -> int:
    """The memory of the hub's process; 0 where there is none."""
    pid = getattr(server, "hub_pid", None)
    return 0 if pid is None else memory(pid)

"""What opening a stream takes more than an ordinary request through the same worker.

One blocking worker (gunicorn, sync) answers an empty view, or one that returns ``event_stream()``
and hands its socket to the hub; what is compared is the CPU time of worker and hub together. The
clients of a turn stay until it is over and the hub has them all, so that no closing is counted and
nothing is left out. Turns of a round follow one another at once, and are compared with each other.
What a stream takes more is given in microseconds, and as a part of what an empty view takes, which
other machines and busy ones change less; what two turns of ordinary requests differ by is chance.
Beside it stands what nchan takes for a connect, without any view.
"""

from __future__ import annotations

import contextlib
import random
import socket
import statistics
import time
from collections.abc import Callable

from sidearm.hub.client import ask_figures
from sidearm.testing import UpServer

from .hub.phases import LOAD_CORE, SERVER_CORE
from .hub.system import Running
from .hub.systems.nchan import Nchan
from .idle_streams import FOLDER, PAUSE, ask, head, wait_for_subscribers
from .measure import MICROSECOND, bounded, cpu_clock, difference, on_core

ROUNDS = 100
REQUESTS = 100  # in a turn
SETTLE = 0.2  # seconds; by then the hub has taken the last streams, which it was not woken for
GOAL = 80.0  # microseconds more, at most
LIMIT = 300.0  # seconds after which the benchmark gives up

Check = Callable[[], None]
Clock = Callable[[], int]


def ordinary(port: int) -> None:
    """Send ordinary requests, one after another."""
    for _ in range(REQUESTS):
        ask(port, "/empty")


def open_streams(port: int, stack: contextlib.ExitStack, done: bytes) -> None:
    """Open streams, one after another; each is there when its client has read this much."""
    for _ in range(REQUESTS):
        stream = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10))
        stream.sendall(head("/stream"))
        read = b""
        while done not in read:
            more = stream.recv(65536)
            assert more, read
            read += more


def measure_ours(server: UpServer, check: Check) -> dict[str, list[float]]:
    """The CPU of a request, in microseconds, by kind."""
    worker = cpu_clock(int(ask(server.port, "/worker")))
    hub = cpu_clock(ask_figures(server.socket_path).pid)
    times: dict[str, list[float]] = {"ordinary": [], "stream": [], "again": [], "hub": []}
    for _ in range(ROUNDS + 1):
        for kind in random.sample(["ordinary", "stream", "again"], 3):
            with contextlib.ExitStack() as stack:
                began, hub_began = worker(), hub()
                if kind == "stream":
                    open_streams(server.port, stack, b"\nid: ")
                    time.sleep(SETTLE)  # to ask it would cost it as much as ten streams do
                    times["hub"].append((hub() - hub_began) / REQUESTS / MICROSECOND)
                else:
                    ordinary(server.port)
                used = worker() - began + hub() - hub_began
                times[kind].append(used / REQUESTS / MICROSECOND)
                wait_for_subscribers(server, REQUESTS if kind == "stream" else 0, check)
            wait_for_subscribers(server, 0, check)
            check()
    return {kind: each[1:] for kind, each in times.items()}  # the first round warms up


def measure_nchan(server: Running, check: Check) -> list[float]:
    """The CPU of a connect, in microseconds."""
    times = []
    for _ in range(ROUNDS):
        with contextlib.ExitStack() as stack:
            began = server.cpu()
            open_streams(server.port, stack, b"\r\n\r\n")
            times.append((server.cpu() - began) / REQUESTS / MICROSECOND)
        time.sleep(PAUSE)
        check()
    return times


def main() -> None:
    """Print the table."""
    with bounded(LIMIT, "The benchmark of connects") as check, on_core(LOAD_CORE):
        server = UpServer("benchmarks.live", workers=1, cwd=FOLDER)
        with on_core(SERVER_CORE), server, on_core(LOAD_CORE):
            times = measure_ours(server, check)
        nchan = Nchan()
        connects: list[float] = []
        if not nchan.missing():
            with on_core(SERVER_CORE), nchan.run() as running, on_core(LOAD_CORE):
                connects = measure_nchan(running, check)
    print(
        f"CPU of one request of a blocking worker (gunicorn, sync), {ROUNDS} rounds of {REQUESTS}"
    )
    row("an empty view", times["ordinary"] + times["again"])
    row("a view that returns a stream, and the hub", times["stream"])
    row("  of that the hub", times["hub"])
    if connects:
        row("a connect of nchan, which asks no view", connects)
    both = [(one + other) / 2 for one, other in zip(times["ordinary"], times["again"], strict=True)]
    empty, hub = statistics.median(both), statistics.median(times["hub"])
    more = difference(times["stream"], both)
    chance = difference(times["again"], times["ordinary"])
    print(f"  a stream takes {more:.1f} us more, of which the hub takes {hub:.1f};")
    print(
        f"    {more / empty:.2f} of an empty view (A/A {chance / empty:+.2f},"
        f" {chance:+.1f} us)   at most {GOAL:g} us: {'yes' if more <= GOAL else 'NO'}"
    )


def row(what: str, times: list[float]) -> None:
    """One line of the table."""
    print(f"  {what:<44}{statistics.median(times):8.1f} us")


if __name__ == "__main__":
    main()

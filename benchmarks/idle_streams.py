"""CPU per ordinary request of one blocking worker, with no open stream and with 2,000.

A stream that is open costs the worker nothing, because the worker no longer has it: its socket is
the hub's. So both figures are to be the same, but for noise. Each round measures without streams,
with them, and without again; the two without are the A/A ratio.
"""

from __future__ import annotations

import contextlib
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sidearm.hub.client import ask_figures
from sidearm.testing import UpServer

from .measure import MICROSECOND, allow_descriptors, bounded, cpu_clock

STREAMS = 2000
ROUNDS = 5
BATCHES = 25  # in each turn; the middle one counts, whatever else the machine did in some
REQUESTS = 20  # in each batch
GOAL = 1.05  # times as much, at most
BUDGET = 30.0  # seconds after which no further round begins
LIMIT = 300.0  # seconds after which the benchmark gives up
PAUSE = 0.02  # seconds between two looks at the hub
FOLDER = Path(__file__).parent.parent

Check = Callable[[], None]


def ask(port: int, path: str) -> bytes:
    """Send a request on a connection of its own, and give the response's body."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head(path))
        response = b"".join(iter(lambda: connection.recv(65536), b""))
    top, _, body = response.partition(b"\r\n\r\n")
    assert b" 200 " in top, response
    return body


def head(path: str) -> bytes:
    """A request's bytes."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".encode()


@contextlib.contextmanager
def open_streams(server: UpServer, count: int, check: Check) -> Iterator[None]:
    """Hold so many streams open, until the hub has them all; at the end, until it has none."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stream = stack.enter_context(
                socket.create_connection(("127.0.0.1", server.port), timeout=10)
            )
            stream.sendall(head("/stream"))
            assert b" 200 " in stream.recv(65536)
            check()
        wait_for_subscribers(server, count, check)
        yield
    wait_for_subscribers(server, 0, check)


def wait_for_subscribers(server: UpServer, count: int, check: Check) -> None:
    """Wait until the hub has so many streams."""
    while ask_figures(server.socket_path).subscribers != count:
        check()
        time.sleep(PAUSE)


def turn(port: int, clock: Callable[[], int], check: Check) -> float:
    """The worker's CPU for one request, in microseconds."""
    batches = []
    for _ in range(BATCHES):
        began = clock()
        for _ in range(REQUESTS):
            ask(port, "/worker")
        batches.append((clock() - began) / REQUESTS / MICROSECOND)
        check()
    return statistics.median(batches)


def measure(server: UpServer, check: Check) -> dict[str, list[float]]:
    """Take turns; returns the figures of each kind."""
    clock = cpu_clock(int(ask(server.port, "/worker")))
    turn(server.port, clock, check)  # to warm up
    figures: dict[str, list[float]] = {"before": [], "with": [], "after": []}
    began = time.monotonic()
    while len(figures["after"]) < ROUNDS and time.monotonic() < began + BUDGET:
        figures["before"].append(turn(server.port, clock, check))
        with open_streams(server, STREAMS, check):
            figures["with"].append(turn(server.port, clock, check))
        figures["after"].append(turn(server.port, clock, check))
    return figures


def main() -> None:
    """Print the table."""
    allow_descriptors(2 * STREAMS + 200)
    with (
        bounded(LIMIT, "The benchmark of idle streams") as check,
        UpServer("benchmarks.live", workers=1, cwd=FOLDER) as server,
    ):
        figures = measure(server, check)
    rounds = len(figures["with"])
    print(f"CPU per ordinary request of one blocking worker (gunicorn, sync), {rounds} rounds")
    without = [(a + b) / 2 for a, b in zip(figures["before"], figures["after"], strict=True)]
    ratio = statistics.median(a / b for a, b in zip(figures["with"], without, strict=True))
    a_a = statistics.median(a / b for a, b in zip(figures["after"], figures["before"], strict=True))
    print(f"  without streams          {statistics.median(without):8.1f} microseconds")
    print(f"  with {STREAMS} idle streams   {statistics.median(figures['with']):8.1f} microseconds")
    print(f"  ratio {ratio:.3f}, A/A ratio {a_a:.3f}", end="")
    print(f"   at most {GOAL:g}: {'yes' if ratio <= GOAL else 'NO'}")


if __name__ == "__main__":
    main()

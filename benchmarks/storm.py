"""Ordinary requests while ten thousand streams come back, beside the same without anybody.

The hub is killed, so that all clients lose their streams at once and come back when they were told
to, through the same workers that answer the requests. These are sent at a steady pace, each from
the time at which it was due, so that one that waits is not forgotten. The ratio is of the 99th
percentile meanwhile and that of both quiet times, before and after, together; the ratio of these
two is chance.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sidearm.exceptions import HubError
from sidearm.hub.client import ask_figures
from sidearm.testing import UpServer

from .hub.load import Handshake, Load
from .hub.system import SSE_REQUEST
from .idle_streams import FOLDER, PAUSE, ask
from .measure import allow_descriptors, bounded

CLIENTS = 10_000
WORKERS = 2
PACE = 50  # requests a second
QUIET = 30.0  # seconds, before and after
THREADS = 64
GOAL = 3.0  # times as long, at most
PATIENCE = 240.0  # seconds until all are there
LIMIT = 600.0  # seconds after which the benchmark gives up

Check = Callable[[], None]


class Requests:
    """Sends requests at a steady pace, and takes their times from when they were due."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._pool = ThreadPoolExecutor(THREADS)

    def run(self, until: Callable[[float], bool]) -> list[float]:
        """Send until a condition holds, which is asked with the seconds so far."""
        began = due = time.monotonic()
        sent = []
        while not until(due - began):
            sent.append(self._pool.submit(self._one, due))
            due += 1 / PACE
            time.sleep(max(0.0, due - time.monotonic()))
        return [each.result() for each in sent]

    def _one(self, due: float) -> float:
        ask(self._port, "/empty")
        return time.monotonic() - due


def subscribers(server: UpServer) -> int:
    """How many streams there are; none while the hub is away."""
    try:
        return ask_figures(server.socket_path).subscribers
    except HubError:
        return 0


def p99(times: list[float]) -> float:
    """The 99th percentile, in milliseconds."""
    return statistics.quantiles(times, n=100)[-1] * 1000


def main(clients: int = CLIENTS) -> None:
    """Print the ratio."""
    allow_descriptors(clients + 200)
    with (
        bounded(LIMIT, "The benchmark of a storm") as check,
        UpServer("benchmarks.live", workers=WORKERS, cwd=FOLDER) as server,
        Load(server.port, clients, Handshake(SSE_REQUEST, b"\nretry: "), again=True) as load,
    ):
        load.wait_ready(clients, PATIENCE)
        while subscribers(server) < clients:
            check()
            time.sleep(PAUSE)
        requests = Requests(server.port)
        requests.run(lambda seconds: seconds > 1)  # to warm up
        before = requests.run(lambda seconds: seconds > QUIET)
        os.kill(ask_figures(server.socket_path).pid, signal.SIGKILL)
        killed = time.monotonic()
        back = [0.0]

        def all_back(seconds: float) -> bool:
            check()
            if int(seconds * PACE) % PACE == 0 and subscribers(server) >= clients:
                back[0] = time.monotonic() - killed
            return bool(back[0])

        storm = requests.run(all_back)
        after = requests.run(lambda seconds: seconds > QUIET)
    quiet = p99(before + after)
    print(f"{clients} streams lost at once; {PACE} ordinary requests a second to {WORKERS} workers")
    print(f"  all were back after {back[0]:.1f} s; of {len(storm)} requests meanwhile none failed")
    print(f"  p50 {statistics.median(before + after) * 1000:.1f} ms quiet,", end=" ")
    print(f"{statistics.median(storm) * 1000:.1f} ms meanwhile")
    ratio = p99(storm) / quiet
    print(f"  p99 {quiet:.1f} ms quiet, {p99(storm):.1f} ms meanwhile: ratio {ratio:.2f}", end="")
    print(f", A/A {p99(after) / p99(before):.2f}", end="")
    print(f"   at most {GOAL:g}: {'yes' if ratio <= GOAL else 'NO'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.storm", description=__doc__)
    parser.add_argument("--clients", type=int, default=CLIENTS)
    main(parser.parse_args().clients)

"""How the benchmarks measure: CPU time, not wall time, of contestants that take turns.

Wall time on a machine that does something else too says little; CPU time says the same again and
again. What is left (caches, clock rates) changes slowly, so contestants run in turns, in an order
drawn anew each time, and what is compared is what they took in the same turn.
"""

from __future__ import annotations

import contextlib
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

Clock = Callable[[], int]

MICROSECOND = 1000  # nanoseconds
NANOSECONDS = 1_000_000_000  # in a second
KIB = 1024  # bytes
ALL_CORES = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else [0]


def in_turns(
    contestants: Mapping[str, Callable[[], None]],
    *,
    rounds: int,
    repeat: int,
    clock: Clock = time.process_time_ns,
) -> dict[str, list[float]]:
    """Measure contestants against each other.

    Args:
        contestants: What one repetition of each does, by name.
        rounds: How often all have a turn.
        repeat: Repetitions in a turn.
        clock: CPU time in nanoseconds; that of this process by default.

    Returns:
        For each name the microseconds of one repetition, one number for each round.
    """
    times: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            run = contestants[name]
            began = clock()
            for _ in range(repeat):
                run()
            times[name].append((clock() - began) / repeat / MICROSECOND)
    return times


def difference(more: list[float], less: list[float]) -> float:
    """How much more one contestant took than the other, in the middle of all rounds."""
    return statistics.median(a - b for a, b in zip(more, less, strict=True))


def ratio(one: list[float], other: list[float]) -> float:
    """How many times as much one contestant took, in the middle of all rounds."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def undisturbed(times: list[float]) -> float:
    """What one repetition took in the tenth of the turns that other programs disturbed least.

    Whoever shares the processor's caches makes everything slower, and longer code more so.
    """
    return statistics.quantiles(times, n=10)[0]


def requester(wsgi_app: Any, path: str) -> Callable[[], None]:
    """What sends one request to an application, as a WSGI server does.

    Args:
        wsgi_app: The application.
        path: What is asked for; it must be answered by 200.
    """
    from werkzeug.test import create_environ

    environ = create_environ(path)
    statuses: list[str] = []

    def start_response(status: str, *_: Any) -> None:
        statuses.append(status)

    def request() -> None:
        body = wsgi_app(environ.copy(), start_response)
        for _ in body:
            pass
        close = getattr(body, "close", None)
        if close is not None:
            close()
        assert statuses.pop() == "200 OK"

    return request


def cpu_clock(pid: int) -> Clock:
    """The CPU time of another process, in nanoseconds, exact where ``/proc`` counts in 10 ms.

    Raises:
        SystemExit: The platform has no such clock.
    """
    if sys.platform != "linux":
        sys.exit("This benchmark reads another process's CPU clock, which needs Linux.")
    # clock_getcpuclockid(3), which Python does not have: ~pid above, CPUCLOCK_SCHED below.
    clock_id = (~pid << 3) | 2
    return lambda: time.clock_gettime_ns(clock_id)


def memory(pid: int) -> int:
    """The memory of a process, shared pages shared out (PSS), in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * KIB
    raise RuntimeError(f"/proc/{pid}/smaps_rollup has no line 'Pss:'.")


def allow_descriptors(count: int) -> None:
    """Raise this process's limit, and that of what it starts.

    Raises:
        SystemExit: It may not have so many.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        sys.exit(f"This benchmark opens {count} descriptors; 'ulimit -Hn' allows {hard}.")
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


@contextlib.contextmanager
def bounded(seconds: float, what: str) -> Iterator[Callable[[], None]]:
    """Give a function that ends the benchmark once ``seconds`` have passed.

    Raises:
        SystemExit: From that function; it names what took too long.
    """
    deadline = time.monotonic() + seconds

    def check() -> None:
        if time.monotonic() > deadline:
            sys.exit(f"{what} took more than {seconds:g} seconds.")

    yield check


def session_pids(leader: int) -> list[int]:
    """The processes of a session that run: a server and all that it has started."""
    pids = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[3]) == leader and fields[0] not in "ZX":
            pids.append(int(stat.parent.name))
    return pids


@contextlib.contextmanager
def on_core(number: int) -> Iterator[None]:
    """Start on one core what is started inside; a machine with one core has only that."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {ALL_CORES[number % len(ALL_CORES)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)

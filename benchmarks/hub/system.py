"""What every system that is compared is asked to do: run, take subscribers, publish."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from sidearm.testing import Server

from ..measure import cpu_clock, memory, session_pids
from .load import Handshake

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache"
PACKAGES = CACHE / "bench"
PYTHON_ENV = {"PYTHONPATH": f"{PACKAGES}:{ROOT}"}
PATIENCE = 60.0  # seconds for the answer to a publish
SSE_REQUEST = b"GET /stream HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n"


def event_data() -> str:
    """The data of an event: JSON, with the time at which it was published as the load reads it."""
    mark = f"#!{time.monotonic_ns():020d}"
    return json.dumps({"id": 7, "left": 4, "mark": mark, "name": "A side-arm flask, 500 ml"})


class Running:
    """A system that runs.

    Args:
        server: Its process; what that has started counts too.
        handshake: How clients subscribe.
        others: Servers that it needs beside its own.
    """

    def __init__(self, server: Server, handshake: Handshake, *others: Server) -> None:
        self.port = server.port
        self.handshake = handshake
        self._leaders = [each.pid for each in (server, *others)]
        self._answers: list[Future[bytes]] = []

    def pids(self) -> list[int]:
        """All of its processes."""
        return [pid for leader in self._leaders for pid in session_pids(leader)]

    def cpu(self) -> int:
        """Their CPU time so far, in nanoseconds."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):  # a short-lived one has ended
                total += cpu_clock(pid)()
        return total

    def memory(self) -> int:
        """Their memory, in bytes."""
        return sum(memory(pid) for pid in self.pids())

    def publish(self, count: int = 1) -> None:
        """Publish an event, or so many of them at once; the answer is not waited for."""
        request = self.publication(event_data(), count)
        self._answers.append(_publishers.submit(_ask, self.port, request))

    def publication(self, data: str, count: int) -> bytes:
        """The request that publishes; so many at once are one request to an application."""
        return http_post(f"/publish?n={count}", data)

    def read_answers(self) -> None:
        """Make sure that everything was accepted.

        Raises:
            RuntimeError: It was not.
        """
        answers, self._answers = self._answers, []
        for each in answers:
            status = each.result(PATIENCE)
            if not status.startswith((b"HTTP/1.1 20", b"HTTP/1.0 20")):
                raise RuntimeError(f"Publishing was answered by {status!r}.")


# A blocking server waits for its client to hang up, so somebody has to read each answer.
_publishers = ThreadPoolExecutor(64)


def _ask(port: int, request: bytes) -> bytes:
    """Send a request, hang up when it is answered, and give the status line."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(request)
        answer = connection.recv(65536)
        # So many requests were sent, so many answers come.
        wanted, had = request.count(b"POST "), answer.count(b"HTTP/1.")
        while had < wanted and (more := connection.recv(65536)):
            had += more.count(b"HTTP/1.")
        return answer.partition(b"\r\n")[0]


def http_post(path: str, data: str) -> bytes:
    """A request."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(data)}\r\n\r\n{data}".encode()


class System(ABC):
    """One system.

    Attributes:
        name: As in the table.
        limit: The most subscribers that it is given.
        is_slow: Whether it takes so long that it is measured in fewer rounds.
        fits_crowd: Whether it is given one publish to very many subscribers.
    """

    name: str
    limit = 20_000
    is_slow = False
    fits_crowd = False

    def missing(self) -> str | None:
        """What is not there to run it, or None."""
        return None

    @abstractmethod
    def run(self) -> contextlib.AbstractContextManager[Running]:
        """Run it, until the block ends."""


class Gunicorn(Server):
    """gunicorn with whatever arguments."""

    def __init__(self, app: str, *args: str) -> None:
        command = [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:{port}", "--workers", "1"]
        command += ["--no-control-socket", "--backlog", "2048", *args, app]
        super().__init__(command, cwd=ROOT, env=PYTHON_ENV)


def missing_package(name: str) -> str | None:
    """Say so if a package is neither here nor in the benchmarks' own folder."""
    there = importlib.util.find_spec(name) or (PACKAGES / name).exists()
    return None if there else f"the package {name} ('scripts/setup bench' installs it)"


@contextlib.contextmanager
def running(
    server: Server, handshake: Handshake, running_class: type[Running] = Running
) -> Iterator[Running]:
    """Run a system that is one server."""
    with server:
        yield running_class(server, handshake)

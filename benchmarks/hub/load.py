"""The clients: a program in C, the same for every system, so that what differs is the server.

It is built where it is used (``cc``), into a folder that goes with the benchmark. Whether it was
the limit is asked in each phase: it tells its own CPU time.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from ..measure import NANOSECONDS

HERE = Path(__file__).parent
PATIENCE = 60.0  # seconds beyond what was asked for, until it must have answered


class Handshake(NamedTuple):
    """How a client becomes a subscriber.

    Attributes:
        request: What it sends.
        ready: What it is sent then.
        reply: What it sends after that, if that is not all.
        confirmed: What it is sent then.
        in_flight: How many clients may connect at a time.
    """

    request: bytes
    ready: bytes = b"\r\n\r\n"
    reply: bytes = b""
    confirmed: bytes = b""
    in_flight: int = 64


class Crowd(NamedTuple):
    """How many clients there are.

    Attributes:
        ready: Subscribed.
        ended: Connections that ended so far.
        opened: Connections that were opened so far.
    """

    ready: int
    ended: int
    opened: int


class Deliveries(NamedTuple):
    """What has come since :meth:`Load.begin`; times in nanoseconds.

    Attributes:
        count: How many.
        first: When the first came, on the monotonic clock.
        last: When the last came.
        p50: Half of them took less than this from their publishing.
        p99: All but one in a hundred did.
        longest: The longest took so long.
        cpu: The CPU time of the program.
    """

    count: int
    first: int
    last: int
    p50: int
    p99: int
    longest: int
    cpu: int


@functools.cache
def built(name: str) -> Path:
    """A program of this folder, compiled."""
    folder = tempfile.TemporaryDirectory(prefix="sa-bench-")
    _folders.append(folder)  # until this process ends
    program = Path(folder.name) / name
    command = ["cc", "-O2", "-Wall", "-o", str(program), str(HERE / f"{name}.c")]
    subprocess.run(command, check=True)
    return program


_folders: list[tempfile.TemporaryDirectory[str]] = []


class Load:
    """So many clients, in a ``with`` block.

    Args:
        port: The server's.
        count: How many.
        handshake: How they subscribe.
        again: Whether a client whose connection ends comes back, as an ``EventSource`` does.
    """

    def __init__(self, port: int, count: int, handshake: Handshake, *, again: bool = False) -> None:
        self.count = count
        words = [str(port), str(count), str(handshake.in_flight), str(int(again))]
        texts = [handshake.request, handshake.ready]
        if handshake.reply:
            texts += [handshake.reply, handshake.confirmed]
        self._process = subprocess.Popen(
            [built("load"), *words, *texts], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def wait_ready(self, count: int, seconds: float) -> Crowd:
        """Wait until so many are subscribed."""
        return Crowd(*map(int, self._ask(f"ready {count} {seconds * 1000:.0f}")))

    def begin(self) -> None:
        """Forget all deliveries."""
        self._ask("begin")

    def wait(self, count: int, seconds: float) -> Deliveries:
        """Wait until so many deliveries have come, for so long at most."""
        return Deliveries(*map(int, self._ask(f"wait {count} {seconds * 1000:.0f}")))

    def _ask(self, command: str) -> list[str]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(f"{command}\n".encode())
        stdin.flush()
        answer = stdout.readline().split()
        if not answer:
            raise RuntimeError(f"The load's program ended ({self._process.wait(PATIENCE)}).")
        return [word.decode() for word in answer]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()


def busy(deliveries: Deliveries, seconds: float) -> float:
    """The part of a phase's time in which the load's program had the processor."""
    return deliveries.cpu / NANOSECONDS / seconds

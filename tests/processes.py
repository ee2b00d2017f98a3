"""Processes as Linux shows them in /proc: who has started whom, and waiting for their end."""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 60.0  # seconds; a busy machine takes its time


def children(pid: int) -> list[int]:
    """The processes that a process has started; they may have ended meanwhile."""
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except FileNotFoundError:
        return []


def arguments(pid: int) -> list[str]:
    """A process's words."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except FileNotFoundError:
        return []


def family(pid: int) -> list[int]:
    """A process, and all that it and those have started."""
    return [pid, *(member for child in children(pid) for member in family(child))]


def program_of(pids: list[int], program: str) -> int:
    """The one process among some that runs a program, such as ``sidearm.hub``."""
    (found,) = [pid for pid in pids if program in arguments(pid)]
    return found


@contextlib.contextmanager
def ends_of(pids: list[int]) -> Iterator[Callable[[], None]]:
    """Gives a function that waits until the kernel says that these processes have ended."""
    with contextlib.ExitStack() as stack:
        handles = [os.pidfd_open(pid) for pid in pids]
        for handle in handles:
            stack.callback(os.close, handle)

        def wait() -> None:
            for pid, handle in zip(pids, handles, strict=True):
                poll = select.poll()  # select() takes no descriptor from 1024 on
                poll.register(handle, select.POLLIN)
                assert poll.poll(PATIENCE * 1000), f"process {pid} still runs: {arguments(pid)}"

        yield wait


@contextlib.contextmanager
def expect_end_of(pids: list[int]) -> Iterator[None]:
    """At the end of the block these processes end."""
    with ends_of(pids) as wait:
        yield
        wait()

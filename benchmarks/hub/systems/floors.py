"""The floors: one non-blocking ``send`` for each delivery, and nothing else."""

from __future__ import annotations

import shutil
import sys
from contextlib import AbstractContextManager

from sidearm.testing import Server

from ..load import Handshake, built
from ..system import ROOT, SSE_REQUEST, Running, System, http_post, running


class RunningFloor(Running):
    """A floor: it sends on what it is sent, so this makes the frame, as long as Sidearm's."""

    def publication(self, data: str, count: int) -> bytes:
        """The request."""
        frame = f"event: sold\ndata: {data}\nid: 0123456789-0123456789abcdef\n\n"
        return http_post(f"/publish?n={count}", frame)


class FloorInC(System):
    """``floor.c``."""

    name = "floor: one send, C"
    fits_crowd = True

    def missing(self) -> str | None:
        """A compiler."""
        return None if shutil.which("cc") else "a C compiler"

    def run(self) -> AbstractContextManager[Running]:
        """Run it."""
        return run_floor([str(built("floor"))])


class FloorInPython(System):
    """``floor.py``."""

    name = "floor: one send, Python"

    def run(self) -> AbstractContextManager[Running]:
        """Run it."""
        return run_floor([sys.executable, "-m", "benchmarks.hub.floor"])


def run_floor(command: list[str]) -> AbstractContextManager[Running]:
    """Run one of them."""
    return running(Server([*command, "{port}"], cwd=ROOT), Handshake(SSE_REQUEST), RunningFloor)

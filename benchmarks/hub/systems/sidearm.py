"""Sidearm: ``flask sidearm up`` with one blocking worker, and its hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sidearm.testing import UpServer

from ..load import Handshake
from ..system import ROOT, SSE_REQUEST, Running, System


class RunningSidearm(Running):
    """Sidearm, whose hub is known by its process."""

    hub_pid: int


class Sidearm(System):
    """Sidearm as its documentation has it, but without heartbeats, like all others here."""

    name = "Sidearm"
    fits_crowd = True

    @contextlib.contextmanager
    def run(self) -> Iterator[Running]:
        """Run it."""
        server = UpServer("benchmarks.hub.apps.live", workers=1, cwd=ROOT)
        with server:
            system = RunningSidearm(server, Handshake(SSE_REQUEST, b"\nid: "))
            system.hub_pid = server.hub_figures().pid
            yield system


class SidearmAgain(Sidearm):
    """The same once more: what differs is chance."""

    name = "Sidearm, again (A/A)"
    fits_crowd = False

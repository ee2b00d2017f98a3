"""Contracts W1 and H5 together: deploy after deploy under load, and nobody notices."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fronts import APPS, sidearm
from hub_crowd import Crowd, Member
from hub_streams import publishing, wait_for
from processes import children, expect_end_of, program_of

from sidearm.hub.client import HubClient
from sidearm.hub.eventstream import Event, Parser
from sidearm.testing import UpServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

pytestmark = [
    pytest.mark.usefixtures("many_descriptors"),
    pytest.mark.skipif(sys.platform != "linux", reason="watches processes in /proc"),
]

CLIENTS = int(os.environ.get("DEPLOY_CLIENTS", "200"))
ROUNDS = int(os.environ.get("DEPLOY_ROUNDS", "2"))
PATIENCE = 60.0 + CLIENTS / 10  # seconds; where very many are served on a busy machine


class Visitor(Member):
    """A browser: what it has been sent begins with the head."""

    @property
    def events(self) -> list[Event]:
        """The events, in the order in which they came."""
        return Parser().feed(bytes(self.raw).partition(b"\r\n\r\n")[2])

    @property
    def is_served(self) -> bool:
        """Whether the head has come, and the first comment."""
        return self.raw.startswith(b"HTTP/1.1 200 ") and b"\r\n\r\n:" in self.raw


class Visitors(Crowd):
    """Browsers that open streams at a web server."""

    def __init__(self, hub: HubClient, port: int) -> None:
        super().__init__(hub)
        self._port = port

    def come(self, count: int, path: str) -> None:
        """Open so many streams, and read until each has begun."""
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", self._port), PATIENCE)
            connection.sendall(b"GET %b HTTP/1.1\r\nHost: here\r\n\r\n" % path.encode())
            connection.setblocking(False)
            member = Visitor(connection)
            self._selector.register(connection, selectors.EVENT_READ, member)
            self.members.append(member)
        self.read(lambda: all(self._served()), PATIENCE)

    def _served(self) -> Iterator[bool]:
        return (isinstance(each, Visitor) and each.is_served for each in self.members)


class Requests:
    """Ordinary requests, one after the other, while a block runs: pages, and what publishes."""

    def __init__(self, server: UpServer) -> None:
        self._server = server
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self.versions: list[str] = []
        self.published = 0
        self.failures: list[BaseException] = []

    def _ask(self) -> None:
        while not self._stop.wait(0.05):
            try:
                self.versions.append(self._open("/version"))
                self._open(f"/publish/request-{self.published}", b"")
                self.published += 1
            except OSError as error:
                self.failures.append(error)

    def _open(self, path: str, data: bytes | None = None) -> str:
        with urllib.request.urlopen(self._server.url + path, data, PATIENCE) as response:
            text: str = response.read().decode()
            return text

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def deploy(server: UpServer, folder: Path, version: int) -> None:
    """New code in all web workers, then a new hub; returns when both are done."""
    web = program_of(children(server.pid), "sidearm.workers.web")
    (folder / "version").write_text(str(version))
    with expect_end_of(children(web)):
        server.send_signal(signal.SIGHUP)
    env = {"SITE_FOLDER": str(folder), "SIDEARM_SOCKET": server.socket_path}
    said = sidearm("whole_site:app", "hub", "--replace", env=env)
    assert "no stream was cut" in said


def test_h5_w1_deploys_that_nobody_notices(tmp_path: Path) -> None:
    """No client reconnects, each has every event once and in order, and no request fails."""
    (tmp_path / "version").write_text("0")
    began = time.monotonic()
    with ExitStack() as stack:
        server = stack.enter_context(
            UpServer(
                "whole_site:app",
                cwd=APPS,
                env={"SITE_FOLDER": str(tmp_path), "PYTHONPATH": str(APPS)},
                start_timeout=PATIENCE,
                stop_timeout=PATIENCE,
            )
        )
        hub = HubClient(server.socket_path)
        stack.callback(hub.close, flush_seconds=0)
        visitors = stack.enter_context(Visitors(hub, server.port))
        # Before there are events: nobody reads while all join.
        visitors.come(CLIENTS, "/stream")
        wait_for(server.socket_path, lambda figures: figures.subscribers == CLIENTS)
        failures: list[BaseException] = []
        done = threading.Event()

        def deploy_all() -> None:
            try:
                for version in range(1, ROUNDS + 1):
                    deploy(server, tmp_path, version)
            except BaseException as error:  # noqa: BLE001 (it is raised below)
                failures.append(error)
            finally:
                done.set()

        with Requests(server) as requests:
            stop = stack.enter_context(publishing(hub, "news"))
            deploying = threading.Thread(target=deploy_all)
            deploying.start()
            visitors.read(done.is_set, PATIENCE * (1 + 2 * ROUNDS))
            deploying.join()
            assert not failures, failures
            count = stop()
        assert not requests.failures
        assert requests.versions[-1] == str(ROUNDS)
        assert set(requests.versions) <= {str(n) for n in range(ROUNDS + 1)}
        total = count + requests.published
        figures = wait_for(server.socket_path, lambda figures: figures.published == total)
        assert (figures.takeovers, figures.subscribers) == (ROUNDS, CLIENTS)
        visitors.read_until_all_have(total, PATIENCE)
        assert visitors.ended() == 0
        # The hub's order is one for all. Of one publisher it is the order of publishing; of
        # requests, which several workers answer, each is there once.
        first, *others = visitors.members
        data = first.data
        assert [each for each in data if each.isdigit()] == [str(n) for n in range(count)]
        asked = sorted(each for each in data if not each.isdigit())
        assert asked == sorted(f"request-{n}" for n in range(requests.published))
        for member in others:
            assert member.data == data
        sys.stderr.write(
            f"{CLIENTS} clients, {ROUNDS} reloads and {ROUNDS} hubs in"
            f" {time.monotonic() - began:.0f} s: {total} events for each,"
            f" {len(requests.versions) + requests.published} requests.\n"
        )

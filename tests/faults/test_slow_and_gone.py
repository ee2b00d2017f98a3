"""Contracts H3, H4 and H8: clients that never read, that are gone, and what is no client at all."""

from __future__ import annotations

import os
import random
import resource
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hub_streams import PATIENCE, Stream, event, figures_of, publish_all, wait_for, wait_for_hub

from sidearm.hub.client import HubClient
from sidearm.hub.config import HubConfig
from sidearm.hub.messages import VERSION, Handoff, Hello, Publish, encode
from sidearm.testing import HubServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TESTS = Path(__file__).parents[1]
MIB = 1 << 20  # bytes


@pytest.fixture
def start_hub() -> Iterator[Callable[..., tuple[HubServer, HubClient]]]:
    """Start a hub process with settings of its own; and a worker's end of its socket."""
    with ExitStack() as stack:

        def start(**settings: Any) -> tuple[HubServer, HubClient]:
            make = lambda path: HubConfig(socket=path, **{"heartbeat": 0, **settings})  # noqa: E731
            server = stack.enter_context(HubServer(make))
            client = HubClient(server.socket_path)
            stack.callback(client.close)
            wait_for_hub(client)
            return server, client

        yield start


# H4, clients that do not read


@pytest.mark.usefixtures("many_descriptors")
def test_h4_a_thousand_that_never_read_beside_a_thousand_that_do(
    start_hub: Callable[..., tuple[HubServer, HubClient]],
) -> None:
    """Every reader gets every event in order; the others go, and memory stays in its bound."""
    bound = 4 * MIB
    server, hub = start_hub(
        subscriber_buffer=50_000, history_bytes=MIB, waiting_bytes=bound, max_streams_per_address=0
    )
    with ExitStack() as stack:
        deaf = [stack.enter_context(Stream(hub, "a", small=True)) for _ in range(1000)]
        readers = [stack.enter_context(Stream(hub, "a")) for _ in range(1000)]
        before = wait_for(server.socket_path, lambda figures: figures.subscribers == 2000)
        memory = _resident_bytes(before.pid)
        for reader in readers:
            assert _next_frame(reader).startswith(b"id: ")
        for number in range(25):
            hub.publish([event("a", f"{number} " + "x" * 12_000)])
            for reader in readers:
                assert b"data: %d x" % number in _next_frame(reader)
            assert figures_of(server.socket_path).buffer_bytes <= bound
        figures = wait_for(server.socket_path, lambda figures: figures.subscribers == 1000)
        assert figures.disconnected_slow == 1000
        assert figures.buffer_bytes == 0
        # Beside what waits: the history, and what the allocator keeps.
        assert _resident_bytes(before.pid) - memory < bound + 2 * MIB
        seen = [each.data.partition(" ")[0] for each in deaf[0].rest()]
        assert seen == [str(number) for number in range(len(seen))]


def test_h4_what_waits_in_all_is_bounded_and_the_slowest_goes_first(
    start_hub: Callable[..., tuple[HubServer, HubClient]],
) -> None:
    """Each waits for something else, so nothing is shared; who has waited longest is cut."""
    bound = 2 * MIB
    server, hub = start_hub(
        subscriber_buffer=MIB, history_bytes=MIB, history_count=1, waiting_bytes=bound
    )
    with ExitStack() as stack:
        reader = stack.enter_context(Stream(hub, "all"))
        deaf = [stack.enter_context(Stream(hub, f"{n}", small=True)) for n in range(10)]
        wait_for(server.socket_path, lambda figures: figures.subscribers == 11)
        for number in range(10):
            publish_all(hub, [event(f"{number}", "x" * 700_000)])  # the kernel takes some of it
            hub.publish([event("all", number)])
            assert reader.data(1) == [str(number)]
            figures = figures_of(server.socket_path)
            assert figures.buffer_bytes <= bound
        assert figures.disconnected_slow == 8
        assert figures.subscribers == 3
        for stream in deaf[:8]:
            assert stream.rest() == []  # cut in the middle of the event
        for stream in deaf[8:]:
            assert [len(text) for text in stream.data(1)] == [700_000]
        wait_for(server.socket_path, lambda figures: figures.buffer_bytes == 0)


# H3, clients whose network is gone


def _may_unshare() -> bool:
    unshare = shutil.which("unshare")
    return unshare is not None and not subprocess.call(
        [unshare, "-rn", "true"], stderr=subprocess.DEVNULL
    )


@pytest.mark.skipif(not _may_unshare(), reason="this user may make no network namespace")
@pytest.mark.parametrize("heartbeat", ["0.2", "0"])
def test_h3_half_open_peer_is_gone_within_the_time(heartbeat: str) -> None:
    """With heartbeats, and without them by the kernel's own probes; a longer time waits longer."""
    shown = subprocess.run(
        ["unshare", "-rn", sys.executable, TESTS / "faults/half_open.py", heartbeat],
        env={**os.environ, "PYTHONPATH": str(TESTS)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert shown.stdout == "0 1", shown.stderr


# H8, strangers


def test_h8_random_bytes_disturb_nobody(
    start_hub: Callable[..., tuple[HubServer, HubClient]],
) -> None:
    """Noise, and messages with a few bytes changed: each connection is dealt with alone."""
    server, hub = start_hub()
    chance = random.Random(20_260)
    messages = [
        encode(Hello(VERSION, "publish")),
        encode(Publish([event("b", "noise")] * 3)),
        encode(Handoff(("b",))),
    ]
    with Stream(hub, "a") as stream:
        for number in range(300):
            noise = bytearray(b"".join(messages) if number % 2 else chance.randbytes(600))
            for _ in range(number % 5):
                noise[chance.randrange(len(noise))] = chance.randrange(256)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(PATIENCE)
                connection.connect(server.socket_path)
                try:
                    connection.sendall(noise)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(1000):
                        continue
                except (BrokenPipeError, ConnectionResetError):  # it had heard enough
                    pass
            if number % 50 == 0:
                hub.publish([event("a", number)])
                assert stream.data(1) == [str(number)]
        figures = wait_for(server.socket_path, lambda figures: figures.connections <= 3)
    assert figures.refused_connections > 100
    assert "stranger" in server.log_text()
    assert "Traceback" not in server.log_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_h8_refused_user_is_in_the_log(
    start_hub: Callable[..., tuple[HubServer, HubClient]],
) -> None:
    """Random bytes of another user are not even read."""
    server, hub = start_hub()
    Path(server.socket_path).parent.chmod(0o711)
    Path(server.socket_path).chmod(0o666)
    code = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "with socket.socket(socket.AF_UNIX) as s:\n"
        "    s.connect(sys.argv[1])\n"
        "    try:\n"
        "        s.sendall(os.urandom(10_000))\n"
        "        print(s.recv(100))\n"
        "    except OSError:\n"
        "        print(b'')\n"
    )
    with Stream(hub, "a") as stream:
        command = [sys.executable, "-c", code, server.socket_path]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert shown.stdout == "b''\n", shown.stderr
        hub.publish([event("a", 1)])
        assert stream.data(1) == ["1"]
    server.wait_for_log("A connection of user 65534 was refused.")


def _next_frame(stream: Stream) -> bytes:
    """The next bytes up to a blank line; what follows is not sent before it was read."""
    stream.socket.settimeout(PATIENCE)
    frame = b""
    while not frame.endswith(b"\n\n"):
        more = stream.socket.recv(1 << 16)
        assert more, f"The stream ended with {frame[-100:]!r}."
        frame += more
    return frame


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()

"""Contract H5, step by step: a new hub that fails anywhere costs nobody anything."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hub_crowd import Crowd
from hub_streams import (
    PATIENCE,
    Stream,
    event,
    figures_of,
    publish_all,
    publishing,
    wait_for,
    wait_for_hub,
)
from hub_succession import Succession

from sidearm.hub.client import HubClient
from sidearm.hub.link import Link
from sidearm.hub.messages import Publish, Refused, TakeOver, encode
from sidearm.hub.state import STATE_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

FAULTY = Path(__file__).parent / "faulty_hub.py"
CLIENTS = 250  # two pieces of them
HEARTBEAT_INTERVAL = 0.05  # seconds; several fall due at each step of a hub that dawdles
HEARTBEAT_BYTES = b": \n\n"
HEARTBEAT = re.compile(rb"\n\n(?:: \n\nid: \S+\n\n)+")
PIECES = 7  # outline, frames, history, workers, clients twice, end
STEPS = (
    *(f"piece:{n}" for n in range(1, PIECES + 1)),
    "listener.Listener.inherit:1",
    "log.Log.restore:1",
    "connection.Connection.restore:1",
    "relay.Relay.restore:1",
    "closing.Closings.restore:1",
    "subscribers.Subscriber.restore:1",
    f"subscribers.Subscriber.restore:{CLIENTS}",
    f"fanout.Fanout.restore:{CLIENTS}",
    "takeover.Token.take:1",
)
TAKEN = ("listener.Listener.sign:1", "takeover.Successor.tell_serving:1")


@pytest.fixture
def heartbeat() -> float:
    return HEARTBEAT_INTERVAL


@contextmanager
def faulty_hub(hubs: Succession, *faults: str) -> Iterator[subprocess.Popen[bytes]]:
    """A new hub that wants to take over, with something in its way."""
    command = [sys.executable, str(FAULTY), hubs.config.to_json(), *faults]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as new:
        try:
            yield new
        finally:
            new.kill()


def fill(crowd: Crowd, hubs: Succession) -> None:
    """Have all clients join, and one event in the history."""
    crowd.join(CLIENTS, "a")
    wait_for(hubs.config.socket, lambda figures: figures.subscribers == CLIENTS)


@pytest.mark.parametrize(
    ("fault", "status"), [("raise", 1), ("kill", -signal.SIGKILL)], ids=["raise", "kill"]
)
def test_h5_failure_at_any_step_leaves_the_old_hub_serving(
    hubs: Succession, hub: HubClient, fault: str, status: int
) -> None:
    """Whether the new hub raises or is killed: each client has every event once."""
    with Crowd(hub) as crowd:
        fill(crowd, hubs)
        publish_all(hub, [event("a", 0)])
        for number, step in enumerate(STEPS, 1):
            with faulty_hub(hubs, f"{step}:{fault}") as new:
                _, said = new.communicate(timeout=PATIENCE)
                assert new.returncode == status, (step, said)
                assert (b"the test wants it so" in said) == (fault == "raise"), (step, said)
            hub.publish([event("a", number)])
            crowd.read_until_all_have(number + 1)
            figures = figures_of(hubs.config.socket)
            assert figures.failed_takeovers == number, step
            assert figures.pid == hubs.current.pid, step
        hubs.replace()  # and then one succeeds
        hub.publish([event("a", "last")])
        expected = (*map(str, range(len(STEPS) + 1)), "last")
        crowd.read_until_all_have(len(expected))
        assert crowd.ended() == 0
        assert {tuple(member.data) for member in crowd.members} == {expected}


def test_h5_there_are_no_more_pieces_than_are_tried(hubs: Succession, hub: HubClient) -> None:
    """The steps above are all that there are, for the state above."""
    with Crowd(hub) as crowd:
        fill(crowd, hubs)
        publish_all(hub, [event("a", 0)])
        with faulty_hub(hubs, f"piece:{PIECES + 1}:raise") as new:
            wait_for(hubs.config.socket, lambda figures: figures.pid == new.pid)
            new.terminate()
            new.communicate(timeout=PATIENCE)


@pytest.mark.parametrize("step", TAKEN)
def test_h5_new_hub_that_dies_when_it_has_the_token_is_a_dead_hub(
    hubs: Succession, hub: HubClient, step: str
) -> None:
    """The old one has ended, every stream ends, and a next hub finds the path free."""
    with Crowd(hub) as crowd:
        fill(crowd, hubs)
        old = hubs.current
        with faulty_hub(hubs, f"{step}:kill") as new:
            new.communicate(timeout=PATIENCE)
            assert new.returncode == -signal.SIGKILL
            assert old.wait_for_exit(PATIENCE) == 0
        crowd.read(lambda: crowd.ended() == len(crowd.members))
        hubs.start_anew()
        wait_for_hub(hub)
        assert figures_of(hubs.config.socket).takeovers == 0


@pytest.mark.parametrize(
    ("end", "moves"),
    [
        pytest.param((), True, id="taken over"),
        pytest.param(("takeover.Token.take:1:raise",), False, id="given up"),
    ],
)
def test_h5_heartbeats_that_fall_due_meanwhile(
    hubs: Succession, hub: HubClient, end: tuple[str, ...], *, moves: bool
) -> None:
    """Without whole heartbeats all clients get the same bytes, each event once, and then more.

    One that has not read everything yet gets no heartbeats, so their numbers may differ.
    """
    big = "x" * 150_000
    with Crowd(hub) as crowd, publishing(hub) as stop, Stream(hub, "a", small=True) as slow:
        crowd.join(CLIENTS, "a")
        wait_for(hubs.config.socket, lambda figures: figures.subscribers == CLIENTS + 1)
        crowd.read_until_all_have(1)
        publish_all(hub, [event("a", big)])
        assert figures_of(hubs.config.socket).pending_bytes > 0
        with faulty_hub(hubs, "piece:0:dawdle", *end) as new:
            old = hubs.current.pid
            if moves:
                crowd.read(lambda: hubs.current.status is not None)
            else:
                crowd.read(lambda: new.poll() is not None)
            assert figures_of(hubs.config.socket).pid == (new.pid if moves else old)
            before = [len(member.raw) for member in crowd.members]
            crowd.read(
                lambda: all(
                    member.raw.count(HEARTBEAT_BYTES, start) >= 2
                    for member, start in zip(crowd.members, before, strict=True)
                )
            )
            last = stop() - 1
            crowd.read(lambda: all(b"data: %d\n" % last in m.raw for m in crowd.members))
            assert crowd.ended() == 0
            first = max(int(member.data[0]) for member in crowd.members)
            since, until = (b"data: %d\n" % n for n in (first, last))
            between = (m.raw[m.raw.index(since) : m.raw.index(until)] for m in crowd.members)
            assert len({HEARTBEAT.sub(b"\n\n", each) for each in between}) == 1
            numbers = [str(n) for n in range(last + 1)]
            for data in (member.data for member in crowd.members):
                assert [each for each in data if each != big] == numbers[int(data[0]) :]
                assert data.count(big) == 1
            got = slow.data(1)
            while got[-1] != str(last):
                got += slow.data(1)
            assert [each for each in got if each != big] == numbers[int(got[0]) :]
            assert got.count(big) == 1


def test_h5_new_hub_begins_with_a_heartbeat(folder: str) -> None:
    """It does not know when the last one was, and its own next one is due late."""
    hubs = Succession(folder, heartbeat=3600)
    hub = HubClient(hubs.config.socket)
    try:
        with Stream(hub, "a") as stream:
            publish_all(hub, [event("a", 0)])
            assert stream.data(1) == ["0"]
            before = stream.raw.count(HEARTBEAT_BYTES)
            hubs.replace()
            stream.read_until(lambda stream: stream.raw.count(HEARTBEAT_BYTES) > before)
    finally:
        hub.close(flush_seconds=0)
        hubs.close()


# What a full machine does to a replacement


def test_h5_no_descriptor_is_left_for_the_token(hubs: Succession, hub: HubClient) -> None:
    """The old hub says so, and goes on with all."""
    with Crowd(hub) as crowd:
        crowd.join(20, "a")
        wait_for(hubs.config.socket, lambda figures: figures.subscribers == 20)
        link = Link(hubs.config.socket, "successor", PATIENCE)
        pid = hubs.current.pid
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
        link.send(encode(TakeOver((STATE_VERSION,), 1 << 20)), PATIENCE)
        assert "Too many open files" in hubs.current.wait_for_log("no descriptor for the token")
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        with pytest.raises(ConnectionResetError):
            while True:
                link.receive(PATIENCE)
        link.close()
        hub.publish([event("a", 0)])
        crowd.read_until_all_have(1)
        assert figures_of(hubs.config.socket).failed_takeovers == 1
        hubs.replace()
        hub.publish([event("a", 1)])
        crowd.read_until_all_have(2)
        assert crowd.ended() == 0


def test_h5_full_disk_does_not_end_a_hub_that_has_the_token(
    hubs: Succession, hub: HubClient
) -> None:
    """It cannot write down who it is, and serves all the same."""
    command = [sys.executable, "-m", "sidearm.hub", "--replace", hubs.config.to_json()]
    with Crowd(hub) as crowd:
        fill(crowd, hubs)
        with subprocess.Popen(
            ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", *command], stderr=subprocess.PIPE
        ) as new:
            try:
                crowd.read(lambda: hubs.current.status == 0)
                hub.publish([event("a", 0)])
                crowd.read_until_all_have(1)
                assert figures_of(hubs.config.socket).pid == new.pid
                assert crowd.ended() == 0
            finally:
                new.terminate()
                _, said = new.communicate(timeout=PATIENCE)
            assert b".lock names the wrong process: File too large." in said


def test_h8_descriptors_pile_up_in_no_message(hubs: Succession) -> None:
    """One may come with the beginning of a message; a second one before its end is refused.

    Else a worker would hold the hub's descriptors, and more than one message of the state may have.
    """
    link = Link(hubs.config.socket, "publish", PATIENCE)
    beginning = encode(Publish([event("a", "x")]))
    with Path(os.devnull).open("rb") as any_file:
        for byte in beginning[:2]:
            link.send(bytes([byte]), PATIENCE, any_file.fileno())
    (answer,) = link.receive(PATIENCE)
    assert isinstance(answer, Refused)
    assert "carries none" in answer.reason
    link.close()

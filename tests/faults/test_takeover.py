"""Contract H5: a new hub takes over with every connection, or the old one goes on with all."""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from typing import Any

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

from sidearm.exceptions import HubError
from sidearm.hub import operator
from sidearm.hub.client import HubClient
from sidearm.hub.config import HubConfig
from sidearm.hub.link import Link
from sidearm.hub.messages import (
    Figures,
    Handoff,
    Publish,
    Records,
    RecordsOf,
    Refused,
    Report,
    SendRecords,
    Stats,
    TakeOver,
    encode,
)
from sidearm.hub.position import is_end
from sidearm.hub.reader import RecordReader
from sidearm.hub.server import Server
from sidearm.hub.state import STATE_VERSION, Clients, End
from sidearm.hub.takeover import STEP_PATIENCE, NotReplaceable, Successor

pytestmark = pytest.mark.usefixtures("many_descriptors")

CLIENTS = int(os.environ.get("TAKEOVER_CLIENTS", "2000"))
REPLACEMENTS = int(os.environ.get("TAKEOVER_REPLACEMENTS", "5"))
KILLS = int(os.environ.get("TAKEOVER_KILLS", "5"))
AGE = 6.0  # seconds
LONG = 120.0  # seconds of patience where very many are served on a busy machine


def test_h5_nobody_reconnects_and_each_event_comes_once(hubs: Succession, hub: HubClient) -> None:
    """Hub after hub takes over from the last, while events are published and clients read."""
    with Crowd(hub) as crowd, ExitStack() as stack:
        # Before there are events: nobody reads while all join.
        crowd.join(CLIENTS, "a")
        stop = stack.enter_context(publishing(hub))
        done = threading.Event()

        def replace_all() -> None:
            try:
                for _ in range(REPLACEMENTS):
                    hubs.replace()
            finally:
                done.set()

        replacing = threading.Thread(target=replace_all)
        replacing.start()
        crowd.read(done.is_set, patience=PATIENCE * (1 + REPLACEMENTS))
        replacing.join()
        count = stop()
        figures = wait_for(hubs.config.socket, lambda figures: figures.published == count)
        assert figures.takeovers == REPLACEMENTS
        assert figures.subscribers == CLIENTS
        crowd.read(lambda: all(member.has_just_got(count - 1) for member in crowd.members), LONG)
        assert crowd.ended() == 0
        for member in crowd.members:
            data = member.data
            assert data == [str(n) for n in range(int(data[0]), count)]


def test_h5_log_goes_over_so_that_ids_go_on_meaning_the_same(
    hubs: Succession, hub: HubClient
) -> None:
    """A client that was away meanwhile resumes from an id of the old hub, without a gap event."""
    with Stream(hub, "a") as stream:
        publish_all(hub, [event("a", n) for n in range(3)])
        seen = stream.events(3)[0]
    hubs.replace()
    hub.publish([event("a", 3)])
    with Stream(hub, "a", last_event_id=seen.id) as stream:
        assert stream.data(3) == ["1", "2", "3"]


def test_h5_log_without_a_kept_event_goes_over_too(hubs: Succession, hub: HubClient) -> None:
    """The new hub goes on in the same epoch, where there is no history to begin with."""
    place, epoch = hub.position(), figures_of(hubs.config.socket).epoch
    hubs.replace()
    assert figures_of(hubs.config.socket).epoch == epoch
    publish_all(hub, [event("a", "after it")])
    with Stream(hub, "a", last_event_id=place) as stream:
        assert stream.data(1) == ["after it"]


def test_h5_what_waits_for_a_slow_client_goes_over(hubs: Succession, hub: HubClient) -> None:
    """A client that read nothing across two replacements finds every byte, in order."""
    texts = [f"{n} " + "x" * 4000 for n in range(200)]
    with Stream(hub, "a", small=True) as slow, Stream(hub, "a") as other:
        publish_all(hub, [event("a", text) for text in texts[:100]])
        assert figures_of(hubs.config.socket).pending_bytes > 0
        hubs.replace()
        publish_all(hub, [event("a", text) for text in texts[100:]])
        hubs.replace()
        assert figures_of(hubs.config.socket).pending_bytes > 0
        assert slow.data(200) == texts
        assert other.data(200) == texts
        wait_for(hubs.config.socket, lambda figures: figures.pending_bytes == 0)


def test_h5_half_a_message_of_a_worker_is_finished_at_the_next_hub(hubs: Succession) -> None:
    """Also when its descriptor had already come."""
    near, far = socket.socketpair()
    publish, handoff = (Link(hubs.config.socket, role, PATIENCE) for role in ("publish", "handoff"))
    with near, far:
        halves = encode(Publish([event("a", "whole")]))
        taken = encode(Handoff(("a",), replay=60.0))
        publish.send(halves[:9], PATIENCE)
        handoff.send(taken[:9], PATIENCE, far.fileno())
        # An answer says that the hub has read what came before; on other connections it is enough
        # that the hub goes around once more.
        for _ in range(2):
            figures_of(hubs.config.socket)
        hubs.replace()
        publish.send(halves[9:], PATIENCE)
        wait_for(hubs.config.socket, lambda figures: figures.published == 1)
        handoff.send(taken[9:], PATIENCE)
        wait_for(hubs.config.socket, lambda figures: figures.subscribers == 1)
        near.settimeout(PATIENCE)
        said = b""
        while b"whole" not in said:
            said += near.recv(4096)
    publish.close()
    handoff.close()


def test_h5_workers_keep_their_connections(hubs: Succession, hub: HubClient) -> None:
    """Neither those that publish nor those that ask connect anew."""
    publish_all(hub, [event("a", 1)])
    link = Link(hubs.config.socket, "ask", PATIENCE)
    hubs.replace()
    answer = link.ask(Stats(), PATIENCE)
    assert isinstance(answer, Figures)
    assert answer.pid == hubs.current.pid
    assert answer.published == 1
    link.close()


def test_h5_records_of_tasks_pass_through_the_next_hub(hubs: Succession) -> None:
    """A process that was asked answers the new hub, which knows who waits for it."""
    process = Link(hubs.config.socket, "records", PATIENCE)
    process.send(encode(Report(7, "app")), PATIENCE)
    reader = RecordReader(hubs.config.socket, PATIENCE)
    figures_of(hubs.config.socket)  # the report has been read
    reader.ask(count=1, failed=False, follow=True)
    [question] = process.receive(PATIENCE)
    assert isinstance(question, SendRecords)
    hubs.replace()
    process.send(encode(Records(question.request, [(False, b"{}")])), PATIENCE)
    told: list[object] = []
    while not any(isinstance(each, RecordsOf) and each.records == [b"{}"] for each in told):
        some = reader.receive(PATIENCE)
        assert some, told
        told += some
    reader.close()
    process.close()


def test_h5_ends_ages_tags_and_limits_hold_at_the_next_hub(folder: str) -> None:
    """What was agreed on with one hub, the next one does: contracts E7, H7 and H8."""
    with ExitStack() as stack:
        hubs = Succession(folder, heartbeat=0, max_streams_per_address=2)
        stack.callback(hubs.close)
        hub = HubClient(hubs.config.socket)
        stack.callback(hub.close, flush_seconds=0)

        def open_stream(*channels: str, **fields: Any) -> Stream:
            return stack.enter_context(Stream(hub, *channels, **fields))

        before = wait_for_hub(hub)
        texts = [f"{n} " + "x" * 10_000 for n in range(60)]
        slow = open_stream("job:7", small=True)
        wait_for(hubs.config.socket, lambda figures: figures.subscribers == 1)
        publish_all(hub, [event("job:7", text) for text in texts])
        wait_for(hubs.config.socket, lambda figures: figures.pending_bytes > 0)
        hub.close_streams("user:8")
        hub.publish([event("job:7", "done")], ends=(0,))
        wait_for(hubs.config.socket, lambda figures: figures.published == len(texts) + 1)
        tagged = open_stream("a", tags=("user:7",), address="192.0.2.7")
        partly = open_stream("a", "b", tags=("user:7",), address="192.0.2.7")
        old = open_stream("a", max_age=AGE)
        wait_for(hubs.config.socket, lambda figures: figures.opened == 4)
        held = figures_of(hubs.config.socket).buffer_bytes
        hubs.replace()
        assert figures_of(hubs.config.socket).buffer_bytes == held
        # The limit of an address counts streams of before.
        assert open_stream("a", address="192.0.2.7").rest() == []
        assert figures_of(hubs.config.socket).refused_streams == 1
        # A channel that had ended stays ended, for who was slow, and for who comes late.
        assert [each.data for each in slow.rest()] == [*texts, "done"]
        late = open_stream("job:7", position=before)
        assert late.rest()[-1].data == "done"
        for stream in (slow, late):
            assert is_end(stream.parser.last_event_id, ["job:7"])
        # A closing of before counts for a stream that was on its way.
        assert open_stream("b", tags=("user:8",), position=before).rest() == []
        # The tag is known; a stream that had no other channel left is closed.
        hub.close_streams("user:7", ("a",))
        assert tagged.rest() == []
        assert is_end(tagged.parser.last_event_id, ["a"])
        publish_all(hub, [event("a", 1), event("b", 2)])
        assert partly.data(1) == ["2"]
        # The age is.
        old.rest()
        figures = wait_for(hubs.config.socket, lambda figures: figures.subscribers == 1)
        assert (figures.aged, figures.closed, figures.buffer_bytes) == (1, 2, 0)


# A replacement that fails

# A new hub with something in its way; the configuration is its argument.
PATCHED = """
import os, signal, sys
from sidearm.hub import takeover
{patch}
from sidearm.hub.__main__ import main
sys.exit(main(["--replace", sys.argv[1]]))
"""


class Abandoned(Exception):  # nothing is wrong: the test wants it
    """The new hub goes no further."""


def fail_at(hubs: Succession, step: int) -> None:
    """Be a new hub that dies when so many pieces have come, as far as the old one can see."""
    successor = Successor(hubs.config.socket, 1 << 20)
    steps = itertools.count()

    def die(_: object) -> None:
        if next(steps) == step:
            raise Abandoned

    try:
        collected = successor.collect(die)
    except Abandoned:
        return
    # It has everything, and does not take the token.
    for descriptor in (
        *collected.descriptors,
        *(each for worker in collected.workers for each in worker.descriptors),
        *(client.descriptor for client in collected.clients),
    ):
        os.close(descriptor)
    successor.give_up("the test wants it so")


STEPS = 7  # outline, frames, history, workers, clients (two pieces), end


@pytest.mark.parametrize("step", range(STEPS + 1))
def test_h5_new_hub_that_dies_at_a_step_harms_nothing(
    hubs: Succession, hub: HubClient, step: int
) -> None:
    """The old one goes on, with every client, and every event comes once."""
    with Crowd(hub) as crowd:
        crowd.join(250, "a")
        publish_all(hub, [event("a", 0)])
        fail_at(hubs, step)
        hub.publish([event("a", 1)])
        crowd.read_until_all_have(2)
        figures = figures_of(hubs.config.socket)
        assert (figures.pid, figures.failed_takeovers) == (hubs.current.pid, 1)
        hubs.replace()  # and the next one succeeds
        hub.publish([event("a", 2)])
        crowd.read_until_all_have(3)
        assert crowd.ended() == 0
        assert {tuple(member.data) for member in crowd.members} == {("0", "1", "2")}


def test_h5_every_step_was_tried(hubs: Succession, hub: HubClient) -> None:
    """The steps above are all that there are."""
    pieces: list[str] = []
    with Crowd(hub) as crowd:
        crowd.join(250, "a")
        publish_all(hub, [event("a", 0)])
        successor = Successor(hubs.config.socket, 1 << 20)

        def note(piece: object) -> None:
            pieces.append(type(piece).__name__)
            if isinstance(piece, End):
                raise Abandoned

        with suppress(Abandoned):
            successor.collect(note)
    assert len(pieces) == STEPS
    assert pieces.count(Clients.__name__) == 2


def test_h5_new_process_killed_at_random_moments(hubs: Succession, hub: HubClient) -> None:
    """SIGKILL whenever it has not taken over yet: no client notices, and every event comes once."""
    seed = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
    sys.stderr.write(f"The seed is {seed} (SEED={seed} runs the same moments).\n")
    moments = random.Random(seed)
    script = PATCHED.format(
        # It never gets further: after that it would be the death of the hub itself.
        patch="takeover.Token.take = lambda token: os.kill(os.getpid(), signal.SIGSTOP)"
    )
    with Crowd(hub) as crowd, publishing(hub) as stop:
        crowd.join(200, "a")
        for _ in range(KILLS):
            with subprocess.Popen([sys.executable, "-c", script, hubs.config.to_json()]) as new:
                end = time.monotonic() + moments.uniform(0.0, 1.0)
                while time.monotonic() < end:
                    crowd.read_once(0.01)
                new.kill()
        count = stop()
        crowd.read(lambda: all(member.has_just_got(count - 1) for member in crowd.members))
        assert crowd.ended() == 0
        for member in crowd.members:
            data = member.data
            assert data == [str(n) for n in range(int(data[0]), count)]
        assert figures_of(hubs.config.socket).pid == hubs.current.pid


def test_h5_old_hub_that_dies_after_it_has_told_everything(
    hubs: Succession, hub: HubClient
) -> None:
    """The new one has all, takes the token, and every client stays."""
    with Crowd(hub) as crowd:
        crowd.join(100, "a")
        publish_all(hub, [event("a", 0)])
        crowd.read_until_all_have(1)
        script = PATCHED.format(
            patch=(
                "collect = takeover.Successor.collect\n"
                "def then_kill(self):\n"
                "    collected = collect(self)\n"
                "    os.kill(self.old_pid, signal.SIGKILL)\n"
                "    return collected\n"
                "takeover.Successor.collect = then_kill\n"
            )
        )
        old = hubs.current
        with subprocess.Popen([sys.executable, "-c", script, hubs.config.to_json()]) as new:
            try:
                assert old.wait_for_exit(PATIENCE) == -signal.SIGKILL
                hub.publish([event("a", 1)])
                crowd.read_until_all_have(2)
                assert crowd.ended() == 0
                assert figures_of(hubs.config.socket).pid == new.pid
            finally:
                new.terminate()


def test_h5_old_hub_that_dies_in_the_middle_is_a_dead_hub(hubs: Succession, hub: HubClient) -> None:
    """The new one says so and serves nobody; every stream ends, so that every client comes back."""
    with Crowd(hub) as crowd:
        crowd.join(250, "a")
        publish_all(hub, [event("a", 0)])
        successor = Successor(hubs.config.socket, 1 << 20)

        def kill(piece: object) -> None:
            if isinstance(piece, Clients):
                hubs.current.kill()

        with pytest.raises(NotReplaceable, match="in the middle"):
            successor.collect(kill)
        crowd.read(lambda: crowd.ended() == len(crowd.members))


def test_h5_new_hub_that_stands_still_is_given_up(hubs: Succession, hub: HubClient) -> None:
    """After some seconds the old one goes on; the other finds the token gone when it wakes up."""
    script = PATCHED.format(
        patch=(
            "collect = takeover.Successor.collect\n"
            "def then_stop(self):\n"
            "    collected = collect(self)\n"
            "    os.kill(os.getpid(), signal.SIGSTOP)\n"
            "    return collected\n"
            "takeover.Successor.collect = then_stop\n"
        )
    )
    with Crowd(hub) as crowd:
        crowd.join(50, "a")
        command = [sys.executable, "-c", script, hubs.config.to_json()]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as new:
            _, status = os.waitpid(new.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status)
            hub.publish([event("a", 0)])
            assert STEP_PATIENCE < PATIENCE
            crowd.read_until_all_have(1)
            new.send_signal(signal.SIGCONT)
            _, said = new.communicate(timeout=PATIENCE)
            assert "too slow" in said
            assert new.returncode == 1
        hub.publish([event("a", 1)])
        crowd.read_until_all_have(2)
        assert crowd.ended() == 0
        assert figures_of(hubs.config.socket).pid == hubs.current.pid


# A replacement that is refused


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        pytest.param(TakeOver((STATE_VERSION + 1,), 1 << 20), "version 1", id="version"),
        pytest.param(TakeOver((STATE_VERSION,), 100), "LimitNOFILE", id="room"),
    ],
)
def test_h5_refusal_says_why(
    hubs: Succession, hub: HubClient, message: TakeOver, reason: str
) -> None:
    """A version that it does not understand, and too few descriptors."""
    with Crowd(hub) as crowd:
        crowd.join(60, "a")
        wait_for(hubs.config.socket, lambda figures: figures.subscribers == 60)
        link = Link(hubs.config.socket, "successor", PATIENCE)
        answer = link.ask(message, PATIENCE)
        link.close()
        assert isinstance(answer, Refused)
        assert reason in answer.reason
        hub.publish([event("a", 0)])
        crowd.read_until_all_have(1)
        assert crowd.ended() == 0


def test_h5_new_process_without_room_for_the_descriptors(hubs: Succession, hub: HubClient) -> None:
    """A limit that the kernel enforces, and that was not told: seen, and the old one goes on."""
    script = (
        "import resource, sys\n"
        "from sidearm.hub.takeover import Successor\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))\n"
        "Successor(sys.argv[1], 1 << 20).collect()\n"
    )
    with Crowd(hub) as crowd:
        crowd.join(100, "a")
        done = subprocess.run(
            [sys.executable, "-c", script, hubs.config.socket],
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "no room for all descriptors" in done.stderr
        assert "no room for all descriptors" in hubs.current.wait_for_log("was not replaced")
        hub.publish([event("a", 0)])
        crowd.read_until_all_have(1)
        assert crowd.ended() == 0


def test_h5_hub_in_a_thread_belongs_to_its_process(folder: str) -> None:
    """The hub of a development server ends with that, so another process must not have it."""
    server = Server(HubConfig(socket=f"{folder}/hub.sock", heartbeat=0))
    server.start_in_thread()
    try:
        with pytest.raises(NotReplaceable, match="development server"):
            Successor(server.config.socket, 1 << 20).collect()
        assert figures_of(server.config.socket).failed_takeovers == 1
    finally:
        server.stop()


def test_h5_nothing_to_replace_is_a_first_hub(folder: str) -> None:
    """Whoever deploys need not know whether a hub runs."""
    config = HubConfig(socket=f"{folder}/hub.sock", heartbeat=0)
    new = subprocess.Popen([sys.executable, "-m", "sidearm.hub", "--replace", config.to_json()])
    with new:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                assert operator.read_figures(config.socket).takeovers == 0
                break
            except HubError:
                assert time.monotonic() < deadline
        new.terminate()

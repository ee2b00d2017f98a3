"""The hub as a process, with real sockets on both sides."""

from __future__ import annotations

import array
import json
import os
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from hub_streams import PATIENCE, Stream, event, figures_of, publish_all, wait_for, wait_for_hub

from sidearm.exceptions import HubError
from sidearm.hub.client import HubClient, ask_figures
from sidearm.hub.config import HubConfig
from sidearm.hub.eventstream import Parser
from sidearm.hub.link import Link
from sidearm.hub.messages import (
    LENGTH_BYTES,
    VERSION,
    Fetch,
    Fetched,
    Handoff,
    Hello,
    Publish,
    Refused,
    Welcome,
    decode_from_hub,
    encode,
)
from sidearm.hub.position import parse
from sidearm.hub.server import Server
from sidearm.testing import HubServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self


@pytest.fixture
def start_hub() -> Iterator[Callable[..., HubClient]]:
    """Start a hub with settings of its own, in a thread; gives a worker's end of its socket."""
    with ExitStack() as stack:

        def start(**settings: Any) -> HubClient:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="sa-")))
            settings = {"socket": str(folder / "hub.sock"), "heartbeat": 0} | settings
            server = Server(HubConfig(**settings))
            server.start_in_thread()
            stack.callback(server.stop)
            client = HubClient(server.config.socket)
            stack.callback(client.close)
            return client

        yield start


# Contract E3, resuming


def test_e3_id_resumes_without_gap_or_duplicate(hub: HubClient) -> None:
    """A client that comes back with its last id gets what it missed, and then what is live."""
    with Stream(hub, "a") as stream:
        hub.publish(event("a", n) for n in range(5))
        seen = stream.events(2)
    with Stream(hub, "a", last_event_id=seen[-1].id, snapshot=b"data: no\n\n") as stream:
        assert stream.data(3) == ["2", "3", "4"]
        hub.publish([event("a", 5)])
        assert stream.data(1) == ["5"]
        assert stream.is_quiet(0.05)


def test_e3_one_id_resumes_any_set_of_channels(hub: HubClient) -> None:
    """An id is a place in one log, whatever channels it was seen on."""
    with Stream(hub, "a") as stream:
        publish_all(hub, [event("a", 1), event("b", 2), event("c", 3), event("a", 4)])
        first, _ = stream.events(2)
    with Stream(hub, "b", "a", last_event_id=first.id) as stream:
        assert stream.data(2) == ["2", "4"]
        hub.publish([event("c", 5), event("a", 6), event("b", 7)])
        assert stream.data(2) == ["6", "7"]


def test_e3_newcomer_gets_nothing_old(hub: HubClient) -> None:
    """Without an id nothing is replayed; the stream begins with a place to resume from."""
    publish_all(hub, [event("a", "old")])
    with Stream(hub, "a", retry=1234) as stream:
        stream.read()
        assert stream.raw.startswith(b"retry: 1234\n\nid: ")
        place = stream.parser.last_event_id
        hub.publish([event("a", "new")])
        assert stream.data(1) == ["new"]
    with Stream(hub, "a", last_event_id=place) as stream:
        assert stream.data(1) == ["new"]


def gap_of(stream: Stream, last_event_id: str | None = None) -> str:
    """The reason that the first event gives, which must be a gap.

    Args:
        stream: The stream.
        last_event_id: The client's, where a snapshot follows: it stays until that has come. Else it
            is the place that the gap tells.
    """
    [gap] = stream.events(1)
    assert gap.event == "sidearm:gap"
    told = json.loads(gap.data)
    assert gap.id == (told["position"] if last_event_id is None else last_event_id)
    return str(told["reason"])


@pytest.mark.parametrize(
    ("last_event_id", "reason"),
    [
        ("", "unknown"),
        ("17", "unknown"),
        ("nonsense\u2028", "unknown"),
        ("{epoch}-ffffffffffffffff", "unknown"),
        ("{epoch}-1", "old"),
        ("0123456789-18eb2761760628ac", "epoch"),
    ],
)
def test_e3_bad_id_gets_the_gap_event_first(
    hub: HubClient, last_event_id: str, reason: str
) -> None:
    """An id that cannot be resumed from is answered by a gap, the snapshot, and what follows."""
    position = wait_for_hub(hub)
    publish_all(hub, [event("a", "since the view looked")])
    last_event_id = last_event_id.format(epoch=position.partition("-")[0])
    with Stream(
        hub, "a", position=position, last_event_id=last_event_id, snapshot=b"data: all\n\n"
    ) as stream:
        assert gap_of(stream, last_event_id) == reason
        assert stream.data(2) == ["all", "since the view looked"]
        hub.publish([event("a", "live")])
        assert stream.data(1) == ["live"]


def test_e3_gap_when_history_has_lost_an_event(start_hub: Callable[..., HubClient]) -> None:
    """An id before an event that history no longer has gets a gap, one after it does not."""
    hub = start_hub(history_count=3)
    with Stream(hub, "a") as stream:
        hub.publish(event("a", n) for n in range(6))
        ids = [each.id for each in stream.events(6)]
    with Stream(hub, "a", last_event_id=ids[2]) as stream:
        assert stream.data(3) == ["3", "4", "5"]
    with Stream(hub, "a", last_event_id=ids[1]) as stream:
        assert gap_of(stream) == "old"
    with Stream(hub, "b", last_event_id=ids[1]) as stream:
        hub.publish([event("b", "another channel lost nothing")])
        assert stream.data(1) == ["another channel lost nothing"]


def test_e3_id_of_a_former_hub_gets_a_gap(start_hub: Callable[..., HubClient]) -> None:
    """A hub that was started anew has a new epoch."""
    with Stream(start_hub(), "a") as stream:
        stream.read_until(lambda stream: stream.parser.last_event_id != "")
        former = stream.parser.last_event_id
    with Stream(start_hub(), "a", last_event_id=former) as stream:
        assert gap_of(stream) == "epoch"


def test_e3_live_only_event_has_no_id_and_no_history(hub: HubClient) -> None:
    """``keep=False`` reaches who is there, changes no id, and is never replayed."""
    with Stream(hub, "a") as stream:
        hub.publish([event("a", 1), event("a", 2, keep=False), event("a", 3)])
        first, live, _ = stream.events(3)
        assert (live.data, live.id) == ("2", first.id)
        assert stream.raw.count(b"id: ") == 3  # the opening's, and one for each kept event
    with Stream(hub, "a", last_event_id=first.id) as stream:
        assert stream.data(1) == ["3"]
        assert stream.is_quiet(0.05)


def test_e3_replay_reaches_back_so_far(hub: HubClient) -> None:
    """``replay`` gives a newcomer that much history, and refuses an older id."""
    with Stream(hub, "replayed") as stream:
        hub.publish([event("replayed", 1), event("replayed", 2)])
        first, _ = stream.events(2)
    with Stream(hub, "replayed", replay=60.0) as stream:
        assert stream.data(2) == ["1", "2"]
    with Stream(hub, "replayed", replay=60.0, last_event_id=first.id) as stream:
        assert stream.data(1) == ["2"]
    with Stream(hub, "replayed", replay=0.0, last_event_id=first.id) as stream:
        assert gap_of(stream) == "old"


# Contract E4, snapshots and positions


def test_e4_events_since_the_view_looked_follow_the_snapshot(hub: HubClient) -> None:
    """What is published between the view and the hub's taking over is not missed."""
    publish_all(hub, [event("a", "in the snapshot")])
    position = wait_for_hub(hub)
    publish_all(hub, [event("a", "after it"), event("b", "elsewhere")])
    with Stream(hub, "a", position=position, snapshot=b"data: snapshot\n\n") as stream:
        hub.publish([event("a", "live")])
        assert stream.data(3) == ["snapshot", "after it", "live"]


def test_e4_client_that_is_cut_before_the_end_of_its_snapshot_has_no_id(hub: HubClient) -> None:
    """After whichever byte: with an id, it has had all of the snapshot."""
    fields: dict[str, Any] = {"position": wait_for_hub(hub), "snapshot": b"data: snapshot\n\n"}
    publish_all(hub, [event("a", "after it")])
    with Stream(hub, "a", **fields) as whole:
        assert whole.data(2) == ["snapshot", "after it"]
    resumed = 0
    for size in range(len(whole.raw)):
        with Stream(hub, "a", **fields) as cut:
            while len(cut.raw) < size:
                assert cut.read(limit=size - len(cut.raw))
            had = [each.data for each in cut.pending_events()]
        told = cut.parser.last_event_id
        with Stream(hub, "a", last_event_id=told or None, **fields) as again:
            came = again.data(2 - len(had) if told else 2)
        assert (had if told else []) + came == ["snapshot", "after it"], cut.raw
        resumed += bool(told)
    assert resumed > 0


def test_e4_page_and_stream_join_at_its_position(hub: HubClient) -> None:
    """A page's position works as ``last_event_id``."""
    publish_all(hub, [event("a", "on the page")])
    page = wait_for_hub(hub)
    publish_all(hub, [event("a", "after it")])
    with Stream(hub, "a", last_event_id=page) as stream:
        assert stream.data(1) == ["after it"]


def test_e4_position_is_told_without_asking(hub: HubClient) -> None:
    """Two processes' positions are in the log's order, since the clock is the machine's."""
    before = wait_for_hub(hub)
    with Stream(hub, "a") as stream:
        hub.publish([event("a", 1)])
        [first] = stream.events(1)
    after = wait_for_hub(hub)
    places = [parse(str(text)) for text in (before, first.id, after)]
    assert all(places)
    assert places == sorted(places, key=lambda place: place.time if place else 0)


def test_e4_event_and_stream_that_arrive_together_meet_once(
    hub: HubClient, hub_server: HubServer
) -> None:
    """Where one wake-up brings an event and a stream that is due it, it is sent once."""
    with Stream(hub, "a") as first:
        place = wait_for_hub(hub)
        publish_all(hub, [event("b", "so that publishing is connected")])
        hub_server.send_signal(signal.SIGSTOP)
        try:
            os.waitid(os.P_PID, hub_server.pid, os.WSTOPPED)
            hub.publish([event("a", "together")])
            second = Stream(hub, "a", position=place)
        finally:
            hub_server.send_signal(signal.SIGCONT)
        with second:
            wait_for(hub.socket_path, lambda figures: figures.subscribers == 2)
            hub.publish([event("a", "next")])
            for stream in (first, second):
                assert stream.data(2) == ["together", "next"]


def test_e4_no_gap_and_no_duplicate_while_events_rain(hub: HubClient) -> None:
    """Streams that open under a stream of events see each event once, in order."""
    count, each_time = 20, 50
    total = count * each_time
    may_fall = threading.Semaphore(0)
    falling = threading.Semaphore(0)

    def rain() -> None:
        for n in range(total):
            may_fall.acquire()
            hub.publish([event("rain", n)])
            falling.release()

    publisher = threading.Thread(target=rain, daemon=True)
    publisher.start()
    with ExitStack() as stack:
        streams = []
        for _ in range(count):
            may_fall.release(each_time)
            falling.acquire()  # from here on the rest of these events races with the opening
            streams.append(stack.enter_context(Stream(hub, "rain")))
            for _ in range(each_time - 1):
                falling.acquire()
        publisher.join()
        # The last stream may have opened after the last drop: one more, that every stream is due.
        hub.publish([event("rain", total)])
        for number, stream in enumerate(streams, 1):
            stream.read_until(lambda stream: b"data: %d\n" % total in stream.raw)
            numbers = [int(each.data) for each in stream.pending_events()]
            assert numbers == list(range(numbers[0], total + 1))
            assert numbers[0] <= number * each_time  # all later ones fell when it was open


# Contract H3, heartbeats


def test_h3_ss13_heartbeat_is_a_comment_and_moves_the_id(
    start_hub: Callable[..., HubClient],
) -> None:
    """A quiet stream gets comments, and an id that does not grow old; nothing is dispatched."""
    hub = start_hub(heartbeat=0.02)
    with Stream(hub, "a") as stream:
        stream.read_until(lambda stream: len(stream.parser.comments) >= 2)
        place = stream.parser.last_event_id
        stream.read_until(lambda stream: stream.parser.last_event_id > place)
        assert not stream.pending_events()
        place = stream.parser.last_event_id
        hub.publish([event("a", 1)])
    with Stream(hub, "a", last_event_id=place) as stream:
        assert stream.data(1) == ["1"]


def test_h3_ss15_no_heartbeat_when_it_is_zero(hub: HubClient) -> None:
    """An interval of 0 sends nothing, and costs nothing: the hub does not spin."""
    with Stream(hub, "a") as stream:
        stream.read()
        pid = figures_of(hub.socket_path).pid
        before = _cpu_seconds(pid)
        assert stream.is_quiet(0.5)
        assert _cpu_seconds(pid) - before < 0.1


def test_h3_ss14_heartbeat_is_never_inside_an_event(start_hub: Callable[..., HubClient]) -> None:
    """Comments that are due while a large event is half sent do not tear it."""
    hub = start_hub(heartbeat=0.001, subscriber_buffer=1 << 24)
    large = ["x" * 200_000 + str(n) for n in range(5)]
    with Stream(hub, "a", small=True) as stream:
        hub.publish(event("a", data) for data in large)
        wait_for(hub.socket_path, lambda figures: figures.pending_bytes > 0)
        assert stream.data(5) == large
        stream.read_until(lambda stream: len(stream.parser.comments) > 3)


def test_h3_ss29_client_that_goes_away_is_forgotten_at_once(hub: HubClient) -> None:
    """A closed connection is no subscriber any more, and its channel is gone."""
    with Stream(hub, "a") as stream:
        stream.read()
        assert figures_of(hub.socket_path).channels == 1
    figures = wait_for(hub.socket_path, lambda figures: figures.subscribers == 0)
    assert figures.channels == 0


def test_h11_what_a_client_sends_is_thrown_away(hub: HubClient) -> None:
    """A client that goes on talking gets its events all the same."""
    with Stream(hub, "a") as stream:
        stream.socket.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10_000)
        hub.publish([event("a", 1)])
        assert stream.data(1) == ["1"]


# Contract H4, slow subscribers


def test_h4_ss28_subscriber_that_does_not_read_is_disconnected(tmp_path: Path) -> None:
    """Its buffer is bounded; the others get every event, and the process does not grow."""
    config = HubConfig(
        socket=str(tmp_path / "hub.sock"),
        heartbeat=0,
        subscriber_buffer=200_000,
        history_bytes=1 << 20,
    )
    with running(config), ExitStack() as stack:
        hub = HubClient(config.socket)
        stack.callback(hub.close)
        deaf = [stack.enter_context(Stream(hub, "a", small=True)) for _ in range(20)]
        reader = stack.enter_context(Stream(hub, "a"))
        before = wait_for(config.socket, lambda figures: figures.subscribers == 21)
        memory = _resident_bytes(before.pid)
        for n in range(100):
            hub.publish([event("a", f"{n} " + "x" * 40_000)])
            assert reader.data(1)[0].startswith(f"{n} ")
        figures = wait_for(config.socket, lambda figures: figures.subscribers == 1)
        assert figures.disconnected_slow == 20
        # 20 buffers of 200 kB, if they were not shared, and a history of 1 MiB.
        assert _resident_bytes(before.pid) - memory < 6 << 20
        seen = [each.id for each in deaf[0].rest()]
        with Stream(hub, "a", last_event_id=seen[-1]) as stream:
            # What came meanwhile is more than this history holds; it says so, and never nothing.
            assert gap_of(stream) == "old"


def test_h4_slow_subscriber_gets_everything_below_the_limit(hub: HubClient) -> None:
    """What its kernel buffer did not take follows, in order, when it reads."""
    texts = [f"{n} " + "x" * 10_000 for n in range(60)]
    with Stream(hub, "a", small=True) as stream:
        wait_for(hub.socket_path, lambda figures: figures.subscribers == 1)
        for text in texts:
            hub.publish([event("a", text)])
        wait_for(hub.socket_path, lambda figures: figures.pending_bytes > 0)
        assert stream.data(60) == texts
    figures = wait_for(hub.socket_path, lambda figures: figures.pending_bytes == 0)
    assert figures.disconnected_slow == 0


def test_h4_resume_may_be_longer_than_the_buffer(start_hub: Callable[..., HubClient]) -> None:
    """What a client missed is sent whole, also when more than its buffer waits."""
    hub = start_hub(subscriber_buffer=1000)
    place = wait_for_hub(hub)
    texts = [f"{n} " + "x" * 100_000 for n in range(20)]
    publish_all(hub, [event("a", text) for text in texts])
    with Stream(hub, "a", small=True, last_event_id=place) as stream:
        wait_for(hub.socket_path, lambda figures: figures.pending_bytes > 1000)
        hub.publish([event("a", "live")])
        assert stream.data(21) == [*texts, "live"]


# Contract H7, descriptors


def test_h7_descriptors_are_raised_to_the_hard_limit(tmp_path: Path) -> None:
    """A hub started with few descriptors takes all that the system allows."""
    config = HubConfig(socket=str(tmp_path / "hub.sock"), heartbeat=0)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with running(config, prefix="ulimit -Sn 32;"):
        assert figures_of(config.socket).descriptor_limit == hard


def test_h7_streams_below_the_limit_are_refused_politely(tmp_path: Path) -> None:
    """The ones there go on, the next get what is due and the end, and room is used again."""
    config = HubConfig(socket=str(tmp_path / "hub.sock"), heartbeat=0)
    with running(config, prefix="ulimit -n 64;"), ExitStack() as stack:
        hub = HubClient(config.socket)
        stack.callback(hub.close)
        publish_all(hub, [event("a", "missed")])
        place = hub.position()
        publish_all(hub, [event("a", "due")])
        streams = [
            stack.enter_context(Stream(hub, "a", last_event_id=place, retry=777)) for _ in range(60)
        ]
        figures = wait_for(
            config.socket, lambda figures: figures.opened + figures.refused_streams == 60
        )
        assert figures.refused_streams > 5
        assert figures.lost_descriptors == 0
        hub.publish([event("a", "hello")])
        refused = 0
        for stream in streams:
            told: list[str] = []
            while told[-1:] != ["hello"] and stream.read():
                told += [each.data for each in stream.pending_events()]
            assert stream.parser.retry == 777
            if told == ["due"]:
                refused += 1
            else:
                assert told == ["due", "hello"]
                stream.close()
        assert refused == figures.refused_streams
        wait_for(config.socket, lambda figures: figures.subscribers == 0)
        with Stream(hub, "a") as stream:
            hub.publish([event("a", "room again")])
            assert stream.data(1) == ["room again"]


# Contract H8, a private socket


def test_h8_socket_is_private(tmp_path: Path) -> None:
    """The socket is for its user only, and so is the folder that is made for it."""
    config = HubConfig(socket=str(tmp_path / "made" / "hub.sock"), heartbeat=0)
    with running(config):
        assert stat.S_IMODE(os.lstat(config.socket).st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
        assert stat.S_IMODE(Path(config.socket + ".lock").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_h8_other_users_are_refused(hub: HubClient) -> None:
    """Where the files' modes do not keep another user away, the peer credentials do."""
    before = figures_of(hub.socket_path).refused_connections
    Path(hub.socket_path).parent.chmod(0o711)
    Path(hub.socket_path).chmod(0o666)
    code = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "with socket.socket(socket.AF_UNIX) as s:\n"
        "    s.connect(sys.argv[1]); print(s.recv(100))\n"
    )
    command = [sys.executable, "-c", code, hub.socket_path]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert shown.stdout == "b''\n", shown.stderr
    assert figures_of(hub.socket_path).refused_connections == before + 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_h8_another_users_socket_is_not_trusted(hub: HubClient) -> None:
    """A worker gives clients' connections to no process of another user."""
    path = Path(hub.socket_path).with_name("impostor.sock")
    with socket.socket(socket.AF_UNIX) as impostor:
        impostor.bind(str(path))
        os.seteuid(65534)  # the peer credentials are those of listen()
        try:
            impostor.listen()
        finally:
            os.seteuid(0)
        with pytest.raises(HubError, match="belongs to user 65534"):
            ask_figures(str(path))


# Contract H9, encoded once and sent together


def test_h9_what_arrives_together_leaves_in_one_send(hub: HubClient) -> None:
    """A burst of events costs each subscriber one send."""
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(hub, "a", "b")) for _ in range(10)]
        before = wait_for(hub.socket_path, lambda figures: figures.subscribers == 10)
        publish_all(hub, [event("ab"[n % 2], n) for n in range(100)])
        after = figures_of(hub.socket_path)
        assert after.sends - before.sends == 10
        assert after.delivered - before.delivered == 1000
        for stream in streams:
            assert stream.data(100) == [str(n) for n in range(100)]


def test_fetch_answers_all_that_is_due(hub: HubClient) -> None:
    """A stream that is polled gets what a handed-over one would, and a place to go on from."""
    place = wait_for_hub(hub)
    publish_all(hub, [event("a", 1), event("b", 2), event("a", 3)])
    parser = Parser()
    body = hub.fetch(Fetch(("a",), last_event_id=place, retry=2000))
    assert body is not None
    assert [each.data for each in parser.feed(body)] == ["1", "3"]
    assert parser.retry == 2000
    publish_all(hub, [event("a", 4)])
    body = hub.fetch(Fetch(("a",), last_event_id=parser.last_event_id))
    assert body is not None
    assert [each.data for each in parser.feed(body)] == ["4"]


def test_fetch_of_more_than_a_socket_buffer(hub: HubClient) -> None:
    """A long answer is sent as the worker reads it, and then the hub is at rest again."""
    place = wait_for_hub(hub)
    texts = [f"{n} " + "x" * 100_000 for n in range(20)]
    publish_all(hub, [event("a", text) for text in texts])
    link = Link(hub.socket_path, "ask", PATIENCE)
    body = link.ask(Fetch(("a",), last_event_id=place), PATIENCE)
    assert isinstance(body, Fetched)
    assert [each.data for each in Parser().feed(body.body)] == texts
    pid = figures_of(hub.socket_path).pid
    before = _cpu_seconds(pid)
    select.select([], [], [], 0.5)
    assert _cpu_seconds(pid) - before < 0.1
    link.close()


# Starting and stopping


def run_hub(config: HubConfig, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a hub that is expected to end by itself."""
    command = [sys.executable, "-m", "sidearm.hub", config.to_json(), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, **options
    )


class running(ExitStack):  # noqa: N801 - read as a sentence: with running(config)
    """A hub process with a command line of its own; it must end by SIGTERM with status 0."""

    def __init__(
        self, config: HubConfig, *arguments: str, prefix: str = "", **options: Any
    ) -> None:
        super().__init__()
        command = [sys.executable, "-m", "sidearm.hub", config.to_json(), *arguments]
        if prefix:
            command = ["sh", "-c", f'{prefix} exec "$@"', "sh", *command]
        self.config = config
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)

    def __enter__(self) -> Self:
        while self.process.poll() is None:
            try:
                figures_of(self.config.socket)
            except HubError:
                time.sleep(0.02)
            else:
                return self
        raise AssertionError(self.process.communicate())

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        _, self.log = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, self.log


def test_sigterm_and_sigint_stop_in_order(tmp_path: Path) -> None:
    """Status 0, no socket and no lock left, nothing printed, every stream ended."""
    config = HubConfig(socket=str(tmp_path / "hub.sock"), heartbeat=0)
    for number in (signal.SIGTERM, signal.SIGINT):
        with running(config) as process:
            hub = HubClient(config.socket)
            with Stream(hub, "a") as stream:
                hub.publish([event("a", "last words")])
                assert stream.data(1) == ["last words"]
                process.process.send_signal(number)
                assert stream.rest() == []
            assert process.process.wait(60) == 0
            hub.close()
        assert process.log == ""
        assert not list(tmp_path.iterdir())


def test_hub_ends_with_its_lifeline(tmp_path: Path) -> None:
    """A hub whose parent is killed does not stay behind."""
    config = HubConfig(socket=str(tmp_path / "hub.sock"), heartbeat=0)
    read, write = os.pipe()
    try:
        with running(config, "--lifeline", str(read), pass_fds=[read]) as process:
            os.close(read)
            read = -1
            os.close(write)
            write = -1
            assert process.process.wait(60) == 0
    finally:
        for descriptor in (read, write):
            if descriptor >= 0:
                os.close(descriptor)
    assert not list(tmp_path.iterdir())


def test_second_hub_names_the_first(hub: HubClient) -> None:
    """Two hubs on one socket would split the events: the second ends with one line."""
    pid = figures_of(hub.socket_path).pid
    ended = run_hub(HubConfig(socket=hub.socket_path))
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert repr(hub.socket_path) in ended.stderr
    assert f"process {pid}" in ended.stderr
    assert figures_of(hub.socket_path).pid == pid


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("x" * 200, ["bytes", "shorter path"]),
        ("/proc/nowhere/hub.sock", ["cannot listen", "may write"]),
        ("{tmp}/file/hub.sock", ["cannot listen", "may write"]),
        ("{tmp}/file", ["no socket"]),
    ],
)
def test_bad_socket_path_is_one_clear_line(tmp_path: Path, path: str, told: list[str]) -> None:
    """The error names the path and the cure; what is in the way stays."""
    (tmp_path / "file").write_text("precious")
    path = path.format(tmp=tmp_path)
    ended = run_hub(HubConfig(socket=path), cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    for text in [repr(path), "SIDEARM_SOCKET", *told]:
        assert text in ended.stderr
    assert (tmp_path / "file").read_text() == "precious"


def test_configuration_that_cannot_be_read_is_one_clear_line() -> None:
    """A wrong type is named with its field."""
    command = [sys.executable, "-m", "sidearm.hub", '{"socket": "/x", "heartbeat": "15s"}']
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "heartbeat" in ended.stderr


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    """What a killed hub leaves behind does not stop the next."""
    config = HubConfig(socket=str(tmp_path / "hub.sock"), heartbeat=0)
    first = running(config).__enter__()
    first.process.kill()
    first.process.communicate(timeout=60)
    assert Path(config.socket).exists()
    with running(config) as second:
        assert figures_of(config.socket).pid == second.process.pid
    assert not list(tmp_path.iterdir())


def test_socket_of_another_program_is_left_alone(tmp_path: Path) -> None:
    """Something that listens on the path without being a hub is not pushed aside."""
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(path)
        other.listen()
        ended = run_hub(HubConfig(socket=path))
        assert "no hub" in ended.stderr
        assert ended.returncode == 1
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_hub_in_a_thread_leaves_signals_alone(tmp_path: Path) -> None:
    """``flask run`` keeps its Ctrl-C; the hub starts, says why it cannot, and stops."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    config = HubConfig(socket=str(tmp_path / "hub.sock"), heartbeat=0)
    server = Server(config)
    server.start_in_thread()
    try:
        assert handlers == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
        with pytest.raises(HubError, match=f"process {os.getpid()}"):
            Server(config).start_in_thread()
        hub = HubClient(config.socket)
        with Stream(hub, "a") as stream:
            hub.publish([event("a", 1)])
            assert stream.data(1) == ["1"]
        hub.close()
    finally:
        server.stop()
    assert not list(tmp_path.iterdir())


# What is not a worker


@pytest.fixture
def connect(hub: HubClient) -> Iterator[Callable[[], socket.socket]]:
    """Open raw connections to the hub's socket."""
    with ExitStack() as stack:

        def connect() -> socket.socket:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.settimeout(PATIENCE)
            connection.connect(hub.socket_path)
            return connection

        yield connect


def answer(connection: socket.socket) -> object:
    """The next message on a raw connection, or None at its end; not a byte more is read."""

    def read(size: int) -> bytes:
        data = b""
        while len(data) < size and (more := connection.recv(size - len(data))):
            data += more
        return data

    length = int.from_bytes(read(LENGTH_BYTES), "big")
    return decode_from_hub(read(length)) if length else None


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\0\0\0",
        b"\0\0\0\x04oops",
        b"\0\0\0\x01\xc1",
        b"\xff" * 5000,
        encode(Publish([event("a", 1)])),
        encode(Hello(VERSION - 1, "publish")),
        encode(Hello(VERSION, "publish")) + b"\0\0\0\x07\x92\xa7publish"[:11],
        encode(Hello(VERSION, "publish")) + b"\xff\xff\xff\xff",
    ],
    ids=[
        "http",
        "empty",
        "text",
        "byte",
        "long",
        "no-hello",
        "old-version",
        "torn",
        "huge",
    ],
)
def test_what_is_no_message_is_refused_and_disturbs_nobody(
    hub: HubClient, connect: Callable[[], socket.socket], said: bytes
) -> None:
    """The connection is told why and closed; streams and workers do not notice."""
    before = figures_of(hub.socket_path).refused_connections
    with Stream(hub, "a") as stream:
        connection = connect()
        connection.sendall(said)
        reply = answer(connection)
        if isinstance(reply, Welcome):
            reply = answer(connection)
        assert isinstance(reply, Refused)
        assert figures_of(hub.socket_path).refused_connections == before + 1
        hub.publish([event("a", 1)])
        assert stream.data(1) == ["1"]


def test_old_version_is_told_what_to_do(
    connect: Callable[[], socket.socket],
) -> None:
    """The refusal names both versions."""
    connection = connect()
    connection.sendall(encode(Hello(99, "publish")))
    reply = answer(connection)
    assert isinstance(reply, Refused)
    assert "99" in reply.reason
    assert "Restart" in reply.reason


def test_large_event_that_arrives_anyway_is_refused(start_hub: Callable[..., HubClient]) -> None:
    """The hub does not trust workers with its limit; the others of the batch go on."""
    hub = start_hub(max_event_size=100)
    with Stream(hub, "a") as stream:
        hub.publish(
            [event("a", 1), event("a", "x" * 200), ("a", b"data: torn", True), event("a", 2)]
        )
        assert stream.data(2) == ["1", "2"]
    assert figures_of(hub.socket_path).refused_events == 2


def _send_descriptor(hub: HubClient, descriptor: int) -> None:
    assert hub.handoff(Handoff(("a",), wait_for_hub(hub)), descriptor)


def test_descriptor_that_is_no_client_is_refused(hub: HubClient, tmp_path: Path) -> None:
    """A file, a pipe, a listener and a datagram socket are closed, and the hub lives on."""
    before = figures_of(hub.socket_path).refused_descriptors
    with ExitStack() as stack:
        things: list[Any] = [stack.enter_context((tmp_path / "f").open("w"))]
        things += [stack.enter_context(os.fdopen(end)) for end in os.pipe()[:1]]
        things += [stack.enter_context(socket.create_server(("127.0.0.1", 0)))]
        things += [stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))]
        for thing in things:
            _send_descriptor(hub, thing.fileno())
        due = before + len(things)
        wait_for(hub.socket_path, lambda figures: figures.refused_descriptors == due)
        with Stream(hub, "a") as stream:
            hub.publish([event("a", 1)])
            assert stream.data(1) == ["1"]


def test_handed_over_unix_socket_is_served(hub: HubClient) -> None:
    """A client behind a proxy on the same machine has no TCP options."""
    near, far = socket.socketpair()
    with near, far:
        _send_descriptor(hub, far.fileno())
        far.close()
        hub.publish([event("a", "hello")])
        near.settimeout(PATIENCE)
        received = b""
        while b"data: hello\n\n" not in received:
            received += near.recv(1000)


@pytest.mark.parametrize("case", ["none", "two", "with-hello"])
def test_descriptors_and_messages_must_match(
    hub: HubClient, connect: Callable[[], socket.socket], case: str
) -> None:
    """A hand-over without its descriptor, or one too many, ends the connection and closes them."""
    connection = connect()
    near, far = socket.socketpair()
    with near, far:
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [far.fileno()] * 2))
        hello = encode(Hello(VERSION, "handoff"))
        if case == "with-hello":
            connection.sendmsg([hello], [(*rights[:2], array.array("i", [far.fileno()]))])
        else:
            connection.sendall(hello)
        assert isinstance(answer(connection), Welcome)
        if case != "with-hello":
            handoff = encode(Handoff(("a",)))
            connection.sendmsg([handoff], [rights] if case == "two" else [])
        assert isinstance(answer(connection), Refused)
        far.close()
        near.settimeout(PATIENCE)
        assert near.recv(1) == b""
    assert figures_of(hub.socket_path).subscribers == 0


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def test_settings_reach_the_process() -> None:
    """The configuration survives its way through the command line."""
    config = HubConfig(socket="/s", heartbeat=0.5, history_count=7)
    assert HubConfig.from_json(config.to_json()) == config
    assert HubConfig.from_json('{"socket": "/s"}') == replace(
        config, heartbeat=15.0, history_count=1000
    )


def test_h6_waits_before_a_reconnect_follow_the_number_of_streams(
    start_hub: Callable[..., HubClient],
) -> None:
    """A stream that was opened among few is told again when many have come; a view's own stays."""
    hub = start_hub(heartbeat=0.1, retry_spread=0.001, reconnect_rate=0.001)
    with ExitStack() as stack:
        # One stream makes the range a thousand seconds wide, twenty make it twenty thousand.
        fixed = stack.enter_context(Stream(hub, "a", retry=777))
        first = stack.enter_context(Stream(hub, "a", shortest_wait=1.0))
        first.read_until(lambda stream: stream.parser.retry is not None)
        told = first.parser.retry
        assert told is not None
        assert 1000 <= told <= 2_001_000
        rest = [stack.enter_context(Stream(hub, "a", shortest_wait=1.0)) for _ in range(18)]
        first.read_until(lambda stream: stream.parser.retry != told)
        for stream in rest:
            stream.read_until(lambda stream: stream.parser.retry is not None)
        waits = [stream.parser.retry or 0 for stream in rest]
        assert len(set(waits)) == 18
        assert max(waits) > 2_001_000  # by chance none is, once in 10 ** 15
        hub.publish([event("a", "last")])
        assert fixed.data(1) == ["last"]
        assert fixed.parser.retry == 777

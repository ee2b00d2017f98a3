"""Kill the hub, stop it, starve it; then count."""

from __future__ import annotations

import itertools
import json
import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from hub_streams import (
    PATIENCE as LONG,
)
from hub_streams import (
    PAUSE,
    Stream,
    event,
    figures_of,
    publish_all,
    wait_for,
    wait_for_hub,
)

from sidearm.hub.client import BREAK, PATIENCE, HubClient
from sidearm.hub.config import HubConfig
from sidearm.hub.link import Link
from sidearm.hub.messages import VERSION, Fetch, Figures, Handoff, Hello, Publish, Stats, encode
from sidearm.testing import HubServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLACK = 5.0  # seconds that a loaded machine may add; what must not wait is done forty times


@pytest.fixture
def socket_path() -> Iterator[str]:
    """A path for several hubs, one after the other."""
    with TemporaryDirectory(prefix="sa-") as folder:
        yield f"{folder}/hub.sock"


@pytest.fixture
def start(socket_path: str) -> Iterator[Callable[..., HubServer]]:
    """Start a hub on :func:`socket_path`."""
    with ExitStack() as stack:

        def start(**settings: Any) -> HubServer:
            settings = {"heartbeat": 0} | settings
            config = HubConfig(socket=socket_path, **settings)
            server = stack.enter_context(HubServer(lambda _: config))
            # A stopped process would not hear SIGTERM.
            stack.callback(_wake_up, server)
            return server

        yield start


@pytest.fixture
def make_client(socket_path: str) -> Iterator[Callable[..., HubClient]]:
    """Make a worker's end of the hub's socket."""
    with ExitStack() as stack:

        def make(**settings: Any) -> HubClient:
            client = HubClient(socket_path, **settings)
            stack.callback(client.close, flush_seconds=0)
            return client

        yield make


def _wake_up(server: HubServer) -> None:
    if server.status is None:
        server.send_signal(signal.SIGCONT)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Assert that the block does not hold its caller for longer."""
    before = time.monotonic()
    yield
    spent = time.monotonic() - before
    assert spent < seconds + SLACK, f"{spent:.2f} s"


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(PAUSE)


# A hub that is away


def test_h6_no_hub_fails_nothing(make_client: Callable[..., HubClient], socket_path: str) -> None:
    """Every call answers at once that nobody is there."""
    hub = make_client()
    near, far = socket.socketpair()
    with near, far, at_most(0.1):
        for _ in range(20):
            hub.publish([event("a", 1)])
            assert hub.position() is None
            assert hub.position_at(time.monotonic_ns()) is None
            assert hub.fetch(Fetch(("a",))) is None
            assert not hub.handoff(Handoff(("a",)), far.fileno())
    assert hub.stats() is None


def test_h6_published_while_away_arrives_in_order(
    make_client: Callable[..., HubClient], start: Callable[..., HubServer]
) -> None:
    """What was published before the hub was up waits for it; then no thread is left."""
    hub = make_client()
    for n in range(10):
        hub.publish([event("a", n)])
    assert _flushers()
    start()
    with Stream(hub, "a", replay=60.0) as stream:
        assert stream.data(10) == [str(n) for n in range(10)]
        wait_until(lambda: not _flushers())
        hub.publish([event("a", "direct")])
        assert stream.data(1) == ["direct"]
        assert not _flushers()


def _flushers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sidearm-publish"]


def test_h6_killed_hub_is_a_new_epoch(
    make_client: Callable[..., HubClient], start: Callable[..., HubServer]
) -> None:
    """Streams end, workers go on, the next hub gets what was published meanwhile and says so."""
    hub = make_client()
    first = start()
    with Stream(hub, "a") as stream:
        publish_all(hub, [event("a", 1)])
        [seen] = stream.events(1)
        first.kill()
        assert stream.rest() == []
    with at_most(0.1):
        hub.publish([event("a", 2)])
        assert hub.position() is None
    second = start()  # on the socket that the first left behind
    wait_for(second.socket_path, lambda figures: figures.published == 1)
    assert not wait_for_hub(hub).startswith(seen.id.partition("-")[0])
    with Stream(hub, "a", last_event_id=seen.id, replay=60.0) as stream:
        [gap] = stream.events(1)
        assert gap.event == "sidearm:gap"
        assert json.loads(gap.data)["reason"] == "epoch"
        hub.publish([event("a", 3)])
        assert stream.data(1)[0] in "23"


@pytest.mark.parametrize(
    ("limits", "reason", "count"),
    [
        ({"pending_count": 3}, "more than 3 events waited", 7),
        ({"pending_bytes": 200}, "more than 200 bytes waited", None),
        ({"pending_age": 0.2}, "they waited for more than 0.2 seconds", 10),
    ],
)
def test_h6_what_waits_is_bounded_and_its_loss_is_told(
    make_client: Callable[..., HubClient],
    caplog: pytest.LogCaptureFixture,
    limits: dict[str, Any],
    reason: str,
    count: int | None,
) -> None:
    """Beyond a bound events are dropped with a call, a count and a log line."""
    told: list[tuple[int, str]] = []
    hub = make_client(on_drop=lambda count, reason: told.append((count, reason)), **limits)
    for n in range(10):
        hub.publish([event("a", n)])
    wait_until(lambda: sum(count for count, _ in told) >= (count or 1))
    assert {each for _, each in told} == {reason}
    if count is not None:
        assert sum(each for each, _ in told) == count
    assert any(reason in record.getMessage() for record in caplog.records)


def test_h6_process_that_ends_says_what_it_loses(
    make_client: Callable[..., HubClient], caplog: pytest.LogCaptureFixture
) -> None:
    """Closing waits a little for the hub, and then counts."""
    told: list[int] = []
    hub = make_client(on_drop=lambda count, _: told.append(count))
    hub.publish([event("a", 1), event("a", 2)])
    with at_most(0.2):
        hub.close(flush_seconds=0.2)
    assert told == [2]


def test_h6_command_that_publishes_and_ends_is_heard(
    start: Callable[..., HubServer], socket_path: str
) -> None:
    """A short process publishes what it has to before it ends."""
    start()
    code = (
        "import sys; from sidearm.hub.client import HubClient\n"
        "HubClient(sys.argv[1]).publish([('a', b'data: 1\\n', True)])\n"
    )
    subprocess.run([sys.executable, "-c", code, socket_path], timeout=90, check=True)
    wait_for(socket_path, lambda figures: figures.published == 1)


def test_h6_failing_on_drop_is_logged(
    make_client: Callable[..., HubClient], caplog: pytest.LogCaptureFixture
) -> None:
    """The application's own mistake stops nothing."""

    def fail(count: int, reason: str) -> None:
        raise RuntimeError("mistake")

    hub = make_client(pending_count=1, on_drop=fail)
    hub.publish([event("a", 1)])
    hub.publish([event("a", 2)])
    assert "mistake" in caplog.text


# A hub that is stuck


def test_h6_stuck_hub_holds_nobody(
    make_client: Callable[..., HubClient], start: Callable[..., HubServer]
) -> None:
    """A question costs a quarter of a second once, then nobody asks for a while."""
    hub = make_client()
    server = start()
    with Stream(hub, "a") as stream:
        publish_all(hub, [event("a", 0)])
        wait_until(lambda: hub.fetch(Fetch(("a",))) is not None)
        server.send_signal(signal.SIGSTOP)
        with at_most(PATIENCE):
            assert hub.fetch(Fetch(("a",))) is None
        with at_most(PATIENCE):
            for _ in range(40):
                assert hub.fetch(Fetch(("a",))) is None
                assert hub.position() is not None
        with at_most(0.0):
            for n in range(1, 200):
                hub.publish([event("a", f"{n} " + "x" * 5000)])
        assert _flushers()
        server.send_signal(signal.SIGCONT)
        assert [text.split()[0] for text in stream.data(200)] == [str(n) for n in range(200)]
        wait_until(lambda: hub.fetch(Fetch(("a",))) is not None)


def test_h6_stuck_hub_takes_no_client_with_it(
    make_client: Callable[..., HubClient], start: Callable[..., HubServer]
) -> None:
    """When its queue is full, a client's socket stays with the worker, which may use it."""
    hub = make_client()
    server = start()
    wait_for_hub(hub)
    server.send_signal(signal.SIGSTOP)
    with ExitStack() as stack:
        near, far = (stack.enter_context(each) for each in socket.socketpair())
        given = 0
        with at_most(PATIENCE):
            while hub.handoff(Handoff(("a",)), far.fileno()):
                given += 1
                assert given < 2000
        with at_most(PATIENCE):
            for _ in range(40):
                assert not hub.handoff(Handoff(("a",)), far.fileno())
        assert given > 0
        server.kill()
        far.sendall(b"still mine")
        assert near.recv(100) == b"still mine"


def test_half_a_handover_is_not_shut_down(
    start: Callable[..., HubServer], socket_path: str
) -> None:
    """A worker that gave up half-way goes on with the client's socket."""
    start()
    near, far = socket.socketpair()
    with near, far, socket.socket(socket.AF_UNIX) as worker:
        worker.connect(socket_path)
        worker.sendall(encode(Hello(VERSION, "handoff")))
        worker.settimeout(LONG)
        assert worker.recv(1000)
        socket.send_fds(worker, [encode(Handoff(("a",), snapshot=b"x" * 100))[:50]], [far.fileno()])
        wait_for(socket_path, lambda figures: figures.connections >= 2)
        worker.close()
        wait_for(socket_path, lambda figures: figures.connections == 1)
        far.sendall(b"still mine")
        near.settimeout(LONG)
        assert near.recv(100) == b"still mine"
        assert figures_of(socket_path).subscribers == 0


def test_h6_lost_events_are_told_to_who_listens(
    make_client: Callable[..., HubClient], start: Callable[..., HubServer]
) -> None:
    """What a worker gave up while the hub was stuck is a gap, live and for who resumes."""
    dropped = threading.Event()
    hub = make_client(pending_age=0.3, on_drop=lambda *_: dropped.set())
    server = start()
    with Stream(hub, "a") as stream, Stream(hub, "b") as other:
        publish_all(hub, [event("a", "first"), event("b", "first")])
        [first] = stream.events(1)
        [others_first] = other.events(1)
        server.send_signal(signal.SIGSTOP)
        for n in range(200):
            hub.publish([event("a", f"{n} " + "x" * 10_000)])
        assert dropped.wait(30)
        server.send_signal(signal.SIGCONT)
        stream.read_until(lambda stream: b"sidearm:gap" in stream.raw)
        numbers = [each for each in stream.pending_events() if each.event == "message"]
        assert len(numbers) < 200
        with Stream(hub, "a", last_event_id=first.id) as resumed:
            [gap] = resumed.events(1)
            assert gap.event == "sidearm:gap"
        with Stream(hub, "b", last_event_id=others_first.id) as resumed:
            publish_all(hub, [event("b", "second")])
            assert resumed.data(1) == ["second"]
        assert other.data(1) == ["second"]


def test_h6_breaker_closes_by_itself(
    make_client: Callable[..., HubClient], start: Callable[..., HubServer]
) -> None:
    """After half a second somebody may try again."""
    hub = make_client()
    server = start()
    wait_until(lambda: hub.fetch(Fetch(("a",))) is not None)
    server.send_signal(signal.SIGSTOP)
    assert hub.fetch(Fetch(("a",))) is None
    server.send_signal(signal.SIGCONT)
    before = time.monotonic()
    wait_until(lambda: hub.fetch(Fetch(("a",))) is not None)
    assert time.monotonic() - before < BREAK + 5 * SLACK


# Forks


def test_child_of_a_fork_starts_afresh(
    make_client: Callable[..., HubClient], start: Callable[..., HubServer], socket_path: str
) -> None:
    """A child sends on its own connection, and leaves what waits to its parent."""
    hub = make_client()
    start()
    publish_all(hub, [event("a", "parent")])
    pid = os.fork()
    if not pid:
        hub.publish([event("a", "child")])
        hub.close(flush_seconds=LONG)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    publish_all(hub, [event("a", "parent again")])
    wait_for(socket_path, lambda figures: figures.published == 3)


def test_what_waits_is_sent_once_after_a_fork(
    make_client: Callable[..., HubClient], start: Callable[..., HubServer], socket_path: str
) -> None:
    """Events that wait in the parent do not wait in the child too."""
    hub = make_client()
    hub.publish([event("a", "waits in the parent")])
    pid = os.fork()
    if not pid:
        hub.close(flush_seconds=0)
        os._exit(len(hub._pending))
    assert os.waitpid(pid, 0)[1] == 0
    start()
    wait_for(socket_path, lambda figures: figures.published == 1)


# Descriptors


needs_prlimit = pytest.mark.skipif(
    not hasattr(resource, "prlimit"), reason="only Linux limits another process"
)


@needs_prlimit
def test_h7_lost_descriptor_is_counted_and_nothing_spins(
    make_client: Callable[..., HubClient], start: Callable[..., HubServer], socket_path: str
) -> None:
    """With a full table streams and workers are turned away, and those there do not notice."""
    hub = make_client()
    server = start()
    pid = server.pid
    asking = Link(socket_path, "ask", LONG)  # the one connection for all questions
    with Stream(hub, "a") as stream:
        hub.publish([event("a", 1)])
        assert stream.data(1) == ["1"]
        # Both: the hub would raise its own limit again.
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (_lowest_free(pid),) * 2)
        with Stream(hub, "a") as lost:
            assert lost.rest() == []
        with socket.socket(socket.AF_UNIX) as worker:
            worker.connect(socket_path)
            worker.settimeout(LONG)
            assert worker.recv(1) == b""
        before = _cpu_seconds(pid)
        hub.publish([event("a", 2)])
        assert stream.data(1) == ["2"]
        assert stream.is_quiet(0.5)
        assert _cpu_seconds(pid) - before < 0.2
        figures = asking.ask(Stats(), LONG)
        assert isinstance(figures, Figures)
        assert (figures.lost_descriptors, figures.refused_connections) == (1, 1)
    asking.close()
    server.wait_for_log("A client was lost on its way")


@needs_prlimit
def test_h7_hub_raises_its_limit_again_when_a_descriptor_is_lost(
    make_client: Callable[..., HubClient], start: Callable[..., HubServer], socket_path: str
) -> None:
    """What was set for the process costs one client one reconnection, and not every one theirs."""
    hub = make_client()
    pid = start().pid
    wait_for_hub(hub)
    asking = Link(socket_path, "ask", LONG)
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (_lowest_free(pid), hard))
    with Stream(hub, "a") as lost:
        assert lost.rest() == []
    with Stream(hub, "a") as another:
        hub.publish([event("a", 1)])
        assert another.data(1) == ["1"]
    figures = asking.ask(Stats(), LONG)
    assert isinstance(figures, Figures)
    assert (figures.lost_descriptors, figures.descriptor_limit) == (1, hard)
    asking.close()


def _lowest_free(pid: int) -> int:
    used = {int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in itertools.count() if number not in used)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_client_that_resets_disturbs_nobody(
    make_client: Callable[..., HubClient], start: Callable[..., HubServer], socket_path: str
) -> None:
    """Connections that break while events are sent are forgotten."""
    hub = make_client()
    start()
    with Stream(hub, "a") as stream, ExitStack() as stack:
        others = [stack.enter_context(Stream(hub, "a")) for _ in range(20)]
        wait_for(socket_path, lambda figures: figures.subscribers == 21)
        for each in others:
            # Unread bytes, or this, make the kernel send RST instead of FIN.
            each.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            each.close()
            hub.publish([event("a", "x")])
        assert stream.data(20) == ["x"] * 20
        wait_for(socket_path, lambda figures: figures.subscribers == 1)


def test_worker_that_dies_half_way_disturbs_nobody(
    make_client: Callable[..., HubClient], start: Callable[..., HubServer], socket_path: str
) -> None:
    """Half a message of a killed worker is thrown away."""
    hub = make_client()
    start()
    with Stream(hub, "a") as stream:
        with socket.socket(socket.AF_UNIX) as worker:
            worker.connect(socket_path)
            worker.sendall(encode(Hello(VERSION, "publish")))
            worker.settimeout(LONG)
            assert worker.recv(1000)
            whole = encode(Publish([event("a", "whole")]))
            worker.sendall(whole + encode(Publish([event("a", "half")]))[:-3])
        assert stream.data(1) == ["whole"]
        hub.publish([event("a", "next")])
        assert stream.data(1) == ["next"]


def test_hub_logs_what_it_refuses(
    start: Callable[..., HubServer], socket_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A stranger leaves one line in the log."""
    caplog.set_level(logging.WARNING)
    server = start()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(socket_path)
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
        stranger.settimeout(LONG)
        while stranger.recv(1000):
            continue
    assert server.wait_for_log("announces").count("\n") == 1

"""H7: several hubs of one machine share its streams; the first leads, for it has the log."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from broker_sites import Row
from hub_streams import PATIENCE, Stream, event, figures_of, publish_all, wait_for, wait_for_hub

from sidearm.exceptions import HubError
from sidearm.hub import operator, position
from sidearm.hub.client import HubClient
from sidearm.hub.config import HubConfig, socket_of
from sidearm.hub.link import Link
from sidearm.hub.messages import AskHead, Fetch, Refused
from sidearm.testing import EventSource, GunicornServer, HubServer, Server, UpServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APPS = Path(__file__).parent.parent / "apps"
HUBS = 3
START = 60.0  # seconds
DEADLINE = 5.0  # seconds in which a hub that was killed is back, or others go on


@pytest.fixture
def row() -> Iterator[Row]:
    with Row(HUBS) as row:
        yield row


@pytest.fixture
def hubs(row: Row) -> list[HubServer]:
    """All of them, the first one first."""
    return [row.leader, *(row.hub() for _ in range(1, HUBS))]


@pytest.fixture
def worker(row: Row, hubs: list[HubServer]) -> Iterator[HubClient]:
    """One that goes to each hub in turn."""
    client = HubClient(hubs[0].socket_path, on_drop=lambda *drop: row.dropped.append(drop))
    meet_all(client)
    yield client
    client.close()


def meet_all(client: HubClient) -> None:
    """Wait until a worker has met each hub: the first tells how many there are."""
    deadline = time.monotonic() + PATIENCE
    met = set[str]()
    while len(met) < HUBS:
        met.add(client.path_of(wait_for_hub(client)))
        assert time.monotonic() < deadline, met


def read_until(source: Stream, last: str) -> list[str]:
    """What a stream tells up to an event, gap events included."""
    seen: list[str] = []
    while last not in seen:
        [told] = source.events(1)
        seen.append(told.event if told.event != "message" else told.data)
    return seen


def test_h7_streams_go_to_each_hub_in_turn(hubs: list[HubServer], worker: HubClient) -> None:
    """Each has as many as the others, and all hear everything, in one order."""
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(worker, "a")) for _ in range(4 * HUBS)]
        counts = [
            wait_for(hub.socket_path, lambda figures: figures.subscribers == 4).subscribers
            for hub in hubs
        ]
        assert counts == [4] * HUBS
        worker.publish([event("a", str(number)) for number in range(100)])
        for source in streams:
            assert source.data(100) == [str(number) for number in range(100)]


def test_h7_a_hub_that_is_killed_is_left_out(
    row: Row, hubs: list[HubServer], worker: HubClient
) -> None:
    """Its streams resume at the others, without a gap; every new one finds a hub that is there."""
    one, other = (row.worker(hub) for hub in hubs[1:])
    with ExitStack() as stack:
        lost, kept = (stack.enter_context(Stream(client, "a")) for client in (one, other))
        publish_all(worker, [event("a", "before")])
        assert lost.data(1) == kept.data(1) == ["before"]
        hubs[1].kill()
        assert lost.rest() == []
        worker.publish([event("a", "meanwhile")])
        assert kept.data(1) == ["meanwhile"]
        last = lost.parser.last_event_id
        for client in (worker, one, worker, one, worker):
            again = stack.enter_context(Stream(client, "a", last_event_id=last))
            assert read_until(again, "meanwhile") == ["meanwhile"]


def test_h6_the_leading_hub_is_killed(row: Row, hubs: list[HubServer], worker: HubClient) -> None:
    """The others keep their streams, which hear of the gap, and then of what waited meanwhile."""
    clients = [row.worker(hub) for hub in hubs[1:]]
    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(client, "a")) for client in clients]
        publish_all(worker, [event("a", "before")])
        for source in streams:
            assert source.data(1) == ["before"]
        old = streams[0].parser.last_event_id
        hubs[0].kill()
        worker.publish([event("a", "meanwhile")])
        hubs[0].restart()
        for source in streams:
            assert read_until(source, "meanwhile") == ["sidearm:gap", "meanwhile"]
        # An id of the lost log is one that nobody knows any more, at whichever hub.
        with Stream(clients[0], "a", last_event_id=old) as late:
            [gap] = late.events(1)
            assert (gap.event, json.loads(gap.data)["reason"]) == ("sidearm:gap", "epoch")
    assert row.dropped == []


def test_h5_all_are_replaced_under_way(row: Row, hubs: list[HubServer], worker: HubClient) -> None:
    """Each event comes once and in order to each stream, and none of them reconnects."""
    clients = [row.worker(hub) for hub in hubs]
    stop = threading.Event()
    sent = itertools.count()

    def publish_on() -> None:
        while not stop.wait(0.002):
            worker.publish([event("a", str(next(sent)))])

    with ExitStack() as stack:
        streams = [stack.enter_context(Stream(client, "a")) for client in clients for _ in range(5)]
        publishing = threading.Thread(target=publish_on)
        publishing.start()
        try:
            for _ in range(3):
                hubs = [_replaced(row, hub) for hub in hubs]
        finally:
            stop.set()
            publishing.join()
        worker.publish([event("a", "last")])
        expected = [*map(str, range(next(sent))), "last"]
        for source in streams:
            assert read_until(source, "last") == expected


def test_h5_who_follows_slowly_reads_on_at_the_new_hub(row: Row, hubs: list[HubServer]) -> None:
    """What a follower had not read yet when the leading hub was replaced goes over, too."""
    here, there = (row.worker(hub) for hub in hubs[:2])
    with Stream(there, "a") as source:
        publish_all(here, [event("a", "before")])
        assert source.data(1) == ["before"]
        hubs[1].send_signal(signal.SIGSTOP)
        try:
            publish_all(here, [event("a", "kept"), event("a", "live", keep=False)])
            _replaced(row, hubs[0])
        finally:
            hubs[1].send_signal(signal.SIGCONT)
        here.publish([event("a", "after")])
        assert read_until(source, "after") == ["kept", "live", "after"]


def _replaced(row: Row, hub: HubServer) -> HubServer:
    new = row.replace(hub)
    wait_for(hub.socket_path, lambda figures: figures.pid == new.pid)
    return new


def test_h7_a_hub_that_was_stopped_for_long_tells_the_gap() -> None:
    """More was published meanwhile than the leading hub keeps: its clients are told."""
    with Row(2, history_bytes=1 << 20) as row:
        hubs = [row.leader, row.hub()]
        here, there = (row.worker(hub) for hub in hubs)
        with Stream(here, "a") as first, Stream(there, "a") as second:
            publish_all(here, [event("a", "before")])
            assert first.data(1) == second.data(1) == ["before"]
            hubs[1].send_signal(signal.SIGSTOP)
            try:
                for _ in range(40):
                    here.publish([event("a", "x" * 500_000)])
                    first.events(1)
            finally:
                hubs[1].send_signal(signal.SIGCONT)
            here.publish([event("a", "after")])
            assert read_until(first, "after") == ["after"]
            seen = read_until(second, "sidearm:gap")
            assert "after" not in seen
            publish_all(here, [event("a", "last")])
            assert read_until(second, "last")[-1] == "last"


def test_h8_a_closing_reaches_streams_on_their_way(row: Row, hubs: list[HubServer]) -> None:
    """A stream whose view ran before the closing ends at each hub, the leading one too."""
    clients = [row.worker(hub) for hub in hubs]
    places = [client.position() for client in clients]
    clients[1].close_streams("user:1")
    publish_all(clients[1], [event("a", "x")])
    for hub in hubs:
        wait_for(hub.socket_path, lambda figures: figures.published >= 1)
    for client, place in zip(clients, places, strict=True):
        with Stream(client, "a", tags=("user:1",), position=place) as source:
            source.rest()
            assert position.is_end(source.parser.last_event_id, ["a"])
        with Stream(client, "a", tags=("user:1",)) as later:
            publish_all(client, [event("a", "welcome")])
            assert later.data(1) == ["welcome"]


def test_e3_a_stream_begins_at_the_hub_that_goes_on_with_it(
    hubs: list[HubServer], worker: HubClient
) -> None:
    """Another may be ahead of that one; what is polled may ask whichever is there."""
    place = wait_for_hub(worker)
    path = worker.path_of(place)
    question = Fetch(("a",), place)
    assert worker.fetch_start(question, path) is not None
    next(hub for hub in hubs if hub.socket_path == path).kill()
    assert worker.fetch_start(question, path) is None
    assert worker.fetch(question) is not None


def test_h7_one_hub_leads_no_other(row: Row) -> None:
    """A hub that was started alone says so to one that would follow it."""
    with HubServer() as alone:
        link = Link(alone.socket_path, "hub", PATIENCE)
        answer = link.ask(AskHead(), PATIENCE)
        link.close()
        assert isinstance(answer, Refused)
        assert "SIDEARM_HUBS" in answer.reason
        assert figures_of(alone.socket_path).refused_connections == 1


def test_e3_a_burst_leaves_nobody_behind(row: Row, hubs: list[HubServer]) -> None:
    """More than the history holds, as fast as it goes: no hub that follows is overtaken."""
    workers = [row.worker(hubs[0]), row.worker(hubs[0])]
    count, body = 700, "x" * 20_000
    with ExitStack() as stack:
        for hub in hubs:
            stack.enter_context(Stream(row.worker(hub), "quiet"))

        def publish_many(client: HubClient) -> None:
            for _ in range(count):
                client.publish([event("a", body)])

        threads = [threading.Thread(target=publish_many, args=(each,)) for each in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for hub in hubs:
            wait_for(hub.socket_path, lambda figures: figures.published + figures.gaps >= 2 * count)
            figures = figures_of(hub.socket_path)
            assert (figures.published, figures.gaps) == (2 * count, 0)
    assert row.dropped == []


def test_h5_one_hub_is_not_replaced_by_the_first_of_several(row: Row) -> None:
    """It cannot go on in another log: it is said so, and the old one serves."""
    with HubServer() as alone:
        config = HubConfig(socket=alone.socket_path, hubs=2)

        class Next(HubServer):
            def command(self) -> list[str]:
                return [*super().command(), "--replace"]

        with Next(lambda _: config) as new:  # it finds a hub there that answers
            assert new.wait_for_exit(PATIENCE) == 1
            assert "SIDEARM_HUBS" in new.log_text()
        assert figures_of(alone.socket_path).pid == alone.pid


def test_h10_figures_and_channels_of_all(row: Row, hubs: list[HubServer]) -> None:
    """An operator sees each hub, the sum of its streams by channel, and which one is away."""
    with ExitStack() as stack:
        for number, hub in enumerate(hubs):
            client = row.worker(hub)
            for _ in range(number + 1):
                stack.enter_context(Stream(client, "a", f"only {number}"))
            wait_for(hub.socket_path, lambda f, n=number: f.subscribers == n + 1)  # type: ignore[misc]
        first = row.leader.socket_path
        figures, problems = operator.read_all_figures(first)
        assert [each.number for each in figures] == list(range(HUBS))
        assert [each.subscribers for each in figures] == [1, 2, 3]
        assert problems == []
        listed, problems = operator.list_all_channels(first, 2)
        assert listed.channels == [("a", 6), ("only 2", 3)]
        assert (listed.total, problems) == (4, [])
        hubs[2].kill()
        figures, problems = operator.read_all_figures(first)
        assert [each.number for each in figures] == [0, 1]
        assert len(problems) == 1
        assert hubs[2].socket_path in problems[0]
        listed, problems = operator.list_all_channels(first, 2)
        assert listed.channels == [("a", 3), ("only 1", 2)]
        assert len(problems) == 1
        assert hubs[2].socket_path in problems[0]


def test_h7_threads_share_the_hubs(hubs: list[HubServer], worker: HubClient) -> None:
    """Streams that are opened at the same time are spread, too, and each at its view's hub."""
    counted: Counter[str | None] = Counter()
    with ExitStack() as stack:
        lock = threading.Lock()

        def open_some() -> None:
            for _ in range(10):
                source = Stream(worker, "a")
                with lock:
                    stack.enter_context(source)

        threads = [threading.Thread(target=open_some) for _ in range(HUBS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for hub in hubs:
            counted[hub.socket_path] = figures_of(hub.socket_path).opened
        assert sum(counted.values()) == 10 * HUBS
        assert min(counted.values()) >= 5
        assert sum(figures_of(hub.socket_path).gaps for hub in hubs) == 0


def test_h6_a_worker_that_begins_without_the_first_hub_finds_all_later(
    hubs: list[HubServer],
) -> None:
    """It knows of no other before; when the first is back it uses every one."""
    hubs[0].kill()
    client = HubClient(hubs[0].socket_path)
    try:
        assert client.position() is None
        hubs[0].restart()
        deadline = time.monotonic() + DEADLINE
        found = set[str]()
        while len(found) < HUBS:
            found.add(client.path_of(client.position()))
            assert time.monotonic() < deadline, found
    finally:
        client.close()


def test_h7_a_wrong_number_is_refused(row: Row) -> None:
    """Where a hub beside the first cannot have its socket, the error names it."""
    config = row.leader.config
    with HubServer(lambda _: config.of(1)), pytest.raises(HubError, match=r"hub\.sock\.1"):
        from sidearm.hub.listener import Listener

        Listener(config.of(1).socket)


class TestSites:
    """Several hubs under those who run them."""

    @pytest.fixture
    def env(self, tmp_path: Path) -> dict[str, str]:
        (tmp_path / "version").write_text("1")
        return {"SITE_FOLDER": str(tmp_path), "PYTHONPATH": str(APPS)}

    def test_w1_up_runs_and_restarts_them(self, env: dict[str, str]) -> None:
        """Each is a process that comes back when it dies, and is replaced when that is asked."""
        with UpServer(
            "whole_site:app", args=("--hubs", "3"), cwd=APPS, env=env, start_timeout=START
        ) as site:
            self.look_at(site, lambda number: f"Hub {number} is back")
            pids = self.pids(site)
            done = run("--replace", "--socket", site.socket_path)
            assert (done.returncode, done.stderr) == (0, "")
            assert len(done.stdout.splitlines()) == HUBS
            assert not pids & self.pids(site)
            site.terminate()
            assert list(site.folder.glob("hub.sock*")) == []

    def test_w1_gunicorn_runs_as_many_as_are_set(self, env: dict[str, str]) -> None:
        """The settings say how many; the launcher's own process has not to know."""
        with GunicornServer(
            "whole_site:app",
            workers=2,
            args=["-c", "python:sidearm.gunicorn"],
            cwd=APPS,
            env={**env, "FLASK_SIDEARM_HUBS": str(HUBS)},
            start_timeout=START,
        ) as site:
            self.look_at(site, lambda number: f"Hub {number} is back")

    def test_w1_hubs_alone(self, env: dict[str, str]) -> None:
        """Beside web workers that something else runs."""
        command = [sys.executable, "-m", "flask", "--app", "whole_site:app"]
        hubs = Server([*command, "sidearm", "hub", "--hubs", "3"], cwd=APPS, env=env)
        hubs.is_ready = lambda: "The hubs listen" in hubs.log_text()  # type: ignore[method-assign]
        with (
            hubs,
            GunicornServer(
                "whole_site:app",
                workers=2,
                cwd=APPS,
                env={**env, "SIDEARM_SOCKET": hubs.socket_path},
                start_timeout=START,
            ) as site,
        ):
            self.see_events(site, [socket_of(hubs.socket_path, number) for number in range(HUBS)])

    def look_at(self, site: Server, is_back: Callable[[int], str]) -> None:
        """Streams are spread, hear what is published, and one hub's death is no other's."""
        paths = [socket_of(site.socket_path, number) for number in range(HUBS)]
        self.see_events(site, paths)
        os.kill(figures_of(paths[2]).pid, signal.SIGKILL)
        site.wait_for_log(is_back(2), PATIENCE)
        self.see_events(site, paths)

    def see_events(self, site: Server, paths: list[str]) -> None:
        before = [figures_of(path).opened for path in paths]
        with ExitStack() as stack:
            sources: list[EventSource] = []

            def all_have_more() -> bool:
                for _ in paths:
                    source = EventSource(f"{site.url}/stream", timeout=PATIENCE)
                    sources.append(stack.enter_context(source))
                now = [figures_of(path).opened for path in paths]
                return all(more > count for more, count in zip(now, before, strict=True))

            # A worker leaves a hub out for half a second that was not there when it was asked.
            site.wait_until(all_have_more, PATIENCE)
            data = urllib.request.urlopen(f"{site.url}/publish/hello", b"", PATIENCE).read()
            assert data == b"published"
            for source in sources:
                assert source.next_event().data == "hello"

    def pids(self, site: Server) -> set[int]:
        figures, problems = operator.read_all_figures(site.socket_path)
        assert problems == []
        return {each.pid for each in figures}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run ``flask sidearm hub``."""
    flask = [sys.executable, "-m", "flask", "--app", "plain:app", "sidearm", "hub"]
    return subprocess.run(
        [*flask, *words], cwd=APPS, capture_output=True, text=True, timeout=PATIENCE, check=False
    )

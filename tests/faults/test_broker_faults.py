"""H6 with a broker: killed, stopped, cut off, full, emptied, put back to an older state.

Two workers publish numbers all the time, and streams at two hubs hear them. Whatever happens to
the broker: no stream ends, no number comes twice or out of its order, and none is missing, unless
the gap event has said so.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from broker_sites import Site
from broker_stores import PostgreSQLStore, RedisStore, Store
from hub_streams import PATIENCE, Stream, event, figures_of, wait_for
from needed import or_skip
from redis_clusters import RedisCluster

from sidearm.testing import RedisServer
from sidearm.testing.servers import Server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from sidearm.hub.client import HubClient
    from sidearm.hub.eventstream import Event

redis = pytest.importorskip("redis", reason="pip install 'sidearm[redis]'")

STREAMS = 10  # at each hub
SEED = int(os.environ.get("BROKER_SEED", str(random.randrange(1 << 30))))
ON_DISK = ["--appendonly", "yes", "--appendfsync", "always"]


class Numbers:
    """A worker that publishes 0, 1, 2, ... until it is told to stop.

    Attributes:
        count: How many it has published.
        longest: The longest that one call took (seconds).
    """

    def __init__(self, worker: HubClient, name: str) -> None:
        self.name = name
        self.count = 0
        self.longest = 0.0
        self._worker = worker
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._publish)

    def _publish(self) -> None:
        while not self._stopping.wait(0.005):
            began = time.monotonic()
            self._worker.publish([event("a", f"{self.name} {self.count}")])
            self.longest = max(self.longest, time.monotonic() - began)
            self.count += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


class Show:
    """Two hubs, two workers, streams at both.

    Args:
        url: How everybody finds the broker.
        second: How the second hub finds it, if it is another way.
        options: Of the workers' publishers.
    """

    def __init__(
        self,
        url: str,
        *,
        second: str | None = None,
        **options: Any,
    ) -> None:
        self._stack = ExitStack()
        self.site = self._stack.enter_context(Site(url))
        self.hubs = [self.site.hub(), self.site.hub(broker=second or url)]
        self.workers = [self.site.worker(hub, **options) for hub in self.hubs]
        self.streams = [
            self._stack.enter_context(Stream(worker, "a"))
            for worker in self.workers
            for _ in range(STREAMS)
        ]
        self.numbers = [
            self._stack.enter_context(Numbers(worker, name))
            for worker, name in zip(self.workers, "xy", strict=True)
        ]

    def wait_for_more(self, hub: int = 0) -> None:
        """Wait until a hub has heard of new events."""
        path = self.hubs[hub].socket_path
        before = figures_of(path).published
        wait_for(path, lambda figures: figures.published > before + 20)

    def end(self) -> list[list[Event]]:
        """Publish no more; what each stream has heard, when all is told."""
        for each in self.numbers:
            each.__exit__()
        last = [f"{each.name} {each.count}" for each in self.numbers]
        for worker, text in zip(self.workers, last, strict=True):
            worker.publish([event("a", text)])
        heard = []
        for stream in self.streams:
            events: list[Event] = []
            due = {*last}
            while due:
                assert stream.read(PATIENCE), f"A stream ended after {events[-3:]}."
                new = stream.pending_events()
                due -= {each.data for each in new}
                events += new
            heard.append(events)
        for hub in self.hubs:
            assert figures_of(hub.socket_path).opened == STREAMS, "a stream had to come back"
        return heard

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def check_complete(show: Show, heard: list[list[Event]]) -> None:
    """Everything that was published came once, in order, at every stream, and no gap was told."""
    for events in heard:
        for each in show.numbers:
            own = [e.data for e in events if e.data.startswith(f"{each.name} ")]
            assert own == [f"{each.name} {number}" for number in range(each.count + 1)]
        assert not [each for each in events if each.event == "sidearm:gap"]
    report(show, heard)


def check_told(show: Show, heard: list[list[Event]]) -> int:
    """Nothing came twice or out of order; where something is missing, the gap was told before."""
    missing = 0
    for events in heard:
        for each in show.numbers:
            expected, told = 0, False
            for e in events:
                if e.event == "sidearm:gap":
                    told = True
                elif e.data.startswith(f"{each.name} "):
                    number = int(e.data.split()[1])
                    assert number >= expected, f"{e.data} came again"
                    if number > expected:
                        assert told, f"{each.name} {expected} to {number - 1} are missing, unsaid"
                        missing += number - expected
                    expected = number + 1
        assert [each for each in events if each.event == "sidearm:gap"]
    report(show, heard, missing)
    return missing


def check_once(show: Show, heard: list[list[Event]]) -> None:
    """Nothing came twice or out of order, and what some have heard and others not is a gap."""
    known = {e.data for events in heard for e in events if e.event != "sidearm:gap"}
    for events in heard:
        if known - {e.data for e in events}:
            assert [each for each in events if each.event == "sidearm:gap"]
        for each in show.numbers:
            own = [int(e.data.split()[1]) for e in events if e.data.startswith(f"{each.name} ")]
            assert own == sorted(set(own))
    missing = sum(
        sum(each.count + 1 for each in show.numbers) - sum(e.event != "sidearm:gap" for e in events)
        for events in heard
    )
    report(show, heard, missing)


def report(show: Show, heard: list[list[Event]], missing: int = 0) -> None:
    published = sum(each.count + 1 for each in show.numbers)
    longest = max(each.longest for each in show.numbers)
    print(  # noqa: T201 - it is the measure
        f"seed {SEED}: {published} published, {len(heard)} streams, {missing} missing after a gap,"
        f" {sum(count for count, _ in show.site.dropped)} dropped by workers;"
        f" publish took {longest * 1000:.0f} ms at most"
    )


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with or_skip(lambda: RedisServer(args=ON_DISK)) as server:
        yield server


def redis_on_disk() -> Store:
    """Redis that has everything again after its end."""
    return RedisStore(*ON_DISK)


@pytest.fixture(params=[redis_on_disk, PostgreSQLStore], ids=["redis", "postgresql"])
def lasting(request: pytest.FixtureRequest) -> Iterator[Store]:
    """What was accepted outlives the server."""
    store: Store = or_skip(request.param)
    with store.server:
        yield store


@pytest.fixture(params=[RedisStore, PostgreSQLStore], ids=["redis", "postgresql"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """It may be back with an older state, or none."""
    store: Store = or_skip(request.param)
    with store.server:
        yield store


def test_h6_killed_and_back_with_its_data(lasting: Store) -> None:
    """With a log on the disk nothing is lost, nothing comes twice, and nobody hears of it."""
    with Show(lasting.url) as show:
        for _ in range(3):
            show.wait_for_more()
            lasting.kill()
            time.sleep(0.5)
            lasting.server.restart()
        show.wait_for_more()
        show.wait_for_more(1)
        check_complete(show, show.end())


def test_h6_redis_killed_and_back_empty() -> None:
    """Without its data there is a new log: every client is told of the gap, and goes on."""
    store = or_skip(RedisStore)
    with store.server, Show(store.url) as show:
        show.wait_for_more()
        show.wait_for_more(1)
        store.kill()
        store.server.restart()
        _check_one_gap(show)


def test_h6_emptied(store: Store) -> None:
    """Whoever removes the log begins a new one: a gap, and everything goes on."""
    with Show(store.url) as show:
        show.wait_for_more()
        show.wait_for_more(1)
        store.empty()
        _check_one_gap(show)


def _check_one_gap(show: Show) -> None:
    show.wait_for_more()
    show.wait_for_more(1)
    heard = show.end()
    check_told(show, heard)
    for events in heard:
        gaps = [json.loads(each.data) for each in events if each.event == "sidearm:gap"]
        assert len(gaps) == 1


def test_h6_stops_for_a_while(lasting: Store) -> None:
    """A broker that answers nobody holds no publisher up; what waited arrives."""
    with Show(lasting.url) as show:
        show.wait_for_more()
        lasting.signal(signal.SIGSTOP)
        before = [each.count for each in show.numbers]
        time.sleep(6)
        # It would be a handful if publishing waited for an answer.
        assert all(
            each.count > count + 100 for each, count in zip(show.numbers, before, strict=True)
        )
        lasting.signal(signal.SIGCONT)
        show.wait_for_more()
        check_complete(show, show.end())


def test_h6_connections_are_cut(lasting: Store) -> None:
    """Cut at any moment: an append whose answer was lost is not carried out twice."""
    chance = random.Random(SEED)
    with Show(lasting.url) as show:
        for _ in range(60):
            time.sleep(chance.random() * 0.1)
            lasting.cut()
        show.wait_for_more()
        show.wait_for_more(1)
        check_complete(show, show.end())


def test_h6_full(lasting: Store) -> None:
    """It refuses to write for a while; when it does not any more, what waited arrives."""
    with Show(lasting.url) as show:
        show.wait_for_more()
        lasting.refuse(refuses=True)
        time.sleep(2)
        lasting.refuse(refuses=False)
        show.wait_for_more()
        check_complete(show, show.end())


def test_h6_what_waits_too_long_is_dropped_and_told(lasting: Store) -> None:
    """Beyond the limits of waiting the oldest go: counted by the worker, told to every client."""
    with Show(lasting.url, pending_age=0.5) as show:
        show.wait_for_more()
        show.wait_for_more(1)
        lasting.kill()
        time.sleep(3)
        lasting.server.restart()
        show.wait_for_more()
        show.wait_for_more(1)
        missing = check_told(show, show.end())
        dropped = sum(count for count, _ in show.site.dropped)
        # A part of what was given up may be in the log: nobody knows when the answer is lost.
        assert 0 < missing <= dropped * len(show.streams)


def test_h6_an_older_state_of_the_log_is_a_gap(store: Store) -> None:
    """As after a failover: entries that clients have seen are gone, and no id is taken for one."""
    with Show(store.url) as show:
        show.wait_for_more()
        store.save()
        show.wait_for_more()
        show.wait_for_more(1)
        store.restore()
        show.wait_for_more()
        show.wait_for_more(1)
        heard = show.end()
        check_told(show, heard)
        epochs = [{each.id.split("-")[0] for each in events} for events in heard]
        assert all(len(each) == 2 for each in epochs)
        with Stream(show.workers[1], "a", last_event_id=heard[0][0].id) as again:
            [gap] = again.events(1)
            assert gap.event == "sidearm:gap"


def test_h6_an_older_state_is_told_though_nothing_follows(store: Store) -> None:
    """Nobody has to publish for clients to hear that what they have seen is gone."""
    with Site(store.url) as site:
        worker = site.worker(site.hub())
        with Stream(worker, "a") as source:
            worker.publish([event("a", "one")])
            assert source.data(1) == ["one"]
            store.save()
            worker.publish([event("a", "two")])
            assert source.data(1) == ["two"]
            worker.close()
            store.restore()
            assert source.events(1)[0].event == "sidearm:gap"


def test_h6_one_hub_is_cut_off(server: RedisServer) -> None:
    """Its clients stay, and have everything when it is back; those of the other never wait."""
    client = redis.Redis.from_url(server.url)
    client.acl_setuser("second", enabled=True, passwords=["+s3cret"], commands=["+@all"], keys="*")
    url = server.url.replace("redis://", "redis://second:s3cret@")
    with Show(server.url, second=url) as show:
        for _ in range(2):
            show.wait_for_more()
            show.wait_for_more(1)
            client.acl_setuser("second", enabled=False)
            client.execute_command("CLIENT", "KILL", "USER", "second")
            still = figures_of(show.hubs[1].socket_path).published
            show.wait_for_more()
            time.sleep(1)
            assert figures_of(show.hubs[1].socket_path).published <= still + 50
            client.acl_setuser("second", enabled=True)
        show.wait_for_more(1)
        check_complete(show, show.end())
    client.close()


@pytest.mark.parametrize("fault", ["killed", "stopped"])
def test_h6_a_hub_begins_without_its_broker(lasting: Store, fault: str) -> None:
    """Streams open meanwhile; when it is there, they are told of the gap and are live."""
    if fault == "killed":
        lasting.kill()
    else:
        lasting.signal(signal.SIGSTOP)
    with Site(lasting.url) as site:
        worker = site.worker(site.hub())
        with Stream(worker, "a") as source:
            worker.publish([event("a", "waits")])
            if fault == "killed":
                lasting.server.restart()
            else:
                lasting.signal(signal.SIGCONT)
            events = source.events(1)
            assert events[0].event == "sidearm:gap"
            # What waited may have been in the log before the hub read it: that is the gap.
            worker.publish([event("a", "live")])
            while source.data(1) != ["live"]:
                assert b"waits" in source.raw


@pytest.fixture
def sentinel(server: RedisServer) -> Iterator[tuple[RedisServer, str]]:
    """A replica of the server, and the URL of a Sentinel that watches both."""
    with RedisServer(args=["--replicaof", "127.0.0.1", str(server.port)]) as replica:
        settings = replica.folder / "sentinel.conf"
        watcher = Server([replica.command()[0], str(settings), "--sentinel"])
        port = watcher.port
        settings.write_text(
            f"port {port}\nbind 127.0.0.1\n"
            f"sentinel monitor shop 127.0.0.1 {server.port} 1\n"
            "sentinel down-after-milliseconds shop 1000\n"
            "sentinel failover-timeout shop 5000\n"
        )
        with watcher:
            with redis.Redis(port=port) as client:
                watcher.wait_until(
                    lambda: client.sentinel_master("shop")["num-slaves"] == 1, 60, "a replica"
                )
            yield replica, f"redis+sentinel://127.0.0.1:{port}/shop"


def test_h6_a_failover(server: RedisServer, sentinel: tuple[RedisServer, str]) -> None:
    """The replica takes over: streams stay, and what it did not have yet is a gap or was unseen."""
    replica, url = sentinel
    with Show(url) as show:
        show.wait_for_more()
        show.wait_for_more(1)
        server.kill()
        with redis.Redis.from_url(replica.url) as client:
            replica.wait_until(lambda: client.info("replication")["role"] == "master", 60)
        show.wait_for_more()
        show.wait_for_more(1)
        check_once(show, show.end())


@pytest.fixture
def cluster() -> Iterator[RedisCluster]:
    with or_skip(lambda: RedisCluster(replicas=1)) as cluster:
        yield cluster


def test_h6_a_cluster_loses_the_node_with_the_log(cluster: RedisCluster) -> None:
    """Its replica takes over, and all find it: as for any failover."""
    with Show(cluster.url) as show:
        show.wait_for_more()
        show.wait_for_more(1)
        cluster.node_of(show.site.key).kill()
        show.wait_for_more()
        show.wait_for_more(1)
        check_once(show, show.end())


def test_h6_a_cluster_gives_the_log_to_another_node(cluster: RedisCluster) -> None:
    """Three times, while everybody publishes and listens: nothing is lost, nothing comes twice."""
    with Show(cluster.url) as show:
        for _ in range(3):
            show.wait_for_more()
            show.wait_for_more(1)
            new = cluster.move_slot(show.site.key)
            assert cluster.node_of(show.site.key) is new
        show.wait_for_more()
        show.wait_for_more(1)
        check_complete(show, show.end())

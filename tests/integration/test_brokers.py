"""E3 to E5, H6: what every log promises, wherever it is kept."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from broker_sites import Replacement, Row, Site
from broker_stores import ClusterStore, Contents, PostgreSQLStore, RedisStore, Store
from flask import Flask
from hub_streams import PATIENCE, Stream, event, publish_all, wait_for, wait_for_hub
from needed import or_skip

from sidearm import Sidearm, current_task, publish
from sidearm.brokers import HUB, Event, Limits, open_broker
from sidearm.exceptions import BrokerError
from sidearm.hub import position
from sidearm.hub.config import HubConfig
from sidearm.hub.eventstream import Parser, encode_body
from sidearm.hub.following import GATHER, GATHER_COUNT
from sidearm.hub.messages import Fetch
from sidearm.testing import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidearm.hub.client import HubClient

redis = pytest.importorskip("redis", reason="pip install 'sidearm[redis]'")


@pytest.fixture(scope="module", autouse=True)
def redis_store() -> Iterator[RedisStore]:
    store = or_skip(RedisStore)
    with store.server:
        yield store


@pytest.fixture
def redis_server(redis_store: RedisStore) -> RedisServer:
    return redis_store.server


@pytest.fixture(scope="module", autouse=True)
def postgresql_store() -> Iterator[Store]:
    store = or_skip(PostgreSQLStore)
    with store.server:
        yield store


@pytest.fixture(scope="module", autouse=True)
def cluster_store() -> Iterator[ClusterStore]:
    store = or_skip(ClusterStore)
    with store.cluster:
        yield store


STORES = ["redis", "cluster", "postgresql"]


def store_named(name: str, request: pytest.FixtureRequest) -> Contents:
    """What is in a broker."""
    store: Contents = request.getfixturevalue(f"{name}_store")
    return store


#: The log of the first of several hubs on one machine, which the others follow.
ROW = "row"


@pytest.fixture(params=[HUB, ROW, *STORES])
def log(request: pytest.FixtureRequest) -> str:
    """Where the log is: each kind in its turn."""
    kind: str = request.param
    return kind


@pytest.fixture
def site(log: str, request: pytest.FixtureRequest) -> Iterator[Site]:
    with (
        Row()
        if log == ROW
        else Site(HUB)
        if log == HUB
        else Site(store_named(log, request).url) as site
    ):
        yield site


@pytest.fixture
def worker(site: Site) -> HubClient:
    return site.worker(site.hub())


def place(source: Stream) -> str:
    """A stream's last id."""
    return source.parser.last_event_id


def read_last_id(body: bytes) -> str:
    """The last id in a poll's answer."""
    parser = Parser("")
    parser.feed(body)
    return parser.last_event_id


def gap_of(source: Stream) -> dict[str, Any]:
    """The next event, which has to be the gap."""
    [gap] = source.events(1)
    assert gap.event == "sidearm:gap"
    told: dict[str, Any] = json.loads(gap.data)
    return told


class TestEveryLog:
    """The same class for all of them."""

    def test_e2_order_is_that_of_publishing(self, worker: HubClient) -> None:
        """What one process publishes arrives in its order, once, on several channels too."""
        with Stream(worker, "a", "b") as source:
            for number in range(500):
                worker.publish([event("ab"[number % 2], str(number))])
            assert source.data(500) == [str(number) for number in range(500)]
            ids = [position.parse(place(source))]
            assert None not in ids

    def test_e2_several_publishers_one_order(self, site: Site, worker: HubClient) -> None:
        """Every stream sees the same order, in which each publisher's own order is kept."""
        others = [site.worker(site.hub_at(worker.socket_path)) for _ in range(3)]
        with Stream(worker, "a") as first, Stream(worker, "a") as second:

            def publish_many(client: HubClient, name: str) -> None:
                for number in range(100):
                    client.publish([event("a", f"{name}{number}")])

            threads = [
                threading.Thread(target=publish_many, args=(client, name))
                for client, name in zip(others, "xyz", strict=True)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            seen = first.data(300)
            assert second.data(300) == seen
            for name in "xyz":
                own = [data for data in seen if data.startswith(name)]
                assert own == [f"{name}{number}" for number in range(100)]

    def test_e3_ids_grow_and_tell_the_time(self, worker: HubClient) -> None:
        """Ids are positions of one epoch, each later than the one before."""
        with Stream(worker, "a") as source:
            worker.publish([event("a", "x") for _ in range(50)])
            ids = [position.parse(each.id) for each in source.events(50)]
            times = [each.time for each in ids if each is not None]
            assert len(times) == 50
            assert times == sorted(set(times))
            assert len({each.epoch for each in ids if each is not None}) == 1

    def test_e3_resumes_by_its_id(self, worker: HubClient) -> None:
        """From any id on, every later event comes once, without a gap event."""
        with Stream(worker, "a") as source:
            publish_all(worker, [event("a", str(number)) for number in range(20)])
            seen = source.events(20)
        new: list[str] = []
        for number in (0, 7, 18):
            with Stream(worker, "a", last_event_id=seen[number].id) as again:
                new.append(f"new {number}")
                worker.publish([event("a", new[-1])])
                expected = [str(each) for each in range(number + 1, 20)] + new
                assert again.data(len(expected)) == expected
                assert again.pending_events() == []

    def test_e3_unknown_ids_get_the_gap(self, worker: HubClient) -> None:
        """Nonsense, another epoch and an id of the future get the gap event first."""
        now = position.parse(_place_of(worker))
        assert now is not None
        later = str(now._replace(time=now.time + 3600 * 10**9))
        for last_event_id in ("nonsense", str(now._replace(epoch="0123456789")), later):
            with Stream(worker, "a", last_event_id=last_event_id) as source:
                assert gap_of(source)["reason"] in ("unknown", "epoch")

    def test_e3_live_only_has_no_id(self, worker: HubClient) -> None:
        """keep=False arrives at who is there, without an id, and at nobody later."""
        with Stream(worker, "a") as source:
            publish_all(worker, [event("a", "kept")])
            [kept] = source.events(1)
            publish_all(worker, [event("a", "live", keep=False)])
            [live] = source.events(1)
            assert (live.data, live.id) == ("live", kept.id)
            with Stream(worker, "a", last_event_id=kept.id) as again:
                worker.publish([event("a", "after")])
                assert again.data(1) == ["after"]

    def test_e4_a_page_joins_its_stream(self, worker: HubClient) -> None:
        """From the position that a page was made at, everything later follows, and no gap."""
        publish_all(worker, [event("a", "before")])
        rendered = _place_of(worker)
        publish_all(worker, [event("a", "between")])
        with Stream(worker, "a", last_event_id=rendered) as source:
            worker.publish([event("a", "after")])
            assert source.data(2) == ["between", "after"]

    def test_e4_what_follows_the_view_is_not_missed(self, worker: HubClient) -> None:
        """What is published between a view and its hand-off comes; what was before does not."""
        publish_all(worker, [event("a", "before")])
        seen = worker.position()
        publish_all(worker, [event("a", "between")])
        with Stream(worker, "a", position=seen) as source:
            assert source.data(1) == ["between"]

    def test_e7_a_channel_ends(self, worker: HubClient) -> None:
        """The last event ends the stream, with an id by which its client is known."""
        with Stream(worker, "a") as source:
            worker.publish([event("a", "last")], ends=(0,))
            assert [each.data for each in source.rest()] == ["last"]
            assert position.is_end(place(source), ["a"])
        with Stream(worker, "a") as late:
            assert [each.data for each in late.rest()] == ["last"]

    def test_h8_streams_close_by_tag(self, worker: HubClient) -> None:
        """Closing ends the streams with the tag, after what was published before, and no other."""
        with (
            Stream(worker, "a", tags=("user:1",)) as one,
            Stream(worker, "a", tags=("user:2",)) as two,
        ):
            worker.publish([event("a", "bye")])
            worker.close_streams("user:1")
            worker.publish([event("a", "for the other")])
            assert [each.data for each in one.rest()] == ["bye"]
            assert position.is_end(place(one), ["a"])
            assert two.data(2) == ["bye", "for the other"]
        with Stream(worker, "a", tags=("user:1",)) as later:
            worker.publish([event("a", "welcome")])
            assert later.data(1) == ["welcome"]

    def test_h8_a_channel_is_revoked(self, worker: HubClient) -> None:
        """One channel of several is taken from the streams with a tag."""
        with Stream(worker, "a", "b", tags=("user:1",)) as source:
            worker.close_streams("user:1", ("a",))
            worker.publish([event("a", "no"), event("b", "yes")])
            assert source.data(1) == ["yes"]

    def test_e1_any_body_passes(self, worker: HubClient) -> None:
        """What the standard can carry arrives as it is (C8)."""
        bodies = [
            "\n\n\n",
            "one\revent: steal",
            "",
            " leading blank",
            "a\r\n\rb",
            "\u00fc\U0001f600",
        ]
        with Stream(worker, "a") as source:
            worker.publish([event("a", body) for body in bodies])
            expected = [each.replace("\r\n", "\n").replace("\r", "\n") for each in bodies]
            assert source.data(len(bodies)) == expected


class TestShared:
    """What several hubs promise that have one log."""

    @pytest.fixture(params=[ROW, *STORES])
    def log(self, request: pytest.FixtureRequest) -> str:
        kind: str = request.param
        return kind

    def test_e3_resumes_at_another_hub(self, site: Site) -> None:
        """An id of one hub resumes at the other, without a gap and without a duplicate."""
        here, there = (site.worker(site.hub()) for _ in range(2))
        with Stream(here, "a") as source:
            here.publish([event("a", str(number)) for number in range(10)])
            seen = source.events(10)
        there.publish([event("a", "from there")])
        with Stream(there, "a", last_event_id=seen[4].id) as again:
            assert again.data(6) == ["5", "6", "7", "8", "9", "from there"]
            here.publish([event("a", "live")])
            assert again.data(1) == ["live"]
            assert "gap" not in again.raw.decode()

    def test_e3_a_new_hub_knows_the_past(self, site: Site) -> None:
        """A hub that begins later resumes ids of before, and sends nothing of before as live."""
        first = site.worker(site.hub())
        with Stream(first, "a") as source:
            first.publish([event("a", "one"), event("a", "dropped", keep=False), event("a", "two")])
            one = source.events(3)[0]
        second = site.worker(site.hub())
        with Stream(second, "a") as newcomer, Stream(second, "a", last_event_id=one.id) as again:
            assert again.data(1) == ["two"]
            first.publish([event("a", "three")])
            assert newcomer.data(1) == ["three"]
            assert again.data(1) == ["three"]

    def test_e4_a_page_of_one_hub_joins_at_another(self, site: Site) -> None:
        """A page may be made beside one hub and open its stream at another."""
        here, there = (site.worker(site.hub()) for _ in range(2))
        publish_all(here, [event("a", "before")])
        rendered = _place_of(here)
        publish_all(here, [event("a", "between")])
        with Stream(there, "a", last_event_id=rendered) as source:
            assert source.data(1) == ["between"]

    def test_e3_a_client_ahead_of_its_hub_waits(self, site: Site) -> None:
        """A client with an id that its new hub has not read yet misses nothing, and sees no gap."""
        here = site.worker(site.hub())
        late = site.hub()
        there = site.worker(late)
        late.send_signal(signal.SIGSTOP)
        with Stream(here, "a") as source:
            here.publish([event("a", "one"), event("a", "two")])
            one, _ = source.events(2)
        with Stream(there, "a", last_event_id=one.id) as again:
            late.send_signal(signal.SIGCONT)
            assert again.data(1) == ["two"]
            assert "gap" not in again.raw.decode()

    def test_e7_closing_reaches_every_hub(self, site: Site) -> None:
        """A tag is closed wherever its streams are, and a new stream after it is let in."""
        hubs = [site.hub(), site.hub()]
        here, there = map(site.worker, hubs)
        with (
            Stream(here, "a", tags=("user:1",)) as one,
            Stream(there, "a", tags=("user:1",)) as two,
        ):
            here.publish([event("a", "bye")])
            here.close_streams("user:1")
            for source in (one, two):
                assert [each.data for each in source.rest()] == ["bye"]
                assert position.is_end(place(source), ["a"])
        wait_for(hubs[1].socket_path, lambda figures: figures.closed == 1)
        with Stream(there, "a", tags=("user:1",)) as again:
            here.publish([event("a", "hello again")])
            assert again.data(1) == ["hello again"]

    def test_e7_a_stream_on_its_way_is_closed(self, site: Site) -> None:
        """A stream whose view ran before the closing, and that arrives after it, ends."""
        hubs = [site.hub(), site.hub()]
        here, there = map(site.worker, hubs)
        seen = there.position()
        here.close_streams("user:1")
        publish_all(here, [event("a", "x")])
        wait_for(hubs[1].socket_path, lambda figures: figures.published >= 1)
        with Stream(there, "a", tags=("user:1",), position=seen) as source:
            source.rest()
            assert position.is_end(place(source), ["a"])

    def test_e3_an_end_is_known_everywhere(self, site: Site) -> None:
        """A channel that ended at one hub has ended at the other, and at one that begins later."""
        here, there = (site.worker(site.hub()) for _ in range(2))
        with Stream(there, "job") as source:
            here.publish([event("job", "done")], ends=(0,))
            assert [each.data for each in source.rest()] == ["done"]
        later = site.worker(site.hub())
        with Stream(later, "job") as source:
            assert [each.data for each in source.rest()] == ["done"]

    def test_h6_a_hub_reads_a_long_log_before_it_begins(self, site: Site) -> None:
        """Reading may take longer than a broker that is away is waited for."""
        worker = site.worker(site.hub())
        with Stream(worker, "a") as source:
            for _ in range(12):
                publish_all(worker, [event("a", "old") for _ in range(2500)])
            last = source.events(30_000)[-1].id
        another = site.worker(site.hub())
        with Stream(another, "a", last_event_id=last) as source:
            worker.publish([event("a", "next")])
            assert source.data(1) == ["next"]

    def test_h5_a_client_that_waits_is_not_lost(self, site: Site) -> None:
        """Who is ahead of a hub that is replaced has its stream all the same."""
        hub = site.hub()
        worker = site.worker(hub)
        now = position.parse(_place_of(worker))
        assert now is not None
        later = str(now._replace(time=now.time + 3600 * 10**9))
        with Stream(worker, "a", last_event_id=later) as source:
            replacing = site.replace(hub)
            wait_for(hub.socket_path, lambda figures: figures.pid == replacing.pid)
            gap_of(source)
            worker.publish([event("a", "live")])
            assert source.data(1) == ["live"]

    def test_e7_a_later_hub_knows_what_was_closed(self, site: Site) -> None:
        """A client that is polled, and that comes to another hub after the closing, is ended."""
        here = site.worker(site.hub())
        before = _place_of(here)
        here.close_streams("user:1")
        publish_all(here, [event("a", "x")])
        later = site.worker(site.hub())
        asked = {"channels": ("a",), "position": later.position(), "last_event_id": before}
        closed = later.fetch(Fetch(**asked, tags=("user:1",)))
        other = later.fetch(Fetch(**asked, tags=("user:2",)))
        assert closed is not None
        assert other is not None
        assert position.is_end(read_last_id(closed), ["a"])
        assert not position.is_end(read_last_id(other), ["a"])

    def test_h6_a_killed_hub_loses_nothing(self, site: Site) -> None:
        """The hub that is started after it knows the log: ids of before resume without a gap."""
        hub = site.hub()
        worker = site.worker(hub)
        with Stream(worker, "a") as source:
            worker.publish([event("a", "one"), event("a", "two")])
            one, _ = source.events(2)
            hub.kill()
            worker.publish([event("a", "meanwhile")])
            source.rest()
        hub.restart()
        wait_for_hub(worker)
        with Stream(worker, "a", last_event_id=one.id) as again:
            assert again.data(2) == ["two", "meanwhile"]
            worker.publish([event("a", "after")])
            assert again.data(1) == ["after"]

    def test_h5_a_replaced_hub_goes_on_in_the_log(self, site: Site) -> None:
        """A hub that takes over has the clients, and goes on where the old one was."""
        hub = site.hub()
        worker = site.worker(hub)
        with Stream(worker, "a") as source:
            worker.publish([event("a", "one")])
            [one] = source.events(1)
            seen = worker.position()
            replacing = site.replace(hub)
            wait_for(hub.socket_path, lambda figures: figures.pid == replacing.pid)
            worker.publish([event("a", "two")])
            assert source.data(1) == ["two"]
            with Stream(worker, "a", last_event_id=one.id) as again:
                assert again.data(1) == ["two"]
            with Stream(worker, "a", position=seen) as view:
                assert view.data(1) == ["two"]
            assert "gap" not in source.raw.decode()


class TestStores:
    """What is promised where other programs can see the log, and empty it."""

    @pytest.fixture(params=STORES)
    def log(self, request: pytest.FixtureRequest) -> str:
        kind: str = request.param
        return kind

    @pytest.fixture
    def store(self, log: str, request: pytest.FixtureRequest) -> Contents:
        return store_named(log, request)

    def test_e3_trimmed_history_is_a_gap(self, store: Contents) -> None:
        """Who comes back for what was trimmed gets the gap, and who has missed nothing does not."""
        with Site(store.url, history_bytes=1) as site:
            here = site.worker(site.hub())
            big = "x" * 500_000
            with Stream(here, "a") as source:
                publish_all(here, [event("a", "first")])
                [first] = [last] = source.events(1)
                for _ in range(20):
                    here.publish([event("a", big)])
                    [last] = source.events(1)
            fresh = site.worker(site.hub(history_bytes=16 << 20))
            with Stream(fresh, "a", last_event_id=first.id) as late:
                assert gap_of(late)["reason"] == "old"
            with Stream(fresh, "a", last_event_id=last.id) as prompt:
                here.publish([event("a", "next")])
                assert prompt.data(1) == ["next"]
            # 4 MiB are the least.
            assert store.length(site.key) < 15

    def test_e3_an_emptied_broker_is_a_gap(self, site: Site, store: Contents) -> None:
        """Clients stay, hear of the gap by themselves, and go on in the new log."""
        worker = site.worker(site.hub())
        with Stream(worker, "a") as source:
            worker.publish([event("a", "one")])
            [one] = source.events(1)
            store.empty()
            told = gap_of(source)
            before, now = position.parse(one.id), position.parse(told["position"])
            assert before is not None
            assert now is not None
            assert before.epoch != now.epoch
            worker.publish([event("a", "two")])
            assert source.data(1) == ["two"]
        with Stream(worker, "a", last_event_id=one.id) as again:
            assert gap_of(again)["reason"] == "epoch"
        with Stream(worker, "a", last_event_id=told["position"]) as again:
            assert again.data(1) == ["two"]

    def test_e3_a_new_log_is_heard_from_its_beginning(self, site: Site, store: Contents) -> None:
        """What is published to it before a hub sees that it is new follows the gap."""
        hub = site.hub()
        worker = site.worker(hub)
        with Stream(worker, "a") as source:
            worker.publish([event("a", "one")])
            assert source.data(1) == ["one"]
            hub.send_signal(signal.SIGSTOP)
            store.empty()
            worker.publish([event("a", "two")])
            hub.wait_until(lambda: store.length(site.key) == 2, PATIENCE)
            hub.send_signal(signal.SIGCONT)
            gap_of(source)
            assert source.data(1) == ["two"]

    def test_e3_a_quiet_log_does_not_grow(self, site: Site, store: Contents) -> None:
        """Where nothing is published, each mark of the time takes an old one with it."""
        site.worker(site.hub())
        for _ in range(50):
            store.mark(site.key)
        assert store.length(site.key) <= 3

    def test_e3_a_renewed_epoch_is_seen_in_a_busy_log(self, site: Site, store: Contents) -> None:
        """Another hub has found out that entries are lost; this one had not read them."""
        hub = site.hub()
        worker = site.worker(hub)
        store.renew(site.key, "0123456789")

        def is_renewed() -> bool:
            worker.publish([event("a", "busy")])  # never a second of silence
            return hub.hub_figures().epoch == "0123456789"

        hub.wait_until(is_renewed, PATIENCE)


@pytest.mark.parametrize("name", STORES)
def test_e2_a_rolled_back_task_publishes_nothing(name: str, request: pytest.FixtureRequest) -> None:
    """With a broker, too, only what was committed leaves."""
    url = store_named(name, request).url
    with Site(url) as site:
        hub = site.hub()
        watcher = site.worker(hub)
        app = Flask(__name__)
        app.config.update(
            SIDEARM_HUB="socket",
            SIDEARM_SOCKET=hub.socket_path,
            SIDEARM_BROKER=url,
            SIDEARM_BROKER_KEY=site.key,
        )
        arm = Sidearm(app)
        with Stream(watcher, "a") as source:
            with app.app_context():
                with pytest.raises(ZeroDivisionError), arm.task("one"):
                    publish("a", "never")
                    raise ZeroDivisionError
                with arm.task("two"):
                    publish("a", "doomed")
                    current_task.doom("not today")
                with arm.task("three"):
                    publish("a", "kept")
            assert source.data(1) == ["kept"]
        app.extensions["sidearm"].hub.close()


def test_e5_a_hub_does_not_ask_for_each_entry_of_many(redis_store: RedisStore) -> None:
    """Where entries come densely, it gathers some: the broker answers every hub."""

    def questions() -> int:
        with redis_store.client() as client:
            return int(client.info("commandstats").get("cmdstat_xread", {"calls": 0})["calls"])

    with Site(redis_store.url) as site:
        hub = site.hub()
        worker = site.worker(hub)
        broker = open_broker(redis_store.url, site.key, hub.config.broker_limits())
        with Stream(worker, "a") as source, closing(broker.appender()) as appender:
            before, begun = questions(), time.monotonic()
            for number in range(1000):
                appender.append("one", number, [Event("a", encode_body(str(number)))])
            assert source.data(1000) == [str(number) for number in range(1000)]
            elapsed = time.monotonic() - begun
            full_answers = 1000 / GATHER_COUNT
            assert questions() - before <= elapsed / GATHER + full_answers + 5


def test_h5_a_brokers_hub_is_not_replaced_by_the_first_of_several(redis_store: RedisStore) -> None:
    """Whose log it is may not change: it would go on in the broker's epoch, and alone."""
    with Site(redis_store.url, hubs=2) as site:
        hub = site.hub()
        site.worker(hub)
        epoch = hub.hub_figures().epoch
        new = Replacement(lambda _: HubConfig(socket=hub.socket_path, hubs=2))
        with new:  # it finds a hub there that answers
            assert new.wait_for_exit(PATIENCE) == 1
            assert "SIDEARM_BROKER" in new.log_text()
        figures = hub.hub_figures()
        assert (figures.pid, figures.epoch) == (hub.pid, epoch)


def test_e5_the_bridge_hears_once_and_notices_a_server_that_vanishes(
    redis_server: RedisServer,
) -> None:
    """Redis says a message once for each pattern; and nothing at all when it hangs."""

    async def listen() -> None:
        bridge = open_broker(redis_server.url, "k", Limits(1, 1)).bridge(["stock", "sto*", "*"])
        try:
            await bridge.receive(0.1)
            with closing(redis.Redis(port=redis_server.port)) as client:
                for _ in range(2):
                    assert client.publish("stock", "x") == 3
            heard: list[tuple[str, bytes]] = []
            while len(heard) < 2:
                heard += await bridge.receive(1)
            assert heard == [("stock", b"x")] * 2
            assert await bridge.receive(0.1) == []
            redis_server.send_signal(signal.SIGSTOP)
            with pytest.raises(BrokerError):
                while True:
                    await bridge.receive(1)
        finally:
            redis_server.send_signal(signal.SIGCONT)
            await bridge.close()

    asyncio.run(listen())


def test_e5_the_bridge_hears_whichever_node_it_was_said_at(cluster_store: ClusterStore) -> None:
    """A Cluster passes a message on to all of its nodes."""
    cluster = cluster_store.cluster

    async def listen() -> None:
        bridge = open_broker(cluster.url, "k", Limits(1, 1)).bridge(["stock"])
        try:
            await bridge.receive(0.1)
            heard: list[tuple[str, bytes]] = []
            for number, node in enumerate(cluster.nodes):
                node.ask("PUBLISH", "stock", number)
                while len(heard) <= number:
                    heard += await bridge.receive(1)
            assert heard == [("stock", b"%d" % number) for number in range(len(cluster.nodes))]
        finally:
            await bridge.close()

    asyncio.run(listen())


def test_e5_one_node_of_a_cluster_does_not_do(cluster_store: ClusterStore) -> None:
    """Named as if it were alone, it says how a Cluster is named."""
    cluster = cluster_store.cluster
    other = next(node for node in cluster.nodes if node is not cluster.node_of("k"))

    async def ask() -> None:
        reader = open_broker(other.url, "k", Limits(1, 1)).reader()
        try:
            with pytest.raises(BrokerError, match=r"give 'redis\+cluster://HOST:PORT'"):
                await reader.head()
        finally:
            await reader.close()

    asyncio.run(ask())


def _place_of(worker: HubClient) -> str:
    """The position of a page that is made now."""
    found = worker.place_at(time.monotonic_ns())
    assert found is not None
    return found

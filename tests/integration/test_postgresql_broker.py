"""E5: what is PostgreSQL's own about it as the log."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from broker_sites import Site
from hub_streams import PATIENCE, Stream, event, publish_all
from needed import or_skip

from sidearm.brokers import Event, Limits, Loss, open_broker, sql
from sidearm.exceptions import BrokerError
from sidearm.testing import PostgresServer

psycopg = pytest.importorskip("psycopg", reason="pip install 'sidearm[postgresql]'")

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidearm.brokers import Broker, Entry

LIMITS = Limits(60, 4 << 20)


@pytest.fixture(scope="module", autouse=True)
def server() -> Iterator[PostgresServer]:
    with or_skip(PostgresServer) as server:
        yield server


@pytest.fixture
def site(server: PostgresServer) -> Iterator[Site]:
    with Site(server.url) as site:
        yield site


@pytest.fixture
def database(server: PostgresServer) -> str:
    """The URL of a database in which nothing is."""
    return _new_database(server, "fresh", "ENCODING 'UTF8'")


def _new_database(server: PostgresServer, name: str, how: str) -> str:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 {how}")
    return server.url.rpartition("/")[0] + f"/{name}"


def read_all(broker: Broker) -> list[Entry]:
    """All entries of a log."""

    async def read() -> list[Entry]:
        reader = broker.reader()
        try:
            await reader.head()
            return await reader.read(0, 0)
        finally:
            await reader.close()

    return asyncio.run(read())


def test_e5_positions_come_in_the_order_of_commits(server: PostgresServer, site: Site) -> None:
    """While a lower one is open, no higher one is seen; so no hub passes one over."""
    worker = site.worker(site.hub())
    with Stream(worker, "a") as source, psycopg.connect(server.url) as lower:
        publish_all(worker, [event("a", "first")])
        assert source.data(1) == ["first"]
        body = b"data: lower\n"
        values = [site.key, "0123456789", "other", 1, ["keep"], [b"a"], [body]]
        lower.execute(sql.APPEND, values)
        worker.publish([event("a", "higher")])

        def waits() -> bool:
            with psycopg.connect(server.url, autocommit=True) as looking:
                [[count]] = looking.execute(
                    "SELECT count(*) FROM pg_stat_activity"
                    " WHERE wait_event_type = 'Lock' AND query LIKE '%sidearm_1.append%'"
                )
            return bool(count)

        server.wait_until(waits, PATIENCE, "the higher one to wait")
        assert source.pending_events() == []
        lower.commit()
        events = source.events(2)
        assert [each.data for each in events] == ["lower", "higher"]
        assert events[0].id < events[1].id


def test_e5_a_hub_looks_though_nobody_wakes_it(server: PostgresServer, site: Site) -> None:
    """What is appended without NOTIFY comes all the same."""
    worker = site.worker(site.hub())
    with Stream(worker, "a") as source:
        with psycopg.connect(server.url, autocommit=True) as connection:
            values = [site.key, "0123456789", "silent", 1, ["keep"], [b"a"], [b"data: x\n"]]
            connection.execute(sql.APPEND, values)
        assert source.data(1) == ["x"]


def test_e5_a_hub_is_woken_once_the_entry_is_there(server: PostgresServer) -> None:
    """It would wait for twice as long as this test does."""
    broker = open_broker(server.url, "woken", LIMITS)

    async def read_next(last: int) -> list[Entry]:
        reader = broker.reader()
        try:
            await reader.head()
            waiting = asyncio.create_task(reader.read(last, 2 * PATIENCE))
            with closing(broker.appender()) as appender:
                await asyncio.to_thread(appender.append, "me", 1, [Event("a", b"x")])
                return await asyncio.wait_for(waiting, PATIENCE)
        finally:
            await reader.close()

    [entry] = asyncio.run(read_next(read_all(broker)[-1].position))
    assert entry.item == Event("a", b"x")


def test_e5_a_call_counts_once(server: PostgresServer) -> None:
    """The same number again changes nothing; the next one does."""
    broker = open_broker(server.url, "once", LIMITS)
    with closing(broker.appender()) as one, closing(broker.appender()) as two:
        for appender, number in ((one, 1), (one, 1), (two, 1), (two, 2), (one, 1), (one, 2)):
            appender.append("me", number, [Event("a", b"%d" % number), Loss(("b", "c"))])
    items = [entry.item for entry in read_all(broker) if entry.item is not None]
    assert items == [
        Event("a", b"1"),
        Loss(("b", "c")),
        Event("a", b"2"),
        Loss(("b", "c")),
    ]


def test_e5_many_begin_at_once(database: str) -> None:
    """The tables are made once, the log is begun once, and nothing is lost of it."""
    broker = open_broker(database, "many", LIMITS)
    start = threading.Barrier(8)
    failed: list[Exception] = []

    def begin(name: str) -> None:
        with closing(broker.appender()) as appender:
            start.wait()
            try:
                for number in range(20):
                    appender.append(name, number, [Event("a", name.encode())])
            except BrokerError as error:
                failed.append(error)

    threads = [threading.Thread(target=begin, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    entries = read_all(broker)
    assert len(entries) == 161
    before = 0
    for entry in entries:
        assert entry.before == before
        assert entry.position > before
        before = entry.position


def test_e1_any_name_and_body_in_any_database(server: PostgresServer) -> None:
    """A database's own encoding is none of the log's business."""
    url = _new_database(server, "latin", "ENCODING 'LATIN1' LOCALE 'C'")
    broker = open_broker(url, "latin", LIMITS)
    item = Event("\u20ac\U0001f600", b"\0\xff\\x'", keep=False)
    with closing(broker.appender()) as appender:
        appender.append("me", 1, [item])
    assert read_all(broker)[-1].item == item


def test_e5_a_user_without_rights_is_told_what_is_missing(
    server: PostgresServer, database: str
) -> None:
    """Who may not make the tables hears it, and may use those that somebody made."""
    statements = ["DROP ROLE IF EXISTS weak", "CREATE ROLE weak LOGIN"]
    url = database.replace("postgres@", "weak@")
    with psycopg.connect(database, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
        broker = open_broker(url, "weak", LIMITS)
        with closing(broker.appender()) as appender:
            with pytest.raises(BrokerError, match="the right to CREATE"):
                appender.append("me", 1, [Event("a", b"1")])
            connection.execute(sql.CREATE)
            with pytest.raises(BrokerError, match="sidearm_1"):
                appender.append("me", 1, [Event("a", b"1")])
            for right in (
                "USAGE ON SCHEMA sidearm_1",
                "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA sidearm_1",
            ):
                connection.execute(f"GRANT {right} TO weak")
            appender.append("me", 1, [Event("a", b"1")])
        assert read_all(broker)[-1].item == Event("a", b"1")
        connection.execute("DROP OWNED BY weak")
        connection.execute("DROP ROLE weak")


def test_e5_nothing_is_kept_for_longer_than_needed(server: PostgresServer) -> None:
    """Old entries go, and senders that nobody heard of; the newest entry stays."""
    broker = open_broker(server.url, "old", LIMITS)
    with closing(broker.appender()) as appender:
        for number in range(5):
            appender.append("me", number, [Event("a", b"x")])
    newest = read_all(broker)[-1]

    def count(table: str) -> Any:
        return connection.execute(f"SELECT count(*) FROM {table} WHERE log = 'old'").fetchone()[0]

    with psycopg.connect(server.url, autocommit=True) as connection:
        assert (count("sidearm_1.entry"), count("sidearm_1.sender")) == (6, 1)
        connection.execute(sql.TRIM, ["old", 3600 * 10**9, 1, 3600])
        assert read_all(broker) == [newest]
        connection.execute(sql.TRIM, ["old", 0, 1 << 20, 0])
        assert read_all(broker) == [newest]
        assert count("sidearm_1.sender") == 0


def _stopped(database: str) -> list[int]:
    """Stop the processes of the server that serve this database; others are started as before."""
    with psycopg.connect(database, autocommit=True) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    for (pid,) in rows:
        os.kill(pid, signal.SIGSTOP)
    return [pid for (pid,) in rows]


def _go_on(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def test_h6_an_append_that_is_never_answered_is_given_up(database: str) -> None:
    """As where a line swallows everything: the next call takes another connection."""
    broker = open_broker(database, "silent", LIMITS)
    with closing(broker.appender()) as appender:
        appender.append("me", 1, [Event("a", b"1")])
        pids = _stopped(database)
        try:
            assert len(pids) == 1
            with pytest.raises(BrokerError):
                appender.append("me", 2, [Event("a", b"2")])
            appender.append("me", 2, [Event("a", b"2")])
        finally:
            _go_on(pids)
        appender.append("me", 3, [Event("a", b"3")])
    items = [entry.item for entry in read_all(broker) if entry.item is not None]
    assert items == [Event("a", b"1"), Event("a", b"2"), Event("a", b"3")]


def test_h6_a_question_that_is_never_answered_is_given_up(database: str) -> None:
    """The hub's end, too."""
    broker = open_broker(database, "silent", LIMITS)

    async def ask() -> None:
        reader = broker.reader()
        try:
            before = await reader.head()
            pids = _stopped(database)
            try:
                with pytest.raises(BrokerError):
                    await reader.head()
                assert await reader.head() == before
            finally:
                _go_on(pids)
        finally:
            await reader.close()

    asyncio.run(ask())

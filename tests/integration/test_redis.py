"""T12 on a real Redis: a client whose writes wait for the commit, and cachelib's cache on it."""

from __future__ import annotations

import logging
import re
import signal
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from needed import or_skip

from sidearm import OutsideTask, Sidearm, after_commit, current_task, publish
from sidearm.exceptions import NotWhileWaiting
from sidearm.resources.sqlite import SQLite
from sidearm.signals import callback_failed
from sidearm.testing import RedisServer

redis = pytest.importorskip("redis", reason="pip install 'sidearm[redis]'")
cachelib = pytest.importorskip("cachelib", reason="pip install cachelib")

from redis.backoff import NoBackoff  # noqa: E402
from redis.retry import Retry  # noqa: E402

from sidearm.resources.redis import READING, WAITING, TaskRedis, WaitingReply  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidearm.testing import Captured

PATIENCE = 60  # seconds for an answer of a server that runs


class Broken(Exception):
    """What tasks raise here."""


def connect(server: RedisServer, **options: Any) -> Any:
    """A client that asks once and waits for its answer: what is away is found out at once."""
    return redis.Redis(
        port=server.port,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=PATIENCE,
        socket_connect_timeout=PATIENCE,
        **options,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with or_skip(RedisServer) as server:
        yield server


@pytest.fixture
def others(server: RedisServer) -> Iterator[Any]:
    """The server as everybody else sees it, empty."""
    client = connect(server)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def client(server: RedisServer, others: Any, arm: Sidearm, app: Flask) -> Iterator[Any]:
    """The client as tasks see it."""
    plain = connect(server)
    plain.ping()  # so that it is connected, and says nothing of its own afterwards
    yield arm.use(plain)
    plain.close()


@pytest.fixture
def heard(server: RedisServer, others: Any) -> Iterator[Callable[[], list[str]]]:
    """What the server was sent, by whomever: a function that gives it since its last call."""
    listener = connect(server)
    number = iter(range(1000))
    with listener.monitor() as monitor:

        def heard() -> list[str]:
            end = f"end {next(number)}"
            others.echo(end)
            commands: list[str] = []
            while (command := monitor.next_command()["command"]) != f"ECHO {end}":
                commands.append(command)
            return commands

        yield heard
    listener.close()


@pytest.fixture
def serve(app: Flask) -> Callable[[Callable[[], Any]], None]:
    """Answer ``/`` with a function of the test."""
    return lambda view: app.add_url_rule("/", view_func=view)


@pytest.fixture
def captured(app: Flask, sidearm_capture: Callable[..., Any]) -> Iterator[Captured]:
    """What leaves the application."""
    with sidearm_capture(app) as captured:
        yield captured


# -- waiting, and what the task sees of it


def test_t12_writes_wait_for_the_commit(arm: Sidearm, others: Any, client: Any) -> None:
    """Others see the old values until then; the task its own."""
    others.mset({"old": "1", "gone": "1", "same": "1"})
    with arm.task("work"):
        assert client.set("new", "2") is True
        assert client.set("soon", b"3", ex=60) is True
        assert client.mset({"old": "4", b"bytes": 5}) is True
        client.delete("gone", "missing")
        assert client.get("new") == b"2"
        names = ["new", "soon", "old", "bytes", "gone", "missing", "same"]
        values = [b"2", b"3", b"4", b"5", None, None, b"1"]
        assert client.mget(names) == client.mget(*names) == values
        assert client.exists(*names) == 5
        assert others.mget(names) == [None, None, b"1", None, b"1", None, b"1"]
    assert others.mget(names) == values
    assert 0 < others.ttl("soon") <= 60
    assert others.ttl("new") == -1


def test_t12_nothing_is_written_after_a_rollback(arm: Sidearm, others: Any, client: Any) -> None:
    """The cache never tells of rows that are not there."""
    others.set("stock", "5")
    with pytest.raises(Broken), arm.task("work"):
        client.set("stock", "4")
        client.delete("stock")
        client.publish("stock", "4")
        raise Broken
    assert others.get("stock") == b"5"


@pytest.mark.parametrize("status", [200, 409])
def test_t12_in_requests(app: Flask, others: Any, client: Any, serve: Any, status: int) -> None:
    """By the outcome of the request."""

    def view() -> tuple[str, int]:
        client.set("key", "value")
        return "x", status

    serve(view)
    app.test_client().get("/")
    assert others.get("key") == (b"value" if status == 200 else None)


def test_t12_all_writes_leave_in_one_transaction_of_redis(
    arm: Sidearm, client: Any, heard: Callable[[], list[str]]
) -> None:
    """In the order of the calls, in one MULTI/EXEC, whatever was registered between them."""
    with arm.task("work"):
        client.set("a", 1, ex=60)
        after_commit(lambda: None)
        client.incr("b", 2)
        publish("events", 1)
        client.expire("b", timedelta(minutes=1))
        client.hset("c", mapping={"field": "value"})
        assert heard() == []
    assert heard() == [
        "MULTI",
        "SET a 1 EX 60",
        "INCRBY b 2",
        "EXPIRE b 60",
        "HSET c field value",
        "EXEC",
    ]


def test_t12_redis_is_written_when_everything_has_committed(
    arm: Sidearm, others: Any, client: Any, captured: Any
) -> None:
    """At no commit of a resource is anything there yet; at the callbacks that follow it is."""
    seen = []

    class Thing:
        def commit(self) -> None:
            seen.append(others.get("key"))

    @arm.resource
    def first() -> Any:
        yield Thing()

    @arm.resource
    def second() -> Any:
        yield Thing()

    with arm.task("work"):
        first()
        client.set("key", "1")
        after_commit(lambda: seen.append(others.get("key")))
        client.set("key", "2")
        second()
    assert seen == [None, None, b"2"]


def test_t12_counting(arm: Sidearm, others: Any, client: Any) -> None:
    """The task reads its sums; what others add meanwhile is not lost."""
    others.set("count", 10)
    with arm.task("work"):
        client.incr("count")
        client.incrby("count", 5)
        client.decr("count", 2)
        client.incr("fresh")
        client.set("set", 7)
        client.decrby("set", 10)
        client.delete("count again")
        client.incr("count again")
        assert client.mget("count", "fresh", "set", "count again") == [b"14", b"1", b"-3", b"1"]
        assert client.exists("fresh") == 1
        others.incrby("count", 100)
        assert client.get("count") == b"114"
    assert others.mget("count", "fresh", "set", "count again") == [b"114", b"1", b"-3", b"1"]


def test_t12_lifetimes(arm: Sidearm, others: Any, client: Any) -> None:
    """A lifetime changes no value; one that is over at once ends the key, when it arrives."""
    others.set("kept", "1")
    others.set("mortal", "1", ex=5000)
    with arm.task("work"):
        client.expire("kept", 100)
        client.persist("mortal")
        client.set("mine", "1", px=90_000)
        assert client.mget("kept", "mortal", "mine") == [b"1", b"1", b"1"]
        client.expire("mine", 0)
        with pytest.raises(NotWhileWaiting, match="GET has no answer yet: EXPIRE"):
            client.get("mine")
    assert 0 < others.ttl("kept") <= 100
    assert others.ttl("mortal") == -1
    assert others.get("mine") is None


def test_t12_text_and_keys_are_as_the_client_has_them(
    arm: Sidearm, app: Flask, server: RedisServer, others: Any
) -> None:
    """With ``decode_responses`` the task reads text; a key is one key as text and as bytes."""
    plain = connect(server, decode_responses=True)
    client = arm.use(plain)
    with arm.task("work"):
        client.set(b"k\xc3\xa9y", "välue")
        client.incr("number")
        assert client.get("kéy") == "välue"
        assert client.mget(["kéy", "number", "none"]) == ["välue", "1", None]
        with pytest.raises(redis.DataError):
            client.set("key", None)
        changed = bytearray(b"then")
        client.set("changed", memoryview(changed))
        changed[:] = b"late"
        assert client.get("changed") == "then"
    assert others.get("kéy") == "välue".encode()
    assert others.get("changed") == b"then"
    plain.close()


def test_t12_savepoints_and_callbacks(arm: Sidearm, others: Any, client: Any) -> None:
    """What a savepoint undoes the task no longer reads; a callback may write too."""
    with arm.task("work"):
        client.set("key", "kept")
        after_commit(lambda: client.set("callback", others.get("key")))
        with pytest.raises(Broken), current_task.savepoint():
            client.set("key", "undone")
            client.set("other", "undone")
            assert client.get("key") == b"undone"
            raise Broken
        assert client.mget("key", "other") == [b"kept", None]
    assert others.mget("key", "other", "callback") == [b"kept", None, b"kept"]


def test_t13_a_write_belongs_to_the_transaction_that_is_open(
    arm: Sidearm, app: Flask, others: Any, client: Any, tmp_path: Path
) -> None:
    """Committed by hand it leaves at once; rolled back by hand it is forgotten."""
    get_db = arm.use(SQLite(tmp_path / "notes.db"), commit="explicit")
    with arm.task("work"):
        get_db().execute("CREATE TABLE notes (text TEXT)")
        get_db().execute("INSERT INTO notes VALUES ('one')")
        client.set("one", 1)
        get_db().commit()
        assert others.get("one") == b"1"
        get_db().execute("INSERT INTO notes VALUES ('two')")
        client.set("two", 2)
        get_db().rollback()
        assert client.get("two") is None
    assert others.get("two") is None


def test_t1_tasks_do_not_see_each_others_writes(arm: Sidearm, others: Any, client: Any) -> None:
    """An independent task has its own, and its own outcome."""
    with arm.task("outer"):
        client.set("key", "outer")
        with arm.task("inner"):
            assert client.get("key") is None
            client.set("key", "inner")
        assert client.get("key") == b"outer"
        assert others.get("key") == b"inner"
    assert others.get("key") == b"outer"


# -- never an answer that was made up


@pytest.mark.parametrize(
    "use",
    [
        bool,
        int,
        str,
        len,
        list,
        "{}".format,
        lambda reply: reply == 1,
        lambda reply: reply != 1,
        lambda reply: reply > 0,
        lambda reply: reply + 1,
        lambda reply: 1 + reply,
        range,
        lambda reply: reply in (1, 2),
    ],
)
def test_t12_the_answer_of_what_waits_is_refused(
    arm: Sidearm, others: Any, client: Any, use: Callable[[Any], Any]
) -> None:
    """A number that two tasks could both get, or a token that both could use up, is no answer."""
    others.set("token", "1")
    with arm.task("work"):
        for reply in (client.incr("number"), client.delete("token"), client.lpush("list", "x")):
            assert isinstance(reply, WaitingReply)
            with pytest.raises(NotWhileWaiting, match=r"sent after the commit.*client\.now"):
                use(reply)
            assert "waits for the commit" in repr(reply)
    assert others.mget("number", "token") == [b"1", None]


def test_t12_a_condition_is_refused(arm: Sidearm, client: Any) -> None:
    """Whether SET NX takes a lock is known when it arrives, and nobody would be told."""
    with arm.task("work"):
        for options in ({"nx": True}, {"xx": True}, {"get": True}):
            with pytest.raises(NotWhileWaiting, match=r"condition.*client\.now"):
                client.set("lock", "mine", **options)
        assert client.now.set("lock", "mine", nx=True) is True
        assert client.get("lock") == b"mine"


def test_t12_reads_of_what_waits_in_part_are_refused(
    arm: Sidearm, others: Any, client: Any
) -> None:
    """The task has written to the key, and what came of it is not known: an error, by its name."""
    others.hset("hash", "field", "old")
    others.rpush("list", "a", "b")
    others.set("text", "a")
    with arm.task("work"):
        assert client.hget("hash", "field") == b"old"
        assert client.lrange("list", 0, -1) == [b"a", b"b"]
        assert client.ttl("text") == -1
        client.hset("hash", "field", "new")
        client.rpush("list", "c")
        client.append("text", "b")
        for read, command in (
            (lambda: client.hgetall("hash"), "HGETALL .* HSET"),
            (lambda: client.llen("list"), "LLEN .* RPUSH"),
            (lambda: client.get("text"), "GET .* APPEND"),
            (lambda: client.mget("none", "text"), "MGET .* APPEND"),
            (lambda: client.exists("list"), "EXISTS .* RPUSH"),
            (lambda: client.ttl("text"), "TTL .* APPEND"),
        ):
            with pytest.raises(NotWhileWaiting, match=command):
                read()
        assert client.now.hget("hash", "field") == b"old"
        client.delete("text")
        assert client.get("text") is None
        client.incr("list")  # which will fail when it arrives
        with pytest.raises(NotWhileWaiting):
            client.get("list")
    assert others.hget("hash", "field") == b"new"


def test_t12_a_sum_of_something_else_is_refused(arm: Sidearm, others: Any, client: Any) -> None:
    """Redis takes ``007`` for no integer, and so does the task."""
    for value in ("text", "007", " 7", "1.5", "-0"):
        others.set("key", value)
        with pytest.raises(NotWhileWaiting, match="no integer"), arm.task("work"):
            client.incr("key")
            client.get("key")
        with pytest.raises(redis.ResponseError):
            others.incr("key")
    with pytest.raises(NotWhileWaiting, match="64 bits"), arm.task("work"):
        client.set("key", (1 << 63) - 1)
        assert client.get("key") == b"9223372036854775807"
        client.incr("key")
        client.get("key")


def test_t12_commands_that_cannot_wait_name_the_way_out(arm: Sidearm, client: Any) -> None:
    """They are no methods, and the error says where they are; a typing mistake is one."""
    with arm.task("work"):
        for name in ("pipeline", "getdel", "setnx", "eval", "flushdb", "scan_iter", "lock"):
            with pytest.raises(AttributeError, match=rf"client\.now\.{name}\(\)"):
                getattr(client, name)
        with pytest.raises(AttributeError, match="no 'gett'"):
            _ = client.gett
        client.now.pipeline().set("a", 1).execute()
        assert client.get("a") == b"1"


@pytest.mark.parametrize("name", [*WAITING, *READING, "get", "mget", "exists"])
def test_t12_every_command_of_the_lists_is_one_of_redis_py(name: str) -> None:
    """Each is a method of the client's, in the oldest version that is allowed too."""
    assert callable(getattr(redis.Redis, name))


def test_t12_the_documentation_names_every_command() -> None:
    """The table of the reference is these lists, in their order."""
    page = Path(__file__).parents[2] / "docs/reference/resources.md"
    rows = dict(re.findall(r"^\| (see|wait|read)[^|]*\|(.*)\|$", page.read_text(), re.MULTILINE))
    named = {row: tuple(re.findall(r"`(\w+)`", words)) for row, words in rows.items()}
    assert named == {"see": ("get", "mget", "exists"), "wait": WAITING, "read": READING}


CALLS: dict[str, tuple[Any, ...]] = {
    "set": ("t", "1"),
    "mset": ({"t": "1"},),
    "append": ("t", "1"),
    "incr": ("n",),
    "incrby": ("n", 2),
    "decr": ("n",),
    "decrby": ("n", 2),
    "delete": ("t", "n"),
    "unlink": ("t", "n"),
    "expire": ("t", 60),
    "pexpire": ("t", 60_000),
    "persist": ("t",),
    "hset": ("h", "f", "1"),
    "hdel": ("h", "f"),
    "hincrby": ("h", "n", 2),
    "sadd": ("s", "a", "b"),
    "srem": ("s", "a"),
    "zadd": ("z", {"a": 1.5}),
    "zincrby": ("z", 2, "a"),
    "zrem": ("z", "a"),
    "lpush": ("l", "a", "b"),
    "rpush": ("l", "c"),
    "ltrim": ("l", 0, 1),
    "xadd": ("x", {"f": "1"}, "1-1"),
    "publish": ("channel", "message"),
}


def test_t12_what_waits_is_sent_as_redis_py_sends_it(
    arm: Sidearm, others: Any, client: Any, heard: Callable[[], list[str]]
) -> None:
    """Each command of the list, word for word."""
    assert sorted(CALLS) == sorted(WAITING)
    for name, arguments in CALLS.items():
        getattr(others, name)(*arguments)
    directly = heard()
    others.flushall()
    heard()
    with arm.task("work"):
        for name, arguments in CALLS.items():
            getattr(client, name)(*arguments)
    assert heard() == ["MULTI", *directly, "EXEC"]


# -- a server that refuses, or is away


def test_t12_a_command_that_redis_refuses_fails_no_task(
    app: Flask, others: Any, client: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are done, the log names the command and its key, and not the value."""
    others.rpush("list", "a")

    def view() -> str:
        client.incr("list")
        client.set("key", "a secret")
        client.sadd("list", "a secret")
        return "saved"

    serve(view)
    assert app.test_client().get("/").text == "saved"
    assert others.get("key") == b"a secret"
    (error,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "redis.incr" in error.getMessage()
    for command in ("INCRBY", "SADD"):
        assert re.search(rf"WRONGTYPE.*\n.*the answer to {command} \(b'list',\)", caplog.text)
    assert "a secret" not in caplog.text


def test_t3_redis_that_is_killed_fails_no_task(
    app: Flask,
    arm: Sidearm,
    database: Callable[[], Any],
    serve: Any,
    captured: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The rows are saved and the rest leaves; it is logged and signalled; the next task works."""
    failed: list[str] = []

    def receive(_: Any, callback: str, **__: Any) -> None:
        failed.append(callback)

    with RedisServer(args=["--appendonly", "yes", "--appendfsync", "always"]) as server:
        plain = connect(server)
        client = arm.use(plain)
        kill = [False, True, False]

        def view() -> str:
            database().execute("INSERT INTO notes VALUES ('row')")
            client.incr("count")
            publish("notes", "row")
            if kill.pop(0):
                server.kill()
            return "saved"

        serve(view)
        http = app.test_client()
        with callback_failed.connected_to(receive, app):
            assert http.get("/").text == "saved"
            assert failed == []
            assert http.get("/").text == "saved"
            assert failed == ["redis.incr"]
            (error,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
            assert "redis.incr, registered in " in error.getMessage()
            assert "view (" in error.getMessage()
            server.restart()
            assert http.get("/").text == "saved"
        assert failed == ["redis.incr"]
        assert plain.get("count") == b"2"
        plain.close()
    with arm.task("look"):
        assert len(database().execute("SELECT * FROM notes").fetchall()) == 3
    assert len(captured.events) == 3


def test_t3_redis_that_hangs_fails_no_task(
    app: Flask,
    arm: Sidearm,
    database: Callable[[], Any],
    serve: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The response waits as long as the client does, and then it is sent."""
    with RedisServer() as server:
        plain = redis.Redis(
            port=server.port,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=0.2,  # seconds, of which the server answers in none
            socket_connect_timeout=PATIENCE,
        )
        client = arm.use(plain)

        def view() -> str:
            database().execute("INSERT INTO notes VALUES ('row')")
            client.set("key", 1)
            return "saved"

        serve(view)
        server.send_signal(signal.SIGSTOP)
        try:
            assert app.test_client().get("/").text == "saved"
        finally:
            server.send_signal(signal.SIGCONT)
        plain.close()
    (error,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "redis.set" in error.getMessage()
    assert error.exc_info is not None
    assert isinstance(error.exc_info[1], redis.TimeoutError)
    with arm.task("look"):
        assert len(database().execute("SELECT * FROM notes").fetchall()) == 1


def test_t12_a_read_of_redis_that_is_away_is_the_views_error(
    app: Flask, arm: Sidearm, database: Callable[[], Any], serve: Any
) -> None:
    """What the view asks and nobody answers is an exception like any other."""
    with RedisServer() as server:
        plain = connect(server)
        client = arm.use(plain)

        def view() -> str:
            database().execute("INSERT INTO notes VALUES ('row')")
            return str(client.get("key"))

        serve(view)
        app.config["PROPAGATE_EXCEPTIONS"] = False
        assert app.test_client().get("/").text == "None"
        server.kill()
        assert app.test_client().get("/").status_code == 500
        plain.close()
    with arm.task("look"):
        assert len(database().execute("SELECT * FROM notes").fetchall()) == 1


# -- declaring it


def test_t2_outside_of_a_task(client: Any) -> None:
    """As with every resource."""
    for use in (
        lambda: client.get("key"),
        lambda: client.set("key", 1),
        lambda: client.ttl("key"),
        lambda: client.exists("key"),
    ):
        with pytest.raises(OutsideTask, match=r"redis\.\w+\(\)"):
            use()


def test_t12_what_is_a_client(server: RedisServer, arm: Sidearm) -> None:
    """``commit`` has no meaning for it; pipelines and clients for asyncio cannot wait."""
    plain = connect(server)
    with pytest.raises(ValueError, match="commit="):
        arm.use(plain, commit="explicit")
    for other in (plain.pipeline(), redis.asyncio.Redis(port=server.port)):
        with pytest.raises(TypeError, match=r"redis\.Redis"):
            arm.use(other)
    assert isinstance(arm.use(plain), TaskRedis)
    plain.close()


# -- cachelib's cache on the same server


@pytest.fixture
def cache(server: RedisServer, others: Any, arm: Sidearm, app: Flask) -> Iterator[Any]:
    """A RedisCache as tasks see it."""
    plain = connect(server)
    yield arm.use(cachelib.RedisCache(plain, key_prefix="cache:"))
    plain.close()


def test_t12_cachelibs_cache_on_redis_waits_too(arm: Sidearm, others: Any, cache: Any) -> None:
    """Values of any kind, sums, lifetimes; what belongs to nobody else's prefix stays."""
    backend = cachelib.RedisCache(others, key_prefix="cache:")
    backend.set_many({"old": 1, "count": 10})
    others.set("another's", "1")
    with arm.task("work"):
        assert cache.set("new", {"a": [1, None]}, timeout=60)
        assert cache.delete("old")
        assert [cache.inc("count"), cache.dec("count", 3), cache.inc("fresh")] == [11, 8, 1]
        assert cache.get_many("new", "old", "count", "fresh") == [{"a": [1, None]}, None, 8, 1]
        assert backend.get_many("new", "old", "count", "fresh") == [None, 1, 10, None]
        backend.inc("count", 100)
    assert backend.get_many("new", "old", "count", "fresh") == [{"a": [1, None]}, None, 108, 1]
    assert 0 < others.ttl("cache:new") <= 60
    with pytest.raises(Broken), arm.task("work"):
        cache.clear()
        assert cache.get("new") is None
        raise Broken
    assert backend.has("new")
    with arm.task("work"):
        cache.clear()
    assert not backend.has("new")
    assert others.get("another's") == b"1"


def test_t12_cachelibs_cache_on_redis_that_is_killed(
    arm: Sidearm, app: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    """The task stays committed; the log tells of the cache."""
    with RedisServer() as server:
        plain = connect(server)
        cache = arm.use(cachelib.RedisCache(plain))
        with arm.task("work"):
            cache.set("key", 1)
            server.kill()
        assert app.extensions["sidearm"].records[-1].committed
        plain.close()
    (error,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "cache.set" in error.getMessage()

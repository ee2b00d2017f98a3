"""What goes wrong with the talk's slides on today's Flask (1 to 7, 11, 12), and not with Sidearm.

Each number has a test of the slide, ported to Python 3, that shows the fault, and one of Sidearm.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
import urllib.request
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest
from flask import Flask, Response, abort, g, stream_with_context
from flasks import before_3_2, raises
from werkzeug.test import EnvironBuilder

from sidearm import EventStream, Sidearm, after_commit, event_stream, publish
from sidearm.hub.config import HubConfig
from sidearm.hub.eventstream import Parser
from sidearm.signals import events_published
from sidearm.testing import EventSource, GunicornServer, HubServer, read_events

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from sidearm.testing.servers import Server

APPS = Path(__file__).parents[1] / "apps"


class Broken(Exception):
    """What views raise here."""


class ConnectionPool:
    """The slides' ``connection_pool``: SQLite connections that are counted.

    Attributes:
        path: The file.
        claims, releases, commits: What was done.
        returned: What came back, in order.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.claims = self.releases = self.commits = 0
        self.returned: list[sqlite3.Connection] = []
        self.all: list[sqlite3.Connection] = []
        pool = self

        class Connection(sqlite3.Connection):
            def commit(self) -> None:
                pool.commits += 1
                super().commit()

        self._factory = Connection
        with closing(sqlite3.connect(path)) as connection:
            connection.executescript(
                "CREATE TABLE users (id INTEGER PRIMARY KEY);"
                "CREATE TABLE orders (id INTEGER PRIMARY KEY, text TEXT, user INTEGER"
                " REFERENCES users DEFERRABLE INITIALLY DEFERRED);"
            )

    def get_connection(self) -> sqlite3.Connection:
        self.claims += 1
        connection = sqlite3.connect(self.path, timeout=1, factory=self._factory)
        connection.execute("PRAGMA foreign_keys = ON")
        self.all.append(connection)
        return connection

    def release_connection(self, connection: sqlite3.Connection) -> None:
        self.releases += 1
        self.returned.append(connection)

    def orders(self) -> list[str]:
        """What is really saved."""
        with closing(sqlite3.connect(self.path, timeout=1)) as connection:
            return [text for (text,) in connection.execute("SELECT text FROM orders ORDER BY id")]

    def close(self) -> None:
        for connection in self.all:
            connection.close()


class Slide:
    """An application as on the slides "Responsive Resources" and "Per-Task Callbacks"."""

    def __init__(self, pool: ConnectionPool) -> None:
        self.app = app = Flask("slide")
        self.app.config["PROPAGATE_EXCEPTIONS"] = False

        @app.teardown_appcontext
        def return_database_connection(error: BaseException | None = None) -> None:
            con = getattr(g, "database_connection", None)
            if con is None:
                return
            if error is None:
                con.commit()
                callbacks = getattr(g, "on_commit_callbacks", ())
                for callback in callbacks:
                    callback()
            else:
                con.rollback()
            pool.release_connection(con)

        self.pool = pool

    def get_database_connection(self) -> sqlite3.Connection:
        con = getattr(g, "database_connection", None)
        if con is None:
            g.database_connection = con = self.pool.get_connection()
        return con

    def after_commit(self, function: Callable[[], Any]) -> Callable[[], Any]:
        callbacks = getattr(g, "on_commit_callbacks", None)
        if callbacks is None:
            g.on_commit_callbacks = callbacks = []
        callbacks.append(function)
        return function


class Ours:
    """The same application with Sidearm."""

    after_commit = staticmethod(after_commit)

    def __init__(self, pool: ConnectionPool) -> None:
        self.app = Flask("ours")
        self.app.config.update(PROPAGATE_EXCEPTIONS=False, SIDEARM_HUB="memory")
        arm = Sidearm(self.app)

        @arm.resource
        def get_database_connection() -> Generator[sqlite3.Connection]:
            con = pool.get_connection()
            try:
                yield con
            finally:
                pool.release_connection(con)

        self.get_database_connection = get_database_connection
        self.pool = pool


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[ConnectionPool]:
    pool = ConnectionPool(tmp_path / "orders.db")
    yield pool
    pool.close()


@pytest.fixture
def slide(pool: ConnectionPool) -> Slide:
    return Slide(pool)


@pytest.fixture
def ours(pool: ConnectionPool) -> Ours:
    return Ours(pool)


def order(site: Slide | Ours, text: str = "order", user: int | None = None) -> None:
    """Insert an order."""
    site.get_database_connection().execute(
        "INSERT INTO orders (text, user) VALUES (?, ?)", (text, user)
    )


def call(app: Flask, path: str = "/") -> tuple[list[str], bytes]:
    """One request as a server makes it: statuses that were started, and the body."""
    statuses: list[str] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], None]:
        statuses.append(status)
        return lambda _: None

    body = app(EnvironBuilder(path).get_environ(), start_response)
    try:
        return statuses, b"".join(body)
    finally:
        if hasattr(body, "close"):
            body.close()


# -- 1: the outcome taken from teardown(error)

HANDLED = {
    "a handled exception": (lambda: _raise(Broken()), 400),
    "abort(409)": (lambda: abort(409), 409),
    "a returned 500": (lambda: ("bad", 500), 500),
}


def _raise(error: BaseException) -> None:
    raise error


def buy(site: Slide | Ours, end: Callable[[], Any], mails: list[str]) -> int:
    site.app.register_error_handler(Broken, lambda _: ("sorry", 400))

    @site.app.post("/buy")
    def view() -> Any:
        order(site)
        site.after_commit(lambda: mails.append("Product Purchased"))
        return end()

    return site.app.test_client().post("/buy").status_code


@pytest.mark.parametrize("end", HANDLED)
def test_footgun_1_the_slide_commits_what_failed(slide: Slide, end: str) -> None:
    """The slide commits after a handled exception, ``abort(409)`` and a 500, and mails."""
    mails: list[str] = []
    function, status = HANDLED[end]
    assert buy(slide, function, mails) == status
    assert slide.pool.orders() == ["order"]
    assert mails == ["Product Purchased"]


@pytest.mark.parametrize("end", HANDLED)
def test_footgun_1_sidearm_does_not(ours: Ours, end: str) -> None:
    """Sidearm rolls all three back, and no mail goes out."""
    mails: list[str] = []
    function, status = HANDLED[end]
    assert buy(ours, function, mails) == status
    assert ours.pool.orders() == []
    assert mails == []
    assert ours.pool.claims == ours.pool.releases == 1


# -- 2: stores one key of g, reads another


def test_footgun_2_the_slide_leaks_every_claim(pool: ConnectionPool) -> None:
    """As printed, ``g.con`` is stored and ``g.database_connection`` read: two uses, two leaks."""
    app = Flask("as printed")

    def get_database_connection() -> sqlite3.Connection:
        con = getattr(g, "database_connection", None)
        if con is None:
            g.con = con = pool.get_connection()
        return con

    @app.teardown_appcontext
    def return_database_connection(error: BaseException | None = None) -> None:
        con = getattr(g, "database_connection", None)
        if con is not None:
            con.commit()
            pool.release_connection(con)

    @app.get("/")
    def view() -> str:
        get_database_connection().execute("INSERT INTO orders (text) VALUES ('order')")
        get_database_connection().execute("SELECT 1")
        return "ok"

    assert app.test_client().get("/").status_code == 200
    assert (pool.claims, pool.releases, pool.orders()) == (2, 0, [])


def test_footgun_2_sidearm_claims_once_and_gives_back(ours: Ours) -> None:
    """With Sidearm there is no key to mistake: one claim, one commit, one release."""

    @ours.app.get("/")
    def view() -> str:
        order(ours)
        ours.get_database_connection().execute("SELECT 1")
        return "ok"

    assert ours.app.test_client().get("/").status_code == 200
    assert (ours.pool.claims, ours.pool.commits, ours.pool.releases) == (1, 1, 1)
    assert ours.pool.orders() == ["order"]


# -- 3: published in the view, committed at teardown


@pytest.mark.parametrize("fails", [False, True])
def test_footgun_3_the_slides_subscribers_hear_too_early(slide: Slide, fails: bool) -> None:
    """A subscriber of the slide's ``redis.publish()`` finds no row, not yet or never."""
    heard: list[list[str]] = []

    def redis_publish(channel: str, data: str) -> None:
        heard.append(slide.pool.orders())  # a subscriber that looks at once

    @slide.app.post("/create-something")
    def create_something() -> Any:
        order(slide)
        redis_publish("interesting-channel", "created")
        if fails:
            raise Broken
        return "ok"

    slide.app.test_client().post("/create-something")
    assert heard == [[]]
    assert slide.pool.orders() == ([] if fails else ["order"])


@pytest.mark.parametrize("fails", [False, True])
def test_footgun_3_sidearms_subscribers_hear_what_is_saved(ours: Ours, fails: bool) -> None:
    """``publish()`` leaves after the commit, and never after a rollback."""
    heard: list[list[str]] = []

    def subscriber(_: Flask, **__: Any) -> None:
        heard.append(ours.pool.orders())

    @ours.app.post("/create-something")
    def create_something() -> Any:
        order(ours)
        publish("interesting-channel", {"event": "created"})
        if fails:
            raise Broken
        return "ok"

    with events_published.connected_to(subscriber, ours.app):
        ours.app.test_client().post("/create-something")
    assert heard == ([] if fails else [["order"]])


# -- 4: committed after the response was built


def test_footgun_4_the_slides_failing_commit_escapes(slide: Slide) -> None:
    """The slide's commit error leaves the WSGI application: no handler, and a leaked connection."""
    handled: list[BaseException] = []

    @slide.app.errorhandler(sqlite3.IntegrityError)
    def handler(error: BaseException) -> Any:
        handled.append(error)
        return "conflict", 409

    @slide.app.get("/")
    def view() -> str:
        order(slide, user=42)
        return "ok"

    with raises(sqlite3.IntegrityError):
        call(slide.app)
    assert handled == []
    assert (slide.pool.claims, slide.pool.releases) == (1, 0)


def test_footgun_4_sidearms_is_answered_by_its_handler(ours: Ours) -> None:
    """With Sidearm the application's own handler answers, and the connection comes back."""

    @ours.app.errorhandler(sqlite3.IntegrityError)
    def handler(_: BaseException) -> Any:
        return "conflict", 409

    @ours.app.get("/")
    def view() -> str:
        order(ours, user=42)
        return "ok"

    assert call(ours.app) == (["409 CONFLICT"], b"conflict")
    assert (ours.pool.claims, ours.pool.releases, ours.pool.orders()) == (1, 1, [])


# -- 5: callbacks inline before the release (without the slow mail server)


def with_failing_callback(site: Slide | Ours, ran: list[str]) -> None:
    @site.app.get("/")
    def view() -> str:
        order(site)

        @site.after_commit
        def send_success_mail() -> None:
            ran.append("mail")
            raise Broken

        @site.after_commit
        def write_audit() -> None:
            ran.append("audit")
            order(site, "audit")

        return "ok"


def test_footgun_5_the_slides_failing_callback_takes_everything_down(slide: Slide) -> None:
    """Data committed, but the client sees an error; the rest is skipped, the connection leaked."""
    ran: list[str] = []
    with_failing_callback(slide, ran)
    with raises(Broken):
        call(slide.app)
    assert slide.pool.orders() == ["order"]
    assert ran == ["mail"]
    assert (slide.pool.claims, slide.pool.releases) == (1, 0)


def test_footgun_5_the_slides_callback_writes_for_nothing(slide: Slide) -> None:
    """What a callback of the slide writes is never committed."""

    @slide.app.get("/")
    def view() -> str:
        order(slide)
        slide.after_commit(lambda: order(slide, "audit"))
        return "ok"

    call(slide.app)
    for connection in slide.pool.returned:
        connection.rollback()  # the lock that its transaction still holds in the pool
    assert slide.pool.orders() == ["order"]


def test_footgun_5_sidearms_failing_callback_is_isolated(ours: Ours) -> None:
    """The client has its 200, the rest ran, what it wrote is saved, the connection is back."""
    ran: list[str] = []
    with_failing_callback(ours, ran)
    assert call(ours.app) == (["200 OK"], b"ok")
    assert ours.pool.orders() == ["order", "audit"]
    assert ran == ["mail", "audit"]
    assert (ours.pool.claims, ours.pool.releases) == (1, 1)
    assert not ours.pool.returned[0].in_transaction


# -- 6: callbacks hang off the connection (without the killed process)


def without_connection(site: Slide | Ours, ran: list[str]) -> None:
    @site.app.get("/")
    def view() -> str:
        site.after_commit(lambda: ran.append("callback"))
        return "ok"


def test_footgun_6_the_slide_drops_callbacks_without_a_connection(slide: Slide) -> None:
    """No connection claimed: the slide's callbacks are silently dropped."""
    ran: list[str] = []
    without_connection(slide, ran)
    assert call(slide.app) == (["200 OK"], b"ok")
    assert ran == []


def test_footgun_6_sidearm_runs_them(ours: Ours) -> None:
    """A callback of a task that claimed nothing runs when the task ends well."""
    ran: list[str] = []
    without_connection(ours, ran)
    assert call(ours.app) == (["200 OK"], b"ok")
    assert ran == ["callback"]


# -- 7: a teardown that is not idempotent


def streaming(site: Slide | Ours) -> None:
    @site.app.get("/")
    def view() -> Response:
        order(site)

        def body() -> Iterator[str]:
            yield "one "
            yield "two"

        return Response(stream_with_context(body()))


def flask_version() -> tuple[int, ...]:
    return tuple(int(part) for part in version("flask").split(".")[:3] if part.isdigit())


@pytest.mark.skipif(
    flask_version() not in {(3, 1, 2), (3, 1, 3)}, reason="Only these Flasks tear down twice."
)
@before_3_2
def test_footgun_7_the_slide_settles_twice_under_stream_with_context(slide: Slide) -> None:
    """On Flask 3.1.2 and 3.1.3: two commits, and one connection that comes back twice."""
    streaming(slide)
    assert call(slide.app) == (["200 OK"], b"one two")
    assert (slide.pool.claims, slide.pool.commits, slide.pool.releases) == (1, 2, 2)
    assert slide.pool.returned[0] is slide.pool.returned[1]


def test_footgun_7_sidearm_settles_once(ours: Ours) -> None:
    """On every Flask: one commit, one release."""
    streaming(ours)
    assert call(ours.app) == (["200 OK"], b"one two")
    assert (ours.pool.claims, ours.pool.commits, ours.pool.releases) == (1, 1, 1)
    assert ours.pool.orders() == ["order"]


# -- 11: no id, no resume, no heartbeat, nothing before the first event


class SlidesStream:
    """The slide's ``stream()``, whose subscription is a queue; ``publish`` is ``redis.publish``."""

    def __init__(self) -> None:
        self.app = app = Flask("slide")
        self._subscribers: list[queue.SimpleQueue[Any]] = []

        @app.route("/streams/interesting")
        def stream() -> Response:
            def generate() -> Iterator[bytes]:
                subscription: queue.SimpleQueue[Any] = queue.SimpleQueue()
                self._subscribers.append(subscription)
                try:
                    for data in iter(subscription.get, None):
                        yield b"data: %s\r\n\r\n" % data.encode()
                finally:
                    self._subscribers.remove(subscription)

            return Response(
                stream_with_context(generate()),
                direct_passthrough=True,
                mimetype="text/event-stream",
            )

    def publish(self, data: str | None) -> None:
        """Like Redis Pub/Sub: to who listens now."""
        for subscription in self._subscribers:
            subscription.put(data)

    @contextmanager
    def open(self) -> Iterator[queue.SimpleQueue[bytes]]:
        """A client in a thread, as a blocking worker serves it; gives the pieces that it gets."""
        pieces: queue.SimpleQueue[bytes] = queue.SimpleQueue()

        def read() -> None:
            environ = EnvironBuilder("/streams/interesting").get_environ()
            with closing(self.app(environ, lambda *_: None)) as body:
                for piece in body:
                    pieces.put(piece)

        before = len(self._subscribers)
        thread = threading.Thread(target=read)
        thread.start()
        deadline = time.monotonic() + 30
        while len(self._subscribers) == before:
            assert time.monotonic() < deadline
            thread.join(0.01)
        try:
            yield pieces
        finally:
            self.publish(None)
            thread.join(30)


def test_footgun_11_the_slide_forgets_who_is_away() -> None:
    """No byte comes before the first event, no event has an id, and what nobody read is lost."""
    slide = SlidesStream()
    with slide.open() as pieces:
        assert pieces.empty()  # subscribed, and a server would still have nothing to send
        slide.publish("1")
        first = pieces.get(timeout=30)
    assert first == b"data: 1\r\n\r\n"
    slide.publish("2")  # between two connections
    with slide.open() as pieces:
        slide.publish("3")
        assert pieces.get(timeout=30) == b"data: 3\r\n\r\n"
    assert pieces.empty()


def test_footgun_11_sidearms_stream_begins_beats_and_goes_on() -> None:
    """The head comes at once, then a sign of life, then ids, with which nothing is missed."""
    with (
        HubServer(lambda path: HubConfig(socket=path, heartbeat=0.05)) as hub,
        GunicornServer(
            "streams:app",
            cwd=APPS,
            env={"SIDEARM_SOCKET": hub.socket_path},
        ) as server,
        EventSource(f"{server.url}/streams/interesting", timeout=30) as source,  # has its head
    ):
        source.next_comment()  # nothing was published, but the connection is seen to live
        post(server, "1")
        assert source.next_event().data == "1"
        source.close()
        post(server, "2")
        source.reconnect()
        post(server, "3")
        assert [source.next_event().data for _ in range(2)] == ["2", "3"]


def post(server: Server, line: str) -> None:
    with urllib.request.urlopen(f"{server.url}/publish/interesting", line.encode(), 30) as answer:
        assert answer.read() == b"published"


# -- 12: fields that are not escaped, pieces that are text


@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n"])
def test_footgun_12_the_slides_data_injects_an_event(newline: str) -> None:
    """Who may choose the data may send any event, to every browser."""
    data = newline.join(["hello", "", "event: logout", "data: now"])
    events = Parser().feed(b"data: %s\r\n\r\n" % data.encode())
    assert [(event.event, event.data) for event in events] == [
        ("message", "hello"),
        ("logout", "now"),
    ]


@pytest.mark.parametrize("newline", ["\n", "\r", "\r\n"])
def test_footgun_12_sidearms_data_stays_data(ours: Ours, newline: str) -> None:
    """It arrives as one event, its lines joined by LF as the standard has it."""
    data = newline.join(["hello", "", "event: logout", "data: now"])

    @ours.app.route("/streams/interesting")
    def stream() -> EventStream:
        return event_stream("interesting", snapshot=lambda: data)

    ours.app.testing = True
    (event,) = read_events(ours.app.test_client().get("/streams/interesting"))
    assert event.data == "hello\n\nevent: logout\ndata: now"


def test_footgun_12_the_slides_pieces_are_no_bytes() -> None:
    """On Python 3 the slide yields str, and the first event ends every client's connection."""
    app = Flask("as printed")

    @app.route("/streams/interesting")
    def stream() -> Response:
        def generate() -> Iterator[str]:
            yield "data: %s\r\n\r\n" % "first"  # noqa: UP031 - as printed

        return Response(
            stream_with_context(generate()), direct_passthrough=True, mimetype="text/event-stream"
        )

    environ = EnvironBuilder("/streams/interesting").get_environ()
    body = validator(app)(environ, lambda *_: lambda _: None)
    with pytest.raises(AssertionError), closing(body):  # PEP 3333: "bytestrings"
        next(iter(body))


def test_footgun_12_sidearms_pieces_are_bytes(ours: Ours) -> None:
    """Also where no socket can be handed over, and the body is made by the worker."""

    @ours.app.route("/streams/interesting")
    def stream() -> EventStream:
        return event_stream("interesting", snapshot=lambda: "first")

    environ = EnvironBuilder("/streams/interesting").get_environ()
    with closing(validator(ours.app)(environ, lambda *_: lambda _: None)) as body:
        received = b"".join(body)
    assert [event.data for event in Parser().feed(received)] == ["first"]

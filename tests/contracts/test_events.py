"""Contracts E1 to E4, H2 and H11 as an application sees them, on the log in its own process."""

from __future__ import annotations

import gzip
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from flask import Flask, Response, abort, make_response, render_template_string, request
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column
from werkzeug.middleware.proxy_fix import ProxyFix

from sidearm import (
    EventStream,
    Sidearm,
    after_commit,
    event_stream,
    publish,
    publish_now,
    stream_position,
)
from sidearm.exceptions import (
    EventTooLarge,
    FieldTypeError,
    InvalidChannel,
    InvalidField,
    OutsideTask,
)
from sidearm.hub.eventstream import Parser
from sidearm.testing import capture, read_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from sidearm.hub.eventstream import Event


@pytest.fixture
def arm() -> Sidearm:
    return Sidearm()


@pytest.fixture
def app(arm: Sidearm) -> Flask:
    app = Flask(__name__)
    app.config.update(TESTING=True)
    arm.init_app(app)

    @app.get("/streams/<channel>")
    def stream(channel: str) -> EventStream:
        return event_stream(channel)

    @app.get("/ping")
    def ping() -> str:
        return "pong"

    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def poll(client: FlaskClient, url: str, last_event_id: str = "") -> tuple[list[Event], str]:
    """One poll of a browser: its events, and the id that it comes back with."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    response = client.get(url, headers=headers)
    assert response.status_code == 200
    parser = Parser(last_event_id)
    return parser.feed(response.data), parser.last_event_id


def data_of(events: list[Event]) -> list[str]:
    return [event.data for event in events]


def publish_in_a_task(app: Flask, *values: Any, channel: str = "stock") -> None:
    with app.app_context():
        for value in values:
            publish(channel, value)


# What an event may hold (E1)


def test_e1_text_goes_as_it_is_and_everything_else_as_json(app: Flask, client: FlaskClient) -> None:
    """Strings and bytes are sent unchanged, other values as JSON on one line (SS-04)."""
    _, start = poll(client, "/streams/stock")
    publish_in_a_task(app, "plain", b"bytes", {"id": 7, "left": 4}, None, "")

    events, _ = poll(client, "/streams/stock", start)
    assert data_of(events) == ["plain", "bytes", '{"id":7,"left":4}', "null", ""]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param({"event": "a\nb"}, InvalidField, id="newline in event"),
        pytest.param({"event": "a\0"}, InvalidField, id="NUL in event"),
        pytest.param({"data": "\ud800"}, InvalidField, id="surrogate in data"),
        pytest.param({"data": object()}, FieldTypeError, id="no JSON"),
        pytest.param({"data": "x" * (1 << 20)}, EventTooLarge, id="too large"),
    ],
)
@pytest.mark.parametrize("call", [publish, publish_now])
def test_e1_what_cannot_be_sent_fails_in_the_view_before_a_byte_is_held(
    app: Flask,
    client: FlaskClient,
    call: Callable[..., None],
    arguments: dict[str, Any],
    error: type[Exception],
) -> None:
    """The error is raised at the call, fails the task like any other, and nothing leaves."""
    errors: list[BaseException] = []

    @app.post("/bad")
    def bad() -> str:
        publish("stock", "held before")
        try:
            call("stock", **arguments)
        except Exception as exc:
            errors.append(exc)
            raise
        return "never"

    app.config["PROPAGATE_EXCEPTIONS"] = False
    _, start = poll(client, "/streams/stock")
    assert client.post("/bad").status_code == 500
    assert type(errors[0]) is error
    assert poll(client, "/streams/stock", start)[0] == []


@pytest.mark.parametrize("channel", ["", "a\nb", "\0", "\ud800", "x" * 201, "é" * 101, 7, None])
def test_e1_a_bad_channel_is_named(app: Flask, channel: Any) -> None:
    """Publishing and streaming refuse what is no channel's name, and show it."""
    with app.test_request_context():
        for call in (publish, publish_now, event_stream):
            with pytest.raises(InvalidChannel) as caught:
                call(channel)
            assert caught.value.channel is channel


def test_e1_the_size_limit_is_the_settings(app: Flask) -> None:
    """The error says the event's size and the setting."""
    limited = Flask("limited")
    limited.config.update(TESTING=True, SIDEARM_MAX_EVENT_SIZE=100)
    Sidearm(limited)
    with limited.test_request_context():
        publish("stock", "x" * 90)
        with pytest.raises(EventTooLarge, match=r"'stock' has 207 bytes; .* allows 100"):
            publish("stock", "x" * 200)
        with pytest.raises(EventTooLarge):
            event_stream("stock", snapshot="x" * 100)


# When it leaves (E2)


def test_e2_events_leave_after_the_commit_in_the_tasks_order(
    app: Flask, client: FlaskClient
) -> None:
    """Nobody hears of an event while its task runs; afterwards in the order of the calls."""
    seen_inside: list[list[Event]] = []

    @app.post("/buy")
    def buy() -> str:
        publish("stock", "first")
        publish("stock", "second", event="sold")
        seen_inside.append(poll(app.test_client(), "/streams/stock", start)[0])
        publish("stock", "third")
        return "ok"

    _, start = poll(client, "/streams/stock")
    client.post("/buy")
    events, _ = poll(client, "/streams/stock", start)

    assert seen_inside == [[]]
    assert data_of(events) == ["first", "second", "third"]
    assert [event.event for event in events] == ["message", "sold", "message"]


def test_e2_callbacks_and_events_keep_their_common_order(app: Flask, client: FlaskClient) -> None:
    """An event registered after a callback leaves after it."""
    order: list[Any] = []

    @app.post("/buy")
    def buy() -> str:
        publish("stock", "before")
        after_commit(
            lambda: order.append(data_of(poll(app.test_client(), "/streams/stock", start)[0]))
        )
        publish("stock", "after")
        return "ok"

    _, start = poll(client, "/streams/stock")
    client.post("/buy")
    assert order == [["before"]]
    assert data_of(poll(client, "/streams/stock", start)[0]) == ["before", "after"]


@pytest.mark.parametrize("ending", ["raise", "abort"])
def test_e2_after_a_rollback_nobody_hears_of_it(
    app: Flask, client: FlaskClient, ending: str
) -> None:
    """A failed task's events are dropped; publish_now has not waited."""

    @app.post("/fail")
    def fail() -> str:
        publish("stock", "waits for the commit")
        publish_now("stock", "does not")
        if ending == "abort":
            abort(409)
        raise LookupError

    app.config["PROPAGATE_EXCEPTIONS"] = False
    _, start = poll(client, "/streams/stock")
    client.post("/fail")

    assert data_of(poll(client, "/streams/stock", start)[0]) == ["does not"]


def test_e2_publish_outside_a_task_says_what_to_do(app: Flask) -> None:
    """The error names the call, the task to open, and the call that does not wait."""
    with pytest.raises(OutsideTask) as caught:
        publish("orders", 1)
    message = str(caught.value)
    assert "publish('orders') waits for a commit" in message
    assert "with arm.task(" in message
    assert "publish_now(...)" in message


ONE_APPLICATION = """
import threading
from flask import Flask
from sidearm import Sidearm, publish_now

app = Flask("only")
app.config["TESTING"] = True
Sidearm(app)
thread = threading.Thread(target=publish_now, args=("stock", "from a thread"))
thread.start()
thread.join()
print(app.extensions["sidearm"].hub.stats().published)
"""


def test_e2_publish_now_works_in_a_plain_thread() -> None:
    """A thread without any context reaches the process's only application."""
    command = [sys.executable, "-c", ONE_APPLICATION]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "1\n"


def test_e2_publish_now_asks_which_of_several_applications(app: Flask) -> None:
    """Without a context and with two applications the error says what to do."""
    another = Flask("another")
    Sidearm(another)
    with pytest.raises(RuntimeError, match=r"publish_now\('stock'\).*app\.app_context\(\)"):
        publish_now("stock")


def test_e2_events_of_an_independent_task_leave_with_it(
    app: Flask, arm: Sidearm, client: FlaskClient
) -> None:
    """An inner task's events do not wait for the outer, nor share its fate."""

    @app.post("/outer")
    def outer() -> str:
        publish("stock", "outer")
        with arm.task("inner"):
            publish("stock", "inner")
        abort(409)

    _, start = poll(client, "/streams/stock")
    client.post("/outer")
    assert data_of(poll(client, "/streams/stock", start)[0]) == ["inner"]


# Ids, and resuming from them (E3)


def test_e3_each_kept_event_has_an_id_and_a_live_one_has_none(
    app: Flask, client: FlaskClient
) -> None:
    """With keep=False an event is for those who listen now: a poll never sees it."""
    _, start = poll(client, "/streams/stock")
    with app.app_context():
        publish("stock", "kept")
        publish("stock", "live", keep=False)

    events, _ = poll(client, "/streams/stock", start)
    assert data_of(events) == ["kept"]
    assert events[0].id not in ("", start)


def test_e3_a_client_resumes_after_its_last_event_without_gap_or_duplicate(
    app: Flask, client: FlaskClient
) -> None:
    """Whatever id it comes back with, it gets exactly what followed (WH-27)."""
    _, last_id = poll(client, "/streams/stock")
    seen: list[str] = []
    for round_ in range(5):
        publish_in_a_task(app, *[f"{round_}.{number}" for number in range(round_)])
        events, last_id = poll(client, "/streams/stock", last_id)
        seen += data_of(events)

    assert seen == [f"{round_}.{number}" for round_ in range(5) for number in range(round_)]


def test_e3_one_id_resumes_any_set_of_channels(app: Flask, client: FlaskClient) -> None:
    """Ids are places in one log, so a page may change its channels and keep its id."""

    @app.get("/streams/both")
    def both() -> EventStream:
        return event_stream("stock", "orders", "stock")

    _, last_id = poll(client, "/streams/stock")
    publish_in_a_task(app, 1)
    publish_in_a_task(app, 2, channel="orders")
    publish_in_a_task(app, 3)
    publish_in_a_task(app, 4, channel="unheard")

    assert data_of(poll(client, "/streams/both", last_id)[0]) == ["1", "2", "3"]


def test_c9_the_header_wins_over_the_query(app: Flask, client: FlaskClient) -> None:
    """A page carries its position in the query; a browser that reconnects knows better."""
    _, old = poll(client, "/streams/stock")
    publish_in_a_task(app, "one")
    _, newer = poll(client, "/streams/stock", old)
    publish_in_a_task(app, "two")

    assert data_of(poll(client, f"/streams/stock?last_event_id={old}")[0]) == ["one", "two"]
    assert data_of(poll(client, f"/streams/stock?last_event_id={old}", newer)[0]) == ["two"]
    assert data_of(poll(client, "/streams/stock")[0]) == []
    empty = client.get(f"/streams/stock?last_event_id={old}", headers={"Last-Event-ID": ""})
    assert data_of(read_events(empty)) == ["one", "two"]


@pytest.mark.parametrize(
    "make_id",
    [
        pytest.param(lambda known: "nonsense", id="nonsense"),
        pytest.param(lambda known: "schön-日本", id="not ASCII (WH-16)"),
        pytest.param(lambda known: f"0000000000-{known.partition('-')[2]}", id="another epoch"),
        pytest.param(lambda known: f"{known.partition('-')[0]}-1", id="too old"),
        pytest.param(lambda known: f"{known}0", id="not yet"),
        pytest.param(lambda known: "x" * 3000, id="long"),
    ],
)
@pytest.mark.parametrize("how", ["header", "query"])
def test_e3_an_id_that_reaches_nowhere_gets_the_gap_event_first(
    app: Flask, client: FlaskClient, make_id: Callable[[str], str], how: str
) -> None:
    """Never silence, and never a place in another history; from there on nothing is missed."""
    _, known = poll(client, "/streams/stock")
    publish_in_a_task(app, "before")
    bad = make_id(known)
    if how == "header":
        response = client.get("/streams/stock", headers={"Last-Event-ID": utf8_header(bad)})
    else:
        response = client.get(f"/streams/stock?last_event_id={quote(bad)}")
    parser = Parser(bad)
    events = parser.feed(response.data)
    publish_in_a_task(app, "after")

    assert [event.event for event in events] == ["sidearm:gap"]
    assert data_of(poll(client, "/streams/stock", parser.last_event_id)[0]) == ["after"]


def utf8_header(text: str) -> str:
    """As a WSGI server passes on what a browser sends (PEP 3333)."""
    return text.encode().decode("latin-1")


def test_e3_replay_gives_a_newcomer_recent_events(app: Flask, client: FlaskClient) -> None:
    """event_stream(replay=seconds) reaches back; without it nothing old is replayed."""

    @app.get("/replayed")
    def replayed() -> EventStream:
        return event_stream("stock", replay=60)

    publish_in_a_task(app, "earlier")
    assert data_of(poll(client, "/replayed")[0]) == ["earlier"]
    assert data_of(poll(client, "/streams/stock")[0]) == []


@pytest.mark.parametrize("replay", [-1, "60", float("nan"), float("inf"), True])
def test_e3_replay_is_a_number_of_seconds(app: Flask, replay: Any) -> None:
    """Anything else is refused by its name."""
    with app.test_request_context(), pytest.raises(ValueError, match="replay is"):
        event_stream("stock", replay=replay)


def test_e3_a_stream_without_a_channel_is_refused(app: Flask) -> None:
    """The error shows a call that works."""
    with app.test_request_context(), pytest.raises(ValueError, match="got no channel"):
        event_stream()


# How snapshots and pages join


def test_e4_a_snapshot_comes_first_and_nothing_is_missed_after_it(
    app: Flask, client: FlaskClient
) -> None:
    """What is published while the snapshot is read follows it, though the view saw it already."""
    stock = {"left": 5}

    def current_stock() -> dict[str, int]:
        seen = dict(stock)
        stock["left"] -= 1
        publish_now("stock", dict(stock))
        return seen

    @app.get("/snapshot")
    def snapshot() -> EventStream:
        return event_stream("stock", snapshot=current_stock)

    publish_in_a_task(app, "long ago")
    events, last_id = poll(client, "/snapshot")

    assert [(event.event, event.data) for event in events] == [
        ("snapshot", '{"left":5}'),
        ("message", '{"left":4}'),
    ]
    assert poll(client, "/streams/stock", last_id)[0] == []


def test_e4_the_stream_joins_where_the_views_transaction_began(
    app: Flask, arm: Sidearm, client: FlaskClient
) -> None:
    """A transaction that is older than the snapshot's line sees none of what came since."""

    @arm.resource
    def connection() -> Any:
        yield {}

    @app.get("/snapshot")
    def snapshot() -> EventStream:
        connection()  # its view of the data is from here
        publish_now("stock", "since then")
        return event_stream("stock", snapshot="from the transaction")

    events, _ = poll(client, "/snapshot")
    assert data_of(events) == ["from the transaction", "since then"]


def test_e4_a_client_that_resumes_needs_no_snapshot_but_one_with_a_gap_does(
    app: Flask, client: FlaskClient
) -> None:
    """Missed events bring the first up to date; the second starts again."""

    @app.get("/snapshot")
    def snapshot() -> EventStream:
        return event_stream("stock", snapshot=["all"])

    _, last_id = poll(client, "/snapshot")
    publish_in_a_task(app, "missed")

    assert data_of(poll(client, "/snapshot", last_id)[0]) == ["missed"]
    assert [event.event for event in poll(client, "/snapshot", "lost")[0]] == [
        "sidearm:gap",
        "snapshot",
    ]


def test_e4_a_page_joins_its_stream_without_a_gap(
    app: Flask, arm: Sidearm, client: FlaskClient
) -> None:
    """The page's position is that of its data: what was published since then follows."""

    @arm.resource
    def connection() -> Any:
        yield {}

    @app.get("/page")
    def page() -> str:
        connection()
        publish_now("stock", "while the page is made")
        template = "{{ stream_position() }}"
        rendered = render_template_string(template)
        assert rendered == stream_position()
        return rendered

    publish_in_a_task(app, "in the page")
    position = client.get("/page").text
    publish_in_a_task(app, "before the stream opens")

    events, last_id = poll(client, f"/streams/stock?last_event_id={quote(position)}")
    assert data_of(events) == ["while the page is made", "before the stream opens"]
    publish_in_a_task(app, "later")
    reconnected, _ = poll(client, f"/streams/stock?last_event_id={quote(position)}", last_id)
    assert data_of(reconnected) == ["later"]


def test_e4_a_position_belongs_to_a_task(app: Flask) -> None:
    """Outside of one there is no moment that the page was made from."""
    with pytest.raises(OutsideTask, match="stream_position"):
        stream_position()


def test_e4_a_failing_snapshot_fails_the_view(app: Flask, client: FlaskClient) -> None:
    """Its error is the view's error, and does not look like a stream (WH-24)."""

    @app.get("/snapshot")
    def snapshot() -> EventStream:
        return event_stream("stock", snapshot=lambda: 1 // 0)

    app.config["PROPAGATE_EXCEPTIONS"] = False
    response = client.get("/snapshot")
    assert response.status_code == 500
    assert response.mimetype == "text/html"


# What a poll gets


def test_h2_a_poll_answers_what_is_due_and_ends_with_a_retry_of_two_seconds(
    app: Flask, client: FlaskClient
) -> None:
    """The test client gets history, then the end; the standard's own means do the rest."""
    _, start = poll(client, "/streams/stock")
    publish_in_a_task(app, 1, 2)
    response = client.get("/streams/stock", headers={"Last-Event-ID": start})
    parser = Parser()

    assert data_of(parser.feed(response.data)) == ["1", "2"]
    assert parser.retry == 2000


def test_h2_a_views_own_retry_is_kept(app: Flask, client: FlaskClient) -> None:
    """``retry`` is in milliseconds, as in the standard."""

    @app.get("/own")
    def own() -> EventStream:
        return event_stream("stock", retry=300)

    parser = Parser()
    parser.feed(client.get("/own").data)
    assert parser.retry == 300


@pytest.mark.parametrize("retry", [1.5, "100", True])
def test_ss05_retry_is_a_whole_number(app: Flask, retry: Any) -> None:
    """Anything else is a TypeError before a byte is written."""
    with app.test_request_context(), pytest.raises(TypeError, match="retry"):
        event_stream("stock", retry=retry)


def test_h6_with_the_hub_away_a_poll_ends_at_once_and_clients_come_back_spread_out(
    tmp_path: Any,
) -> None:
    """Tasks commit, streams answer 200 with a retry of their own, and a page has a position."""
    app = Flask("away")
    app.config.update(SIDEARM_HUB="socket", SIDEARM_SOCKET=str(tmp_path / "none.sock"))
    Sidearm(app)
    app.add_url_rule("/stream", view_func=lambda: event_stream("stock", snapshot="seen"))
    app.add_url_rule("/position", view_func=stream_position)

    @app.post("/publish")
    def publishing() -> str:
        publish("stock", 1)
        publish_now("stock", 2)
        return "committed"

    client = app.test_client()
    assert client.post("/publish").text == "committed"
    retries = set()
    for _ in range(20):
        parser = Parser()
        assert parser.feed(client.get("/stream").data) == []
        retries.add(parser.retry)
    assert len(retries) > 10
    assert all(retry is not None and 1000 <= retry <= 4000 for retry in retries)
    assert client.get("/position").text != ""
    app.extensions["sidearm"].hub.close(0)


def test_h6_a_page_made_while_the_hub_was_away_gets_the_gap_later(
    client: FlaskClient, app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its position is one that no log knows, so its stream begins with the gap, never silence."""
    app.add_url_rule("/position", view_func=stream_position)
    hub = app.extensions["sidearm"].hub
    with monkeypatch.context() as away:
        away.setattr(type(hub), "position_at", lambda self, ns: None)
        position = client.get("/position").text

    events, _ = poll(client, f"/streams/stock?last_event_id={quote(position)}")
    assert [event.event for event in events] == ["sidearm:gap"]


# The head (H11)


EXPECTED_HEADERS = {
    "Content-Type": ["text/event-stream"],
    "Cache-Control": ["no-store, no-transform"],
    "X-Accel-Buffering": ["no"],
    "X-Content-Type-Options": ["nosniff"],
    "Content-Length": [],
    "Content-Encoding": [],
    "ETag": [],
    "Last-Modified": [],
    "Connection": [],
}


def assert_streams_headers(response: Response) -> None:
    for name, values in EXPECTED_HEADERS.items():
        assert response.headers.getlist(name) == values, name


def test_h11_ss08_a_stream_has_the_head_of_a_stream(client: FlaskClient) -> None:
    """Type, cache and proxy headers as in the contract, exactly once."""
    assert_streams_headers(client.get("/streams/stock"))


MEDDLING = [
    ("Content-Type", "text/plain"),
    ("Content-Type", "text/event-stream; charset=latin-1"),
    ("Cache-Control", "public, max-age=60"),
    ("X-Accel-Buffering", "yes"),
    ("Connection", "keep-alive"),
    ("Content-Length", "3"),
    ("Content-Encoding", "gzip"),
    ("ETag", '"x"'),
    ("Last-Modified", "Wed, 25 Nov 2026 01:00:00 GMT"),
]


def test_ss07_own_headers_are_added_and_a_streams_own_stay(app: Flask, client: FlaskClient) -> None:
    """Headers of the view, of the tuple and of after_request all arrive."""

    @app.get("/own")
    def own() -> tuple[EventStream, dict[str, str]]:
        stream = event_stream("stock", headers=[*MEDDLING, ("X-View", "1"), ("Vary", "Cookie")])
        stream.set_cookie("seen", "yes")
        return stream, {"X-Tuple": "2"}

    @app.after_request
    def meddle(response: Response) -> Response:
        for name, value in MEDDLING:
            response.headers.add(name, value)
        response.headers["Content-Security-Policy"] = "default-src 'self'"
        return response

    response = client.get("/own")
    assert_streams_headers(response)
    assert response.headers["X-View"] == "1"
    assert response.headers["X-Tuple"] == "2"
    assert response.headers["Vary"] == "Cookie"
    assert response.headers["Content-Security-Policy"] == "default-src 'self'"
    assert response.headers["Set-Cookie"].startswith("seen=yes")


def test_ss17_a_compressor_leaves_a_stream_plain(app: Flask, client: FlaskClient) -> None:
    """What Flask-Compress does to a response, with event streams in its list."""

    @app.after_request
    def compress(response: Response) -> Response:
        response.direct_passthrough = False
        response.set_data(gzip.compress(response.get_data()))
        response.headers["Content-Encoding"] = "gzip"
        response.headers["Content-Length"] = str(response.content_length)
        response.add_etag()
        return response.make_conditional(request)

    _, start = poll(client, "/streams/stock")
    publish_in_a_task(app, "plain")
    response = client.get("/streams/stock", headers={"Last-Event-ID": start})

    assert_streams_headers(response)
    assert data_of(read_events(response)) == ["plain"]


@pytest.mark.parametrize("status", [204, 304, 403])
def test_h11_with_another_status_it_is_no_stream(
    app: Flask, client: FlaskClient, status: int
) -> None:
    """An after_request function that refuses is obeyed: no event leaves (WH-25, WH-26)."""

    @app.get("/snapshot")
    def snapshot() -> EventStream:
        return event_stream("stock", snapshot="secret")

    @app.after_request
    def refuse(response: Response) -> Response:
        response.status_code = status
        return response

    response = client.get("/snapshot")
    assert response.status_code == status
    assert response.data == b""


def test_h11_a_response_class_of_the_applications_own_is_kept(
    app: Flask, client: FlaskClient
) -> None:
    """Flask turns responses into the application's class; a stream stays a stream, and is both."""

    class Own(Response):
        def own(self) -> str:
            return "own"

    app.response_class = Own
    seen: list[Response] = []

    @app.get("/own")
    def own() -> Response:
        return make_response(event_stream("stock", snapshot=1))

    app.after_request(lambda response: seen.append(response) or response)
    response = client.get("/own")

    assert_streams_headers(response)
    assert data_of(read_events(response)) == ["1"]
    assert isinstance(seen[0], EventStream)
    assert isinstance(seen[0], Own)
    assert seen[0].own() == "own"


def test_h7_the_hub_is_told_the_clients_address_behind_a_proxy(
    app: Flask, client: FlaskClient
) -> None:
    """The address is the application's own view of it, after ProxyFix."""
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    seen: list[str | None] = []

    @app.get("/own")
    def own() -> EventStream:
        stream = event_stream("stock")
        seen.append(stream.subscription.address)
        return stream

    client.get("/own", headers={"X-Forwarded-For": "192.0.2.7"})
    assert seen == ["192.0.2.7"]


def test_ss21_head_answers_with_the_headers_alone(app: Flask, client: FlaskClient) -> None:
    """HEAD: the headers of the GET, no body; the snapshot is not touched, nothing subscribed."""
    called: list[int] = []

    @app.get("/snapshot")
    def snapshot() -> EventStream:
        return event_stream("stock", snapshot=lambda: called.append(1))

    response = client.head("/snapshot")
    assert response.status_code == 200
    assert_streams_headers(response)
    assert response.data == b""
    assert called == []


def test_c13_posting_to_a_stream_is_not_allowed(client: FlaskClient) -> None:
    """405 from Flask itself."""
    assert client.post("/streams/stock").status_code == 405


def test_h11_ss18_closing_a_stream_runs_what_waits_for_its_close(
    app: Flask, client: FlaskClient
) -> None:
    """call_on_close works as on every response."""
    closed: list[int] = []

    @app.get("/closing")
    def closing() -> EventStream:
        stream = event_stream("stock")
        stream.call_on_close(lambda: closed.append(1))
        return stream

    client.get("/closing", buffered=True)
    assert closed == [1]


def test_t10_an_open_stream_holds_no_resource(
    app: Flask, arm: Sidearm, client: FlaskClient
) -> None:
    """The view's resources are released before the stream's first byte."""
    out: list[str] = []

    @arm.resource
    def connection() -> Any:
        out.append("claimed")
        yield {}
        out.append("released")

    @app.get("/snapshot")
    def snapshot() -> EventStream:
        return event_stream("stock", snapshot=lambda: str(connection()))

    response = client.get("/snapshot")  # its body is not read yet
    assert out == ["claimed", "released"]
    assert data_of(read_events(response)) == ["{}"]


def test_e1_an_event_takes_the_form_that_a_view_would_return(app: Flask, arm: Sidearm) -> None:
    """What has a representation is published in it, and a mapped class is never laid open."""

    class Product:
        def __init__(self, id: int) -> None:
            self.id = id

    arm.represent(Product)(lambda product: {"id": product.id})

    @app.get("/publish")
    def view() -> str:
        publish("products", [Product(7)])
        return "ok"

    with capture(app) as captured:
        app.test_client().get("/publish")
    assert [event.data for event in captured.events] == [[{"id": 7}]]


def test_e1_a_mapped_object_is_refused_where_it_is_published(app: Flask) -> None:
    """The columns of a mapped dataclass, such as a password's hash, do not leave by accident."""

    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "user"
        id: Mapped[int] = mapped_column(primary_key=True)
        password_hash: Mapped[str]

    with app.app_context(), pytest.raises(TypeError, match="represent"):
        publish("users", {"user": User(id=1, password_hash="secret")})


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_e1_what_json_cannot_hold_is_refused(app: Flask, number: float) -> None:
    """NaN and infinity are no JSON numbers, and are refused instead of arriving as null."""
    with app.app_context(), pytest.raises(TypeError, match="no JSON number"):
        publish("numbers", {"price": [None, number]})

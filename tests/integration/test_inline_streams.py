"""Contracts H2 to H8 where a worker with an event loop holds its streams itself."""

from __future__ import annotations

import resource
import socket
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from hub_succession import Succession
from live_servers import Live, check_foreign_pages, make_server, private_folder, serving

from sidearm.exceptions import NotAStream
from sidearm.hub.client import HubClient
from sidearm.hub.eventstream import encode_body
from sidearm.hub.position import is_end
from sidearm.testing import EventSource

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVERS = ["gunicorn gevent", "gunicorn gevent_pywsgi", "uwsgi gevent"]
INLINE = {"TESTED_SIDEARM_HANDOFF": "false"}


@pytest.fixture(scope="module", autouse=True)
def many_descriptors() -> None:
    """The tests' own process opens as many sockets as the clients that it plays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 12_000)), hard))


@contextmanager
def inline(
    name: str, app: str = "inline_streams:app", env: dict[str, str] | None = None
) -> Iterator[Live]:
    """A worker whose streams stay with it."""
    args = ["--worker-connections", "10000"] if name.startswith("gunicorn") else []
    with serving(name, app, env={**INLINE, **(env or {})}, args=args) as live:
        yield live


@pytest.fixture(scope="module", params=SERVERS)
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    with inline(request.param) as made:
        yield made


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """A channel of the test's own."""
    name: str = request.node.originalname
    return name


def held_by(live: Live) -> int:
    """How many streams the worker holds."""
    return int(live.get("/held"))


def held(live: Live, path: str) -> EventSource:
    """A stream whose beginning has come."""
    source = EventSource(live.url + path, timeout=30)
    live.wait_until(lambda: _has_begun(source), "the stream's beginning")
    return source


def _has_begun(source: EventSource) -> bool:
    try:
        source.next_event(0.05)
    except TimeoutError:
        return source.retry is not None
    raise AssertionError(f"{source!r} had an event already.")


def test_h2_streams_stay_in_the_worker_and_share_one_subscription(live: Live, channel: str) -> None:
    """Each gets each event once and in order; the hub has one connection for all of them."""
    expected = [f"event {number}" for number in range(20)]
    with ExitStack() as stack:
        opened = [stack.enter_context(held(live, f"/streams/{channel}"))]
        connections = live.figures().connections
        opened += [stack.enter_context(held(live, f"/streams/{channel}")) for _ in range(49)]
        assert live.figures().connections == connections
        assert live.figures().subscribers == 0
        live.publish(channel, *expected[:7])
        for line in expected[7:]:
            live.publish(channel, line)
        for source in opened:
            assert [event.data for event in source.events(20)] == expected
        assert live.get("/ping") == b"pong"
    live.wait_until(lambda: held_by(live) == 0, "the end of the streams")
    assert "answered by polling" not in live.server.log_text()


def test_e3_a_client_that_reconnects_misses_nothing(live: Live, channel: str) -> None:
    """What was published while it was away comes first, then what is new."""
    with held(live, f"/streams/{channel}") as source:
        live.publish(channel, "one")
        assert source.next_event().data == "one"
        source.close()
        live.publish(channel, "two", "three")
        source.reconnect()
        live.publish(channel, "four")
        assert [event.data for event in source.events(3)] == ["two", "three", "four"]


def test_h12_only_pages_that_the_application_names_read(live: Live, channel: str) -> None:
    """As where the hub holds the stream."""
    check_foreign_pages(live, channel)


def test_h1_nothing_is_missed_between_the_view_and_the_stream(live: Live, channel: str) -> None:
    """While events are published all the time, each snapshot is followed by all that came since."""
    counted = 100
    hub = HubClient(live.socket_path)
    with ExitStack() as stack:
        opened = []
        for number in range(1, counted + 1):
            live.get(f"/counters/{channel}", data=b"")
            if number % 5 == 0:
                source = EventSource(f"{live.url}/counters/{channel}", timeout=30)
                opened.append(stack.enter_context(source))
        for source in opened:
            snapshot = int(source.next_event(30).data)
            seen: list[int] = []
            while (seen or [snapshot])[-1] < counted:
                seen.append(int(source.next_event(30).data))
            since = [number for number in seen if number > snapshot]
            assert since == list(range(snapshot + 1, counted + 1))
    hub.close()


def test_h4_a_client_that_does_not_read_is_disconnected(live: Live, channel: str) -> None:
    """It slows nobody, and is gone when its buffer is full."""
    with held(live, f"/streams/{channel}") as reader, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", live.server.port))
        slow.sendall(f"GET /streams/{channel} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        live.wait_until(lambda: held_by(live) == 2, "two streams")
        hub = HubClient(live.socket_path)
        body = encode_body("x" * 100_000)
        sent = 0
        while held_by(live) == 2 and sent < 1000:
            hub.publish([(channel, body, True)])
            sent += 1
            assert len(reader.next_event(30).data) == 100_000
        hub.close()
        assert held_by(live) == 1
        live.publish(channel, "and on")
        assert reader.next_event(30).data == "and on"


def test_h3_a_closed_tab_is_noticed_at_once(live: Live, channel: str) -> None:
    """No event and no heartbeat is needed for it."""
    with held(live, f"/streams/{channel}") as source:
        assert held_by(live) == 1
        source.close()
        # Heartbeats are 15 seconds apart, and it takes two of them to find a closed connection.
        live.server.wait_until(lambda: held_by(live) == 0, 12, "the end of the stream")


def test_h8_streams_are_closed_by_their_tag(live: Live, channel: str) -> None:
    """For good: the marked id says so, and the view answers 204 to it."""
    with (
        held(live, f"/tagged/{channel}/ann") as ann,
        held(live, f"/tagged/{channel}/bob") as bob,
    ):
        live.publish(channel, "before")
        live.get("/close/ann", data=b"")
        assert [event.data for event in ann.wait_for_end()] == ["before"]
        assert is_end(ann.last_event_id, (channel,))
        live.publish(channel, "after")
        assert [event.data for event in bob.events(2)] == ["before", "after"]
        with pytest.raises(NotAStream, match="204"):
            ann.reconnect()


def test_h8_one_channel_of_several_is_revoked(live: Live, channel: str) -> None:
    """The stream goes on with the others."""
    with held(live, f"/two/{channel}") as source:
        live.get(f"/revoke/both/{channel}-a", data=b"")
        live.publish(f"{channel}-a", "not for you")
        live.publish(f"{channel}-b", "for you")
        assert source.next_event(30).data == "for you"


def test_e7_a_stream_ends_with_the_last_of_its_channels(live: Live, channel: str) -> None:
    """Not with the first of two."""
    with held(live, f"/two/{channel}") as source:
        live.get(f"/last/{channel}-a", data=b"")
        assert source.next_event(30).data == "the last"
        live.publish(f"{channel}-b", "goes on")
        assert source.next_event(30).data == "goes on"
        live.get(f"/last/{channel}-b", data=b"")
        assert [event.data for event in source.wait_for_end()] == ["the last"]
        with pytest.raises(NotAStream, match="204"):
            source.reconnect()


def test_h8_a_stream_has_a_maximum_age(live: Live, channel: str) -> None:
    """Its client comes back by its id, and misses nothing."""
    with EventSource(f"{live.url}/short/{channel}", timeout=30) as source:
        source.wait_for_end()
        assert source.last_event_id
        assert not is_end(source.last_event_id, (channel,))
        live.publish(channel, "meanwhile")
        source.reconnect()
        assert source.next_event(30).data == "meanwhile"


def test_h7_beyond_a_limit_a_stream_is_polled(channel: str) -> None:
    """It gets what is due, and comes back."""
    env = {"TESTED_SIDEARM_MAX_STREAMS": "2"}
    with inline("gunicorn gevent", env=env) as live, ExitStack() as stack:
        opened = [stack.enter_context(held(live, f"/streams/{channel}")) for _ in range(2)]
        with EventSource(f"{live.url}/streams/{channel}", timeout=30) as third:
            assert third.wait_for_end() == []
            opened[0].close()
            live.wait_until(lambda: held_by(live) == 1, "room")
            third.reconnect()
            live.wait_until(lambda: held_by(live) == 2, "the third")
            live.publish(channel, "room")
            assert third.next_event(30).data == "room"


def test_h5_a_hub_that_is_replaced_ends_no_stream_and_a_killed_one_ends_them(
    channel: str,
) -> None:
    """The connection goes over to the new hub, which knows what it is for."""
    with ExitStack() as stack:
        folder = stack.enter_context(private_folder())
        hubs = Succession(str(folder), heartbeat=0.2)
        stack.callback(hubs.close)
        server = make_server("gunicorn gevent", hubs.path, "inline_streams:app", INLINE)
        live = Live(stack.enter_context(server), hubs.path)
        source = stack.enter_context(held(live, f"/streams/{channel}"))
        hubs.replace()
        live.publish(channel, "from the new hub")
        assert source.next_event(30).data == "from the new hub"
        comments = len(source.comments)
        live.wait_until(lambda: _comments(source) > comments, "a heartbeat")

        hubs.kill()
        source.wait_for_end()
        assert live.get("/ping") == b"pong"


def _comments(source: EventSource) -> int:
    with suppress(TimeoutError):
        source.next_event(0.05)
    return len(source.comments)


def test_h2_a_worker_holds_five_thousand_streams(channel: str) -> None:
    """One gevent worker, one subscription; each stream gets the event."""
    count = 5000
    with inline("gunicorn gevent") as live, ExitStack() as stack:
        request = f"GET /streams/{channel} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        clients = []
        while len(clients) < count:
            for _ in range(500):  # fewer than may wait to be accepted
                address = ("127.0.0.1", live.server.port)
                client = stack.enter_context(socket.create_connection(address, 60))
                client.sendall(request)
                clients.append(client)
            live.server.wait_until(lambda: held_by(live) == len(clients), 120, "its streams")
        assert live.figures().subscribers == 0
        assert live.get("/ping") == b"pong"
        live.publish(channel, "for everybody")
        for client in clients:
            received = b""
            while b"for everybody" not in received:
                more = client.recv(65536)
                assert more, received
                received += more
        assert held_by(live) == count

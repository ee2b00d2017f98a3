"""Contracts H1, H2, H6 and H11 on real servers: who holds a stream, and what its client gets."""

from __future__ import annotations

import http.client
import os
import resource
import signal
import socket
import sqlite3
import threading
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import msgspec
import pytest
from live_servers import (
    THREADS,
    Live,
    check_foreign_pages,
    check_nothing_behind_is_answered,
    check_nothing_is_missed,
    collect,
    held,
    make_server,
    next_event,
    private_folder,
    serving,
    sources,
)

from sidearm.exceptions import HubError
from sidearm.hub.client import HubClient
from sidearm.hub.config import HubConfig
from sidearm.hub.eventstream import encode_body
from sidearm.testing import EventSource, FlaskRunServer, HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVERS = ["gunicorn sync", "gunicorn gthread", "flask run"]


@pytest.fixture(scope="module", params=SERVERS)
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    with serving(request.param) as made:
        if request.param == "flask run":
            made.get("/positions")  # its hub starts when something first needs it
        yield made
        made.wait_for_subscribers(0)


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """A channel of the test's own."""
    name: str = request.node.originalname
    return name


@pytest.fixture(scope="module", autouse=True)
def many_descriptors() -> None:
    """The tests' own process opens as many sockets as the clients that it plays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))


def test_h1_one_worker_holds_500_streams_and_goes_on_answering(live: Live, channel: str) -> None:
    """Each of 500 subscribers gets each of 20 events once and in order, from one worker."""
    expected = [f"event {number}" for number in range(20)]
    with sources(live, 500, f"/streams/{channel}") as opened:
        for _ in range(20):
            assert live.get("/ping") == b"pong"

        live.publish(channel, *expected[:7])
        for line in expected[7:]:
            live.publish(channel, line)
        for source in opened:
            assert [event.data for event in source.events(20)] == expected
        live.publish(channel, "the last")
        assert {source.next_event().data for source in opened} == {"the last"}


def test_h1_a_stream_needs_no_thread_and_no_descriptor_of_the_worker(
    live: Live, channel: str
) -> None:
    """After 300 hand-offs the worker holds what it held before; after the clients left, too."""
    live.get("/ping")
    with sources(live, 2, f"/streams/{channel}"):
        pass
    before = live.process()
    with sources(live, 300, f"/streams/{channel}"):
        during = live.process()

    if not isinstance(live.server, FlaskRunServer):  # where the hub is in the same process
        assert during["descriptors"] <= before["descriptors"] + 1
    assert during["threads"] <= before["threads"] + THREADS  # gthread makes them one by one

    def is_as_before() -> bool:  # a hub in the same process may still be closing what has left
        after = live.process()
        return (
            after["descriptors"] <= before["descriptors"] + 1
            and after["threads"] <= before["threads"] + THREADS
        )

    live.wait_until(is_as_before, "nothing is left of the streams")
    assert "Traceback" not in live.server.log_text()


def test_h11_the_client_gets_the_servers_own_head(live: Live, channel: str) -> None:
    """Status, Date, cookies and all that after_request adds; the connection ends with it."""
    with held(live, f"/snapshots/{channel}") as source:
        assert source.status == 200
        assert source.headers.get_all("Content-Type") == ["text/event-stream"]
        assert source.headers.get_all("Cache-Control") == ["no-store, no-transform"]
        assert source.headers.get_all("X-Accel-Buffering") == ["no"]
        assert source.headers.get_all("X-Content-Type-Options") == ["nosniff"]
        assert source.headers.get_all("Connection") == ["close"]
        assert source.headers.get_all("Content-Security-Policy") == ["default-src 'self'"]
        assert source.headers["Set-Cookie"].startswith("seen=")
        assert len(source.headers.get_all("Date") or []) == 1
        assert "Content-Length" not in source.headers
        assert "Content-Encoding" not in source.headers
        assert "Transfer-Encoding" not in source.headers

        event = source.next_event()
        assert (event.event, event.data) == ("snapshot", f'{{"channel":"{channel}"}}')
        assert source.retry == 1234


def test_h1_each_stream_has_a_retry_of_its_own(live: Live, channel: str) -> None:
    """Clients that lose their streams together do not come back together."""
    with sources(live, 20, f"/streams/{channel}") as opened:
        live.publish(channel, "now")
        for source in opened:
            source.next_event()
        retries = {source.retry for source in opened}
    assert len(retries) > 10
    assert all(retry is not None and 1000 <= retry <= 4000 for retry in retries)


def test_h1_nothing_is_missed_between_the_view_and_the_hub(live: Live, channel: str) -> None:
    """While events are published all the time, each snapshot is followed by all that came since."""
    counted = 150

    def count() -> None:
        for _ in range(counted):
            live.get(f"/counters/{channel}", data=b"")

    publisher = threading.Thread(target=count)
    publisher.start()
    with ExitStack() as stack:
        opened = []
        while publisher.is_alive() and len(opened) < 60:
            source = EventSource(f"{live.url}/counters/{channel}", timeout=30)
            opened.append(stack.enter_context(source))
        publisher.join(60)
        for source in opened:
            snapshot = int(collect(source, 1)[0])
            seen: list[int] = []
            while (seen or [snapshot])[-1] < counted:
                seen += map(int, collect(source, 1))
            # What the snapshot shows already may follow it.
            since = [number for number in seen if number > snapshot]
            assert since == list(range(snapshot + 1, counted + 1))


def test_e3_a_client_that_reconnects_misses_nothing(live: Live, channel: str) -> None:
    """What was published while it was away comes first, then what is new."""
    check_nothing_is_missed(live, channel)


def test_h12_only_pages_that_the_application_names_read(live: Live, channel: str) -> None:
    """What the server and the hand-off make of a response changes nothing of that."""
    check_foreign_pages(live, channel)


def test_e3_a_client_resumes_even_if_it_saw_no_event(live: Live, channel: str) -> None:
    """The stream's first bytes give it an id, so nothing is lost before its first event."""
    with held(live, f"/streams/{channel}") as source:
        live.wait_until(lambda: "retry" in read_on(source), "the stream's opening")
        assert source.last_event_id
        source.close()
        live.publish(channel, "meanwhile")
        source.reconnect()
        assert collect(source, 1) == ["meanwhile"]


def read_on(source: EventSource) -> str:
    """What came of a stream, after another look at it."""
    with suppress(TimeoutError):
        source.next_event(0.05)
    return source.raw.decode()


def test_e4_a_page_joins_its_stream(live: Live, channel: str) -> None:
    """What is published after the page was made and before its stream opens is not lost."""
    position = live.get("/positions").decode()
    live.publish(channel, "in between")
    with EventSource(f"{live.url}/streams/{channel}?last_event_id={position}") as source:
        assert collect(source, 1) == ["in between"]


def test_wh28_a_stream_behind_a_redirect_works(live: Live, channel: str) -> None:
    """An EventSource follows, and the socket that is handed over is the second one's."""
    with held(live, f"/moved/{channel}") as source:
        live.publish(channel, "arrived")
        assert collect(source, 1) == ["arrived"]
        assert source.url.endswith(f"/streams/{channel}")


def test_c13_head_is_answered_at_once_and_never_handed_off(live: Live, channel: str) -> None:
    """A hundred HEADs, where the server keeps connections on one, and then an ordinary request."""
    opened = live.figures().opened
    connection = http.client.HTTPConnection("127.0.0.1", live.server.port, timeout=30)
    for _ in range(100):
        connection.request("HEAD", f"/streams/{channel}")
        response = connection.getresponse()
        assert response.status == 200
        assert response.headers.get_all("Content-Type") == ["text/event-stream"]
        assert response.read() == b""
    connection.request("GET", "/ping")
    assert connection.getresponse().read() == b"pong"
    connection.request("POST", f"/streams/{channel}")
    response = connection.getresponse()
    assert response.status == 405
    connection.close()
    assert live.figures().opened == opened


def test_h1_a_request_behind_the_stream_is_not_answered(live: Live, channel: str) -> None:
    """What a client sends after its request is thrown away, and the worker stays usable."""
    check_nothing_behind_is_answered(live, channel)


def test_h1_an_http10_client_streams(live: Live, channel: str) -> None:
    """HTTP/1.0 is what nginx asks with by default."""
    target = live.figures().opened + 1
    with socket.create_connection(("127.0.0.1", live.server.port), 10) as client:
        client.sendall(f"GET /streams/{channel} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        live.wait_until(lambda: live.figures().opened == target, "the hand-off")
        live.publish(channel, "old but gold")
        received = b""
        while b"gold" not in received:
            received += client.recv(65536)
    assert b"Transfer-Encoding" not in received


# Stopping and starting


@pytest.mark.parametrize("name", SERVERS[:2])
def test_w1_a_stopped_worker_ends_no_stream(name: str, channel: str) -> None:
    """SIGTERM is not held up by open streams, and the streams go on in the hub."""
    with serving(name) as live, sources(live, 50, f"/streams/{channel}") as opened:
        worker = live.process()["pid"]
        os.kill(worker, signal.SIGTERM)
        live.wait_until(lambda: live.process()["pid"] != worker, "another worker")
        live.publish(channel, "from the new worker")
        assert {source.next_event().data for source in opened} == {"from the new worker"}

        assert live.server.terminate() == 0
        hub = HubClient(live.socket_path)
        hub.publish([(channel, encode_body("from elsewhere"), True)])
        assert {source.next_event().data for source in opened} == {"from elsewhere"}
        hub.close()
        for source in opened:
            source.close()
        live.server.restart()


@pytest.mark.parametrize("name", SERVERS[:2])
def test_h6_a_killed_hub_fails_no_request_and_clients_are_told(name: str, channel: str) -> None:
    """Requests go on, streams end and are polled, and a new hub begins with the gap event."""
    with ExitStack() as stack:
        path = str(stack.enter_context(private_folder()) / "hub.sock")
        hub = stack.enter_context(HubServer(lambda _: HubConfig(socket=path), start_timeout=60))
        live = Live(stack.enter_context(make_server(name, path)), path)
        source = stack.enter_context(held(live, f"/streams/{channel}"))
        live.publish(channel, "before")
        before = source.next_event()

        hub.kill()
        assert source.wait_for_end() == []
        live.publish(channel, "while it is away")
        assert live.get("/ping") == b"pong"
        source.reconnect()
        assert source.wait_for_end() == []
        assert 1000 <= (source.retry or 0) <= 4000
        assert source.last_event_id == before.id

        hub.restart()
        live.wait_until(lambda: _accepted(live, 1), "the event that waited")
        source.reconnect()
        gap = next_event(source)
        assert gap.event == "sidearm:gap"
        assert msgspec.json.decode(gap.data)["reason"] == "epoch"
        assert gap.id.partition("-")[0] != before.id.partition("-")[0]
        # The event that waited lies before the view's position: the page that the gap makes the
        # client fetch, or the snapshot, has it already.
        live.publish(channel, "after")
        assert collect(source, 1) == ["after"]


def _accepted(live: Live, count: int) -> bool:
    try:
        return live.figures().published >= count
    except HubError:
        return False


@pytest.mark.parametrize("name", SERVERS)
def test_h2_where_a_middleware_joins_bodies_the_stream_is_polled(name: str, channel: str) -> None:
    """Each answer is whole and ends, nothing is missed, and the log says why, once."""
    with serving(name, "streams:make_joined()") as live:
        source = EventSource(f"{live.url}/streams/{channel}", timeout=30)
        assert source.wait_for_end() == []
        live.wait_until(lambda: poll(source) == [] and source.retry == 2000, "a poll's answer")
        live.publish(channel, "one", "two")
        received: list[str] = []
        live.wait_until(lambda: len(extended(received, poll(source))) >= 2, "two events")
        poll(source)
        assert received == ["one", "two"]

        assert live.figures().opened == 0
        log = live.server.log_text()
        assert log.count("answered by polling") == 1
        assert "a middleware holds the response back" in log
        before = live.process()["descriptors"]
        for _ in range(30):
            poll(source)
        # A thread of the server may not have closed its connection yet.
        live.wait_until(
            lambda: live.process()["descriptors"] <= before + 1, "as many descriptors as before"
        )


def poll(source: EventSource) -> list[str]:
    """Come back, as a browser does after ``retry`` milliseconds, and read what is due."""
    source.reconnect()
    events = source.wait_for_end()
    source.close()
    return [event.data for event in events]


def extended(received: list[str], more: list[str]) -> list[str]:
    received += more
    return received


# Contract T10


@pytest.mark.parametrize("name", SERVERS)
def test_t10_open_streams_hold_no_pooled_connection(name: str, tmp_path: Path) -> None:
    """Three hundred streams are open over a pool of two connections, and none is out."""
    with closing(sqlite3.connect(tmp_path / "notes.db")) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    env = {"NOTES": str(tmp_path / "notes.db")}
    with serving(name, "pooled:app", env=env) as live, ExitStack() as stack:
        sources = [
            stack.enter_context(EventSource(f"{live.url}/stream", timeout=60)) for _ in range(300)
        ]
        live.wait_for_subscribers(300)
        assert live.get("/out") == b"0"
        live.get("/add", data=b"")
        for source in sources:
            assert [event.data for event in source.events(2)] == ["0", "1"]
        assert live.get("/out") == b"0"

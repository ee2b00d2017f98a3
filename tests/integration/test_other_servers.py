"""Contracts H1 and H2 on servers with an event loop, on uWSGI, and on those that give no socket."""

from __future__ import annotations

import os
import resource
import signal
import socket
import ssl
import subprocess
import time
import urllib.request
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from live_servers import (
    Live,
    check_foreign_pages,
    check_nothing_behind_is_answered,
    check_nothing_is_missed,
    held,
    serving,
    sources,
)

from sidearm.hub.client import HubClient
from sidearm.hub.eventstream import encode_body
from sidearm.testing import EventSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVERS = [
    "gunicorn gevent",
    "gunicorn gevent_pywsgi",
    "flask run without threads",
    "uwsgi",
    "uwsgi threads",
    "uwsgi gevent",
    "eventlet",
]
# Those that start another worker in the place of one that ends, and how each is told to do so.
RECYCLED = {
    "gunicorn sync": ["--max-requests", "20"],
    "gunicorn gthread": ["--max-requests", "20"],
    "gunicorn gevent": ["--max-requests", "20"],
    "gunicorn gevent_pywsgi": [],  # its server does not count requests
    "uwsgi": ["--max-requests", "20", "--min-worker-lifetime", "0"],
    "uwsgi threads": ["--max-requests", "20", "--min-worker-lifetime", "0"],
}
MANY = 1000  # streams, so many at a time:
BATCH = 250


@pytest.fixture(scope="module", autouse=True)
def many_descriptors() -> None:
    """The tests' own process opens as many sockets as the clients that it plays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))


@pytest.fixture(scope="module", params=SERVERS)
def live(request: pytest.FixtureRequest) -> Iterator[Live]:
    with serving(request.param) as made:
        made.get("/positions")  # under `flask run` its hub starts when something first needs it
        yield made
        made.wait_for_subscribers(0)


@pytest.fixture
def channel(request: pytest.FixtureRequest) -> str:
    """A channel of the test's own."""
    name: str = request.node.originalname
    return name


def test_h1_a_thousand_hand_offs_leave_nothing_behind(live: Live, channel: str) -> None:
    """No descriptor, no thread, nothing in the event loop's set, and no loop that is busy."""
    has_own_hub = live.figures().pid == live.process()["pid"]
    with sources(live, 20, f"/streams/{channel}"):
        pass
    before = live.process()
    opened = live.figures().opened
    for _ in range(MANY // BATCH):
        with sources(live, BATCH, f"/streams/{channel}") as streams:
            during = live.process()
            live.publish(channel, "an event")
            assert {source.next_event(30).data for source in streams} == {"an event"}
        if not has_own_hub:
            assert during["descriptors"] <= before["descriptors"] + 4
            assert during["watched"] <= before["watched"] + 4
    after = live.process()

    assert live.figures().opened >= opened + MANY
    assert after["descriptors"] <= before["descriptors"] + 4
    assert after["threads"] <= before["threads"] + 4
    assert after["watched"] <= before["watched"] + 4


def test_h1_a_worker_rests_while_the_hub_holds_its_streams(live: Live, channel: str) -> None:
    """Whatever those clients send, and also when they have left, nothing wakes the worker."""
    with sources(live, 20, f"/streams/{channel}"):
        _rests(live)
        for _ in range(5):
            _send_and_leave(live, channel)
        _rests(live)
    _rests(live)


def _send_and_leave(live: Live, channel: str) -> None:
    """A client that has something to say, and then nothing more, and then is gone."""
    with socket.create_connection(("127.0.0.1", live.server.port), 30) as client:
        client.sendall(f"GET /streams/{channel} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert client.recv(65536)
        client.sendall(b"hello?\r\n" * 1000)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass


@pytest.mark.parametrize("name", [name for name in SERVERS if "event" in name])
def test_h1_an_event_loop_forgets_a_client_that_it_has_waited_for(name: str, channel: str) -> None:
    """A request that comes in two pieces is waited for; in the hub it is the hub's business."""
    with serving(name) as live, ExitStack() as stack:
        before = live.process()["watched"]
        for count in range(1, 21):
            address = ("127.0.0.1", live.server.port)
            client = stack.enter_context(socket.create_connection(address, 30))
            client.sendall(f"GET /streams/{channel} HTTP/1.1\r\n".encode())
            live.get("/ping")  # by now the loop waits for the rest
            client.sendall(b"Host: x\r\n\r\n")
            live.wait_for_subscribers(count)
        assert live.process()["watched"] <= before + 4
        _rests(live)


def _rests(live: Live) -> None:
    """A busy loop takes all the time there is; a worker at rest next to none of it."""
    began, before = time.monotonic_ns(), live.process()["cpu"]
    time.sleep(0.5)  # there is nothing to wait for
    used = live.process()["cpu"] - before
    assert used < (time.monotonic_ns() - began) / 3


def test_h11_the_client_gets_the_servers_own_head(live: Live, channel: str) -> None:
    """Status, cookies and all that after_request adds; the connection ends with it."""
    with held(live, f"/snapshots/{channel}") as source:
        assert source.status == 200
        assert source.headers.get_all("Content-Type") == ["text/event-stream"]
        assert source.headers.get_all("Cache-Control") == ["no-store, no-transform"]
        assert source.headers.get_all("X-Accel-Buffering") == ["no"]
        assert source.headers.get_all("Connection") == ["close"]
        assert source.headers.get_all("Content-Security-Policy") == ["default-src 'self'"]
        assert source.headers["Set-Cookie"].startswith("seen=")
        assert "Content-Length" not in source.headers
        assert "Transfer-Encoding" not in source.headers
        assert source.next_event().data == f'{{"channel":"{channel}"}}'
        assert source.raw.count(b"HTTP/1.") == 0


def test_h1_a_request_behind_the_stream_is_not_answered(live: Live, channel: str) -> None:
    """What a client sends after its request is thrown away, and the worker stays usable."""
    check_nothing_behind_is_answered(live, channel)


def test_e3_a_client_that_reconnects_misses_nothing(live: Live, channel: str) -> None:
    """What was published while it was away comes first, then what is new."""
    check_nothing_is_missed(live, channel)


def test_h12_only_pages_that_the_application_names_read(live: Live, channel: str) -> None:
    """What the server and the hand-off make of a response changes nothing of that."""
    check_foreign_pages(live, channel)


# Recycling, reloading, stopping: for each a server of its own


@pytest.mark.parametrize("name", RECYCLED)
def test_h1_recycling_reloading_and_stopping_end_no_stream(name: str, channel: str) -> None:
    """None of the three waits for a stream, and the streams go on in the hub."""
    with serving(name, args=RECYCLED[name]) as live, ExitStack() as stack:
        hub = HubClient(live.socket_path)
        stack.callback(hub.close)

        def goes_on(opened: list[EventSource], text: str) -> None:
            hub.publish([(channel, encode_body(text), True)])
            assert {source.next_event(30).data for source in opened} == {text}

        opened = [stack.enter_context(held(live, f"/streams/{channel}")) for _ in range(12)]
        live.wait_for_subscribers(12)
        if RECYCLED[name]:
            _change_worker(live, lambda: [live.get("/ping") for _ in range(30)])
            goes_on(opened, "after recycling")

        opened += [stack.enter_context(held(live, f"/streams/{channel}")) for _ in range(12)]
        live.wait_for_subscribers(24)
        _change_worker(live, lambda: live.server.send_signal(signal.SIGHUP))
        goes_on(opened, "after reloading")

        opened += [stack.enter_context(held(live, f"/streams/{channel}")) for _ in range(12)]
        live.wait_for_subscribers(36)
        assert live.server.terminate() == 0
        goes_on(opened, "after stopping")


def _change_worker(live: Live, tell: object) -> None:
    """Wait until the worker of now is gone, and another one answers."""
    worker = live.process()["pid"]
    assert callable(tell)
    tell()
    live.wait_until(lambda: not _runs(worker), f"the end of worker {worker}")
    live.wait_until(lambda: live.process()["pid"] != worker, "another worker")


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# Where the socket cannot be had


def test_h2_waitress_gives_no_socket_and_its_streams_are_polled(channel: str) -> None:
    """Each answer ends, nothing is missed, and one line of the log names the reason."""
    with serving("waitress") as live:
        source = EventSource(f"{live.url}/streams/{channel}", timeout=30)
        assert source.wait_for_end() == []
        live.publish(channel, "one", "two")
        received: list[str] = []
        while len(received) < 2:
            source.reconnect()
            received += [event.data for event in source.wait_for_end()]
            source.close()
        assert received == ["one", "two"]
        assert source.retry == 2000

        log = live.server.log_text()
        check_foreign_pages(live, f"{channel}_elsewhere")
        assert log.count("answered by polling") == 1
        assert "the server (waitress) does not give the client's socket" in log


def test_h2_a_server_that_speaks_tls_keeps_its_socket(channel: str, tmp_path: Path) -> None:
    """What the hub would write is not what its client could read; so streams are polled."""
    make_certificate(tmp_path)
    tls = ["--certfile", str(tmp_path / "cert.pem"), "--keyfile", str(tmp_path / "key.pem")]
    with serving("gunicorn gthread", args=tls) as live:
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        url = f"https://localhost:{live.server.port}/streams/{channel}"
        with urllib.request.urlopen(url, timeout=30, context=context) as response:
            assert b"retry: 2000\n" in response.read()
        assert "the server speaks TLS itself" in live.server.log_text()
        assert live.figures().opened == 0


def make_certificate(folder: Path) -> None:
    """A certificate for this machine, by the one tool for it that every system has."""
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files],
        check=True,
        capture_output=True,
    )

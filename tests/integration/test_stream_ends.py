"""Contracts E7, H7 and H8 on real servers: two workers, a hub, a browser."""

from __future__ import annotations

import shutil
import socket
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hub_streams import PATIENCE, wait_for

from sidearm.exceptions import NotAStream, StreamEnded
from sidearm.hub.client import ask_figures
from sidearm.testing import EventSource, GunicornServer, HubServer, UpServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import BrowserContext

APPS = Path(__file__).parent.parent / "apps"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
START_TIMEOUT = 60.0  # seconds, on a machine that does much else


class Site:
    """A running application and its hub."""

    def __init__(self, url: str, socket_path: str) -> None:
        self.url = url
        self.socket_path = socket_path

    def post(self, path: str, data: str = "") -> None:
        """Send a POST, and wait until the hub has what it publishes.

        The next one may be another worker's, which may have a connection where this one has none
        yet: between tasks the order is that of arrival (E2).
        """
        before = ask_figures(self.socket_path, PATIENCE).published
        urllib.request.urlopen(self.url + path, data.encode(), PATIENCE).close()
        if path.startswith("/publish/"):
            wait_for(self.socket_path, lambda figures: figures.published > before)

    def open(self, path: str, **options: Any) -> EventSource:
        return EventSource(self.url + path, timeout=PATIENCE, **options)

    def wait_for_subscribers(self, count: int) -> None:
        wait_for(self.socket_path, lambda figures: figures.subscribers == count)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """Two workers and a hub: a reconnection may be answered by the other worker."""
    with HubServer(start_timeout=START_TIMEOUT) as hub:
        env = {"SIDEARM_SOCKET": hub.socket_path}
        with GunicornServer(
            "ending:app", workers=2, cwd=APPS, env=env, start_timeout=START_TIMEOUT
        ) as server:
            yield Site(server.url, hub.socket_path)


@pytest.fixture(scope="module")
def polled() -> Iterator[Site]:
    """The same, where no stream can be handed over."""
    with HubServer(start_timeout=START_TIMEOUT) as hub:
        env = {"SIDEARM_SOCKET": hub.socket_path, "TESTED_SIDEARM_HANDOFF": "false"}
        with GunicornServer(
            "ending:app", workers=2, cwd=APPS, env=env, start_timeout=START_TIMEOUT
        ) as server:
            yield Site(server.url, hub.socket_path)


@pytest.fixture(params=["handed over", "polled"])
def either(request: pytest.FixtureRequest, site: Site, polled: Site) -> Site:
    return site if request.param == "handed over" else polled


def follow(source: EventSource) -> tuple[list[str], int]:
    """What a browser does: read, and come back, until it is told to stop; the data, the status."""
    data = []
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            data.append(source.next_event().data)
        except StreamEnded:
            try:
                source.reconnect()
            except NotAStream as end:
                return data, end.status
    raise AssertionError(f"It was never told to stop; it read {data}.")


def test_e7_c12_last_event_and_then_one_204(either: Site) -> None:
    """Handed over or polled, by whichever worker: the client stops, and nothing is left of it."""
    with either.open("/streams/job-7") as source, either.open("/streams/job-7+job-8") as both:
        either.post("/publish/job-7", "half")
        either.post("/publish/job-7?end=1", "done")
        assert follow(source) == (["half", "done"], 204)
        either.post("/publish/job-8?end=1", "done, too")
        assert follow(both) == (["half", "done", "done, too"], 204)
    either.wait_for_subscribers(0)


def test_e7_late_joiner_gets_the_last_event_and_stops(either: Site) -> None:
    """It does not wait for what will never come."""
    either.post("/publish/job-late", "half")
    either.post("/publish/job-late?end=1", "done")
    with either.open("/streams/job-late") as source:
        assert follow(source) == (["done"], 204)


def test_h8_c12_log_out_everywhere(either: Site) -> None:
    """Every stream of the user ends, those of others go on, a new one is let in."""
    with ExitStack() as stack:
        mine = [stack.enter_context(either.open(f"/streams/a{n}?tag=user:7")) for n in range(4)]
        other = stack.enter_context(either.open("/streams/a0?tag=user:8"))
        for source in [*mine, other]:
            _wait_for_id(source)
        either.post("/close/user:7")
        for source in mine:
            assert follow(source) == ([], 204)
        again = stack.enter_context(either.open("/streams/a0?tag=user:7"))
        _wait_for_id(again)
        either.post("/publish/a0?end=1", "for those who are there")
        assert follow(other) == follow(again) == (["for those who are there"], 204)


def test_h8_one_channel_of_several_is_revoked(site: Site) -> None:
    """The stream goes on with the others, without a reconnection."""
    with site.open("/streams/news+team?tag=user:7") as source:
        _wait_for_id(source)
        site.wait_for_subscribers(1)
        site.post("/close/user:7?channel=team")
        wait_for(
            site.socket_path, lambda figures: figures.channels == 1
        )  # another worker's is next
        site.post("/publish/team", "secret")
        site.post("/publish/news", "public")
        assert source.next_event().data == "public"


def test_h8_old_stream_runs_its_view_again_and_misses_nothing(site: Site) -> None:
    """It ends by itself, comes back by its id, and has each event once."""
    with site.open("/streams/aging?max_age=0.1") as source:
        _wait_for_id(source)
        before = ask_figures(site.socket_path, PATIENCE).opened
        seen: list[str] = []
        for number in range(3):
            seen += [event.data for event in source.wait_for_end()]
            site.post("/publish/aging", str(number))  # while it is away
            source.reconnect()
        seen += [event.data for event in source.wait_for_end()]
        assert seen == ["0", "1", "2"]
        assert 50 <= (source.retry or 0) <= 100
        assert ask_figures(site.socket_path, PATIENCE).opened == before + 3


def _wait_for_id(source: EventSource) -> None:
    """Read until the stream has given a place to go on from: then the hub has it, or had."""
    while not source.last_event_id:
        try:
            source.next_event(0.05)
        except TimeoutError:
            continue
        except StreamEnded:
            assert source.last_event_id
            return


# H7


@pytest.fixture(scope="module")
def limited() -> Iterator[UpServer]:
    """``flask sidearm up`` with five streams for each address, this machine's counted."""
    env = {
        "TESTED_SIDEARM_MAX_STREAMS_PER_ADDRESS": "5",
        "TESTED_SIDEARM_LIMIT_LOOPBACK": "true",
    }
    with UpServer("ending", cwd=APPS, env=env, start_timeout=START_TIMEOUT) as server:
        yield server


def test_h7_c16_five_streams_for_each_address_whatever_it_claims(limited: UpServer) -> None:
    """Ten addresses open three each, one opens eight with a new forged header each time."""
    with ExitStack() as stack:
        clients = [
            (address, stack.enter_context(_connect(limited, address)))
            for address in [f"127.0.0.{n}" for n in range(10, 20)] * 3 + ["127.0.0.99"] * 8
        ]
        figures = wait_for(
            limited.socket_path, lambda figures: figures.opened + figures.refused_streams == 38
        )
        assert (figures.subscribers, figures.refused_streams) == (35, 3)
        # Who is there hears it, and so all of them end.
        url = f"{limited.url}/publish/limited?end=1"
        urllib.request.urlopen(url, b"hello", PATIENCE).close()
        accepted: Counter[str] = Counter()
        refused = []
        for address, client in clients:
            head, _, body = _read_to_the_end(client).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b"retry: " in body
            assert b"id: " in body
            if b"data: hello\n" in body:
                accepted[address] += 1
            else:
                refused.append(address)
        assert refused == ["127.0.0.99"] * 3
        assert accepted == {f"127.0.0.{n}": 3 for n in range(10, 20)} | {"127.0.0.99": 5}
    limited.wait_for_log("SIDEARM_MAX_STREAMS_PER_ADDRESS")


def _connect(server: UpServer, address: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), PATIENCE, (address, 0))
    forged = f"X-Forwarded-For: 203.0.113.{client.getsockname()[1] % 250}"
    client.sendall(f"GET /streams/limited HTTP/1.1\r\nHost: x\r\n{forged}\r\n\r\n".encode())
    return client


def _read_to_the_end(client: socket.socket) -> bytes:
    reply = b""
    while more := client.recv(65536):
        reply += more
    return reply


# A browser


@pytest.fixture(scope="module")
def browser() -> Iterator[BrowserContext]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=arguments, timeout=START_TIMEOUT * 2000
        )
        yield browser.new_context()
        browser.close()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize(
    ("channel", "act", "seen"),
    [("job-c", "/publish/job-c?end=1", ["done"]), ("news-c", "/close/user:c", [])],
    ids=["last event", "tag"],
)
def test_e7_c12_a_browser_comes_back_once_and_stops(
    site: Site, browser: BrowserContext, channel: str, act: str, seen: list[str]
) -> None:
    """Chromium's own EventSource: one 200, one 204, and it is closed for good."""
    page = browser.new_page()
    page.set_default_timeout(PATIENCE * 2000)
    statuses: list[int] = []
    page.on(
        "response",
        lambda response: statuses.append(response.status) if "/streams/" in response.url else None,
    )
    page.goto(f"{site.url}/pages/{channel}?tag=user:c")
    site.wait_for_subscribers(1)
    site.post(act, "done")
    page.wait_for_function("() => window.isClosed()")
    assert page.evaluate("window.seen") == seen
    assert statuses == [200, 204]
    page.close()
    site.wait_for_subscribers(0)

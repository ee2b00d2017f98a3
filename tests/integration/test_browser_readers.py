"""Chromium's pages of several origins, and whose streams they may read (contract H12)."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_tabs import CHROMIUM, START_TIMEOUT, open_browser
from hub_streams import PATIENCE

from sidearm.testing import GunicornServer, HubServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

APPS = Path(__file__).parent.parent / "apps"
HERE = "127.0.0.1"
LOCALHOST = "localhost"  # another site than the address
LAN = "lan.example"  # plain HTTP and not of this machine: its browser sends no Sec-Fetch-Site

READ_BY = {
    "EventSource": "listen(url)",
    "EventSource with cookies": "listen(url, {withCredentials: true})",
    "sidearm.js": "follow(url)",
}

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
    pytest.mark.timeout(600),
]


class Sites:
    """Two servers of one application: one names the other's origins, which names none."""

    def __init__(self, socket_path: str) -> None:
        self.closed = self._server(socket_path)
        friends = [self.origin(host, self.closed) for host in (HERE, LOCALHOST)]
        self.open = self._server(socket_path, " ".join(friends))

    @staticmethod
    def _server(socket_path: str, origins: str = "") -> GunicornServer:
        env = {"SIDEARM_SOCKET": socket_path, "FOREIGN_ORIGINS": origins}
        return GunicornServer("foreign:app", cwd=APPS, env=env, start_timeout=START_TIMEOUT)

    @staticmethod
    def origin(host: str, server: GunicornServer) -> str:
        """How browsers call it."""
        return f"http://{host}:{server.port}"

    @staticmethod
    def asked(server: GunicornServer) -> dict[str, Any]:
        """What browsers have asked for since the last call, and the channels of views that ran."""
        with urllib.request.urlopen(f"{server.url}/asked", timeout=PATIENCE) as answer:
            told: dict[str, Any] = json.load(answer)
        return told

    @staticmethod
    def publish(server: GunicornServer, channel: str, text: str, query: str = "") -> None:
        url = f"{server.url}/publish/{channel}/{text}{query}"
        urllib.request.urlopen(url, b"", timeout=PATIENCE).close()


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    with HubServer(start_timeout=START_TIMEOUT) as hub:
        sites = Sites(hub.socket_path)
        with sites.closed, sites.open:
            yield sites


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser(f"--host-resolver-rules=MAP {LAN} 127.0.0.1") as browser:
        yield browser


@pytest.fixture
def page(sites: Sites, browser: Browser) -> Iterator[Page]:
    """A page of a profile of its own, which leaves nothing behind."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 2000)
    for server in (sites.open, sites.closed):
        sites.asked(server)
    yield page
    context.close()


def visit(page: Page, origin: str) -> None:
    page.goto(origin)
    page.wait_for_function("() => window.follow")


def read(page: Page, url: str, how: str) -> None:
    page.evaluate(f"(url) => {{ {READ_BY[how]} }}", url)


REFUSED = [
    pytest.param(LOCALHOST, HERE, "cross-site", id="another site"),
    pytest.param(HERE, HERE, "same-site", id="another port"),
    pytest.param(LAN, LAN, None, id="another port, plain HTTP"),
]


@pytest.mark.parametrize("how", READ_BY)
@pytest.mark.parametrize(("of", "at", "says"), REFUSED)
@pytest.mark.parametrize("path", ["/streams/", "/streams/undeclared/"])
def test_h12_pages_of_another_origin_are_refused(
    sites: Sites, page: Page, of: str, at: str, says: str | None, path: str, how: str
) -> None:
    """Where the view says that it streams it does not run; nothing is seen in either case."""
    visit(page, sites.origin(of, sites.open))
    read(page, f"{sites.origin(at, sites.closed)}{path}refused", how)
    # An EventSource gives up; sidearm.js cannot know why it gets no answer, and tries again.
    page.wait_for_function("() => window.source?.readyState === 2 || states.length > 0")
    assert page.evaluate("seen") == []
    assert page.evaluate("states") == ([] if how != "sidearm.js" else ["waiting 0"])
    told = sites.asked(sites.closed)
    assert told["asked"][0][:3] == ["GET", says, sites.origin(of, sites.open)]
    assert bool(told["ran"]) == ("undeclared" in path)


@pytest.mark.parametrize("how", READ_BY)
@pytest.mark.parametrize(("host", "says"), [(HERE, "same-origin"), (LAN, None)])
def test_h12_its_own_pages_read(
    sites: Sites, page: Page, host: str, says: str | None, how: str
) -> None:
    """Whatever their browser says or does not say."""
    origin = sites.origin(host, sites.closed)
    visit(page, origin)
    read(page, f"{origin}/streams/own", how)
    page.wait_for_function("() => seen.length > 0")
    assert page.evaluate("seen") == ["all"]
    assert sites.asked(sites.closed)["asked"][0][:3] == ["GET", says, None]


@pytest.mark.parametrize("how", READ_BY)
@pytest.mark.parametrize(("of", "says"), [(LOCALHOST, "cross-site"), (HERE, "same-site")])
def test_h12_pages_of_a_named_origin_read_and_resume(
    sites: Sites, page: Page, of: str, says: str, how: str, request: pytest.FixtureRequest
) -> None:
    """Over many connections, each event once; only a fetch that has an id asks first."""
    channel = request.node.name.encode().hex()[-60:]
    visit(page, sites.origin(of, sites.closed))
    read(page, f"{sites.origin(HERE, sites.open)}/streams/{channel}?max_age=0.2", how)
    page.wait_for_function("() => seen.length > 0")
    gets = 0
    preflights: list[list[Any]] = []
    for number in range(1, 4):
        sites.publish(sites.open, channel, str(number))
        page.wait_for_function("(text) => seen.includes(text)", arg=str(number))
        while gets < 2 * number:  # it came back
            page.wait_for_timeout(50)
            for each in sites.asked(sites.open)["asked"]:
                if each[0] == "GET":
                    gets += 1
                    assert each[1:3] == [says, sites.origin(of, sites.closed)]
                    assert each[3] == (gets > 1)
                else:
                    preflights.append(each)
    assert page.evaluate("seen") == ["all", "1", "2", "3"]
    assert {each[0] for each in preflights} == ({"OPTIONS"} if how == "sidearm.js" else set())


@pytest.mark.parametrize("how", READ_BY)
def test_h12_cookies_are_sent_where_the_reader_wants(sites: Sites, page: Page, how: str) -> None:
    """And the browser lets it: here the two are of one site, for others' cookies are often kept."""
    visit(page, sites.origin(HERE, sites.closed))  # sets it
    read(page, f"{sites.origin(HERE, sites.open)}/streams/cookies", how)
    page.wait_for_function("() => seen.length > 0")
    assert sites.asked(sites.open)["asked"][0][4] == (how != "EventSource")


def test_h12_a_named_origin_sees_why_there_is_no_stream(sites: Sites, page: Page) -> None:
    """The end, after which it stops, and that a log-in is wanted."""
    visit(page, sites.origin(LOCALHOST, sites.closed))
    streams = sites.origin(HERE, sites.open)
    page.evaluate("(url) => follow(url)", f"{streams}/streams/ending")
    page.wait_for_function("() => states.at(-1) === 'open 200'")
    sites.publish(sites.open, "ending", "last", "?end")
    page.wait_for_function("() => states.at(-1) === 'ended 204'")
    assert page.evaluate("seen") == ["all", "last"]
    page.evaluate("(url) => follow(url)", f"{streams}/streams/for-members/news")
    page.wait_for_function("() => states.at(-1) === 'refused 401'")

    page.evaluate("(url) => listen(url)", f"{streams}/streams/ending")
    page.wait_for_function("() => source.readyState === 2")

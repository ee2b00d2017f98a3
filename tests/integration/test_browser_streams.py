"""Chromium's own EventSource before real workers and hubs (contracts E1, E3, E4, E7, H5, H6)."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hub_streams import PATIENCE, figures_of, wait_for
from hub_succession import Succession

from sidearm.testing import GunicornServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import BrowserContext, Page

APPS = Path(__file__).parent.parent / "apps"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
START_TIMEOUT = 60.0  # seconds, on a machine that does much else

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium here: apt-get install chromium"
)


class Site:
    """Two blocking workers, and hubs that follow each other."""

    def __init__(self, url: str, hubs: Succession) -> None:
        self.url = url
        self.hubs = hubs

    def publish(self, channel: str, *texts: str) -> None:
        """Publish, and wait until the hub has it: the next call may reach the other worker."""
        before = figures_of(self.hubs.path).published
        request = urllib.request.Request(
            f"{self.url}/publish/{channel}",
            json.dumps(texts).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=PATIENCE).close()
        wait_for(self.hubs.path, lambda figures: figures.published >= before + len(texts))


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    """Where the hubs' socket is."""
    with TemporaryDirectory(prefix="sa-") as folder:
        yield folder


@pytest.fixture(scope="module")
def server(folder: str) -> Iterator[GunicornServer]:
    """Two workers, which go on whatever becomes of the hubs."""
    env = {"SIDEARM_SOCKET": f"{folder}/hub.sock"}
    with GunicornServer(
        "following:app", workers=2, cwd=APPS, env=env, start_timeout=START_TIMEOUT
    ) as server:
        yield server


@pytest.fixture
def site(server: GunicornServer, folder: str) -> Iterator[Site]:
    """The workers, with a new hub."""
    hubs = Succession(folder)
    yield Site(server.url, hubs)
    hubs.close()


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


@pytest.fixture
def page(site: Site, browser: BrowserContext) -> Iterator[Page]:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE * 2000)
    page.goto(site.url)
    yield page
    page.close()
    wait_for(site.hubs.path, lambda figures: figures.subscribers == 0)


def follow(page: Page, url: str) -> None:
    """Let the page follow a stream, and wait until it is open."""
    page.evaluate("follow", url)
    page.wait_for_function("() => opened > 0")


def wait_until_seen(page: Page, texts: list[str]) -> None:
    """Wait for the last of these texts; they must be all that came."""
    page.wait_for_function("(last) => seen.includes(last)", arg=texts[-1])
    assert page.evaluate("seen") == texts


def test_e1_c8_every_text_arrives_as_the_standard_has_it(site: Site, page: Page) -> None:
    """No text makes a field, another event, or none."""
    follow(page, "/streams/texts")
    site.publish("texts", "\n\n\n", "one\revent: steal", "", " leading blank", "a\r\n\rb", "last")
    wait_until_seen(page, ["\n\n\n", "one\nevent: steal", "", " leading blank", "a\n\nb", "last"])


def test_e3_c9_browser_that_comes_back_has_each_event_once(site: Site, page: Page) -> None:
    """Its streams end every moment; the header wins over the id in the URL, which grows old."""
    page.evaluate(
        "() => follow(`/streams/aging?max_age=0.1&last_event_id=${document.body.dataset.position}`)"
    )
    texts = [str(number) for number in range(6)]
    for number, text in enumerate(texts, 1):
        site.publish("aging", text)
        page.wait_for_function("(number) => opened > number", arg=number)
    wait_until_seen(page, texts)
    assert page.evaluate("failed") >= len(texts)  # it was away in between


def test_e4_page_that_renders_its_position_joins_its_stream(site: Site, page: Page) -> None:
    """What is published between the page and its stream is not missed; nothing older is told."""
    site.publish("joined", "on the page")
    page.goto(site.url)
    site.publish("joined", "1", "2")
    page.evaluate("followFromHere('joined')")
    wait_until_seen(page, ["1", "2"])
    site.publish("joined", "3")
    wait_until_seen(page, ["1", "2", "3"])


def test_h5_browser_does_not_notice_a_new_hub(site: Site, page: Page) -> None:
    """Its connection goes over: it is opened once, and has each event once."""
    follow(page, "/streams/replaced")
    site.publish("replaced", "1")
    for text in ("2", "3"):
        site.hubs.start_replacement()
        site.hubs.wait_until_replaced()
        site.publish("replaced", text)
    wait_until_seen(page, ["1", "2", "3"])
    assert page.evaluate("[opened, failed]") == [1, 0]


def test_e3_h6_browser_gets_the_gap_when_the_hub_was_killed(site: Site, page: Page) -> None:
    """It comes back by itself to the new hub, hears that it may have missed something, goes on."""
    follow(page, "/streams/killed")
    site.publish("killed", "1")
    wait_until_seen(page, ["1"])
    site.hubs.kill()
    page.wait_for_function("() => failed > 0")
    site.hubs.start_anew()
    wait_until_seen(page, ["1", "gap: epoch"])
    site.publish("killed", "2")
    wait_until_seen(page, ["1", "gap: epoch", "2"])


def test_wh_27_an_ended_answer_is_asked_for_again(site: Site, page: Page) -> None:
    """So no view can stop a browser by ending its stream."""
    page.evaluate("follow", "/answers/200")
    page.wait_for_function("() => opened > 1")
    assert page.evaluate("source.readyState") != 2
    page.evaluate("source.close()")


@pytest.mark.parametrize("status", [204, 205, 210, 299, 404, 410, 503])
def test_wh_25_wh_26_any_other_status_stops_a_browser(site: Site, page: Page, status: int) -> None:
    """204 is how a view says so; an error says so, too, which is why limits answer 200."""
    page.evaluate("follow", f"/answers/{status}")
    page.wait_for_function("() => source.readyState === EventSource.CLOSED")
    assert page.evaluate("[opened, failed]") == [0, 1]


@pytest.mark.parametrize("media_type", ["text/html", "text/event-streams", "x"])
def test_wh_24_another_type_stops_a_browser(site: Site, page: Page, media_type: str) -> None:
    """An error page is no stream, and must not look like one."""
    page.evaluate("follow", f"/answers/200?type={media_type}")
    page.wait_for_function("() => source.readyState === EventSource.CLOSED")
    assert page.evaluate("[opened, failed]") == [0, 1]


def test_wh_30_no_stream_comes_from_a_cache(site: Site, page: Page) -> None:
    """The second one reaches the hub as the first did."""
    before = figures_of(site.hubs.path).opened
    for number in (1, 2):
        follow(page, "/streams/uncached")
        wait_for(site.hubs.path, lambda figures, n=number: figures.opened >= before + n)
        page.evaluate("source.close()")
    assert figures_of(site.hubs.path).opened == before + 2

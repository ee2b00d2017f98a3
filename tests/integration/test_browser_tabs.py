"""``sidearm.js`` in tabs of a real browser, before real workers and hubs (contracts E6, E7, H7)."""

from __future__ import annotations

import json
import signal
import time
import urllib.request
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from browser_tabs import CHROMIUM, START_TIMEOUT, Tab, Tabs, open_browser
from fronts import Nginx
from hub_streams import PATIENCE, figures_of, wait_for
from hub_succession import Succession

from sidearm.testing import EventSource, GunicornServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from playwright.sync_api import Browser

APPS = Path(__file__).parent.parent / "apps"
LAN = "lan.example"  # a host whose pages are no secure context, as on a network without TLS
HEARTBEAT = 1.0  # seconds

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
    pytest.mark.timeout(600),
]


class Site:
    """Two blocking workers, and hubs that follow each other."""

    def __init__(self, url: str, hubs: Succession) -> None:
        self.url = url
        self.hubs = hubs

    def publish(self, channel: str, *texts: str, query: str = "") -> None:
        """Publish, and wait until the hub has it: the next call may reach the other worker."""
        before = figures_of(self.hubs.path).published
        self.post(f"/publish/{channel}{query}", *texts)
        wait_for(self.hubs.path, lambda figures: figures.published >= before + len(texts))

    def post(self, path: str, *texts: str) -> None:
        request = urllib.request.Request(
            self.url + path, json.dumps(texts).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=60).close()

    def wait_until_known(self) -> None:
        """Wait until both workers have heard of this hub, whose pages can then join its log."""
        epoch = figures_of(self.hubs.path).epoch
        known: dict[str, bool] = {}
        deadline = time.monotonic() + PATIENCE
        while len(known) < 2 or not all(known.values()):
            assert time.monotonic() < deadline, f"The workers know of other hubs: {known}."
            with urllib.request.urlopen(f"{self.url}/worker", timeout=60) as answer:
                worker, position = json.load(answer)
            known[worker] = position.startswith(epoch)

    @property
    def streams(self) -> int:
        """How many streams the hub holds."""
        return figures_of(self.hubs.path).subscribers

    @property
    def opened(self) -> int:
        """How many it has ever opened."""
        return figures_of(self.hubs.path).opened

    def wait_for_streams(self, count: int) -> None:
        """Wait until the hub holds so many streams."""
        wait_for(self.hubs.path, lambda figures: figures.subscribers == count)


@pytest.fixture(scope="module")
def folder() -> Iterator[str]:
    """Where the hubs' socket is."""
    with TemporaryDirectory(prefix="sa-") as folder:
        yield folder


@pytest.fixture(scope="module")
def server(folder: str) -> Iterator[GunicornServer]:
    """Two workers, which go on whatever becomes of the hubs."""
    env = {"SIDEARM_SOCKET": f"{folder}/hub.sock", "TABS_HEARTBEAT": str(HEARTBEAT)}
    with GunicornServer(
        "tabs:app", workers=2, cwd=APPS, env=env, start_timeout=START_TIMEOUT
    ) as server:
        yield server


@pytest.fixture
def site(server: GunicornServer, folder: str) -> Iterator[Site]:
    """The workers, with a new hub."""
    hubs = Succession(folder, heartbeat=HEARTBEAT)
    site = Site(server.url, hubs)
    site.wait_until_known()
    yield site
    hubs.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser(f"--host-resolver-rules=MAP {LAN} 127.0.0.1") as browser:
        yield browser


@pytest.fixture
def tabs(site: Site, browser: Browser) -> Iterator[Tabs]:
    """One profile; when its tabs are closed the hub holds nothing for them."""
    tabs = Tabs(browser, site.url)
    yield tabs
    tabs.close()
    site.wait_for_streams(0)


def wait_until_seen(tabs: Iterable[Tab], texts: list[str]) -> None:
    """Wait for the last of these texts in each tab; they must be all that came, once."""
    for tab in tabs:
        tab.wait(f"seen.includes({json.dumps(texts[-1])})")
        assert tab.run("seen") == texts
        assert tab.run("errors") == []


def test_e6_twenty_tabs_hold_one_stream(site: Site, tabs: Tabs) -> None:
    """Each has each event once, also one that joins while there are events."""
    twenty = [tabs.open("followFromHere('/streams/shared')") for _ in range(20)]
    site.publish("shared", "1", "2")
    wait_until_seen(twenty, ["1", "2"])
    assert (site.streams, site.opened) == (1, 1)
    late = tabs.open("followFromHere('/streams/shared')")
    site.publish("shared", "3")
    wait_until_seen(twenty, ["1", "2", "3"])
    wait_until_seen([late], ["3"])
    site.wait_for_streams(1)


def test_e6_page_that_is_older_than_the_stream_misses_nothing(site: Site, tabs: Tabs) -> None:
    """What was published between its making and its joining it gets by a request of its own."""
    first = tabs.open("followFromHere('/streams/joined')")
    page = tabs.open()
    page.wait("window.follow")
    site.publish("joined", "1", "2")
    wait_until_seen([first], ["1", "2"])
    page.run("followFromHere('/streams/joined')")
    wait_until_seen([page], ["1", "2"])
    site.publish("joined", "3")
    wait_until_seen([first, page], ["1", "2", "3"])
    site.wait_for_streams(1)


@pytest.mark.parametrize("end", ["close", "crash", "freeze"])
def test_e6_leader_that_goes_is_replaced_without_loss(site: Site, tabs: Tabs, end: str) -> None:
    """One after the other leads, each event is told once, and no more than one stream is held."""
    six = [tabs.open("followFromHere('/streams/led')") for _ in range(6)]
    texts: list[str] = []
    for number in range(5):
        texts.append(f"{number} before")
        site.publish("led", texts[-1])
        wait_until_seen(six, texts)
        opened = site.opened
        getattr(six.pop(0), end)()
        texts.append(f"{number} meanwhile")
        site.publish("led", texts[-1])
        wait_for(site.hubs.path, lambda figures, n=opened: figures.opened > n)
        wait_until_seen(six, texts)
        site.wait_for_streams(1)


def test_e6_leaders_that_go_amid_many_events(site: Site, tabs: Tabs) -> None:
    """Whenever it happens: nothing is lost, nothing comes twice, and the order stays."""
    eight = [tabs.open("followFromHere('/streams/busy')") for _ in range(8)]
    wait_for(site.hubs.path, lambda figures: figures.subscribers == 1)
    texts = [str(number) for number in range(300)]
    ends = iter(["close", "crash", "freeze", "close", "crash", "freeze"])
    for start in range(0, 300, 10):
        site.publish("busy", *texts[start : start + 10])
        if start % 50 == 40:
            getattr(eight.pop(0), next(ends))()
    wait_until_seen(eight, texts)


def test_e6_frozen_tab_catches_up(site: Site, tabs: Tabs) -> None:
    """Whether it led or followed, it hears what it missed, once."""
    three = [tabs.open("followFromHere('/streams/frozen')") for _ in range(3)]
    site.publish("frozen", "1")
    wait_until_seen(three, ["1"])
    for tab in three[:2]:
        tab.freeze()
    site.publish("frozen", "2", "3")
    wait_until_seen(three[2:], ["1", "2", "3"])
    for tab in three[:2]:
        tab.thaw()
    wait_until_seen(three, ["1", "2", "3"])
    site.publish("frozen", "4")
    wait_until_seen(three, ["1", "2", "3", "4"])
    site.wait_for_streams(1)


def test_e6_page_that_is_kept_for_going_back(site: Site, tabs: Tabs) -> None:
    """It holds no stream; it comes back as it was, and hears what it missed."""
    page = tabs.open("followFromHere('/streams/back')")
    site.publish("back", "1")
    wait_until_seen([page], ["1"])
    page.run("window.kept = 'kept'")
    page.go("/empty")
    site.wait_for_streams(0)
    site.publish("back", "2")
    page.run("history.back()")
    page.wait("window.kept")
    wait_until_seen([page], ["1", "2"])
    site.wait_for_streams(1)


def test_e6_tab_that_was_offline_goes_on(site: Site, tabs: Tabs) -> None:
    """When its network is back it connects at once, and misses nothing."""
    page = tabs.open("followFromHere('/streams/offline')")
    site.publish("offline", "1")
    wait_until_seen([page], ["1"])
    opened = site.opened
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    page.call("Network.enable")
    page.call("Network.emulateNetworkConditions", offline=True, **conditions)
    site.publish("offline", "2")
    page.call("Network.emulateNetworkConditions", offline=False, **conditions)
    wait_for(site.hubs.path, lambda figures: figures.opened > opened)
    site.publish("offline", "3")
    wait_until_seen([page], ["1", "2", "3"])


def test_e4_e6_each_newcomer_has_the_snapshot(site: Site, tabs: Tabs) -> None:
    """Once, before live events; one without an id comes too."""
    three = []
    for _ in range(3):
        three.append(tabs.open("follow('/snapshots/state')"))
        three[-1].wait("seen.length")
        site.wait_for_streams(1)
    site.publish("state", "1")
    site.publish("state", "live only", query="?keep=no")
    site.publish("state", "2")
    wait_until_seen(three, ["snapshot: the state", "1", "live only", "2"])
    assert site.streams == 1


def test_e3_e6_newcomer_has_what_is_replayed(site: Site, tabs: Tabs) -> None:
    """Also one that joins another tab's stream."""
    site.publish("replayed", "1", "2")
    first = tabs.open("follow('/replays/replayed')")
    wait_until_seen([first], ["snapshot: the state", "1", "2"])
    second = tabs.open("follow('/replays/replayed')")
    wait_until_seen([second], ["snapshot: the state", "1", "2"])
    site.wait_for_streams(1)
    site.publish("replayed", "3")
    wait_until_seen([first, second], ["snapshot: the state", "1", "2", "3"])


def test_e6_streams_that_end_every_moment(site: Site, tabs: Tabs) -> None:
    """Each event comes once, to each tab."""
    two = [tabs.open("followFromHere('/streams/aging?max_age=0.3')") for _ in range(2)]
    texts = [str(number) for number in range(10)]
    for number, text in enumerate(texts):
        opened = site.opened
        site.publish("aging", text)
        wait_for(site.hubs.path, lambda figures, n=opened: figures.opened > n or not n)
        wait_until_seen(two, texts[: number + 1])


def test_e6_silent_stream_is_left(site: Site, tabs: Tabs) -> None:
    """Without a heartbeat for so long it is read no more, though it never ended."""
    two = [tabs.open("followFromHere('/streams/silent')") for _ in range(2)]
    site.publish("silent", "1")
    wait_until_seen(two, ["1"])
    site.hubs.current.send_signal(signal.SIGSTOP)
    for tab in two:
        tab.wait("states.includes('waiting 0')")
    site.hubs.current.send_signal(signal.SIGCONT)
    for tab in two:
        tab.wait("states.at(-1) === 'open 200'")
    site.publish("silent", "2")
    wait_until_seen(two, ["1", "2"])
    site.wait_for_streams(1)


def test_e3_e4_e6_gap_and_a_new_snapshot_reach_every_tab(site: Site, tabs: Tabs) -> None:
    """Their new place comes after the snapshot, and a tab that joins then asks for no older one."""
    two = [tabs.open("follow('/snapshots/begun')") for _ in range(2)]
    site.publish("begun", "1")
    wait_until_seen(two, ["snapshot: the state", "1"])
    site.hubs.kill()
    site.hubs.start_anew()
    for tab in two:
        tab.wait("seen.includes('gap: epoch') && seen.at(-1) === 'snapshot: the state'")
    late = tabs.open("follow('/snapshots/begun')")
    late.wait("seen.length > 0")
    site.wait_for_streams(1)
    site.publish("begun", "2")
    for tab in (*two, late):
        tab.wait("seen.includes('2')")
        assert tab.run("errors") == []
    # Seen now and then on a busy machine: a tab is told of the new beginning twice. The second
    # snapshot replaces the first; events never come twice.
    anew = ["gap: epoch", "snapshot: the state"]
    for tab in two:
        seen = tab.run("seen")
        while seen[2:6] == anew * 2:
            del seen[2:4]
        assert seen == ["snapshot: the state", "1", *anew, "2"]
    assert late.run("seen") == ["snapshot: the state", "2"]
    site.wait_for_streams(1)


def test_e3_e6_gap_reaches_every_tab(site: Site, tabs: Tabs) -> None:
    """The hub was killed, and a new one knows of nothing."""
    two = [tabs.open("followFromHere('/streams/killed')") for _ in range(2)]
    site.publish("killed", "1")
    wait_until_seen(two, ["1"])
    site.hubs.kill()
    site.hubs.start_anew()
    wait_until_seen(two, ["1", "gap: epoch"])
    site.publish("killed", "2")
    wait_until_seen(two, ["1", "gap: epoch", "2"])
    late = tabs.open("followFromHere('/streams/killed')")
    site.publish("killed", "3")
    wait_until_seen([late], ["3"])


def test_e7_c12_end_reaches_every_tab(site: Site, tabs: Tabs) -> None:
    """The last event, one reconnection that is answered 204, and then nothing more."""
    two = [tabs.open("followFromHere('/streams/job')") for _ in range(2)]
    site.publish("job", "half")
    wait_until_seen(two, ["half"])
    site.publish("job", "done", query="?end")
    wait_until_seen(two, ["half", "done"])
    for tab in two:
        tab.wait("states.at(-1) === 'ended 204'")
    assert (site.streams, site.opened) == (0, 1)


def test_e6_c10_log_in_brings_all_tabs_back(site: Site, tabs: Tabs) -> None:
    """The pages hear of the 401; after a log-in they go on, and have missed nothing."""
    two = [tabs.open("followFromHere('/members/news')") for _ in range(2)]
    for tab in two:
        tab.wait("states.at(-1) === 'refused 401'")
    site.publish("news", "1")
    two[1].run("fetch('/log-in', { method: 'POST' }).then(() => subscription.reconnect())")
    wait_until_seen(two, ["1"])
    # Over, seen by the next connection.
    two[0].run("fetch('/log-out', { method: 'POST' }).then(() => subscription.reconnect())")
    for tab in two:
        tab.wait("states.at(-1) === 'refused 401'")
    site.publish("news", "2")
    # In another tab: the page that it leads to joins, and so wakes the others.
    other = tabs.open("fetch('/log-in', { method: 'POST' })")
    other.run("followFromHere('/members/news')")
    wait_until_seen(two, ["1", "2"])
    site.publish("news", "3")
    wait_until_seen(two, ["1", "2", "3"])
    wait_until_seen([other], ["3"])
    site.wait_for_streams(1)


def test_e6_c10_hub_at_its_limit(server: GunicornServer, folder: str, browser: Browser) -> None:
    """It is polled, and comes back to a stream of its own once there is room; nothing is lost."""
    hubs = Succession(folder, heartbeat=HEARTBEAT, max_streams=1)
    site = Site(server.url, hubs)
    site.wait_until_known()
    tabs = Tabs(browser, site.url)
    with closing(hubs), closing(tabs):
        with EventSource(f"{site.url}/streams/other"):
            page = tabs.open("followFromHere('/streams/limited')")
            wait_for(hubs.path, lambda figures: figures.refused_streams > 1)
            site.publish("limited", "1")
            wait_until_seen([page], ["1"])
        wait_for(hubs.path, lambda figures: figures.opened > 1)
        site.publish("limited", "2")
        wait_until_seen([page], ["1", "2"])


def test_e6_c10_front_without_an_application(site: Site, folder: str, browser: Browser) -> None:
    """While nginx answers 502 it tries again, and then has what it missed."""
    env = {"SIDEARM_SOCKET": f"{folder}/hub.sock", "TABS_HEARTBEAT": str(HEARTBEAT)}
    with GunicornServer("tabs:app", cwd=APPS, env=env, start_timeout=START_TIMEOUT) as behind:
        words = ("--port", str(behind.port))
        with Nginx("tabs:app", *words, env={**env, "PYTHONPATH": str(APPS)}) as nginx:
            tabs = Tabs(browser, nginx.url)
            with closing(tabs):
                page = tabs.open("followFromHere('/streams/fronted?max_age=0.5')")
                site.publish("fronted", "1")
                wait_until_seen([page], ["1"])
                behind.terminate()
                page.wait("states.includes('waiting 502')")
                site.publish("fronted", "2")
                behind.restart()
                wait_until_seen([page], ["1", "2"])


def test_e6_without_locks_each_tab_has_its_own_stream(site: Site, browser: Browser) -> None:
    """Plain HTTP on a network has neither Web Locks nor a way to share."""
    tabs = Tabs(browser, site.url.replace("127.0.0.1", LAN))
    with closing(tabs):
        two = [tabs.open("followFromHere('/streams/plain')") for _ in range(2)]
        assert two[0].run("[isSecureContext, 'locks' in navigator]") == [False, False]
        site.wait_for_streams(2)
        site.publish("plain", "1")
        wait_until_seen(two, ["1"])
    site.wait_for_streams(0)


def test_e1_c8_every_text_arrives_as_the_standard_has_it(site: Site, tabs: Tabs) -> None:
    """As at a browser's own EventSource."""
    page = tabs.open("followFromHere('/streams/texts')")
    site.publish("texts", "\n\n\n", "one\revent: steal", "", " leading blank", "a\r\n\rb", "last")
    wait_until_seen([page], ["\n\n\n", "one\nevent: steal", "", " leading blank", "a\n\nb", "last"])


@pytest.mark.parametrize("after", ["7200", "Fri, 31 Dec 9999 23:59:59 GMT"], ids=["s", "date"])
def test_e6_retry_after_is_the_shortest_wait(site: Site, tabs: Tabs, after: str) -> None:
    """In seconds or as a date; a day is the longest that anybody waits."""
    page = tabs.open(f"follow('/busy?after={after}')")
    page.wait("states.at(-1) === 'waiting 503'")
    wait = page.run("waits.at(-1)") / 1000
    assert 7200 <= wait <= 86_400
    assert (wait == 86_400) == ("9999" in after)
    assert site.opened == 0


@pytest.mark.parametrize(
    ("path", "state"),
    [
        ("/answers/204", "ended 204"),
        ("/answers/403", "refused 403"),
        ("/answers/404", "refused 404"),
        ("/answers/429", "waiting 429"),
        ("/answers/500", "waiting 500"),
        ("/empty", "waiting 0"),
    ],
)
def test_e6_status_reaches_the_page(site: Site, tabs: Tabs, path: str, state: str) -> None:
    """What may pass is tried again, what is an answer is not."""
    page = tabs.open(f"follow('{path}')")
    page.wait(f"states.at(-1) === '{state}'")
    assert page.run("errors") == []


def test_e6_closed_subscription_holds_nothing(site: Site, tabs: Tabs) -> None:
    """Another tab leads in its place; a handler that raises ends nothing."""
    two = [tabs.open("followFromHere('/streams/closed')") for _ in range(2)]
    site.publish("closed", "1")
    wait_until_seen(two, ["1"])
    two[0].run("subscription.close()")
    two[1].run("void (seen.push = (text) => { Array.prototype.push.call(seen, text); throw text })")
    site.publish("closed", "2")
    site.publish("closed", "3")
    two[1].wait("seen.length === 3 && errors.length === 2")
    assert two[0].run("seen") == ["1"]
    site.wait_for_streams(1)

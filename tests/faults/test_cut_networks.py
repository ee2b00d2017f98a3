"""H6 on several machines: each is cut off from the broker in its turn, and comes back.

Three machines, each with its web workers and its hub. Their applications publish numbers all the
time, and browsers at all of them listen. Whichever machine is cut off, and however: no browser
loses its connection, no request fails, the others go on hearing everything, and some seconds after
its return each browser has each number once and in order. Who is logged out is so everywhere.
"""

from __future__ import annotations

import os
import random
import sys
import threading
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from browsers import PATIENCE, Browser, Browsers
from needed import or_skip
from networks import Machine, Network, network

from sidearm.testing import PostgresServer, RedisServer, UpServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

APPS = Path(__file__).parent.parent / "apps"
BROWSERS = 10  # on each machine
SEED = int(os.environ.get("CUT_SEED", str(random.randrange(1 << 30))))
RETURN = 5.0  # seconds after a machine's return in which every browser is to have everything
#: Longer than whoever waits for the broker does.
LONG, SHORT = (10.0, 12.0), (0.5, 6.0)  # seconds


class Writer:
    """Publishes 0, 1, 2, ... by requests to one machine.

    Attributes:
        count: How many requests were answered.
        failures: Those that were not.
        longest: The longest that one took (seconds).
    """

    def __init__(self, url: str, name: str) -> None:
        self.name = name
        self.count = 0
        self.failures: list[str] = []
        self.longest = 0.0
        self._url = f"{url}/publish/{name}-"
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stopping.wait(0.02):
            began = time.monotonic()
            try:
                _post(f"{self._url}{self.count}")
            except OSError as error:
                self.failures.append(f"{self.name}-{self.count}: {error!r}")
            self.longest = max(self.longest, time.monotonic() - began)
            self.count += 1

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


class Place(NamedTuple):
    """What there is on one machine.

    Attributes:
        machine: It.
        site: Its processes.
        writer: Who publishes on it.
        browsers: Who listens on it.
    """

    machine: Machine
    site: UpServer
    writer: Writer
    browsers: list[Browser]


class Country:
    """Three machines with all that is on them."""

    def __init__(self, url: str, port: int, machines: Network) -> None:
        self.browsers = Browsers()
        self.places: list[Place] = []
        self._heard: dict[Browser, tuple[int, Counter[str]]] = {}
        self._stack = ExitStack()
        with self._stack:
            for name, machine in zip("xyz", machines.machines, strict=True):
                host, its_port = machine.way_to(port)
                env = {
                    "FLASK_SIDEARM_BROKER": url.format(host=host, port=its_port),
                    "PYTHONPATH": str(APPS),
                }
                site = UpServer(
                    "machines:app",
                    cwd=APPS,
                    env=env,
                    host=machine.host,
                    prefix=machine.prefix,
                    start_timeout=PATIENCE,
                )
                self._stack.enter_context(site)
                opened = self.browsers.open(site.url, f"/stream/{name}", BROWSERS)
                self.places.append(Place(machine, site, Writer(site.url, name), opened))
            self._stack.callback(self.browsers.close)
            self.browsers.run(lambda: all(each.is_open for each in self.browsers.all))
            for place in self.places:
                self._stack.enter_context(place.writer)
            self._stack = self._stack.pop_all()

    def wait(self, seconds: float) -> None:
        """Let time pass, while everybody listens."""
        end = time.monotonic() + seconds
        self.browsers.run(lambda: time.monotonic() >= end)

    def open_another(self, place: Place) -> None:
        """Let another browser come, which goes on where the first one is."""
        path, first = f"/stream/{place.writer.name}", place.browsers[0]
        [opened] = self.browsers.open(place.site.url, path, 1, like=first)
        self.browsers.run(lambda: opened.is_open)
        place.browsers.append(opened)

    def wait_for_all(self, browsers: list[Browser], writers: list[Writer]) -> float:
        """Wait until browsers have what writers have published; how long it took (seconds)."""
        began = time.monotonic()
        wanted = Counter({writer.name: writer.count for writer in writers})
        late = browsers

        def have_all() -> bool:
            nonlocal late
            late = [each for each in late if not wanted <= self._heard_by(each)]
            return not late

        self.browsers.run(have_all)
        return time.monotonic() - began

    def _heard_by(self, browser: Browser) -> Counter[str]:
        """How many numbers of each writer a browser has heard."""
        seen, counts = self._heard.setdefault(browser, (0, Counter()))
        counts.update(event.data[:1] for event in browser.events[seen:])
        self._heard[browser] = len(browser.events), counts
        return counts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def check_numbers(browser: Browser, writers: list[Writer]) -> None:
    """Each number came once, and those of one process in its order."""
    assert not [event for event in browser.events if event.event == "sidearm:gap"]
    for writer in writers:
        heard = [event.data for event in browser.events if event.data.startswith(writer.name)]
        numbers: dict[str, list[int]] = {}
        for text in heard:
            number, _, process = text.removeprefix(f"{writer.name}-").partition(" ")
            numbers.setdefault(process, []).append(int(number))
        assert all(each == sorted(each) for each in numbers.values())
        both = sorted(number for each in numbers.values() for number in each)
        assert both == list(range(writer.count))


@pytest.fixture(params=["redis", "postgresql"])
def country(request: pytest.FixtureRequest) -> Iterator[Country]:
    machines = network(3)
    host = machines.server_host
    if request.param == "redis":
        bind = [] if host == "127.0.0.1" else ["--bind", "127.0.0.1", host]
        server = or_skip(lambda: RedisServer(args=[*bind, "--protected-mode", "no"]))
        url = "redis://{host}:{port}/0"
    else:
        server = or_skip(lambda: PostgresServer(listen=[host], trusted=["198.18.0.0/15"]))
        url = "postgresql://postgres@{host}:{port}/postgres"
    with machines, server, Country(url, server.port, machines) as country:
        yield country


def test_h6_machines_that_are_cut_off_have_everything_when_they_are_back(
    country: Country, request: pytest.FixtureRequest
) -> None:
    """Each machine in turn: its network is gone without a word, or its connections are reset."""
    chance = random.Random(SEED)
    writers = [place.writer for place in country.places]
    country.browsers.run(lambda: all(writer.count for writer in writers))
    country.wait_for_all(country.browsers.all, writers)
    cuts = [(place, is_silent) for place in country.places for is_silent in (True, False)]
    if "postgresql" in request.node.name:
        cuts = [cut for cut in cuts if cut[0] is country.places[-1]]
    chance.shuffle(cuts)
    for number, (place, is_silent) in enumerate(cuts):
        others = [each for each in country.places if each is not place]
        country.wait(chance.uniform(0, 0.5))
        cut = place.machine.vanish if is_silent else place.machine.reset
        began = time.monotonic()
        cut()
        length = chance.uniform(*(LONG if number == 0 else SHORT))
        country.wait(length / 2)
        # What is there goes on to be served.
        country.open_another(place)
        for each in others:
            country.wait_for_all(each.browsers, [other.writer for other in others])
        country.wait(max(0.0, began + length - time.monotonic()))
        place.machine.come_back()
        took = country.wait_for_all(country.browsers.all, writers)
        sys.stderr.write(
            f"seed {SEED}: machine {place.writer.name} cut off"
            f" {'silently' if is_silent else 'by resets'} for {length:.1f} s; all had everything"
            f" {took:.1f} s after its return\n"
        )
        assert took < RETURN
    for place in country.places:
        place.writer.__exit__()
    country.wait_for_all(country.browsers.all, writers)
    for place in country.places:
        assert place.writer.failures == []
        for browser in place.browsers:
            check_numbers(browser, writers)
    assert {browser.connections for browser in country.browsers.all} == {1}
    sys.stderr.write(
        f"seed {SEED}: {sum(writer.count for writer in writers)} requests published; the longest"
        f" took {max(writer.longest for writer in writers) * 1000:.0f} ms\n"
    )


def test_e7_who_is_logged_out_is_so_on_every_machine(country: Country) -> None:
    """Also on one that was cut off when it was said, and that opened a stream meanwhile."""
    here, away, there = country.places

    def open_all(user: str, *places: Place) -> list[Browser]:
        opened: list[Browser] = []
        for place in places:
            opened += country.browsers.open(place.site.url, f"/stream/{user}", 3)
        country.browsers.run(lambda: all(browser.is_open for browser in opened))
        return opened

    ann = open_all("ann", here, away, there)
    _post(f"{here.site.url}/log-out/ann")
    country.browsers.run(lambda: all(browser.is_over for browser in ann))
    bob, cut_off = open_all("bob", here, there), open_all("bob", away)
    away.machine.vanish()
    _post(f"{here.site.url}/log-out/bob")
    country.browsers.run(lambda: all(browser.is_over for browser in bob))
    cut_off += open_all("bob", away)
    assert all(browser.is_open for browser in cut_off)
    away.machine.come_back()
    began = time.monotonic()
    country.browsers.run(lambda: not any(browser.is_open for browser in cut_off))
    assert time.monotonic() - began < RETURN
    country.browsers.run(lambda: all(browser.is_over for browser in cut_off))
    others = [browser for place in country.places for browser in place.browsers]
    assert {each.connections for each in others} == {1}


def _post(url: str) -> None:
    with urllib.request.urlopen(url, b"", PATIENCE) as response:
        response.read()

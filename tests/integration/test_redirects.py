"""Contract D1 with a real browser: whatever is asked for, it stays on the origin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest
from flask import Flask

from sidearm import Sidearm, is_safe_url
from sidearm.testing import GunicornServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
ORIGIN = "http://app.example:8000"
START_TIMEOUT = 180.0  # seconds
WAIT = 60.0  # seconds for a page that is there at once, on a machine that is idle
SAMPLE = 100  # cases of each kind
FOLDER = Path(__file__).parents[1]
APPS = FOLDER / "apps"
CASES = [
    json.loads(line) for line in (FOLDER / "data/redirect-cases.jsonl").read_text().splitlines()
]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A window of a browser for which every host is the test's server."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright here: pip install playwright"
    )
    with (
        GunicornServer(
            "redirects:app", worker_class="gthread", threads=4, cwd=FOLDER / "apps"
        ) as server,
        playwright.sync_playwright() as driver,
    ):
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=[*ARGUMENTS, f"--host-resolver-rules=MAP * 127.0.0.1:{server.port}"],
            timeout=START_TIMEOUT * 1000,
        )
        page = browser.new_page()
        page.set_default_timeout(WAIT * 1000)
        yield page
        browser.close()


def accepted() -> list[str]:
    """Every target of the cases that is safe by our verdict."""
    app = Flask("verdicts")
    Sidearm(app)
    with app.test_request_context("/account/login?next=x", base_url=ORIGIN):
        return [case["target"] for case in CASES if is_safe_url(case["target"])]


def spread(targets: list[str], count: int) -> list[str]:
    """A sample from all over a list, the same in every run."""
    return targets[:: max(1, len(targets) // count)][:count]


def addresses(
    page: Page, targets: list[str], **query: str
) -> list[tuple[str, str | None, str | None]]:
    """Log in with each target as ``next``, in a frame of its own.

    Returns:
        The target, what it means to the standard, and where the browser has gone: ``None`` for
        another origin, and for its own page that says that it could go nowhere. With the first of
        those it ends.
    """
    page.goto(f"{ORIGIN}/")
    logins = [f"{ORIGIN}/account/login?{urlencode({'next': each, **query})}" for each in targets]
    found = page.evaluate(FOLLOW, [targets, logins])
    return [(target, *each) for target, each in zip(targets, found, strict=False)]


#: Ten frames at a time; each reads its own address, which a page of another origin refuses.
FOLLOW = """async ([targets, logins]) => {
  const found = []
  const follow = async (at) => {
    const frame = document.createElement("iframe")
    const loaded = new Promise(done => frame.onload = done)
    frame.referrerPolicy = "no-referrer"  // or back would be to the page around it
    frame.src = logins[at]
    document.body.append(frame)
    const late = new Promise(done => setTimeout(done, 30000))
    await Promise.race([loaded, late])  // nothing is loaded where nothing could be gone to
    let address = null
    try {
      if (frame.contentDocument.body.innerText.includes("arrived"))
        address = frame.contentWindow.location.href
    } catch {}
    let meant = null
    try { meant = new URL(targets[at], logins[at]).href } catch {}
    found[at] = [meant, address]
    frame.remove()
  }
  for (let at = 0; at < logins.length && !found.some(each => each[1] === null); at += 10)
    await Promise.all(logins.slice(at, at + 10).map((_, more) => follow(at + more)))
  return found
}"""


def test_d1_a_browser_with_a_hostile_next_ends_up_on_the_site(page: Page) -> None:
    """The slide's own case, as a person meets it: the fallback is what the window shows."""
    for target in ("////evil.example", "/\t/evil.example", "http:evil.example", "javascript:x()"):
        page.goto(f"{ORIGIN}/account/login?{urlencode({'next': target})}")
        assert page.url == f"{ORIGIN}/fallback"


def test_d1_no_hostile_next_is_followed(page: Page) -> None:
    """With each of the cases the browser arrives at the fallback."""
    hostile = spread([case["target"] for case in CASES if not case["safe"]], SAMPLE)
    found = addresses(page, hostile)
    for target, _, address in found:
        assert address == f"{ORIGIN}/fallback", target
    assert len(found) == SAMPLE


def test_d1_an_accepted_next_is_followed_on_the_site(page: Page) -> None:
    """By the ``Location`` that Werkzeug makes of it."""
    for target, meant, address in addresses(page, spread(accepted(), SAMPLE)):
        assert address is not None, target
        assert address.startswith(f"{ORIGIN}/"), target
        if not target.startswith(("?", "#")):  # to a page that logs in itself
            assert address != f"{ORIGIN}/fallback" != meant, target


def test_d1_an_accepted_next_is_followed_on_the_site_as_it_is(page: Page) -> None:
    """By a ``Location`` of the target's own bytes, which leads where the standard says."""
    for target, meant, address in addresses(page, spread(accepted(), SAMPLE // 2), by="raw"):
        if not target.startswith(("?", "#")):
            assert address == meant, target
        assert address is not None, target
        assert address.startswith(f"{ORIGIN}/"), target


def test_d1_a_page_that_goes_to_an_accepted_target_stays_too(page: Page) -> None:
    """``new URL()``, which is what htmx's and Turbo's headers meet, for every accepted target."""
    page.goto(f"{ORIGIN}/account/login")
    targets = accepted()
    assert len(targets) > 300
    origins = page.evaluate(
        "targets => targets.map(target => new URL(target, location).origin)", targets
    )
    assert set(origins) == {ORIGIN}

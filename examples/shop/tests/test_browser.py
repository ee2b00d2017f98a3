"""Two windows of a real browser, before the real thing: two blocking workers and the hub."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidearm.testing import UpServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]
WAIT = 30.0  # seconds for whatever has to appear
PRODUCT = "/products/kestrel-flask-0-5-l"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
    pytest.mark.timeout(300),
]


@pytest.fixture
def server(seeded_database: Path, tmp_path: Path) -> Iterator[UpServer]:
    """``flask --app shop sidearm up`` on a copy of the seeded database."""
    shutil.copy(seeded_database, tmp_path / "shop.db")
    folder = Path(__file__).parents[1]
    environment = {"SHOP_INSTANCE_PATH": str(tmp_path)}
    with UpServer("shop", cwd=folder, env=environment, start_timeout=60) as server:
        yield server


@pytest.fixture
def browser() -> Iterator[Browser]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright here: pip install playwright"
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def open_window(browser: Browser, server: UpServer) -> Iterator[Callable[[str], Page]]:
    """Open a page in a window of its own; at the end none may have complained.

    A connection that was refused while the hub or a worker was away is no complaint; any answer
    from 400 up is, and so is everything else on the console.
    """
    complaints: list[str] = []
    contexts: list[BrowserContext] = []

    def open_page(path: str) -> Page:
        contexts.append(browser.new_context(base_url=server.url))
        page = contexts[-1].new_page()
        page.set_default_timeout(WAIT * 1000)
        page.on("console", lambda message: complain(message.type, message.text))
        page.on("pageerror", lambda error: complain("error", str(error)))
        page.on(
            "response",
            lambda answer: (
                complain("error", f"{answer.status} {answer.url}")
                if answer.status >= 400 and not is_expected(answer.url, answer.status)
                else None
            ),
        )
        page.goto(path)
        page.locator("#live-state[data-state=live]").wait_for()
        return page

    def complain(kind: str, text: str) -> None:
        if kind in {"error", "warning"} and "500 (INTERNAL SERVER ERROR)" not in text:
            complaints.append(text)

    def is_expected(url: str, status: int) -> bool:
        return status == 500 and url.endswith(PRODUCT)  # the purchase that fails on demand

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def stock_on(page: Page) -> int:
    """The stock that a product's page shows."""
    text = page.locator(".product-facts .stock").inner_text()
    return int("".join(filter(str.isdigit, text)) or 0)


def buy(page: Page, quantity: int, *, fail: bool = False) -> None:
    """Fill the form as a customer does, and press the button."""
    page.get_by_label("E-mail for the confirmation").fill("ada@example.org")
    page.get_by_label("How many").fill(str(quantity))
    page.get_by_label("Demo: fail half-way.").set_checked(fail)
    page.get_by_role("button", name="Buy it").click()
    page.locator(".failed" if fail else ".receipt").wait_for()


def hub_pid(server: UpServer) -> int:
    """The process that listens on the hub's socket; 0 if none does (unix(7), SO_PEERCRED)."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(server.socket_path)
        except OSError:
            return 0
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    pid: int = struct.unpack("3i", credentials)[0]
    return pid


def test_a_purchase_in_one_window_shows_in_the_other(open_window: Callable[[str], Page]) -> None:
    """Stock, list and feed of an open window follow what somebody else buys."""
    watcher, shelf, buyer = open_window(PRODUCT), open_window("/"), open_window(PRODUCT)
    before = stock_on(watcher)
    buy(buyer, 3)

    watcher.get_by_text(f"{before - 3} in stock").wait_for()
    watcher.locator("#sold li", has_text="Kestrel flask 0.5 l").wait_for()
    shelf.locator(".card", has_text="Kestrel flask 0.5 l").get_by_text(
        f"{before - 3} in stock"
    ).wait_for()

    buy(open_window(PRODUCT), before - 3)
    watcher.locator(".product-facts").get_by_text("Sold out").wait_for()
    assert watcher.get_by_role("button", name="Buy it").is_disabled()


def test_a_purchase_that_fails_shows_in_neither(open_window: Callable[[str], Page]) -> None:
    """What was rolled back was never seen: the first news in both windows is the next purchase."""
    watcher, buyer = open_window(PRODUCT), open_window(PRODUCT)
    before = stock_on(watcher)
    watcher.evaluate(
        """() => {
            window.seen = [];
            const look = () => window.seen.push(document.querySelector(".product-facts").innerText);
            const watch = { childList: true, subtree: true, characterData: true };
            new MutationObserver(look).observe(document.querySelector(".product-facts"), watch);
        }"""
    )
    buy(buyer, 2, fail=True)
    assert f"{before} in stock" in buyer.locator(".undone").inner_text()

    buyer.goto(PRODUCT)
    assert stock_on(buyer) == before
    buy(buyer, 1)
    watcher.get_by_text(f"{before - 1} in stock").wait_for()
    watcher.locator("#sold li").first.wait_for()
    assert watcher.locator("#sold li[data-sale]").count() == 1
    assert all(f"{before - 1} in stock" in text for text in watcher.evaluate("window.seen"))


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="only Linux names the hub's process")
def test_both_go_on_after_the_hub_was_killed(
    open_window: Callable[[str], Page], server: UpServer
) -> None:
    """The hub is killed and comes back: open windows reconnect, refresh, and follow again."""
    watcher, buyer = open_window(PRODUCT), open_window(PRODUCT)
    before = stock_on(watcher)
    buy(buyer, 1)
    watcher.get_by_text(f"{before - 1} in stock").wait_for()

    killed = hub_pid(server)
    os.kill(killed, signal.SIGKILL)
    server.wait_until(lambda: hub_pid(server) not in {0, killed}, WAIT, "a new hub")

    buyer.goto(PRODUCT)
    assert stock_on(buyer) == before - 1
    buy(buyer, 2)
    for page in (watcher, buyer):
        page.get_by_text(f"{before - 3} in stock").first.wait_for()
        page.locator("#sold li").nth(1).wait_for()
        page.locator("#live-state[data-state=live]").wait_for()


def test_a_page_from_the_browsers_history_catches_up(open_window: Callable[[str], Page]) -> None:
    """Going back shows the page as it was, and then what has happened since."""
    page, buyer = open_window(PRODUCT), open_window(PRODUCT)
    before = stock_on(page)
    page.get_by_role("link", name="Mailbox", exact=True).first.click()
    page.get_by_role("heading", name="Mailbox").wait_for()
    buy(buyer, 4)
    page.go_back()
    page.get_by_text(f"{before - 4} in stock").wait_for()
    page.locator("#live-state[data-state=live]").wait_for()


def test_the_shop_by_keyboard(open_window: Callable[[str], Page]) -> None:
    """The first key reaches the way past the header; every field has a name, every focus a ring."""
    page = open_window(PRODUCT)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("!!document.activeElement.closest('main')")
    ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert ring == "solid"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea")]
            .filter((field) => field.type !== "hidden" && !field.labels.length).length"""
    )
    assert unnamed == 0


@pytest.mark.parametrize("path", ["/", "/?category=fire", PRODUCT, "/mailbox"])
def test_the_shop_on_a_phone(open_window: Callable[[str], Page], path: str) -> None:
    """Nothing is wider than a small phone."""
    page = open_window(path)
    page.set_viewport_size({"width": 340, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 340

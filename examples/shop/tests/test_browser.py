"""Two windows of a real browser, before the real thing: two blocking workers and the hub."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import pytest

from sidearm.testing import UpServer

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, ConsoleMessage, Page, Response

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--renderer-process-limit=1",
]
WAIT = 60.0  # seconds for whatever has to appear; it appears at once, on a machine that is idle
START_TIMEOUT = 180.0  # seconds for workers and hub

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
    pytest.mark.timeout(600),
]

OpenWindow = Callable[..., "Page"]


@pytest.fixture(scope="module")
def server(seeded_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpServer]:
    """``flask --app shop sidearm up`` on a copy of the seeded database."""
    instance = tmp_path_factory.mktemp("instance")
    shutil.copy(seeded_database, instance / "shop.db")
    environment = dict.fromkeys(filter(lambda name: name.startswith("SHOP_"), os.environ))
    environment["SHOP_INSTANCE_PATH"] = str(instance)
    folder = Path(__file__).parents[1]
    with UpServer("shop", cwd=folder, env=environment, start_timeout=START_TIMEOUT) as server:
        yield server


@pytest.fixture(scope="module")
def browser(server: UpServer) -> Iterator[BrowserContext]:
    """One browser with one profile; its windows share cookies and cache, as a customer's do."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright here: pip install playwright"
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS, timeout=START_TIMEOUT * 1000
        )
        yield browser.new_context(base_url=server.url)
        browser.close()


@pytest.fixture
def open_window(browser: BrowserContext) -> Iterator[OpenWindow]:
    """Open a page in a new window; at the end none may have complained.

    Every answer from 400 up is a complaint, and so is every error on the console.
    """
    complaints: list[str] = []
    pages: list[Page] = []

    def open_page(path: str, *, fails: bool = False) -> Page:
        def see_answer(answer: Response) -> None:
            if answer.status >= 400 and not (fails and answer.status == 500):
                complaints.append(f"{answer.status} {answer.url}")

        def see_console(message: ConsoleMessage) -> None:
            told_above = message.text.startswith("Failed to load resource")
            if message.type in {"error", "warning"} and not told_above:
                complaints.append(message.text)

        page = browser.new_page()
        pages.append(page)
        page.set_default_timeout(WAIT * 1000)
        page.on("console", see_console)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("response", see_answer)
        page.goto(path)
        page.locator("#live-state[data-state=live]").wait_for()
        return page

    yield open_page
    for page in pages:
        page.close()
    assert complaints == []


def stock_on(page: Page) -> int:
    """The stock that a product's page shows."""
    text = page.locator(".product-facts .stock").inner_text()
    return int("".join(filter(str.isdigit, text)) or 0)


def wait_for_stock(page: Page, stock: int) -> None:
    """Wait until a product's page shows a stock, in the words of a large one."""
    page.locator(".product-facts").get_by_text(f"{stock} in stock").wait_for()


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


def test_e6_all_windows_share_one_stream(open_window: OpenWindow, server: UpServer) -> None:
    """Also when the window that holds it is closed; an order's page has another one."""
    product = "/products/whistle-pealess"
    windows = [open_window(path) for path in (product, "/", "/mailbox", product)]
    server.wait_until(lambda: server.hub_figures().subscribers == 1, WAIT, "one stream")
    windows.pop(0).close()
    buyer = open_window(product)
    before = stock_on(buyer)
    buy(buyer, 1)
    wait_for_stock(windows[-1], before - 1)
    # That of the order's page hears of its payment, too.
    server.wait_until(lambda: server.hub_figures().subscribers == 2, WAIT, "two streams")


def test_a_purchase_in_one_window_shows_in_the_other(open_window: OpenWindow) -> None:
    """Stock, list and feed of open windows follow what somebody else buys, down to the last."""
    product = "/products/kestrel-flask-0-75-l"
    watcher, shelf, buyer = open_window(product), open_window("/"), open_window(product)
    before = stock_on(watcher)
    buy(buyer, 3)
    wait_for_stock(watcher, before - 3)
    card = shelf.locator(".card", has_text="Kestrel flask 0.75 l")
    card.get_by_text(f"{before - 3} in stock").wait_for()
    for page in (watcher, shelf, buyer):
        page.locator("#sold li", has_text="Kestrel flask 0.75 l").first.wait_for()

    buyer.goto(product)
    buy(buyer, before - 3)
    watcher.locator(".product-facts").get_by_text("Sold out").wait_for()
    assert watcher.get_by_role("button", name="Buy it").is_disabled()


def test_a_purchase_that_fails_shows_in_neither(open_window: OpenWindow) -> None:
    """What was rolled back is never seen: the first news in both windows is the next purchase."""
    product = "/products/storm-lantern"
    watcher, buyer = open_window(product), open_window(product, fails=True)
    before = stock_on(watcher)
    watcher.evaluate(
        """() => {
            window.seen = [];
            for (const part of document.querySelectorAll(".product-facts, #sold")) {
                new MutationObserver(() => window.seen.push(part.textContent))
                    .observe(part, { childList: true, subtree: true, characterData: true });
            }
        }"""
    )
    buy(buyer, 2, fail=True)
    assert f"{before} in stock" in buyer.locator(".undone").inner_text()

    buyer.goto(product)
    assert stock_on(buyer) == before
    buy(buyer, 1)
    wait_for_stock(watcher, before - 1)
    sales = watcher.locator("#sold li", has_text="Storm lantern")
    sales.first.wait_for()
    assert sales.count() == 1
    assert f"{before - 2} in stock" not in "".join(watcher.evaluate("window.seen"))


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="only Linux names the hub's process")
def test_both_go_on_after_the_hub_was_killed(open_window: OpenWindow, server: UpServer) -> None:
    """The hub is killed and comes back: open windows reconnect, refresh, and follow again."""
    product = "/products/fire-bowl-large"
    watcher, buyer = open_window(product), open_window(product)
    before = stock_on(watcher)
    buy(buyer, 1)
    wait_for_stock(watcher, before - 1)

    killed = hub_pid(server)
    os.kill(killed, signal.SIGKILL)
    server.wait_until(lambda: hub_pid(server) not in {0, killed}, WAIT, "a new hub")

    buyer.goto(product)
    assert stock_on(buyer) == before - 1
    buy(buyer, 2)
    wait_for_stock(watcher, before - 3)
    for page in (watcher, buyer):
        page.locator("#sold li", has_text="Fire bowl, large").nth(1).wait_for()
        page.locator("#live-state[data-state=live]").wait_for()


def test_a_page_from_the_browsers_history_catches_up(open_window: OpenWindow) -> None:
    """Going back shows the page as it was, and then what has happened since."""
    product = "/products/whistle-pealess"
    page, buyer = open_window(product), open_window(product)
    before = stock_on(page)
    page.get_by_role("navigation", name="Shop").get_by_role("link", name="Mailbox").click()
    page.get_by_role("heading", name="Mailbox").wait_for()
    buy(buyer, 2)
    page.go_back()
    wait_for_stock(page, before - 2)
    page.locator("#live-state[data-state=live]").wait_for()


def test_the_shop_by_keyboard(open_window: OpenWindow) -> None:
    """The first key reaches the way past the header; fields have names, the focus has a ring."""
    page = open_window("/products/storm-lantern")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("!!document.activeElement.closest('main')")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("input, select, textarea")]
            .filter((field) => field.type !== "hidden" && !field.labels.length).length"""
    )
    assert unnamed == 0


def test_the_shop_on_a_phone(open_window: OpenWindow) -> None:
    """Nothing is wider than a small phone."""
    page = open_window("/")
    page.set_viewport_size({"width": 340, "height": 700})
    for path in ("/", "/?category=fire&q=fire", "/products/storm-lantern", "/mailbox"):
        page.goto(path)
        assert page.evaluate("document.documentElement.scrollWidth") <= 340, path


def test_d1_a_hostile_next_ends_on_the_shop(open_window: OpenWindow, server: UpServer) -> None:
    """Sign up by the mail's link, log out, and log in by a link that asks for another site."""
    address = "grace@example.org"
    page = open_window("/sign-up")
    page.get_by_label("E-mail").fill(address)
    page.get_by_role("button", name="Send me the link").click()
    page.get_by_role("heading", name="Look into your mail").wait_for()
    page.goto("/mailbox")
    page.locator("pre a[href*='/activate/']").first.click()
    page.get_by_label("New password").fill("correct horse battery")
    page.get_by_role("button", name="Activate my account").click()
    page.get_by_role("heading", name="My orders").wait_for()
    other = open_window("/products/storm-lantern")

    left: list[str] = []
    for target in ("//evil.example", "/\\evil.example"):
        page.get_by_role("button", name="Log out").click()
        page.get_by_text("You are logged out.").wait_for()
        page.on("request", lambda request: left.append(request.url))
        page.goto("/log-in?" + urlencode({"next": target}))
        page.get_by_label("E-mail").fill(address)
        page.get_by_label("Password", exact=True).fill("correct horse battery")
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("heading", name="My orders").wait_for()
        assert page.url == f"{server.url}/orders", target
    assert [url for url in left if not url.startswith(f"{server.url}/")] == []
    other.locator("#live-state[data-state=live]").wait_for()
    page.get_by_role("button", name="Log out").click()
    page.get_by_text("You are logged out.").wait_for()


def test_a1_every_page_loads_its_files_by_their_hashes(
    browser: BrowserContext, server: UpServer
) -> None:
    """No 404 and no word on the console; every file is immutable, and its integrity is checked."""
    page = browser.new_page()
    page.set_default_timeout(WAIT * 1000)
    complaints: list[str] = []
    files: dict[str, str] = {}

    def see(response: Response) -> None:
        path = response.url.removeprefix(server.url)
        if response.status >= 400:
            complaints.append(f"{response.status} {path}")
        if path.startswith(("/static/", "/_sidearm/")):
            files[path] = response.headers.get("cache-control", "")

    page.on("response", see)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto("/products/storm-lantern")
    buy(page, 1)
    own = ["/", "/products/storm-lantern", "/mailbox", "/sign-up", "/mailed", "/log-in"]
    for path in [page.url.removeprefix(server.url), *own, "/forgotten", "/orders", "/?q=nothing"]:
        page.goto(path, wait_until="load")
        styled = "document.styleSheets.length === 1 && document.styleSheets[0].cssRules.length > 9"
        assert page.evaluate(styled), path
        checked = page.locator("link[rel=stylesheet], script[src]").evaluate_all(
            "(all) => all.every((each) => each.integrity.startsWith('sha384-'))"
        )
        assert checked, path
    page.close()

    assert complaints == []
    names = {re.sub(r"\.[0-9a-f]{16}\.", ".", path) for path in files}
    assert names >= {f"/static/{name}" for name in ("shop.css", "live.js", "art.svg")}
    assert "/_sidearm/sidearm.js" in names
    assert names.isdisjoint(files)
    assert set(files.values()) == {"public, max-age=31536000, immutable"}

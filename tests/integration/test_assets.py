"""Contract A1 with real servers and a real browser: two workers, a prefix, a deploy."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pytest

from sidearm.testing import GunicornServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Response

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
APPS = Path(__file__).parents[1] / "apps"
START_TIMEOUT = 180.0  # seconds
WAIT = 60.0  # seconds for what is there at once, on a machine that is idle
IMMUTABLE = "public, max-age=31536000, immutable"
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c489"
    "0000000d49444154789c6360f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An application's folder: a stylesheet with an import, modules with a cycle."""
    files: dict[str, str | bytes] = {
        "css/app.css": '@import url("parts/box.css"); body { margin: 0 }',
        "css/parts/box.css": "#box { background: url(../../img/dot.png); color: rgb(1, 2, 3) }",
        "img/dot.png": PNG,
        "js/app.js": (
            'import { left } from "./left.js";\n'
            'export async function run() {\n  const late = await import("./late.js");\n'
            "  document.body.dataset.done = left() + late.word;\n}\n"
        ),
        "js/left.js": 'import { right } from "./right.js"; export const left = () => right("l");',
        "js/right.js": (
            'import * as back from "./left.js";\n'
            "export const right = (x) => x + typeof back.left;\n"
        ),
        "js/late.js": 'export const word = "late";',
        "large.bin": os.urandom(1 << 20),
    }
    for name, content in files.items():
        path = tmp_path / "static" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return tmp_path


@pytest.fixture
def server(root: Path) -> Iterator[GunicornServer]:
    """Two workers of gunicorn."""
    environment = {"ASSETS_ROOT": str(root)}
    with GunicornServer(
        "hashed:application", workers=2, cwd=APPS, env=environment, start_timeout=START_TIMEOUT
    ) as server:
        yield server


def get(url: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    answer: http.client.HTTPResponse = urlopen(
        Request(url, method=method, headers=given), None, WAIT
    )
    return answer


def urls_of_both(server: GunicornServer, filename: str) -> dict[str, str]:
    """What each worker gives as a file's URL."""
    found: dict[str, str] = {}

    def ask() -> bool:
        with get(f"{server.url}/shop/pid/{filename}") as answer:
            pid, url = answer.read().decode().split()
        found[pid] = url
        return len(found) == 2

    server.wait_until(ask, WAIT)
    return found


def test_a1_c15_a_browser_loads_everything_under_a_prefix(server: GunicornServer) -> None:
    """Stylesheet, import and picture; modules, a cycle, ``import()``; each once and immutable."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    complaints: list[str] = []
    seen: list[Response] = []

    def see(answer: Response) -> None:
        seen.append(answer)

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=ARGUMENTS, timeout=START_TIMEOUT * 1000
        )
        page = browser.new_page()
        page.set_default_timeout(WAIT * 1000)
        page.on("response", see)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{server.url}/shop/")
        page.locator("body[data-done]").wait_for()
        assert page.evaluate("document.body.dataset.done") == "lfunctionlate"
        assert page.evaluate("getComputedStyle(box).color") == "rgb(1, 2, 3)"
        page.wait_for_load_state("networkidle")
        complaints += [f"{each.status} {each.url}" for each in seen if each.status != 200]
        files = [each for each in seen if "/static/" in each.url]
        ages = {each.headers["cache-control"] for each in files}
        browser.close()

    assert complaints == []
    assert ages == {IMMUTABLE}
    names = sorted(each.url.removeprefix(f"{server.url}/shop/static/") for each in files)
    assert [re.sub(r"\.[0-9a-f]{16}\.", ".", name) for name in names] == [
        *("css/app.css", "css/parts/box.css", "img/dot.png"),
        *("js/app.js", "js/late.js", "js/left.js", "js/right.js"),
    ]
    assert not [name for name in names if not re.search(r"\.[0-9a-f]{16}\.", name)]


def test_a1_two_workers_give_and_know_the_same_urls(server: GunicornServer) -> None:
    """Whichever is asked; ranges and ``HEAD`` too, of a file that the server itself sends."""
    (url,) = set(urls_of_both(server, "large.bin").values())
    (cycle,) = set(urls_of_both(server, "js/left.js").values())
    with get(server.url + url) as answer:
        content = answer.read()
        assert answer.headers["Cache-Control"] == IMMUTABLE
    for _ in range(10):
        with get(server.url + cycle) as answer:
            assert answer.status == 200
        with get(server.url + url, Range="bytes=1000-300000") as answer:
            assert (answer.status, answer.read()) == (206, content[1000:300001])
        with get(server.url + url, method="HEAD") as answer:
            assert (answer.read(), int(answer.headers["Content-Length"])) == (b"", len(content))


def test_a1_a_deploy_with_a_reload_loses_no_page(root: Path, server: GunicornServer) -> None:
    """Build, ``HUP``, build the next: a page of before finds its files, the new one its own."""
    environment = {**os.environ, "ASSETS_ROOT": str(root), "PYTHONPATH": str(APPS)}

    def build() -> None:
        words = [sys.executable, "-m", "flask", "--app", "hashed:app", "sidearm", "assets", "build"]
        subprocess.run(words, env=environment, cwd=APPS, check=True, timeout=START_TIMEOUT)

    build()
    (before,) = set(urls_of_both(server, "css/app.css").values())
    with get(server.url + before) as answer:
        body = answer.read()

    (root / "static/img/dot.png").write_bytes(PNG + zlib.compress(b"another"))
    build()
    old = urls_of_both(server, "css/app.css").keys()
    server.send_signal(signal.SIGHUP)
    server.wait_until(lambda: not old & urls_of_both(server, "css/app.css").keys(), WAIT)

    (after,) = set(urls_of_both(server, "css/app.css").values())
    assert after != before
    for _ in range(10):
        with get(server.url + before, Accept_Encoding="identity") as answer:
            assert answer.read() == body
        with get(server.url + after) as answer:
            assert answer.status == 200

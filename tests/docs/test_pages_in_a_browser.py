"""The how-to pages about other people's scripts, in Chromium (contract E6, its last sentence)."""

from __future__ import annotations

import os
import re
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser_tabs import CHROMIUM, START_TIMEOUT, open_browser
from hub_streams import PATIENCE
from npm_packages import npm_file

from sidearm.hub.client import HubError
from sidearm.testing import UpServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

HOWTO = Path(__file__).parents[2] / "docs/howto"
BASE = "event-source.md"  # whose application the others change

_FILE = re.compile(
    r"^```\{code-block\} [\w+]+\n:caption: (\S+)\n\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
_RENAMED = re.compile(r"^\| `(.+?)` \| `(.+?)` \|$", re.MULTILINE)

#: What a person may write, and what no browser would send: bare ends of lines, and then what would
#: be a field of an event, or an option of Datastar's.
TEXTS = [
    "one <b>&amp;\n\ntwo \"'",
    "four\rselector body\rmode inner\rmergeMode inner\rdata: no\r\revent: x",
]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
    pytest.mark.timeout(600),
]


@dataclass
class Case:
    """What a page says, made to be run.

    Attributes:
        page: Its file.
        static: Files of npm packages, by the names that the page gives them.
        variant: Which of several files of one name.
        is_older: Whether the names in the page's table are to be replaced by those beside them.
    """

    page: str
    static: dict[str, str] = field(default_factory=dict)
    variant: int = 0
    is_older: bool = False

    def write(self, folder: Path) -> None:
        """Write the files that the page shows, and those that it asks for."""
        for page in dict.fromkeys([BASE, self.page]):
            text = (HOWTO / page).read_text()
            found: dict[str, list[str]] = {}
            for name, content in _FILE.findall(text):
                found.setdefault(name, []).append(content)
            for name, contents in found.items():
                content = contents[min(self.variant, len(contents) - 1)]
                for new, old in _RENAMED.findall(text) if self.is_older else ():
                    content = content.replace(new, old)
                path = folder / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(content)
        for name, source in self.static.items():
            (folder / "static").mkdir(exist_ok=True)
            shutil.copy(npm_file(source), folder / "static" / name)


CASES = {
    "event-source": Case(BASE),
    "htmx-2": Case(
        "htmx.md",
        {
            "htmx.min.js": "htmx.org/dist/htmx.min.js",
            "sse.min.js": "htmx-ext-sse/dist/sse.min.js",
        },
    ),
    "htmx-4": Case(
        "htmx.md",
        {
            "htmx.min.js": "htmx-4/dist/htmx.min.js",
            "hx-sse.min.js": "htmx-4/dist/ext/hx-sse.min.js",
        },
        variant=1,
    ),
    "turbo": Case("turbo.md", {"turbo.es2017-esm.js": "@hotwired/turbo/dist/turbo.es2017-esm.js"}),
    "datastar": Case(
        "datastar.md",
        {"datastar.js": "@starfederation/datastar/dist/datastar.js"},
        is_older=True,
    ),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture(params=list(CASES))
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[UpServer]:
    """``flask --app app sidearm up`` in a folder with what the page says."""
    CASES[request.param].write(tmp_path)
    with UpServer("app", cwd=tmp_path, start_timeout=START_TIMEOUT) as server:
        yield server


def add(page: Page, text: str) -> None:
    """Write a note, as a person does."""
    page.locator("textarea").fill(text)
    page.get_by_role("button", name="Add").click()


def wait_for_notes(page: Page, texts: list[str]) -> None:
    """Wait until the page shows so many notes; they must be these."""
    page.wait_for_function(
        "(count) => document.querySelectorAll('#notes > li').length >= count", arg=len(texts)
    )
    assert notes_on(page) == texts


def notes_on(page: Page) -> list[str]:
    notes: list[str] = page.locator("#notes > li > p").evaluate_all(
        "(all) => all.map((each) => each.textContent)"
    )
    return notes


def markup_on(page: Page) -> list[str]:
    """The notes as they are in the document, but for what the libraries mark them with."""
    markup: list[str] = page.locator("#notes > li").evaluate_all(
        "(all) => all.map((each) => (each.removeAttribute('class'), each.outerHTML))"
    )
    return [re.sub(r"\s*\n\s*", "\n", each) for each in markup]


def restart_hub(server: UpServer) -> None:
    """Kill the hub; ``up`` starts another one, which knows nothing of what was published."""

    def pid() -> int:
        try:
            return server.hub_figures().pid
        except HubError:
            return 0

    killed = pid()
    os.kill(killed, signal.SIGKILL)
    server.wait_until(lambda: pid() not in {0, killed}, PATIENCE, "a new hub")


def test_e6_a_rendered_template_lands_in_the_page(server: UpServer, browser: Browser) -> None:
    """It is the one that a page is made of; and a page that missed something makes up for it."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE * 2000)
    errors: list[str] = []
    pages = [context.new_page() for _ in range(3)]
    for page in pages:
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.url)
    watcher, writer, later = pages
    server.wait_until(lambda: server.hub_figures().subscribers == 3, PATIENCE, "three streams")
    watcher.evaluate("document.getElementById('notes').isOld = true")

    add(writer, TEXTS[0])
    wait_for_notes(watcher, TEXTS[:1])
    assert watcher.evaluate("document.querySelectorAll('#notes b').length") == 0
    later.goto(server.url)
    assert markup_on(watcher) == markup_on(later)

    restart_hub(server)
    watcher.wait_for_function("() => !document.getElementById('notes').isOld")
    answer = context.request.post(server.url, form={"text": TEXTS[1]})
    assert answer.ok
    wait_for_notes(watcher, [text.replace("\r", "\n") for text in TEXTS])
    assert watcher.locator("textarea").count() == 1
    later.goto(server.url)
    assert markup_on(watcher) == markup_on(later)
    context.close()
    assert errors == []


#: What a front does while the application is away, and streams that end every moment.
FLAWED = """app = Flask(__name__)
app.config.update(SIDEARM_STREAM_MAX_AGE=0.5, SIDEARM_RETRY=0.1, SIDEARM_RETRY_SPREAD=0.1)


@app.before_request
def fail():
    import pathlib

    if request.path == "/live" and pathlib.Path("is_away").exists():
        return "Bad gateway.", 502
"""


@pytest.mark.parametrize("name", ["htmx-2", "htmx-4", "datastar"])
def test_e6_a_page_comes_back_from_a_front_without_an_application(
    name: str, tmp_path: Path, browser: Browser
) -> None:
    """It has each note once, those of before and those of meanwhile."""
    CASES[name].write(tmp_path)
    app, is_away = tmp_path / "app.py", tmp_path / "is_away"
    app.write_text(app.read_text().replace("app = Flask(__name__)\n", FLAWED))
    with UpServer("app", cwd=tmp_path, start_timeout=START_TIMEOUT) as server:
        context = browser.new_context()
        context.set_default_timeout(PATIENCE * 2000)
        page = context.new_page()
        page.goto(server.url)

        def send(text: str) -> None:
            assert context.request.post(server.url, form={"text": text}).ok

        send("1")
        wait_for_notes(page, ["1"])
        with page.expect_response(lambda answer: answer.status == 502):
            is_away.touch()
        send("2")
        is_away.unlink()
        wait_for_notes(page, ["1", "2"])
        send("3")
        wait_for_notes(page, ["1", "2", "3"])
        context.close()


@pytest.mark.parametrize(
    ("name", "connect", "close"),
    [("htmx-2", "sse-connect=", "sse-close"), ("htmx-4", "hx-sse:connect=", "hx-sse:close")],
)
def test_e6_e7_a_page_stops_at_the_end_of_its_channel(
    name: str, connect: str, close: str, tmp_path: Path, browser: Browser
) -> None:
    """Where the last event's type is named, nobody asks again."""
    CASES[name].write(tmp_path)
    app, index = tmp_path / "app.py", tmp_path / "templates/index.html"
    app.write_text(app.read_text().replace("note=note))", 'note=note), event="last", end=True)'))
    index.write_text(index.read_text().replace(connect, f'{close}="last" {connect}'))
    with UpServer("app", cwd=tmp_path, start_timeout=START_TIMEOUT) as server:
        page = browser.new_page()
        page.goto(server.url)
        server.wait_until(lambda: server.hub_figures().subscribers == 1, PATIENCE, "a stream")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        assert page.context.request.post(server.url, form={"text": "the end"}).ok
        server.wait_until(lambda: server.hub_figures().subscribers == 0, PATIENCE, "the end")
        page.wait_for_timeout(3000)
        assert asked == []
        page.close()


def test_every_page_that_shows_an_application_is_run() -> None:
    """Each page with files to be written is one of the cases, and each variant of it."""
    shown = {page.name: len(re.findall(r":caption: templates/index", page.read_text()))
             for page in HOWTO.glob("*.md") if _FILE.search(page.read_text())}  # fmt: skip
    run = dict.fromkeys((case.page for case in CASES.values()), 0)
    for case in CASES.values():
        run[case.page] += 1
    assert shown == run

"""Every Python example of the README and the documentation runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

import pytest

from sidearm.testing import FlaskRunServer, UpServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidearm.testing import EventSource, Server

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs/tutorial/live-counter.md"
TESTING = ROOT / "docs/howto/testing.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
TIMEOUT = 100  # seconds that pytest may take for the page about it

_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples_on(page: Path) -> list[str]:
    """The Python blocks of a page, each below so many empty lines that errors name its own."""
    text = page.read_text()
    return [
        "\n" * text.count("\n", 0, found.start(1)) + found[1] for found in _BLOCK.finditer(text)
    ]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


#: Pages whose examples run one after another, in one module.
READ_THROUGH = [
    page for page in PAGES if page not in (README, TUTORIAL, TESTING) and examples_on(page)
]


@pytest.mark.parametrize("page", READ_THROUGH, ids=name_of)
def test_the_examples_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From top to bottom, each with what those above it have defined."""
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("example")
    module.__file__ = str(tmp_path / "example.py")  # where Flask looks for an instance folder
    monkeypatch.setitem(sys.modules, "example", module)
    try:
        for example in examples_on(page):
            exec(compile(example, page, "exec"), vars(module))
    except FileNotFoundError as error:  # a server that is not here
        if "CI" in os.environ or "not installed" not in str(error):
            raise
        pytest.skip(str(error))


def test_the_page_about_testing_is_a_test_file_that_passes(tmp_path: Path) -> None:
    """Its blocks, put together, are run by a pytest of their own, with no other plugin."""
    (tmp_path / "test_page.py").write_text("\n".join(examples_on(TESTING)))
    plugins = ["-p", "sidearm.testing.plugin", "-p", "no:cacheprovider"]
    options = ["-q", "-W", "error", "--rootdir", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, *options, "test_page.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "6 passed" in result.stdout


@pytest.mark.parametrize("server_class", [FlaskRunServer, UpServer])
def test_the_tutorials_counter_counts_live(
    server_class: Callable[..., Server],
    event_source: Callable[..., EventSource],
    tmp_path: Path,
) -> None:
    """The page and its stream join, a click arrives, and the next page shows it."""
    (code,) = examples_on(TUTORIAL)
    (tmp_path / "counter.py").write_text(code)
    with server_class("counter", cwd=tmp_path) as server:
        page = read(server.url)
        assert "<h1>0</h1>" in page
        (stream,) = re.findall(r'EventSource\("(.*?)"\)', page)
        read(server.url, method="POST")  # between the page and its stream

        with event_source(server.url + stream) as source:
            read(server.url, method="POST")
            events = source.events(2)

        assert [(event.event, event.data) for event in events] == [
            ("message", "1"),
            ("message", "2"),
        ]
        assert "<h1>2</h1>" in read(server.url)


def test_the_tutorials_counter_is_less_than_thirty_lines_long() -> None:
    """As the README says."""
    (code,) = examples_on(TUTORIAL)
    assert len(code.strip().splitlines()) < 30


def test_the_quick_start_of_the_readme_runs(
    event_source: Callable[..., EventSource], tmp_path: Path
) -> None:
    """What is bought is heard on the stream, and the callback runs."""
    (code,) = examples_on(README)
    (tmp_path / "app.py").write_text(code)
    with FlaskRunServer("app", cwd=tmp_path) as server:
        source = event_source(f"{server.url}/live")
        assert read(f"{server.url}/buy/7", method="POST") == "bought"
        event = source.next_event()
        assert (event.event, event.data) == ("sold", '{"item":7}')
        source.close()
        server.wait_for_log("mail for 7")


def read(url: str, method: str = "GET") -> str:
    """The body of a response, behind redirects too."""
    with urlopen(Request(url, method=method), timeout=20) as response:
        body: bytes = response.read()
        return body.decode()

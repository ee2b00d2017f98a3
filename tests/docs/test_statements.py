"""What the README and the documentation state about the code is so."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import click
import pytest
from blinker import Signal

import sidearm.signals
from sidearm.cli import sidearm as command
from sidearm.events.polling import POLL_INTERVAL
from sidearm.hub.opening import GAP_EVENT
from sidearm.hub.platform import SOCKET_PATH_LIMIT
from sidearm.hub.relay import KEPT_RECORDS
from sidearm.settings import Settings
from sidearm.tasks.reading import WINDOW
from sidearm.tasks.records import LOOK_INTERVAL
from sidearm.tasks.reporting import LONGEST_LIST, TICK, UNFINISHED
from sidearm.tasks.task import STATES
from sidearm.workers.processes import FIRST_DELAY, LONGEST_DELAY
from sidearm.workers.web import DEFAULT_WORKERS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]

_TEST = re.compile(r"\[`(test_\w+)`\]\((tests/\S+?\.py)\)")
_TEST_ID = re.compile(r"\b(tests/[\w/]+\.py)::(\w+)")
_LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@functools.cache
def functions_of(path: Path) -> set[str]:
    """The names of the functions of a file."""
    tree = ast.parse(path.read_text())
    return {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}


@pytest.fixture(scope="module")
def extension() -> ModuleType:
    """The documentation's own extension of Sphinx."""
    spec = importlib.util.spec_from_file_location("docs", DOCS / "_extensions/sidearm_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tests_that_the_readme_names_exist() -> None:
    """Each row of the table names a test that is there."""
    named = _TEST.findall((ROOT / "README.md").read_text())
    assert len(named) >= 7
    for test, path in named:
        assert test in functions_of(ROOT / path), f"{path} has no {test}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_test_that_is_named_exists(page: Path) -> None:
    """A page that says which test holds a promise names one that is there."""
    for path, test in _TEST_ID.findall(page.read_text()):
        assert test in functions_of(ROOT / path), f"{path} has no {test}"


def test_every_objection_is_answered_with_a_test() -> None:
    """Each section of the page about commits names at least one."""
    page = (DOCS / "explanation/why-commit-with-the-task.md").read_text()
    sections = re.split(r'^## "', page, flags=re.MULTILINE)[1:]
    assert len(sections) >= 10
    for section in sections:
        assert _TEST_ID.search(section), f"no test for {section.splitlines()[0]}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link into the repository is to a file that is there."""
    for target in _LINK.findall(page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{target} is not there"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_setting_and_signal_that_is_named_exists(page: Path) -> None:
    """No page speaks of a key that nobody reads."""
    keys = {f"SIDEARM_{setting.name.upper()}" for setting in fields(Settings)}
    assert set(re.findall(r"\bSIDEARM_[A-Z_]+\b", page.read_text())) <= keys


def test_the_settings_page_has_every_setting_with_its_default(extension: ModuleType) -> None:
    """It is made from the class; here are some of its lines as a reader sees them."""
    lines = extension.settings_table()
    assert len(lines) == 2 + len(fields(Settings))
    starts = [line.rsplit(" | ", 1)[0] for line in lines]
    assert "| `SIDEARM_HEARTBEAT` | 15 seconds" in starts
    assert "| `SIDEARM_MAX_EVENT_SIZE` | 1 MiB" in starts
    assert "| `SIDEARM_HISTORY_COUNT` | 1,000 events" in starts
    assert "| `SIDEARM_FAIL_STATUSES` | 400 to 599" in starts
    assert "| `SIDEARM_SOCKET` | `None`" in starts


def test_the_commands_page_has_every_command(extension: ModuleType) -> None:
    """Each command of ``flask sidearm``, by its own help."""
    assert isinstance(command, click.Group)
    page = (DOCS / "reference/cli.md").read_text()
    paths = [
        path
        for name, each in command.commands.items()
        for path in (name, *(f"{name} {part}" for part in getattr(each, "commands", ())))
    ]
    assert re.findall(r"\{cli-help\} ([\w ]+)", page) == paths
    assert extension.cli_help(["up"]).startswith("Usage: flask sidearm up [OPTIONS]")


def test_the_tasks_page_has_every_signal() -> None:
    """Each signal of ``sidearm.signals``."""
    page = (DOCS / "reference/tasks.md").read_text()
    signals = [name for name, each in vars(sidearm.signals).items() if isinstance(each, Signal)]
    assert sorted(re.findall(r"sidearm\.signals\.(\w+)", page)) == sorted(signals)


def test_the_picture_of_the_states_is_drawn_from_their_table(extension: ModuleType) -> None:
    """A box for each state, an arrow for each step, and the same in words."""
    picture = ET.fromstring(extension.states_picture(STATES))
    svg = "{http://www.w3.org/2000/svg}"
    assert [text.text for text in picture.iter(f"{svg}text")] == sorted(
        STATES, key=[text.text for text in picture.iter(f"{svg}text")].index
    )
    arrows = picture.findall(f"{svg}path")
    assert len(arrows) == sum(map(len, STATES.values()))
    title = picture.findtext(f"{svg}title")
    assert title is not None
    assert title.startswith("open is followed by committing or rolling back; ")


def test_the_states_are_all_explained() -> None:
    """The page of a task's life has a paragraph for each state, in their order."""
    page = (DOCS / "explanation/task-life.md").read_text()
    assert re.findall(r"^(\w[\w ]*)\n: ", page, re.MULTILINE) == list(STATES)


@pytest.mark.parametrize(
    ("page", "text", "holds"),
    [
        (
            "howto/deploy.md",
            "grows from 0.1 to 10 seconds",
            (FIRST_DELAY, LONGEST_DELAY) == (0.1, 10),
        ),
        ("howto/deploy.md", "A comment every\nfifteen seconds", Settings().heartbeat == 15),
        ("howto/deploy.md", "to come back in two seconds", POLL_INTERVAL == 2000),
        ("explanation/handoff.md", "`retry: 2000`", POLL_INTERVAL == 2000),
        ("howto/deploy.md", "107 on Linux", SOCKET_PATH_LIMIT == 107 or sys.platform != "linux"),
        (
            "explanation/task-life.md",
            "status from 400 up",
            Settings().fail_statuses == range(400, 600),
        ),
        ("explanation/delivery.md", "`sidearm:gap`", GAP_EVENT == "sidearm:gap"),
        ("reference/cli.md", "keeps the newest 1,000", KEPT_RECORDS == 1000),
        ("reference/cli.md", "more than 500 calls", LONGEST_LIST == 500),
        (
            "reference/cli.md",
            "is shown within a second",
            max(TICK + WINDOW + WINDOW / 3, UNFINISHED) <= 1,
        ),
        ("reference/tasks.md", "at most once a second", LOOK_INTERVAL == 1),
        ("tutorial/live-counter.md", "two blocking web workers", DEFAULT_WORKERS == 2),
    ],
)
def test_numbers_in_the_text_are_those_of_the_code(page: str, text: str, holds: bool) -> None:
    """A default that is stated in words is still the default."""
    assert text in (DOCS / page).read_text()
    assert holds

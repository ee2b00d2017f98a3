"""What every test has: a clean environment, a search for leaks, a small application."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from sqlite3 import Connection

    from flask import Flask
    from flask.testing import FlaskClient

    from sidearm import Sidearm

OUTSIDE = ("FLASK_", "SIDEARM_", "GUNICORN_", "WERKZEUG_")
DESCRIPTORS = 8  # that one test may leave open: caches, lazily opened files
ENDING = 5.0  # seconds for what was told to end to do so

# A test's time depends on what else the machine does; how many examples it tries does not.
hypothesis.settings.register_profile("sidearm", deadline=None, max_examples=60)
hypothesis.settings.load_profile("sidearm")


def pytest_configure() -> None:
    """Let SIGTERM end the run like Ctrl-C: servers that fixtures started end with it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: pytest.exit("SIGTERM"))
        # What ignores them (nohup, a shell's job in the background) hands that down, and programs
        # that tests end by them would rightly go on.
        for number, handler in (
            (signal.SIGINT, signal.default_int_handler),
            (signal.SIGHUP, signal.SIG_DFL),
        ):
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def clean_environment() -> Iterator[None]:
    """Settings of the developer's own shell reach no test, and no server that a test starts."""
    with pytest.MonkeyPatch.context() as environment:
        for name in list(os.environ):
            if name.startswith(OUTSIDE):
                environment.delenv(name)
        yield


@pytest.fixture(autouse=True)
def leak_detector() -> Iterator[None]:
    """A test leaves nothing behind: no Flask context, process, thread of ours, descriptors.

    What wider fixtures (a server for the session) started before the test is not its own.
    """
    children, threads, descriptors = _children(), _threads(), _descriptors()
    yield
    leaks = [f"a pushed Flask context: {context!r}" for context in _pushed_contexts()]
    leaks += [f"a child process: {pid}" for pid in _lasting(_children, children)]
    leaks += [f"a thread: {name}" for name in _lasting(_threads, threads)]
    if _descriptors() > descriptors + DESCRIPTORS:
        gc.collect()  # what is in a cycle would have been closed sooner or later
        if (left := _descriptors()) > descriptors + DESCRIPTORS:
            leaks.append(f"{left - descriptors} descriptors: {_targets()}")
    assert not leaks, f"The test left {'; '.join(leaks)}."


@pytest.fixture
def arm() -> Sidearm:
    """The extension of :func:`app`."""
    from sidearm import Sidearm

    return Sidearm()


@pytest.fixture
def app(arm: Sidearm) -> Flask:
    """An application for the test client, with Sidearm; its events stay in the process."""
    from flask import Flask

    app = Flask("testapp")
    app.config.update(TESTING=True, SECRET_KEY="for tests only, and long enough")
    arm.init_app(app)
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A test client of :func:`app`."""
    return app.test_client()


@pytest.fixture
def database(arm: Sidearm, tmp_path: Path) -> Callable[[], Connection]:
    """A SQLite file as a resource of :func:`app`, with an empty table ``notes(text)``."""
    import sqlite3
    from contextlib import closing

    from sidearm.resources.sqlite import SQLite

    path = tmp_path / "test.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    get_database: Callable[[], Connection] = arm.use(SQLite(path))
    return get_database


def _pushed_contexts() -> list[object]:
    """The Flask contexts that are pushed, which this pops, innermost first."""
    if "flask" not in sys.modules:
        return []
    from flask.globals import _cv_app

    contexts: list[object] = []
    while (context := _cv_app.get(None)) is not None and len(contexts) < 10:
        contexts.append(context)
        context.pop()
    return contexts


def _lasting(look: Callable[[], set[str]], before: set[str]) -> set[str]:
    """What is there that was not there before, and does not go away by itself."""
    deadline = time.monotonic() + ENDING
    while (new := look() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    return new


def _threads() -> set[str]:
    return {
        f"{thread.name} ({thread.ident})"
        for thread in threading.enumerate()
        if thread.name.startswith("sidearm")
    }


def _children() -> set[str]:
    """Child processes that run; a zombie too, since somebody forgot to wait for it."""
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        return set()
    children: set[str] = set()
    for task in tasks.glob("*/children"):
        try:
            children.update(task.read_text().split())
        except OSError:  # the thread has ended
            continue
    return children


def _descriptors() -> int:
    folder = Path("/dev/fd")
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def _targets() -> list[str]:
    descriptors = Path("/proc/self/fd")
    return sorted(str(each.readlink()) for each in descriptors.iterdir() if each.is_symlink())

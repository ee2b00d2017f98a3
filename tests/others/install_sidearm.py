"""A plugin for another project's tests: Sidearm is on every application that they make.

``--sidearm=idle`` installs it and claims nothing. With ``--sidearm=claim`` every context that is
pushed claims a resource and registers callbacks, and Flask-SQLAlchemy's sessions are Sidearm's to
settle. What happened is counted, and written to ``--sidearm-report`` as JSON.
"""

from __future__ import annotations

import functools
import json
import logging
import threading
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from flask.ctx import AppContext, RequestContext

from sidearm import Sidearm, after_commit, after_rollback

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class Pool:
    """A pool that counts, from any thread, what is done to it and to its connections.

    It holds what it has given, so that nothing comes back by being forgotten.

    Attributes:
        counts: How often each thing was done in the whole run.
        out: The connections that have not come back.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.out: set[Connection] = set()
        self._lock = threading.Lock()

    def getconn(self) -> Connection:
        connection = Connection(self)
        self.out.add(connection)
        self.count("claims")
        return connection

    def putconn(self, connection: Connection) -> None:
        self.out.remove(connection)
        self.count("releases")

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1


class Connection:
    """What is claimed: it tells its pool how it was settled."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.met = False

    def commit(self) -> None:
        self._pool.count("commits")

    def rollback(self) -> None:
        self._pool.count("rollbacks")


class Report(logging.Handler):
    """What is told at the end of the run.

    Attributes:
        leaks: The tests after which something was still claimed, and how much.
        said: What Sidearm wrote to its log.
    """

    def __init__(self, pool: Pool, path: Path) -> None:
        super().__init__(logging.WARNING)
        self.pool = pool
        self.path = path
        self.leaks: dict[str, int] = {}
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note a line of the log."""
        self.said.append(record.getMessage())

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """Note a test that has left something claimed when its fixtures have been torn down."""
        before = len(self.pool.out)
        result = yield
        if len(self.pool.out) > before:
            self.leaks[item.nodeid] = len(self.pool.out)
        return result

    def pytest_sessionfinish(self) -> None:
        """Write down what happened."""
        facts = {"counts": self.pool.counts, "leaks": self.leaks, "said": self.said}
        self.path.write_text(json.dumps(facts))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the plugin's options."""
    group = parser.getgroup("sidearm")
    group.addoption("--sidearm", choices=["idle", "claim"], required=True)
    group.addoption("--sidearm-report", type=Path, required=True)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Install Sidearm before anything of the tests is imported."""
    options = early_config.known_args_namespace
    pool = Pool()
    report = Report(pool, options.sidearm_report)
    early_config.pluginmanager.register(report)
    logging.getLogger("sidearm").addHandler(report)
    on_every_application(pool)
    if options.sidearm == "claim":
        in_every_context(pool)


def on_every_application(pool: Pool) -> None:
    """Let ``Flask()`` make applications that have a Sidearm object of their own."""
    make = Flask.__init__

    @functools.wraps(make)
    def init(app: Flask, *args: Any, **named: Any) -> None:
        make(app, *args, **named)
        arm = Sidearm(app)
        app.extensions["sidearm"].get_connection = arm.use(pool)
        pool.count("applications")

    Flask.__init__ = init  # type: ignore[method-assign]


def in_every_context(pool: Pool) -> None:
    """Let every context that is pushed claim, and Flask-SQLAlchemy's sessions be settled."""

    def claim(app: Flask) -> None:
        connection = app.extensions["sidearm"].get_connection()
        if not connection.met:
            connection.met = True
            after_commit(functools.partial(pool.count, "after_commit"))
            after_rollback(functools.partial(pool.count, "after_rollback"))

    def watch(context_class: Any) -> None:
        push: Callable[..., None] = context_class.push

        @functools.wraps(push)
        def push_and_claim(context: Any) -> None:
            push(context)
            claim(context.app)

        context_class.push = push_and_claim

    watch(AppContext)
    watch(RequestContext)
    if find_spec("flask_sqlalchemy") is None:
        return
    from flask_sqlalchemy import SQLAlchemy

    init_app = SQLAlchemy.init_app

    @functools.wraps(init_app)
    def init_and_use(db: SQLAlchemy, app: Flask) -> None:
        init_app(db, app)
        app.extensions["sidearm"].arm.use(db)
        pool.count("databases")

    SQLAlchemy.init_app = init_and_use  # type: ignore[method-assign]

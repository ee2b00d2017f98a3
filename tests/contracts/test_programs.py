"""Random programs of everything that a task can do, against an oracle (contracts T1 to T13).

A program is a tree of steps: writes, callbacks, events, savepoints, tasks inside, commits and
rollbacks by hand, ``doom`` and ``keep``; and one of the ways in which a request, its streaming body
or a block can end. After each program a second connection reads the rows, and rows, callbacks and
events must be exactly those that the oracle says, in its order, with nothing left out of any pool.

``PROGRAMS`` in the environment is how many each test runs; ``make test-long`` runs 20,000 in all.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, Response, stream_with_context
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from sidearm import Sidearm, after_commit, current_task, publish
from sidearm.exceptions import TaskDoomed
from sidearm.testing import capture

from .conftest import make_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROGRAMS = int(os.environ.get("PROGRAMS", "40"))
DEPTH = 8  # of tasks inside of tasks, at most
KINDS = ["generator", "pool", "engine", "sqlite3", "session", "flask-sqlalchemy"]
TOLD = ["sqlite3", "session", "flask-sqlalchemy"]

Step = tuple[Any, ...]


class Broken(Exception):
    """What programs raise."""


class Handled(Exception):
    """What programs raise, and an error handler answers with a page that is no error."""


# -- programs


def steps(*, savepoints: bool, by_hand: bool) -> st.SearchStrategy[list[Step]]:
    """Sequences of steps; those that nest are a few levels deep."""
    leaves = st.sampled_from(
        [("write",), ("callback",), ("writing callback",), ("publish",), ("doom",), ("keep",)]
        + ([("commit",), ("rollback",)] * 2 if by_hand else [])
    )

    def nest(inner: st.SearchStrategy[Step]) -> st.SearchStrategy[Step]:
        blocks = ["savepoint", "task"] if savepoints else ["task"]
        return st.tuples(st.sampled_from(blocks), st.lists(inner, max_size=4), st.booleans())

    return st.lists(st.recursive(leaves, nest, max_leaves=6), max_size=6)


ENDS = ["200", "302", "409", "500", "handled", "unhandled", "body ends", "body raises", "abandoned"]


# -- running them


class Machine:
    """Runs programs on an application, and reads what came of them."""

    def __init__(self, kind: str, commit: str, folder: Path) -> None:
        self.explicit = commit == "explicit"
        self.arm = Sidearm()
        self.app = Flask("programs")
        self.app.config.update(PROPAGATE_EXCEPTIONS=False, SIDEARM_HUB="memory")
        self.app.testing = True
        self.store = make_store(kind, folder / "outer.db", self.arm, self.app, commit)
        # Each task inside of another writes to a database of its own: SQLite has one writer.
        self.stores = [self.store] + [
            make_store("sqlite3", folder / f"inner-{depth}.db", self.arm, self.app, "task")
            for depth in range(1, DEPTH)
        ]
        self.arm.init_app(self.app)
        self.app.add_url_rule("/", view_func=self._view)
        self.app.register_error_handler(Handled, lambda _: ("handled", 200))
        self.ran: list[str] = []

    def close(self) -> None:
        for store in self.stores:
            store.close()

    def run(self, program: list[Step], end: str, body: list[Step]) -> dict[str, Any]:
        """Run a program; returns what is there afterwards."""
        for store in self.stores:
            with closing(sqlite3.connect(store.path, timeout=1)) as connection:
                connection.execute("DELETE FROM notes")
                connection.commit()
        self.ran.clear()
        self._number = 0
        self._program, self._end, self._body = program, end, body
        with capture(self.app) as captured:
            self._request()
        return {
            "rows": [store.saved() for store in self.stores],
            "ran": [*self.ran],
            "events": [event.text for event in captured.events],
            "out": sum(store.out() for store in self.stores),
        }

    def _request(self) -> None:
        response = self.app.test_client().get("/", buffered=False)
        if self._end == "abandoned":
            response.close()
            return
        try:
            response.get_data()
        except Broken:
            assert self._end == "body raises"
        finally:
            response.close()

    def _view(self) -> Any:
        self._do(self._program, 0)
        if self._end in {"200", "409", "500"}:
            return "answer", int(self._end)
        if self._end == "302":
            return "", 302, {"Location": "/"}
        if self._end == "handled":
            raise Handled
        if self._end == "unhandled":
            raise Broken

        def body() -> Iterator[str]:
            yield "first"  # the test client reads one piece before it returns
            self._do(self._body, 0)
            yield "second"
            if self._end == "body raises":
                raise Broken

        return Response(stream_with_context(body()))

    def _do(self, program: list[Step], depth: int) -> None:  # noqa: C901 - one line for each step
        store = self.stores[depth]
        for step in program:
            name = f"{step[0]} {self._next()}"
            match step[0]:
                case "write":
                    store.write(name)
                case "callback":
                    after_commit(lambda name=name: self.ran.append(name))
                case "writing callback":
                    after_commit(lambda name=name: self._write_late(store, name))
                case "publish":
                    publish("programs", name)
                case "doom":
                    current_task.doom(name)
                case "keep":
                    current_task.keep()
                case "commit":
                    with contextlib.suppress(TaskDoomed):
                        store.commit()
                case "rollback":
                    store.rollback()
                case "savepoint":
                    self._block(current_task.savepoint(), step, depth)
                case "task":
                    self._block(self.arm.task(name), step, depth + 1)

    def _block(self, block: Any, step: Step, depth: int) -> None:
        try:
            with block:
                self._do(step[1], depth)
                if step[2]:
                    raise Broken
        except Broken:
            assert step[2]

    def _write_late(self, store: Any, name: str) -> None:
        self.ran.append(name)
        store.write(name)

    def _next(self) -> int:
        self._number += 1
        return self._number


# -- the oracle


class World:
    """What is there when everything is over."""

    def __init__(self) -> None:
        self.rows: list[list[str]] = [[] for _ in range(DEPTH)]
        self.ran: list[str] = []
        self.events: list[str] = []
        self.number = 0


class Oracle:
    """What a task of these steps must come to: one round of it, over one database."""

    def __init__(self, world: World, depth: int, *, explicit: bool) -> None:
        self.world = world
        self.depth = depth
        self.rows = world.rows[depth]
        self.explicit = explicit
        self.writes: list[str] = []  # in the transaction that is open
        self.held: list[tuple[str, str, bool]] = []  # step, name, in a transaction
        self.doomed = self.kept = False

    def do(self, program: list[Step]) -> None:  # noqa: C901 - one line for each step
        for step in program:
            self.world.number += 1
            name = f"{step[0]} {self.world.number}"
            match step[0]:
                case "write":
                    self.writes.append(name)
                case "callback" | "writing callback" | "publish":
                    self.held.append((step[0], name, bool(self.writes)))
                case "doom":
                    self.doomed = True
                case "keep":
                    self.kept = True
                case "commit":
                    self.commit_by_hand()
                case "rollback":
                    self.writes.clear()
                    self.held = [each for each in self.held if not each[2]]
                case "savepoint":
                    writes, held = [*self.writes], [*self.held]
                    self.do(step[1])
                    if step[2]:
                        self.writes, self.held = writes, held
                case "task":
                    inner = Oracle(self.world, self.depth + 1, explicit=False)
                    inner.do(step[1])
                    inner.settle(succeeds=not step[2])

    def commit_by_hand(self) -> None:
        if self.doomed:
            return
        self.rows += self.writes
        self.writes.clear()
        leaving = [each for each in self.held if each[2]]
        self.held = [each for each in self.held if not each[2]]
        self.leave(leaving)

    def settle(self, *, succeeds: bool) -> bool:
        commits = not self.doomed and (succeeds or self.kept)
        if commits and not self.explicit:
            self.rows += self.writes
        elif commits:  # what nobody committed is lost, and what belongs to it
            self.held = [each for each in self.held if not each[2]]
        if commits:
            self.leave(self.held)
        return commits

    def leave(self, held: list[tuple[str, str, bool]]) -> None:
        for step, name, _ in held:
            if step == "publish":
                self.world.events.append(name)
                continue
            self.world.ran.append(name)
            if step == "writing callback":
                self.rows.append(name)


def foresee(program: list[Step], end: str, body: list[Step], *, explicit: bool) -> dict[str, Any]:
    """What must be there after a program."""
    world = World()
    view = Oracle(world, 0, explicit=explicit)
    view.do(program)
    raised = end in {"handled", "unhandled"}
    committed = view.settle(succeeds=not raised and end not in {"409", "500"})
    if end.startswith("body"):
        sent = Oracle(world, 0, explicit=explicit)
        sent.doomed = view.doomed
        sent.do(body)
        # keep() of the view or of the body is about responses; a body has its own ways to end.
        sent.kept = False
        sent.settle(succeeds=committed and end == "body ends")
    return {
        "rows": world.rows,
        "ran": world.ran,
        "events": world.events,
        "out": 0,
    }


def check(machine: Machine, program: list[Step], end: str, body: list[Step]) -> None:
    """Run a program, and compare."""
    note(f"The program: {program}, ends by {end!r}, body {body}")
    expected = foresee(program, end, body, explicit=machine.explicit)
    assert machine.run(program, end, body) == expected


run_programs: Callable[[Any], Any] = settings(
    max_examples=PROGRAMS,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(*request.param, tmp_path)
    yield machine
    machine.close()


TREES = steps(savepoints=True, by_hand=False)
LINES = steps(savepoints=False, by_hand=True)


@pytest.mark.parametrize("machine", [(kind, "task") for kind in KINDS], indirect=True)
@given(program=TREES, end=st.sampled_from(ENDS), body=TREES)
@run_programs
def test_programs_of_tasks_that_commit(
    machine: Machine, program: list[Step], end: str, body: list[Step]
) -> None:
    """Savepoints and tasks inside, every end; the task commits."""
    check(machine, program, end, body)


@pytest.mark.parametrize(
    "machine", [(kind, commit) for kind in TOLD for commit in ("explicit", "task")], indirect=True
)
@given(program=LINES, end=st.sampled_from(ENDS), body=LINES)
@run_programs
def test_programs_that_commit_by_hand(
    machine: Machine, program: list[Step], end: str, body: list[Step]
) -> None:
    """Commits and rollbacks by hand between the writes; the rest is the application's, or not."""
    check(machine, program, end, body)

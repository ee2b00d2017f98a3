"""Ten thousand tasks leave memory where it was, whatever kind they are and however they end."""

from __future__ import annotations

import gc
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
from flask import stream_with_context
from werkzeug.test import create_environ

from sidearm import Sidearm, after_commit, after_response, after_rollback, current_task, publish
from sidearm.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask

TASKS = 10_000
WARM_UP = 1_500
CONTAINERS = (list, dict, set, deque)


class Broken(Exception):
    """What tasks raise here."""


def figures() -> tuple[int, int]:
    """What lives: small blocks of memory, and the bytes of all containers.

    Every small object is a block or several. The tables of containers are counted apart, so that
    one which only collects what is there anyway shows as well.
    """
    gc.collect()
    containers = sum(map(sys.getsizeof, filter(_is_container, gc.get_objects())))
    return sys.getallocatedblocks(), containers


def _is_container(thing: object) -> bool:
    return type(thing) in CONTAINERS


def growth(run: Callable[[], object]) -> tuple[int, int]:
    """How much more lives after ten thousand runs."""
    for _ in range(WARM_UP):
        run()
    blocks, containers = figures()
    for _ in range(TASKS):
        run()
    more_blocks, more_containers = figures()
    return more_blocks - blocks, more_containers - containers


@pytest.fixture
def work(arm: Sidearm) -> Callable[[], None]:
    """What each task does: claims, registers, publishes, has a savepoint."""

    @arm.resource
    def get_thing() -> Any:
        yield object()

    def work() -> None:
        get_thing()
        with current_task.savepoint():
            after_commit(lambda: None)
        after_rollback(lambda: None)
        after_response(lambda: None)
        publish("memory", 1)

    return work


@pytest.fixture
def run(request: pytest.FixtureRequest, app: Flask, arm: Sidearm, work: Any) -> Callable[[], None]:
    """One task of a kind."""

    def good() -> str:
        work()
        return "good"

    def failing() -> str:
        work()
        raise Broken

    def streaming() -> Iterator[str]:
        @stream_with_context
        def body() -> Iterator[str]:
            work()
            yield "piece"

        return body()

    def block() -> None:
        try:
            with arm.task("block"):
                view()
        except Broken:
            pass

    def ask() -> None:
        answer = app.wsgi_app(environ.copy(), lambda *_: lambda _: None)
        b"".join(answer)
        answer.close()  # type: ignore[attr-defined]

    view: Callable[[], Any] = {"good": good, "failing": failing, "streaming": streaming}[
        request.param.split()[0]
    ]
    app.add_url_rule("/", view_func=view)
    app.register_error_handler(Broken, lambda _: "answered")
    environ = create_environ("/")
    return block if "block" in request.param else ask


@pytest.mark.parametrize(
    "run",
    ["good request", "failing request", "streaming request", "good block", "failing block"],
    indirect=True,
)
def test_t9_ten_thousand_tasks_leave_nothing_behind(run: Callable[[], None]) -> None:
    """Nothing of a task is kept but in rings with a bound, which are full before it is counted."""
    defaults = Settings()
    assert max(defaults.record_count, defaults.history_count) < WARM_UP
    blocks, containers = growth(run)
    assert blocks < TASKS // 10, f"{blocks / TASKS:.2f} more blocks for each task"
    assert containers < TASKS, f"containers grew by {containers / TASKS:.1f} bytes for each task"

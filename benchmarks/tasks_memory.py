"""Memory before and after 10,000 tasks of each kind: it must be where it was."""

from __future__ import annotations

import contextlib
import gc
import os
import tracemalloc
from collections.abc import Callable
from typing import Any

from flask import Flask

from sidearm import Sidearm, after_commit, publish

from .measure import KIB, memory, requester

TASKS = 10_000
WARM_UP = 2_000  # more than the ring of records holds, so that it is full


class Failed(Exception):
    """What tasks raise here."""


def make_kinds() -> dict[str, Callable[[], None]]:
    """One task of each kind: a request that works, one that fails, a block of each."""
    app = Flask("memory")
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.testing = True  # events stay in the process
    app.logger.disabled = True
    arm = Sidearm(app)

    @arm.resource
    def get_thing() -> Any:
        yield object()

    def work() -> None:
        get_thing()
        after_commit(lambda: None)
        publish("memory", 1, keep=False)

    @app.get("/good")
    def good() -> str:
        work()
        return "good"

    @app.get("/bad")
    def bad() -> str:
        work()
        raise Failed

    @app.errorhandler(Failed)
    def answer(_: Failed) -> str:
        return "answered"

    def block() -> None:
        with arm.task("block"):
            work()

    def failing_block() -> None:
        with contextlib.suppress(Failed), arm.task("block"):
            bad()

    return {
        "requests": requester(app.wsgi_app, "/good"),
        "failing requests": requester(app.wsgi_app, "/bad"),
        "blocks": block,
        "failing blocks": failing_block,
    }


def after(count: int, run: Callable[[], None]) -> int:
    """Run tasks, and count the objects that the collector knows."""
    for _ in range(count):
        run()
    gc.collect()
    return len(gc.get_objects())


def main() -> None:
    """Print a line for each kind."""
    print(f"Memory after {WARM_UP:,} tasks, and what {TASKS:,} more have added")
    columns = ("PSS, MiB", "more, kB", "traced, B", "objects")
    print("  {:<28}{:>10}{:>10}{:>11}{:>9}".format("", *columns))
    kinds = make_kinds()
    for run in kinds.values():
        after(WARM_UP, run)
    for name, run in kinds.items():
        objects = after(WARM_UP, run)
        before = memory(os.getpid())
        more_objects = after(TASKS, run) - objects
        more = memory(os.getpid()) - before
        # Tracing slows everything down and takes memory itself: another ten thousand. The ring of
        # records has to be filled anew, with what is traced.
        tracemalloc.start()
        after(WARM_UP, run)
        traced = tracemalloc.get_traced_memory()[0]
        after(TASKS, run)
        traced = tracemalloc.get_traced_memory()[0] - traced
        tracemalloc.stop()
        print(
            f"  {name:<28}{before / KIB / KIB:10.1f}{more / KIB:+10.0f}{traced:+11,}"
            f"{more_objects:+9,}"
        )


if __name__ == "__main__":
    main()

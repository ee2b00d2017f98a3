"""Bodies that are made while they are sent: each is a round of its own (contract T6)."""

from __future__ import annotations

import logging
from types import GeneratorType
from typing import Any

from flask import Response

from .outcome import Decision
from .task import Task, combine

logger = logging.getLogger("sidearm.tasks")

#: A piece of the body is being made, which may be the last.
RUNS = "runs"
#: The server sends a piece, and may ask for another.
WAITS = "waits"


def is_streamed(response: Response) -> bool:
    """Whether a response's body is made while it is sent; a file that the server sends is not.

    Nor is a stream of events, which says so itself: nothing of the application's runs for it.
    """
    if getattr(response, "runs_nothing", False):
        return False
    if response.direct_passthrough:
        return isinstance(response.response, GeneratorType)
    return response.is_streamed


def decide(task: Task, exc: BaseException | None) -> Decision:
    """Decide for the round of a body, by how it ended.

    Args:
        task: Its task.
        exc: What ended it, if it did not come to its end.
    """
    inherited = task.round.decided
    if inherited is not None:
        return inherited
    if task.doomed is not None:
        return Decision(False, f"doomed: {task.doomed}")
    left = exc is None and task.body == WAITS
    if exc is None and not left:
        return Decision(True, "the body ended")
    if left or isinstance(exc, GeneratorExit):
        return Decision(False, "the body was abandoned")
    return Decision(False, f"exception {type(exc).__qualname__}")


class StreamedBody:
    """The body of a response, from its first piece on in a round of its own.

    Under ``stream_with_context`` the round settles when Flask leaves the contexts for the last
    time, while they are still there. Everything else settles here: a body without contexts, and
    one that a server drops, or that ends in a thread that never had them. A body of several such
    generators has a round for each.

    Args:
        task: Its task; one that failed hands that down.
        body: What the view gave.
    """

    def __init__(self, task: Task, body: Any) -> None:
        self._task = task
        self._body = body
        self._pieces: Any = None

    def __iter__(self) -> StreamedBody:
        return self

    def __next__(self) -> Any:
        task = self._task
        try:
            if self._pieces is None:
                settle_before(task)
                task.new_round("body", task.failed)
                self._pieces = iter(self._body)
            task.body = RUNS
            piece = next(self._pieces)
        except StopIteration:
            self._settle(None)
            raise
        except BaseException as exc:
            self._settle(exc)
            raise
        task.body = WAITS
        return piece

    def close(self) -> None:
        """End the body, which may not have come to its end."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._settle(GeneratorExit())

    def __del__(self) -> None:
        if self._pieces is not None:
            try:
                self._settle(GeneratorExit())
            except BaseException:
                logger.exception("A body that was never closed could not be settled.")

    def _settle(self, exc: BaseException | None) -> None:
        task = self._task
        if task.body is None:
            return
        errors = task.round.settle(decide(task, exc)) if task.round.kind == "body" else []
        task.body = None
        if errors:
            raise combine(errors) from exc


def settle_before(task: Task) -> None:
    """Settle what was claimed between the settling and the body: while the session was saved."""
    if task.round.kind == "teardown":
        errors = task.round.settle(task.round.decided or Decision(True, "the body begins"))
        if errors:
            raise combine(errors)

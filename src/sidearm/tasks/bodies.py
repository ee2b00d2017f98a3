"""Bodies that are made while they are sent: each is a round of its own (contract T6)."""

from __future__ import annotations

import logging
from types import GeneratorType
from typing import Any

from flask import Response

from .outcome import Decision
from .task import OPEN, Round, Task, combine

logger = logging.getLogger("sidearm.tasks")


def is_streamed(response: Response) -> bool:
    """Whether a response's body is made while it is sent; a file that the server sends is not."""
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
    if exc is None:
        return Decision(True, "the body ended")
    if isinstance(exc, GeneratorExit):
        return Decision(False, "the body was abandoned")
    return Decision(False, f"exception {type(exc).__qualname__}")


class StreamedBody:
    """The body of a response, from its first piece on in a round of its own.

    Under ``stream_with_context`` the round settles when Flask leaves the contexts for the last
    time, while they are still there. Everything else settles here: a body without contexts, and
    one that a server drops, or that ends in a thread that never had them.
    """

    def __init__(self, task: Task, body: Any, decided: Decision) -> None:
        self._task = task
        self._body = body
        self._pieces: Any = None
        self._round: Round | None = None
        self._decided = None
        if not decided.commit:
            self._decided = Decision(False, f"the task had failed: {decided.rule}")

    def __iter__(self) -> StreamedBody:
        return self

    def __next__(self) -> Any:
        if self._pieces is None:
            self._round = self._task.new_round("body", self._decided)
            self._pieces = iter(self._body)
        try:
            return next(self._pieces)
        except StopIteration:
            self._settle(None)
            raise
        except BaseException as exc:
            self._settle(exc)
            raise

    def close(self) -> None:
        """End the body, which may not have come to its end."""
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._settle(GeneratorExit())

    def __del__(self) -> None:
        if self._round is not None and self._round.state is OPEN:
            try:
                self._settle(GeneratorExit())
            except BaseException:
                logger.exception("A body that was never closed could not be settled.")

    def _settle(self, exc: BaseException | None) -> None:
        round_ = self._round
        if round_ is None or round_.state is not OPEN:
            return
        errors = round_.settle(decide(self._task, exc))
        if errors:
            raise combine(errors) from exc

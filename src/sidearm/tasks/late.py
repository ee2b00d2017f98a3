"""Callbacks that wait for the end of the response (contract T8)."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from flask import Response
from werkzeug.wsgi import ClosingIterator

from ..signals import callback_failed
from .callbacks import Held, name_of
from .context import TaskBlock
from .records import tell
from .task import Task

logger = logging.getLogger("sidearm.tasks")


def held_until_response(task: Task, callback: Callable[[], Any], caller: FrameType) -> Held:
    """What holds a callback until the commit, and then until the end of the response."""
    call = f"after_response({name_of(callback)})"
    held = Held.to_send(call, _committed, (task, call, callback), caller)
    held.item = (task, call, callback, held)
    return held


def _committed(items: Sequence[tuple[Task, str, Callable[[], Any], Held]]) -> None:
    for task, call, callback, held in items:
        held.item = None
        task.late = [*task.late, (call, callback, held)]


def run_at_close(task: Task, response: Response) -> None:
    """Let a response run, when the server closes it, what its task then has to run."""
    task.closes = True
    run = functools.partial(run_late, task)
    if response.direct_passthrough:
        # Werkzeug gives such a body to the server as it is, and is never told of its end.
        body: Any = response.response
        response.response = ClosingIterator(body, run)
    else:
        response.call_on_close(run)


def run_late(task: Task) -> None:
    """Run what waited for the end of a response, each in a task of its own.

    Raises:
        BaseException: One raised something that is no ``Exception``; the others have run.
    """
    fatal: BaseException | None = None
    while task.late:
        late, task.late = task.late, ()
        for call, callback, held in late:
            try:
                with TaskBlock(call, task.state.arm.resources, app=task.app):
                    callback()
            except BaseException as exc:
                logger.exception(
                    "Task %r: %s, registered in %s, failed.", task.name, call, held.place
                )
                tell(callback_failed, task.app, callback=call, exception=exc)
                if not isinstance(exc, Exception):
                    fatal = fatal or exc
    if fatal is not None:
        raise fatal

"""Finding the task of the code that is running, and beginning it.

A task lives on the context object that owns it: on the request context where one runs, also where
Flask 3.1 lends it an application context that somebody keeps pushed, and else on the application
context; a command's is kept by the run of its command line. ``arm.task()`` blocks are found by a
context variable, so that new threads have none and ``copy_context()`` carries it along.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

from flask import Flask
from flask.globals import _cv_app, _cv_request
from werkzeug.local import LocalProxy

from ..exceptions import OutsideTask
from . import outcome
from .claims import Resource
from .commands import COMMAND, command_line
from .state import state_of, the_app
from .task import Task, combine

if TYPE_CHECKING:
    from flask.ctx import AppContext

#: Where a task hangs on its context object.
TASK = "_sidearm_task"

_block: ContextVar[tuple[Task, Any] | None] = ContextVar("sidearm_block", default=None)


def find_task(*, create: bool) -> Task | None:
    """The task of the code that is running.

    Args:
        create: Whether a context that has no task yet gets one.

    Returns:
        The task, or ``None`` outside of every context, or if there is none and none is wanted.
    """
    app_context = _cv_app.get(None)
    if app_context is None:
        return None
    request_context = _cv_request.get(None)
    block = _block.get()
    if block is not None and block[1] is request_context and block[0].app is app_context.app:
        return block[0]
    if request_context is not None and request_context.app is app_context.app:
        task: Task | None = getattr(request_context, TASK, None)
        return begin_request(request_context) if task is None and create else task
    line = command_line()
    if line is not None:
        task = line.tasks.get(app_context)
        return line.begin(app_context) if task is None and create else task
    task = getattr(app_context, COMMAND, None) or getattr(app_context, TASK, None)
    return _begin_context(app_context) if task is None and create else task


def require_task(what: str, advice: str | None = None) -> Task:
    """The task of the code that is running.

    Args:
        what: The call that needs it, for the error.
        advice: What to do instead, for the error.

    Returns:
        The task.

    Raises:
        OutsideTask: There is none.
    """
    task = find_task(create=True)
    if task is None:
        raise OutsideTask(what, advice)
    return task


#: The task that is running: ``current_task.doom(...)``, ``.keep()``, ``.name``. False outside.
current_task: Task = cast("Task", LocalProxy(lambda: require_task("current_task")))


def begin_request(request_context: Any) -> Task:
    """Begin the task of a request."""
    app = request_context.app
    state = app.extensions.get("sidearm") or state_of(app)
    if not state.placed or app.handle_user_exception is not state.watch:
        state.place_hooks(app)
    request = request_context.request
    facts = [None, None, "request", request.url_rule, request.method]
    task = Task(app, state, facts)
    setattr(request_context, TASK, task)
    return task


def note_route(task: Task, request_context: Any) -> None:
    """Note the URL rule of a task that began before its request was routed: to open the session."""
    if task.facts[3] is None:
        task.facts[3] = request_context.request.url_rule


def _begin_context(app_context: Any) -> Task:
    app = app_context.app
    state = state_of(app)
    state.begin_context(app, app_context)
    task = Task(app, state, [None, "context", "context", None, None])
    setattr(app_context, TASK, task)
    return task


class TaskBlock:
    """``with arm.task("name"):`` - a task of its own, also inside another one.

    Entering gives the :class:`Task`. Leaving it commits, or rolls back if an exception leaves.
    """

    def __init__(
        self,
        name: str,
        resources: list[Resource],
        *,
        apps: weakref.WeakSet[Flask] | None = None,
        app: Flask | None = None,
    ) -> None:
        if not isinstance(name, str) or not name:  # type: ignore[redundant-expr]
            raise TypeError(f"A task's name is {name!r}. Give a short text, such as 'import'.")
        self._name = name
        self._apps = apps
        self._app = app
        self._resources = resources
        self._stack: list[tuple[Task, AppContext, Token[Any], list[Callable[[], None]]]] = []

    def __enter__(self) -> Task:
        app = self._app or the_app(f"arm.task({self._name!r})", self._apps or weakref.WeakSet())
        state = state_of(app)
        state.place_hooks(app)
        resumes = [resume for each in self._resources if (resume := each.suspend())]
        app_context = app.app_context()
        app_context.push()
        task = Task(app, state, [None, self._name, "task", None, None])
        token = _block.set((task, _cv_request.get(None)))
        self._stack.append((task, app_context, token, resumes))
        return task

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        task, app_context, token, resumes = self._stack.pop()
        try:
            try:
                errors = task.round.settle(outcome.by_leaving(exc, task))
            finally:
                _block.reset(token)
            if errors:
                raise combine(errors)
        finally:
            app_context.pop(exc)
            for resume in reversed(resumes):
                resume()
            if task.late:
                task.state.run_late(task)

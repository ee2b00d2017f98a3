"""Finding the task of the code that is running, and beginning it.

A task lives on the context object that owns it: on the request context where one runs, also where
Flask 3.1 lends it an application context that somebody keeps pushed, and else on the application
context; a command's is kept by the run of its command line. ``arm.task()`` blocks are found by a
context variable, so that new threads have none and ``copy_context()`` carries it along.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from flask import Flask
from werkzeug.local import LocalProxy

from ..exceptions import OutsideTask
from . import outcome
from .claims import Resource
from .commands import COMMAND, CommandLine, command_line
from .flask_contexts import (
    app_context_of,
    block_context,
    current_app_context,
    current_request_context,
    is_pushed,
    push_of,
)
from .outcome import Decision
from .state import state_of, the_app
from .task import CLOSED, Round, Task, combine

if TYPE_CHECKING:
    from flask.ctx import AppContext

#: Where a task hangs on its context object.
TASK = "_sidearm_task"

#: Where an application context has what is to be done first when it is torn down.
AT_TEARDOWN = "_sidearm_at_teardown"

#: Where an application context has why its request failed, for what is claimed in its teardown.
FAILED = "_sidearm_failed"

#: Where an application context has its push that has been torn down for good.
GONE = "_sidearm_gone"

#: Where a request context has the decision of a request that was answered without a task.
ANSWERED = "_sidearm_answered"

_block: ContextVar[Entered | None] = ContextVar("sidearm_block", default=None)


def find_task(*, create: bool) -> Task | None:
    """The task of the code that is running.

    Args:
        create: Whether a context that has no task yet gets one.

    Returns:
        The task, or ``None`` outside of every context, or if there is none and none is wanted.
    """
    app_context = current_app_context(None)
    if app_context is None:
        return None
    request_context = current_request_context(None)
    block = _block.get()
    if block is not None and block.holds(app_context, request_context):
        return block.task
    if request_context is not None and request_context.app is app_context.app:
        task: Task | None = getattr(request_context, TASK, None)
        if task is None and create:
            is_new = push_of(request_context) and ANSWERED not in request_context.__dict__
            task = (begin_request if is_new else _begin_late)(request_context)
        return task
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


def began_at(what: str) -> tuple[Any, int]:
    """Since when the work of the code that is running may see old data; a task does not begin.

    Args:
        what: The call that asks, for the error.

    Returns:
        The application, and a reading of ``time.monotonic_ns()``: now, if nothing was claimed.

    Raises:
        OutsideTask: There is no task, and none could begin.
    """
    task = find_task(create=False)
    if task is None:
        request_context = current_request_context(None)
        app_context = current_app_context(None)
        if (
            request_context is not None
            and app_context is not None
            and request_context.app is app_context.app
            and push_of(request_context)
            and ANSWERED not in request_context.__dict__
        ):
            return app_context.app, monotonic_ns()
        task = require_task(what)
    return task.app, task.began_ns()


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
    # Two threads that share the request may both be here: one of them wins.
    task: Task = request_context.__dict__.setdefault(TASK, Task(app, state, facts))
    return task


def _begin_late(request_context: Any) -> Task | None:
    """Begin the task of a request that was answered without one; one that is over gets none."""
    if not is_pushed(request_context):
        return None
    task = begin_request(request_context)
    answered: Decision = request_context.__dict__[ANSWERED]
    with task.lock:  # threads that share the request may both be here
        round_ = task.round
        if round_.kind == "work":  # there has been none, and the first one is what comes after it
            round_.decided = task.failed = inherited(answered)
            round_.kind = "teardown"
    return task


def is_inner(task: Task) -> bool:
    """Whether the current application context ends before a task does that it belongs to.

    It may say so also of one that a test's fixture lends to a request.
    """
    app_context: Any = current_app_context(None)
    block = _block.get()
    if block is not None and block.task is task:
        return block.app_context is not app_context
    request_context: Any = current_request_context(None)
    if getattr(request_context, TASK, None) is not task:
        return False
    return app_context_of(request_context) is not app_context


def at_teardown(call: Callable[[], None]) -> None:
    """Do something first when the current application context is torn down."""
    app_context: Any = current_app_context(None)
    app_context.__dict__.setdefault(AT_TEARDOWN, []).append(call)


def inherited(decision: Decision) -> Decision | None:
    """What a task's later rounds inherit from how its work was decided."""
    return None if decision.commit else Decision(False, f"the task had failed: {decision.rule}")


def reopen(task: Task) -> Round | None:
    """Give a request's task that has settled another round, which its teardown will settle.

    Args:
        task: A task whose round is closed.

    Returns:
        The new round, or ``None`` if nothing would settle it: the context is gone, or going.
    """
    request_context: Any = current_request_context(None)
    if getattr(request_context, TASK, None) is not task:
        return None
    with task.lock:  # threads may carry the context along
        push = push_of(request_context)
        if push is None or push is task.torn_down:
            return None
        if task.round.state is CLOSED:
            task.new_round("teardown" if task.body is None else "body", task.failed)
            if push is task.torn_down:  # just now, and the new round may not have been seen
                task.round.settle(Decision(False, "its context had been torn down"))
                return None
        round_: Round = task.round
        return round_


def note_route(task: Task, request_context: Any) -> None:
    """Note the URL rule of a task that began before its request was routed: to open the session."""
    if task.facts[3] is None:
        task.facts[3] = request_context.request.url_rule


def _begin_context(app_context: Any) -> Task | None:
    push = push_of(app_context)
    if push is None or push is app_context.__dict__.get(GONE):
        return None
    app = app_context.app
    state = state_of(app)
    state.place_hooks(app)
    task = Task(app, state, [None, "context", "context", None, None])
    begun: Task = app_context.__dict__.setdefault(TASK, task)
    return begun


class Entered(NamedTuple):
    """One entering of a block.

    Attributes:
        task: Its task.
        within: The request context around it.
        block: Which block.
        app_context: The application context that was pushed for it.
        resumes: What brings the outer task's sessions back.
        outer: The block around it.
        line: The command line that runs.
    """

    task: Task
    within: Any
    block: TaskBlock
    app_context: AppContext
    resumes: list[Callable[[], None]]
    outer: Entered | None
    line: CommandLine | None

    def holds(self, app_context: AppContext, request_context: Any) -> bool:
        """Whether it is the innermost around what runs: no request or command began in it since."""
        return (
            self.within is request_context
            and self.task.app is app_context.app
            and self.line is command_line()
        )


class TaskBlock:
    """``with arm.task("name"):`` - a task of its own, also inside another one.

    Entering gives the :class:`Task`. Leaving it commits, or rolls back if an exception leaves.
    Threads may share one: each entering is a task of its own.
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
        self._entered: list[Entered] = []

    def __enter__(self) -> Task:
        app = self._app or the_app(f"arm.task({self._name!r})", self._apps or weakref.WeakSet())
        state = state_of(app)
        state.place_hooks(app)
        app_context = block_context(app)
        resumes = [resume for each in self._resources if (resume := each.suspend())]
        try:
            app_context.push()
        except BaseException as exc:  # of a receiver of appcontext_pushed, when it is pushed
            try:
                if is_pushed(app_context):
                    app_context.pop(exc)
            finally:
                _bring_back(resumes)
            raise
        task = Task(app, state, [None, self._name, "task", None, None])
        entered = Entered(
            task,
            current_request_context(None),
            self,
            app_context,
            resumes,
            _block.get(),
            command_line(),
        )
        self._entered.append(entered)
        _block.set(entered)
        return task

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        entered = _block.get()
        if entered is None or entered.block is not self:
            entered = self._entered[-1]  # it is left in another context than it was entered in
        self._entered.remove(entered)
        task = entered.task
        try:
            try:
                errors = task.round.settle(outcome.by_leaving(exc, task))
            finally:
                _block.set(entered.outer)
            if errors:
                raise combine(errors)
        finally:
            try:
                entered.app_context.pop(exc)
            finally:
                _bring_back(entered.resumes)
                if task.late:
                    task.state.run_late(task)


def _bring_back(resumes: list[Callable[[], None]]) -> None:
    for resume in reversed(resumes):
        resume()

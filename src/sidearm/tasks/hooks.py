"""Installing tasks in an application; and teardown, the net under whatever ends a context."""

from __future__ import annotations

import asyncio
import functools
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from flask import Flask, appcontext_tearing_down, got_request_exception
from flask.globals import _cv_app, _cv_request

from . import bodies, outcome
from .commands import command_line
from .context import TASK, note_route
from .late import run_late
from .outcome import Decision
from .requests import ExceptionWatch, on_got_request_exception, settle_request
from .state import apps, state_of
from .task import OPEN, Task, combine

#: Set on an application context when our teardown function has seen it.
_OVER = "_sidearm_over"


def _watch_teardown(app: Flask) -> Callable[..., None]:
    """``app.do_teardown_request``, around all functions that it calls.

    It settles what a request left open: it was pushed by hand, or a ``BaseException`` ended it.
    A teardown function of our own would cost four times as much in every request, and those of
    blueprints would run before it.
    """
    reference = weakref.ref(app)
    inner: Callable[..., None] | None = app.__dict__.get("do_teardown_request")

    def do_teardown_request(*args: Any, **named: Any) -> None:
        app: Any = reference()
        own = inner or functools.partial(type(app).do_teardown_request, app)
        request_context = _cv_request.get(None)
        task: Task | None = getattr(request_context, TASK, None)
        if task is not None and task.round.state is not OPEN:
            own(*args, **named)
            return
        errors = _settle_request(task, (*args, *named.values()), request_context)
        try:
            own(*args, **named)
        except BaseException as exc:
            errors.append(exc)
        # What a teardown function has claimed, as the first of this request.
        if task is None:
            late: Task | None = getattr(request_context, TASK, None)
            errors += _settle_request(late, (*args, *named.values()), request_context)
        if errors:
            raise combine(errors)

    return do_teardown_request


def _settle_request(
    task: Task | None, args: tuple[Any, ...], request_context: Any
) -> list[BaseException]:
    if task is None:
        return []
    note_route(task, request_context)
    exc = args[-1] if args else sys.exc_info()[1]
    round_ = task.round
    if round_.kind == "body":
        decision = bodies.decide(task, exc)
    else:
        decision = round_.decided or outcome.by_leaving(exc, task)
    try:
        errors = round_.settle(decision)
        if task.late and round_.kind != "body":  # pushed by hand, it has no response
            run_late(task)
    except BaseException as fatal:  # raised when the teardown functions have run
        if round_.kind != "body":
            run_late(task)
        return [fatal]
    return errors


def settle_torn_down_context(exc: BaseException | None) -> None:
    """Settle the task of an application context that was pushed by hand or by a command."""
    app_context: Any = _cv_app.get(None)
    if app_context is None:
        return
    setattr(app_context, _OVER, True)
    line = command_line()
    if line is not None:
        task = line.take(app_context)
        if task is not None and task.round.state is OPEN:
            _settle(task, line.decide(task, exc), task.app.teardown_appcontext_funcs)
    task = getattr(app_context, TASK, None)
    if task is not None and task.round.state is OPEN:
        decision = outcome.by_leaving(exc, task)
        _settle(task, decision, task.app.teardown_appcontext_funcs)


def on_appcontext_tearing_down(app: Flask, exc: BaseException | None = None, **_: Any) -> None:
    """Settle what another extension's teardown function claimed after ours had run."""
    if "sidearm" in app.extensions:
        settle_torn_down_context(exc)


def _settle(task: Task, decision: Decision, others: list[Any]) -> None:
    """Settle in a teardown; what fails is raised, but skips no other teardown function."""
    try:
        errors = task.round.settle(decision)
    finally:
        run_late(task)
    if not errors:
        return
    for function in reversed(others[:-1]):  # ours is the last, and runs first
        try:
            task.app.ensure_sync(function)(errors[0])
        except BaseException as exc:
            errors.append(exc)
    raise combine(errors)


def install(app: Flask) -> None:
    """Hook tasks into an application; changes nothing that others can see."""
    state = state_of(app)
    state.place_hooks = _place
    state.watch_contexts = _watch_contexts
    state.run_late = run_late
    apps.add(app)
    got_request_exception.connect(on_got_request_exception, app)
    app.do_teardown_request = _watch_teardown(app)  # type: ignore[method-assign]
    app.after_request_funcs.setdefault(None, []).insert(0, settle_request)
    _place(app)


def _place(app: Flask) -> None:
    """Stay outside what was registered or wrapped since: extensions come in any order.

    The first of the ``after_request`` functions runs last. The last teardown function runs first,
    so one of another extension that raises cannot skip ours, and sessions are settled before
    their extension removes them.
    """
    state = state_of(app)
    watch = app.__dict__.get("handle_user_exception")
    if watch is None or watch is not state.watch:
        state.watch = app.handle_user_exception = ExceptionWatch(app, watch)  # type: ignore[assignment,method-assign]
    _move(app.after_request_funcs[None], settle_request, 0)
    if settle_torn_down_context in app.teardown_appcontext_funcs:
        _move(app.teardown_appcontext_funcs, settle_torn_down_context, -1)
    after = app.after_request_funcs
    state.others_come_after = len(after) > 1 or len(after[None]) > 1
    # Once it has answered a request, Flask lets nobody register anything more.
    state.placed = app._got_first_request


def _move(functions: list[Any], ours: Any, position: int) -> None:
    if not functions or functions[position] is not ours:
        if ours in functions:
            functions.remove(ours)
        functions.insert(position if position == 0 else len(functions), ours)


def _watch_contexts(app: Flask, app_context: Any) -> None:
    """See the end of an application context that has a task of its own.

    Only for those that have: most applications serve requests and nothing else, and each of their
    requests would pay for it.
    """
    late = getattr(app_context, _OVER, False)
    if settle_torn_down_context not in app.teardown_appcontext_funcs:
        app.teardown_appcontext_funcs.append(settle_torn_down_context)
        # An async teardown function runs in a thread of its own, whose frames tell nothing.
        late = _is_tearing_down() or asyncio._get_running_loop() is not None
    if late:
        appcontext_tearing_down.connect(on_appcontext_tearing_down, app)


def _is_tearing_down() -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is Flask.do_teardown_appcontext.__code__:
            return True
        frame = frame.f_back
    return False

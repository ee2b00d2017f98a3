"""Installing tasks in an application; and teardown, the net under whatever ends a context."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
import weakref
from collections.abc import Callable, Sequence
from types import CodeType, FrameType
from typing import Any

from blinker import Signal
from flask import Flask, appcontext_tearing_down, got_request_exception, request_started
from flask.globals import _cv_app, _cv_request

from . import bodies, outcome
from .commands import command_line
from .context import AT_TEARDOWN, GONE, TASK, note_route, reopen
from .late import run_late
from .outcome import Decision
from .requests import ExceptionWatch, on_got_request_exception, settle_request
from .state import apps, state_of
from .task import OPEN, Task, combine

logger = logging.getLogger("sidearm.tasks")

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
        errors: list[BaseException] = []
        if task is not None and (task.round.state is OPEN or task.late):
            errors = _settle_request(task, (*args, *named.values()), request_context)
        try:
            own(*args, **named)
        except BaseException as exc:
            errors.append(exc)
        # What a teardown function has claimed is in a round of its own.
        task = getattr(request_context, TASK, None)
        if task is not None:
            if task.round.state is OPEN:
                errors += _settle_request(task, (*args, *named.values()), request_context)
            pushes = request_context._cv_tokens  # type: ignore[union-attr]
            task.torn_down = pushes[-1] if pushes else None
        if errors:
            raise combine(errors)

    return do_teardown_request


def _settle_request(task: Task, args: tuple[Any, ...], request_context: Any) -> list[BaseException]:
    """Settle what is open, and run what has waited for a response that never came."""
    note_route(task, request_context)
    exc = args[-1] if args else sys.exc_info()[1]
    round_ = task.round
    opened = round_.state is OPEN
    errors: list[BaseException] = []
    try:
        if opened:
            errors = round_.settle(_decide(task, exc))
        if round_.kind == "teardown":
            # The response is on its way, and what it tells of is saved.
            for error in errors:
                logger.error("Task %r: its end failed.", task.name, exc_info=error)
            errors = []
    except BaseException as fatal:  # raised when the teardown functions have run
        errors = [fatal]
    no_response = exc is not None and not isinstance(exc, Exception)
    if round_.kind != "body" and (no_response or (opened and round_.kind != "teardown")):
        try:
            run_late(task)
        except BaseException as fatal:
            errors.append(fatal)
    return errors


def _decide(task: Task, exc: BaseException | None) -> Decision:
    round_ = task.round
    if round_.kind == "body":
        return bodies.decide(task, exc)
    decided = round_.decided
    if decided is None or (decided.commit and task.doomed is not None):
        return outcome.by_leaving(exc, task)
    return decided


def settle_torn_down_context(exc: BaseException | None) -> None:
    """Settle the task of an application context that was pushed by hand or by a command."""
    app_context: Any = _cv_app.get(None)
    if app_context is not None:
        _settle_context(exc, app_context.app.teardown_appcontext_funcs)


def _settle_context(exc: BaseException | None, others: Sequence[Any]) -> None:
    app_context: Any = _cv_app.get(None)
    if app_context is None:
        return
    setattr(app_context, _OVER, True)
    for call in app_context.__dict__.pop(AT_TEARDOWN, ()):
        call()
    line = command_line()
    if line is not None:
        task = line.take(app_context)
        if task is not None and task.round.state is OPEN:
            _settle(task, line.decide(task, exc), others)
    # It is not there any more for what comes: another teardown function, or another push.
    task = app_context.__dict__.pop(TASK, None)
    if task is not None and task.round.state is OPEN:
        _settle(task, outcome.by_leaving(exc, task), others)


def on_appcontext_tearing_down(app: Flask, exc: BaseException | None = None, **_: Any) -> None:
    """Settle what another extension's teardown function claimed after ours had run."""
    if "sidearm" not in app.extensions:
        return
    app_context: Any = _cv_app.get(None)
    if app_context is not None and app_context._cv_tokens:
        # Receivers have no order: what a later one claims would not be settled.
        setattr(app_context, GONE, app_context._cv_tokens[-1])
    _settle_context(exc, ())


def _settle(task: Task, decision: Decision, others: Sequence[Any]) -> None:
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
    state.reopen = reopen
    apps.add(app)
    got_request_exception.connect(on_got_request_exception, app)
    app.do_teardown_request = _watch_teardown(app)  # type: ignore[method-assign]
    app.after_request_funcs.setdefault(None, []).insert(0, settle_request)
    state.first_request = FirstRequest()
    request_started.connect(state.first_request, app)
    _place(app)


class FirstRequest:
    """Places the hooks once more when the first request begins, whatever its view will do.

    Else what an extension had wrapped since would hide the exceptions of a request that claims
    nothing before them. Then it disconnects itself altogether: a receiver that stayed, even for
    another application, would cost each request two microseconds.
    """

    def __call__(self, app: Flask, **_: Any) -> None:
        request_started.disconnect(self)
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
    # Another thread may be walking through the old lists: they stay as they are.
    functions = app.after_request_funcs[None]
    if functions[:1] != [settle_request]:
        others = [function for function in functions if function is not settle_request]
        app.after_request_funcs[None] = [settle_request, *others]
    ours = settle_torn_down_context
    if ours in app.teardown_appcontext_funcs and app.teardown_appcontext_funcs[-1] is not ours:
        others = [function for function in app.teardown_appcontext_funcs if function is not ours]
        app.teardown_appcontext_funcs = [*others, ours]
    after = app.after_request_funcs
    state.others_come_after = len(after) > 1 or len(after[None]) > 1
    # Once it has answered a request, Flask lets nobody register anything more.
    state.placed = app._got_first_request


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
        if late and _is_in(Signal.send.__code__):  # and is not going to call us any more
            setattr(app_context, GONE, app_context._cv_tokens[-1])
    if late:
        appcontext_tearing_down.connect(on_appcontext_tearing_down, app)


def _is_tearing_down() -> bool:
    return _is_in(Flask.do_teardown_appcontext.__code__)


def _is_in(code: CodeType) -> bool:
    """Whether a function is running just now that has called this one, or its caller."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False

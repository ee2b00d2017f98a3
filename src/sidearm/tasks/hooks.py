"""Installing tasks in an application; and teardown, the net under whatever ends a context."""

from __future__ import annotations

import functools
import logging
import sys
import weakref
from collections.abc import Callable
from typing import Any

from flask import (
    Flask,
    appcontext_tearing_down,
    got_request_exception,
    request_started,
    request_tearing_down,
)

from . import bodies, outcome
from .commands import COMMAND, command_line
from .context import ANSWERED, AT_TEARDOWN, FAILED, GONE, TASK, inherited, note_route, reopen
from .flask_contexts import (
    MERGED,
    app_context_of,
    current_app_context,
    current_request_context,
    own_method,
    push_of,
)
from .late import run_late
from .outcome import Decision
from .requests import ExceptionWatch, on_got_request_exception, settle_request
from .state import apps, state_of
from .task import OPEN, Task, combine

logger = logging.getLogger("sidearm.tasks")


def install(app: Flask) -> None:
    """Hook tasks into an application; changes nothing that others can see."""
    state = state_of(app)
    state.place_hooks = _place
    state.run_late = run_late
    state.reopen = reopen
    apps.add(app)
    got_request_exception.connect(on_got_request_exception, app)
    app.do_teardown_request = _watch_request_teardown(app)  # type: ignore[method-assign]
    app.do_teardown_appcontext = _watch_context_teardown(app)  # type: ignore[method-assign]
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

    The first of the ``after_request`` functions runs last.
    """
    state = state_of(app)
    watch = app.__dict__.get("handle_user_exception")
    if watch is None or watch is not state.watch:
        state.watch = app.handle_user_exception = ExceptionWatch(app, watch)  # type: ignore[assignment,method-assign]
    # Another thread may be walking through the old list: it stays as it is.
    functions = app.after_request_funcs[None]
    if functions[:1] != [settle_request]:
        others = [function for function in functions if function is not settle_request]
        app.after_request_funcs[None] = [settle_request, *others]
    after = app.after_request_funcs
    state.others_come_after = len(after) > 1 or len(after[None]) > 1
    # Once it has answered a request, Flask lets nobody register anything more.
    state.placed = app._got_first_request


# -- teardown


_OWN_FOR_REQUESTS = own_method("do_teardown_request")
_OWN_FOR_CONTEXTS = own_method("do_teardown_appcontext")


def _watch_request_teardown(app: Flask) -> Callable[..., None]:
    """``app.do_teardown_request``, around all functions that it calls.

    It settles what a request left open: it was pushed by hand, or a ``BaseException`` ended it.
    A teardown function of our own would cost four times as much in every request. Others' would run
    before it, one that raises would skip it, and what they claim would be settled by nobody.
    """
    reference = weakref.ref(app)  # an application must be freed with its last reference
    inner: Callable[..., None] | None = app.__dict__.get("do_teardown_request")

    @functools.wraps(Flask.do_teardown_request)
    def do_teardown_request(*args: Any, **named: Any) -> None:
        app: Any = reference()
        request_context = current_request_context(None)
        task: Task | None = getattr(request_context, TASK, None)
        errors: list[BaseException] = []
        if task is not None and (task.round.state is OPEN or task.late):
            errors = _settle_request(task, _exception_in(args, named), request_context)
        raised: BaseException | None = None
        try:
            if inner is not None:
                inner(*args, **named)
            elif (
                app.teardown_request_funcs
                or request_tearing_down.receivers
                or type(app).do_teardown_request is not _OWN_FOR_REQUESTS
            ):
                type(app).do_teardown_request(app, *args, **named)
        except BaseException as exc:
            raised = exc
            errors.append(exc)
        task = getattr(request_context, TASK, None)
        if task is not None and not MERGED:  # else more is to come of its application context
            task.torn_down = push_of(request_context)
        # What a teardown function has claimed is in a round of its own.
        if task is not None and task.round.state is OPEN:
            ended_by = raised or _exception_in(args, named)
            errors += _settle_request(task, ended_by, request_context)
        if task is None or task.failed is not None:
            _hand_failure_down(task, request_context)
        if errors:
            raise combine(errors)

    return do_teardown_request


def _hand_failure_down(task: Task | None, request_context: Any) -> None:
    """Let the application context, whose teardown follows, know that its request failed."""
    if task is not None:
        failed = task.failed
    else:
        answered = getattr(request_context, ANSWERED, None)
        failed = None if answered is None else inherited(answered)
    if failed is not None and not MERGED:
        app_context = app_context_of(request_context)
        if app_context is not None:
            setattr(app_context, FAILED, failed)


def _watch_context_teardown(app: Flask) -> Callable[..., None]:
    """``app.do_teardown_appcontext``, around all functions that it calls, and its signal.

    It settles the task of an application context that was pushed by hand or by a command: first, so
    that sessions are settled before their extension removes them; and what teardown functions and
    receivers of signals have claimed, when all of them have run.
    """
    reference = weakref.ref(app)
    inner: Callable[..., None] | None = app.__dict__.get("do_teardown_appcontext")

    @functools.wraps(Flask.do_teardown_appcontext)
    def do_teardown_appcontext(*args: Any, **named: Any) -> None:
        app: Any = reference()
        app_context: Any = current_app_context(None)
        values: dict[str, Any] = app_context.__dict__ if app_context is not None else {}
        errors: list[BaseException] = []
        runs = bool(
            inner is not None
            or app.teardown_appcontext_funcs
            or appcontext_tearing_down.receivers
            or type(app).do_teardown_appcontext is not _OWN_FOR_CONTEXTS
        )
        if TASK in values or COMMAND in values or AT_TEARDOWN in values:
            errors = _settle_context(app_context, _exception_in(args, named))
            if errors:  # they are told, and none of them is skipped
                args, named = (*args[:-1], errors[0]), {}
        elif not runs:
            return
        raised: BaseException | None = None
        try:
            if inner is not None:
                inner(*args, **named)
            elif runs:
                type(app).do_teardown_appcontext(app, *args, **named)
        except BaseException as exc:
            raised = exc
            errors.append(exc)
        if TASK in values or COMMAND in values:
            errors += _settle_for_good(app_context, raised or _exception_in(args, named))
        if errors:
            raise combine(errors)

    return do_teardown_appcontext


def _exception_in(args: tuple[Any, ...], named: dict[str, Any]) -> BaseException | None:
    """What a method of Flask's was told of how a context ends."""
    given = (*args, *named.values())
    if not given:
        return sys.exc_info()[1]
    return given[-1] if isinstance(given[-1], BaseException) else None


def _settle_request(
    task: Task, exc: BaseException | None, request_context: Any
) -> list[BaseException]:
    """Settle what is open, and run what has waited for a response that never came."""
    note_route(task, request_context)
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
        elif round_.kind == "body" and exc is not None:
            # What ended the body goes on. What failed since was logged when it failed.
            for error in errors:
                exc.add_note(f"While rolling back, also: {type(error).__qualname__}: {error}")
            errors = []
    except BaseException as fatal:  # raised when the teardown functions have run
        errors = [fatal]
    no_response = exc is not None and not isinstance(exc, Exception)
    if round_.kind != "body" and (no_response or (opened and not task.closes)):
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


def _settle_context(app_context: Any, exc: BaseException | None) -> list[BaseException]:
    values: dict[str, Any] = app_context.__dict__
    for call in values.pop(AT_TEARDOWN, ()):
        call()
    errors: list[BaseException] = []
    line = command_line()
    task = line.tasks.get(app_context) if line is not None else None
    if line is not None and task is not None:
        errors += _settle(task, line.decide(task, exc))
        line.forget(app_context)
    task = values.get(TASK)
    if task is not None and task.kind == "context":
        errors += _settle(task, values.get(FAILED) or outcome.by_leaving(exc, task))
        # It is not there any more for what comes: a teardown function, or another push.
        values.pop(TASK, None)
    elif task is not None and task.round.state is OPEN:  # a request's, which has this context too
        errors += _settle_request(task, exc, app_context)
    return errors


def _settle_for_good(app_context: Any, exc: BaseException | None) -> list[BaseException]:
    """Settle what teardown functions have claimed; whoever claims from now on is too late."""
    task: Task | None = app_context.__dict__.get(TASK)
    if task is not None and task.kind != "context":  # a request's, whose context this is too
        task.torn_down = push_of(app_context)
    errors = _settle_context(app_context, exc)
    setattr(app_context, GONE, push_of(app_context))
    return errors


def _settle(task: Task, decision: Decision) -> list[BaseException]:
    errors: list[BaseException] = []
    for step in (functools.partial(task.round.settle, decision), functools.partial(run_late, task)):
        try:
            errors += step() or ()
        except BaseException as fatal:
            errors.append(fatal)
    return errors

"""Where tasks meet requests: the response that settles them, and exceptions on their way.

Flask has no hook that fits: teardown functions run after the response has been built, sometimes
twice and sometimes not at all, and see no exception that was handled. So a request settles in the
``after_request`` function that runs last: after the application's own, before the session is saved
and the first byte leaves. And ``handle_user_exception`` is the one method that is wrapped: it sees
every exception that leaves a view, also those that an error handler turns into a page.
"""

from __future__ import annotations

import functools
import logging
import operator
import weakref
from collections.abc import Callable
from time import time
from typing import Any, cast

from flask import Flask, Response, got_request_exception
from werkzeug.exceptions import InternalServerError

from . import outcome
from .bodies import StreamedBody, is_streamed
from .context import ANSWERED, TASK, begin_request, inherited, note_route
from .flask_contexts import context_first, current_request_context, replace_session
from .late import run_at_close, run_late
from .outcome import Decision
from .records import keep
from .state import TaskState, state_of
from .task import CLOSED, OPEN, Task, combine

logger = logging.getLogger("sidearm.tasks")

_first = operator.itemgetter(0)

#: Headers that nothing looks at.
_PLAIN = frozenset(
    {"Cache-Control", "Content-Length", "Content-Type", "Date", "ETag", "Set-Cookie", "Vary"}
)

#: Where a snapshot of headers hangs on a request context.
_HEADERS = "_sidearm_headers"


# Every request comes by: a call for each step would cost more than the step.
def settle_request(response: Response) -> Response:  # noqa: C901, PLR0912
    """Settle the request's task: the ``after_request`` function that runs last."""
    request_context: Any = current_request_context(None)
    task: Task | None = getattr(request_context, TASK, None)
    state: TaskState = request_context.app.extensions["sidearm"] if task is None else task.state
    # Almost every response has these and no others, which is cheaper to see.
    if state.last_look is not None and not _PLAIN.issuperset(map(_first, response.headers)):
        response = state.last_look(response)
        task = getattr(request_context, TASK, None)
    # A body that is a list is there already, which is cheaper to see than ``is_streamed``.
    streams = type(response.response) is not list and is_streamed(response)
    if task is None:
        if not streams:
            _record_untouched(request_context, response)
            return response
        task = begin_request(request_context)
    round_ = task.round
    if round_.state is not OPEN:  # an after_request function called another one by hand
        return response
    facts = task.facts
    if facts[3] is None:
        note_route(task, request_context)
    facts[0] = response.status_code
    decision = round_.decided
    if decision is None or (decision.commit and task.doomed is not None):
        if not task.spoke and state.rule is None:
            decision = state.decide(facts[0])
        else:
            decision = outcome.by_response(
                response, facts[0], task, state.rule, state.fail_statuses
            )
    try:
        errors = round_.settle(decision)
    except BaseException:  # of a callback: what was committed is followed by what belongs to it
        run_late(task)
        raise
    if errors:
        response = _commit_failed(task.app, request_context, task, response, errors)
        decision = Decision(False, "its commit failed")
    if not decision.commit:
        task.failed = inherited(decision)
    if streams and is_streamed(response):
        response.response = StreamedBody(task, response.response)
    if streams or task.late:
        run_at_close(task, response)
    return response


def _record_untouched(request_context: Any, response: Response) -> None:
    app = request_context.app
    state = state_of(app)
    request = request_context.request
    status = response.status_code
    facts = [status, None, "request", request.url_rule, request.method]
    decision = state.decide(status)
    setattr(request_context, ANSWERED, decision)
    keep((facts, "work", decision, (), (), (), (), 0, 0, time()), state.records, app)


def _commit_failed(
    app: Flask,
    request_context: Any,
    task: Task,
    response: Response,
    errors: list[BaseException],
) -> Response:
    """Answer for work that was not saved: by the application's error handlers, without it.

    Raises:
        BaseException: Where the application wants errors to propagate, or if it is none that a
            handler may see.
    """
    task.new_round("error page", decided=Decision(False, "the commit before it failed"))
    # What the failed work put into the session must not leave.
    try:
        _reopen_session(app, request_context)
    except Exception as exc:
        logger.exception("Task %r: the session could not be opened again.", task.name)
        errors.append(exc)
    original = getattr(request_context, _HEADERS, None)
    answer: Response = app.make_response(_answer_for(app, errors))
    if task.state.last_look is not None:
        answer = task.state.last_look(answer)
    response.close()
    if original is not None:
        _pass_headers_on(original, response, answer)
    task.facts[0] = answer.status_code
    task.round.settle(task.round.decided or Decision(False, "an error page"))
    return answer


def answer_instead(response: Response, error: Exception) -> Response:
    """Answer by the application's error handlers in place of a response that must not leave.

    Args:
        response: What ``after_request`` functions have seen already.
        error: Why it must not.

    Returns:
        The handler's response, or the 500 page, with the headers that those functions had added.

    Raises:
        Exception: The error, where the application wants errors to propagate.
    """
    request_context: Any = current_request_context(None)
    original = getattr(request_context, _HEADERS, None)
    app = request_context.app
    answer = app.make_response(_answer_for(app, [error]))
    response.close()
    if original is not None:
        _pass_headers_on(original, response, answer)
    return cast("Response", answer)


def _reopen_session(app: Flask, request_context: Any) -> None:
    interface = app.session_interface
    session = interface.open_session(app, request_context.request)
    if session is None:
        session = interface.make_null_session(app)
    replace_session(request_context, session)


def _answer_for(app: Flask, errors: list[BaseException]) -> Any:
    """What Flask would answer for errors, without running anything a second time.

    The first error is the one whose class chooses the handler; where none is registered, all
    of them go on together.
    """
    first = errors[0] if isinstance(errors[0], Exception) else combine(errors)
    for further in errors[1:]:
        first.add_note(f"While settling, also: {type(further).__qualname__}: {further}")
    try:
        raise first
    except Exception as exc:
        try:
            arguments: Any = (*context_first(), exc)
            return app.handle_user_exception(*arguments)
        except Exception as unhandled:
            if unhandled is exc and len(errors) > 1:
                unhandled = cast("Exception", combine(errors))
            return _unhandled(app, unhandled)


def _unhandled(app: Flask, exc: Exception) -> Any:
    propagate = app.config["PROPAGATE_EXCEPTIONS"]
    if propagate is None:
        propagate = app.testing or app.debug
    if propagate:
        raise exc
    got_request_exception.send(app, _async_wrapper=app.ensure_sync, exception=exc)
    methods: Any = app  # they take other arguments in Flask 3.2
    methods.log_exception(*context_first(), (type(exc), exc, exc.__traceback__))
    error = InternalServerError(original_exception=exc)
    return methods.handle_http_exception(*context_first(), error)


def snapshot_headers(response: Response) -> None:
    """Remember the headers of a request's response before ``after_request`` functions see it.

    Args:
        response: What ``app.make_response`` has made.
    """
    request_context: Any = current_request_context(None)
    task: Task | None = getattr(request_context, TASK, None)
    if task is not None and (
        task.state.others_come_after or request_context._after_request_functions
    ):
        setattr(request_context, _HEADERS, response.headers.to_wsgi_list())


#: Headers that describe a body, or a place, of the response that is not sent after all.
_OF_THE_BODY = frozenset(
    {"etag", "last-modified", "location", "transfer-encoding", "accept-ranges", "set-cookie"}
)


def _pass_headers_on(original: list[tuple[str, str]], before: Response, answer: Response) -> None:
    """Give an error page the headers that ``after_request`` functions had added."""
    known = set(original)
    names = {name.lower() for name, _ in answer.headers}
    for name, value in before.headers:
        lower = name.lower()
        if (name, value) in known or lower in _OF_THE_BODY or lower.startswith("content-le"):
            continue
        if lower in ("content-type", "content-encoding", "content-range") or lower in names:
            continue
        answer.headers.add(name, value)


# -- exceptions


class ExceptionWatch:
    """``app.handle_user_exception``, seeing every exception before its handler does.

    It holds the application weakly: an application must be freed with its last reference.
    """

    def __init__(self, app: Flask, inner: Callable[..., Any] | None) -> None:
        self._app = weakref.ref(app)
        self._inner = inner

    def __call__(self, *args: Any) -> Any:
        app = cast("Flask", self._app())
        inner: Callable[..., Any] = self._inner or functools.partial(
            type(app).handle_user_exception, app
        )
        exc: Exception = args[-1]
        errors = exception_left(app, exc)
        if not errors:
            return inner(*args)
        error = combine(errors)
        if not isinstance(error, Exception):
            raise error from exc
        # The failed rollback is the graver news: its handler gets its turn, and it tells both.
        try:
            raise error from exc
        except Exception as raised:
            args = (*args[:-1], raised)
            return inner(*args)


def exception_left(app: Flask, exc: BaseException) -> list[BaseException]:
    """Roll back at once if an exception that leaves the view fails the task.

    So that an error handler finds no half-done transaction, and what it claims is claimed anew.

    Returns:
        The errors of the rollback.
    """
    request_context: Any = current_request_context(None)
    if request_context is None or request_context.app is not app:
        return []
    state = state_of(app)
    task: Task | None = getattr(request_context, TASK, None)
    if task is None:
        task = begin_request(request_context)
        if ANSWERED in request_context.__dict__:
            task.round.settle(request_context.__dict__[ANSWERED])
    round_ = task.round
    note_route(task, request_context)
    if round_.state is CLOSED or round_.kind == "teardown":
        # The answer failed after its work was settled: while the session was saved, for one.
        return _begin_error_page(task, exc)
    if round_.state is not OPEN or round_.cause is exc:
        return []
    if round_.decided is not None and not round_.decided.commit:
        return []
    round_.cause = exc
    decision = outcome.by_exception(exc, task, state.rule, state.fail_statuses)
    if decision is None or decision.commit:
        round_.decided = decision
        return []
    errors = round_.settle(decision)
    task.new_round("error page", decided=decision)
    return errors


def _begin_error_page(task: Task, exc: BaseException) -> list[BaseException]:
    decision = Decision(False, f"exception {type(exc).__qualname__} after it had settled")
    errors = task.round.settle(decision)
    reopened = task.state.reopen(task)
    if reopened is not None:
        reopened.kind, reopened.decided = "error page", decision
    return errors


def on_got_request_exception(app: Flask, exception: BaseException, **_: Any) -> None:
    """See exceptions that were raised outside the view: in conversion or ``after_request``."""
    if "sidearm" not in app.extensions:
        return
    errors = exception_left(app, exception)
    for error in errors:
        if not isinstance(error, Exception):
            raise combine(errors)
        exception.add_note(f"While rolling back, also: {type(error).__qualname__}: {error}")

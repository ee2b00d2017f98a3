"""Where tasks meet Flask's contexts and hooks. Nothing else in Sidearm touches those.

Strategy. Flask has no hook that fits: teardown functions run after the response has been
built, sometimes twice and sometimes not at all, and see no exception that was handled. So:

* A task lives on the context object that owns it: on the request context where one runs, also
  where Flask 3.1 lends it an application context that somebody keeps pushed, and else on the
  application context. ``arm.task()`` blocks are found by a context variable, so that new
  threads have none and ``copy_context()`` carries it along.
* A request settles in the ``after_request`` function that runs last: after the application's
  own, before the session is saved and the first byte leaves.
* ``handle_user_exception`` is the one method that is wrapped: it sees every exception that
  leaves a view, also those that an error handler turns into a page.
* Teardown is the net under all of this, for whatever else ends a context.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar, Token
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import click
from flask import (
    Flask,
    Response,
    after_this_request,
    appcontext_tearing_down,
    got_request_exception,
)
from flask.globals import _cv_app, _cv_request
from werkzeug.exceptions import InternalServerError
from werkzeug.local import LocalProxy

from ..exceptions import OutsideTask
from . import outcome
from .claims import Resource
from .outcome import Decision
from .records import Record
from .task import OPEN, Task, combine, keep

if TYPE_CHECKING:
    from flask.ctx import AppContext

#: Where a task hangs on its context object, a command's task on its application context (for
#: threads that carry it along), and a header snapshot on a request context.
_TASK = "_sidearm_task"
_COMMAND = "_sidearm_command"
_HEADERS = "_sidearm_headers"

#: click before 8.3 closes a context without the exception that ends it.
_CLICK_HIDES_ERRORS = tuple(map(int, version("click").split(".")[:2])) < (8, 3)

_block: ContextVar[tuple[Task, Any] | None] = ContextVar("sidearm_block", default=None)

#: Every application that has Sidearm, for what works without a context.
_apps: weakref.WeakSet[Flask] = weakref.WeakSet()


class TaskState:
    """What the tasks of one application share; a part of ``app.extensions["sidearm"]``.

    Attributes:
        fail_statuses: Statuses that fail a task.
        records: The latest records, oldest first.
        joining: Resources whose sessions can be open without having been claimed.
    """

    def __init__(self, fail_statuses: Any, record_count: int) -> None:
        self.fail_statuses = fail_statuses
        self.records: deque[Record] = deque(maxlen=record_count)
        self.joining: list[Resource] = []

    @property
    def rule(self) -> outcome.OutcomeRule | None:
        """The application's own outcome rule."""
        return None


# -- finding the task


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
        task: Task | None = request_context.__dict__.get(_TASK)
        return _begin_request(request_context) if task is None and create else task
    line = _command_line()
    if line is not None:
        task = line.tasks.get(app_context)
        return line.begin(app_context) if task is None and create else task
    held = app_context.__dict__
    task = held.get(_COMMAND) or held.get(_TASK)
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


def the_app(what: str, among: weakref.WeakSet[Flask] = _apps) -> Flask:
    """The application that a call is about, also where no context is pushed.

    Args:
        what: The call, for the error.
        among: The applications to choose from where no context is pushed.

    Returns:
        The current application, or else the only one of this process that has Sidearm.

    Raises:
        RuntimeError: There is none, or several.
    """
    app_context = _cv_app.get(None)
    if app_context is not None:
        return app_context.app
    apps = list(among)
    if len(apps) == 1:
        return apps[0]
    found = "no application" if not apps else f"{len(apps)} applications"
    raise RuntimeError(
        f"{what} is for one application, and this process has {found} with Sidearm. Use it inside"
        " 'with app.app_context():'."
    )


def state_of(app: Flask) -> Any:
    """The state that Sidearm keeps for an application.

    Raises:
        RuntimeError: Sidearm is not installed on it.
    """
    try:
        return app.extensions["sidearm"]
    except KeyError:
        raise RuntimeError(
            f"The application {app.name!r} has no Sidearm. Call arm.init_app(app), or give the"
            " application to Sidearm(app)."
        ) from None


def _begin_request(request_context: Any) -> Task:
    app = request_context.app
    state = state_of(app)
    _be_outermost(app)
    request = request_context.request
    rule = request.url_rule
    task = Task(app, request.endpoint or "no endpoint", "request", state.records)
    task.request = (request.endpoint, rule.rule if rule is not None else None, request.method)
    after_this_request(snapshot_headers)
    setattr(request_context, _TASK, task)
    return task


def _begin_context(app_context: Any) -> Task:
    app = app_context.app
    state = state_of(app)
    _be_outermost(app)
    task = Task(app, "context", "context", state.records)
    setattr(app_context, _TASK, task)
    return task


# -- blocks


class TaskBlock:
    """``with arm.task("name"):`` - a task of its own, also inside another one.

    Entering gives the :class:`Task`. Leaving it commits, or rolls back if an exception leaves.
    """

    def __init__(self, name: str, apps: weakref.WeakSet[Flask], resources: list[Resource]) -> None:
        if not isinstance(name, str) or not name:  # type: ignore[redundant-expr]
            raise TypeError(f"A task's name is {name!r}. Give a short text, such as 'import'.")
        self._name = name
        self._apps = apps
        self._resources = resources
        self._stack: list[tuple[Task, AppContext, Token[Any], list[Callable[[], None]]]] = []

    def __enter__(self) -> Task:
        app = the_app(f"arm.task({self._name!r})", self._apps)
        state = state_of(app)
        _be_outermost(app)
        resumes = [resume for each in self._resources if (resume := each.suspend())]
        app_context = app.app_context()
        app_context.push()
        task = Task(app, self._name, "task", state.records)
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
                errors = task.round.settle(outcome.by_leaving(exc, task.intent))
            finally:
                _block.reset(token)
            if errors:
                raise combine(errors)
        finally:
            app_context.pop(exc)
            for resume in reversed(resumes):
                resume()


# -- requests


def settle_request(response: Response) -> Response:
    """Settle the request's task: the ``after_request`` function that runs last."""
    request_context: Any = _cv_request.get()
    app = request_context.app
    state = state_of(app)
    task: Task | None = request_context.__dict__.get(_TASK)
    streams = response.is_streamed and not response.direct_passthrough
    if task is None:
        if not streams:
            _record_untouched(request_context, state, response)
            return response
        task = _begin_request(request_context)
    round_ = task.round
    if round_.state is not OPEN:  # after_request functions run again for an error page
        return response
    decision = round_.decided or outcome.by_response(
        response, task.intent, state.rule, state.fail_statuses
    )
    errors = round_.settle(decision)
    _tell_status(task, response)
    if errors:
        response = _commit_failed(app, request_context, task, response, errors)
    if streams and response.is_streamed:
        response.response = _StreamedBody(task, response.response)
    return response


def _record_untouched(request_context: Any, state: TaskState, response: Response) -> None:
    request = request_context.request
    status = response.status_code
    record = Record(
        request.endpoint or "no endpoint",
        "request",
        "work",
        committed=status not in state.fail_statuses,
        decided_by=f"status {status}",
    )
    rule = request.url_rule
    record.endpoint = request.endpoint
    record.url_rule = rule.rule if rule is not None else None
    record.method = request.method
    record.status = status
    keep(record, state.records, request_context.app)


def _tell_status(task: Task, response: Response) -> None:
    """Write the final status into this request's records; the ring holds them already."""
    for record in task.unanswered:
        record.status = response.status_code
    task.unanswered.clear()


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
    # What the failed work put into the session must not leave.
    _reopen_session(app, request_context)
    task.new_round("error page", decided=Decision(False, "the commit before it failed"))
    answer = app.make_response(_answer_for(app, errors))
    response.close()
    _pass_headers_on(request_context, response, answer)
    task.round.settle(task.round.decided or Decision(False, "an error page"))
    _tell_status(task, answer)
    return answer


def _reopen_session(app: Flask, request_context: Any) -> None:
    interface = app.session_interface
    session = interface.open_session(app, request_context.request)
    if session is None:
        session = interface.make_null_session(app)
    # Setting the public attribute marks the session as looked at in Flask 3.1.3; it has no setter.
    name = "_session" if "_session" in request_context.__dict__ else "session"
    setattr(request_context, name, session)
    request_context.flashes = None


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
            return app.handle_user_exception(exc)
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
    app.log_exception((type(exc), exc, exc.__traceback__))  # type: ignore[arg-type]
    return app.handle_http_exception(InternalServerError(original_exception=exc))


def snapshot_headers(response: Response) -> Response:
    """Remember a response's headers before other ``after_request`` functions see it."""
    request_context = _cv_request.get()
    setattr(request_context, _HEADERS, list(response.headers))
    return response


#: Headers that describe a body, or a place, of the response that is not sent after all.
_OF_THE_BODY = frozenset(
    {"etag", "last-modified", "location", "transfer-encoding", "accept-ranges", "set-cookie"}
)


def _pass_headers_on(request_context: Any, before: Response, answer: Response) -> None:
    """Give an error page the headers that ``after_request`` functions had added."""
    original = request_context.__dict__.get(_HEADERS)
    if original is None:
        return
    known = set(original)
    names = {name.lower() for name, _ in answer.headers}
    for name, value in before.headers:
        lower = name.lower()
        if (name, value) in known or lower in _OF_THE_BODY or lower.startswith("content-le"):
            continue
        if lower in ("content-type", "content-encoding", "content-range") or lower in names:
            continue
        answer.headers.add(name, value)


class _StreamedBody:
    """A body that is made while it is sent; from its first piece on the task takes no claims."""

    def __init__(self, task: Task, body: Any) -> None:
        self._task = task
        self._body = body
        self._pieces: Any = None

    def __iter__(self) -> _StreamedBody:
        return self

    def __next__(self) -> Any:
        if self._pieces is None:
            self._task.streaming = True
            self._pieces = iter(self._body)
        return next(self._pieces)

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            close()


# -- exceptions


class _ExceptionWatch:
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
            return inner(*args[:-1], raised)


def exception_left(app: Flask, exc: BaseException) -> list[BaseException]:
    """Roll back at once if an exception that leaves the view fails the task.

    So that an error handler finds no half-done transaction, and what it claims is claimed anew.

    Returns:
        The errors of the rollback.
    """
    request_context: Any = _cv_request.get(None)
    if request_context is None or request_context.app is not app:
        return []
    state = state_of(app)
    task: Task | None = request_context.__dict__.get(_TASK)
    if task is None:
        task = _begin_request(request_context)
    round_ = task.round
    if round_.state is not OPEN or round_.cause == id(exc):
        return []
    if round_.decided is not None and not round_.decided.commit:
        return []
    round_.cause = id(exc)
    decision = outcome.by_exception(exc, task.intent, state.rule, state.fail_statuses)
    if decision is None or decision.commit:
        round_.decided = decision
        return []
    errors = round_.settle(decision)
    task.new_round("error page", decided=decision)
    return errors


def on_got_request_exception(app: Flask, exception: BaseException, **_: Any) -> None:
    """See exceptions that were raised outside the view: in conversion or ``after_request``."""
    if "sidearm" in app.extensions:
        exception_left(app, exception)


# -- teardown: the net


def settle_torn_down_request(exc: BaseException | None) -> None:
    """Settle what a request left open: it was pushed by hand, or a ``BaseException`` ended it."""
    request_context: Any = _cv_request.get(None)
    task: Task | None = request_context.__dict__.get(_TASK) if request_context else None
    if task is not None and task.round.state is OPEN:
        decision = task.round.decided or outcome.by_leaving(exc, task.intent)
        _settle(task, decision, task.app.teardown_request_funcs[None])


def settle_torn_down_context(exc: BaseException | None) -> None:
    """Settle the task of an application context that was pushed by hand or by a command."""
    app_context: Any = _cv_app.get(None)
    if app_context is None:
        return
    line = _command_line()
    task: Task | None = line.tasks.pop(app_context, None) if line is not None else None
    if task is not None and line is not None and task.round.state is OPEN:
        _settle(task, line.decide(task, exc), task.app.teardown_appcontext_funcs)
    task = app_context.__dict__.get(_TASK)
    if task is not None and task.round.state is OPEN:
        decision = outcome.by_leaving(exc, task.intent)
        _settle(task, decision, task.app.teardown_appcontext_funcs)


def on_appcontext_tearing_down(app: Flask, exc: BaseException | None = None, **_: Any) -> None:
    """Settle what another extension's teardown function claimed after ours had run."""
    if "sidearm" in app.extensions:
        settle_torn_down_context(exc)


def _settle(task: Task, decision: Decision, others: list[Any]) -> None:
    """Settle in a teardown; what fails is raised, but skips no other teardown function."""
    errors = task.round.settle(decision)
    if not errors:
        return
    for function in reversed(others[:-1]):  # ours is the last, and runs first
        try:
            task.app.ensure_sync(function)(errors[0])
        except BaseException as exc:
            errors.append(exc)
    raise combine(errors)


# -- commands


class _CommandLine:
    """One run of a command line: its tasks, and how it ends, which teardown does not tell reliably.

    click 8.1 and 8.2 close a context without the exception that ends it, newer ones with it;
    ``ctx.exit(3)`` closes first and raises then. And a test's fixture may lend the command an
    application context, which is not torn down when the command ends: so its tasks settle when
    the application context does or when the outermost click context closes, whichever is first.

    Attributes:
        tasks: The tasks that have not settled, by their application contexts.
    """

    def __init__(self) -> None:
        self.tasks: dict[Any, Task] = {}
        self._waits = False
        self._exit_code: int | None = None
        self._is_shell = False

    def begin(self, app_context: Any) -> Task:
        """Begin the task of a command in an application context that it pushed or was lent."""
        app = app_context.app
        state = state_of(app)
        _be_outermost(app)
        click_context = click.get_current_context()
        program, _, name = click_context.command_path.partition(" ")
        task = Task(app, name or program, "command", state.records)
        root = self._watch(click_context)
        if not self._waits:
            root.with_resource(self)
            self._waits = True
        self.tasks[app_context] = task
        setattr(app_context, _COMMAND, task)
        return task

    def _watch(self, click_context: click.Context) -> click.Context:
        """Remember the codes that contexts are left with; returns the outermost context."""
        while True:
            self._is_shell = self._is_shell or click_context.command.name == "shell"
            if "exit" not in click_context.__dict__:
                self._watch_exit(click_context)
            if click_context.parent is None:
                return click_context
            click_context = click_context.parent

    def _watch_exit(self, click_context: click.Context) -> None:
        leave = click_context.exit

        def exit_(code: int = 0) -> Any:
            self._exit_code = code
            return leave(code)

        click_context.exit = exit_  # type: ignore[method-assign]

    def __enter__(self) -> None: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._waits = False
        errors: list[BaseException] = []
        while self.tasks:
            app_context, task = self.tasks.popitem()
            app_context.__dict__.pop(_COMMAND, None)
            errors += task.round.settle(self.decide(task, exc))
        if errors:
            raise combine(errors)

    def decide(self, task: Task, exc: BaseException | None) -> Decision:
        """The outcome: exit status 0 commits, anything else and the shell roll back."""
        if self._is_shell:
            return Decision(False, "flask shell: only what you commit by hand is kept")
        if task.intent.doomed is not None:
            return Decision(False, f"doomed: {task.intent.doomed}")
        if exc is None and _CLICK_HIDES_ERRORS:
            exc = _exception_of_command()
        code = self._code(exc)
        if code is None:
            return outcome.by_leaving(exc, task.intent)
        if code == 0 or task.intent.kept:
            return Decision(True, "kept" if code else "exit status 0")
        return Decision(False, f"exit status {code}")

    def _code(self, exc: BaseException | None) -> Any:
        if isinstance(exc, SystemExit):
            return exc.code or 0
        if isinstance(exc, click.exceptions.Exit):
            return exc.exit_code
        if exc is None:
            return self._exit_code or 0
        return None


def _exception_of_command() -> BaseException | None:
    """The exception that is ending the command, where click does not pass it on.

    One that the caller of a test's runner is handling is none of the command's: it was caught in
    a frame that is outside of click's ``main``.
    """
    exc = sys.exc_info()[1]
    if exc is None or exc.__traceback__ is None:
        return exc
    outermost, frame = exc.__traceback__.tb_frame, sys._getframe()
    main = click.Command.main.__code__
    while frame is not outermost and frame.f_back is not None:
        if frame.f_code is main:
            return None
        frame = frame.f_back
    return exc


def _command_line() -> _CommandLine | None:
    """The run of the command that is under way in this thread, if there is one."""
    click_context = click.get_current_context(silent=True)
    if click_context is None:
        return None
    line: _CommandLine = click_context.meta.setdefault("sidearm", _CommandLine())
    # click leaves a context on its stack if closing it fails, although that command is over.
    under_way = line.tasks or getattr(click_context, "_depth", 1) > 0
    return line if under_way else None


# -- installing


def install(app: Flask) -> None:
    """Hook tasks into an application; changes nothing that others can see."""
    after = app.after_request_funcs.setdefault(None, [])
    after.insert(0, settle_request)  # the first of the list runs last
    _apps.add(app)
    got_request_exception.connect(on_got_request_exception, app)
    appcontext_tearing_down.connect(on_appcontext_tearing_down, app)
    app.teardown_request_funcs.setdefault(None, []).append(settle_torn_down_request)
    app.teardown_appcontext_funcs.append(settle_torn_down_context)
    _be_outermost(app)


def _be_outermost(app: Flask) -> None:
    """Stay outside what was registered or wrapped since: extensions come in any order.

    The last teardown function runs first, so one of another extension that raises cannot skip
    ours, and sessions are settled before their extension removes them.
    """
    watch = app.__dict__.get("handle_user_exception")
    if not isinstance(watch, _ExceptionWatch):
        app.handle_user_exception = _ExceptionWatch(app, watch)  # type: ignore[assignment,method-assign]
    for functions, ours in (
        (app.teardown_request_funcs[None], settle_torn_down_request),
        (app.teardown_appcontext_funcs, settle_torn_down_context),
    ):
        if functions[-1] is not ours:
            functions.remove(ours)
            functions.append(ours)
    after = app.after_request_funcs[None]
    if after[0] is not settle_request:
        after.remove(settle_request)
        after.insert(0, settle_request)

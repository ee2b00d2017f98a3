"""What the code of a task says: ``after_commit`` and its kin, ``commit_on``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn, TypeVar, cast

from ..exceptions import OutsideTask
from .callbacks import Held, check_callable, name_of
from .context import find_task, require_task
from .late import held_until_response

F = TypeVar("F", bound=Callable[..., Any])


def after_commit(callback: F) -> F:
    """Run a callback after the commit of what is being done now; a decorator, as on the slide.

    Callbacks run in the order of registration, after every resource has committed and before
    they are released. What one claims or writes is committed when it returns. One that raises
    is logged and signalled, and the rest run. None runs after a rollback.

    Args:
        callback: A function without arguments.

    Returns:
        The callback itself.

    Raises:
        TypeError: It cannot be called.
        OutsideTask: There is no task.
        TaskSettled: The task's outcome is already decided.
    """
    task = find_task(create=True)
    if task is None or not callable(callback):
        _refuse("after_commit", callback)
    task.hold(Held(callback, sys._getframe(1)))
    return callback


def after_rollback(callback: F) -> F:
    """Run a callback after a rollback of what is being done now; the mirror of ``after_commit``.

    Args:
        callback: A function without arguments.

    Returns:
        The callback itself.

    Raises:
        TypeError: It cannot be called.
        OutsideTask: There is no task.
        TaskSettled: The task's outcome is already decided.
    """
    task = find_task(create=True)
    if task is None or not callable(callback):
        _refuse("after_rollback", callback)
    task.hold(Held(callback, sys._getframe(1), on="rollback"))
    return callback


def after_response(callback: F) -> F:
    """Run a callback when the response has been sent, if what is being done now commits.

    For what is slow, and need not be done before the client has its answer: by then every resource
    has been given back. It runs once, when the server closes the response, whole or abandoned, in
    a task of its own: what it claims is claimed anew, and commits if it returns. One that raises
    is logged and signalled, and the rest run. Where there is no response (a command, a block) it
    runs when the task has released everything. A process that is killed before forgets it.

    Args:
        callback: A function without arguments.

    Returns:
        The callback itself.

    Raises:
        TypeError: It cannot be called.
        OutsideTask: There is no task.
        TaskSettled: The task's outcome is already decided.
    """
    task = find_task(create=True)
    if task is None or not callable(callback):
        _refuse("after_response", callback)
    task.hold(held_until_response(task, callback, sys._getframe(1)))
    return callback


def _refuse(call: str, callback: Callable[[], Any]) -> NoReturn:
    check_callable(call, callback)
    raise OutsideTask(f"{call}({name_of(callback)})")


def commit_on(*statuses: int) -> Callable[[F], F]:
    """Let a view's task commit although it answers with one of these statuses.

    For work that must be kept when the request fails, such as counting a failed log-in. It works
    on views, methods of class-based views and ``async`` views.

    Args:
        statuses: HTTP status codes, such as ``401, 403``.

    Returns:
        The decorator.

    Raises:
        ValueError: No status was given, or one is none.
    """
    if not statuses or not set(statuses) <= set(range(100, 600)):
        raise ValueError(
            f"commit_on was given {statuses!r}. Give HTTP statuses, such as @commit_on(401, 403)."
        )
    wanted = frozenset(statuses)

    def decorate(view: F) -> F:
        def mark() -> None:
            require_task("commit_on").commit_also_on(wanted)

        if inspect.iscoroutinefunction(view):

            @wraps(view)
            async def wrapped_async(*args: Any, **kwargs: Any) -> Any:
                mark()
                return await view(*args, **kwargs)

            return cast("F", wrapped_async)

        @wraps(view)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            mark()
            return view(*args, **kwargs)

        return cast("F", wrapped)

    return decorate

"""What the code of a task says: ``after_commit``, ``after_rollback``, ``commit_on``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from .callbacks import name_of
from .context import require_task
from .task import check_callable

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
    check_callable("after_commit", callback)
    call = f"after_commit({name_of(callback)})"
    require_task(call).hold("commit", call, callback=callback, caller=sys._getframe(1))
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
    check_callable("after_rollback", callback)
    call = f"after_rollback({name_of(callback)})"
    require_task(call).hold("rollback", call, callback=callback, caller=sys._getframe(1))
    return callback


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
            require_task("commit_on").intent.commit_on |= wanted

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

"""What the tasks of one application share, and finding it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Flask, Response

from . import outcome
from .claims import Resource
from .flask_contexts import current_app_context
from .records import Records

if TYPE_CHECKING:
    from .task import Round, Task

#: Every application that has Sidearm, for what works without a context.
apps: weakref.WeakSet[Flask] = weakref.WeakSet()


class TaskState:
    """What the tasks of one application share; a part of ``app.extensions["sidearm"]``.

    Attributes:
        fail_statuses: Statuses that fail a task.
        rule: The application's own outcome rule.
        records: The latest records, oldest first.
        joining: Resources whose sessions can be open without having been claimed.
        place_hooks: Puts the hooks outside of what other extensions have registered since.
        others_come_after: Whether there are other ``after_request`` functions than ours.
        placed: Whether they stand where they have to, and Flask lets nobody register more.
        first_request: The receiver that places them for good; kept here, since signals do not.
        watch: What stands in the place of ``app.handle_user_exception``.
        run_late: Runs what waited for the end of a task's response.
        last_look: Given a response with unusual headers when ``after_request`` functions have seen
            it, before its task settles; what it returns leaves in its place.
        reopen: Gives a task that has settled another round, if something will settle that.
    """

    def __init__(self, fail_statuses: Any, record_count: int) -> None:
        self.fail_statuses = fail_statuses
        self.rule: outcome.OutcomeRule | None = None
        self.records = Records(record_count)
        self.joining: list[Resource] = []
        self.place_hooks: Callable[[Flask], None]
        self.others_come_after = True
        self.placed = False
        self.first_request: object = None
        self._by_status: dict[int, outcome.Decision] = {}
        self.watch: object = None
        self.run_late: Callable[[Task], None]
        self.last_look: Callable[[Response], Response] | None = None
        self.reopen: Callable[[Task], Round | None]

    def decide(self, status: int) -> outcome.Decision:
        """The decision that a status makes where nothing else does."""
        decision = self._by_status.get(status)
        if decision is None:
            decision = outcome.by_status(status, self.fail_statuses)
            self._by_status[status] = decision
        return decision


def the_app(what: str, among: weakref.WeakSet[Flask] = apps) -> Flask:
    """The application that a call is about, also where no context is pushed.

    Args:
        what: The call, for the error.
        among: The applications to choose from where no context is pushed.

    Returns:
        The current application, or else the only one of this process that has Sidearm.

    Raises:
        RuntimeError: There is none, or several.
    """
    app_context = current_app_context(None)
    if app_context is not None:
        return app_context.app
    found = list(among)
    if len(found) == 1:
        return found[0]
    number = f"{len(found)} applications" if found else "no application"
    raise RuntimeError(
        f"{what} is for one application, and this process has {number} with Sidearm. Use it inside"
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

"""Why a task succeeds or fails (contract T4). Pure decisions: no state, no context, no I/O."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Container
from typing import Any, NamedTuple, Protocol

from werkzeug.exceptions import HTTPException

#: An application's own rule: asked with the exception, or with the response if there is none.
#: ``True`` commits, ``False`` rolls back, ``None`` leaves the decision to the settings.
OutcomeRule = Callable[[Any], bool | None]


logger = logging.getLogger("sidearm.tasks")


class Decision(NamedTuple):
    """Whether a round commits, and the rule that decided."""

    commit: bool
    rule: str


class Intent(Protocol):
    """What the code of a task said about its own outcome.

    Attributes:
        doomed: Why the task has to fail, if it has.
        kept: Whether it commits in spite of its response or exception.
        commit_on: Statuses with which it commits.
    """

    doomed: str | None
    kept: bool
    commit_on: frozenset[int]


def by_exception(  # noqa: PLR0911 - one line for each rule, in their order of strength
    exc: BaseException,
    intent: Intent,
    rule: OutcomeRule | None,
    fail_statuses: Container[int],
) -> Decision | None:
    """Decide for an exception that left a view.

    Args:
        exc: The exception.
        intent: What the task's code said.
        rule: The application's own rule, if it has one.
        fail_statuses: Statuses that fail a task.

    Returns:
        The decision, or ``None`` if the response that the exception becomes will decide.
    """
    name = type(exc).__qualname__
    if intent.doomed is not None:
        return Decision(False, f"doomed: {intent.doomed}")
    if not isinstance(exc, Exception):
        return Decision(False, f"exception {name}")
    if intent.kept:
        return Decision(True, "kept")
    status = _status_of(exc)
    if status is not None and status in intent.commit_on:
        return Decision(True, f"commit_on {status}")
    if rule is not None:
        verdict = _ask(rule, exc)
        if verdict is not None:
            return Decision(bool(verdict), f"the application's rule, for {name}")
    if not isinstance(exc, HTTPException):
        return Decision(False, f"exception {name}")
    if status is not None and status in fail_statuses:
        return Decision(False, f"status {status} (exception {name})")
    return None


def by_response(
    response: Any,
    status: int,
    intent: Intent,
    rule: OutcomeRule | None,
    fail_statuses: Container[int],
) -> Decision:
    """Decide for a response that is ready to leave.

    Args:
        response: The response.
        status: Its status.
        intent: What the task's code said.
        rule: The application's own rule, if it has one.
        fail_statuses: Statuses that fail a task.

    Returns:
        The decision.
    """
    if intent.doomed is not None:
        return Decision(False, f"doomed: {intent.doomed}")
    if intent.kept:
        return Decision(True, "kept")
    if status in intent.commit_on:
        return Decision(True, f"commit_on {status}")
    if rule is not None:
        verdict = rule(response)  # one that raises fails the request, as a view does
        if verdict is not None:
            return Decision(bool(verdict), f"the application's rule, for status {status}")
    return by_status(status, fail_statuses)


def by_status(status: int, fail_statuses: Container[int]) -> Decision:
    """Decide by the settings alone."""
    return _decision(status not in fail_statuses, status)


@functools.cache
def _decision(commit: bool, status: int) -> Decision:  # noqa: FBT001 - a key
    return Decision(commit, f"status {status}")


def by_leaving(exc: BaseException | None, intent: Intent) -> Decision:
    """Decide for a block or a pushed context that is left, by the exception that leaves it."""
    if intent.doomed is not None:
        return Decision(False, f"doomed: {intent.doomed}")
    if exc is None:
        return Decision(True, "left without an exception")
    if intent.kept and isinstance(exc, Exception):
        return Decision(True, "kept")
    return Decision(False, f"exception {type(exc).__qualname__}")


def _ask(rule: OutcomeRule, subject: Any) -> bool | None:
    """Ask the application's rule; one that raises refuses, so that nothing is kept by mistake."""
    try:
        return rule(subject)
    except Exception:
        logger.exception("The application's outcome rule failed; the task is rolled back.")
        return False


def _status_of(exc: Exception) -> int | None:
    """The status that an HTTP exception will be answered with, by its response if it has one."""
    if not isinstance(exc, HTTPException):
        return None
    response = exc.response
    if response is not None:
        # A response given as a bare WSGI application has no status to look at.
        return getattr(response, "status_code", None)
    return exc.code

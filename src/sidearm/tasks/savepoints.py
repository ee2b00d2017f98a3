"""``with current_task.savepoint():`` - a part of a task that can be undone alone (contract T7)."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from ..exceptions import TaskSettled
from .outcome import Decision

if TYPE_CHECKING:
    from .callbacks import Held
    from .claims import Claim, Savepoint
    from .task import Round, Task

_RULE = "its savepoint was rolled back"


class TaskSavepoint:
    """A savepoint of everything that the task has claimed, and of what it holds.

    If an exception leaves the block, all that was done in it is undone, what was registered in it
    is dropped, and the exception goes on. What was first claimed in it is rolled back whole.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._stack: list[tuple[Round, list[Held], list[tuple[Claim, Savepoint | None]]]] = []

    def __enter__(self) -> None:
        round_ = self._task.require_open_round("savepoint()")
        round_.adopt_claims()
        points: list[tuple[Claim, Savepoint | None]] = []
        try:
            for claim in list(round_.claims.values()):
                point = claim.savepoint()
                points.append((claim, point))
        except BaseException:
            for _, point in reversed(points):
                if point is not None:
                    point.rollback()
            raise
        self._stack.append((round_, list(round_.held), points))

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        round_, held, points = self._stack.pop()
        if self._task.open_round() is not round_:
            if exc is None:
                raise TaskSettled(
                    "The end of savepoint()",
                    self._task.name,
                    "End the block in the round in which it began.",
                )
            return
        if exc is None:
            try:
                for _, point in reversed(points):
                    if point is not None:
                        point.release()
            except BaseException:
                self._undo(round_, held, points)
                raise
        else:
            self._undo(round_, held, points)

    def _undo(
        self, round_: Round, held: list[Held], points: list[tuple[Claim, Savepoint | None]]
    ) -> None:
        leaving = round_.drop_since(held, _RULE)
        known = {claim for claim, _ in points}
        undone = [claim.rollback for claim in list(round_.claims.values()) if claim not in known]
        undone += [point.rollback for _, point in points if point]
        errors: list[BaseException] = []
        for undo in reversed(undone):
            try:
                undo()
            except BaseException as exc:
                errors.append(exc)
        round_.let_go(leaving)
        if errors:
            # What could not be undone must not be saved with the rest.
            rule = "a savepoint could not be rolled back"
            if round_.kind in ("callback", "teardown"):
                round_.decided = Decision(False, rule)
            else:
                self._task.doom(rule)
            raise BaseExceptionGroup("A savepoint could not be rolled back.", errors)

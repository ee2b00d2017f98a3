"""What the runs showed, as data and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...tasks.records import Record

HEAD = ("step", "fails by", "answer", "outcome", "left", "")
WIDEST = 62  # characters of a step's name


@dataclass(slots=True)
class FaultRun:
    """One run of what is tried, and what became of it.

    Attributes:
        number: Of the step that failed; 0 in the run without a fault.
        step: What failed, such as ``"commit of db.session"``; empty in the run without a fault.
        fault: ``"Exception"``, ``"BaseException"`` or ``"client leaves"``; empty without a fault.
        status: The status of the last response; ``None`` if there was none.
        error: The exception that left the call; ``None`` if it returned.
        committed: Whether the task committed its work. Of several requests or tasks: all of them.
        outcomes: A ``(resource, outcome)`` tuple for each claim, in claim order.
        events: A ``(channel, data)`` tuple for each event that left, in order.
        left: The callbacks and events that left, in order, as the records name them.
        failed: Those that raised when they left.
        records: The records of all rounds.
        log: What the run wrote to the log, which is kept out of pytest's own.
        problems: A sentence for each promise that this run broke.
    """

    number: int
    step: str = ""
    fault: str = ""
    status: int | None = None
    error: BaseException | None = None
    committed: bool = False
    outcomes: Sequence[tuple[str, str]] = ()
    events: Sequence[tuple[str, str]] = ()
    left: Sequence[str] = ()
    failed: Sequence[str] = ()
    records: Sequence[Record] = ()
    log: str = ""
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        where = f"step {self.number}, {self.step} ({self.fault})" if self.number else "no fault"
        return f"{where}: {'; '.join(self.problems) or 'all well'}"

    def cells(self) -> tuple[str, ...]:
        """The run as a row of the table."""
        name = f"{self.number:>3}  {self.step}" if self.number else "     (nothing fails)"
        if len(name) > WIDEST:
            name = f"{name[: WIDEST - 1]}…"
        answer = str(self.status) if self.status is not None else "none"
        if self.error is not None:
            answer += f", {type(self.error).__name__}"
        shown = [f"{resource} {outcome}" for resource, outcome in self.outcomes]
        outcome = ", ".join(shown) or ("committed" if self.committed else "nothing committed")
        mark = "ok" if not self.problems else f"WRONG ({len(self.problems)})"
        left = str(len(self.left))
        if self.failed:
            left += f", {len(self.failed)} failed"
        return name, self.fault, answer, outcome, left, mark


@dataclass(slots=True)
class FaultReport:
    """What all runs showed; its text is the table.

    Attributes:
        title: What was tried.
        runs: The run without a fault, and then one for each step and kind of fault.
        notes: What could not be tried, such as statements of a driver that is not watched.
    """

    title: str
    runs: list[FaultRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def steps(self) -> list[str]:
        """The names of the steps that were failed, in their order."""
        return list({run.number: run.step for run in self.runs if run.number}.values())

    @property
    def problems(self) -> list[str]:
        """A line for each run that broke a promise; none if all is well."""
        return [str(run) for run in self.runs if run.problems]

    def __str__(self) -> str:
        """The table."""
        rows = [run.cells() for run in self.runs]
        widths = [max(map(len, column)) for column in zip(HEAD, *rows, strict=True)]
        wrong = len(self.problems)
        verdict = f"{wrong} of them wrong" if wrong else "all well"
        lines = [
            f"{self.title}: {len(self.steps)} steps, {len(self.runs)} runs, {verdict}",
            _line(("     step", *HEAD[1:]), widths),
            *(_line(row, widths) for row in rows),
        ]
        lines += [f"Note: {note}" for note in self.notes]
        lines += [f"WRONG: {problem}" for problem in self.problems]
        return "\n".join(lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

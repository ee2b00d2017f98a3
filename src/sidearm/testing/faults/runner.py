"""The fixture's object: runs, one for each step and kind of fault, and what each has to show."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.wrappers import Response

from ...exceptions import FaultsFound
from ...hub.eventstream import Parser
from . import rules
from .points import Points
from .report import FaultReport, FaultRun
from .trace import BASE_EXCEPTION, EXCEPTION, LEAVES, Fault, Step, Trace

if TYPE_CHECKING:
    from .trace import ClaimTrack

#: A test's own way out, whatever is being tried.
MEANT_FOR_THE_TEST = (
    KeyboardInterrupt,
    pytest.fail.Exception,
    pytest.skip.Exception,
    pytest.exit.Exception,
)
TRIES = 3  # runs without a fault, until two in a row take the same steps


class Faults:
    """What the fixture ``sidearm_faults`` gives.

    Args:
        title: Of the tables.
        show: Called with each report, to show its table; without it a failure's message does.

    Attributes:
        reports: One for each call of :meth:`run`.
    """

    def __init__(
        self, title: str = "run", show: Callable[[FaultReport], None] | None = None
    ) -> None:
        self._title = title
        self._show = show
        self.reports: list[FaultReport] = []

    def run(
        self,
        call: Callable[[], Any],
        *,
        reset: Callable[[], Any] | None = None,
        check: Callable[[FaultRun], Any] | None = None,
        may_keep: bool = False,
        unconditional: Collection[str] = (),
        title: str = "",
    ) -> FaultReport:
        """Run a view again and again, failing it once at each step, and look at what is left.

        First it runs without a fault, to learn its steps: each claim, connection, statement,
        commit, callback, call of ``publish()`` and its kin, sending of events, and release. Then it
        runs twice for each step, which raises an ``Exception`` once (where a driver would raise,
        of the driver's ``OperationalError`` too) and a ``BaseException`` once; and for a response's
        body, with a client that leaves before it, within it and at its end.

        After each run this must be true: each resource was settled exactly once, and has one
        outcome; every claim was released, and no pool misses a connection; the callbacks and
        events that left are those of committed work; the client was not told of a success
        that was rolled back, nor of a failure that was committed.

        Args:
            call: What is tried, such as ``lambda: client.post("/buy")``. A response that it
                returns is read to its end. It must take the same steps each time.
            reset: Called before each run, to bring everything back to where it was.
            check: Called after each run with its :class:`FaultRun`, for what must be true of your
                own data; it raises ``AssertionError`` if it is not.
            may_keep: Whether work may be committed although the client is told of a failure, as
                ``current_task.keep()`` and ``@commit_on`` do on purpose.
            unconditional: Channels whose events may leave whatever becomes of the work, by
                ``publish_now()``.
            title: Of the table; by default the name of the test.

        Returns:
            The report.

        Raises:
            FaultsFound: Something was not true; it is an ``AssertionError`` that holds the report.
        """
        __tracebackhide__ = True
        report = FaultReport(title or self._title)
        self.reports.append(report)
        points = Points()
        attempt = _Attempt(
            points,
            call,
            reset=reset,
            check=check,
            may_keep=may_keep,
            unconditional=unconditional,
        )
        with points.installed():
            recorded = self._record(report, attempt)
            if recorded is not None:
                points.propagate_as_in_production = True
                for fault in _faults(recorded):
                    try:
                        attempt.reset()
                    except Exception as error:  # noqa: BLE001 - it is the run that is to blame
                        report.runs[-1].problems.append(f"reset= failed after it: {_told(error)}")
                        self._close(report, error)
                    report.runs.append(attempt.run(fault, recorded.steps)[1])
        self._close(report)
        return report

    def _close(self, report: FaultReport, error: Exception | None = None) -> None:
        __tracebackhide__ = True
        if self._show is not None:
            self._show(report)
        if report.problems:
            raise FaultsFound(_message(report, whole=self._show is None), report) from error

    def _record(self, report: FaultReport, attempt: _Attempt) -> Trace | None:
        """Learn the steps; the first run may have had more to do than all that follow."""
        before: Trace | None = None
        different: str | None = None
        for _ in range(TRIES):
            attempt.reset()
            trace, run = attempt.run(None, [])
            report.runs[:] = [run]
            if run.error is not None:
                raise run.error
            different = None if before is None else _difference(before.steps, trace.steps)
            if before is not None and different is None:
                report.notes += _notes(trace)
                return trace
            before = trace
        report.runs[0].problems.append(
            "two runs without a fault took different steps, so no step can be failed on purpose:"
            f" {different}. Let reset= bring back everything, and take chance and time out"
        )
        return None


def _message(report: FaultReport, *, whole: bool) -> str:
    wrong = len(report.problems)
    head = f"{wrong} of {len(report.runs)} runs broke what is promised"
    if whole:
        return f"{head}.\n{report}"
    lines = [f"  {problem}" for problem in report.problems]
    return "\n".join([f"{head}; the table is below.", *lines])


@contextmanager
def quiet_log() -> Generator[io.StringIO]:
    """Take the log of a run, whose many errors are wanted, instead of pytest."""
    text = io.StringIO()
    taking = logging.StreamHandler(text)
    taking.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    capturing = [each for each in root.handlers if type(each).__module__ == "_pytest.logging"]
    for handler in capturing:
        root.removeHandler(handler)
    root.addHandler(taking)
    try:
        yield text
    finally:
        root.removeHandler(taking)
        for handler in capturing:
            root.addHandler(handler)


class _Attempt:
    """One run, and what surrounds it."""

    def __init__(
        self,
        points: Points,
        call: Callable[[], Any],
        *,
        reset: Callable[[], Any] | None,
        check: Callable[[FaultRun], Any] | None,
        may_keep: bool,
        unconditional: Collection[str],
    ) -> None:
        self._points = points
        self._call = call
        self._reset = reset
        self._check = check
        self._may_keep = may_keep
        self._unconditional = unconditional

    def reset(self) -> None:
        """Bring everything back to where it was."""
        if self._reset is not None:
            self._reset()

    def run(self, fault: Fault | None, recorded: list[Step]) -> tuple[Trace, FaultRun]:
        trace = Trace(fault, recorded)
        self._points.trace = trace
        try:
            with quiet_log() as log:
                error = self._try(trace)
        finally:
            self._points.trace = None
        run = _run_of(trace, error)
        run.log = log.getvalue()
        if fault is not None and trace.injected is None:
            how = trace.diverged or f"{fault.step.name!r} was not reached"
            run.problems.append(f"it took other steps than the run without a fault: {how}")
        else:
            run.problems += rules.problems(
                trace,
                raised=error is not None,
                may_keep=self._may_keep,
                unconditional=self._unconditional,
            )
        if self._check is not None and (error is None or fault is not None):
            try:
                self._check(run)
            except (Exception, pytest.fail.Exception) as wrong:  # noqa: BLE001 - all runs are made
                run.problems.append(f"check: {_told(wrong)}")
        return trace, run

    def _try(self, trace: Trace) -> BaseException | None:
        """Make the call, and read what it returns; returns what leaves it."""
        error = self._guarded(lambda: read(self._call()))
        # A server closes every response, also one whose body has raised.
        for body in trace.bodies:
            error = self._guarded(body.close) or error
        if error is not None and trace.fault is not None:
            _forget_frames(error)
        return error

    def _guarded(self, call: Callable[[], Any]) -> BaseException | None:
        try:
            call()
        except MEANT_FOR_THE_TEST:
            raise
        except BaseException as error:  # noqa: BLE001 - what leaves is what is looked at
            return error
        return None


def read(result: Any) -> None:
    """Read responses to their end, and close them."""
    for response in result if isinstance(result, (list, tuple)) else (result,):
        if isinstance(response, Response):
            try:
                response.get_data()
            finally:
                response.close()


def _faults(recorded: Trace) -> Iterator[Fault]:
    for step in recorded.steps:
        yield Fault(step, EXCEPTION)
        yield Fault(step, BASE_EXCEPTION)
    number = len(recorded.steps)
    for response, pieces in enumerate(recorded.pieces):
        which = f"response {response + 1}" if len(recorded.pieces) > 1 else "the response"
        for position in sorted({0, 1, pieces} if pieces else {0}):
            number += 1
            when = f"before {which}" if not position else f"after piece {position} of {which}"
            if position and position == pieces:
                when = f"at the end of {which}"
            name = f"client, {when}"
            yield Fault(
                Step(number, name, ("client",), response=response, position=position), LEAVES
            )


def _difference(before: list[Step], now: list[Step]) -> str | None:
    for one, other in zip(before, now, strict=False):
        if one.key != other.key:
            return f"step {one.number} was {one.name!r}, then {other.name!r}"
    if len(before) != len(now):
        return f"one had {len(before)} steps, the next {len(now)}"
    return None


def _run_of(trace: Trace, error: BaseException | None) -> FaultRun:
    fault = trace.fault
    went = sorted(
        (track.left, track.call, track.failed or track.call in trace.failed)
        for track in trace.held
        if track.left
    )
    at_once = [(at, f"publish_now({channel!r})", False) for at, channel, _ in trace.unheld]
    return FaultRun(
        number=fault.step.number if fault is not None else 0,
        step=fault.step.name if fault is not None else "",
        fault=fault.kind if fault is not None else "",
        status=trace.answers[-1] if trace.answers else None,
        error=error,
        committed=rules.was_committed(trace),
        outcomes=[(track.name, _outcome(trace, track)) for track in _main_claims(trace)],
        events=[(channel, _data(body)) for _, channel, body in trace.events],
        left=[call for _, call, failed in sorted(went + at_once) if not failed],
        failed=[call for _, call, failed in went if failed],
        records=trace.records,
    )


def _main_claims(trace: Trace) -> Iterable[ClaimTrack]:
    main = rules.main_rounds(trace)
    return [track for track in trace.claims if track.first_round in main]


def _outcome(trace: Trace, track: ClaimTrack) -> str:
    by_hand = any(work.by_hand for work in trace.works if work.claim is track)
    calls = track.settled[0][1] if track.settled else []
    if by_hand:
        return "committed by hand"
    if "commit" in calls:
        return "committed"
    if "rollback" in calls:
        return "rolled back"
    return "left alone" if track.explicit else "not settled"


def _notes(trace: Trace) -> list[str]:
    notes = {}
    for track in trace.claims:
        value = track.claim.value
        if not track.seen and track.name not in notes:
            notes[track.name] = (
                f"no statement of {track.name} was seen ({type(value).__module__}."
                f"{type(value).__qualname__}): it has failed at its claim, commit and release only"
            )
    return list(notes.values())


def _data(body: bytes) -> str:
    return Parser().feed(body + b"\n")[0].data


def _told(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return text or type(error).__qualname__


def _forget_frames(error: BaseException) -> None:
    """Let go of what the frames of an exception hold, as a server does when it has logged it."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        traceback.clear_frames(one.__traceback__)
        waiting += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions

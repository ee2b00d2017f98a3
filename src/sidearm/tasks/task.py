"""The unit of work: a task, and the rounds in which it claims, settles and releases.

A round moves through the states of :data:`STATES`, always forward, each at most once::

    open -> committing | rolling back -> leaving -> releasing -> closed

What may be claimed or registered is decided by the state alone, and Flask's contexts have no
say in it: they may tear down twice, or late, or never. This module knows neither Flask's
contexts nor any database; ``context`` drives it and ``resources`` give it claims.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any, NoReturn, TypeVar

from blinker import NamedSignal

from ..exceptions import TaskSettled
from ..signals import callback_failed, callback_ran, held_dropped, release_failed, round_settled
from .callbacks import Held, Send, name_of
from .claims import Claim, Resource, Transaction
from .outcome import Decision, Intent
from .records import Record, log

logger = logging.getLogger("sidearm.tasks")

F = TypeVar("F", bound=Callable[..., Any])

OPEN = "open"
COMMITTING = "committing"
ROLLING_BACK = "rolling back"
LEAVING = "leaving"
RELEASING = "releasing"
CLOSED = "closed"

#: From each state of a round to those that may follow. The docs' picture is drawn from it.
STATES: dict[str, tuple[str, ...]] = {
    OPEN: (COMMITTING, ROLLING_BACK),
    COMMITTING: (LEAVING,),
    ROLLING_BACK: (LEAVING,),
    LEAVING: (RELEASING,),
    RELEASING: (CLOSED,),
    CLOSED: (),
}


class Task:
    """One request, CLI command, pushed context or ``arm.task()`` block.

    In an application this is what :data:`~sidearm.current_task` stands for.

    Attributes:
        name: The request's endpoint, the command's name, or the name that was given.
        kind: ``"request"``, ``"command"``, ``"context"`` or ``"task"``.
        round: The round that is under way, or the last one.
    """

    __slots__ = (
        "__weakref__",
        "app",
        "intent",
        "kind",
        "lock",
        "name",
        "records",
        "request",
        "round",
        "streaming",
        "unanswered",
    )

    def __init__(self, app: Any, name: str, kind: str, records: deque[Record]) -> None:
        self.app = app
        self.name = name
        self.kind = kind
        self.records = records
        self.intent = Intent()
        self.lock = threading.RLock()
        self.request: tuple[str | None, str | None, str] | None = None
        self.streaming = False
        self.unanswered: list[Record] = []
        self.round = Round(self, "work")

    def doom(self, reason: str = "doomed") -> None:
        """Let the task fail, whatever its response or result will be.

        Args:
            reason: Why; shown in the record. The first reason counts.

        Raises:
            TaskSettled: The task's outcome is already decided.
        """
        self._still_undecided("doom()")
        if self.intent.doomed is None:
            self.intent.doomed = reason

    def keep(self) -> None:
        """Let the task commit although its response is an error or a view raised.

        ``doom()`` is stronger, and so is a ``BaseException`` that is no ``Exception``.

        Raises:
            TaskSettled: The task's outcome is already decided.
        """
        self._still_undecided("keep()")
        self.intent.kept = True

    def after_commit(self, callback: F) -> F:
        """Run a callback after the commit of what is being done now; see :func:`after_commit`."""
        check_callable("after_commit", callback)
        self.hold("commit", f"after_commit({name_of(callback)})", callback=callback)
        return callback

    def after_rollback(self, callback: F) -> F:
        """Run a callback after a rollback of what is being done now."""
        check_callable("after_rollback", callback)
        self.hold("rollback", f"after_rollback({name_of(callback)})", callback=callback)
        return callback

    def hold(
        self,
        on: str,
        call: str,
        *,
        callback: Callable[[], Any] | None = None,
        send: Send | None = None,
        item: Any = None,
        caller: FrameType | None = None,
    ) -> None:
        """Hold a call until the transaction that it belongs to is decided.

        Args:
            on: ``"commit"`` or ``"rollback"``.
            call: The call as its author wrote it, for records and log lines.
            callback: What to run; or:
            send: What sends ``item``, in one list with its neighbours of the same ``send``.
            item: What to send.
            caller: The frame of the author's call, to name its place if it is dropped.

        Raises:
            TaskSettled: The task's outcome is already decided.
        """
        round_ = self.round
        if round_.state is not OPEN:
            self._too_late(call)
        held = Held(on, call, caller, callback=callback, send=send, item=item)
        for claim in round_.claims.values():
            if not claim.tells:
                held.unknown = True
                continue
            transaction = claim.transaction()
            if transaction is not None:
                held.transactions |= {transaction}
        round_.held.append(held)

    def claim(self, resource: Resource) -> Any:
        """The value of a resource, claimed on its first use in the current round.

        Args:
            resource: What to claim.

        Returns:
            Its value.

        Raises:
            TaskSettled: The round has settled.
        """
        round_ = self.round
        claim = round_.claims.get(resource)
        if claim is None:
            claim = round_.claim(resource)
        elif round_.state is not OPEN:
            self._too_late(resource.name)
        return claim.value

    def began_ns(self) -> int:
        """When the current round first claimed something, or else now.

        A page or stream that is joined from this moment misses nothing, although the view's
        database transaction may be older than the line that asks.

        Returns:
            A reading of ``time.monotonic_ns()``.
        """
        return self.round.began or time.monotonic_ns()

    def new_round(self, kind: str, decided: Decision | None = None) -> Round:
        """Begin the next round; the one before must have settled.

        Args:
            kind: ``"error page"``, ...
            decided: The decision that this round inherits: it is rolled back whatever it does.

        Returns:
            The new round.
        """
        self.round = Round(self, kind, decided=decided)
        return self.round

    def _still_undecided(self, what: str) -> None:
        if self.round.state is not OPEN or self.round.kind == "callback":
            self._too_late(what)

    def _too_late(self, what: str) -> NoReturn:
        if self.streaming:
            advice = (
                "A body that streams has no round of its own yet: read what you need in the view,"
                " before you return the response, or use 'with arm.task(\"name\"):' in the body."
            )
        elif self.round.state in (COMMITTING, ROLLING_BACK):
            advice = "It is committing or rolling back just now; do this in the view."
        else:
            advice = (
                "Do it before the response is returned, or use 'with arm.task(\"name\"):' for"
                " work of its own."
            )
        raise TaskSettled(what, self.name, advice)

    def __repr__(self) -> str:
        return f"<Task {self.name!r} ({self.kind}), round {self.round.kind!r} {self.round.state}>"


class Round:
    """One pass of claim, settle and release.

    Attributes:
        claims: What was claimed, in order. A callback's round also uses its parent's claims.
        held: What waits for the outcome, in order of registration.
        passed_on: What a callback's round leaves to its parent, to go after everything before it.
        state: A key of :data:`STATES`.
        decided: What an exception has decided before the round ends, or what it inherits.
    """

    __slots__ = (
        "began",
        "cause",
        "claims",
        "decided",
        "dropped",
        "errors",
        "held",
        "kind",
        "left",
        "parent",
        "passed_on",
        "state",
        "task",
    )

    def __init__(
        self,
        task: Task,
        kind: str,
        *,
        decided: Decision | None = None,
        parent: Round | None = None,
    ) -> None:
        self.task = task
        self.kind = kind
        self.decided = decided
        self.parent = parent
        self.state = OPEN
        self.began = 0
        self.cause = 0  # the id() of the exception that was decided about
        self.claims: dict[Resource, Claim] = {}
        self.held: list[Held] = []
        self.passed_on: list[Held] = []
        self.left: list[str] = []
        self.dropped: list[tuple[str, str]] = []
        self.errors: list[str] = []

    # -- claiming

    def claim(self, resource: Resource) -> Claim:
        """Claim a resource on its first use in this round."""
        with self.task.lock:
            claim = self.claims.get(resource)
            if claim is not None:  # another thread that shares the task was faster
                return claim
            if self.state is not OPEN:
                self.task._too_late(resource.name)
            claim = self._parents_claim(resource)
            if claim is None:
                self.began = self.began or time.monotonic_ns()
                claim = resource.claim()
            self.use(claim)
            return claim

    def use(self, claim: Claim) -> None:
        """Take a claim into this round: one of its own, one of its parent's, or one found open."""
        self.began = self.began or time.monotonic_ns()
        self.claims[claim.resource] = claim
        claim.round = self

    def _parents_claim(self, resource: Resource) -> Claim | None:
        ancestor = self.parent
        while ancestor is not None:
            if resource in ancestor.claims:
                return ancestor.claims[resource]
            ancestor = ancestor.parent
        return None

    def _owns(self, claim: Claim) -> bool:
        return self._parents_claim(claim.resource) is not claim

    # -- transactions that the application ends by hand

    def transaction_ended(self, transaction: Transaction, how: str) -> None:
        """Take note that a transaction of this round's claims ended.

        Args:
            transaction: Which.
            how: ``"commit"``, ``"rollback"`` or ``"close"`` (neither was called).
        """
        transaction.open = False
        if self.state is not OPEN:
            return
        if how == "close" and transaction.wrote:
            how = "rollback"  # closing a session that has only read loses nothing
        ready = [held for held in self.held[:] if self._frees(held, transaction, how)]
        if not self._anything_open(but=transaction.claim):
            saved = [held for held in self.held if held.on == "commit" and held.saved]
            self.held = [held for held in self.held if held not in saved]
            ready += saved
        if ready:
            self._leave(ready)

    def _frees(self, held: Held, transaction: Transaction, how: str) -> bool:
        """Whether the end of a transaction lets a held call leave now; it may drop it instead."""
        if transaction not in held.transactions:
            return False
        held.transactions -= {transaction}
        if how == "close":
            return False
        if how == held.on == "commit":
            held.committed = True
            return False  # it waits for what else is open
        if held.on == "commit":
            self._drop(held, "rolled back by hand")
        else:
            self.held.remove(held)
        return held.on == how

    def _anything_open(self, but: Claim) -> bool:
        return any(
            claim is not but and (not claim.tells or claim.transaction() is not None)
            for claim in self.claims.values()
        )

    # -- settling

    def settle(self, decision: Decision) -> list[BaseException]:
        """Commit or roll back, let callbacks and events leave, release. Once; then nothing.

        Args:
            decision: What to do, and the rule that decided it.

        Returns:
            The errors to report. After a complete commit there are none: what fails then is
            logged and signalled.

        Raises:
            BaseException: A callback raised one that is no ``Exception`` (it is raised when
                everything else is done).
        """
        if self.state is not OPEN:
            return []
        errors: list[BaseException] = []
        claims = list(self.claims.values())
        if decision.commit:
            self._enter(COMMITTING)
            failure = self._commit(claims, errors)
            if failure is not None:
                decision = Decision(False, failure)
        else:
            self._enter(ROLLING_BACK)
            self._roll_back(claims, errors)
        self._enter(LEAVING)
        fatal = self._let_leave(decision)
        self._enter(RELEASING)
        self._release(claims, errors, after_commit=decision.commit)
        self._enter(CLOSED)
        self._record(decision, claims)
        self.claims = {}
        if fatal is not None:
            if errors:
                raise fatal from combine(errors)
            raise fatal
        return errors

    def _enter(self, state: str) -> None:
        assert state in STATES[self.state], f"{self.state} -> {state}"
        self.state = state

    def _commit(self, claims: list[Claim], errors: list[BaseException]) -> str | None:
        """Commit in claim order; the first failure rolls back the rest. Returns what failed."""
        for position, claim in enumerate(claims):
            if claim.explicit and not (self.kind == "callback" and claim.unsaved()):
                claim.outcome = "left to the application"
                continue
            began = time.perf_counter()
            try:
                claim.commit()
            except BaseException as exc:
                name = claim.resource.name
                claim.outcome = f"commit failed: {_type_name(exc)}"
                errors.append(exc)
                self._explain_partial_commit(exc, claims, position)
                self._note(f"the commit of {name}", exc)
                self._roll_back(claims[position:], errors)
                return f"the commit of {name} failed: {_type_name(exc)}"
            finally:
                claim.seconds = time.perf_counter() - began
            claim.outcome = "committed"
        return None

    def _explain_partial_commit(
        self, exc: BaseException, claims: list[Claim], position: int
    ) -> None:
        saved = [claim.resource.name for claim in claims[:position] if claim.outcome == "committed"]
        if not saved:
            return
        lost = [claim.resource.name for claim in claims[position:] if not claim.explicit]
        text = (
            f"Task {self.task.name!r} is half saved: {', '.join(saved)} had committed when the"
            f" commit of {claims[position].resource.name} failed; rolled back:"
            f" {', '.join(lost)}. Compare the two by hand."
        )
        exc.add_note(text)
        logger.critical("%s", text, exc_info=exc)

    def _roll_back(self, claims: list[Claim], errors: list[BaseException]) -> None:
        for claim in reversed(claims):
            began = time.perf_counter()
            failed_commit = claim.outcome.startswith("commit failed")
            try:
                claim.rollback()
            except BaseException as exc:
                errors.append(exc)
                claim.outcome = f"rollback failed: {_type_name(exc)}"
                self._note(f"the rollback of {claim.resource.name}", exc)
                logger.exception(
                    "Task %r: the rollback of %s failed.", self.task.name, claim.resource.name
                )
            else:
                if not failed_commit:
                    claim.outcome = "rolled back"
            claim.seconds += time.perf_counter() - began

    def _release(
        self, claims: list[Claim], errors: list[BaseException], *, after_commit: bool
    ) -> None:
        for claim in reversed(claims):
            if not self._owns(claim):
                claim.round = self.parent
                continue
            claim.round = None
            try:
                claim.release()
            except BaseException as exc:
                name = claim.resource.name
                self._note(f"the release of {name}", exc)
                logger.exception("Task %r: the release of %s failed.", self.task.name, name)
                if after_commit:
                    _tell(release_failed, self.task.app, resource=name, exception=exc)
                else:
                    errors.append(exc)

    def _note(self, step: str, exc: BaseException) -> None:
        self.errors.append(f"{step}: {_type_name(exc)}")

    # -- leaving

    def _let_leave(self, decision: Decision) -> BaseException | None:
        held, self.held = self.held, []
        leaving: list[Held] = []
        lost: list[Held] = []
        for one in held:
            if one.on == ("commit" if decision.commit else "rollback"):
                (lost if decision.commit and self._never_committed(one) else leaving).append(one)
            elif one.on == "commit" and one.saved:
                leaving.append(one)  # its own transaction was committed by hand
            elif one.on == "commit":
                self._drop(one, decision.rule)
        if lost:
            self._warn_of_lost(lost)
        if self.parent is not None:
            self.passed_on = leaving
            return None
        return self._leave(leaving) if leaving else None

    def _never_committed(self, held: Held) -> bool:
        return any(
            transaction.open and transaction.claim.explicit and transaction.claim.unsaved()
            for transaction in held.transactions
        )

    def _warn_of_lost(self, lost: list[Held]) -> None:
        for held in lost:
            self._drop(held, "its transaction wrote something that was never committed")
            logger.warning(
                "Task %r: %s in %s was dropped: the transaction that it belongs to wrote"
                " something that nobody committed. Commit it by hand, or let the task commit:"
                ' arm.use(..., commit="task").',
                self.task.name,
                held.call,
                held.place,
            )
        _tell(held_dropped, self.task.app, calls=[held.call for held in lost])

    def _drop(self, held: Held, reason: str) -> None:
        self.dropped.append((held.call, reason))
        if held in self.held:
            self.held.remove(held)

    def _leave(self, items: list[Held]) -> BaseException | None:
        """Let held calls go, in order; a failing one stops no other."""
        queue = deque(items)
        fatal: BaseException | None = None
        while queue:
            held = queue.popleft()
            self.left.append(held.call)
            if held.callback is None:
                batch = [held.item]
                while queue and queue[0].send is held.send and queue[0].callback is None:
                    following = queue.popleft()
                    self.left.append(following.call)
                    batch.append(following.item)
                error = self._send(held, batch)
            else:
                error = self._run(held, queue)
            if error is not None and not isinstance(error, Exception):
                fatal = fatal or error
        return fatal

    def _send(self, held: Held, batch: list[Any]) -> BaseException | None:
        assert held.send is not None
        try:
            held.send(batch)
        except BaseException as exc:
            self._callback_failed(held, exc)
            return exc
        return None

    def _run(self, held: Held, queue: deque[Held]) -> BaseException | None:
        assert held.callback is not None
        task = self.task
        round_ = Round(task, "callback", parent=self)
        forgotten = self._unsaved()
        before, task.round = task.round, round_
        error: BaseException | None = None
        try:
            try:
                held.callback()
            except BaseException as exc:
                error = exc
                self._callback_failed(held, exc)
                decision = Decision(False, f"exception {_type_name(exc)}")
            else:
                decision = Decision(True, "the callback returned")
            for claim in self._unsaved() - forgotten:
                if claim.round is not round_:
                    round_.use(claim)
            try:
                failures = round_.settle(decision)
            except BaseException as exc:
                failures = [exc]
        finally:
            task.round = before
        # What the callback registered comes after what was there before it.
        queue.extend(round_.passed_on)
        for failure in failures:
            error = error or failure
            self._callback_failed(held, failure)
        if error is None:
            _tell(callback_ran, task.app, call=held.call)
        return error

    def _unsaved(self) -> set[Claim]:
        """Claims of this round and those above it that hold uncommitted writes just now."""
        unsaved: set[Claim] = set()
        round_: Round | None = self
        while round_ is not None:
            for claim in round_.claims.values():
                if claim.tells and claim.unsaved():
                    unsaved.add(claim)
            round_ = round_.parent
        return unsaved

    def _callback_failed(self, held: Held, exc: BaseException) -> None:
        self._note(held.call, exc)
        logger.error(
            "Task %r: %s, registered in %s, failed.",
            self.task.name,
            held.call,
            held.place,
            exc_info=exc,
        )
        _tell(callback_failed, self.task.app, callback=held.call, exception=exc)

    # -- the record

    def _record(self, decision: Decision, claims: list[Claim]) -> None:
        quiet = not claims and not self.errors and not self.left and not self.dropped
        if quiet and self.kind != "work":
            return
        task = self.task
        record = Record(
            task.name,
            task.kind,
            self.kind,
            committed=decision.commit,
            decided_by=decision.rule,
        )
        if task.request is not None:
            record.endpoint, record.url_rule, record.method = task.request
        record.resources = tuple(
            (claim.resource.name, claim.outcome, claim.seconds) for claim in claims
        )
        record.left = tuple(self.left)
        record.dropped = tuple(self.dropped)
        record.errors = tuple(self.errors)
        if self.began:
            record.seconds = (time.monotonic_ns() - self.began) / 1e9
        task.unanswered.append(record)
        keep(record, task.records, task.app)


def keep(record: Record, records: deque[Record], app: Any) -> None:
    """Put a record into the ring, log it if its level asks, and signal it."""
    records.append(record)
    log(record)
    if round_settled.receivers:
        _tell(round_settled, app, record=record)


def _tell(signal: NamedSignal, app: Any, **facts: Any) -> None:
    """Send a signal; a receiver that raises must not make an error of what is decided."""
    try:
        signal.send(app, **facts)
    except Exception:
        logger.exception("A receiver of the signal %s failed.", signal.name)


def combine(errors: Sequence[BaseException]) -> BaseException:
    """One error as it is; several as an exception group."""
    if len(errors) == 1:
        return errors[0]
    return BaseExceptionGroup("Several steps of settling a task failed.", list(errors))


def _type_name(exc: BaseException) -> str:
    return type(exc).__qualname__


def check_callable(what: str, callback: object) -> None:
    """Refuse what cannot be called at the line that registers it."""
    if not callable(callback):
        raise TypeError(
            f"{what}() was given {callback!r}, which cannot be called. Give a function, such as"
            f" {what}(send_mail) without parentheses after its name, or a lambda."
        )

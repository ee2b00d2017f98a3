"""The unit of work: a task, and the rounds in which it claims, settles and releases.

A round moves through the states of :data:`STATES`, always forward, each at most once::

    open -> committing | rolling back -> leaving -> releasing -> closed

What may be claimed or registered is decided by the state alone, and Flask's contexts have no
say in it: they may tear down twice, or late, or never. This module knows neither Flask's
contexts nor any database; ``context`` drives it and ``resources`` give it claims.
"""

from __future__ import annotations

import logging
from _thread import RLock
from collections import deque
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from time import monotonic_ns, perf_counter, time
from typing import Any, NoReturn, TypeVar

from ..exceptions import TaskDoomed, TaskSettled
from ..signals import callback_failed, callback_ran, held_dropped, release_failed
from .callbacks import Held, check_callable
from .claims import UNDECIDED, Claim, Resource, Transaction
from .outcome import Decision
from .records import Facts, Left, keep, name_in, tell
from .savepoints import TaskSavepoint

logger = logging.getLogger("sidearm.tasks")

F = TypeVar("F", bound=Callable[..., Any])

_DOOMABLE = ("work", "body")  # kinds of rounds that doom() is about
OPEN = "open"
COMMITTING = "committing"
ROLLING_BACK = "rolling back"
LEAVING = "leaving"
RELEASING = "releasing"
CLOSED = "closed"

_NONE: frozenset[Any] = frozenset()

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
        round: The round that is under way, or the last one.
        facts: What its records share: the status of the response, its name, its kind, and the
            URL rule and method of a request.
        doomed, kept, commit_on: What its code said about its outcome.
        spoke: Whether it said anything.
        opening: Whether a callback's round has ever been made, or is being made.
        late: What waits for the end of the response: the call, the callback, and where it is from.
        failed: Why its later rounds are rolled back, once its work was.
        body: What the body of its response does, while that is being made and sent.
        torn_down: Which push of its context has been torn down for good.
        closes: Whether its response runs what is late when the server closes it.
    """

    # Each request makes a task and a round, and reads them often: slots are what is read fastest.
    # (What stands on a class and not on the object costs CPython 3.11 ten times as much.)
    __slots__ = (
        "__weakref__",
        "app",
        "body",
        "closes",
        "commit_on",
        "doomed",
        "facts",
        "failed",
        "kept",
        "late",
        "lock",
        "opening",
        "round",
        "spoke",
        "state",
        "torn_down",
    )

    def __init__(self, app: Any, state: Any, facts: Facts) -> None:
        self.app = app
        self.state = state
        self.facts = facts
        self.doomed: str | None = None
        self.kept = False
        self.commit_on: frozenset[int] = _NONE
        self.spoke = False
        self.late: Sequence[Any] = ()
        self.failed: Decision | None = None
        self.body: str | None = None
        self.torn_down: object = None
        self.closes = False
        self.opening = False
        # For threads that share the task: one of them claims, or begins a callback's round. The
        # garbage collector may come in it and settle a body that nobody closed, so it may be
        # taken twice.
        self.lock = RLock()
        self.round = Round(self)

    @property
    def name(self) -> str:
        """The request's endpoint, the command's name, or the name that was given."""
        return name_in(self.facts)

    @property
    def kind(self) -> str:
        """``"request"``, ``"command"``, ``"context"`` or ``"task"``."""
        kind: str = self.facts[2]
        return kind

    def doom(self, reason: str = "doomed") -> None:
        """Let the task fail, whatever its response or result will be.

        Args:
            reason: Why; shown in the record. The first reason counts.

        Raises:
            TaskSettled: The task's outcome is already decided.
        """
        self._still_undecided("doom()")
        self.spoke = True
        if self.doomed is None:
            self.doomed = reason

    def keep(self) -> None:
        """Let the task commit although its response is an error or a view raised.

        ``doom()`` is stronger, and so is a ``BaseException`` that is no ``Exception``.

        Raises:
            TaskSettled: The task's outcome is already decided.
        """
        self._still_undecided("keep()")
        decided = self.round.decided
        if self.round.kind == "error page" and decided is not None and not decided.commit:
            self._too_late("keep()")  # an error handler: what the view did is rolled back
        self.spoke = True
        self.kept = True

    def commit_also_on(self, statuses: frozenset[int]) -> None:
        """Let the task commit if its response has one of these statuses."""
        self.spoke = True
        self.commit_on |= statuses

    def after_commit(self, callback: F) -> F:
        """Run a callback after the commit of what is being done now; see :func:`after_commit`."""
        check_callable("after_commit", callback)
        self.hold(Held(callback))
        return callback

    def after_rollback(self, callback: F) -> F:
        """Run a callback after a rollback of what is being done now."""
        check_callable("after_rollback", callback)
        self.hold(Held(callback, on="rollback"))
        return callback

    def hold(self, held: Held) -> None:
        """Hold a call until the transaction that it belongs to is decided.

        Args:
            held: The call.

        Raises:
            TaskSettled: The task's outcome is already decided.
        """
        round_ = self.round
        if round_.state is not OPEN:
            round_ = self.require_open_round(held.call)
        if round_.parent is not None:
            round_.use_what_is_open()
        if round_.follows:
            round_.belong(held)
        if held.on != "commit":
            round_.mirrors = True
        round_.held.append(held)
        if round_.state is OPEN:
            return
        # It has settled since: another thread shares the task. What it has not taken is late.
        try:
            round_.held.remove(held)
        except ValueError:
            return
        self._too_late(held.call)

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
        if round_.state is not OPEN:
            round_ = self.require_open_round(resource.name)
        claim = round_.claims.get(resource)
        return claim.value if claim is not None else round_.claim(resource, self).value

    def open_round(self) -> Round | None:
        """The round that takes claims and calls just now.

        A callback's round is made here, on its first use: most callbacks need none. So is that
        of what runs between the settling and the end of the context: the session being saved,
        teardown functions, a second generator of a body.

        Returns:
            The round, or ``None`` if the outcome is already decided.
        """
        round_ = self.round
        if round_.state is OPEN:
            return round_
        if round_.state is CLOSED:
            reopened: Round | None = self.state.reopen(self)
            return reopened
        if not round_.calling:
            return None
        self.opening = True  # before the look at whether the callback still runs
        with self.lock:
            if self.round is round_:
                if not round_.calling:  # the callback has ended since: another thread is late
                    return None
                self.round = Round.of_callback(round_)
            return self.round

    def require_open_round(self, what: str) -> Round:
        """The round that takes claims and calls just now.

        Args:
            what: The call, for the error.

        Raises:
            TaskSettled: The outcome is already decided.
        """
        return self.open_round() or self._too_late(what)

    def savepoint(self) -> AbstractContextManager[None]:
        """Begin a part that can be undone alone: ``with current_task.savepoint():``.

        If an exception leaves the block, what was done in it is undone in every resource that the
        task has claimed, what was registered in it is dropped, and the exception goes on. A
        savepoint may be in another. It works with SQLAlchemy, sqlite3 and DB-API connections.

        Returns:
            A context manager.

        Raises:
            TaskSettled: The task's outcome is already decided.
            NoSavepoint: Something was claimed that can be rolled back and has no savepoints.
        """
        return TaskSavepoint(self)

    def began_ns(self) -> int:
        """When the current round first claimed something, or else now.

        A page or stream that is joined from this moment misses nothing, although the view's
        database transaction may be older than the line that asks.

        Returns:
            A reading of ``time.monotonic_ns()``.
        """
        return self.round.began or monotonic_ns()

    def new_round(self, kind: str, decided: Decision | None = None) -> Round:
        """Begin the next round; the one before must have settled.

        Args:
            kind: ``"error page"``, ``"body"`` or ``"teardown"``.
            decided: The decision that this round inherits: it is rolled back whatever it does.

        Returns:
            The new round.
        """
        round_ = Round(self)
        round_.kind = kind
        round_.decided = decided
        with self.lock:
            before, self.round = self.round, round_
        # Another thread may have begun one just before, and nobody else would settle that.
        before.settle(Decision(False, "another round began"))
        return round_

    def _still_undecided(self, what: str) -> None:
        if self.round.state is not OPEN or self.round.kind in ("callback", "teardown"):
            self._too_late(what)

    def _too_late(self, what: str) -> NoReturn:
        if self.round.state in (COMMITTING, ROLLING_BACK):
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
        taken: Those of them that the settling has found.
        held: What waits for the outcome, in order of registration.
        passed_on: What a callback's round leaves to its parent, to go after everything before it.
        state: A key of :data:`STATES`.
        decided: What an exception has decided before the round ends, or what it inherits.
        calling: Whether one of its callbacks runs just now.
        follows: Whether a driver of one of its claims tells of transactions.
        foreign: Claims of a round that is still open, with work in them that is not a callback's to
            settle.
        mirrors: Whether something is held that waits for a rollback.
        can_look: Whether one of its claims can only be asked whether a transaction is open.
    """

    __slots__ = (
        "began",
        "calling",
        "can_look",
        "cause",
        "claims",
        "decided",
        "dropped",
        "errors",
        "follows",
        "foreign",
        "held",
        "kind",
        "left",
        "mirrors",
        "parent",
        "passed_on",
        "state",
        "taken",
        "task",
        "unsettled",
    )

    def __init__(self, task: Task) -> None:
        self.task = task
        self.kind = "work"
        self.state = OPEN
        self.unsettled = True
        self.decided: Decision | None = None
        self.cause: BaseException | None = None  # the exception that was decided about
        self.parent: Round | None = None
        self.claims: dict[Resource, Claim] = {}
        self.taken: Sequence[Claim] = ()
        self.foreign: AbstractSet[Claim] = _NONE
        self.follows = False
        self.can_look = False
        self.began = 0  # a reading of time.monotonic_ns()
        self.held: deque[Held] = deque()
        self.mirrors = False
        self.calling = False
        self.passed_on: Sequence[Held] = ()
        self.left: Sequence[Left] = ()
        self.dropped: Sequence[tuple[str, str]] = ()
        self.errors: Sequence[str] = ()

    @classmethod
    def of_callback(cls, parent: Round) -> Round:
        """The round of a callback of another one."""
        round_ = cls(parent.task)
        round_.kind = "callback"
        round_.parent = parent
        return round_

    # -- claiming

    def claim(self, resource: Resource, task: Task) -> Claim:
        """Claim a resource on its first use in this round, which is the task's."""
        with task.lock:
            claim = self.claims.get(resource)
            if claim is not None:  # another thread that shares the task was faster
                return claim
            if self.state is not OPEN:
                task._too_late(resource.name)
            if self.parent is not None:
                parent = self.parent
                claim = self._parents_claim(resource)
                if claim is not None:
                    self._take(claim)
                    if self.state is not OPEN and claim.round is self and claim not in self.taken:
                        self.claims.pop(resource, None)
                        claim.round = parent
                        task._too_late(resource.name)
                    return claim
            if not self.began:
                self.began = monotonic_ns()
            claim = resource.claim()
            self._take(claim)
            if self.state is not OPEN and not self._has_taken(claim):
                self._give_back(claim)
                task._too_late(resource.name)
            return claim

    def _has_taken(self, claim: Claim) -> bool:
        """Whether the settling found a claim that another thread made meanwhile."""
        if claim not in self.taken:
            self.claims.pop(claim.resource, None)  # from here on it finds none
        return claim in self.taken or claim.outcome != UNDECIDED

    def _take(self, claim: Claim) -> None:
        self.claims[claim.resource] = claim
        claim.round = self
        if claim.tells:
            self.follows = True
        elif claim.can_look:
            self.can_look = True

    def _give_back(self, claim: Claim) -> None:
        """Undo a claim that came too late for its round to settle it."""
        claim.round = None
        for step in (claim.rollback, claim.release):
            try:
                step()
            except BaseException:
                logger.exception("%s, claimed too late, failed.", claim.resource.name)

    def use(self, claim: Claim) -> None:
        """Take a claim into this round that was found open, or that a callback worked on."""
        self.began = self.began or monotonic_ns()
        self._take(claim)

    def belong(self, held: Held) -> None:
        """Find out to which transactions a call belongs that is about to be held."""
        for claim in list(self.claims.values()):  # another thread may claim meanwhile
            if not claim.tells:
                held.unknown = True
                continue
            transaction = claim.transaction()
            if transaction is not None:
                held.transactions |= {transaction}

    def _parents_claim(self, resource: Resource) -> Claim | None:
        ancestor = self.parent
        while ancestor is not None:
            if resource in ancestor.claims:
                return ancestor.claims[resource]
            ancestor = ancestor.parent
        return None

    def adopt_claims(self) -> None:
        """Take what the rounds above have claimed into this one, which may work on it unasked."""
        ancestor = self.parent
        while ancestor is not None:
            for resource in list(ancestor.claims):
                self.claim(resource, self.task)
            ancestor = ancestor.parent

    def use_what_is_open(self) -> None:
        """Take claims into a callback's round on which it works without having asked for them."""
        ancestor = self.parent
        while ancestor is not None:
            for claim in list(ancestor.claims.values()):
                if claim.tells and claim.round is ancestor and claim.transaction() is not None:
                    self.use(claim)
            ancestor = ancestor.parent

    def _owns(self, claim: Claim) -> bool:
        return self._parents_claim(claim.resource) is not claim

    # -- transactions that the application ends by hand

    def refuse_if_doomed(self, resource: Resource) -> None:
        """Refuse a commit by hand in a task that was told to fail.

        A callback that runs after the settling may commit.

        Raises:
            TaskDoomed: It was.
        """
        task = self.task
        if task.doomed is not None and self.state is OPEN and self.kind in _DOOMABLE:
            raise TaskDoomed(resource.name, task.name, task.doomed)

    def transaction_ended(self, transaction: Transaction, how: str) -> None:
        """Take note that a transaction of this round's claims ended.

        Args:
            transaction: Which.
            how: ``"commit"``, ``"rollback"`` or ``"close"`` (neither was called).

        Raises:
            BaseException: A callback raised one that is no ``Exception``.
        """
        transaction.open = False
        if self.state is not OPEN:
            return
        if how == "close" and transaction.wrote:
            how = "rollback"  # closing a session that has only read loses nothing
        ready = [held for held in list(self.held) if self._frees(held, transaction, how)]
        if not self._anything_open(but=transaction.claim):
            ready += self._take_held(lambda held: held.on == "commit" and held.saved)
        self.let_go(ready)

    def _take_held(self, wanted: Callable[[Held], bool]) -> list[Held]:
        """Take some of what is held, in order; other threads may go on adding at its end."""
        taken: list[Held] = []
        others: list[Held] = []
        for _ in range(len(self.held)):
            held = self.held.popleft()
            (taken if wanted(held) else others).append(held)
        self.held.extendleft(reversed(others))
        return taken

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
            for claim in list(self.claims.values())
        )

    # -- settling

    # Every request comes by: a call for each step would cost more than the step.
    def settle(self, decision: Decision) -> list[BaseException]:  # noqa: C901, PLR0912, PLR0915
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
        try:
            del self.unsettled  # whoever can, settles it: several threads may come by at once
        except AttributeError:
            return []
        # From here on nothing more is taken; what another thread adds just now is either found
        # below, or that thread takes it back.
        claims = self.taken = []
        self.state = COMMITTING if decision.commit else ROLLING_BACK
        claims += self.claims.values()
        errors: list[BaseException] = []
        own = [claim for claim in claims if claim not in self.foreign] if self.foreign else claims
        if decision.commit:
            for claim in own:
                if claim.explicit and not (self.kind == "callback" and _is_unsaved(claim)):
                    claim.outcome = "left to the application"
                    continue
                began = perf_counter()
                try:
                    claim.commit()
                except BaseException as exc:
                    claim.seconds = perf_counter() - began
                    decision = self._commit_failed(claim, exc, own, errors)
                    break
                claim.seconds = perf_counter() - began
                claim.outcome = "committed"
        else:
            self._roll_back(own, errors)
        self.state = LEAVING
        fatal: BaseException | None = None
        if self.held:
            queue: deque[Held] = deque()
            while self.held:
                queue.append(self.held.popleft())
            by_one = self.follows or self.can_look or self.mirrors or self.parent is not None
            if by_one or not decision.commit:
                queue = self._let_leave(queue, decision)
            if queue:  # all of them, as almost always
                fatal = self._leave(queue)
        self.state = RELEASING
        for claim in reversed(claims):
            if self.parent is not None and not self._owns(claim):
                claim.round = self.parent
                continue
            claim.round = None
            try:
                claim.release()
            except BaseException as exc:
                try:
                    self._release_failed(claim, exc, errors, after_commit=decision.commit)
                except BaseException as raised:  # of a receiver: nothing else is skipped
                    fatal = fatal or raised
        self.state = CLOSED
        self._record(decision, claims)
        # A round that is over holds nothing, so that its task is freed with its last reference.
        self.claims = {}
        self.taken = ()
        self.parent = None
        if self.cause is not None:
            self.cause = None
        del self.task
        if fatal is not None:
            if errors:
                raise fatal from combine(errors)
            raise fatal
        return errors

    def _commit_failed(
        self,
        claim: Claim,
        exc: BaseException,
        claims: list[Claim],
        errors: list[BaseException],
    ) -> Decision:
        """The first commit that fails ends the committing: what has not committed rolls back."""
        position = claims.index(claim)
        name = claim.resource.name
        claim.outcome = f"commit failed: {_type_name(exc)}"
        errors.append(exc)
        self._explain_partial_commit(exc, claims, position)
        self._note(f"the commit of {name}", exc)
        self._roll_back(claims[position:], errors)
        return Decision(False, f"the commit of {name} failed: {_type_name(exc)}")

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
            began = perf_counter()
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
            claim.seconds += perf_counter() - began

    def _release_failed(
        self,
        claim: Claim,
        exc: BaseException,
        errors: list[BaseException],
        *,
        after_commit: bool,
    ) -> None:
        name = claim.resource.name
        self._note(f"the release of {name}", exc)
        logger.error("Task %r: the release of %s failed.", self.task.name, name, exc_info=exc)
        if after_commit:
            tell(release_failed, self.task.app, resource=name, exception=exc)
        else:
            errors.append(exc)

    def _note(self, step: str, exc: BaseException) -> None:
        self.errors = [*self.errors, f"{step}: {_type_name(exc)}"]

    # -- leaving

    def _let_leave(self, queue: deque[Held], decision: Decision) -> deque[Held]:
        """What may leave, one by one; a callback's round passes it on to its parent."""
        leaving: deque[Held] = deque()
        lost: list[Held] = []
        for one in queue:
            if one.on == ("commit" if decision.commit else "rollback"):
                lose = decision.commit and one.transactions and self._never_committed(one)
                (lost if lose else leaving).append(one)
            elif one.on == "commit" and one.saved:
                leaving.append(one)  # its own transaction was committed by hand
            elif one.on == "commit":
                self._drop(one, decision.rule)
        if lost:
            self._warn_of_lost(lost)
        if self.parent is not None:
            self.passed_on = leaving
            return deque()
        if decision.commit and any(one.callback is not None for one in leaving):
            self._undo_uncommitted()
        return leaving

    def _undo_uncommitted(self) -> None:
        """Roll back what nobody committed by hand, before a callback's commit could save it."""
        for claim in list(self.claims.values()):
            if claim.explicit and not claim.lent and _is_unsaved(claim):
                self._roll_back([claim], [])

    def _never_committed(self, held: Held) -> bool:
        return any(
            transaction.open and transaction.claim.explicit and _is_unsaved(transaction.claim)
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
        tell(held_dropped, self.task.app, calls=[held.call for held in lost])

    def _drop(self, held: Held, reason: str) -> None:
        self.dropped = [*self.dropped, (held.call, reason)]
        if held in self.held:
            self.held.remove(held)

    def drop_since(self, before: list[Held], reason: str) -> list[Held]:
        """Drop what was registered since.

        Args:
            before: What was held then.
            reason: Why, for the record.

        Returns:
            What waited for just this.
        """
        known = set(map(id, before))
        since = self._take_held(lambda held: id(held) not in known)
        for held in since:
            if held.on == "commit":
                self._drop(held, reason)
        return [held for held in since if held.on == "rollback"]

    def let_go(self, items: list[Held]) -> None:
        """Run callbacks whose time has come before the round's."""
        fatal = self._leave(deque(items)) if items else None
        if fatal is not None:
            raise fatal

    def _leave(self, queue: deque[Held]) -> BaseException | None:
        """Let held calls go, in order; a failing one stops no other."""
        fatal: BaseException | None = None
        left = self.left = [*self.left]
        while queue:
            held = queue.popleft()
            callback = held.callback
            if callback is None:
                error = self._send(held, queue, left)
            else:
                try:  # what formatting it would cost is left to who reads the record
                    left.append((held.on, callback.__module__, callback.__qualname__))
                except AttributeError:  # a partial, or an object that can be called
                    left.append(held.call)
                error = self._run(held, callback, queue)
            if error is not None and not isinstance(error, Exception):
                fatal = fatal or error
        return fatal

    def _send(self, held: Held, queue: deque[Held], left: list[Left]) -> BaseException | None:
        assert held.send is not None
        left.append(held.call)
        batch = [held.item]
        while queue and queue[0].send is held.send:
            following = queue.popleft()
            left.append(following.call)
            batch.append(following.item)
        try:
            held.send(batch)
        except BaseException as exc:
            self._callback_failed(held, exc)
            return exc
        return None

    def _run(
        self, held: Held, callback: Callable[[], Any], queue: deque[Held]
    ) -> BaseException | None:
        task = self.task
        before = task.round
        shares = self.follows or self.can_look or self.parent is not None
        writes = self._unsaved() if shares else _NONE
        error: BaseException | None = None
        if self.state is OPEN:  # a transaction was ended by hand, and more may follow it
            task.round = Round.of_callback(self)
            task.round.foreign = self._open_claims()
        self.calling = True
        try:
            callback()
        except BaseException as exc:
            error = exc
            self._callback_failed(held, exc)
        if shares:
            writes = self._unsaved() - writes
            if writes:
                task.open_round()
        self.calling = False
        if task.opening:  # perhaps another thread does so just now, which saw the callback run
            task.lock.acquire()
            task.lock.release()
        round_, task.round = task.round, before
        if round_ is not self:
            for failure in self._settle_callback(round_, writes, error, queue):
                error = error or failure
                self._callback_failed(held, failure)
        if error is None and callback_ran.receivers:
            tell(callback_ran, task.app, call=held.call)
        return error

    def _settle_callback(
        self,
        round_: Round,
        writes: AbstractSet[Claim],
        error: BaseException | None,
        queue: deque[Held],
    ) -> list[BaseException]:
        for claim in writes:
            if claim.round is not round_:
                round_.use(claim)
        if round_.decided is not None:
            decision = round_.decided
        elif error is None:
            decision = Decision(True, "the callback returned")
        else:
            decision = Decision(False, f"exception {_type_name(error)}")
        try:
            failures = round_.settle(decision)
        except BaseException as exc:
            failures = [exc]
        # What the callback registered comes after what was there before it.
        queue.extend(round_.passed_on)
        return failures

    def _open_claims(self) -> AbstractSet[Claim]:
        """Claims of this round, and of those above it that are open, with a transaction in them."""
        found: set[Claim] = set(self.foreign)
        round_: Round | None = self
        while round_ is not None and round_.state is OPEN:
            for claim in list(round_.claims.values()):
                if not claim.tells or claim.transaction() is not None:
                    found.add(claim)
            round_ = round_.parent
        return found

    def _unsaved(self) -> AbstractSet[Claim]:
        """Claims of this round and those above it that hold uncommitted writes just now."""
        unsaved: AbstractSet[Claim] = _NONE
        round_: Round | None = self
        while round_ is not None:
            if round_.follows or round_.can_look:
                for claim in list(round_.claims.values()):
                    if (claim.tells or claim.can_look) and _is_unsaved(claim):
                        unsaved |= {claim}
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
        tell(callback_failed, self.task.app, callback=held.call, exception=exc)

    # -- the record

    def _record(self, decision: Decision, claims: list[Claim]) -> None:
        if self.kind != "work" and not (claims or self.errors or self.left or self.dropped):
            return
        task = self.task
        done = []
        for claim in claims:  # a comprehension is a call more
            done.append((claim.resource.name, claim.outcome, claim.seconds))  # noqa: PERF401
        entry = (
            task.facts,
            self.kind,
            decision,
            done,
            self.left,
            self.dropped,
            self.errors,
            self.began,
            monotonic_ns(),
            time(),
        )
        keep(entry, task.state.records, task.app)


def combine(errors: Sequence[BaseException]) -> BaseException:
    """One error as it is; several as an exception group."""
    if len(errors) == 1:
        return errors[0]
    return BaseExceptionGroup("Several steps of settling a task failed.", list(errors))


def _is_unsaved(claim: Claim) -> bool:
    """Whether a claim holds uncommitted writes; one that cannot be asked any more holds none."""
    try:
        return claim.unsaved()
    except Exception:
        logger.exception("%s cannot be asked whether a transaction is open.", claim.resource.name)
        return False


def _type_name(exc: BaseException) -> str:
    return type(exc).__qualname__

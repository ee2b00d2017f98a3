"""What happened in one run: its steps, and what became of claims, calls and written rows."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...exceptions import InjectedExit, InjectedFault
from ...tasks.context import find_task
from ...tasks.task import OPEN

if TYPE_CHECKING:
    from ...tasks.callbacks import Held
    from ...tasks.claims import Claim
    from ...tasks.records import Record
    from ...tasks.task import Round

EXCEPTION = "Exception"
BASE_EXCEPTION = "BaseException"
LEAVES = "client leaves"
NO_RESPONSE = -1  # what is done outside of every request

#: What does not tell whether two runs took the same way: literals differ, numbers grow.
Key = tuple[str, ...]


@dataclass(eq=False, slots=True)
class Step:
    """One step of a run, which another run may let fail.

    Attributes:
        number: Counted from 1.
        name: As the table shows it, such as ``"commit of db.session"``.
        key: By which the same step of another run is known.
        in_driver: Whether a driver did the step, so that the driver's own error is what fails it.
        response, position: Where the client leaves: the response of the run, counted from 0, and
            how many of its pieces come before.
    """

    number: int
    name: str
    key: Key
    in_driver: bool = False
    response: int = 0
    position: int = -1

    def __str__(self) -> str:
        return f"step {self.number}, {self.name}"


@dataclass(frozen=True, slots=True)
class Fault:
    """Which step is to fail, and how."""

    step: Step
    kind: str


@dataclass(eq=False, slots=True)
class Work:
    """What was written through one connection of a driver.

    Attributes:
        name: Of the database.
        claim: Whose value the connection belongs to, if a task has claimed it.
        opened: Statements that wrote and are neither committed nor rolled back.
        by_task: How many a task has committed, for each response of the run.
        by_hand: How many the application has committed, for each response.
        lost: How many the database rolled back when it was asked to commit.
    """

    name: str
    claim: ClaimTrack | None = None
    opened: int = 0
    by_task: Counter[int] = field(default_factory=Counter)
    by_hand: Counter[int] = field(default_factory=Counter)
    lost: int = 0

    def rolled_back(self) -> None:
        """Take note of a rollback."""
        self.opened = 0


@dataclass(eq=False, slots=True)
class ClaimTrack:
    """One claim of a task.

    Attributes:
        settled: For each round that settled it: what was called, with the result.
        released: How often.
        unsettled: What had been written and not settled when it was released.
        seen: Whether its statements could be seen.
    """

    claim: Claim
    name: str
    explicit: bool
    first_round: RoundTrack | None = None
    settled: list[tuple[RoundTrack | None, list[str]]] = field(default_factory=list)
    released: int = 0
    unsettled: int = 0
    seen: bool = False

    def note(self, round_: RoundTrack | None, call: str) -> None:
        """Take note of a commit or rollback."""
        if not self.settled or self.settled[-1][0] is not round_:
            self.settled.append((round_, []))
        self.settled[-1][1].append(call)

    def committed_in(self, round_: RoundTrack) -> bool:
        """Whether this round has committed it."""
        return any(of is round_ and "commit" in calls for of, calls in self.settled)


@dataclass(eq=False, slots=True)
class HeldTrack:
    """One callback or event that waited for an outcome.

    Attributes:
        round: In which it was registered.
        event: What is sent, if it is one.
        left: Its place in the order of everything that happened, when it left; 0 before.
        failed: Whether it raised when it left.
        by_hand: Whether the application had committed something by hand by then.
    """

    held: Held
    call: str
    on: str
    round: RoundTrack
    event: Any = None
    left: int = 0
    failed: bool = False
    by_hand: bool = False


@dataclass(eq=False, slots=True)
class RoundTrack:
    """One round of a task.

    Attributes:
        over: Its place in the order of everything that happened, when its last commit was done.
        record: What it left behind, if anything.
        response: To which response of the run it belongs.
    """

    round: Round
    kind: str
    task_kind: str
    task_name: str
    nested: bool
    response: int
    commits: bool | None = None
    over: int = 0
    record: Record | None = None

    @property
    def kept(self) -> bool:
        """Whether what it was about to commit is committed."""
        if self.record is not None:
            return self.record.committed
        return bool(self.commits)


class Trace:
    """What one run does, written down; and the fault that it meets.

    Args:
        fault: What is to fail, if anything.
        recorded: The steps of the run without faults.
    """

    def __init__(self, fault: Fault | None = None, recorded: list[Step] | None = None) -> None:
        self.fault = fault
        self._recorded = recorded or []
        self._lock = threading.RLock()
        self._local = threading.local()
        self._clock = 0
        self._armed: BaseException | None = None
        self.steps: list[Step] = []
        self.diverged: str | None = None
        self.injected: BaseException | None = None
        self.injected_in: str | None = None  # the kind of the round whose work it met
        self.injected_response = NO_RESPONSE
        self.saved_before = False
        self.claims: list[ClaimTrack] = []
        self.rounds: dict[int, RoundTrack] = {}
        self.held: list[HeldTrack] = []
        self.works: list[Work] = []
        self.events: list[tuple[int, str, bytes]] = []
        self.unheld: list[tuple[int, str, bool]] = []  # place, channel, before the settling
        self.records: list[Record] = []
        self.failed: list[str] = []
        self.answers: list[int | None] = []
        self.pieces: list[int] = []
        self.bodies: list[Any] = []
        self.pools: dict[int, tuple[str, int, Any]] = {}
        self.opened: list[Any] = []
        self.unseen: dict[str, str] = {}

    def tick(self) -> int:
        """The next place in the order of everything that happens."""
        with self._lock:
            self._clock += 1
            return self._clock

    # -- steps

    def reach(self, name: str, key: Key) -> tuple[Step, str | None]:
        """Take note that a step is about to be done.

        Returns:
            The step; and how it has to fail, or ``None``.
        """
        with self._lock:
            step = Step(len(self.steps) + 1, name, key)
            self.steps.append(step)
            fault = self.fault
            if fault is None or fault.kind == LEAVES or self.injected is not None:
                return step, None
            if self.diverged is None and step.number <= fault.step.number:
                known = self._recorded[step.number - 1]
                if known.key != step.key:
                    self.diverged = f"step {step.number} was {known.name!r}, now {step.name!r}"
            if self.diverged is not None or step.number != fault.step.number:
                return step, None
            step.in_driver = fault.step.in_driver
            return step, fault.kind

    def come_by(self, name: str, key: Key) -> None:
        """Reach a step that no driver does.

        Raises:
            BaseException: The fault.
        """
        _, kind = self.reach(name, key)
        if kind is not None:
            raise self.make(kind)

    def make(self, kind: str, base: type[Exception] | None = None) -> BaseException:
        """The exception for the step that has to fail."""
        place = str(self.fault.step) if self.fault is not None else "no step"
        error: BaseException
        if kind == BASE_EXCEPTION:
            error = InjectedExit(place)
        elif base is None:
            error = InjectedFault(place)
        else:
            error = like(base)(place)
        task = find_task(create=False)
        self.injected_response = self.response
        # Once a round settles, what fails in it is no longer its work.
        working = task is not None and task.round.state is OPEN
        self.injected_in = task.round.kind if task is not None and working else None
        response = self.response
        self.saved_before = any(
            work.by_task[response] or work.by_hand[response] for work in self.works
        ) or any(
            "commit" in calls
            for track in self.claims
            for of, calls in track.settled
            if of is not None and of.response == response
        )
        self.injected = error
        return error

    @contextmanager
    def inside(self, step: Step, kind: str | None) -> Generator[None]:
        """Do a step whose driver is to raise its own error, if it is reached.

        Raises:
            BaseException: The fault, where no driver is known to be reached.
        """
        if kind is not None and not step.in_driver:
            raise self.make(kind)
        before = getattr(self._local, "step", None), getattr(self._local, "kind", None)
        self._local.step, self._local.kind = step, kind
        try:
            yield
        finally:
            missed = self._local.kind
            self._local.step, self._local.kind = before
        if missed is not None:
            raise self.make(missed)

    def driver(self, base: type[Exception]) -> BaseException | None:
        """Tell that a driver does the step that is under way.

        Returns:
            What it has to raise, or ``None``.
        """
        step: Step | None = getattr(self._local, "step", None)
        if step is None:
            return None
        step.in_driver = True
        kind: str | None = self._local.kind
        if kind is None:
            return None
        self._local.kind = None
        return self.make(kind, base)

    @property
    def response(self) -> int:
        """The response that this thread is making, counted from 0."""
        number: int = getattr(self._local, "response", NO_RESPONSE)
        return number

    @contextmanager
    def making(self, response: int) -> Generator[None]:
        """Make a response, or a piece of it."""
        before = self.response
        self._local.response = response
        try:
            yield
        finally:
            self._local.response = before

    @property
    def within(self) -> Step | None:
        """The claim or commit of a task that is under way in this thread."""
        step: Step | None = getattr(self._local, "step", None)
        return step

    # -- what becomes of things

    def round(self, round_: Round) -> RoundTrack:
        """The track of a round."""
        with self._lock:
            track = self.rounds.get(id(round_))
            if track is None:
                task = round_.task
                nested = task.kind == "task" and bool(self.answers)
                track = RoundTrack(round_, round_.kind, task.kind, task.name, nested, self.response)
                self.rounds[id(round_)] = track
            return track

    @property
    def settling(self) -> list[RoundTrack]:
        """The rounds that settle just now in this thread, innermost last."""
        stack: list[RoundTrack] | None = getattr(self._local, "settling", None)
        if stack is None:
            stack = self._local.settling = []
        return stack

    def work(self, name: str) -> Work:
        """Begin to follow a connection."""
        work = Work(name)
        with self._lock:
            self.works.append(work)
        return work


_likes: dict[type[Exception], type[InjectedFault]] = {}


def like(base: type[Exception]) -> Any:
    """The class of injected faults that a handler of ``base`` catches."""
    if base not in _likes:
        _likes[base] = type(f"Injected{base.__name__}", (InjectedFault, base), {})
    return _likes[base]

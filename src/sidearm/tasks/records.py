"""What each round leaves behind: one structured record (contract T11), formatted only on demand."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from blinker import NamedSignal

from ..signals import round_settled
from .outcome import Decision

logger = logging.getLogger("sidearm.tasks")

#: The name of a request's task that no URL rule matched.
NO_ENDPOINT = "no endpoint"

_INFO = logging.INFO

LOOK_INTERVAL = 1.0  # seconds

#: What the records of one task share: the status of the response, the name, the kind, and the
#: URL rule and the method of a request.
Facts = list[Any]

#: A call that left: as its author wrote it, or ``(outcome, module, qualified name)``.
Left = str | tuple[str, str, str]

#: What :class:`Record` is made of, in the order of its arguments. Every request leaves one, and
#: few are ever looked at.
Entry = tuple[
    Facts,
    str,
    Decision,
    Sequence[tuple[str, str, float]],
    Sequence[Left],
    Sequence[tuple[str, str]],
    Sequence[str],
    int,
    int,
    float,
]


def name_in(facts: Facts) -> str:
    """The name of a task: its own, or the endpoint of its request."""
    _, name, _, rule, _ = facts
    if name is None:
        name = rule.endpoint if rule is not None else NO_ENDPOINT
    return str(name)


def _call(left: Left) -> str:
    if isinstance(left, str):
        return left
    on, module, name = left
    return f"after_{on}({module}.{name})"


class Record:
    """One settled round of a task: what was claimed, which rule decided, what left, the times.

    It holds the endpoint and the URL rule, never a filled-in path, and no values.

    Attributes:
        task: The task's name: the endpoint of a request, a command's name, or the name given.
        kind: ``"request"``, ``"command"``, ``"context"`` or ``"task"``.
        round: ``"work"``, ``"body"``, ``"error page"``, ``"callback"`` or ``"teardown"``.
        endpoint, url_rule, method: Of the request, if there is one.
        status: The response's status, if the round ended in one.
        committed: Whether the round's work was kept.
        decided_by: The rule that decided, such as ``"status 409"`` or ``"exception ValueError"``.
        resources: A ``(name, outcome, seconds)`` tuple for each claim, in claim order.
        left: The calls that left after the commit, in order.
        dropped: A ``(call, reason)`` tuple for each one that did not.
        errors: The text of each error of the settling, by step.
        started: When the round began, as a Unix time in seconds.
        seconds: How long it took, from its first claim to its release.
    """

    __slots__ = (
        "_ended",
        "committed",
        "decided_by",
        "dropped",
        "endpoint",
        "errors",
        "kind",
        "left",
        "method",
        "resources",
        "round",
        "seconds",
        "status",
        "task",
        "url_rule",
    )

    def __init__(  # noqa: PLR0917 - the order of an entry
        self,
        facts: Facts,
        round: str,
        decision: Decision,
        resources: Sequence[tuple[str, str, float]] = (),
        left: Sequence[Left] = (),
        dropped: Sequence[tuple[str, str]] = (),
        errors: Sequence[str] = (),
        began: int = 0,
        ended: int = 0,
        at: float = 0.0,
    ) -> None:
        self.status, _, self.kind, rule, self.method = facts
        self.task = name_in(facts)
        self.endpoint: str | None = rule.endpoint if rule is not None else None
        self.url_rule: str | None = rule.rule if rule is not None else None
        self.round = round
        self.committed, self.decided_by = decision
        self.resources = tuple(resources)
        self.left = tuple(map(_call, left))
        self.dropped = tuple(dropped)
        self.errors = tuple(errors)
        self.seconds = (ended - began) / 1e9 if began else 0.0
        self._ended = at

    @property
    def started(self) -> float:
        """When the round began, as a Unix time in seconds."""
        return self._ended - self.seconds

    def as_dict(self) -> dict[str, Any]:
        """The record as plain values, ready for JSON.

        Returns:
            A dictionary with the attributes of this class.
        """
        return {
            "task": self.task,
            "kind": self.kind,
            "round": self.round,
            "endpoint": self.endpoint,
            "url_rule": self.url_rule,
            "method": self.method,
            "status": self.status,
            "committed": self.committed,
            "decided_by": self.decided_by,
            "resources": [
                {"name": name, "outcome": outcome, "seconds": seconds}
                for name, outcome, seconds in self.resources
            ],
            "left": list(self.left),
            "dropped": [{"call": call, "reason": reason} for call, reason in self.dropped],
            "errors": list(self.errors),
            "started": self.started,
            "seconds": self.seconds,
        }

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return self.as_dict() == other.as_dict()

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        where = f"{self.method} {self.url_rule}" if self.method else self.kind
        parts = [
            f"{self.task!r} ({where}, {self.round})",
            "committed" if self.committed else "rolled back",
            f"by {self.decided_by}",
        ]
        parts += [f"{name}: {outcome}" for name, outcome, _ in self.resources]
        if self.left:
            parts.append(f"left: {', '.join(self.left)}")
        parts += [f"dropped: {call} ({reason})" for call, reason in self.dropped]
        parts += [f"error: {error}" for error in self.errors]
        return "; ".join(parts)

    def __repr__(self) -> str:
        return f"<Record {self}>"


class Records:
    """The latest records, oldest first; each is made when somebody looks at it.

    Args:
        count: How many are kept.

    Attributes:
        entries: What they are made of.
        watchers: Called by a record, at most once a second.
        export: Called with each entry, if there is somebody for it.
    """

    def __init__(self, count: int) -> None:
        self.entries: deque[Entry] = deque(maxlen=count)
        self.watchers: Sequence[Callable[[], None]] = ()
        self.export: Callable[[Entry], None] | None = None
        # Between these readings of time.time() nobody needs to look again.
        self.looked = self.next_look = 0.0

    def look(self, now: float) -> None:
        """Ask each watcher whether something has come that wants these records."""
        self.looked, self.next_look = now, now + LOOK_INTERVAL
        for watch in self.watchers:
            try:
                watch()
            except Exception:
                logger.exception("Nobody could be found who wants records.")

    def look_again(self) -> None:
        """Let the next record look: after a fork, nothing is as it was."""
        self.next_look = 0.0

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, position: int) -> Record:
        return Record(*self.entries[position])

    def __iter__(self) -> Iterator[Record]:
        # Other threads go on adding while one looks.
        return iter([Record(*entry) for entry in list(self.entries)])


def keep(entry: Entry, records: Records, app: Any) -> None:
    """Put a record into the ring, log it if somebody should see it, and signal it.

    A failed round that had claimed or held nothing (a plain 404) is no news; its line is for
    those who ask by the level.
    """
    records.entries.append(entry)
    # The clock may be set back, so both ends count.
    if not records.looked <= entry[9] < records.next_look:
        records.look(entry[9])
    # Every request comes by here, and few programs look.
    if records.export is not None:
        records.export(entry)
    if logger.isEnabledFor(_INFO) or round_settled.receivers:
        _show(entry, app)


def _show(entry: Entry, app: Any) -> None:
    record = Record(*entry)
    news = record.dropped or record.errors or (record.resources and not record.committed)
    level = logging.INFO if news else logging.DEBUG
    if logger.isEnabledFor(level):
        logger.log(level, "%s", record, extra={"sidearm_record": record.as_dict()})
    if round_settled.receivers:
        tell(round_settled, app, record=record)


def tell(signal: NamedSignal, app: Any, **facts: Any) -> None:
    """Send a signal; a receiver that raises must not make an error of what is decided."""
    try:
        signal.send(app, **facts)
    except Exception:
        logger.exception("A receiver of the signal %s failed.", signal.name)

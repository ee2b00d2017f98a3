"""What each round leaves behind: one structured record (contract T11), formatted only on demand."""

from __future__ import annotations

import logging
import time
from typing import Any

logger = logging.getLogger("sidearm.tasks")


class Record:
    """One settled round of a task: what was claimed, which rule decided, what left, the times.

    It holds the endpoint and the URL rule, never a filled-in path, and no values.

    Attributes:
        task: The task's name: the endpoint of a request, a command's name, or the name given.
        kind: ``"request"``, ``"command"``, ``"context"`` or ``"task"``.
        round: ``"work"``, ``"error page"`` or ``"callback"``.
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

    def __init__(
        self,
        task: str,
        kind: str,
        round: str,
        *,
        committed: bool,
        decided_by: str,
    ) -> None:
        self.task = task
        self.kind = kind
        self.round = round
        self.committed = committed
        self.decided_by = decided_by
        self.endpoint: str | None = None
        self.url_rule: str | None = None
        self.method: str | None = None
        self.status: int | None = None
        self.resources: tuple[tuple[str, str, float], ...] = ()
        self.left: tuple[str, ...] = ()
        self.dropped: tuple[tuple[str, str], ...] = ()
        self.errors: tuple[str, ...] = ()
        self.seconds = 0.0
        self._ended = time.time()

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


def log(record: Record) -> None:
    """Write one log line for a record that somebody should see.

    A failed round that had claimed or held nothing (a plain 404) is no news; its line is for
    those who ask by the level.
    """
    news = record.dropped or record.errors or (record.resources and not record.committed)
    level = logging.INFO if news else logging.DEBUG
    if logger.isEnabledFor(level):
        logger.log(level, "%s", record, extra={"sidearm_record": record.as_dict()})

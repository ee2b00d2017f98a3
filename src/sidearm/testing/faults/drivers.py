"""What is common to the drivers whose statements, connections and commits are seen.

Each has a module of its own: ``sqlite``, ``psycopg``, ``redis``, and ``sqlalchemy`` for all that
SQLAlchemy drives.

A fault is raised where the driver itself would raise, with a class that is the driver's own
``OperationalError`` too: SQLAlchemy wraps it, and the application's handlers catch it, as the real
one. A connection that was made before the runs began, or by another driver, is not seen; the table
says of whose claims that is true.
"""

from __future__ import annotations

import re
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from .trace import Trace, Work

if TYPE_CHECKING:
    from .points import Points

_WORK = "_sidearm_fault_work"
_READS = ("select", "show", "pragma", "explain", "values", "table", "set", "savepoint", "release")
_BEGINS = ("begin", "start")
_FROM = re.compile(r"\bFROM\s+\(*([\w.\"]+)", re.IGNORECASE)
SHOWN = 60  # characters of a statement


def watch(points: Points, stack: ExitStack) -> None:
    """See what the drivers do that this process has loaded, until the stack is left."""
    from .sqlite import SQLiteDriver

    SQLiteDriver(points).install(stack)
    if "psycopg" in sys.modules:
        from .psycopg import PsycopgDriver

        PsycopgDriver(points).install(stack)
    if "redis" in sys.modules:
        from .redis import RedisDriver

        RedisDriver(points).install(stack)
    if "sqlalchemy" in sys.modules:
        from .sqlalchemy import SQLAlchemyDriver

        SQLAlchemyDriver(points).install(stack)


class Driver:
    """One driver, watched."""

    def __init__(self, points: Points) -> None:
        self._points = points

    def install(self, stack: ExitStack) -> None:
        """Replace what has to be replaced, until the stack is left."""
        raise NotImplementedError

    def work_of(self, trace: Trace, holder: Any, name: str) -> Work:
        """What is known of a connection in this run; kept on the connection, by its attributes."""
        attributes: dict[str, Any] = holder if isinstance(holder, dict) else vars(holder)
        known = attributes.get(_WORK)
        if known is None or known[0] is not trace:
            known = attributes[_WORK] = (trace, trace.work(name))
        work: Work = known[1]
        return work

    def statement(
        self, work: Work, sql: str, value: Any, base: type[Exception]
    ) -> BaseException | None:
        """Take note of a statement that is about to be executed; returns what fails it."""
        trace = self._points.active
        if trace is None:
            return None
        self.claimed(trace, work, value)
        if work.claim is not None:
            work.claim.seen = True
        name = work.claim.name if work.claim is not None else work.name
        shown = summary(sql)
        step, kind = trace.reach(f"{name}: {shown}", ("statement", name, shown))
        step.in_driver = True
        return trace.make(kind, base) if kind is not None else None

    def claimed(self, trace: Trace, work: Work, value: Any) -> None:
        """Find the claim that a connection or session belongs to."""
        if work.claim is None or work.claim.released:
            work.claim = next(
                (t for t in trace.claims if t.claim.value is value and not t.released), None
            )

    def committing(
        self, work: Work, value: Any, name: str, base: type[Exception]
    ) -> BaseException | None:
        """Take note of a commit that is about to be done; returns what fails it."""
        trace = self._points.active
        if trace is None:
            return None
        self.claimed(trace, work, value)
        if trace.within is not None and trace.within.key[0] == "commit":
            return trace.driver(base)
        name = work.claim.name if work.claim is not None else name
        step, kind = trace.reach(f"commit of {name} by hand", ("commit by hand", name))
        step.in_driver = True
        return trace.make(kind, base) if kind is not None else None

    def committed(self, work: Work) -> None:
        """Take note of a commit that was done."""
        trace = self._points.trace
        if trace is None or not work.opened:
            return
        within = trace.within
        by_task = within is not None and within.key[0] == "commit"
        (work.by_task if by_task else work.by_hand)[trace.response] += work.opened
        work.opened = 0

    def connecting(self, name: str, base: type[Exception]) -> None:
        """Take note of a connection that is about to be made or taken out.

        Raises:
            BaseException: What fails it.
        """
        trace = self._points.active
        if trace is None:
            return
        if trace.within is not None and trace.within.key[0] == "claim":
            error = trace.driver(base)
        else:
            step, kind = trace.reach(f"connection of {name}", ("connect", name))
            step.in_driver = True
            error = trace.make(kind, base) if kind is not None else None
        if error is not None:
            raise error


def summary(sql: str) -> str:
    """A statement in three words, ``INSERT INTO orders``: without its values, which may be secret.

    Two runs take the same step if it is the same: values and names of savepoints differ.
    """
    words = sql.split()
    if not words:
        return "(empty)"
    verb = words[0].upper().strip("(;")
    if verb in ("SELECT", "DELETE", "WITH"):
        found = _FROM.search(sql)
        verb = verb if found is None else f"{verb} FROM {found[1]}"
    elif verb in ("INSERT", "UPDATE", "CREATE", "DROP", "ALTER"):
        rest = [word.partition("(")[0] for word in words[1:3]]
        verb = " ".join([verb, *rest[: 1 if verb == "UPDATE" else 2]])
    return verb[:SHOWN]


def only_reads(sql: str) -> bool:
    """Whether a statement changes no rows, as far as its words tell."""
    words = sql.lower().split()
    if not words:
        return True
    first = words[0].lstrip("(")
    if first == "with":
        return not {"insert", "update", "delete", "merge"} & {word.lstrip("(") for word in words}
    return first in _READS or first in _BEGINS

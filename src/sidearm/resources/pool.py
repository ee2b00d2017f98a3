"""Pools of DB-API connections with ``getconn`` and ``putconn``: psycopg's, and psycopg2's."""

from __future__ import annotations

import inspect
from typing import Any

from ..tasks.claims import Claim, CommitMode, Resource, Savepoint
from .reach import reach_pooled
from .savepoints import savepoint_of
from .transactions import probe_for, refuse_aborted


class ConnectionPool(Resource):
    """A pool: ``get_connection = arm.use(pool)``, then ``get_connection()`` in a task.

    The driver does not tell of commits by hand: callbacks and events follow the task.

    Args:
        pool: Has ``getconn()``, and ``putconn(connection)``, such as
            ``psycopg_pool.ConnectionPool``.
        commit: ``"task"`` or ``"explicit"``.

    Raises:
        TypeError: It is a pool for asyncio.
    """

    def __init__(self, pool: Any, commit: CommitMode = "task") -> None:
        if inspect.iscoroutinefunction(pool.getconn):
            raise TypeError(
                f"arm.use() was given {pool!r}, whose connections are for asyncio. Give a"
                " psycopg_pool.ConnectionPool."
            )
        super().__init__("connection", commit)
        self._pool = pool

    def claim(self) -> Claim:
        """Take a connection out."""
        return PooledClaim(self, self._pool.getconn(), self._pool)

    def reach(self) -> None:
        """Raise unless a connection can be had and answers."""
        reach_pooled(self._pool)


class PooledClaim(Claim):
    """A connection that goes back to its pool."""

    def __init__(self, resource: Resource, value: Any, pool: Any) -> None:
        super().__init__(resource, value)
        self._pool = pool
        self._probe = probe_for(value)
        self.can_look = self._probe is not None

    def unsaved(self) -> bool:
        return self._probe is not None and self._probe(self.value)

    def savepoint(self) -> Savepoint | None:
        return savepoint_of(self.value, self.resource.name)

    def commit(self) -> None:
        refuse_aborted(self.value, self.resource.name)
        self.value.commit()

    def rollback(self) -> None:
        # The server has rolled back a transaction whose connection is gone.
        if not getattr(self.value, "closed", False):
            self.value.rollback()

    def release(self) -> None:
        self._pool.putconn(self.value)


def is_pool(thing: Any) -> bool:
    """Whether something is such a pool."""
    return callable(getattr(thing, "getconn", None)) and callable(getattr(thing, "putconn", None))

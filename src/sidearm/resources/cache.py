"""A cache whose writes wait for the commit, and are seen at once by the task that made them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..tasks.callbacks import Held

if TYPE_CHECKING:
    from ..tasks.task import Round, Task

#: What is known of a key: nothing, so that the cache itself has to be asked.
_UNKNOWN = object()
#: It is known that there is no value.
_ABSENT = object()

Write = tuple[str, tuple[Any, ...]]


class TaskCache:
    """A cachelib cache, as tasks see it: ``cache = arm.use(FileSystemCache("cache"))``.

    Its methods are cachelib's. What a task writes is held like an event: it reaches the cache
    after the commit of the transaction that it belongs to, and never after a rollback; until then
    the task reads its own writes, and nobody else does. A cache that fails then is logged and
    signalled, and fails no task.
    """

    def __init__(self, cache: Any, require_task: Callable[[str], Task]) -> None:
        self._cache = cache
        self._require_task = require_task
        self._send = self._apply  # one object, by which neighbours leave together

    # Reading

    def get(self, key: str) -> Any:
        """The value of a key; ``None`` if there is none."""
        found = self._seen(self._task("get"), key)
        if found is _UNKNOWN:
            return self._cache.get(key)
        return None if found is _ABSENT else found

    def has(self, key: str) -> bool:
        """Whether there is a value."""
        found = self._seen(self._task("has"), key)
        return bool(self._cache.has(key)) if found is _UNKNOWN else found is not _ABSENT

    def get_many(self, *keys: str) -> list[Any]:
        """The values of several keys, in order; ``None`` for each that has none."""
        return [self.get(key) for key in keys]

    def get_dict(self, *keys: str) -> dict[str, Any]:
        """The values of several keys, by key."""
        return {key: self.get(key) for key in keys}

    # Writing

    def set(self, key: str, value: Any, timeout: Any = None) -> bool:
        """Set a value, for ``timeout`` seconds or the cache's own; do not change it afterwards."""
        self._write("set", key, value, timeout)
        return True

    def add(self, key: str, value: Any, timeout: Any = None) -> bool:
        """Set a value if there is none; tells whether there was none, as this task sees it."""
        if self.has(key):
            return False
        self._write("add", key, value, timeout)
        return True

    def set_many(self, mapping: Mapping[str, Any], timeout: Any = None) -> list[Any]:
        """Set several values; returns their keys."""
        for key, value in mapping.items():
            self._write("set", key, value, timeout)
        return list(mapping)

    def delete(self, key: str) -> bool:
        """Delete a value; tells whether there was one."""
        existed = self.has(key)
        self._write("delete", key)
        return existed

    def delete_many(self, *keys: str) -> list[Any]:
        """Delete several values; returns the keys that had one."""
        return [key for key in keys if self.delete(key)]

    def clear(self) -> bool:
        """Delete everything."""
        self._write("clear")
        return True

    def inc(self, key: str, delta: int = 1) -> int:
        """Add to a number, 0 if there is none; the sum as this task sees it.

        The cache adds when the task commits: what others have added meanwhile is not lost.
        """
        value = int(self.get(key) or 0) + delta
        self._write("inc", key, delta)
        return value

    def dec(self, key: str, delta: int = 1) -> int:
        """Subtract from a number, as :meth:`inc` adds."""
        return self.inc(key, -delta)

    # Holding

    def _task(self, method: str) -> Task:
        return self._require_task(f"cache.{method}()")

    def _write(self, method: str, *arguments: Any) -> None:
        caller = sys._getframe(2)  # noqa: SLF001 - to name the place of a write that is dropped
        call = f"cache.{method}"
        self._task(method).hold(Held.to_send(call, self._send, (method, arguments), caller))

    def _seen(self, task: Task, key: str) -> Any:
        """The value that this task's own writes have given a key."""
        value: Any = _UNKNOWN
        for method, arguments in self._writes(task.open_round()):
            if method == "clear":
                value = _ABSENT
            elif arguments[0] != key:
                continue
            elif method in ("set", "add"):
                value = arguments[1]
            elif method == "delete":
                value = _ABSENT
            else:  # inc
                before = self._cache.get(key) if value is _UNKNOWN else value
                value = (0 if before is _ABSENT or before is None else int(before)) + arguments[1]
        return value

    def _writes(self, round_: Round | None) -> list[Write]:
        if round_ is None:
            return []
        return [held.item for held in list(round_.held) if held.send is self._send]

    def _apply(self, writes: Sequence[Write]) -> None:
        for method, arguments in writes:
            getattr(self._cache, method)(*arguments)

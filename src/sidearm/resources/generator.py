"""Any generator function ``claim -> yield -> release`` as a resource."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator
from typing import Any, NoReturn

from ..tasks.claims import Claim, CommitMode, Resource, Savepoint
from .reach import reach_generated
from .savepoints import savepoint_of
from .transactions import Probe, probe_for, refuse_aborted

_END = object()


class GeneratorResource(Resource):
    """A resource that a generator function claims, yields and releases.

    Args:
        function: A generator function without arguments that yields once.
        commit: ``"task"`` or ``"explicit"``.

    Raises:
        TypeError: The function is no such generator function.
    """

    def __init__(self, function: Callable[[], Generator[Any]], commit: CommitMode = "task") -> None:
        name = getattr(function, "__name__", repr(function))
        if not inspect.isgeneratorfunction(function):
            raise TypeError(
                f"@arm.resource was given {name}, which is no generator function. Write it as:"
                " claim, 'yield' what was claimed, and release after the yield, in 'finally:'."
            )
        wanted = [
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        if wanted:
            raise TypeError(
                f"@arm.resource was given {name}, which wants the arguments {', '.join(wanted)}."
                " A resource is one thing for each task: read what it needs from"
                " current_app.config, or declare one resource for each."
            )
        super().__init__(name, commit)
        self._function = function
        self._plain_type: type | None = None  # what the last value was that tells of no commit
        self._probe: Probe | None = None  # how values of that type tell whether they have begun one

    def claim(self) -> Claim:
        """Run the function up to its ``yield``."""
        generator = self._function()
        value = next(generator, _END)
        if value is _END:
            raise RuntimeError(f"The resource {self.name} ended without a 'yield'.")
        plain = GeneratorClaim(self, value, generator)
        if type(value) is not self._plain_type:
            try:
                claim = _watched(plain)
            except BaseException:
                plain.release()
                raise
            if claim is not plain:
                return claim
            self._probe = probe_for(value)
            self._plain_type = type(value)
        if self._probe is not None:
            plain.probe = self._probe
            plain.can_look = True
        return plain

    def reach(self) -> None:
        """Raise unless what it yields can be had and answers."""
        reach_generated(self._function)


class GeneratorClaim(Claim):
    """What a generator yielded; settled by its ``commit()`` and ``rollback()``, if it has them.

    Attributes:
        probe: What tells whether the value is in a transaction.
    """

    def __init__(self, resource: Resource, value: Any, generator: Generator[Any]) -> None:
        super().__init__(resource, value)
        self.probe: Probe | None = None
        self._generator = generator

    def unsaved(self) -> bool:
        return self.probe is not None and self.probe(self.value)

    def savepoint(self) -> Savepoint | None:
        return savepoint_of(self.value, self.resource.name)

    def commit(self) -> None:
        if self.can_look:
            refuse_aborted(self.value, self.resource.name)
        commit = getattr(self.value, "commit", None)
        if commit is not None:
            commit()

    def rollback(self) -> None:
        rollback = getattr(self.value, "rollback", None)
        if rollback is not None:
            rollback()

    def release(self) -> None:
        if next(self._generator, _END) is not _END:
            finish(self._generator, self.resource.name)


def finish(generator: Generator[Any], name: str) -> NoReturn:
    """End a generator that has yielded a second time.

    Raises:
        RuntimeError: Always.
    """
    generator.close()
    raise RuntimeError(f"The resource {name} has a second 'yield'. A resource yields once.")


def _watched(plain: GeneratorClaim) -> Claim:
    """A claim that follows commits by hand, if the value is of a kind that tells of them."""
    resource, value = plain.resource, plain.value
    orm = sys.modules.get("sqlalchemy.orm")
    if orm is not None and isinstance(value, orm.Session):
        from .sqlalchemy import SessionClaim

        return SessionClaim(resource, value, plain.release)
    if "sidearm.resources.sqlite" in sys.modules:
        from .sqlite import Connection, SQLiteClaim

        if isinstance(value, Connection):
            return SQLiteClaim(resource, value, plain.release)
    return plain

"""The port between a task and its resources: a task knows no database, only claims."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..exceptions import NoSavepoint

if TYPE_CHECKING:
    from .task import Round

#: Who commits: the task, when it settles, or the application by hand (contract T13).
CommitMode = Literal["task", "explicit"]
COMMIT_MODES = ("task", "explicit")

#: The outcome of a claim that has none yet.
UNDECIDED = "claimed"


def check_mode(commit: CommitMode) -> CommitMode:
    """Return who commits, or refuse what is neither.

    Raises:
        ValueError: It is neither ``"task"`` nor ``"explicit"``.
    """
    if commit not in COMMIT_MODES:
        raise ValueError(
            f"commit is {commit!r}. Give 'task' (the task commits) or 'explicit' (the application"
            " commits by hand)."
        )
    return commit


class Transaction:
    """One transaction of a claim whose driver tells when it begins and ends.

    Attributes:
        claim: Whose it is.
        wrote: Whether anything was written in it, as far as the driver tells.
        open: Whether it has neither committed nor rolled back.
    """

    __slots__ = ("claim", "open", "wrote")

    def __init__(self, claim: Claim, *, wrote: bool = False) -> None:
        self.claim = claim
        self.wrote = wrote
        self.open = True


class Savepoint(ABC):
    """A place in a transaction to which its work can be undone."""

    @abstractmethod
    def release(self) -> None:
        """Keep what was done since, as far as the transaction is kept."""

    @abstractmethod
    def rollback(self) -> None:
        """Undo what was done since."""


class Resource:
    """Something that tasks claim: a connection, a session, a client.

    Args:
        name: Shown in records and errors.
        commit: ``"task"`` or ``"explicit"``.
    """

    #: Whether sessions of this resource can be open without anybody having claimed them here.
    joins: ClassVar[bool] = False

    def __init__(self, name: str, commit: CommitMode = "task") -> None:
        self.name = name
        self.commit: CommitMode = check_mode(commit)

    def claim(self) -> Claim:
        """Claim the resource for the current round.

        Returns:
            The claim.
        """
        raise NotImplementedError(f"{type(self).__qualname__} has to say how it is claimed.")

    def suspend(self) -> Callable[[], None] | None:
        """Hide what is open from an inner task; returns how to bring it back."""
        return None


class Claim:
    """A resource, claimed by one round.

    Attributes:
        resource: What was claimed.
        value: What the application works with.
        tells: Whether the driver tells when transactions begin and end.
        can_look: Whether it does not, and can be asked whether one is open.
        explicit: Whether the application commits it by hand.
        lent: Whether another task has it too, whose work is in the same transaction.
        round: The round that uses it now; set by the round.
        outcome: What the settling did: ``"committed"``, ``"rolled back"``, ``"left alone"``, ...
    """

    tells: ClassVar[bool] = False

    def __init__(self, resource: Resource, value: Any, *, can_look: bool = False) -> None:
        self.resource = resource
        self.value = value
        self.explicit = resource.commit == "explicit"
        self.can_look = can_look
        self.lent = False
        self.round: Round | None = None
        self.outcome = UNDECIDED
        self.seconds = 0.0

    def transaction(self) -> Transaction | None:
        """The open transaction, where the driver tells; else ``None``."""
        return None

    def unsaved(self) -> bool:
        """Whether something was written that nobody has committed, as far as the driver tells.

        Where it can only be asked, whether a transaction is open.
        """
        transaction = self.transaction()
        return transaction is not None and transaction.wrote

    def savepoint(self) -> Savepoint | None:
        """Begin a savepoint; ``None`` if nothing is ever to be undone.

        Raises:
            NoSavepoint: It has none.
        """
        raise NoSavepoint(self.resource.name, self.value)

    def commit(self) -> None:
        """Commit what was done with the value."""

    def rollback(self) -> None:
        """Undo what was done with the value."""

    def release(self) -> None:
        """Give the value back."""

"""What waits for an outcome: callbacks and published events, in the order of registration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .claims import Transaction

_NONE: frozenset[Transaction] = frozenset()

#: Sends the items of several held events that leave together.
Send = Callable[[Sequence[Any]], None]


class Held:
    """One call that waits: a callback, or an event with the function that sends it.

    Attributes:
        on: ``"commit"`` or ``"rollback"``: the outcome that lets it leave.
        call: The call as its author wrote it, such as ``publish('stock')``.
        transactions: Transactions that were open when it was registered and that it belongs to,
            less those that have committed since.
        committed: Whether a transaction that it belonged to has been committed by hand.
        unknown: A claim whose driver does not tell was there too: the round's outcome decides.
    """

    __slots__ = (
        "_code",
        "_line",
        "call",
        "callback",
        "committed",
        "item",
        "on",
        "send",
        "transactions",
        "unknown",
    )

    def __init__(
        self,
        on: str,
        call: str,
        caller: FrameType | None,
        *,
        callback: Callable[[], Any] | None = None,
        send: Send | None = None,
        item: Any = None,
    ) -> None:
        self.on = on
        self.call = call
        self.callback = callback
        self.send = send
        self.item = item
        self.transactions: frozenset[Transaction] = _NONE
        self.committed = False
        self.unknown = False
        self._code = caller.f_code if caller is not None else None
        self._line = caller.f_lineno if caller is not None else 0

    @property
    def place(self) -> str:
        """Where in the code it was registered, as ``function (file:line)``."""
        if self._code is None:
            return "?"
        return f"{self._code.co_qualname} ({self._code.co_filename}:{self._line})"

    @property
    def saved(self) -> bool:
        """Whether everything that it belongs to has been committed by hand."""
        return self.committed and not self.transactions and not self.unknown


def name_of(function: Callable[..., Any]) -> str:
    """The qualified name of a callback, also where it is a partial or an object."""
    target = getattr(function, "func", function)
    name = getattr(target, "__qualname__", None) or type(target).__qualname__
    return f"{target.__module__}.{name}" if hasattr(target, "__module__") else name

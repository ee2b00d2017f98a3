"""What waits for an outcome: callbacks and published events, in the order of registration."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CodeType, FrameType
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
        callback: What is to run; or:
        send: What is to send ``item``.
        transactions: Transactions that were open when it was registered and that it belongs to,
            less those that have committed since.
        committed: Whether a transaction that it belonged to has been committed by hand.
        unknown: A claim whose driver does not tell was there too: the round's outcome decides.
    """

    __slots__ = (
        "_call",
        "_code",
        "_instruction",
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
        callback: Callable[[], Any] | None,
        caller: FrameType | None = None,
        *,
        on: str = "commit",
    ) -> None:
        self.on = on
        self.callback = callback
        self.send: Send | None = None
        self.item: Any = None
        self.transactions: frozenset[Transaction] = _NONE
        self.committed = False
        self.unknown = False
        self._call: str | None = None
        self._code: CodeType | None = None
        self._instruction = 0
        if caller is not None:
            self._code = caller.f_code
            self._instruction = caller.f_lasti

    @classmethod
    def to_send(cls, call: str, send: Send, item: Any, caller: FrameType | None) -> Held:
        """What is to be sent after the commit.

        Args:
            call: The call as its author wrote it.
            send: What sends ``item``, in one list with its neighbours of the same ``send``.
            item: What to send.
            caller: The frame of its author's call, to name the place if it is dropped.
        """
        held = cls(None, caller)
        held.send, held.item, held._call = send, item, call
        return held

    @property
    def call(self) -> str:
        """The call as its author wrote it, for records and log lines."""
        if self._call is None:
            assert self.callback is not None
            self._call = f"after_{self.on}({name_of(self.callback)})"
        return self._call

    @property
    def place(self) -> str:
        """Where in the code it was registered, as ``function (file:line)``."""
        if self._code is None:
            return "?"
        line: int | None = self._code.co_firstlineno
        for begin, end, of in self._code.co_lines():
            if begin <= self._instruction < end:
                line = of
        return f"{self._code.co_qualname} ({self._code.co_filename}:{line})"

    @property
    def saved(self) -> bool:
        """Whether everything that it belongs to has been committed by hand."""
        return self.committed and not self.transactions and not self.unknown


def name_of(function: Callable[..., Any]) -> str:
    """The qualified name of a callback, also where it is a partial or an object."""
    target = getattr(function, "func", function)
    name = getattr(target, "__qualname__", None) or type(target).__qualname__
    module = getattr(target, "__module__", None)
    return f"{module}.{name}" if module is not None else name


def check_callable(what: str, callback: object) -> None:
    """Refuse what cannot be called at the line that registers it."""
    if not callable(callback):
        raise TypeError(
            f"{what}() was given {callback!r}, which cannot be called. Give a function, such as"
            f" {what}(send_mail) without parentheses after its name, or a lambda."
        )

"""What stands for an item in an entry of a broker's log: its kind, a name, a body."""

from __future__ import annotations

from . import Closing, Event, Item, Loss


def words_of(item: Item) -> tuple[str, str, bytes]:
    """An item as a broker keeps it: its kind, a name, a body."""
    match item:
        case Event(channel, body, keep, end):
            return "end" if end else "keep" if keep else "live", channel, body
        case Closing(tag, channels):
            return "close", tag, _joined(channels)
        case Loss(channels):
            return "loss", "", _joined(channels)


def item_of(kind: str, name: str, body: bytes) -> Item | None:
    """The item that stands in an entry; None: it marks the time, or is of a later version."""
    match kind:
        case "keep" | "live" | "end":
            return Event(name, body, keep=kind != "live", end=kind == "end")
        case "close":
            return Closing(name, _names(body))
        case "loss":
            return Loss(_names(body))
        case _:
            return None


def _joined(channels: tuple[str, ...]) -> bytes:
    return "\n".join(channels).encode()  # no name holds a line end


def _names(body: bytes) -> tuple[str, ...]:
    return tuple(body.decode().split("\n")) if body else ()

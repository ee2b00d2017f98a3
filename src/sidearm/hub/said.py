"""What a worker says to all streams, as items of a log."""

from __future__ import annotations

from ..brokers import Closing, Event, Item, Loss
from .messages import Close, Lost, Publish


def items_of(message: Publish | Close | Lost) -> list[Item]:
    """The items of a message, in order."""
    match message:
        case Publish(events, ends):
            return [
                Event(channel, body, keep, number in ends)
                for number, (channel, body, keep) in enumerate(events)
            ]
        case Close(tag, channels, _):
            return [Closing(tag, channels)]
        case Lost(channels):
            return [Loss(channels)]

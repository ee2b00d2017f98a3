"""What left an application while a test looked: events, callbacks, records; what did not."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from ..hub.eventstream import Parser
from ..signals import callback_failed, callback_ran, events_published, round_settled

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from flask import Flask

    from ..tasks.records import Record


@dataclass(frozen=True, slots=True)
class PublishedEvent:
    """An event that left the application.

    Attributes:
        channel: The channel.
        text: The data as a client reads it.
        event: The type; ``"message"`` if none was given.
        keep: Whether the history keeps it.
        end: Whether it is the channel's last.
    """

    channel: str
    text: str
    event: str = "message"
    keep: bool = True
    end: bool = False

    @property
    def data(self) -> Any:
        """The data, decoded if it is JSON; else :attr:`text`."""
        try:
            return msgspec.json.decode(self.text)
        except msgspec.DecodeError:
            return self.text


@dataclass(slots=True)
class Captured:
    """What :func:`capture` saw; the lists grow while its block runs.

    Attributes:
        events: Published events that were given to the hub, in order.
        callbacks: The qualified names of callbacks that ran to their end, in order.
        failed: A ``(name, exception)`` tuple for each callback that raised.
        dropped: A ``(call, reason)`` tuple for each callback and event that was held and never
            left, such as ``("publish('stock')", "exception ValueError")``.
        records: The record of each round that settled.
    """

    events: list[PublishedEvent] = field(default_factory=list)
    callbacks: list[str] = field(default_factory=list)
    failed: list[tuple[str, BaseException]] = field(default_factory=list)
    dropped: list[tuple[str, str]] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def on(self, channel: str) -> list[PublishedEvent]:
        """The events of one channel."""
        return [event for event in self.events if event.channel == channel]


@contextmanager
def capture(app: Flask) -> Generator[Captured]:
    """See what leaves an application in this process: after commits, and at once.

    Nothing is kept from leaving: events reach the hub (the log in the process, while
    ``app.testing`` is set) and callbacks run.

    >>> with capture(app) as captured:  # doctest: +SKIP
    ...     client.post("/buy/7")
    >>> captured.events  # doctest: +SKIP
    [PublishedEvent(channel='stock', text='{"id":7,"left":4}', event='sold', keep=True, end=False)]

    Args:
        app: The application; that of a test client is ``client.application``.
    """
    captured = Captured()

    # Receivers are held weakly by blinker, and by this frame.
    def see_events(
        _: Flask, events: Sequence[tuple[str, bytes, bool]], ends: Sequence[int] = (), **__: Any
    ) -> None:
        captured.events += [
            _published(*event, number in ends) for number, event in enumerate(events)
        ]

    def see_callback(_: Flask, call: str, **__: Any) -> None:
        captured.callbacks.append(_name_in(call))

    def see_failure(_: Flask, callback: str, exception: BaseException, **__: Any) -> None:
        captured.failed.append((_name_in(callback), exception))

    def see_record(_: Flask, record: Record, **__: Any) -> None:
        captured.records.append(record)
        captured.dropped += record.dropped

    with (
        events_published.connected_to(see_events, app),
        callback_ran.connected_to(see_callback, app),
        callback_failed.connected_to(see_failure, app),
        round_settled.connected_to(see_record, app),
    ):
        yield captured


def _published(channel: str, body: bytes, keep: bool, end: bool) -> PublishedEvent:  # noqa: FBT001 - a tuple's items
    event = Parser().feed(body + b"\n")[0]
    return PublishedEvent(channel, event.data, event.event, keep, end)


def _name_in(call: str) -> str:
    """``shop.mail.send`` of ``after_commit(shop.mail.send)``."""
    return call.partition("(")[2].removesuffix(")") or call

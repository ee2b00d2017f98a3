"""How streams begin and end: at their last event, by their tag, at their maximum age.

A stream that ends *for good* gets a marked id last. Its client comes back once, as every
``EventSource`` does, and the view answers 204 to this id (HTML 9.2.3: reestablishing stops). One
that has grown old gets a plain id, and goes on from there if its view still lets it in.
"""

from __future__ import annotations

import math
import random
import time

from . import eventstream, opening
from .closing import Closings
from .fanout import Fanout
from .followed import FollowedLog
from .log import Log
from .messages import Close, Fetch, Handoff
from .spread import Spread
from .subscribers import Subscriber, Subscribers

AGE_SPREAD = 0.1  # of the maximum age: streams that were opened together do not end together


class Streams:
    """The streams' beginnings and ends.

    Args:
        log: Where their events are.
        subscribers: Who there is.
        fanout: Sends to them.
        spread: How long their clients wait before they come back.

    Attributes:
        closings: What was closed of late.
        ended: Streams whose channels had their last event, so far.
        closed: Streams that were closed by their tag, so far.
        aged: Streams that reached their maximum age, so far.
    """

    def __init__(self, log: Log, subscribers: Subscribers, fanout: Fanout, spread: Spread) -> None:
        self._log = log
        self._subscribers = subscribers
        self._fanout = fanout
        self._spread = spread
        self._next = math.inf  # when the first of them is too old, or earlier
        self.closings = Closings()
        self.ended = 0
        self.closed = 0
        self.aged = 0

    def open(self, subscriber: Subscriber, message: Handoff) -> opening.Start:
        """Begin a stream, which may be its end, too."""
        start = opening.begin(self._log, self.closings, message)
        subscriber.seen = start.seen
        subscriber.tags = message.tags
        if message.max_age is not None:
            age = message.max_age * (1 - AGE_SPREAD * random.random())  # noqa: S311 - no secret
            subscriber.expires = time.monotonic() + age
            self.watch_age(subscriber)
        subscriber.shortest_wait = message.shortest_wait
        wait = self._wait_of(subscriber)
        parts = [wait, *start.parts] if wait else start.parts
        self._fanout.open(subscriber, start.channels or message.channels, parts, final=start.ended)
        if start.ended and start.channels:
            self.ended += 1
        elif start.ended:
            self.closed += 1
        return start

    def is_ahead(self, message: Handoff) -> bool:
        """Whether the client may have heard of what this hub has not: another one told it."""
        return isinstance(self._log, FollowedLog) and self._log.is_ahead(message.last_event_id)

    def all_due(self, message: Fetch | Handoff) -> opening.Start:
        """What a stream begins with, where it ends at once: it is polled."""
        return opening.all_due(self._log, self.closings, message)

    def tell_waits(self) -> None:
        """Tell the clients other waits where there are many more streams than when they came."""
        if self._spread.has_grown(len(self._subscribers)):
            self._fanout.send_each(self._wait_of)

    def _wait_of(self, subscriber: Subscriber) -> bytes:
        """What tells a client how long to wait; empty where it knows."""
        if subscriber.shortest_wait is None:
            return b""
        return self._spread.field(subscriber.shortest_wait, len(self._subscribers))

    def watch_age(self, subscriber: Subscriber) -> None:
        """See to it that a subscriber ends when it is too old."""
        self._next = min(self._next, subscriber.expires)

    def end(self, channel: str) -> None:
        """End a channel with its last event, and the streams that have no other."""
        self._log.end(channel)
        for group in list(self._subscribers.groups_of(channel)):
            if self._log.has_ended(group.channels):
                frame = opening.end(self._log, group.channels)
                self.ended += self._fanout.finish(group, frame)

    def close(self, message: Close) -> None:
        """Close streams by their tag, or take channels from them."""
        self.close_at(message.tag, message.channels, message.time + self._log.clock.offset)

    def close_at(self, tag: str, channels: tuple[str, ...], time_ns: int) -> None:
        """Close streams whose views ran at a position's time or before."""
        self.closings.add(tag, channels, time_ns, self._log.mark())
        self._fanout.flush()
        for subscriber in self._subscribers.all():
            if tag in subscriber.tags and subscriber.seen <= time_ns:
                self._take(subscriber, channels)

    def end_aged(self, now: float) -> None:
        """End the streams that are too old.

        Args:
            now: A reading of ``time.monotonic()``.
        """
        if now < self._next:
            return
        self._fanout.flush()
        frame = eventstream.bare_id(self._log.clock.text(self._log.mark()))
        for subscriber in self._subscribers.all():
            if subscriber.expires <= now:
                self._fanout.cut(subscriber, frame)
                self.aged += 1
        self._next = min((each.expires for each in self._subscribers.all()), default=math.inf)

    def _take(self, subscriber: Subscriber, channels: tuple[str, ...]) -> None:
        """Take channels from a stream, or all of them."""
        had = subscriber.group.channels
        left = tuple(each for each in had if channels and each not in channels)
        if not left:
            self._fanout.cut(subscriber, opening.end(self._log, had))
            self.closed += 1
        elif left != had:
            self._subscribers.move(subscriber, left)
            if self._log.has_ended(left):
                self._fanout.cut(subscriber, opening.end(self._log, left))
                self.ended += 1

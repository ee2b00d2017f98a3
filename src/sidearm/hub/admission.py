"""Clients that workers hand over: taken in as streams, or answered like a poll and sent away.

They arrive while the workers' messages are read, and are admitted at the end of the round, when
everything that was published before has left: so what they are told from the history and what they
get live meet without a gap and without a duplicate.
"""

from __future__ import annotations

import logging
import math
import time

from . import opening, platform
from .config import HubConfig
from .descriptors import Descriptors
from .limits import Limits
from .messages import Fetch, Handoff
from .streams import Streams
from .subscribers import NotAClient, Subscriber, Subscribers
from .tally import Tally

AHEAD = 2.0  # seconds; a hub that follows is behind by milliseconds

logger = logging.getLogger("sidearm.hub")


class Admission:
    """Admits clients.

    Args:
        config: The limits.
        descriptors: How many there may be.
        subscribers: Who there is.
        streams: Begins their streams.
        tally: Counts.
    """

    def __init__(
        self,
        config: HubConfig,
        descriptors: Descriptors,
        subscribers: Subscribers,
        streams: Streams,
        tally: Tally,
    ) -> None:
        self._descriptors = descriptors
        self._subscribers = subscribers
        self._streams = streams
        self._tally = tally
        self._limits = Limits(config)
        self._peer_timeout = config.peer_timeout
        self._probes = not config.heartbeat
        self._arriving: list[tuple[Handoff, Subscriber]] = []
        # Those whose id another hub of the same broker has given out, and until when they wait.
        self._ahead: list[tuple[float, Handoff, Subscriber]] = []

    def receive(self, message: Handoff, descriptor: int | None) -> None:
        """Take a client's socket; its stream is opened at the end of the round."""
        if descriptor is None:
            return
        try:
            subscriber = Subscriber.adopt(descriptor)
        except NotAClient as error:
            self._tally.counts["refused_descriptors"] += 1
            self._tally.warn("descriptor", "A descriptor was refused: %s", error)
            return
        if self._descriptors.are_scarce(subscriber.fileno()):
            # At once: a round may bring more than the reserve.
            reserve = self._descriptors.reserve
            self._tally.warn("full", "A stream was refused: only %d descriptors are left.", reserve)
            self._refuse(subscriber, message)
            return
        self._arriving.append((message, subscriber))

    def admit(self) -> None:
        """Open the streams that have arrived in this round, or refuse them."""
        if self._ahead:
            self._look_at_those_ahead(time.monotonic())
        arriving = self._arriving
        if not arriving:
            return
        self._arriving = []
        for message, subscriber in arriving:
            if self._streams.is_ahead(message):
                self._ahead.append((time.monotonic() + AHEAD, message, subscriber))
            else:
                self._admit(message, subscriber)

    def admit_all(self) -> None:
        """Open every stream that has arrived: nobody may wait any longer."""
        self._look_at_those_ahead(math.inf)
        self.admit()
        self._look_at_those_ahead(math.inf)

    def _look_at_those_ahead(self, now: float) -> None:
        ahead, self._ahead = self._ahead, []
        for until, message, subscriber in ahead:
            if until > now and self._streams.is_ahead(message):
                self._ahead.append((until, message, subscriber))
            else:
                self._admit(message, subscriber)

    def _admit(self, message: Handoff, subscriber: Subscriber) -> None:
        try:
            if self._has_room_for(message, subscriber):
                self._open(message, subscriber)
            else:
                self._refuse(subscriber, message)
        except OSError as error:
            logger.debug("A client had gone before its stream began: %s", error)
            subscriber.hang_up()

    def all_due(self, message: Fetch | Handoff) -> opening.Start:
        """What a stream begins with, for one that is polled, or that its process goes on with."""
        return self._count_gap(self._streams.all_due(message))

    def _open(self, message: Handoff, subscriber: Subscriber) -> None:
        if subscriber.family != platform.AF_UNIX:
            platform.tune_client(subscriber, self._peer_timeout, probe=self._probes)
        self._tally.counts["opened"] += 1
        self._count_gap(self._streams.open(subscriber, message))

    def _has_room_for(self, message: Handoff, subscriber: Subscriber) -> bool:
        """Count the stream's address, and see whether there are too many."""
        key = subscriber.address = self._limits.key_of(message.address)
        of_address = self._subscribers.count_of(key)
        limit = self._limits.reached(len(self._subscribers), of_address)
        if limit is None:
            return True
        self._tally.warn(
            limit,
            "A stream of %r was refused, and is polled: %d are open, %d of its address, and %s is"
            " reached. If this is a proxy's address, let the application use ProxyFix.",
            message.address,
            len(self._subscribers),
            of_address,
            limit,
        )
        return False

    def _refuse(self, subscriber: Subscriber, message: Handoff) -> None:
        """Answer a stream like a poll: what is due, when to come back, the end.

        Any status but 200 would end a plain ``EventSource`` for good. What its kernel buffer does
        not take is not sent: the client comes back from the last whole event.
        """
        self._tally.counts["refused_streams"] += 1
        try:
            subscriber.send(b"".join(self.all_due(message).parts), platform.DONTWAIT)
        except OSError as error:
            logger.debug("The client had gone already: %s", error)
        subscriber.drain()
        subscriber.hang_up()

    def _count_gap(self, start: opening.Start) -> opening.Start:
        self._tally.counts["gaps"] += start.gap is not None
        return start

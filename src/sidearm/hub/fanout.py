"""From the log to the subscribers: what arrived together leaves together, in one pass of sends.

Nothing here waits. A frame is encoded once, the frames of one wake-up are joined once for each
group, and each subscriber costs one ``send``. What its kernel buffer does not take waits in its
outbox until the poller sees room; a subscriber for which too much waits is disconnected, and comes
back with its last id. Subscribers have no task, no coroutine, no transport and no timer.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator

from . import platform
from .buffers import Buffers
from .subscribers import Group, Outbox, Subscriber, Subscribers

OUTBOX_OVERHEAD = 1000  # bytes; an outbox with its queue

logger = logging.getLogger("sidearm.hub")


class Fanout:
    """Sends to subscribers.

    Args:
        subscribers: Who there is.
        poller: Watches their sockets.
        limit: Bytes of live events that may wait for one of them.
        limit_in_all: Bytes that may wait for all of them.

    Attributes:
        buffers: What waits.
        delivered: Events given to the kernel or to an outbox so far, each subscriber counted.
        sends: Calls of ``send`` so far.
        disconnected_slow: Subscribers disconnected so far because too much waited for them.
    """

    def __init__(
        self, subscribers: Subscribers, poller: platform.Poller, limit: int, limit_in_all: int
    ) -> None:
        self._subscribers = subscribers
        self._poller = poller
        self._limit = limit
        self._limit_in_all = limit_in_all
        self._slow: dict[Subscriber, None] = {}  # those with an outbox, the oldest first
        self.buffers = Buffers()
        self._waiting: dict[Group, None] = {}
        self.delivered = 0
        self.sends = 0
        self.disconnected_slow = 0

    def queue(self, channel: str, frame: bytes) -> None:
        """Let a frame leave with the next pass."""
        for group in self._subscribers.groups_of(channel):
            group.frames.append(frame)
            self._waiting[group] = None

    def queue_once(self, channels: tuple[str, ...], frame: bytes) -> int:
        """Let a frame leave once to all that listen to one of the channels; to how many.

        Args:
            channels: Empty: to every subscriber.
            frame: What to send.
        """
        groups = self._subscribers.groups()
        if channels:
            groups = list({g for name in channels for g in self._subscribers.groups_of(name)})
        for group in groups:
            group.frames.append(frame)
            self._waiting[group] = None
        return sum(len(group.members) for group in groups)

    def flush(self) -> None:
        """Send everything that was queued, in one pass."""
        waiting = self._waiting
        if not waiting:
            return
        self._waiting = {}
        for group in waiting:
            frames = group.frames
            group.frames = []
            self.delivered += len(frames) * len(group.members)
            self._send(group.members, b"".join(frames))
        self._relieve()

    def heartbeat(self, frame: bytes) -> None:
        """Send a frame to every subscriber for which nothing waits.

        The others are not quiet, and it would only add to what they cannot read.
        """
        self.flush()
        for group in self._subscribers.groups():
            self._send(group.members, frame, quiet=True)

    def send_each(self, frame_of: Callable[[Subscriber], bytes]) -> None:
        """Send every subscriber for which nothing waits a frame of its own, if there is one."""
        self.flush()
        for subscriber in self._subscribers.all():
            frame = frame_of(subscriber)
            if frame:
                self._send([subscriber], frame, quiet=True)

    def open(
        self,
        subscriber: Subscriber,
        channels: tuple[str, ...],
        parts: list[bytes],
        *,
        final: bool = False,
    ) -> None:
        """Take in a subscriber: what begins its stream leaves in one send, then it is live.

        Args:
            subscriber: Who.
            channels: What it listens to.
            parts: What it gets first.
            final: Whether that is all.
        """
        self._subscribers.add(subscriber, channels)
        self._poller.watch(subscriber.fileno())
        if parts:
            outbox = Outbox(parts, exempt=True)
            outbox.final = final
            self._send_outbox(subscriber, outbox)
            self._relieve()

    def finish(self, group: Group, frame: bytes) -> int:
        """Send a group what is due and its last frame, and end its streams; how many.

        One that reads slowly gets all that waits for it first, and nothing more.
        """
        group.frames.append(frame)
        self._waiting[group] = None
        self.flush()
        members = list(group.members)
        for subscriber in members:
            if subscriber.outbox is None:
                self._end(subscriber)
            else:
                subscriber.outbox.final = True
        return len(members)

    def cut(self, subscriber: Subscriber, frame: bytes) -> None:
        """End a stream now, after a last frame; one that reads slowly does not get it."""
        if subscriber.outbox is None:
            with contextlib.suppress(OSError):
                subscriber.send(frame, platform.DONTWAIT)
        self._end(subscriber)

    def restore(self, subscriber: Subscriber, channels: tuple[str, ...]) -> None:
        """Take in a subscriber of a predecessor; nothing is sent."""
        self._subscribers.add(subscriber, channels)
        self._poller.watch(subscriber.fileno())
        if subscriber.outbox is not None:
            self._wait_for(subscriber, subscriber.outbox)

    def subscribers(self) -> Iterator[Subscriber]:
        """All subscribers; those that are slow come last, the longest slow ones first."""
        for subscriber in self._subscribers.all():
            if subscriber.outbox is None:
                yield subscriber
        yield from self._slow

    def resume(self, subscriber: Subscriber) -> None:
        """Go on sending to a subscriber whose kernel buffer has room again."""
        outbox = subscriber.outbox
        if outbox is not None and self._send_outbox(subscriber, outbox):
            self._poller.watch_writing(subscriber.fileno(), wanted=False)

    def close(self, subscriber: Subscriber) -> None:
        """End a subscriber's connection."""
        self._poller.forget(subscriber.fileno())
        self._subscribers.remove(subscriber)
        if subscriber.outbox is not None:
            self._slow.pop(subscriber, None)
            subscriber.outbox.discard()
        subscriber.hang_up()

    def _send(self, members: Collection[Subscriber], data: bytes, *, quiet: bool = False) -> None:
        size = len(data)
        dontwait = platform.DONTWAIT
        partly: list[tuple[Subscriber, int]] = []
        gone: list[Subscriber] = []
        for subscriber in members:
            if subscriber.outbox is not None:
                if not quiet:
                    partly.append((subscriber, 0))
                continue
            try:
                # MSG_DONTWAIT, for O_NONBLOCK would be shared with whoever else holds the socket.
                sent = subscriber.send(data, dontwait)
            except BlockingIOError:
                sent = 0
            except OSError:
                gone.append(subscriber)
                continue
            if sent != size:
                partly.append((subscriber, sent))
        self.sends += len(members)
        for subscriber, sent in partly:
            self._keep(subscriber, data, sent)
        for subscriber in gone:
            self.close(subscriber)

    def _keep(self, subscriber: Subscriber, data: bytes, sent: int) -> None:
        """Let the rest of what was sent wait, unless too much waits already."""
        outbox = subscriber.outbox
        if outbox is None:
            # One rest may always wait: an event may be as large as the limit itself.
            self._wait_for(subscriber, Outbox([memoryview(data)[sent:]], exempt=False))
        elif outbox.final:
            pass
        elif outbox.live and outbox.live + len(data) > self._limit:
            self.disconnected_slow += 1
            logger.info(
                "A subscriber was disconnected: it reads so slowly that %d bytes wait.", outbox.size
            )
            self.close(subscriber)
        else:
            outbox.add(data)

    def _send_outbox(self, subscriber: Subscriber, outbox: Outbox) -> bool:
        """Send what waits. True: nothing waits any more, and the subscriber is still there."""
        try:
            self.sends += outbox.send(subscriber)
        except OSError:
            self.close(subscriber)
            return False
        if not outbox.size:
            subscriber.outbox = None
            self._slow.pop(subscriber, None)
            if not outbox.final:
                return True
            self._end(subscriber)
        elif subscriber.outbox is None:
            self._wait_for(subscriber, outbox)
        return False

    def _wait_for(self, subscriber: Subscriber, outbox: Outbox) -> None:
        """Keep what a subscriber does not read, until it does."""
        subscriber.outbox = outbox
        outbox.count_in(self.buffers)
        self._slow[subscriber] = None
        self._poller.watch_writing(subscriber.fileno(), wanted=True)

    def _relieve(self) -> None:
        """Disconnect the longest slow ones while too much waits in all."""
        while self._slow and self._waiting_in_all > self._limit_in_all:
            subscriber = next(iter(self._slow))
            self.disconnected_slow += 1
            logger.info(
                "A subscriber was disconnected: %d bytes wait for slow ones in all, and it has been"
                " one for longest.",
                self._waiting_in_all,
            )
            self.close(subscriber)

    @property
    def _waiting_in_all(self) -> int:
        return self.buffers.size + len(self._slow) * OUTBOX_OVERHEAD

    def _end(self, subscriber: Subscriber) -> None:
        """Close a connection whose client is to read to its end."""
        subscriber.drain()
        self.close(subscriber)

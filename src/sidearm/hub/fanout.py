"""From the log to the subscribers: what arrived together leaves together, in one pass of sends.

Nothing here waits. A frame is encoded once, the frames of one wake-up are joined once for each
group, and each subscriber costs one ``send``. What its kernel buffer does not take waits in its
outbox until the poller sees room; a subscriber for which too much waits is disconnected, and comes
back with its last id. Subscribers have no task, no coroutine, no transport and no timer.
"""

from __future__ import annotations

import logging

from . import platform
from .subscribers import Group, Outbox, Subscriber, Subscribers

logger = logging.getLogger("sidearm.hub")


class Fanout:
    """Sends to subscribers.

    Args:
        subscribers: Who there is.
        poller: Watches their sockets.
        limit: Bytes of live events that may wait for one of them.

    Attributes:
        delivered: Events given to the kernel or to an outbox so far, each subscriber counted.
        sends: Calls of ``send`` so far.
        disconnected_slow: Subscribers disconnected so far because too much waited for them.
    """

    def __init__(self, subscribers: Subscribers, poller: platform.Poller, limit: int) -> None:
        self._subscribers = subscribers
        self._poller = poller
        self._limit = limit
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
            self._send_to_all(group, b"".join(frames))

    def heartbeat(self, frame: bytes) -> None:
        """Send a frame to every subscriber for which nothing waits.

        The others are not quiet, and it would only add to what they cannot read.
        """
        self.flush()
        for group in self._subscribers.groups():
            self._send_to_all(group, frame, quiet=True)

    def open(self, subscriber: Subscriber, channels: tuple[str, ...], parts: list[bytes]) -> None:
        """Take in a subscriber: what begins its stream leaves in one send, then it is live."""
        self._subscribers.add(subscriber, channels)
        self._poller.watch(subscriber.fileno())
        outbox = Outbox(parts, exempt=True)
        if outbox.size:
            self._send_outbox(subscriber, outbox)

    def resume(self, subscriber: Subscriber) -> None:
        """Go on sending to a subscriber whose kernel buffer has room again."""
        outbox = subscriber.outbox
        if outbox is not None and self._send_outbox(subscriber, outbox):
            self._poller.watch_writing(subscriber.fileno(), wanted=False)

    def close(self, subscriber: Subscriber) -> None:
        """End a subscriber's connection."""
        self._poller.forget(subscriber.fileno())
        self._subscribers.remove(subscriber)
        subscriber.hang_up()

    def _send_to_all(self, group: Group, data: bytes, *, quiet: bool = False) -> None:
        size = len(data)
        dontwait = platform.DONTWAIT
        partly: list[tuple[Subscriber, int]] = []
        gone: list[Subscriber] = []
        for subscriber in group.members:
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
        self.sends += len(group.members)
        for subscriber, sent in partly:
            self._keep(subscriber, data, sent)
        for subscriber in gone:
            self.close(subscriber)

    def _keep(self, subscriber: Subscriber, data: bytes, sent: int) -> None:
        """Let the rest of what was sent wait, unless too much waits already."""
        outbox = subscriber.outbox
        if outbox is None:
            # One rest may always wait: an event may be as large as the limit itself.
            subscriber.outbox = Outbox([memoryview(data)[sent:]], exempt=False)
            self._poller.watch_writing(subscriber.fileno(), wanted=True)
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
            return True
        if subscriber.outbox is None:
            subscriber.outbox = outbox
            self._poller.watch_writing(subscriber.fileno(), wanted=True)
        return False

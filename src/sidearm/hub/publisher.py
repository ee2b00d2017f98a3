"""A worker's way to a broker: what is published goes straight to the log, and no hub is asked.

Nobody waits for a broker. What is published waits in a bounded queue, a thread of this process
appends it, and the caller goes on at once. While the broker is away, slow or full the queue grows
to its limits; then the oldest goes, and clients are told of the gap.

An append whose answer was lost may have been carried out. So it is repeated, the same items under
the same number, until the broker says that it has them: it carries out each number once.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable

from ..brokers import Appender, Broker, Item
from ..exceptions import BrokerError
from .messages import LENGTH_BYTES, Close, Lost, Publish, PublishedEvent, decode_to_hub, encode
from .pending import Chunk, Pending
from .said import items_of

BATCH_EVENTS = 1000
BATCH_SIZE = 1 << 20  # bytes
IDLE = 1.0  # seconds without an event, after which the thread ends
DELAYS = (0.05, 0.1, 0.2, 0.5)  # seconds before the broker is tried again; the last repeats

logger = logging.getLogger("sidearm.hub.client")
_publishers: weakref.WeakSet[Publisher] = weakref.WeakSet()


class Publisher:
    """Appends what a process publishes; may be shared by threads, starts afresh after a fork.

    Args:
        broker: Where the log is.
        pending_count: Events that may wait while the broker is away.
        pending_bytes: Bytes that may wait.
        pending_age: Seconds that they may wait.
        on_drop: Called as ``on_drop(count, reason)`` when waiting events were given up; never while
            a lock is held.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        pending_count: int = 10_000,
        pending_bytes: int = 16 << 20,
        pending_age: float = 30.0,
        on_drop: Callable[[int, str], None] | None = None,
    ) -> None:
        self._broker = broker
        self._limits = (pending_count, pending_bytes, pending_age)
        self._on_drop = on_drop
        self._start()
        _publishers.add(self)

    def _start(self) -> None:
        self._changed = threading.Condition()
        self._pending = Pending(*self._limits)
        self._batch: list[Chunk] = []  # what the thread is about to append
        self._thread: threading.Thread | None = None
        self._closing = threading.Event()
        self._is_away = False
        self._sender = secrets.token_hex(8)
        self._number = 0
        self._untold: Counter[str] = Counter()

    def publish(self, events: Iterable[PublishedEvent], ends: Collection[int] = ()) -> None:
        """Append ``(channel, body, keep)`` in order; never waits, never raises for the broker.

        Args:
            events: The events.
            ends: Which of them, by index, are the last of their channel.
        """
        batch = list(events)
        if batch:
            channels = frozenset(channel for channel, _, _ in batch)
            self._add(encode(Publish(batch, tuple(ends))), len(batch), channels)

    def close_streams(self, tag: str, channels: tuple[str, ...] = ()) -> None:
        """End the streams with a tag on every hub, or take channels from them."""
        self._add(encode(Close(tag, channels, 0)), 1, frozenset())

    def close(self, flush_seconds: float = 1.0) -> None:
        """Give waiting events time to leave, and drop the rest.

        Args:
            flush_seconds: How long to wait for a broker that is away; one that is there, and slow,
                gets five times as long.
        """
        deadline = time.monotonic() + flush_seconds
        with self._changed:
            while self._waits():
                limit = deadline if self._is_away else deadline + 4 * flush_seconds
                if not self._changed.wait(limit - time.monotonic()):
                    break
            self._closing.set()
            self._closing = threading.Event()
            thread, self._thread = self._thread, None
            now = time.monotonic()
            reason = "the process ended before the broker was back"
            dropped = self._pending.drop_all(reason, now)
            dropped[reason] += sum(chunk.events for chunk in self._batch)
            self._batch = []
            self._changed.notify_all()
        self._report(dropped)
        self._tell_dropped()
        if thread is not None:
            thread.join(flush_seconds)

    def _waits(self) -> bool:
        """Whether something is to be appended; the lock is held."""
        return self._thread is not None and bool(self._batch or self._pending)

    def _add(self, data: bytes, count: int, channels: frozenset[str]) -> None:
        with self._changed:
            now = time.monotonic()
            dropped = self._pending.add(Chunk(data, count, channels, now), now)
            if self._thread is None:
                self._begin()
            else:
                self._changed.notify_all()
        self._report(dropped)

    def _begin(self) -> None:
        thread = threading.Thread(
            target=self._run, args=(self._closing,), name="sidearm-publish", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # the interpreter is about to end
            logger.debug("No thread could be started: %s", error)
            return
        self._thread = thread

    # In the thread

    def _run(self, closing: threading.Event) -> None:
        appender: Appender | None = None
        failures = 0
        try:
            while self._has_work(closing):
                try:
                    if appender is None:
                        appender = self._broker.appender()
                    self._append(appender, closing)
                except Exception as error:  # else nothing would leave any more
                    self._is_away = True
                    if not failures:
                        known = isinstance(error, BrokerError)
                        text = "%s. Published events wait." if known else "Publishing failed: %s."
                        logger.warning(text, error, exc_info=None if known else error)
                    closing.wait(DELAYS[min(failures, len(DELAYS) - 1)])
                    failures += 1
                else:
                    if failures:
                        logger.warning("The broker %s is back.", self._broker.name)
                    failures = 0
                    self._is_away = False
        finally:
            if appender is not None:
                appender.close()

    def _has_work(self, closing: threading.Event) -> bool:
        """Drop what has waited too long, and wait for something to do; False: the thread ends."""
        with self._changed:
            now = time.monotonic()
            dropped = self._pending.trim(now)
            dropped += self._trim_batch(now)
            if not (self._batch or self._pending.has_work or closing.is_set()):
                self._changed.wait(IDLE)
            wanted = not closing.is_set() and bool(self._batch or self._pending.has_work)
            if not wanted and not closing.is_set():
                self._thread = None
        self._report(dropped)
        self._tell_dropped()
        return wanted

    def _trim_batch(self, now: float) -> Counter[str]:
        """Drop what could not be appended for too long; nobody knows whether the broker has it."""
        dropped: Counter[str] = Counter()
        if self._batch and now - min(each.since for each in self._batch) > self._limits[2]:
            for chunk in self._batch:
                dropped[f"they waited for more than {self._limits[2]:g} seconds"] += chunk.events
                self._pending.lose(chunk.channels, now)
            self._batch = []
        return dropped

    def _append(self, appender: Appender, closing: threading.Event) -> None:
        with self._changed:
            if not self._batch:
                self._batch = self._take(time.monotonic())
                self._number += 1
            batch, number = self._batch, self._number
        if not batch:
            return
        appender.append(self._sender, number, [item for each in batch for item in _items(each)])
        with self._changed:
            if not closing.is_set():
                self._batch = []
            self._changed.notify_all()

    def _take(self, now: float) -> list[Chunk]:
        # What was given up was older than all that still waits.
        lost = self._pending.take_lost(now)
        waiting = self._pending.take(BATCH_EVENTS, BATCH_SIZE)
        return waiting if lost is None else [lost, *waiting]

    def _report(self, dropped: Counter[str]) -> None:
        for reason, count in dropped.items():
            if not count:
                continue
            with self._changed:
                self._untold[reason] += count
            if self._on_drop is None:
                continue
            try:
                self._on_drop(count, reason)
            except Exception:
                logger.exception("on_drop(%d, %r) failed.", count, reason)

    def _tell_dropped(self) -> None:
        """Log what was dropped since the last time: not each event, where there are many."""
        with self._changed:
            untold, self._untold = self._untold, Counter()
        for reason, count in untold.items():
            logger.warning(
                "%d events for the broker %s were dropped: %s.", count, self._broker.name, reason
            )


def _items(chunk: Chunk) -> list[Item]:
    """What a chunk says, for the broker."""
    message = decode_to_hub(chunk.data[LENGTH_BYTES:])
    if not isinstance(message, Publish | Close | Lost):
        raise TypeError(f"A worker publishes no {message!r}.")
    return items_of(message)


def _start_all_after_fork() -> None:
    for publisher in list(_publishers):
        publisher._start()  # noqa: SLF001


def _close_all() -> None:
    for publisher in list(_publishers):
        publisher.close()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_after_fork)

"""The worker's end of the hub's socket.

A hub that is away, slow or stuck never fails a request, and never holds one for long:

- *Publishing* does not wait at all. While a connection takes events at once, the caller sends them
  itself. What it does not take waits in a bounded queue, and only while something waits is there
  a thread that connects, sends, and gives up what has waited too long.
- *Handing over* a client's socket, and asking, wait for a quarter of a second at most, and after
  that nobody tries for half a second (a breaker): a stuck hub costs one request, not each. That a
  hub is dead is known at once, and costs nothing.

Publishing and handing over have a connection each: one may hold half a message of many events when
a stream is handed over.

Where several hubs of the machine share its streams, the first one says so in its welcome. Each
stream then goes to the next in turn that is there, and what is published goes to the first.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeAlias

from ..exceptions import HubError, ProtocolError
from .config import socket_of
from .link import Link
from .messages import (
    Close,
    Fetch,
    Fetched,
    Figures,
    Handoff,
    Locate,
    Located,
    Publish,
    PublishedEvent,
    Stats,
    Welcome,
    encode,
)
from .pending import Chunk, Pending
from .position import Clock
from .publisher import Publisher

PATIENCE = 0.25  # seconds; the longest that a request waits for the hub; for several, twice
BREAK = 0.5  # seconds without another attempt after a failure
FLUSH_PATIENCE = 1.0  # seconds; the background thread may wait longer for a welcome
RECONNECT_DELAYS = (0.02, 0.05, 0.1, 0.25)  # seconds; the last one repeats
STATS_PATIENCE = 2.0  # seconds

# That nobody is there, the kernel says in 20 microseconds: no need to stay away from it.
_KNOWN_AT_ONCE = (ConnectionError, FileNotFoundError)

OnWelcome: TypeAlias = Callable[[Welcome], None]

logger = logging.getLogger("sidearm.hub.client")
_clients: weakref.WeakSet[HubClient] = weakref.WeakSet()


class HubClient:
    """A process's connections to the hub; may be shared by threads, starts afresh after a fork.

    Args:
        socket_path: Where the hub listens.
        pending_count: Events that may wait while the hub is away.
        pending_bytes: Bytes that may wait.
        pending_age: Seconds that they may wait.
        publisher: Where events go, if not to the hub: the hub then follows a broker's log.
        on_drop: Called as ``on_drop(count, reason)`` when waiting events were given up; by the
            background thread or by the publishing one, never while a lock is held.
    """

    def __init__(
        self,
        socket_path: str,
        *,
        pending_count: int = 10_000,
        pending_bytes: int = 16 << 20,
        pending_age: float = 30.0,
        on_drop: Callable[[int, str], None] | None = None,
        publisher: Publisher | None = None,
    ) -> None:
        self.socket_path = socket_path
        self._limits = (pending_count, pending_bytes, pending_age)
        self._on_drop = on_drop
        self._publisher = publisher
        self._has_warned = False
        self._start()
        _clients.add(self)

    def _start(self) -> None:
        # For publishing.
        self._lock = threading.Lock()
        self._pending = Pending(*self._limits)
        self._publishing: Link | None = None
        self._is_away = False
        self._flusher: threading.Thread | None = None
        self._closing = threading.Event()
        # For handing over and asking.
        self._ways = [_Way(self.socket_path, self._meet)]
        # Workers do not begin with the same one.
        self._turns = itertools.count(random.randrange(1 << 16))  # noqa: S311 - no secret

    def _meet(self, welcome: Welcome) -> None:
        """Learn from the first hub how many there are."""
        known = self._ways
        if welcome.hubs != len(known):
            others = range(1, max(1, welcome.hubs))
            new = [_Way(socket_of(self.socket_path, number), _ignore) for number in others]
            self._ways = [known[0], *new]
            for way in known[1:]:
                way.close()

    def position(self) -> str | None:
        """Now, as a position in the hub's log; None while the hub is away."""
        return self.position_at(time.monotonic_ns())

    def position_at(self, monotonic_ns: int) -> str | None:
        """A reading of ``time.monotonic_ns()`` as a position; None while the hub is away.

        Costs no round trip: a connected hub has told its epoch and offset. It is for that hub, the
        next in turn; see :meth:`place_at` for one that a client may bring anywhere.
        """
        ways = self._ways
        turn = next(self._turns) if len(ways) > 1 else 0
        first = turn % len(ways)
        for caller in _in_turn([way.handoff for way in (*ways[first:], *ways[:first])]):
            clock = caller.clock()
            if clock is not None:
                return clock.text_at(monotonic_ns)
        return None

    def place_at(self, monotonic_ns: int) -> str | None:
        """As :meth:`position_at`, for every hub of the same log: the one of it has to be asked."""
        position = self.position_at(monotonic_ns)
        if position is None or not self.follows_broker:
            return position
        answer = self._way_of(position).ask.ask(Locate(position))
        return answer.position or None if isinstance(answer, Located) else None

    @property
    def follows_broker(self) -> bool:
        """Whether a connected hub has told that its log is one that others have too."""
        for way in self._ways:
            link = way.handoff.link
            if link is not None and link.welcome.log:
                return True
        return False

    def path_of(self, position: str | None) -> str:
        """The socket of the hub that a position was made for; of the first, if none was."""
        return self._way_of(position).path

    def _way_of(self, position: str | None) -> _Way:
        return self._ways_from(position)[0]

    def _ways_from(self, position: str | None) -> list[_Way]:
        """The way to the hub that a position was made for, then those to all others."""
        ways = self._ways
        if len(ways) == 1:
            return ways
        own = position and next((way for way in ways if way.made(position)), None)
        return [own, *(way for way in ways if way is not own)] if own else ways

    def publish(self, events: Iterable[PublishedEvent], ends: Collection[int] = ()) -> None:
        """Send ``(channel, body, keep)`` in order; never waits, never raises for the hub's sake.

        Args:
            events: The events.
            ends: Which of them, by index, are the last of their channel.
        """
        if self._publisher is not None:
            self._publisher.publish(events, ends)
            return
        batch = list(events)
        if batch:
            channels = frozenset(channel for channel, _, _ in batch)
            self._send(encode(Publish(batch, tuple(ends))), len(batch), channels)

    def close_streams(self, tag: str, channels: tuple[str, ...] = ()) -> None:
        """End the streams with a tag, or take channels from them, in order with what is published.

        It is for the streams whose views ran before this call, however late the hub hears of it.
        """
        if self._publisher is not None:
            self._publisher.close_streams(tag, channels)
            return
        self._send(encode(Close(tag, channels, time.monotonic_ns())), 1, frozenset())

    def _send(self, data: bytes, count: int, channels: frozenset[str]) -> None:
        """Send a message at once, or let it wait."""
        dropped: Counter[str] = Counter()
        with self._lock:
            sent = 0 if self._pending.has_work else self._try_send(data)
            if sent == len(data):
                return
            now = time.monotonic()
            dropped = self._pending.add(Chunk(data, count, channels, now), now, sent)
            self._ensure_flusher()
        self._report(dropped)

    def handoff(self, message: Handoff, descriptor: int) -> bool:
        """Give a client's socket to the hub.

        Returns:
            True: it has gone; close it, and never write to it. False: the hub is away or stuck, and
            the socket is still the caller's alone.
        """
        if self._publisher is not None and not self._has_warned and not self.follows_broker:
            self._has_warned = True
            logger.error(
                "The hub on %r follows no broker, so its streams hear nothing of what this process"
                " publishes to SIDEARM_BROKER. Start the hub anew, with the same setting.",
                self.socket_path,
            )
        callers = [way.handoff for way in self._ways_from(message.position)]
        return any(caller.send(message, descriptor) for caller in _in_turn(callers))

    def fetch(self, message: Fetch) -> bytes | None:
        """All frames that are due for a stream that is polled; None while the hub is away."""
        for caller in _in_turn([way.ask for way in self._ways_from(message.position)]):
            if isinstance(answer := caller.ask(message), Fetched):
                return answer.body
        return None

    def fetch_start(self, message: Fetch, path: str) -> Fetched | None:
        """How a stream begins that this process goes on with; None while that hub is away.

        Args:
            message: What it asks for.
            path: The socket of the hub that tells how it goes on: another may be ahead of it.
        """
        for way in self._ways:
            if way.path == path and isinstance(answer := way.ask.ask(message), Fetched):
                return answer
        return None

    def stats(self) -> Figures | None:
        """The hub's figures; None while it is away."""
        try:
            return ask_figures(self.socket_path)
        except HubError:
            return None

    def close(self, flush_seconds: float = 1.0) -> None:
        """Give waiting events time to leave, drop the rest, and hang up.

        Args:
            flush_seconds: How long to wait for a hub that is away; one that is there, and slow,
                gets five times as long.
        """
        if self._publisher is not None:
            self._publisher.close(flush_seconds)
        with self._lock:
            self._ensure_flusher()
            flusher = self._flusher
        if flusher is not None:
            flusher.join(flush_seconds)
            if flusher.is_alive() and not self._is_away:
                flusher.join(4 * flush_seconds)
        with self._lock:
            self._closing.set()
            self._closing = threading.Event()
            self._flusher = None
            dropped = self._pending.drop_all(
                "the process ended before the hub was back", time.monotonic()
            )
            self._hang_up()
        self._report(dropped)
        for way in self._ways:
            way.close()

    # Publishing

    def _try_send(self, data: bytes | memoryview) -> int:
        """Send what the hub takes at once; 0 if it is not connected. The lock is held."""
        if self._publishing is None:
            return 0
        try:
            return self._publishing.send_some(data)
        except OSError as error:
            logger.debug("The hub on %r hung up: %s", self.socket_path, error)
            self._hang_up()
            return 0

    def _hang_up(self) -> None:
        if self._publishing is not None:
            self._publishing.close()
            self._publishing = None
        self._pending.begin_again()

    def _ensure_flusher(self) -> None:
        if self._flusher is not None or not self._pending.is_worth_a_thread(time.monotonic()):
            return
        flusher = threading.Thread(
            target=self._flush, args=(self._closing,), name="sidearm-publish", daemon=True
        )
        try:
            flusher.start()
        except RuntimeError as error:  # the interpreter is about to end
            logger.debug("No thread could be started: %s", error)
            return
        self._flusher = flusher

    def _flush(self, closing: threading.Event) -> None:
        """Run as the background thread: until nothing waits."""
        failures = 0
        while self._has_something_to_flush(closing):
            link = self._publishing
            if link is None:
                failures = 0 if self._connect(closing, failures) else failures + 1
            elif not self._send_pending():
                link.wait_writable(PATIENCE)

    def _has_something_to_flush(self, closing: threading.Event) -> bool:
        """Drop what has waited too long; False when the background thread has nothing to do."""
        with self._lock:
            if closing.is_set():
                return False
            now = time.monotonic()
            dropped = self._pending.trim(now)
            if self._pending.torn:
                self._hang_up()
            wanted = self._pending.is_worth_a_thread(now)
            if not wanted:
                self._flusher = None
        self._report(dropped)
        return wanted

    def _connect(self, closing: threading.Event, failures: int) -> bool:
        """Try to connect, and wait a little if that fails."""
        try:
            link = Link(self.socket_path, "publish", FLUSH_PATIENCE)
        except (OSError, HubError, ProtocolError) as error:
            self._is_away = isinstance(error, _KNOWN_AT_ONCE)
            if failures == 0:
                logger.warning(
                    "The hub on %r is away (%s). Published events wait.", self.socket_path, error
                )
            closing.wait(RECONNECT_DELAYS[min(failures, len(RECONNECT_DELAYS) - 1)])
            return False
        self._is_away = False
        if failures:
            logger.info("The hub on %r is back.", self.socket_path)
        self._ways[0].try_again()
        with self._lock:
            if closing.is_set():
                link.close()
                return False
            self._publishing = link
        return True

    def _send_pending(self) -> bool:
        """Send what the hub takes; False when it takes nothing just now."""
        with self._lock:
            pending = self._pending
            if not pending:
                # Losses are told after what was published before them.
                now = time.monotonic()
                chunk = pending.take_lost(now)
                if chunk is None:
                    return True
                pending.add(chunk, now)
            sent = self._try_send(pending.head())
            if sent:
                pending.sent(sent)
            return bool(sent) or self._publishing is None

    def _report(self, dropped: Counter[str]) -> None:
        for reason, count in dropped.items():
            if not count:
                continue
            logger.warning(
                "%d events for the hub on %r were dropped: %s.", count, self.socket_path, reason
            )
            if self._on_drop is None:
                continue
            try:
                self._on_drop(count, reason)
            except Exception:
                logger.exception("on_drop(%d, %r) failed.", count, reason)

    # Forks

    def _start_after_fork(self) -> None:
        """Leave everything to the parent: its connections, and the events that wait in it."""
        links = [link for way in self._ways for link in (way.handoff.link, way.ask.link)]
        for link in (self._publishing, *links):
            if link is not None:
                link.close()
        self._start()


class _Caller:
    """A connection on which a request waits: briefly, and not again soon after a failure."""

    def __init__(self, socket_path: str, role: str, on_welcome: OnWelcome) -> None:
        self.link: Link | None = None
        self._on_welcome = on_welcome
        self._socket_path = socket_path
        self._role = role
        self._lock = threading.Lock()
        self._closed_until = 0.0
        self._is_away = False

    def clock(self) -> Clock | None:
        """The clock of the connected hub's log."""
        link = self.link
        if link is None or not link.is_alive():
            with self._lock:
                link = self._connected()
        return None if link is None else link.clock

    def send(self, message: Handoff, descriptor: int) -> bool:
        data = encode(message)
        with self._lock:
            try:
                # That it is alive was seen when the view ran, and else sending tells.
                if self.link is not None and self._was_sent(self.link, data, descriptor):
                    return True
                link = self._connected()
                if link is None:
                    return False
                link.send(data, PATIENCE, descriptor)
            except OSError as error:
                self._fail(error)
                return False
            return True

    @staticmethod
    def _was_sent(link: Link, data: bytes, descriptor: int) -> bool:
        """Send unless the hub has hung up since: there may be another one by now."""
        try:
            link.send(data, PATIENCE, descriptor)
        except ConnectionError:
            return False
        return True

    def ask(self, message: Fetch | Locate) -> object:
        with self._lock:
            link = self._connected()
            if link is None:
                return None
            try:
                return link.ask(message, PATIENCE)
            except (OSError, ProtocolError) as error:
                self._fail(error)
                return None

    def try_again(self) -> None:
        """Close the breaker: somebody has seen the hub alive."""
        self._closed_until = 0.0

    def close(self) -> None:
        with self._lock:
            if self.link is not None:
                self.link.close()
                self.link = None

    def _connected(self) -> Link | None:
        if self.link is not None:
            if self.link.is_alive():
                return self.link
            self.link.close()
            self.link = None
        if time.monotonic() < self._closed_until:
            return None
        try:
            self.link = Link(self._socket_path, self._role, PATIENCE)
        except (OSError, HubError, ProtocolError) as error:
            self._fail(error)
        else:
            self._is_away = False
            self._on_welcome(self.link.welcome)
        return self.link

    def _fail(self, error: Exception) -> None:
        if not self._is_away:
            self._is_away = True
            logger.warning("The hub on %r cannot be used (%s).", self._socket_path, error)
        if self.link is not None:
            # Half a message may be on its way: this connection can say nothing else.
            self.link.close()
            self.link = None
        if not isinstance(error, _KNOWN_AT_ONCE):
            self._closed_until = time.monotonic() + BREAK


class _Way:
    """A process's connections to one hub, for handing over and asking.

    Args:
        path: Where it listens.
        on_welcome: Called with what it says of itself.
    """

    def __init__(self, path: str, on_welcome: OnWelcome) -> None:
        self.path = path
        self.handoff = _Caller(path, "handoff", on_welcome)
        self.ask = _Caller(path, "ask", on_welcome)

    def made(self, position: str) -> bool:
        """Whether a position is one that this hub's welcome has let this process make."""
        link = self.handoff.link
        return link is not None and position.startswith(link.welcome.epoch)

    def try_again(self) -> None:
        """Somebody has seen the hub alive."""
        self.handoff.try_again()
        self.ask.try_again()

    def close(self) -> None:
        """Hang up."""
        self.handoff.close()
        self.ask.close()


def _in_turn(callers: list[_Caller]) -> Iterator[_Caller]:
    """One hub after the other, but only as long as a request may wait.

    Whoever has waited for one that is stuck goes on to those that are connected, and gives up when
    the second of them is stuck, too.
    """
    if len(callers) == 1:
        yield callers[0]
        return
    began = time.monotonic()
    for caller in callers:
        waited = time.monotonic() - began
        if waited >= 2 * PATIENCE:
            return
        if waited < PATIENCE or caller.link is not None:
            yield caller


def _ignore(welcome: Welcome) -> None:
    """What a hub says of itself that is not the first."""


def ask_figures(socket_path: str, seconds: float = STATS_PATIENCE) -> Figures:
    """Ask a hub for its figures; also the way to learn whether it is up.

    Raises:
        HubError: It does not answer; the message says why.
    """
    try:
        link = Link(socket_path, "ask", seconds)
        try:
            answer = link.ask(Stats(), seconds)
        finally:
            link.close()
    except (OSError, ProtocolError) as error:
        raise HubError(
            f"No hub answers on {socket_path!r} ({error}). Start one with 'flask sidearm up', or"
            " set SIDEARM_SOCKET to the socket of the one that runs.",
            socket_path,
        ) from error
    if not isinstance(answer, Figures):
        raise HubError(f"The hub on {socket_path!r} answered {answer!r} instead of figures.")
    return answer


def _start_all_after_fork() -> None:
    for client in list(_clients):
        client._start_after_fork()  # noqa: SLF001


def _close_all() -> None:
    for client in list(_clients):
        client.close()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_after_fork)

"""Streams that stay in the worker, where it can hold them: under gevent (contract H2).

Each stream is the greenlet of its request, which waits. There is one connection to the hub for all
streams of the process: the hub tells on it all that happens, and it is sorted out here. How a
stream begins, the hub is asked for each. Both meet by position: what the beginning holds is not
told again.

When the hub is gone, or has replaced its log, the streams end, and their clients come back by their
ids, each after a pause of its own: the same that they would see if the hub held them.

A client that does not read holds up its own greenlet and nobody else. What waits for it is bounded;
beyond that it is disconnected, and resumes by its id.
"""

from __future__ import annotations

import _socket
import contextlib
import logging
import os
import random
import socket
import time
from collections import Counter, deque
from typing import TYPE_CHECKING

from ..exceptions import HubError, ProtocolError
from ..hub import eventstream, platform, position
from ..hub.config import HubConfig
from ..hub.limits import Limits
from ..hub.link import Link
from ..hub.messages import INLINE, Beat, Close, Events, Fetch, Fetched, FromHub, Gap, Handoff
from ..hub.position import Clock
from .polling import poll, spread_out
from .servers import locate_socket

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from _typeshed.wsgi import WSGIEnvironment

    from ..hub.client import HubClient
    from ..settings import Settings
    from .greenlets import Loop

PATIENCE = 0.25  # seconds; the longest that a stream waits for the hub's welcome
READS = 16  # of the hub's messages, before greenlets run again
AGE_SPREAD = 0.1  # of the maximum age: streams that were opened together do not end together

logger = logging.getLogger("sidearm.events")


def hold(
    environ: WSGIEnvironment,
    loop: Loop,
    hub: HubClient,
    settings: Settings,
    opening: Handoff,
) -> Iterator[bytes]:
    """Make the body of a stream that stays in the greenlet that asks for it.

    Args:
        environ: The request's; its client is watched where the server gives the socket.
        loop: Runs the greenlets.
        hub: Tells how the stream begins.
        settings: Bounds.
        opening: What the stream is. Its position is known.
    """
    path = hub.path_of(opening.position)
    try:
        subscription = Subscription.shared(path, loop)
    except (OSError, HubError, ProtocolError) as error:
        logger.info("A stream is polled, because the hub does not tell what happens: %s", error)
        yield poll(hub, settings, opening)
        return
    stream = Stream(opening, loop, settings, Client(environ, settings))
    if not subscription.has_room_for(stream, settings):
        yield poll(hub, settings, opening)
        return
    subscription.add(stream)
    try:
        stream.watch_client(loop)
        fetched = hub.fetch_start(_beginning(opening, settings), path)
        if fetched is None:
            yield poll(hub, settings, opening)
            return
        yield fetched.body
        if stream.begin(fetched):
            yield from stream.live(subscription)
    finally:
        stream.stop_watching()
        subscription.remove(stream)


def _beginning(opening: Handoff, settings: Settings) -> Fetch:
    return Fetch(
        channels=opening.channels,
        position=opening.position,
        last_event_id=opening.last_event_id,
        snapshot=opening.snapshot,
        retry=spread_out(None, settings) if opening.retry is None else opening.retry,
        replay=opening.replay,
        tags=opening.tags,
        held=True,
    )


class Client:
    """The client's connection, which is its server's: looked at, and at most shut down.

    Args:
        environ: Of its request.
        settings: How long its kernel may wait for it.
    """

    __slots__ = ("_identity", "descriptor")

    def __init__(self, environ: WSGIEnvironment, settings: Settings) -> None:
        found = locate_socket(environ)
        self.descriptor = -1 if found is None else found.fileno()
        if self.descriptor < 0:
            return
        self._identity = _identity(self.descriptor)
        with contextlib.suppress(OSError), self._borrowed() as client:
            if client.family != platform.AF_UNIX:
                platform.tune_client(client, settings.peer_timeout, probe=not settings.heartbeat)

    def has_gone(self) -> bool | None:
        """Whether it has hung up; None: it has not, and has sent what nobody here may read."""
        try:
            with self._borrowed() as client:
                return None if client.recv(1, platform.PEEK | platform.DONTWAIT) else True
        except BlockingIOError:
            return False
        except OSError:
            return True

    def hang_up(self) -> None:
        """End the connection, also while a greenlet waits to write to it."""
        # A server that has closed it may have the number back for another client.
        if self.descriptor < 0 or _identity(self.descriptor) != self._identity:
            return
        with contextlib.suppress(OSError), self._borrowed() as client:
            client.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def _borrowed(self) -> Generator[_socket.socket]:
        """The socket, to be used at once: the descriptor is its server's to close."""
        client = _socket.socket(fileno=self.descriptor)
        try:
            yield client
        finally:
            client.detach()


def _identity(descriptor: int) -> tuple[int, int] | None:
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Stream:
    """One stream that this process holds.

    Args:
        opening: What it is.
        loop: Runs its greenlet.
        settings: Bounds.
        client: Who reads it.

    Attributes:
        channels: What it listens to.
        tags: Names by which it can be closed.
        address: Its client's.
        seen: When its view ran, as a position's time.
        ended: Its channels that have had their last event.
        place: Up to where its client has been told everything.
    """

    def __init__(self, opening: Handoff, loop: Loop, settings: Settings, client: Client) -> None:
        self.channels = frozenset(opening.channels)
        self.tags = opening.tags
        self.address = opening.address
        seen = position.parse(opening.position or "")
        self.seen = 0 if seen is None else seen.time
        self.ended: set[str] = set()
        self.place = 0
        self._expires = (
            None
            if opening.max_age is None
            else time.monotonic() + opening.max_age * (1 - AGE_SPREAD * random.random())  # noqa: S311 - no secret
        )
        self._limit = settings.subscriber_buffer
        self._client = client
        self._unwatch: Callable[[], None] | None = None
        self._waiter = loop.waiter()
        self._waiting: deque[tuple[bytes, int]] = deque()
        self._size = 0
        self._is_final = False
        self._is_over = False
        self._is_quiet = True

    # In its own greenlet

    def begin(self, fetched: Fetched) -> bool:
        """Go on from how it began; False: that was all."""
        self.place = fetched.place
        kept = [(frame, place) for frame, place in self._waiting if self._is_new(place)]
        self.place = max([self.place, *(place for _, place in kept)])
        self._waiting = deque(kept)
        self._size = sum(len(frame) for frame, _ in kept)
        self.ended |= set(fetched.ended)
        # A hub before this field says nothing of places: then the body was a poll's answer.
        return bool(fetched.place and fetched.channels)

    def live(self, subscription: Subscription) -> Iterator[bytes]:
        """Yield what happens, until the stream is over."""
        while True:
            if not (self._waiting or self._is_over):
                age = None if self._expires is None else self._expires - time.monotonic()
                if age is not None and age <= 0:
                    yield subscription.plain_id(self.place)
                    return
                self._waiter.wait(age)
            if self._is_over:
                return
            if self._waiting:
                data = b"".join(frame for frame, _ in self._waiting)
                is_last = self._is_final
                self._waiting.clear()
                self._size = 0
                yield data
                if is_last:
                    return

    def watch_client(self, loop: Loop) -> None:
        """Notice when the client hangs up, where its socket can be seen."""
        if self._client.descriptor >= 0:
            self._unwatch = loop.watch(self._client.descriptor, self._look_at_client)

    def stop_watching(self) -> None:
        """Leave the client's socket to its server."""
        unwatch, self._unwatch = self._unwatch, None
        if unwatch is not None:
            unwatch()

    # In the loop

    def _look_at_client(self) -> None:
        gone = self._client.has_gone()
        if gone is False:
            return
        # What it sends after its request is its server's to read, when the stream is over. Until
        # then the socket stays readable, and watching it would keep the loop busy.
        self.stop_watching()
        if gone:
            self.end()

    def put(self, frame: bytes, place: int) -> None:
        """Let a frame wait for the client, unless it has been told, or reads too slowly."""
        if self._is_over or self._is_final or not self._is_new(place):
            return
        self._is_quiet = False
        if self._waiting and self._size + len(frame) > self._limit:
            logger.info(
                "A client was disconnected: it reads so slowly that %d bytes wait.", self._size
            )
            self.end()
            self._client.hang_up()
            return
        self._waiting.append((frame, place))
        self._size += len(frame)
        self.place = place or self.place
        self._waiter.wake()

    def beat(self, frame: bytes, place: int) -> None:
        """Let a heartbeat wait, if nothing was sent since the last."""
        if self._is_quiet and not self._waiting:
            self.put(frame, place)
        self._is_quiet = True

    def finish(self, frame: bytes) -> None:
        """Let a last frame wait, and end when it was sent."""
        self.put(frame, 0)
        self._is_final = True

    def end(self) -> None:
        """End now; the client comes back by its id."""
        self._is_over = True
        self._waiting.clear()
        self._waiter.wake()

    def _is_new(self, place: int) -> bool:
        return not place or place > self.place


class Subscription:
    """What the hub tells this process, for all its streams.

    Args:
        socket_path: The hub's.
        loop: Runs the greenlets of the streams.

    Raises:
        OSError: The hub is away, or does not answer in time.
        HubError: It does not pass events on, or belongs to somebody else.
        ProtocolError: What answers is no hub.
    """

    _shared: dict[tuple[str, int], Subscription] = {}  # noqa: RUF012 - one for each process

    def __init__(self, socket_path: str, loop: Loop) -> None:
        self._key = (socket_path, id(loop.key))
        self._link = Link(socket_path, INLINE, PATIENCE)
        welcome = self._link.welcome
        if not welcome.events:
            self._link.close()
            raise HubError(
                f"The hub on {socket_path!r} (process {welcome.pid}) is older than this process."
                " Replace it: flask sidearm hub replace.",
                socket_path,
            )
        # Of a broker's log the positions have another epoch than the moments of this machine.
        self._clock = Clock(welcome.log or welcome.epoch, welcome.offset)
        self._time = 0
        self._streams: set[Stream] = set()
        self._by_channel: dict[str, set[Stream]] = {}
        self._by_address: Counter[bytes] = Counter()
        self._limits: Limits | None = None
        self._is_open = True
        self._unwatch = loop.watch(self._link.socket.fileno(), self._read)

    @classmethod
    def shared(cls, socket_path: str, loop: Loop) -> Subscription:
        """The one of this process, for a hub and a loop; made when it is needed."""
        key = (socket_path, id(loop.key))
        found = cls._shared.get(key)
        if found is None:
            made = cls(socket_path, loop)
            # While this one waited for its welcome, another greenlet may have made one.
            found = cls._shared.setdefault(key, made)
            if found is not made:
                made._hang_up()
        return found

    def has_room_for(self, stream: Stream, settings: Settings) -> bool:
        """Whether the limits of streams allow one more in this process."""
        if self._limits is None:
            self._limits = Limits(
                HubConfig(
                    socket="",
                    max_streams=settings.max_streams,
                    max_streams_per_address=settings.max_streams_per_address,
                    limit_loopback=settings.limit_loopback,
                )
            )
        of_address = self._by_address[self._limits.key_of(stream.address)]
        reached = self._limits.reached(len(self._streams), of_address)
        if reached is not None:
            logger.info("A stream of %r is polled: %s is reached.", stream.address, reached)
        return reached is None

    def add(self, stream: Stream) -> None:
        """Tell a stream what happens from now on."""
        self._streams.add(stream)
        for channel in stream.channels:
            self._by_channel.setdefault(channel, set()).add(stream)
        if self._limits is not None and (key := self._limits.key_of(stream.address)):
            self._by_address[key] += 1

    def remove(self, stream: Stream) -> None:
        """Tell a stream nothing more; the last one ends the connection to the hub."""
        if stream not in self._streams:
            return
        self._streams.discard(stream)
        for channel in stream.channels:
            self._part(stream, channel)
        if self._limits is not None and (key := self._limits.key_of(stream.address)):
            self._by_address[key] -= 1
            if not self._by_address[key]:
                del self._by_address[key]
        if not self._streams:
            self._hang_up()

    def plain_id(self, place: int) -> bytes:
        """What tells a client from where it will go on."""
        return eventstream.bare_id(self._clock.text(max(place, self._time)))

    @classmethod
    def leave_to_parent(cls) -> None:
        """Close what a fork copied: the hub is to see the parent's end."""
        for each in cls._shared.values():
            each._link.close()  # noqa: SLF001
        cls._shared.clear()

    # In the loop

    def _read(self) -> None:
        try:
            for _ in range(READS):
                messages = self._link.receive(0)
                if not messages:
                    return
                for message in messages:
                    self._take(message)
        except (OSError, ProtocolError) as error:
            logger.warning("%d streams end, because the hub hung up: %s", len(self._streams), error)
            self._hang_up()
            for stream in self._streams:
                stream.end()

    def _hang_up(self) -> None:
        if Subscription._shared.get(self._key) is self:
            del Subscription._shared[self._key]
        if self._is_open:
            self._is_open = False
            self._unwatch()
            self._link.close()

    def _take(self, message: FromHub) -> None:
        match message:
            case Events():
                for channel, frame, place, is_last in message.events:
                    self._time = place or self._time
                    for stream in self._by_channel.get(channel, ()):
                        self._publish(stream, channel, frame, place, is_last=is_last)
            case Gap():
                self._time = message.time
                for stream in self._listening_to(message.channels):
                    stream.put(message.frame, message.time)
            case Close():
                self._close(message)
            case Beat():
                self._time = message.time
                for stream in self._streams:
                    stream.beat(message.frame, message.time)
            case _:
                logger.debug("The hub said %r.", message)

    def _publish(
        self, stream: Stream, channel: str, frame: bytes, place: int, *, is_last: bool
    ) -> None:
        if place and place <= stream.place:
            return  # its beginning had it
        stream.ended.discard(channel)
        if frame:
            stream.put(frame, place)
        if is_last:
            stream.ended.add(channel)
            self._finish_ended(stream)

    def _listening_to(self, channels: Iterable[str]) -> set[Stream]:
        names = list(channels)
        if not names:
            return self._streams
        return set().union(*(self._by_channel.get(name, set()) for name in names))

    def _close(self, message: Close) -> None:
        """Close streams by their tag, or take channels from them."""
        said = message.time + self._clock.offset
        for stream in self._streams:
            if message.tag not in stream.tags or stream.seen > said:
                continue
            taken = stream.channels.intersection(message.channels or stream.channels)
            if taken == stream.channels:
                self._finish(stream)
                continue
            for channel in taken:
                self._part(stream, channel)
            stream.channels -= taken
            self._finish_ended(stream)

    def _finish_ended(self, stream: Stream) -> None:
        if stream.channels <= stream.ended:
            self._finish(stream)

    def _finish(self, stream: Stream) -> None:
        """End a stream for good: its client is known by this id when it comes back."""
        place = max(stream.place, self._time)
        stream.finish(eventstream.bare_id(self._clock.end(place, stream.channels)))

    def _part(self, stream: Stream, channel: str) -> None:
        listening = self._by_channel.get(channel, set())
        listening.discard(stream)
        if not listening:
            self._by_channel.pop(channel, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=Subscription.leave_to_parent)

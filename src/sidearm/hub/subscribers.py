"""The streams that the hub holds, and who listens to which channels.

A subscriber *is* its socket: the C type with two more slots, because ten thousand of them wait in
memory. All that listen to the same set of channels form one group, so that a wake-up's frames are
put together once for all of them, in the log's order.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import os
import socket
from _socket import socket as RawSocket  # noqa: N812
from collections import Counter, deque
from collections.abc import Iterable

from . import platform
from .buffers import Buffers
from .state import Client, ClientState

INTERNET = (int(socket.AF_INET), int(socket.AF_INET6))
FAMILIES = (*INTERNET, platform.AF_UNIX)
STREAM = int(socket.SOCK_STREAM)
DRAIN_SIZE = 1 << 16  # bytes
JOIN_SIZE = 1 << 16  # bytes; frames are joined up to here, so that a private copy stays small


class NotAClient(ValueError):
    """A descriptor that is no client's connection."""


class Outbox:
    """What one subscriber's kernel buffer did not take.

    The parts are shared with other subscribers and with the history; at most one is a private copy.

    Attributes:
        size: Bytes that wait.
        exempt: How many of them belong to the beginning of the stream, which may be longer than
            the limit for live events.
        final: Whether the stream ends when nothing waits any more.
    """

    __slots__ = ("_buffers", "_parts", "exempt", "final", "size")

    def __init__(self, parts: list[bytes] | list[memoryview], *, exempt: bool) -> None:
        self._parts: deque[bytes | memoryview] = deque(parts)
        self.size = sum(map(len, parts))
        self.exempt = self.size if exempt else 0
        self.final = False
        self._buffers: Buffers | None = None

    @classmethod
    def restore(
        cls, parts: Iterable[tuple[bytes, int]], exempt: int, *, final: bool = False
    ) -> Outbox:
        """What waited in a predecessor."""
        outbox = cls([memoryview(frame)[start:] for frame, start in parts], exempt=False)
        outbox.exempt = exempt
        outbox.final = final
        return outbox

    def parts(self) -> list[tuple[bytes, int]]:
        """What waits: whole objects, each from an offset on."""
        return [(part, 0) if isinstance(part, bytes) else _whole(part) for part in self._parts]

    @property
    def live(self) -> int:
        """Bytes of live events that wait."""
        return self.size - self.exempt

    def add(self, data: bytes) -> None:
        """Let more wait."""
        self._parts.append(data)
        self.size += len(data)
        if self._buffers is not None:
            self._buffers.hold(data)

    def count_in(self, buffers: Buffers) -> None:
        """Count what waits, from now on: it did not leave at once."""
        self._buffers = buffers
        for part in self._parts:
            buffers.hold(part)

    def discard(self) -> None:
        """Let nothing wait any more."""
        if self._buffers is not None:
            for part in self._parts:
                self._buffers.release(part)
        self._parts.clear()
        self.size = self.exempt = 0

    def send(self, client: RawSocket) -> int:
        """Send until nothing waits or the kernel takes no more; how many calls that took.

        Raises:
            OSError: The client is gone.
        """
        calls = 0
        while self._parts:
            data = self._take()
            calls += 1
            try:
                sent = client.send(data, platform.DONTWAIT)
            except BlockingIOError:
                sent = 0
            self.size -= sent
            self.exempt = max(0, self.exempt - sent)
            if sent < len(data):
                rest = memoryview(data)[sent:]
                self._parts.appendleft(rest)
                if self._buffers is not None:
                    self._buffers.hold(rest)
                break
        return calls

    def _take(self) -> bytes | memoryview:
        """The next part, joined with those behind it while they are small."""
        parts = self._parts
        first = parts.popleft()
        size = len(first)
        joined = [first]
        while parts and size + len(parts[0]) <= JOIN_SIZE:
            size += len(parts[0])
            joined.append(parts.popleft())
        if self._buffers is not None:
            for part in joined:
                self._buffers.release(part)
        return first if len(joined) == 1 else b"".join(joined)


def _whole(part: memoryview) -> tuple[bytes, int]:
    """The object that a view is a part of, and where it begins: it always reaches to the end."""
    whole = part.obj
    if not isinstance(whole, bytes):
        raise TypeError(f"A frame is bytes, not {type(whole).__name__}.")
    return whole, len(whole) - len(part)


class Subscriber(RawSocket):
    """A client's connection.

    Attributes:
        group: Who listens to the same channels.
        outbox: What waits because the client reads slowly, or None.
        tags: Names by which it can be closed.
        address: Its client's, as :class:`~sidearm.hub.limits.Limits` counts it.
        seen: When its view ran, as a position's time.
        expires: When it is too old (a reading of ``time.monotonic()``).
        shortest_wait: Its client's before it comes back (seconds); None: it is told no other.
    """

    __slots__ = ("address", "expires", "group", "outbox", "seen", "shortest_wait", "tags")

    group: Group
    outbox: Outbox | None
    tags: tuple[str, ...]
    address: bytes
    seen: int
    expires: float
    shortest_wait: float | None

    @classmethod
    def adopt(cls, descriptor: int) -> Subscriber:
        """Make a subscriber of a descriptor that a worker sent, and own it.

        Raises:
            NotAClient: It is something else, which is closed.
        """
        try:
            # Asks for the family. Of the type it is told what find_flaw() sees to.
            subscriber = cls(-1, STREAM, 0, descriptor)
        except OSError as error:
            os.close(descriptor)
            raise NotAClient(f"It is no socket ({error.strerror}).") from error
        flaw = subscriber.find_flaw()
        if flaw is not None:
            # Not shut down: whoever sent it may go on using it.
            subscriber.close()
            raise NotAClient(flaw)
        subscriber.outbox = None
        subscriber.tags = ()
        subscriber.address = b""
        subscriber.seen = 0
        subscriber.expires = math.inf
        subscriber.shortest_wait = None
        return subscriber

    @classmethod
    def restore(cls, client: Client) -> Subscriber:
        """A subscriber of a predecessor; owns the descriptor from now on.

        Raises:
            NotAClient: It is something else, which is closed.
        """
        subscriber = cls.adopt(client.descriptor)
        state = client.state
        subscriber.tags = state.tags
        subscriber.address = state.address
        subscriber.seen = state.seen
        subscriber.expires = state.expires
        subscriber.shortest_wait = state.shortest_wait
        if client.waiting:
            subscriber.outbox = Outbox.restore(client.waiting, state.exempt, final=state.final)
        return subscriber

    def state(self) -> Client:
        """What a successor has to know, with the descriptor."""
        outbox = self.outbox
        state = ClientState(
            self.group.channels,
            exempt=outbox.exempt if outbox else 0,
            final=outbox is not None and outbox.final,
            tags=self.tags,
            address=self.address,
            seen=self.seen,
            expires=self.expires,
            shortest_wait=self.shortest_wait,
        )
        return Client(self.fileno(), state, outbox.parts() if outbox else [])

    def find_flaw(self) -> str | None:
        """Why this is no client's connection, or None."""
        if self.family in INTERNET and platform.is_tcp_connection(self):
            return None  # as most are, known by one call
        try:
            kind = self.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
            listening = self.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            return f"Its state cannot be read ({error.strerror})."
        if self.family not in FAMILIES or kind != STREAM:
            return f"Its family is {self.family} and its type {kind}."
        return "It listens for connections." if listening else None

    def drain(self) -> None:
        """Throw away what the client has sent: closing with it unread would be a reset.

        A client may lose what it has not read yet to a reset (RFC 9293, 3.10.4).
        """
        with contextlib.suppress(OSError):
            self.recv(DRAIN_SIZE, platform.DONTWAIT)

    def hang_up(self) -> None:
        """End the connection, also where another process holds a copy of the descriptor."""
        try:
            self.shutdown(socket.SHUT_RDWR)
        except OSError:  # ENOTCONN: the client was faster
            pass
        finally:
            self.close()


class Group:
    """The subscribers of one set of channels.

    Attributes:
        channels: Their names, sorted.
        members: The subscribers.
        frames: What arrived for them since the last pass of sends.
    """

    __slots__ = ("channels", "frames", "members")

    def __init__(self, channels: tuple[str, ...]) -> None:
        self.channels = channels
        self.members: set[Subscriber] = set()
        self.frames: list[bytes] = []


class Subscribers:
    """All subscribers, by descriptor and by channel."""

    __slots__ = ("_by_address", "_by_channel", "_by_descriptor", "_groups")

    def __init__(self) -> None:
        self._by_descriptor: dict[int, Subscriber] = {}
        self._by_channel: dict[str, set[Group]] = {}
        self._groups: dict[tuple[str, ...], Group] = {}
        self._by_address: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._by_descriptor)

    @property
    def channel_count(self) -> int:
        """Channels that somebody listens to."""
        return len(self._by_channel)

    @property
    def waiting_bytes(self) -> int:
        """What waits for slow subscribers, each counted for itself."""
        outboxes = (subscriber.outbox for subscriber in self._by_descriptor.values())
        return sum(outbox.size for outbox in outboxes if outbox is not None)

    def get(self, descriptor: int) -> Subscriber | None:
        """The subscriber with this descriptor."""
        return self._by_descriptor.get(descriptor)

    def all(self) -> list[Subscriber]:
        """Every subscriber."""
        return list(self._by_descriptor.values())

    def groups(self) -> list[Group]:
        """Every group; none is empty."""
        return list(self._groups.values())

    def groups_of(self, channel: str) -> set[Group] | tuple[()]:
        """The groups that listen to a channel."""
        return self._by_channel.get(channel, ())

    def count_of(self, address: bytes) -> int:
        """How many subscribers have an address that is counted."""
        return self._by_address.get(address, 0)

    def largest_channels(self, count: int) -> list[tuple[str, int]]:
        """The channels with the most subscribers, and how many those are."""
        sizes = {
            name: sum(len(group.members) for group in groups)
            for name, groups in self._by_channel.items()
        }
        return heapq.nsmallest(count, sizes.items(), key=lambda item: (-item[1], item[0]))

    def add(self, subscriber: Subscriber, channels: tuple[str, ...]) -> None:
        """Take in a subscriber."""
        self._join(subscriber, channels)
        self._by_descriptor[subscriber.fileno()] = subscriber
        if subscriber.address:
            self._by_address[subscriber.address] += 1

    def move(self, subscriber: Subscriber, channels: tuple[str, ...]) -> None:
        """Let a subscriber listen to other channels from now on."""
        self._part(subscriber)
        self._join(subscriber, channels)

    def remove(self, subscriber: Subscriber) -> None:
        """Let go of a subscriber, whose socket is still open."""
        del self._by_descriptor[subscriber.fileno()]
        self._part(subscriber)
        address = subscriber.address
        if address:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def _join(self, subscriber: Subscriber, channels: tuple[str, ...]) -> None:
        key = channels if len(channels) == 1 else tuple(sorted(set(channels)))
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(key)
            for channel in key:
                self._by_channel.setdefault(channel, set()).add(group)
        group.members.add(subscriber)
        subscriber.group = group

    def _part(self, subscriber: Subscriber) -> None:
        group = subscriber.group
        group.members.discard(subscriber)
        if group.members:
            return
        del self._groups[group.channels]
        for channel in group.channels:
            groups = self._by_channel[channel]
            groups.discard(group)
            if not groups:
                del self._by_channel[channel]

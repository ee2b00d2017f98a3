"""All that a hub knows, as pieces of bytes with descriptors beside them; no socket, no clock.

A hub that is replaced tells its successor what it holds in a row of *pieces*: an outline, then
closings, frames, history, workers and clients in any order, then the end. A piece names no object
of ours, so that two versions of the program understand each other; fields are only ever added at
the end, with a default, and what cannot be understood any more raises :data:`STATE_VERSION`.

A frame that waits for a thousand slow clients is one object in memory, and stays one: each is told
once (:class:`Frames`), and then named by its number, in the order in which they were told.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec

from ..exceptions import ProtocolError
from .messages import EncodedRecord, EntryWords, Message, Refused

STATE_VERSION = 1
PIECE_SIZE = 1 << 20  # bytes of frames in one piece, unless one frame alone is larger
EVENTS_AT_ONCE = 5000
ENTRIES_AT_ONCE = 50
# Linux takes 253 descriptors in one message (SCM_MAX_FD); a worker may hold one beside its own.
CLIENTS_AT_ONCE = 200
WORKERS_AT_ONCE = 100

T = TypeVar("T")

#: An event of the history: position's time, channel, frame.
Kept: TypeAlias = tuple[int, str, bytes]
#: A closing: tag, channel (or none for all), time and place as positions' times.
ClosedState: TypeAlias = tuple[str, str, int, int]


class Piece(Message, frozen=True, array_like=True):
    """The base of all pieces."""

    def descriptor_count(self) -> int:
        """How many descriptors come with it."""
        return 0


class MomentsState(msgspec.Struct, frozen=True, array_like=True):
    """What a hub that follows a broker had seen when.

    Attributes:
        epoch: Of the positions that stand for moments.
        offset: Nanoseconds to add to ``time.monotonic_ns()`` for a moment.
        moments: Moment and position of the newest entry seen, oldest first.
    """

    epoch: str
    offset: int
    moments: list[tuple[int, int]]


class LogState(msgspec.Struct, frozen=True, array_like=True):
    """A log without its events.

    Attributes:
        epoch: Names the log.
        offset: Its clock's, in nanoseconds.
        first: The time of its beginning.
        last: The time of the newest position.
        floor: The floor of every channel.
        floors: The floors of single channels, oldest first.
        ends: When each finished channel had its last event, oldest first.
        moments: Of a broker's log: what of it was seen when. None: it is the hub's own.
    """

    epoch: str
    offset: int
    first: int
    last: int
    floor: int
    floors: list[tuple[str, int]]
    ends: list[tuple[str, int]] = []
    moments: MomentsState | None = None


class ReporterState(msgspec.Struct, frozen=True, array_like=True):
    """A process that has records; ``worker`` is its place in the order of workers."""

    worker: int
    number: int
    pid: int
    app: str
    follow: str


class ReaderState(msgspec.Struct, frozen=True, array_like=True):
    """Somebody who reads records; ``worker`` is its place in the order of workers."""

    worker: int
    request: int
    count: int
    failed: bool
    follow: bool
    answered: list[int]
    missed: bool


class RelayState(msgspec.Struct, frozen=True, array_like=True):
    """Who has records of tasks, who reads them, and what ended processes have left."""

    numbers: int = 0
    requests: int = 0
    reporters: list[ReporterState] = []
    readers: list[ReaderState] = []
    left: list[EncodedRecord] = []


class Outline(Piece, frozen=True, array_like=True, tag="outline"):
    """The first piece. Its descriptors: the listener, its lock, the token, then the figures' port.

    Attributes:
        version: The :data:`STATE_VERSION` of who tells.
        pid: The process that tells.
        began: When the first hub of this log began, by the machine's monotonic clock (seconds).
        log: The log.
        relay: The records' part.
        counts: What there was so far, by name.
        has_metrics: Whether the descriptor of the figures' port is among them.
        log_kind: Whose the log is, as :attr:`~sidearm.hub.config.HubConfig.log_kind` says.
    """

    version: int
    pid: int
    began: float
    log: LogState
    relay: RelayState
    counts: dict[str, int]
    has_metrics: bool = False
    log_kind: str = ""

    def descriptor_count(self) -> int:
        return 4 if self.has_metrics else 3


class Frames(Piece, frozen=True, array_like=True, tag="frames"):
    """Frames that later pieces name by their numbers."""

    frames: list[bytes]


class Closed(Piece, frozen=True, array_like=True, tag="closed"):
    """Which streams were closed of late: tag, channel, time and place, oldest tag first."""

    closings: list[ClosedState]


class History(Piece, frozen=True, array_like=True, tag="history"):
    """Events that are kept: time, channel and number of the frame, in the log's order."""

    events: list[tuple[int, str, int]]


class Fed(Piece, frozen=True, array_like=True, tag="fed"):
    """Entries of the log that other hubs follow, oldest first; only where some do."""

    entries: list[EntryWords]


class WorkerState(msgspec.Struct, frozen=True, array_like=True):
    """A connection of a worker. Its descriptors: its own, then each that is held.

    Attributes:
        role: As in :class:`~sidearm.hub.messages.Hello`; None: it has not said hello yet.
        unparsed: The beginning of a message whose rest is still to come.
        outgoing: Answers that the worker has not taken yet.
        held: The descriptors that came before the rest of their message; False for a lost one.
    """

    role: str | None
    unparsed: bytes
    outgoing: bytes
    held: list[bool]


class Workers(Piece, frozen=True, array_like=True, tag="workers"):
    """Some of the workers' connections."""

    workers: list[WorkerState]

    def descriptor_count(self) -> int:
        return sum(1 + sum(worker.held) for worker in self.workers)


class ClientState(msgspec.Struct, frozen=True, array_like=True):
    """A subscriber; its descriptor comes beside it. New fields are added at the end.

    A slow one comes after all that became slow before it.

    Attributes:
        channels: What it listens to.
        waiting: What its kernel buffer did not take: frames by number, each from an offset on.
        exempt: How many of the bytes that wait belong to the beginning of the stream.
        final: Whether the stream ends when nothing waits any more.
        tags: Names by which it can be closed.
        address: Its client's, as the limits count it.
        seen: When its view ran, as a position's time.
        expires: When it is too old, by the machine's monotonic clock (seconds).
        shortest_wait: As in :class:`~sidearm.hub.messages.Handoff`.
    """

    channels: tuple[str, ...]
    waiting: list[tuple[int, int]] = []
    exempt: int = 0
    final: bool = False
    tags: tuple[str, ...] = ()
    address: bytes = b""
    seen: int = 0
    expires: float = math.inf
    shortest_wait: float | None = None


class Clients(Piece, frozen=True, array_like=True, tag="clients"):
    """Some of the subscribers."""

    clients: list[ClientState]

    def descriptor_count(self) -> int:
        return len(self.clients)


class End(Piece, frozen=True, array_like=True, tag="end"):
    """The last piece: nothing is missing."""


AnyPiece: TypeAlias = Outline | Closed | Fed | Frames | History | Workers | Clients | End

_decoder: msgspec.msgpack.Decoder[AnyPiece | Refused] = msgspec.msgpack.Decoder(AnyPiece | Refused)


def decode(data: bytes) -> AnyPiece | Refused:
    """Read one piece, or the hub's refusal.

    Raises:
        ProtocolError: It is neither.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"A piece of {len(data)} bytes cannot be read: {error}.") from error


class Worker(NamedTuple):
    """A worker's connection with its descriptors: its own first."""

    state: WorkerState
    descriptors: list[int]


class Client(NamedTuple):
    """A subscriber before its frames have numbers, or after.

    Attributes:
        descriptor: Its socket.
        state: Its fields; ``waiting`` is empty here.
        waiting: Whole frames that wait, each from an offset on.
    """

    descriptor: int
    state: ClientState
    waiting: list[tuple[bytes, int]]


class Numbers:
    """Gives each frame a number when it is first seen, and remembers which were not told yet."""

    def __init__(self) -> None:
        # The frames themselves are kept, so that no other can get an id that was used already.
        self._seen: dict[int, tuple[int, bytes]] = {}
        self._untold: list[bytes] = []
        self.untold_bytes = 0

    def number(self, frame: bytes) -> int:
        """The number of this very object."""
        known = self._seen.get(id(frame))
        if known is not None:
            return known[0]
        number = len(self._seen)
        self._seen[id(frame)] = number, frame
        self._untold.append(frame)
        self.untold_bytes += len(frame)
        return number

    def tell(self) -> Iterator[Frames]:
        """The pieces that have to come before what names these frames."""
        frames, self._untold, self.untold_bytes = self._untold, [], 0
        size, some = 0, list[bytes]()
        for frame in frames:
            if some and size + len(frame) > PIECE_SIZE:
                yield Frames(some)
                size, some = 0, []
            size += len(frame)
            some.append(frame)
        if some:
            yield Frames(some)


def pieces(
    outline: Outline,
    descriptors: list[int],
    history: Iterable[Kept],
    workers: Iterable[Worker],
    clients: Iterable[Client],
    *,
    closings: Iterable[ClosedState] = (),
    fed: Iterable[EntryWords] = (),
) -> Iterator[tuple[AnyPiece, list[int]]]:
    """Cut a hub's state into pieces, each with its descriptors.

    Args:
        outline: The first piece.
        descriptors: Those that come with it.
        history: What the log keeps, oldest first.
        workers: Their connections, in the order that the relay's part counts in.
        clients: The subscribers.
        closings: Which streams were closed of late.
        fed: The entries of the log that other hubs follow.
    """
    yield outline, descriptors
    for closed in _batches(closings, EVENTS_AT_ONCE):
        yield Closed(closed), []
    for entries in _batches(fed, ENTRIES_AT_ONCE):
        yield Fed(entries), []
    numbers = Numbers()
    for some in _batches(history, EVENTS_AT_ONCE):
        events = [(time, channel, numbers.number(frame)) for time, channel, frame in some]
        yield from ((piece, []) for piece in numbers.tell())
        yield History(events), []
    for batch in _batches(workers, WORKERS_AT_ONCE):
        held = [descriptor for worker in batch for descriptor in worker.descriptors]
        yield Workers([worker.state for worker in batch]), held
    for group in _batches(clients, CLIENTS_AT_ONCE):
        states = [
            client.state
            if not client.waiting
            else msgspec.structs.replace(
                client.state,
                waiting=[(numbers.number(frame), start) for frame, start in client.waiting],
            )
            for client in group
        ]
        yield from ((piece, []) for piece in numbers.tell())
        yield Clients(states), [client.descriptor for client in group]
    yield End(), []


class Collected:
    """Puts the pieces together again.

    Attributes:
        outline: The first piece; None before it came.
        descriptors: Those that came with the outline.
        history: What the log keeps, oldest first.
        workers: The workers' connections.
        clients: The subscribers.
        closings: Which streams were closed of late.
        fed: The entries of the log that other hubs follow.
        is_whole: Whether the end has come.
    """

    def __init__(self) -> None:
        self.outline: Outline | None = None
        self.descriptors: list[int] = []
        self.history: list[Kept] = []
        self.workers: list[Worker] = []
        self.clients: list[Client] = []
        self.closings: list[ClosedState] = []
        self.fed: list[EntryWords] = []
        self.is_whole = False
        self._frames: list[bytes] = []

    def take(self, piece: AnyPiece, descriptors: list[int]) -> None:
        """Add a piece.

        Raises:
            ProtocolError: It does not fit what came before, or its descriptors are not all there.
        """
        self._check(piece, descriptors)
        match piece:
            case Outline():
                self.outline, self.descriptors = piece, descriptors
            case Closed():
                self.closings += piece.closings
            case Fed():
                self.fed += piece.entries
            case Frames():
                self._frames += piece.frames
            case History():
                self.history += [(at, name, self._frame(n)) for at, name, n in piece.events]
            case Workers():
                self._take_workers(piece, descriptors)
            case Clients():
                self._take_clients(piece, descriptors)
            case End():
                self.is_whole = True

    def _check(self, piece: AnyPiece, descriptors: list[int]) -> None:
        if len(descriptors) != piece.descriptor_count():
            raise ProtocolError(
                f"{len(descriptors)} descriptors came where {piece.descriptor_count()} were told."
            )
        if (self.outline is None) != isinstance(piece, Outline) or self.is_whole:
            raise ProtocolError(f"The piece {type(piece).__name__} came out of order.")

    def _take_workers(self, piece: Workers, descriptors: list[int]) -> None:
        start = 0
        for worker in piece.workers:
            end = start + 1 + sum(worker.held)
            self.workers.append(Worker(worker, descriptors[start:end]))
            start = end

    def _take_clients(self, piece: Clients, descriptors: list[int]) -> None:
        for client, descriptor in zip(piece.clients, descriptors, strict=True):
            waiting = [(self._frame(n), start) for n, start in client.waiting]
            self.clients.append(Client(descriptor, client, waiting))

    def _frame(self, number: int) -> bytes:
        try:
            return self._frames[number]
        except IndexError:
            raise ProtocolError(f"Frame {number} was named before it was told.") from None


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

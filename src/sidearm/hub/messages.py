"""What workers and the hub say to each other: bytes only, no socket, no clock.

Each message is a length of four bytes (big-endian) and a MessagePack array whose first item tells
the kind. Fields are only ever added at the end, so that a hub understands an older worker;
what cannot be understood any more raises :data:`VERSION`, and the hub refuses it by name.

A hub that is to be replaced says what it holds in pieces of its own (:mod:`~sidearm.hub.state`),
after :class:`TakeOver`.

A worker's first message is :class:`Hello`, answered by :class:`Welcome` or :class:`Refused`.
:class:`Publish`, :class:`Lost`, :class:`Close` and :class:`Handoff` are never answered. A
:class:`Handoff` carries exactly one descriptor (``SCM_RIGHTS``), attached to the first of its
bytes.

Records of tasks stay in the processes that made them, until somebody wants to read them::

    reader                         hub                          process
                                    <---------------------------  Report
    ReadRecords  ----------------->
                 <-----------------  Reporters
                                     SendRecords  -------------->
                 <-----------------  RecordsOf  <---------------  Records   (the answer)
                 <-----------------  RecordsOf  <---------------  Records   (news, if it follows)
                                    <---------------------------  Leave     (the process ends)

A process that holds streams itself has one connection for all of them, in the role :data:`INLINE`.
On it the hub sends, unasked and in order, what it does with its own streams: :class:`Events`,
:class:`Gap`, :class:`Close` and :class:`Beat`. How each stream begins, the process asks by
:class:`Fetch`, as for one that is polled.

Hubs of one machine that share its streams follow the log of the first (:class:`AskHead`,
:class:`ReadLog`; :mod:`~sidearm.hub.leading` tells how).
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from ..exceptions import ProtocolError

VERSION = 1
LENGTH_BYTES = 4
MAX_LISTED = 10_000  # channels in one answer
HELLO_LIMIT = 1024  # bytes; a stranger cannot make the hub wait for more than this

#: The role of a connection on which the hub tells all that happens.
INLINE = "inline"

#: One event as the hub passes it on: channel, frame, its position's time (0: it is live only), and
#: whether it is its channel's last.
PassedEvent: TypeAlias = tuple[str, bytes, int, bool]

#: One event as a worker sends it: channel, body (its fields, without id and blank line), keep.
PublishedEvent: TypeAlias = tuple[str, bytes, bool]

#: An entry of the log as the leading hub tells it: its position, the one before, then what happened
#: as a broker keeps it (:mod:`~sidearm.brokers.items`): kind, name, body.
EntryWords: TypeAlias = tuple[int, int, str, str, bytes]

#: One record as a process sends it: whether its round failed or dropped something, and its JSON.
EncodedRecord: TypeAlias = tuple[bool, bytes]


class Message(msgspec.Struct, frozen=True, array_like=True):
    """The base of all messages."""


class Hello(Message, frozen=True, array_like=True, tag="hello"):
    """The first message of every connection.

    Attributes:
        version: The sender's :data:`VERSION`.
        role: What the connection is for: ``"publish"``, ``"handoff"``, ``"ask"``, ``"records"`` (of
            a process that has some), ``"tasks"`` (of who reads them), ``"hub"`` (of one that
            follows) or ``"successor"``, for logs; and :data:`INLINE`, which means something.
    """

    version: int
    role: str


class Welcome(Message, frozen=True, array_like=True, tag="welcome"):
    """The hub's answer to :class:`Hello`.

    Attributes:
        version: The hub's :data:`VERSION`.
        epoch: Names the hub's log; another hub process has another one.
        offset: Nanoseconds to add to ``time.monotonic_ns()`` for a position's time.
        max_event_size: A larger frame is refused (bytes).
        pid: The hub's process.
        records: Whether it passes records on; a hub before this field does not.
        events: Whether it passes events on; a hub before this field does not.
        log: Of a hub that follows a broker, names the log. ``epoch`` and ``offset`` then make
            positions that this hub alone knows: it can tell which place each stands for
            (:class:`Locate`). Empty: the log is the hub's own.
        hubs: How many hubs of this machine share its streams.
    """

    version: int
    epoch: str
    offset: int
    max_event_size: int
    pid: int
    records: bool = False
    events: bool = False
    log: str = ""
    hubs: int = 1


class Refused(Message, frozen=True, array_like=True, tag="refused"):
    """The hub's answer to what it does not accept, before it closes the connection.

    Attributes:
        reason: One sentence for the log.
    """

    reason: str


class Publish(Message, frozen=True, array_like=True, tag="publish"):
    """Events for the log, in order.

    Attributes:
        events: ``(channel, body, keep)``; the body is what ``eventstream.encode_body`` made.
        ends: Which of them, by index, are the last of their channel.
    """

    events: list[PublishedEvent]
    ends: tuple[int, ...] = ()


class Lost(Message, frozen=True, array_like=True, tag="lost"):
    """A worker gave up events that waited too long: clients have to be told of the gap.

    Attributes:
        channels: Where they belonged. Empty: so many channels that it is any.
    """

    channels: tuple[str, ...]


class Close(Message, frozen=True, array_like=True, tag="close"):
    """Ends the streams that carry a tag, or takes channels from them; never answered.

    Attributes:
        tag: Which streams.
        channels: What is taken from them; a stream that has others goes on. Empty: they end.
        time: When it was said (``time.monotonic_ns()``): it is for streams whose view ran before.
    """

    tag: str
    channels: tuple[str, ...]
    time: int


class Opening(Message, frozen=True, array_like=True):
    """What a stream asks for: shared by :class:`Handoff` and :class:`Fetch`.

    Attributes:
        channels: At least one.
        position: What the view saw: every event after it is still to be sent. None: from now on.
        last_event_id: The id that the client resumes from, as it came (it may be nonsense), or
            None for a newcomer.
        snapshot: Whole frames without ids, sent before the events; not to a client that resumes.
        retry: The client's reconnection time in milliseconds.
        replay: How far back this stream reaches (seconds): a newcomer gets that much history, an
            older ``last_event_id`` is too old. None: a newcomer gets what follows ``position``, an
            id may be as old as the history.
    """

    channels: tuple[str, ...]
    position: str | None = None
    last_event_id: str | None = None
    snapshot: bytes | None = None
    retry: int | None = None
    replay: float | None = None


class Handoff(Opening, frozen=True, array_like=True, tag="handoff"):
    """A client's socket, whose head has been sent: the hub goes on from here.

    Attributes:
        address: The client's, as the application sees it (after ``ProxyFix``).
        tags: Names by which the stream can be found again, to be closed.
        max_age: Seconds after which it ends, so that its view is asked again. None: never.
        shortest_wait: Its client's shortest wait before it comes back (seconds); where there are
            many streams it is told a longer one. None: what it was told stays.
        knows_place: Whether it was told ``position`` with its head, as its last id.
    """

    address: str | None = None
    tags: tuple[str, ...] = ()
    max_age: float | None = None
    shortest_wait: float | None = None
    knows_place: bool = False


class Fetch(Opening, frozen=True, array_like=True, tag="fetch"):
    """Asks for all that is due now, for a stream that is polled; answered by :class:`Fetched`.

    Attributes:
        tags: As in :class:`Handoff`.
        held: Whether the process goes on with it, so that it is told what is closed from now on.
    """

    tags: tuple[str, ...] = ()
    held: bool = False


class Fetched(Message, frozen=True, array_like=True, tag="fetched"):
    """The answer to :class:`Fetch`.

    Attributes:
        body: Whole frames of ``text/event-stream``; the last id in it is the place to go on from.
        place: The time of that place: every kept event up to it is in the body.
        channels: Those that the stream goes on with. Empty: the body ends it, for good.
        ended: Which of them have had their last event.
    """

    body: bytes
    place: int = 0
    channels: tuple[str, ...] = ()
    ended: tuple[str, ...] = ()


class Locate(Message, frozen=True, array_like=True, tag="locate"):
    """Asks which place in the broker's log a position stands for; answered by :class:`Located`.

    Attributes:
        position: As :class:`Welcome` lets a worker make it.
    """

    position: str


class Located(Message, frozen=True, array_like=True, tag="located"):
    """The answer to :class:`Locate`.

    Attributes:
        position: One that every hub of the same broker knows.
    """

    position: str


class Events(Message, frozen=True, array_like=True, tag="events"):
    """Passes on what was published.

    Attributes:
        events: In order.
    """

    events: list[PassedEvent]


class Gap(Message, frozen=True, array_like=True, tag="gap"):
    """Passes on that events will never come.

    Attributes:
        channels: Where they belonged. Empty: it may be any.
        frame: What tells a client.
        time: Of its position.
    """

    channels: tuple[str, ...]
    frame: bytes
    time: int


class Beat(Message, frozen=True, array_like=True, tag="beat"):
    """Passes on a heartbeat.

    Attributes:
        frame: What a quiet stream is sent.
        time: Of the position in it: everything up to it was passed on before.
    """

    frame: bytes
    time: int


class Stats(Message, frozen=True, array_like=True, tag="stats"):
    """Asks for :class:`Figures`."""


class Figures(Message, frozen=True, array_like=True, tag="figures"):
    """The hub's figures: what there is now, then (from ``opened`` on) what there was so far.

    Attributes:
        epoch: Names the log.
        pid: The hub's process.
        uptime: Seconds since the start.
        subscribers: Open streams.
        channels: Channels with at least one subscriber.
        connections: Connections of workers.
        descriptors: Descriptors that the hub knows it holds.
        descriptor_limit: The process's limit.
        history_events: Events kept for resuming.
        history_bytes: Their size.
        pending_bytes: What waits for subscribers that read slowly.
        opened: Streams taken over so far.
        published: Events accepted.
        delivered: Events handed to the kernel or to a subscriber's buffer, each subscriber counted.
        sends: ``send`` calls made for deliveries.
        disconnected_slow: Subscribers closed because their buffer was full.
        refused_streams: Streams that got what was due and were ended, because of a limit.
        refused_descriptors: Descriptors that were no client's socket.
        lost_descriptors: Descriptors that the kernel could not deliver.
        refused_events: Events above the size limit.
        refused_connections: Connections refused or closed for breaking the protocol.
        gaps: Gap events sent.
        ended: Streams ended so far because their channels had their last event.
        closed: Streams ended so far by their tag.
        aged: Streams ended so far because they reached their maximum age.
        buffer_bytes: What waits for slow subscribers, where what several wait for counts once.
        takeovers: Hubs that took this log over from another so far.
        failed_takeovers: Replacements of a hub that failed.
        hubs: Hubs of this machine that share its streams.
        number: Which of them this is, from 0.
    """

    epoch: str
    pid: int
    uptime: float
    subscribers: int = 0
    channels: int = 0
    connections: int = 0
    descriptors: int = 0
    descriptor_limit: int = 0
    history_events: int = 0
    history_bytes: int = 0
    pending_bytes: int = 0
    opened: int = 0
    published: int = 0
    delivered: int = 0
    sends: int = 0
    disconnected_slow: int = 0
    refused_streams: int = 0
    refused_descriptors: int = 0
    lost_descriptors: int = 0
    refused_events: int = 0
    refused_connections: int = 0
    gaps: int = 0
    ended: int = 0
    closed: int = 0
    aged: int = 0
    buffer_bytes: int = 0
    takeovers: int = 0
    failed_takeovers: int = 0
    hubs: int = 1
    number: int = 0


class ListChannels(Message, frozen=True, array_like=True, tag="list-channels"):
    """Asks which channels somebody listens to; answered by :class:`Channels`.

    Attributes:
        count: How many are wanted at most, those with the most subscribers.
    """

    count: int


class Channels(Message, frozen=True, array_like=True, tag="channels"):
    """The answer to :class:`ListChannels`.

    Attributes:
        channels: ``(name, subscribers)``, the most subscribers first.
        total: How many channels there are.
    """

    channels: list[tuple[str, int]]
    total: int


class Replace(Message, frozen=True, array_like=True, tag="replace"):
    """Asks a hub to be replaced by a new process; answered by :class:`Replacing`.

    When that fails, :class:`NotReplaced` follows; else the new hub is at the other end.
    """


class Replacing(Message, frozen=True, array_like=True, tag="replacing"):
    """The answer to :class:`Replace`.

    Attributes:
        pid: The hub's process.
        supervised: Whether whoever started the hub starts the new one. If not, it is for the
            asking process to become the new hub.
    """

    pid: int
    supervised: bool


class NotReplaced(Message, frozen=True, array_like=True, tag="not-replaced"):
    """Tells who sent :class:`Replace` that the old hub goes on.

    Attributes:
        reason: One sentence.
    """

    reason: str


class TakeOver(Message, frozen=True, array_like=True, tag="take-over"):
    """A new hub asks for all that the running one holds; :mod:`~sidearm.hub.takeover` tells how.

    Attributes:
        versions: The versions of the state (``STATE_VERSION``) that it understands.
        room: How many descriptors it may have.
    """

    versions: tuple[int, ...]
    room: int


class AskHead(Message, frozen=True, array_like=True, tag="ask-head"):
    """Asks the leading hub what its log is just now; answered by :class:`Head`."""


class Head(Message, frozen=True, array_like=True, tag="head"):
    """The answer to :class:`AskHead`.

    Attributes:
        epoch: Names the log.
        last: The position of its newest entry.
        offset: As in :class:`Welcome`: followers count time as this hub does, whatever their wall
            clock said when they began. None: a hub before this field.
    """

    epoch: str
    last: int
    offset: int | None = None


class ReadLog(Message, frozen=True, array_like=True, tag="read-log"):
    """Asks the leading hub for what comes after a position; answered by :class:`LogPart`.

    Attributes:
        after: The position.
        wait: Whether the answer waits until there is something. Another question takes its place.
    """

    after: int
    wait: bool


class LogPart(Message, frozen=True, array_like=True, tag="log-part"):
    """The answer to :class:`ReadLog`.

    Attributes:
        after: The position that was asked about.
        entries: In order; not all of them, if there are many. None: another process leads from now
            on, at the other end of the same connection.
    """

    after: int
    entries: list[EntryWords]


class Report(Message, frozen=True, array_like=True, tag="report"):
    """A process has records of its tasks, and sends them when it is asked to.

    Attributes:
        pid: The process.
        app: The application's name.
    """

    pid: int
    app: str


class SendRecords(Message, frozen=True, array_like=True, tag="send-records"):
    """The hub asks a process for its records.

    Attributes:
        request: Names the question, and is in the answers to it. 0: only ``follow`` changes.
        count: How many, the newest.
        failed: Only of rounds that failed or dropped something.
        follow: What is to be sent by itself from now on: ``"all"``, ``"failed"`` or ``""``.
    """

    request: int
    count: int
    failed: bool
    follow: str


class Records(Message, frozen=True, array_like=True, tag="records"):
    """Records of a process, oldest first.

    Attributes:
        request: The question that they answer; 0: they are new, and somebody follows.
        records: Each one as JSON, and whether its round failed or dropped something.
        more: Whether the rest of the answer follows.
        missed: Whether some are missing before these: they were overwritten before they were sent.
    """

    request: int
    records: list[EncodedRecord]
    more: bool = False
    missed: bool = False


class Leave(Message, frozen=True, array_like=True, tag="leave"):
    """A process ends, and leaves its records to the hub.

    Attributes:
        records: As in :class:`Records`.
        seen: How many of them, from the first, were sent as news already.
        more: Whether the rest follows.
    """

    records: list[EncodedRecord]
    seen: int = 0
    more: bool = False


class ReadRecords(Message, frozen=True, array_like=True, tag="read-records"):
    """Somebody wants to read the records of all processes.

    Attributes:
        count: How many of each process, the newest.
        failed: Only of rounds that failed or dropped something.
        follow: Whether new ones are to be sent, too.
    """

    count: int
    failed: bool
    follow: bool


class Reporters(Message, frozen=True, array_like=True, tag="reporters"):
    """Tells a reader which processes are asked; later also which others have come.

    Attributes:
        processes: ``(number, pid, application)``; the hub numbers them, from 1.
    """

    processes: list[tuple[int, int, str]]


class RecordsOf(Message, frozen=True, array_like=True, tag="records-of"):
    """Records for a reader, oldest first.

    Attributes:
        number: The process; 0: what ended processes have left.
        records: Each one as JSON.
        more: Whether the rest of the answer follows.
        missed: Whether some are missing before these.
    """

    number: int
    records: list[bytes]
    more: bool = False
    missed: bool = False


class ReporterLeft(Message, frozen=True, array_like=True, tag="reporter-left"):
    """Tells a reader that a process is gone.

    Attributes:
        number: Which.
    """

    number: int


ToHub: TypeAlias = (
    Hello
    | Publish
    | Lost
    | Close
    | Handoff
    | Fetch
    | Locate
    | Stats
    | ListChannels
    | Replace
    | TakeOver
    | AskHead
    | ReadLog
    | Report
    | Records
    | Leave
    | ReadRecords
)
FromHub: TypeAlias = (
    Welcome
    | Refused
    | Fetched
    | Located
    | Figures
    | Channels
    | Replacing
    | NotReplaced
    | Head
    | LogPart
    | SendRecords
    | Reporters
    | RecordsOf
    | ReporterLeft
    | Events
    | Gap
    | Close
    | Beat
)

_encoder = msgspec.msgpack.Encoder()
_to_hub: msgspec.msgpack.Decoder[ToHub] = msgspec.msgpack.Decoder(ToHub)
_from_hub: msgspec.msgpack.Decoder[FromHub] = msgspec.msgpack.Decoder(FromHub)


def encode(message: Message) -> bytes:
    """The bytes of one message, with its length in front."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class Splitter:
    """Cuts a stream of bytes into the messages that it holds.

    Args:
        limit: The largest message that is accepted, in bytes.
    """

    __slots__ = ("_buffer", "_needed", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._needed = 0

    @property
    def holds_part(self) -> bool:
        """Whether the beginning of a message waits for its rest."""
        return bool(self._buffer)

    @property
    def part(self) -> bytes:
        """The beginning of a message that waits for its rest."""
        return bytes(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take bytes as they came, and give back the messages that are now whole, still encoded.

        Raises:
            ProtocolError: A message announces more bytes than ``limit``, or none.
        """
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._needed:
                return []
            whole = bytes(self._buffer)
        elif 0 < (size := len(data) - LENGTH_BYTES) <= self.limit and size == int.from_bytes(
            data[:LENGTH_BYTES], "big"
        ):
            return [bytes(data[LENGTH_BYTES:])]  # one message comes by itself, mostly
        else:
            whole = bytes(data)
        messages = []
        start, have = 0, len(whole)
        self._needed = LENGTH_BYTES
        while have - start >= LENGTH_BYTES:
            body = start + LENGTH_BYTES
            size = int.from_bytes(whole[start:body], "big")
            if not 0 < size <= self.limit:
                raise ProtocolError(
                    f"A message announces {size} bytes; 1 to {self.limit} are expected here."
                    " What speaks on this socket is not a worker of this version."
                )
            if have < body + size:
                self._needed = body + size - start
                break
            start = body + size
            messages.append(whole[body:start])
        self._buffer = bytearray(whole[start:])
        return messages


def decode_to_hub(data: bytes) -> ToHub:
    """Read one message from a worker.

    Raises:
        ProtocolError: It is none.
    """
    try:
        return _to_hub.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"A message of {len(data)} bytes cannot be read: {error}.") from error


def decode_from_hub(data: bytes) -> FromHub:
    """Read one message from the hub.

    Raises:
        ProtocolError: It is none.
    """
    try:
        return _from_hub.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"A message of {len(data)} bytes cannot be read: {error}.") from error

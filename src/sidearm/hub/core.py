"""The hub without its loop: what it holds, and what it does in a round.

Each wake-up is one round: read what the workers have sent, and append it to the log; send what
arrived to all subscribers in one pass; then admit the clients that were handed over, so that what
they are told from the history and what they get live meet without a gap and without a duplicate.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Sequence
from typing import TypeVar

from msgspec.structs import replace

from ..brokers import Closing, Entry, Event, LogHead, Loss, without_password
from ..exceptions import InvalidField, ProtocolError
from . import eventstream, opening, platform
from .acceptor import Acceptor
from .admission import Admission
from .config import HubConfig
from .connection import Connection
from .descriptors import Descriptors
from .fanout import Fanout
from .feed import Feed
from .followed import FollowedLog
from .inline import Inline
from .leading import Lead
from .listener import Listener
from .log import Log
from .lulls import Lulls
from .messages import (
    MAX_LISTED,
    VERSION,
    AskHead,
    Channels,
    Close,
    Fetch,
    Fetched,
    Figures,
    Handoff,
    Hello,
    Leave,
    ListChannels,
    Locate,
    Located,
    Lost,
    Message,
    Publish,
    ReadLog,
    ReadRecords,
    Records,
    Refused,
    Replace,
    Report,
    Stats,
    TakeOver,
    ToHub,
    Welcome,
)
from .metrics import open_port
from .relay import Relay
from .replacement import Replacement
from .said import items_of
from .spread import Spread
from .state import Worker
from .streams import Streams
from .subscribers import Subscriber, Subscribers
from .tally import Tally

READ_SIZE = 1 << 18  # bytes
OWN_DESCRIPTORS = 7  # listener, lock, spare, poller, and the loop's three
SNAPSHOT_LIMIT = 16 << 20  # bytes; beside the events of one message
DISCARD_SIZE = 1 << 16  # bytes
MAX_CHANNEL_LENGTH = 200  # characters; workers check channels thoroughly

logger = logging.getLogger("sidearm.hub")

T = TypeVar("T", Fetch, Handoff)


class Hub:
    """The hub without its loop: whoever has one calls :meth:`wake` when :meth:`fileno` is readable.

    Args:
        config: What it is told at its start.
        listener: The door of a predecessor.
        log: Its log.

    Raises:
        HubError: The socket cannot be served.

    Attributes:
        listener: Where workers connect.
        connections: Theirs, by descriptor.
        log: The events.
        fanout: Sends them.
        streams: How streams begin and end.
        lulls: Connections that are read in every round; while there are any, whoever has the loop
            calls :meth:`end_lulls` after a while.
        relay: Passes records of tasks on.
        tally: What happened so far.
        began: When the first hub of this log began, by the monotonic clock (seconds).
        metrics_listener: Where Prometheus asks for the figures; whoever has the loop answers.
        replacement: Whether another process is about to take over; whoever has the loop lets it.
        lead: Tells the log to the hubs that follow this one; None: none does.
        predecessor: The process that this hub has taken over from.
        was_replaced: Whether another process serves what this hub holds.
    """

    def __init__(
        self, config: HubConfig, listener: Listener | None = None, log: Log | None = None
    ) -> None:
        self._config = config
        self.was_replaced = False
        self.predecessor: int | None = None
        self.began = time.monotonic()
        self.tally = Tally()
        self.listener = listener or Listener(config.socket)
        self.metrics_listener: socket.socket | None = None
        self._descriptors = Descriptors()
        self._poller = platform.Poller()
        self._acceptor = Acceptor(self.listener, self._poller, self._descriptors, self.tally)
        if log is None:  # an empty one is false
            log = FollowedLog(config) if config.follows else Log(config)
        self.log = log
        #: The same log, if it is a copy of another.
        self.followed = log if isinstance(log, FollowedLog) else None
        self._subscribers = Subscribers()
        self.fanout = Fanout(
            self._subscribers, self._poller, config.subscriber_buffer, config.waiting_bytes
        )
        self.streams = Streams(self.log, self._subscribers, self.fanout, Spread(config))
        self._admission = Admission(
            config, self._descriptors, self._subscribers, self.streams, self.tally
        )
        self.connections: dict[int, Connection] = {}
        self.lulls = Lulls(self._poller)
        self.relay = Relay(self._answer)
        self._inline = Inline(self.connections, self._answer)
        self.replacement = Replacement(self._answer)
        self.lead: Lead | None = None
        if self.followed is not None and config.leads:
            feed = Feed(config.broker_limits(), self.followed.last)
            self.lead = Lead(self.followed, feed, self._answer)
        self._message_limit = 4 * config.max_event_size + SNAPSHOT_LIMIT
        self._read_buffer = memoryview(bytearray(READ_SIZE))
        self._discarded = bytearray(DISCARD_SIZE)

    @property
    def log_kind(self) -> str:
        """Whose the log is, as :attr:`~sidearm.hub.config.HubConfig.log_kind` says."""
        return self._config.log_kind

    def fileno(self) -> int:
        """The descriptor that is readable when there is something to do."""
        return self._poller.fileno()

    def wake(self) -> None:
        """Do what there is to do: one round."""
        if self.was_replaced:
            return
        self._acceptor.begin_round()
        if self.lulls:
            # They came before what is read now.
            for connection in self.lulls.connections():
                self._serve_connection(connection, readable=True, writable=False)
            self._admission.admit()
        for descriptor, readable, writable in self._poller.ready():
            if descriptor in self.connections:
                self._serve_connection(self.connections[descriptor], readable, writable)
            elif descriptor == self.listener.fileno():
                self._accept()
            else:
                self._serve_subscriber(descriptor, readable, writable)
        if self.lead is not None:
            self.lead.tell()  # first, for they have as much to do as this hub
        self.fanout.flush()
        self._admission.admit()

    def admit_all(self) -> None:
        """Open every stream that has arrived, before another process takes over."""
        self._admission.admit_all()

    def end_lulls(self) -> None:
        """Do one round, and be woken again by connections that bring no clients any more."""
        self.wake()
        if not self.was_replaced:
            self.lulls.look()

    def heartbeat(self) -> None:
        """Tell every quiet stream that it is alive, and where it would go on from."""
        if self.was_replaced:
            return
        self.fanout.flush()
        place = self.log.clock.text(self.log.mark())
        frame = eventstream.comment() + eventstream.bare_id(place)
        self.fanout.heartbeat(frame)
        self._inline.beat(frame, self.log.last)
        self.streams.tell_waits()

    def end_aged(self) -> None:
        """End the streams that have reached their maximum age."""
        if self.was_replaced:
            return
        self.streams.end_aged(time.monotonic())
        self._admission.admit()

    def figures(self) -> Figures:
        """What there is, and what there was so far."""
        fanout = self.fanout
        return Figures(
            epoch=self.log.clock.epoch,
            pid=os.getpid(),
            uptime=time.monotonic() - self.began,
            subscribers=len(self._subscribers),
            channels=self._subscribers.channel_count,
            connections=len(self.connections),
            descriptors=self._descriptor_count(),
            descriptor_limit=self._descriptors.limit,
            history_events=len(self.log),
            history_bytes=self.log.size,
            pending_bytes=self._subscribers.waiting_bytes,
            delivered=fanout.delivered,
            sends=fanout.sends,
            disconnected_slow=fanout.disconnected_slow,
            ended=self.streams.ended,
            closed=self.streams.closed,
            aged=self.streams.aged,
            buffer_bytes=fanout.buffers.size,
            failed_takeovers=self.replacement.failed,
            hubs=self._config.hubs,
            number=self._config.number,
            **self.tally.counts,
        )

    def _descriptor_count(self) -> int:
        return len(self._subscribers) + len(self.connections) + OWN_DESCRIPTORS

    def release(self) -> None:
        """Give every descriptor back, and end nothing: another process serves."""
        self.listener.release()
        for connection in self.connections.values():
            connection.release()
        for subscriber in self._subscribers.all():
            subscriber.close()
        self._close_own()

    def close(self) -> None:
        """Take what has already arrived, then end everything."""
        self.replacement.is_possible = False
        try:
            self.wake()
            self._admission.admit_all()
        finally:
            self.listener.close()
        for connection in list(self.connections.values()):
            self._drop_connection(connection)
        for subscriber in self._subscribers.all():
            self.fanout.close(subscriber)
        self._close_own()

    def _close_own(self) -> None:
        self._poller.close()
        self._acceptor.close()

    def listen_for_metrics(self, inherited: socket.socket | None = None) -> None:
        """Open the port for Prometheus, or go on with a predecessor's if it is the same.

        Raises:
            HubError: It cannot be had.
        """
        wanted = self._config.metrics_port
        if inherited is not None and inherited.getsockname()[1] == wanted:
            self.metrics_listener = inherited
            return
        if inherited is not None:
            inherited.close()
        if wanted is not None:
            self.metrics_listener = open_port(wanted)

    def restore_connection(self, worker: Worker) -> Connection:
        """Take in a connection of a predecessor."""
        connection = Connection.restore(worker, self._read_buffer, self._message_limit)
        self._watch(connection)
        if connection.unread:
            self._poller.watch_writing(connection.fileno(), wanted=True)
        return connection

    def let_go(self, connection: Connection) -> None:
        """Forget a connection, without closing it."""
        self._poller.forget(connection.fileno())
        self.lulls.forget(connection)
        del self.connections[connection.fileno()]

    # Workers

    def _accept(self) -> None:
        for accepted in self._acceptor.accept():
            self._watch(Connection(accepted, self._read_buffer, self._message_limit))

    def _watch(self, connection: Connection) -> None:
        self.connections[connection.fileno()] = connection
        self._poller.watch(connection.fileno())

    def _serve_connection(
        self,
        connection: Connection,
        readable: bool,  # noqa: FBT001
        writable: bool,  # noqa: FBT001
    ) -> None:
        try:
            if writable and connection.write():
                self._poller.watch_writing(connection.fileno(), wanted=False)
            if readable:
                has_client = False
                for message, descriptor in connection.read():
                    self._take(connection, message, descriptor)
                    has_client = descriptor is not None
                if has_client:
                    self.lulls.brought_client(connection)
        except EOFError:
            self._drop_connection(connection)
        except ProtocolError as error:
            self._refuse(connection, str(error))
        except Exception as error:
            logger.exception("A worker's message could not be handled.")
            self._refuse(connection, f"The hub failed: {error!r}.")
        if connection.lost_descriptors:
            self.tally.counts["lost_descriptors"] += connection.lost_descriptors
            connection.lost_descriptors = 0
            self._descriptors.learn_limit()
            self.tally.warn(
                "lost",
                "A client was lost on its way, and comes back: all %d descriptors are in use.",
                self._descriptors.limit,
            )

    def _refuse(self, connection: Connection, reason: str) -> None:
        self.tally.counts["refused_connections"] += 1
        logger.warning("A connection (%s) was closed: %s", connection.role or "stranger", reason)
        try:
            connection.answer(Refused(reason))
        except (ProtocolError, OSError) as error:
            logger.debug("It could not be told: %s", error)
        self._drop_connection(connection)

    def _drop_connection(self, connection: Connection) -> None:
        self.let_go(connection)
        connection.close()
        self.relay.forget(connection)
        self.replacement.forget(connection)
        if self.lead is not None:
            self.lead.forget(connection)

    def _answer(self, connection: Connection, message: Message) -> None:
        if not connection.answer(message):
            self._poller.watch_writing(connection.fileno(), wanted=True)

    def _take(self, connection: Connection, message: ToHub, descriptor: int | None) -> None:
        match message:
            case Handoff():
                self._admission.receive(self._located(message), descriptor)
            case Fetch() | Stats() | ListChannels() | Locate():
                self._answer(connection, self._look_up(message))
            case Publish() | Close() | Lost():
                self._hear(message)
            case Replace() | TakeOver():
                self.replacement.take(connection, message, self._descriptor_count())
            case Hello():
                self._answer(connection, self._welcome())
            case AskHead() | ReadLog():
                if self.lead is None:
                    raise ProtocolError("This hub leads no others: SIDEARM_HUBS is not the same.")
                self.lead.take(connection, message)
            case Report() | Records() | Leave() | ReadRecords():
                self.relay.take(connection, message)

    def _hear(self, message: Publish | Close | Lost) -> None:
        """Take what a worker tells all streams."""
        if self.lead is not None and self.followed is not None:
            self._take_entries(self.followed, self.lead.append(items_of(message)))
            self.followed.moments.note(self.log.last)
            self._inline.send()
            return
        if self.followed is not None:
            self.tally.counts["refused_events"] += 1
            self.tally.warn(
                "worker",
                "A worker publishes to this hub, which follows %s: what it says was refused. Give"
                " all processes of the application the same SIDEARM_BROKER and SIDEARM_SOCKET.",
                without_password(self._config.broker),
            )
            return
        match message:
            case Publish():
                self._publish(message)
            case Close():
                self.streams.close(message)
                self._inline.close(message)
            case Lost():
                self._lose(message.channels)

    def _welcome(self) -> Welcome:
        log = self.log.clock
        clock = log if self.followed is None else self.followed.moments.clock
        return Welcome(
            VERSION,
            clock.epoch,
            clock.offset,
            self._config.max_event_size,
            os.getpid(),
            records=True,
            events=True,
            log="" if self.followed is None else log.epoch,
            hubs=self._config.hubs,
        )

    def _located(self, message: T) -> T:
        """A stream's opening with a position in the log, where its worker cannot know one."""
        if self.followed is None:
            return message
        place = self.followed.located(message.position)
        return message if place == message.position else replace(message, position=place)

    def _look_up(
        self, question: Fetch | Stats | ListChannels | Locate
    ) -> Fetched | Figures | Channels | Located:
        match question:
            case Fetch():
                return self._fetch(self._located(question))
            case Locate():
                log, place = self.followed, question.position
                return Located(place if log is None else log.located(place) or "")
            case Stats():
                return self.figures()
            case ListChannels():
                return self._list_channels(question.count)

    def _fetch(self, question: Fetch) -> Fetched:
        if self.followed is not None and self.followed.is_ahead(question.last_event_id):
            # It keeps its id, and comes back with it: by then this hub has followed.
            wait = b"" if question.retry is None else eventstream.retry_field(question.retry)
            return Fetched(wait, self.log.last)
        start = self._admission.all_due(question)
        left = () if start.ended else start.channels
        # The position that the body ends with is the newest that was told to anybody.
        return Fetched(b"".join(start.parts), self.log.last, left, self.log.ended(left))

    def _list_channels(self, count: int) -> Channels:
        wanted = max(0, min(count, MAX_LISTED))
        subscribers = self._subscribers
        return Channels(subscribers.largest_channels(wanted), subscribers.channel_count)

    def _publish(self, message: Publish) -> None:
        ends = frozenset(message.ends)
        for number, (channel, body, keep) in enumerate(message.events):
            frame = b""
            if self._is_sound(channel, body):
                self.tally.counts["published"] += 1
                frame = self.log.append(channel, body, keep)
                self.fanout.queue(channel, frame)
            if number in ends:
                self.streams.end(channel)
            self._inline.add((channel, frame, self.log.last if keep else 0, number in ends))
        self._inline.send()

    def _is_sound(self, channel: str, body: bytes) -> bool:
        """Refuse what a worker of ours would not have sent, and what would end another's frame."""
        limit = self._config.max_event_size
        if len(body) <= limit and body.endswith(b"\n") and 0 < len(channel) <= MAX_CHANNEL_LENGTH:
            return True
        self.tally.counts["refused_events"] += 1
        self.tally.warn(
            "event",
            "An event of %d bytes for channel %.200r was refused: SIDEARM_MAX_EVENT_SIZE is %d.",
            len(body),
            channel,
            limit,
        )
        return False

    def _lose(self, channels: tuple[str, ...]) -> None:
        """A worker gave events up: say so to those who listen, and to those who resume."""
        self.log.lose(channels)
        self._tell_loss(channels)

    def _tell_loss(self, channels: tuple[str, ...]) -> None:
        frame = opening.gap("lost", self.log.clock.text(self.log.last))
        self.tally.counts["gaps"] += self.fanout.queue_once(channels, frame)
        self._inline.gap(channels, frame, self.log.last)

    # A broker's log

    def follow(self, entries: Sequence[Entry]) -> None:
        """Take what has happened in the broker's log, in its order."""
        log = self.followed
        if log is None or self.was_replaced:
            return
        self._take_entries(log, entries)
        log.moments.note(log.last)
        self._inline.send()
        self.fanout.flush()
        self._admission.admit()

    def begin_again(self, head: LogHead, floor: int, entries: Sequence[Entry]) -> None:
        """Follow another log than before, or one of which something was missed.

        Args:
            head: What it is.
            floor: The position of the newest entry that is gone.
            entries: All that is left of it. Nobody is sent what happened in it before.
        """
        log = self.followed
        if log is None or self.was_replaced:
            return
        self.fanout.flush()
        log.begin_again(head.epoch, floor, head.offset)
        for entry in entries:
            self._remember(log, entry)
        log.moments.begin_again(log.last)
        # They know the old log's epoch by their greeting.
        self._inline.part()
        frame = opening.gap("lost", log.clock.text(log.last))
        self.tally.counts["gaps"] += self.fanout.queue_once((), frame)
        self.fanout.flush()
        self._admission.admit()

    def pass_on(self, messages: Sequence[tuple[str, bytes]]) -> None:
        """Send live what other programs have said, as channel and data."""
        if self.was_replaced:
            return
        for channel, data in messages:
            try:
                body = eventstream.encode_body(data, None)
            except InvalidField as error:
                self.tally.counts["refused_events"] += 1
                self.tally.warn("bridge", "What was said on channel %.200r: %s", channel, error)
                continue
            if self._is_sound(channel, body):
                frame = eventstream.frame(body, None)
                self.tally.counts["published"] += 1
                self.fanout.queue(channel, frame)
                self._inline.add((channel, frame, 0, False))
        self._inline.send()
        self.fanout.flush()

    def _remember(self, log: FollowedLog, entry: Entry) -> None:
        """Take an entry of the past."""
        match entry.item:
            case Event(channel, body, keep, end) if self._is_sound(channel, body):
                log.take(entry.position, channel, body, keep)
                if end:
                    log.end(channel)
            case Closing(tag, channels):
                log.reach_place(entry.position)
                self.streams.closings.add(tag, channels, entry.position - 1, entry.position)
            case Loss(channels):
                log.lose_at(entry.position, channels)
            case _:
                log.reach_place(entry.position)

    def _take_entries(self, log: FollowedLog, entries: Sequence[Entry]) -> None:
        for position, _, item in entries:
            match item:
                case Event(channel, body, keep, end) if self._is_sound(channel, body):
                    self.tally.counts["published"] += 1
                    frame = log.take(position, channel, body, keep)
                    self.fanout.queue(channel, frame)
                    if end:
                        self.streams.end(channel)
                    self._inline.add((channel, frame, position if keep else 0, end))
                case Closing(tag, channels):
                    log.reach_place(position)
                    self._inline.send()
                    # A view that ran after this hub had seen the closing has seen its place.
                    self.streams.close_at(tag, channels, position - 1)
                    self._inline.close(Close(tag, channels, time.monotonic_ns()))
                case Loss(channels):
                    log.lose_at(position, channels)
                    self._inline.send()
                    self._tell_loss(channels)
                case _:
                    log.reach_place(position)

    # Subscribers

    def _serve_subscriber(
        self,
        descriptor: int,
        readable: bool,  # noqa: FBT001
        writable: bool,  # noqa: FBT001
    ) -> None:
        subscriber = self._subscribers.get(descriptor)
        if subscriber is None:
            return
        if readable and not self._discard(subscriber):
            self.fanout.close(subscriber)
        elif writable:
            self.fanout.resume(subscriber)

    def _discard(self, subscriber: Subscriber) -> bool:
        """Throw away what a client sends after its request; False when it has hung up."""
        try:
            return subscriber.recv_into(self._discarded, 0, platform.DONTWAIT) > 0
        except BlockingIOError:
            return True
        except OSError:
            return False

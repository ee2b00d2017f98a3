"""The hub's process: an asyncio loop in which one poller watches everything.

Each wake-up is one round: read what the workers have sent, and append it to the log; send what
arrived to all subscribers in one pass; then open the streams that were handed over, so that what
they are told from the history and what they get live meet without a gap and without a duplicate.
The loop itself has the timers and signals, and will have the brokers, which are asyncio clients.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

from ..exceptions import HubError, ProtocolError
from . import eventstream, opening, platform, state, takeover
from .config import HubConfig
from .connection import Connection
from .fanout import Fanout
from .limits import Limits
from .listener import Listener
from .log import Log
from .messages import (
    VERSION,
    Channels,
    Close,
    Fetch,
    Fetched,
    Figures,
    Handoff,
    Hello,
    Leave,
    ListChannels,
    Lost,
    Message,
    Publish,
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
from .metrics import Metrics, open_port
from .reader import NoHub
from .relay import Relay
from .replacement import Replacement
from .streams import Streams
from .subscribers import NotAClient, Subscriber, Subscribers
from .takeover import Successor

READ_SIZE = 1 << 18  # bytes
DESCRIPTOR_RESERVE = 64  # kept free for workers and for the hub itself
OWN_DESCRIPTORS = 7  # listener, lock, spare, poller, and the loop's three
SNAPSHOT_LIMIT = 16 << 20  # bytes; beside the events of one message
AGING_INTERVAL = 1.0  # seconds
WARNING_INTERVAL = 10.0  # seconds between two warnings of one kind
DISCARD_SIZE = 1 << 16  # bytes
MAX_CHANNEL_LENGTH = 200  # characters; workers check channels thoroughly
START_PATIENCE = 10.0  # seconds
MAX_LISTED = 10_000  # channels in one answer
FANOUT_COUNTS = ("delivered", "sends", "disconnected_slow")
STREAM_COUNTS = ("ended", "closed", "aged")

logger = logging.getLogger("sidearm.hub")


class Server:
    """A hub.

    Args:
        config: What it is told at its start.
        lifeline: A descriptor at whose end the hub stops: the other end is held by a process
            without which it is of no use.
        replace: Whether to take over from the hub that runs, if one does.
        on_replace: Tells whoever started this hub to start one that replaces it (True), or that the
            one that was started is of no use any more (False).
    """

    def __init__(
        self,
        config: HubConfig,
        *,
        lifeline: int | None = None,
        replace: bool = False,
        on_replace: Callable[[bool], None] | None = None,
    ) -> None:
        self.config = config
        self._lifeline = lifeline
        self._replace = replace
        self._on_replace = on_replace
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = asyncio.Event()
        self._predecessor: int | None = None
        self._was_replaced = False

    @property
    def predecessor(self) -> int | None:
        """The process that this hub has taken over from, once it is up."""
        return self._predecessor

    @property
    def was_replaced(self) -> bool:
        """Whether another process serves by now what this hub held."""
        return self._was_replaced

    def run(self, on_up: Callable[[], None] | None = None) -> None:
        """Serve until SIGTERM, SIGINT, the end of the lifeline, or a hub that replaces this one.

        Args:
            on_up: Called when the socket is served.

        Raises:
            HubError: The socket cannot be served, or the running hub could not be replaced.
        """
        asyncio.run(self._serve(signals=True, on_up=on_up))

    def start_in_thread(self) -> None:
        """Serve in a thread of this process, without touching its signals; return when it is up.

        Raises:
            HubError: The socket cannot be served, or it does not come up in time.
        """
        up = threading.Event()
        failures: list[BaseException] = []

        def serve() -> None:
            try:
                asyncio.run(self._serve(signals=False, on_up=up.set))
            except BaseException as error:  # noqa: BLE001  # it belongs to the caller
                failures.append(error)
            finally:
                up.set()

        self._thread = threading.Thread(target=serve, name="sidearm-hub", daemon=True)
        self._thread.start()
        if not up.wait(START_PATIENCE):
            raise HubError(
                f"The hub on {self.config.socket!r} was not up after {START_PATIENCE:g} seconds.",
                self.config.socket,
            )
        if failures:
            raise failures[0]

    def stop(self) -> None:
        """Stop serving; may be called from any thread. Waits for the thread, if there is one."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(START_PATIENCE)

    async def _serve(self, *, signals: bool, on_up: Callable[[], None] | None = None) -> None:
        loop = self._loop = asyncio.get_running_loop()
        hub = self._open_hub()
        self._predecessor = hub.predecessor
        # A hub in a thread belongs to its process: another one cannot have it.
        metrics: asyncio.Server | None = None
        hub.replacement.is_possible = signals
        hub.replacement.want = self._on_replace
        try:
            loop.add_reader(hub.fileno(), self._wake, hub)
            self._beat(loop, hub)
            self._age(loop, hub)
            if hub.metrics_listener is not None:
                metrics = await Metrics(hub.figures).serve(hub.metrics_listener)
            if self._lifeline is not None:
                os.set_blocking(self._lifeline, False)
                loop.add_reader(self._lifeline, self._feel_lifeline, loop, self._lifeline)
            for number in (signal.SIGTERM, signal.SIGINT) if signals else ():
                loop.add_signal_handler(number, self._stopping.set)
            logger.info("The hub listens on %r (process %d).", self.config.socket, os.getpid())
            if on_up is not None:
                on_up()
            await self._stopping.wait()
        finally:
            if metrics is not None:
                metrics.close()
            loop.remove_reader(hub.fileno())
            if hub.was_replaced:
                hub.release()
                logger.info("The hub on %r was replaced.", self.config.socket)
            else:
                hub.close()
                logger.info("The hub on %r has stopped.", self.config.socket)

    def _open_hub(self) -> Hub:
        if self._replace:
            try:
                return take_over(self.config)
            except NoHub as error:
                logger.info("There is nothing to replace: %s", error)
        hub = Hub(self.config)
        try:
            hub.listen_for_metrics()
        except HubError:
            hub.close()
            raise
        return hub

    def _wake(self, hub: Hub) -> None:
        hub.wake()
        if hub.was_replaced:
            self._was_replaced = True
            self._stopping.set()

    def _beat(self, loop: asyncio.AbstractEventLoop, hub: Hub) -> None:
        """One timer for the heartbeats of all streams.

        A hub that has taken over begins with one: nobody knows when the last was.
        """
        if not self.config.heartbeat:
            return

        def beat() -> None:
            loop.call_later(self.config.heartbeat, beat)
            hub.heartbeat()

        loop.call_later(0 if hub.predecessor else self.config.heartbeat, beat)

    def _age(self, loop: asyncio.AbstractEventLoop, hub: Hub) -> None:
        """One timer for the maximum ages of all streams."""

        def age() -> None:
            loop.call_later(AGING_INTERVAL, age)
            hub.end_aged()

        loop.call_later(AGING_INTERVAL, age)

    def _feel_lifeline(self, loop: asyncio.AbstractEventLoop, lifeline: int) -> None:
        try:
            alive = os.read(lifeline, 1024) != b""
        except BlockingIOError:
            alive = True
        except OSError:
            alive = False
        if not alive:
            loop.remove_reader(lifeline)
            self._stopping.set()


class Hub:
    """The hub without its loop: whoever has one calls :meth:`wake` when :meth:`fileno` is readable.

    Args:
        config: What it is told at its start.
        listener: The door of a predecessor.
        log: Its log.

    Raises:
        HubError: The socket cannot be served.

    Attributes:
        replacement: Whether, and how, another process takes over.
        was_replaced: Whether another process serves what this hub holds.
        metrics_listener: Where Prometheus asks for the figures; whoever has the loop answers.
        predecessor: The process that this hub has taken over from.
    """

    def __init__(
        self, config: HubConfig, listener: Listener | None = None, log: Log | None = None
    ) -> None:
        self._config = config
        self.was_replaced = False
        self.predecessor: int | None = None
        self._listener = listener or Listener(config.socket)
        self.metrics_listener: socket.socket | None = None
        self._learn_limit()
        self._spare: int | None = _open_spare()
        self._spare_was_lost = False
        self._poller = platform.Poller()
        self._poller.watch(self._listener.fileno())
        self._log = log or Log(config)
        self._subscribers = Subscribers()
        self._fanout = Fanout(
            self._subscribers, self._poller, config.subscriber_buffer, config.waiting_bytes
        )
        self._streams = Streams(self._log, self._subscribers, self._fanout)
        self._limits = Limits(config)
        self._connections: dict[int, Connection] = {}
        self._relay = Relay(self._answer)
        self._arriving: list[tuple[Handoff, Subscriber]] = []
        self.replacement = Replacement(self._answer)
        self._message_limit = 4 * config.max_event_size + SNAPSHOT_LIMIT
        self._read_buffer = memoryview(bytearray(READ_SIZE))
        self._discarded = bytearray(DISCARD_SIZE)
        self._began = time.monotonic()
        self._warned: dict[str, float] = {}
        self._counts = dict.fromkeys(
            (
                "opened",
                "published",
                "refused_streams",
                "refused_descriptors",
                "lost_descriptors",
                "refused_events",
                "refused_connections",
                "gaps",
                "takeovers",
            ),
            0,
        )

    def fileno(self) -> int:
        """The descriptor that is readable when there is something to do."""
        return self._poller.fileno()

    def wake(self) -> None:
        """Do what there is to do: one round."""
        if self.was_replaced:
            return
        if self._spare is None:
            self._accept_again()
        for descriptor, readable, writable in self._poller.ready():
            if descriptor in self._connections:
                self._serve_connection(self._connections[descriptor], readable, writable)
            elif descriptor == self._listener.fileno():
                self._accept()
            else:
                self._serve_subscriber(descriptor, readable, writable)
        self._fanout.flush()
        self._open_arriving()
        if self.replacement.successor is not None:
            self._hand_over(self.replacement.successor)

    def heartbeat(self) -> None:
        """Tell every quiet stream that it is alive, and where it would go on from."""
        if self.was_replaced:
            return
        self._fanout.flush()
        place = self._log.clock.text(self._log.mark())
        self._fanout.heartbeat(eventstream.comment() + eventstream.frame(b"", place))

    def end_aged(self) -> None:
        """End the streams that have reached their maximum age."""
        if self.was_replaced:
            return
        self._streams.end_aged(time.monotonic())

    def figures(self) -> Figures:
        """What there is, and what there was so far."""
        fanout = self._fanout
        return Figures(
            epoch=self._log.clock.epoch,
            pid=os.getpid(),
            uptime=time.monotonic() - self._began,
            subscribers=len(self._subscribers),
            channels=self._subscribers.channel_count,
            connections=len(self._connections),
            descriptors=self._descriptor_count(),
            descriptor_limit=self._limit,
            history_events=len(self._log),
            history_bytes=self._log.size,
            pending_bytes=self._subscribers.waiting_bytes,
            delivered=fanout.delivered,
            sends=fanout.sends,
            disconnected_slow=fanout.disconnected_slow,
            ended=self._streams.ended,
            closed=self._streams.closed,
            aged=self._streams.aged,
            buffer_bytes=fanout.buffers.size,
            failed_takeovers=self.replacement.failed,
            **self._counts,
        )

    def _descriptor_count(self) -> int:
        return len(self._subscribers) + len(self._connections) + OWN_DESCRIPTORS

    def release(self) -> None:
        """Give every descriptor back, and end nothing: another process serves."""
        self._listener.release()
        for connection in self._connections.values():
            connection.release()
        for subscriber in self._subscribers.all():
            subscriber.close()
        self._close_own()

    def close(self) -> None:
        """Take what has already arrived, then end everything."""
        self.replacement.is_possible = False
        try:
            self.wake()
        finally:
            self._listener.close()
        for connection in list(self._connections.values()):
            self._drop_connection(connection)
        for subscriber in self._subscribers.all():
            self._fanout.close(subscriber)
        self._close_own()

    def _close_own(self) -> None:
        self._poller.close()
        if self._spare is not None:
            os.close(self._spare)

    # Replacement

    def restore(self, collected: state.Collected, outline: state.Outline) -> None:
        """Take in what a predecessor held, without reading or sending anything."""
        self._began = outline.began
        counts = dict(outline.counts)
        fanout = self._fanout
        for name in FANOUT_COUNTS:
            setattr(fanout, name, counts.pop(name, 0))
        for name in STREAM_COUNTS:
            setattr(self._streams, name, counts.pop(name, 0))
        self._counts.update((name, counts[name]) for name in self._counts.keys() & counts.keys())
        self._counts["takeovers"] += 1
        self.replacement.failed = counts.get("failed_takeovers", 0)
        connections = []
        for worker in collected.workers:
            connection = Connection.restore(worker, self._read_buffer, self._message_limit)
            self._connections[connection.fileno()] = connection
            self._poller.watch(connection.fileno())
            if connection.unread:
                self._poller.watch_writing(connection.fileno(), wanted=True)
            connections.append(connection)
        self._relay.restore(outline.relay, connections)
        self._streams.closings.restore(collected.closings)
        for client in collected.clients:
            subscriber = Subscriber.restore(client)
            fanout.restore(subscriber, client.state.channels)
            self._streams.watch_age(subscriber)

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

    def sign(self) -> None:
        """Write down that this process serves the socket."""
        self._listener.sign()

    def _state(self, token: takeover.Token) -> Iterator[tuple[state.AnyPiece, list[int]]]:
        connections = list(self._connections.values())
        counts = {name: getattr(self._fanout, name) for name in FANOUT_COUNTS}
        counts |= {name: getattr(self._streams, name) for name in STREAM_COUNTS}
        counts |= self._counts
        counts["failed_takeovers"] = self.replacement.failed
        outline = state.Outline(
            state.STATE_VERSION,
            os.getpid(),
            self._began,
            self._log.state(),
            self._relay.state(connections),
            counts,
            self.metrics_listener is not None,
        )
        descriptors = [self._listener.fileno(), self._listener.lock, token.fileno()]
        if self.metrics_listener is not None:
            descriptors.append(self.metrics_listener.fileno())
        return state.pieces(
            outline,
            descriptors,
            self._log.kept(),
            (connection.state() for connection in connections),
            (subscriber.state() for subscriber in self._fanout.subscribers()),
            closings=self._streams.closings.state(),
        )

    def _hand_over(self, connection: Connection) -> None:
        """Let the successor have everything; go on with everything if that fails."""
        self._poller.forget(connection.fileno())
        del self._connections[connection.fileno()]
        self.was_replaced = self.replacement.hand_over(connection, self._state)

    # Workers

    def _accept(self) -> None:
        while True:
            try:
                accepted = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                if self._turn_away():
                    continue
                return
            uid = platform.peer_uid(accepted)
            if uid not in (None, 0, platform.effective_uid()):
                self._counts["refused_connections"] += 1
                self._warn("user", "A connection of user %d was refused.", uid)
                accepted.close()
                continue
            connection = Connection(accepted, self._read_buffer, self._message_limit)
            self._connections[connection.fileno()] = connection
            self._poller.watch(connection.fileno())

    def _turn_away(self) -> bool:
        """Accept and close one connection where no descriptor is left, lest the loop spin on it.

        Returns:
            Whether there may be more: ``accept`` reports the full table also where nobody waits.
        """
        if self._spare is None:
            return False
        os.close(self._spare)
        self._spare = None
        try:
            self._listener.accept().close()
        except OSError:
            return False
        finally:
            self._accept_again()
        self._counts["refused_connections"] += 1
        self._warn(
            "accept", "A worker was turned away: all %d descriptors are in use.", self._limit
        )
        return True

    def _accept_again(self) -> None:
        """Take a spare descriptor back; without one, nobody is let in until the next round."""
        paused = self._spare_was_lost
        try:
            self._spare = _open_spare()
        except OSError:
            self._spare_was_lost = True
            if not paused:
                self._poller.forget(self._listener.fileno())
            return
        self._spare_was_lost = False
        if paused:
            self._poller.watch(self._listener.fileno())

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
                for message, descriptor in connection.read():
                    self._take(connection, message, descriptor)
        except EOFError:
            self._drop_connection(connection)
        except ProtocolError as error:
            self._refuse(connection, str(error))
        except Exception as error:
            logger.exception("A worker's message could not be handled.")
            self._refuse(connection, f"The hub failed: {error!r}.")
        if connection.lost_descriptors:
            self._counts["lost_descriptors"] += connection.lost_descriptors
            connection.lost_descriptors = 0
            self._learn_limit()
            self._warn(
                "lost",
                "A client was lost on its way, and comes back: all %d descriptors are in use.",
                self._limit,
            )

    def _refuse(self, connection: Connection, reason: str) -> None:
        self._counts["refused_connections"] += 1
        logger.warning("A connection (%s) was closed: %s", connection.role or "stranger", reason)
        try:
            connection.answer(Refused(reason))
        except (ProtocolError, OSError) as error:
            logger.debug("It could not be told: %s", error)
        self._drop_connection(connection)

    def _drop_connection(self, connection: Connection) -> None:
        self._poller.forget(connection.fileno())
        del self._connections[connection.fileno()]
        connection.close()
        self._relay.forget(connection)
        self.replacement.forget(connection)

    def _answer(self, connection: Connection, message: Message) -> None:
        if not connection.answer(message):
            self._poller.watch_writing(connection.fileno(), wanted=True)

    def _take(self, connection: Connection, message: ToHub, descriptor: int | None) -> None:
        match message:
            case Publish():
                self._publish(message)
            case Handoff():
                self._receive(message, descriptor)
            case Fetch() | Stats() | ListChannels():
                self._answer(connection, self._look_up(message))
            case Close():
                self._streams.close(message)
            case Lost():
                self._lose(message.channels)
            case Replace() | TakeOver():
                self.replacement.take(connection, message, self._descriptor_count())
            case Hello():
                self._answer(connection, self._welcome())
            case Report() | Records() | Leave() | ReadRecords():
                self._relay.take(connection, message)

    def _welcome(self) -> Welcome:
        clock = self._log.clock
        return Welcome(
            VERSION,
            clock.epoch,
            clock.offset,
            self._config.max_event_size,
            os.getpid(),
            records=True,
        )

    def _look_up(self, question: Fetch | Stats | ListChannels) -> Fetched | Figures | Channels:
        match question:
            case Fetch():
                return Fetched(self._fetch(question))
            case Stats():
                return self.figures()
            case ListChannels():
                return self._list_channels(question.count)

    def _list_channels(self, count: int) -> Channels:
        wanted = max(0, min(count, MAX_LISTED))
        subscribers = self._subscribers
        return Channels(subscribers.largest_channels(wanted), subscribers.channel_count)

    def _publish(self, message: Publish) -> None:
        ends = frozenset(message.ends)
        for number, (channel, body, keep) in enumerate(message.events):
            if self._is_sound(channel, body):
                self._counts["published"] += 1
                self._fanout.queue(channel, self._log.append(channel, body, keep))
            if number in ends:
                self._streams.end(channel)

    def _is_sound(self, channel: str, body: bytes) -> bool:
        """Refuse what a worker of ours would not have sent, and what would end another's frame."""
        limit = self._config.max_event_size
        if len(body) <= limit and body.endswith(b"\n") and 0 < len(channel) <= MAX_CHANNEL_LENGTH:
            return True
        self._counts["refused_events"] += 1
        self._warn(
            "event",
            "An event of %d bytes for channel %.200r was refused: SIDEARM_MAX_EVENT_SIZE is %d.",
            len(body),
            channel,
            limit,
        )
        return False

    def _lose(self, channels: tuple[str, ...]) -> None:
        """A worker gave events up: say so to those who listen, and to those who resume."""
        place = self._log.clock.text(self._log.lose(channels))
        self._counts["gaps"] += self._fanout.queue_once(channels, opening.gap("lost", place))

    def _fetch(self, message: Fetch) -> bytes:
        return b"".join(self._all_due(message).parts)

    def _all_due(self, message: Fetch | Handoff) -> opening.Start:
        return self._count_gap(opening.all_due(self._log, self._streams.closings, message))

    # Subscribers

    def _receive(self, message: Handoff, descriptor: int | None) -> None:
        """Take a client's socket; its stream is opened at the end of the round."""
        if descriptor is None:
            return
        try:
            subscriber = Subscriber.adopt(descriptor)
        except NotAClient as error:
            self._counts["refused_descriptors"] += 1
            self._warn("descriptor", "A descriptor was refused: %s", error)
            return
        if subscriber.fileno() >= self._ceiling:
            self._learn_limit()
        if subscriber.fileno() >= self._ceiling:
            # At once: a round may bring more than the reserve.
            reserve = self._limit - self._ceiling
            self._warn("full", "A stream was refused: only %d descriptors are left.", reserve)
            self._refuse_stream(subscriber, message)
            return
        self._arriving.append((message, subscriber))

    def _open_arriving(self) -> None:
        arriving = self._arriving
        if not arriving:
            return
        self._arriving = []
        for message, subscriber in arriving:
            try:
                if self._has_room_for(message, subscriber):
                    self._open(message, subscriber)
                else:
                    self._refuse_stream(subscriber, message)
            except OSError as error:
                logger.debug("A client had gone before its stream began: %s", error)
                subscriber.hang_up()

    def _open(self, message: Handoff, subscriber: Subscriber) -> None:
        if subscriber.family != platform.AF_UNIX:
            probe = not self._config.heartbeat
            platform.tune_client(subscriber, self._config.peer_timeout, probe=probe)
        self._counts["opened"] += 1
        self._count_gap(self._streams.open(subscriber, message))

    def _has_room_for(self, message: Handoff, subscriber: Subscriber) -> bool:
        """Count the stream's address, and see whether there are too many."""
        key = subscriber.address = self._limits.key_of(message.address)
        of_address = self._subscribers.count_of(key)
        limit = self._limits.reached(len(self._subscribers), of_address)
        if limit is None:
            return True
        self._warn(
            limit,
            "A stream of %r was refused, and is polled: %d are open, %d of its address, and %s is"
            " reached. If this is a proxy's address, let the application use ProxyFix.",
            message.address,
            len(self._subscribers),
            of_address,
            limit,
        )
        return False

    def _refuse_stream(self, subscriber: Subscriber, message: Handoff) -> None:
        """Answer a stream like a poll: what is due, when to come back, the end.

        Any status but 200 would end a plain ``EventSource`` for good. What its kernel buffer does
        not take is not sent: the client comes back from the last whole event.
        """
        self._counts["refused_streams"] += 1
        try:
            subscriber.send(b"".join(self._all_due(message).parts), platform.DONTWAIT)
        except OSError as error:
            logger.debug("The client had gone already: %s", error)
        subscriber.drain()
        subscriber.hang_up()

    def _learn_limit(self) -> None:
        """See how many descriptors there may be; somebody may change it (prlimit)."""
        self._limit = platform.raise_descriptor_limit()
        # Descriptors are given out from the lowest free one, so a number tells how full it is.
        self._ceiling = self._limit - min(DESCRIPTOR_RESERVE, self._limit // 4)

    def _count_gap(self, start: opening.Start) -> opening.Start:
        self._counts["gaps"] += start.gap is not None
        return start

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
            self._fanout.close(subscriber)
        elif writable:
            self._fanout.resume(subscriber)

    def _discard(self, subscriber: Subscriber) -> bool:
        """Throw away what a client sends after its request; False when it has hung up."""
        try:
            return subscriber.recv_into(self._discarded, 0, platform.DONTWAIT) > 0
        except BlockingIOError:
            return True
        except OSError:
            return False

    def _warn(self, kind: str, text: str, *values: object) -> None:
        """Log a warning, unless one of its kind was just logged: the figures count them all."""
        now = time.monotonic()
        if now - self._warned.get(kind, -WARNING_INTERVAL) >= WARNING_INTERVAL:
            self._warned[kind] = now
            logger.warning(text, *values)


def take_over(config: HubConfig) -> Hub:
    """Take over from the hub that runs: :mod:`~sidearm.hub.takeover` tells how.

    Raises:
        NoHub: None runs.
        HubError: It could not be replaced, and goes on.
    """
    successor = Successor(config.socket, platform.raise_descriptor_limit())
    collected = successor.collect()
    outline = collected.outline
    assert outline is not None  # noqa: S101  # it is whole
    listener, lock, token, *metrics = collected.descriptors
    right = takeover.Token(token)
    try:
        hub = Hub(
            config,
            Listener.inherit(config.socket, listener, lock),
            Log.restore(config, outline.log, collected.history),
        )
        hub.restore(collected, outline)
        hub.listen_for_metrics(socket.socket(fileno=metrics[0]) if metrics else None)
    except Exception as error:
        successor.give_up(f"the new hub failed: {error!r}")
        raise
    if not right.take():
        raise takeover.NotReplaceable(
            f"The hub on {config.socket!r} was not replaced: this process was too slow for it.",
            config.socket,
        )
    right.close()
    hub.predecessor = successor.old_pid
    hub.sign()
    successor.tell_serving()
    logger.info(
        "This hub has taken over from process %d: %d streams.",
        successor.old_pid,
        len(collected.clients),
    )
    return hub


def _open_spare() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

"""Random programs of clients and hubs, real ones, against an oracle (contracts E3, E4, E7, H4-H6).

A program publishes, kept or live only; opens streams as newcomers, from a page's position, from the
client's last id or from an id of any other kind; leaves; reads nothing until it is cut; ends
channels, closes tags, loses events; kills the hub, and replaces it by one with other limits.

The oracle is small. A *witness* listens to everything, and its record is checked against what was
published: from it each event's place is known. Then, for every other stream:

- without the gap event first, it gets every event of its channels after the place that it came
  from, each once and in order: so what history has lost cannot be passed over in silence;
- with the gap event, the same holds from the place that the gap tells;
- the gap comes only if the id is of no use, or if something may have been lost after it;
- it ends only when something ended it, and what ended for good has the mark of it.

``HUB_PROGRAMS`` in the environment is how many programs each test runs.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hub_streams import PATIENCE, Stream, figures_of, wait_for, wait_for_hub
from hub_succession import Succession
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from sidearm.hub.client import HubClient
from sidearm.hub.eventstream import Event, encode_body
from sidearm.hub.link import Link
from sidearm.hub.log import ENTRY_OVERHEAD
from sidearm.hub.messages import Lost, encode
from sidearm.hub.position import is_end, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROGRAMS = int(os.environ.get("HUB_PROGRAMS", "4"))
CHANNELS = ("a", "b", "c")
TAGS = ("user:1", "user:2")
ID_SIZE = len(b"id: 0123456789-0123456789abcdef\n")
BUFFER = 40_000  # bytes that may wait for one client
BRIEF = 0.05  # seconds
NANOSECONDS = 1_000_000_000  # in a second

Step = tuple[Any, ...]


class Limits(NamedTuple):
    """What a hub keeps: events of each channel, bytes in all, seconds."""

    count: int = 1000
    bytes: int = 8 << 20
    age: float = 300.0

    def settings(self) -> dict[str, Any]:
        """What the hub is told."""
        return {
            "heartbeat": 0,  # it would move ids that the oracle knows
            "subscriber_buffer": BUFFER,
            "history_count": self.count,
            "history_bytes": self.bytes,
            "history_age": self.age,
        }


LONG, FEW, SMALL, SHORT = Limits(), Limits(count=2), Limits(bytes=3000), Limits(age=BRIEF)


# -- programs

channels_of_one = st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=3, unique=True)
clients = st.integers(0, 9)
batches = st.lists(
    st.tuples(st.sampled_from(CHANNELS), st.sampled_from([True, True, False])),
    min_size=1,
    max_size=5,
)
tags = st.sampled_from([(), (), *[(tag,) for tag in TAGS], TAGS])
some_limits = st.sampled_from([LONG, FEW, SMALL, SHORT])
ids = st.sampled_from(["last", "last", "last", "last", "replay 60", "replay 0", "17", "ancient"])

step = st.one_of(
    st.tuples(st.just("publish"), batches),
    st.tuples(st.just("publish"), batches),
    st.tuples(st.just("join"), channels_of_one, tags, st.booleans()),
    st.tuples(st.just("join with history"), channels_of_one),
    st.tuples(st.just("render a page")),
    st.tuples(st.just("join from the page"), channels_of_one, tags),
    st.tuples(st.just("join while they fall"), channels_of_one, batches),
    st.tuples(st.just("join by a view from before the kill"), channels_of_one),
    st.tuples(st.just("leave"), clients),
    st.tuples(st.just("leave"), clients),
    st.tuples(st.just("return"), clients, ids),
    st.tuples(st.just("return"), clients, ids),
    st.tuples(st.just("return"), clients, ids),
    st.tuples(st.just("stop reading"), st.sampled_from(CHANNELS), st.booleans()),
    st.tuples(st.just("read again")),
    st.tuples(st.just("end"), st.sampled_from(CHANNELS)),
    st.tuples(st.just("close"), st.sampled_from(TAGS), st.lists(st.sampled_from(CHANNELS))),
    st.tuples(st.just("lose"), st.lists(st.sampled_from(CHANNELS), max_size=2, unique=True)),
    st.tuples(st.just("close while a view runs"), channels_of_one, channels_of_one),
    st.tuples(st.just("kill"), st.integers(0, 2)),
    st.tuples(st.just("replace"), some_limits, batches),
    st.tuples(st.just("replace while one is away"), some_limits, clients, batches),
    st.tuples(st.just("replace while one reads nothing"), some_limits),
)
programs = st.lists(step, min_size=8, max_size=20)


# -- the hubs


class Hubs:
    """One hub after the other on one socket, and a worker's end of it."""

    def __init__(self, folder: str, limits: Limits) -> None:
        self.limits = self.usual = limits
        self.succession = Succession(folder, **limits.settings())
        self.path = self.succession.path
        self.worker = HubClient(self.path)
        self.epoch = figures_of(self.path).epoch
        wait_for_hub(self.worker)

    def start_replacement(self, limits: Limits) -> None:
        self.limits = limits
        self.succession.start_replacement(**limits.settings())

    def replace(self, limits: Limits) -> None:
        self.start_replacement(limits)
        self.succession.wait_until_replaced()

    def start_anew(self) -> None:
        self.limits = self.usual
        self.succession.start_anew()
        self.epoch = figures_of(self.path).epoch
        deadline = time.monotonic() + PATIENCE
        while (parse(self.worker.position() or "") or (None,))[0] != self.epoch:
            assert time.monotonic() < deadline, "The worker does not find the new hub."
            time.sleep(0.01)

    def close(self) -> None:
        self.worker.close(flush_seconds=0)
        self.succession.close()


# -- what was published


class Published:
    """An event, or a loss that was told; in the order of the log."""

    def __init__(self, channels: Sequence[str], text: str, *, kept: bool, size: int = 0) -> None:
        self.channels = frozenset(channels)
        self.text = text
        self.is_kept = kept
        self.size = size
        self.place = 0  # once the witness has seen it
        self.id = ""
        self.may_be_lost = False
        self.is_last = False


LOSS = "lost"  # the text of a loss


class Log:
    """All that was published in one epoch."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.events: list[Published] = []
        self.ended: set[str] = set()
        self.global_floor = 0

    def add(self, event: Published, limits: Limits) -> None:
        self.events.append(event)
        if event.text == LOSS:
            return
        self.ended -= event.channels
        self.forget(limits)

    def forget(self, limits: Limits) -> None:
        """Note what may be lost, under these limits."""
        kept = [each for each in self.events if each.is_kept and not each.may_be_lost]
        if limits.age == BRIEF:
            for each in kept:
                each.may_be_lost = True
            return
        for channel in CHANNELS:
            of_channel = [each for each in kept if channel in each.channels]
            for each in of_channel[: max(0, len(of_channel) - limits.count)]:
                each.may_be_lost = True
        kept = [each for each in kept if not each.may_be_lost]
        while sum(each.size for each in kept) > limits.bytes:
            kept.pop(0).may_be_lost = True

    def was_told_a_loss(self, channels: frozenset[str], place: int) -> bool:
        """Whether a worker has given up an event after a place."""
        return any(
            each.text == LOSS and each.place > place and (each.channels or channels) & channels
            for each in self.events
        )

    def may_have_lost(self, channels: frozenset[str], place: int) -> bool:
        """Whether something after a place may not be told any more."""
        return place < self.global_floor or any(
            each.place > place and (each.text == LOSS or each.may_be_lost)
            for each in self.events
            if (each.channels or channels) & channels
        )


# -- clients


class Connection:
    """One connection of a client, and what it must get.

    Attributes:
        log: Of the hub that it was handed to.
        place: After which events are due.
        since: How many events there were when it was open: earlier live ones are not due.
    """

    def __init__(
        self, world: World, channels: Sequence[str], *, small: bool = False, **fields: Any
    ) -> None:
        self.world = world
        self.log = world.log
        self.channels = frozenset(channels)
        self.tags = fields.get("tags", ())
        self.until: dict[str, int] = {}  # of channels that were taken from it
        self.may_end = False
        self.is_slow = small
        self.limits = world.hubs.limits
        before = figures_of(world.hubs.path)
        names = [world.name(channel) for channel in channels]
        self.position = fields.setdefault("position", wait_for_hub(world.hubs.worker))
        self.told = fields.get("last_event_id")
        self.replay = fields.get("replay")
        began = self.now()
        self.stream = Stream(world.hubs.worker, *names, small=small, **fields)
        figures = wait_for(world.hubs.path, lambda figures: figures.opened > before.opened)
        self.window = (began, self.now())  # in which the hub opened it
        self.has_gap = figures.gaps > before.gaps
        self.since = len(self.log.events)
        self.past: list[Published] = []
        self.received: list[Event] = []
        self.has_ended = False
        self.is_checked = False

    @staticmethod
    def now() -> int:
        return time.monotonic_ns()

    def settle_beginning(self) -> None:
        """Once every place is known: was it to begin with the gap, and what follows?"""
        if self.is_checked:
            return
        self.is_checked = True
        seen = parse(self.position)
        assert seen is not None
        view = seen.time if seen.epoch == self.log.epoch else 0
        reason, may_be_gap = self._expect_gap(view)
        note(f"{self}: reason {reason}, may be {may_be_gap}, is {self.has_gap}")
        if reason:
            assert self.has_gap, f"{self} was to begin with the gap ({reason}), and did not."
        if self.has_gap:
            [gap] = self._take(1)
            assert gap.event == "sidearm:gap"
            told = json.loads(gap.data)
            # Whoever is cut off before what only a newcomer gets is to come back as it came.
            assert gap.id in (self.told or "", told["position"])
            assert reason or may_be_gap, f"{self} got a false gap: {told}"
            assert told["reason"] == (reason or "old")
            place = parse(told["position"])
            assert place is not None
            assert place.epoch == self.log.epoch
            assert place.time >= view
            self.place = place.time
        elif self.told is not None:
            self.place = _time_of(self.told)
        else:
            self.place = view
            place_frame = f"id: {self.position}\n\n".encode()
            # Behind what only a newcomer gets; but one that was closed before it began has none.
            words = place_frame if self.left else b"\n\n"
            self.stream.read_until(lambda stream: words in stream.raw)
        if self.told is None or self.has_gap:
            self.past = self._past()

    def _expect_gap(self, view: int) -> tuple[str | None, bool]:
        """Why there must be a gap, and whether there may be one."""
        began, opened = (moment + self.world.offset for moment in self.window)
        age = self.limits.age * NANOSECONDS
        told = None if self.told is None else parse(self.told)
        # A newcomer's view may have looked too long ago.
        may_be = view < opened - age or self.log.may_have_lost(self.channels, view)
        if self.told is None:
            return ("epoch", True) if not view else (None, may_be)
        if told is None:
            return "unknown", True
        if told.epoch != self.log.epoch:
            return "epoch", True
        reach = age if self.replay is None else min(age, self.replay * NANOSECONDS)
        if told.time < began - reach or self.log.was_told_a_loss(self.channels, told.time):
            return "old", True
        lost = self.log.may_have_lost(self.channels, told.time)
        return None, told.time < opened - reach or lost

    def _past(self) -> list[Published]:
        """What a newcomer gets from before its place: last events, and what it asks to hear."""
        asked = self.replay is not None and not self.has_gap
        return [
            each
            for each in self.log.events[: self.since]
            if each.is_kept
            and each.channels & self.left
            and each.place <= self.place
            and (asked or (each.is_last and each.channels <= self.log.ended))
        ]

    def expected(self) -> list[Published]:
        """What it must have got by now; some of the past may be lost already."""
        live = [
            each
            for index, each in enumerate(self.log.events)
            if ((each.channels or self.channels) & self._channels_at(index))
            and (each.place > self.place if each.is_kept else index >= self.since)
        ]
        return [*self.past, *live]

    def _channels_at(self, index: int) -> set[str]:
        return {each for each in self.channels if index < self.until.get(each, sys.maxsize)}

    @property
    def left(self) -> set[str]:
        """The channels that were not taken from it."""
        return {each for each in self.channels if each not in self.until}

    def _take(self, count: int) -> list[Event]:
        events = self.stream.events(count)
        self.received += events
        return events

    def read(self) -> None:
        """Read what is due, and compare."""
        self.settle_beginning()
        expected = self.expected()
        skipped = 0
        deadline = time.monotonic() + PATIENCE
        while not self.has_ended:
            self.received += self.stream.pending_events()
            skipped = self._compare(expected)
            got = len(self.received) - self.has_gap + skipped
            if got >= len(expected) and not self.must_end and self.log is self.world.log:
                break
            assert time.monotonic() < deadline, f"{self} waits for {expected[got:]}"
            self.has_ended = not self.stream.read()
        if self.has_ended:
            self.received += self.stream.pending_events()
            assert self.may_end, f"{self} ended, and nothing ended it: {self.stream.raw[-300:]!r}"
            self._compare(expected)
        if self.must_end:
            assert self.is_finished, (
                f"{self} ended, and not for good: {self.last_event_id}, {self.until}"
            )
            got = len(self.received) - self.has_gap + self._compare(expected)
            assert got == len(expected), f"{self} ended before {expected[got:]}"

    def _compare(self, expected: list[Published]) -> int:
        """Compare what came with the beginning of what is due; how many of the past are lost."""
        received = self.received[self.has_gap :]
        skipped = 0
        for number, event in enumerate(received):
            while (
                number + skipped < len(self.past)
                and self.past[number + skipped].may_be_lost
                and self.past[number + skipped].text != event.data
            ):
                skipped += 1
            assert number + skipped < len(expected), f"{self} got too much: {event}"
            each = expected[number + skipped]
            if each.text == LOSS:
                assert event.event == "sidearm:gap"
                assert json.loads(event.data) == {"reason": "lost", "position": event.id}
            else:
                assert (event.event, event.data) == ("message", each.text), f"{self} got {event}"
            if each.id:
                assert event.id == each.id
        while len(received) + skipped < len(self.past) and all(
            each.may_be_lost for each in self.past[len(received) + skipped :]
        ):
            skipped += 1
        return skipped

    @property
    def must_end(self) -> bool:
        """Whether its channels are all over, or taken from it, while it reads."""
        if self.is_slow or self.log is not self.world.log:
            return False
        return not self.left or self.left <= self.log.ended

    @property
    def last_event_id(self) -> str:
        return self.stream.parser.last_event_id

    @property
    def is_finished(self) -> bool:
        """Whether it has been told to stop for good."""
        # The mark is that of the channels which it had in the end; a view that no longer offers
        # the others knows it.
        names = [self.world.name(channel) for channel in self.channels]
        return any(
            is_end(self.last_event_id, some)
            for count in range(1, len(names) + 1)
            for some in itertools.combinations(names, count)
        )

    def close(self) -> None:
        self.stream.close()

    def __repr__(self) -> str:
        kind = "newcomer" if self.told is None else f"client with {self.told}"
        return f"<{kind} of {sorted(self.channels)}, view at {self.position}>"


class Client:
    """A client over all of its connections."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.is_there = True
        self.is_reading = True


# -- running them


class World:
    """One program on real hubs; its channels are its own."""

    counter = 0

    def __init__(self, hubs: Hubs) -> None:
        World.counter += 1
        self.hubs = hubs
        self.number = 0
        self.page: str | None = None
        self.former: str | None = None  # a position in the log of a hub that was killed
        self.clients: list[Client] = []
        self.prefix = f"program-{World.counter}-"
        if hubs.limits != hubs.usual:
            hubs.replace(hubs.usual)
        self.log = Log(hubs.epoch)
        self.losing = Link(hubs.path, "publish", PATIENCE)
        self.offset = self.losing.welcome.offset
        self._join_witness()
        self.join(CHANNELS)
        self.join(["a"], tags=TAGS[:1], small=True)

    def name(self, channel: str) -> str:
        return self.prefix + channel

    def _join_witness(self, **fields: Any) -> None:
        self.witness = Connection(self, CHANNELS, **fields)
        self.seen = 0  # how many events it has seen

    def do(self, step: Step) -> None:  # noqa: C901, PLR0912 - one line for each step
        match step:
            case ("publish", batch):
                self.publish(batch)
            case ("join", channels, tags, small):
                self.join(channels, tags=tags, small=small)
            case ("join with history", channels):
                self.join(channels, replay=60.0)
            case ("render a page",):
                self.page = wait_for_hub(self.hubs.worker)
            case ("join from the page", channels, tags) if self.page is not None:
                self.join(channels, tags=tags, last_event_id=self.page)
            case ("join while they fall", channels, batch):
                position = wait_for_hub(self.hubs.worker)
                self.send(batch, only_kept=True)
                since = len(self.log.events)
                self.join(channels, position=position)
                self.clients[-1].connection.since = since
            case ("join by a view from before the kill", channels) if self.former is not None:
                self.join(channels, position=self.former)
            case ("leave", number):
                self.leave(number)
            case ("return", number, kind):
                self.come_back(self._pick(number, there=False), kind)
            case ("stop reading", channel, flooded):
                self.stop_reading(channel, flooded=flooded)
            case ("read again",):
                self.read_again()
            case ("end", channel):
                self.end(channel)
            case ("close", tag, channels):
                self.close_tag(tag, channels)
            case ("lose", channels):
                self.lose(channels)
            case ("close while a view runs", channels, taken):
                self.close_while_a_view_runs(channels, taken)
            case ("kill", count):
                self.kill(count)
            case ("replace", limits, batch):
                self.replace(limits, batch)
            case ("replace while one is away", limits, number, batch):
                client = self.leave(number)
                self.publish(batch)
                self.publish(batch)
                self.replace(limits, [])
                self.come_back(client, "last")
            case ("replace while one reads nothing", limits) if "a" not in self.log.ended:
                self.replace_while_one_reads_nothing(limits)
        self.witness_all()
        self.read_all()
        assert figures_of(self.hubs.path).history_bytes <= self.hubs.limits.bytes

    # Publishing

    def publish(self, batch: Sequence[tuple[str, bool]]) -> None:
        self.send(batch)
        self.witness_all()

    def send(self, batch: Sequence[tuple[str, bool]], *, only_kept: bool = False) -> None:
        """Publish, and do not wait until the hub has it."""
        events = []
        for channel, kept in batch:
            if channel in self.log.ended:
                continue
            events.append(self._event(channel, kept=kept or only_kept))
        self.hubs.worker.publish(events)

    def _event(self, channel: str, *, kept: bool = True, size: int = 300) -> Any:
        self.number += 1
        text = f"{self.number} {'x' * size}"
        body = encode_body(text)
        size = ID_SIZE + len(body) + 1 + ENTRY_OVERHEAD if kept else 0
        self.log.add(Published([channel], text, kept=kept, size=size), self.hubs.limits)
        return self.name(channel), body, kept

    def witness_all(self) -> None:
        """Read all at the witness, and learn the places; it must get what was published."""
        self.witness.settle_beginning()
        for each in self.log.events[self.seen :]:
            [event] = self.witness._take(1)
            if each.text == LOSS:
                assert event.event == "sidearm:gap", event
                assert json.loads(event.data)["reason"] == "lost"
            else:
                assert (event.event, event.data) == ("message", each.text)
            if each.is_kept:
                place = parse(event.id)
                assert place is not None
                assert place.epoch == self.log.epoch
                assert place.time > self.newest, "places do not grow"
                each.place, each.id = place.time, event.id
            self.seen += 1

    @property
    def newest(self) -> int:
        """The place of the newest event."""
        return max((each.place for each in self.log.events), default=0)

    # Clients

    def join(self, channels: Sequence[str], **fields: Any) -> None:
        self.clients.append(Client(Connection(self, channels, **fields)))
        self._note_what_ended(self.clients[-1].connection)

    def _note_what_ended(self, connection: Connection) -> None:
        if connection.channels <= self.log.ended:
            connection.may_end = True

    def _pick(self, number: int, *, there: bool) -> Client | None:
        some = [each for each in self.clients if each.is_there == there]
        return some[number % len(some)] if some else None

    def leave(self, number: int) -> Client | None:
        client = self._pick(number, there=True)
        if client is not None:
            client.connection.close()
            client.is_there = False
        return client

    def come_back(self, client: Client | None, kind: str) -> None:
        if client is None or client.connection.is_finished:
            return  # the view would answer 204
        told, _, seconds = kind.partition(" ")
        if told == "ancient":
            told = f"{self.log.epoch}-1"
        elif told != "17":
            told = client.connection.last_event_id
        replay = float(seconds) if seconds else None
        former = client.connection
        client.connection = Connection(
            self,
            sorted(former.channels),
            small=former.is_slow,
            tags=former.tags,
            last_event_id=told,
            replay=replay,
        )
        client.is_there = True
        client.is_reading = True
        self._note_what_ended(client.connection)

    def stop_reading(self, channel: str, *, flooded: bool) -> None:
        """All with small buffers; perhaps until theirs at the hub are full, too."""
        for client in self.clients:
            if client.is_there and client.connection.is_slow:
                client.is_reading = False
        if flooded and channel not in self.log.ended:
            for _ in range(2):  # what comes in one round may all wait
                events = [self._event(channel, size=20_000) for _ in range(12)]
                self.hubs.worker.publish(events)
                self.witness_all()
            for client in self.clients:
                if not client.is_reading and channel in client.connection.left:
                    client.connection.may_end = True

    def read_again(self) -> None:
        """Those that were cut come back by their last id."""
        for client in self.clients:
            client.is_reading = True

    def read_all(self) -> None:
        for client in self.clients:
            if not client.is_there or not client.is_reading:
                continue
            client.connection.read()
            if client.connection.has_ended:  # it comes back by itself, unless it is told to stop
                client.connection.close()
                client.is_there = False
                self.come_back(client, "last")
                if client.is_there:
                    client.connection.read()

    # Ends, closings, losses

    def end(self, channel: str) -> None:
        if channel in self.log.ended:
            return
        self.hubs.worker.publish([self._event(channel)], ends=(0,))
        self.log.events[-1].is_last = True
        self.log.ended.add(channel)
        for client in self.clients:
            connection = client.connection
            if connection.log is self.log and connection.left <= self.log.ended:
                connection.may_end = True

    def close_tag(self, tag: str, channels: Sequence[str]) -> None:
        self.witness_all()
        self.hubs.worker.close_streams(tag, tuple(self.name(each) for each in channels))
        for client in self.clients:
            connection = client.connection
            if tag in connection.tags and connection.log is self.log:
                for channel in channels or connection.channels:
                    connection.until.setdefault(channel, len(self.log.events))
                if not connection.left or connection.left <= self.log.ended:
                    connection.may_end = True
        # On the same connection, and so behind it.
        open_channels = [each for each in CHANNELS if each not in self.log.ended]
        self.send([(each, True) for each in open_channels[:1]])

    def close_while_a_view_runs(self, channels: Sequence[str], taken: Sequence[str]) -> None:
        """The stream is on its way when its tag is closed, or some of its channels are taken."""
        position = wait_for_hub(self.hubs.worker)
        self.close_tag("on its way", taken if set(taken) != set(channels) else [])
        self.witness_all()
        self.join(channels, position=position, tags=("on its way",))
        connection = self.clients[-1].connection
        connection.until = dict.fromkeys(taken, 0)
        connection.may_end = connection.left <= self.log.ended

    def lose(self, channels: Sequence[str]) -> None:
        self.losing.send(encode(Lost(tuple(self.name(each) for each in channels))), PATIENCE)
        loss = Published(channels, LOSS, kept=False)
        self.log.add(loss, self.hubs.limits)
        self.witness_all()
        place = parse(self.witness.received[-1].id)
        assert place is not None
        loss.place = place.time

    # Hubs

    def kill(self, count: int) -> None:
        """A new epoch; what is published before there is a new hub waits in the worker."""
        self.losing.close()
        self.former = wait_for_hub(self.hubs.worker)
        self.hubs.succession.kill()
        for client in self.clients:
            client.connection.may_end = True
        self.log = Log("")
        self.send([("a", True)] * count)
        self.hubs.start_anew()
        self.log.epoch = self.hubs.epoch
        self.losing = Link(self.hubs.path, "publish", PATIENCE)
        self.offset = self.losing.welcome.offset
        self.witness.close()
        wait_for(self.hubs.path, lambda figures: figures.published == count)
        self._join_witness(replay=60.0)
        self.witness.since = 0

    def replace(self, limits: Limits, batch: Sequence[tuple[str, bool]]) -> None:
        """Nobody reconnects, whatever is published meanwhile."""
        before = self.hubs.limits
        self.hubs.start_replacement(limits)
        self.send(batch)
        for each in (before, limits):  # under either of them
            self.log.forget(each)
        self.hubs.succession.wait_until_replaced()
        self.witness_all()
        if before.age == BRIEF:
            # Where each channel's loss is too old to be told, one place stands for all of them.
            self.log.global_floor = self.newest
        if limits.age == BRIEF:
            self._let_everything_grow_old()

    def replace_while_one_reads_nothing(self, limits: Limits) -> None:
        """What waits for it goes over, cut at the byte; it gets all, and does not reconnect."""
        self.join(["a"], small=True)
        slow = self.clients[-1]
        slow.connection.read()
        for client in self.clients:
            if client.is_there and not client.is_reading and "a" in client.connection.left:
                client.connection.may_end = True
        self.hubs.worker.publish([self._event("a", size=20_000) for _ in range(12)])
        self.witness_all()
        assert figures_of(self.hubs.path).pending_bytes > 0
        self.replace(limits, [])

    def _let_everything_grow_old(self) -> None:
        until = self.newest - self.offset + BRIEF * NANOSECONDS
        while time.monotonic_ns() <= until:
            time.sleep(0.01)

    def finish(self) -> None:
        """Read everything to the end; one more event shows what came twice."""
        self.read_again()
        for client in self.clients:
            if not client.is_there:
                self.come_back(client, "last")
        self.read_all()
        self.publish([(channel, True) for channel in CHANNELS])
        self.witness_all()
        self.read_all()

    def close(self) -> None:
        self.losing.close()
        self.witness.close()
        for client in self.clients:
            client.connection.close()


def _time_of(text: str) -> int:
    place = parse(text)
    assert place is not None
    return place.time


@pytest.fixture
def hubs(request: pytest.FixtureRequest) -> Iterator[Hubs]:
    with TemporaryDirectory(prefix="sa-") as folder:
        hubs = Hubs(folder, request.param)
        yield hubs
        hubs.close()


@pytest.mark.timeout(100 + PROGRAMS * 100)
@pytest.mark.parametrize(
    "hubs", [LONG, FEW, SMALL], indirect=True, ids=["long history", "few events", "few bytes"]
)
@given(program=programs)
@settings(
    max_examples=PROGRAMS,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_e3_e4_e7_h4_h5_h6_each_event_once_or_the_gap_event(
    hubs: Hubs, program: list[Step]
) -> None:
    """Whatever clients and hubs do, and in whatever order."""
    note(f"The program: {program}")
    world = World(hubs)
    try:
        for each in program:
            world.do(each)
        world.finish()
    finally:
        world.close()

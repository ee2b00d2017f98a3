"""Random programs of a log, with a clock of its own, against an oracle (contracts E3, E4 and E7).

A program publishes, ends channels, loses events, lets time pass, hands the log over to a successor
with other limits, and opens streams: newcomers, clients with an id of any kind. The oracle keeps a
plain list of everything that was ever published and says, for each stream, whether it must begin
with the gap event, at which place, and which events must follow.

``PROGRAMS`` in the environment is how many programs there are.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

from hypothesis import given, note, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sidearm.hub import opening
from sidearm.hub.closing import Closings
from sidearm.hub.config import HubConfig
from sidearm.hub.eventstream import Event, Parser, encode_body
from sidearm.hub.log import ENTRY_OVERHEAD, NANOSECONDS, Log
from sidearm.hub.messages import Handoff
from sidearm.hub.position import Clock, is_end, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAMS = int(os.environ.get("PROGRAMS", "400"))
EPOCH = "0123456789"
OTHER_EPOCH = "fedcba9876"
CHANNELS = ("a", "b", "c")
AGE = 10  # seconds
NEVER = -1  # before every place
FORMER = "former"

Step = tuple[Any, ...]
Seen = int | str | None
Limits = tuple[int, int]  # events of each channel, bytes in all

# -- programs

some_channels = st.lists(st.sampled_from(CHANNELS), min_size=1, max_size=3, unique=True).map(tuple)
# A place that somebody knows: the how manyth of those that were told, from the newest.
places = st.integers(0, 12)
views = st.none() | places | st.just(FORMER)
replays = st.sampled_from([None, None, 0.0, 3.0, 9.0, 60.0])
limits = st.tuples(st.sampled_from([0, 1, 3, 1000]), st.sampled_from([0, 700, 1500, 1 << 20]))

steps = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from(CHANNELS), st.sampled_from([1, 1, 1, 200, 900])),
    st.tuples(st.just("publish"), st.sampled_from(CHANNELS), st.sampled_from([1, 1, 200])),
    st.tuples(st.just("live only"), st.sampled_from(CHANNELS)),
    st.tuples(st.just("end"), st.sampled_from(CHANNELS)),
    st.tuples(st.just("lose"), st.lists(st.sampled_from(CHANNELS), max_size=2).map(tuple)),
    st.tuples(
        st.just("pass"), st.sampled_from([1, NANOSECONDS, 4 * NANOSECONDS, AGE * NANOSECONDS])
    ),
    st.tuples(st.just("hand over"), limits),
    st.tuples(st.just("join"), some_channels, views, replays),
    st.tuples(st.just("resume"), some_channels, places, replays),
    st.tuples(st.just("resume"), some_channels, places, st.none()),
    st.tuples(
        st.just("strange id"),
        some_channels,
        st.sampled_from(["", "17", "future", "other epoch", "ancient"]),
        views,
    ),
)


# -- the oracle


class Now(NamedTuple):
    """The clock's time, and the newest place: events of one instant are a nanosecond apart."""

    clock: int
    place: int


class Published:
    """An event, as the oracle remembers it for ever."""

    def __init__(self, place: int, channel: str, text: str, size: int) -> None:
        self.place, self.channel, self.text, self.size = place, channel, text, size
        self.is_kept = True


class Oracle:
    """Everything that was ever published, and what must still be there."""

    def __init__(self, limits: Limits, begin: int) -> None:
        self.count, self.bytes = limits
        self.begin = begin
        self.events: list[Published] = []
        self.losses: list[tuple[int, tuple[str, ...]]] = []
        self.ends: dict[str, int] = {}

    def publish(self, event: Published, now: int) -> None:
        self.ends.pop(event.channel, None)
        self.events.append(event)
        self.forget(now)

    def kept(self, channels: Sequence[str] = CHANNELS) -> list[Published]:
        return [each for each in self.events if each.is_kept and each.channel in channels]

    def forget(self, now: int) -> None:
        """What goes, in the words of the settings."""
        for channel in CHANNELS:
            of_channel = self.kept([channel])
            for each in of_channel[: max(0, len(of_channel) - self.count)]:
                each.is_kept = False
        for each in self.kept():
            if each.place < now - AGE * NANOSECONDS:
                each.is_kept = False
        while sum(each.size for each in self.kept()) > self.bytes:
            self.kept()[0].is_kept = False

    def reach(self, channels: Sequence[str]) -> int:
        """The newest place at which one of the channels has lost something."""
        gone = [e.place for e in self.events if not e.is_kept and e.channel in channels]
        told = [place for place, names in self.losses if not names or set(names) & set(channels)]
        return max([NEVER, *gone, *told])

    def last_words(self, channels: Sequence[str], until: int) -> list[Published]:
        return [
            each
            for each in self.kept(channels)
            if each.place == self.ends.get(each.channel) and each.place <= until
        ]

    def begins(
        self, channels: Sequence[str], seen: Seen, told: str | None, replay: Any, now: Now
    ) -> tuple[str | None, int | None, list[str]]:
        """How a stream begins: why there is a gap, at which place, and the texts of its events.

        Args:
            channels: Its own.
            seen: The place that its view saw; None for now, FORMER for one in a former hub's log.
            told: The id that its client says.
            replay: The seconds that its view asks for.
            now: The clock's time, and the newest place.
        """
        self.forget(now.clock)
        oldest = now.clock - (AGE if replay is None else min(AGE, replay)) * NANOSECONDS
        reason = None
        if told is not None:
            place = parse(told)
            if place is None or (place.epoch == EPOCH and place.time > now.place):
                reason = "unknown"
            elif place.epoch != EPOCH:
                reason = "epoch"
            elif place.time < oldest or place.time < self.reach(channels):
                reason = "old"
            else:
                return None, None, [e.text for e in self.kept(channels) if e.place > place.time]
        start = now.place if seen is None else seen
        if start == FORMER:
            reason, start = reason or "epoch", self.begin
        if start < self.reach(channels):
            reason = reason or "old"
            start = self.reach(channels)
        since = start
        if reason is None and replay is not None:
            since = min(start, now.clock - int(replay * NANOSECONDS))
        words = self.last_words(channels, since)
        after = [each for each in self.kept(channels) if each.place > since]
        return reason, start, [each.text for each in [*words, *after]]


# -- running them


class Machine:
    """A log, and what is known of it; its clock is a list of one number."""

    def __init__(self, limits: Limits, clock: list[int]) -> None:
        self.clock = clock
        self.config = self._config(limits)
        self.log = Log(self.config, Clock(EPOCH, 0))
        self.oracle = Oracle(limits, self.now)
        self.known = [self.now]  # places that somebody was told
        self.published = 0

    @staticmethod
    def _config(limits: Limits) -> HubConfig:
        return HubConfig(
            socket="", history_count=limits[0], history_age=float(AGE), history_bytes=limits[1]
        )

    @property
    def now(self) -> int:
        return self.clock[0]

    def do(self, step: Step) -> None:
        match step:
            case ("publish", channel, size):
                self.publish(channel, size)
            case ("live only", channel):
                self.log.append(channel, encode_body("live"), keep=False)
                self.oracle.ends.pop(channel, None)
            case ("end", channel):
                self.publish(channel, 1)
                self.log.end(channel)
                self.oracle.ends[channel] = self.oracle.events[-1].place
            case ("lose", channels):
                place = self.log.lose(channels)
                assert place > max(self.known), "who knows that place would not be told the loss"
                self.oracle.losses.append((place, channels))
                self.tell(place)
            case ("pass", nanoseconds):
                self.clock[0] += nanoseconds
            case ("hand over", limits):
                self.config = self._config(limits)
                self.log = Log.restore(self.config, self.log.state(), list(self.log.kept()))
                self.oracle.count, self.oracle.bytes = limits
                self.oracle.forget(self.now)
            case ("join", channels, place, replay):
                self.open(channels, place, None, replay)
            case ("resume", channels, place, replay):
                self.open(channels, None, _text(self.place(place)), replay)
            case ("strange id", channels, kind, place):
                self.open(channels, place, self.strange_id(kind), None)
        kept = self.oracle.kept()
        assert sum(each.size for each in kept) <= self.config.history_bytes
        assert self.log.size >= sum(each.size for each in kept)

    def publish(self, channel: str, size: int) -> None:
        self.published += 1
        text = f"{self.published} " + "x" * size
        frame = self.log.append(channel, encode_body(text), keep=True)
        [event] = Parser().feed(frame)
        place = parse(event.id)
        assert event.data == text
        assert place is not None
        assert place.epoch == EPOCH
        assert place.time > max(self.known), "a place was given twice, or goes back"
        self.tell(place.time)
        size = len(frame) + ENTRY_OVERHEAD
        self.oracle.publish(Published(place.time, channel, text, size), self.now)

    def place(self, number: int) -> int:
        return self.known[-1 - number % len(self.known)]

    def tell(self, place: int) -> None:
        self.known.append(place)

    def strange_id(self, kind: str) -> str:
        match kind:
            case "future":
                return f"{EPOCH}-{self.log.last + self.now:x}"
            case "other epoch":
                return f"{OTHER_EPOCH}-{self.place(0):x}"
            case "ancient":
                return f"{EPOCH}-1"
        return kind

    def open(self, channels: tuple[str, ...], place: Seen, told: str | None, replay: Any) -> None:
        """Open a stream, and compare."""
        seen = place if place in (None, FORMER) else self.place(place)
        if seen == FORMER and self.now > self.oracle.begin + AGE * NANOSECONDS:
            seen = None  # its log had begun a long time ago: no view takes so long, either
        if isinstance(seen, int):
            seen = max(seen, self.now - AGE * NANOSECONDS)  # no view takes longer
        request = Handoff(
            channels=channels,
            position=f"{OTHER_EPOCH}-1" if seen == FORMER else _text(seen),
            last_event_id=told,
            snapshot=b"event: snapshot\ndata:\n\n",
            replay=replay,
        )
        start = opening.begin(self.log, Closings(), request)
        now = Now(self.now, self.log.mark())
        self.tell(now.place)
        reason, where, texts = self.oracle.begins(channels, seen, told, replay, now)
        note(f"{request} at {now}")
        parser = Parser(told or "")
        events = parser.feed(b"".join(start.parts))
        assert start.gap == reason
        assert start.channels == channels
        has_ended = all(channel in self.oracle.ends for channel in channels)
        assert start.ended == has_ended == is_end(parser.last_event_id, channels)
        if where is not None:
            self.check_beginning(events, reason, where, told or "")
            left = parse(parser.last_event_id)
            assert left is not None
            assert left.time >= where, "it would resume from before the place that it was given"
            events = events[1 if reason is None else 2 :]
        assert [event.data for event in events] == texts
        self.check_resuming(parser.last_event_id, channels)
        if told is None and replay is None and request.position is not None:
            self.check_told(request, request.position)

    def check_told(self, request: Handoff, place: str) -> None:
        """Who was told its place with the head gets what anybody gets, but for the place."""
        others = replace(request, snapshot=None)
        expected = opening.begin(self.log, Closings(), others)
        found = opening.begin(self.log, Closings(), replace(others, knows_place=True))
        assert found._replace(parts=[]) == expected._replace(parts=[])
        one, other = Parser(), Parser(place)
        heard = [(each.event, each.data) for each in one.feed(b"".join(expected.parts))]
        assert [(each.event, each.data) for each in other.feed(b"".join(found.parts))] == heard
        assert other.last_event_id == one.last_event_id

    def check_beginning(
        self, events: list[Event], reason: str | None, where: int, told: str
    ) -> None:
        """A newcomer gets the snapshot; after a gap, the gap event first. Neither has an id."""
        first, *others = [(event.event, event.id) for event in events[:2]]
        if reason is None:
            assert first == ("snapshot", told)
            return
        assert first == ("sidearm:gap", told)
        assert others == [("snapshot", told)]
        assert json.loads(events[0].data) == {"reason": reason, "position": _text(where)}

    def check_resuming(self, last_event_id: str, channels: tuple[str, ...]) -> None:
        """Who leaves here, and comes back with this id, gets nothing again and is told no gap."""
        if is_end(last_event_id, channels):
            return
        request = Handoff(channels=channels, last_event_id=last_event_id)
        again = opening.begin(self.log, Closings(), request)
        place = parse(last_event_id)
        assert place is not None
        if place.time >= self.now - AGE * NANOSECONDS:
            assert (again.parts, again.gap) == ([], None)


def _text(place: Any) -> str | None:
    return None if place is None else Clock(EPOCH, 0).text(place)


@settings(max_examples=PROGRAMS, deadline=None, print_blob=True)
@given(limits, st.lists(steps, max_size=25))
def test_e3_e4_e7_streams_begin_as_the_history_allows(limits: Limits, program: list[Step]) -> None:
    """Each event once and in order, or the gap first, with a place after which nothing is missing.

    The gap comes exactly where history does not reach; an end stays one.
    """
    now = [1000 * NANOSECONDS]
    with mock.patch.object(time, "monotonic_ns", lambda: now[0]):  # noqa: PT008 - it changes
        machine = Machine(limits, now)
        for step in program:
            machine.do(step)

"""Hubs that follow one Redis, without either: what happens in which order, and how long it takes.

Events come at random times, at a steady rate on average. Redis does one thing at a time: it takes
an event, or answers a hub. A hub does one thing at a time, too: it takes in an answer, and sends
what is in it to its subscribers. When it asks again is as in :mod:`sidearm.hub.following`.
"""

from __future__ import annotations

import heapq
import itertools
import random
import statistics
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from sidearm.brokers.pace import READ_COUNT
from sidearm.hub.following import GATHER, GATHER_COUNT

LINE = 1e9 / 8  # bytes in a second that leave a machine
MOST = 0.9  # of its time that anything may be busy
LATEST = 1.0  # seconds until the last subscriber has an event, 99 times in a hundred
SECONDS = 4.0  # of each simulated run, at least
EVENTS = 200  # in each simulated run, at least
PRECISION = 0.03  # of the rate at which it ends


class Costs(NamedTuple):
    """What each step takes: processor time in seconds, sizes in bytes.

    Attributes:
        append: Of Redis, to take an event.
        answer: Of Redis, to answer a hub with one entry.
        answer_entry: Of Redis, for each further entry in an answer.
        broker_alone: Of Redis, in each second in which nothing happens.
        broker_idle: The same, for each hub.
        read: Of a hub, to ask and to take in an answer with one entry.
        read_entry: Of a hub, for each further entry.
        send: Of a hub, for one send to one subscriber.
        send_event: Of a hub, for each further event in a send.
        hub_idle: Of a hub, in each second in which nothing happens.
        entry_size: An entry on the way to a hub.
        event_size: An event on the way to a subscriber.
        send_size: What TCP and IP add to a send.
    """

    append: float
    answer: float
    answer_entry: float
    broker_alone: float
    broker_idle: float
    read: float
    read_entry: float
    send: float
    send_event: float
    hub_idle: float
    entry_size: float = 0.0
    event_size: float = 0.0
    send_size: float = 66.0


class Fleet(NamedTuple):
    """Who listens to what.

    Attributes:
        hubs: How many.
        subscribers: On all hubs together, as many on each.
        channels: Equally loud, and each subscriber listens to one.
        heartbeat: Seconds between two heartbeats of an idle stream; 0: none.
    """

    hubs: int
    subscribers: int
    channels: int
    heartbeat: float = 0.0

    @property
    def audience(self) -> float:
        """The subscribers of one channel at one hub, on average."""
        return self.subscribers / self.hubs / self.channels

    def sends(self, events: int) -> float:
        """The sends of one hub for events that arrived together: one to each who hears any."""
        heard = self.channels * (1 - (1 - 1 / self.channels) ** events)
        return heard * self.audience


class Outcome(NamedTuple):
    """What a run came to.

    Attributes:
        broker: The part of the time in which Redis was busy.
        hub: The part of the time in which a hub was.
        broker_line: The part of Redis's line that was used.
        hub_line: The part of a hub's line.
        answers: Answers to each hub in a second.
        middle: Seconds from an event's publishing until a hub's last subscriber has it, the median.
        late: The same, 99 times in a hundred.
    """

    broker: float
    hub: float
    broker_line: float
    hub_line: float
    answers: float
    middle: float
    late: float

    @property
    def first(self) -> str:
        """What is nearest to its end."""
        parts = {
            "Redis": self.broker,
            "hubs": self.hub,
            "Redis's line": self.broker_line,
            "hubs' lines": self.hub_line,
        }
        return max(parts, key=lambda name: parts[name])

    @property
    def holds(self) -> bool:
        """Whether nothing is busier than it may be, and everything arrives in time."""
        busiest = max(self.broker, self.hub, self.broker_line, self.hub_line)
        return busiest <= MOST and self.late <= LATEST


class _Hub:
    """A hub.

    Attributes:
        place: How many events of the log it has read.
        arrived: When the last answer was taken in.
        busy: Seconds.
        sent: Bytes.
    """

    __slots__ = ("arrived", "busy", "place", "sent")

    def __init__(self) -> None:
        self.place = 0
        self.arrived = -1.0
        self.busy = 0.0
        self.sent = 0.0


class _Run:
    def __init__(self, costs: Costs, fleet: Fleet) -> None:
        self.costs = costs
        self.fleet = fleet
        self.hubs = [_Hub() for _ in range(fleet.hubs)]
        self.waiting = list(self.hubs)
        self.log: list[float] = []  # when each event was published
        self.unwritten: deque[float] = deque()
        self.queue: deque[_Hub | None] = (
            deque()
        )  # whom Redis has to answer; None: it takes an event
        self.is_busy = False
        self.broker_busy = 0.0
        self.entries = 0
        self.answers = 0
        self.latencies: list[float] = []
        self._due: list[tuple[float, int, str, _Hub | None, int]] = []
        self._numbers = itertools.count()

    def at(self, time: float, what: str, hub: _Hub | None = None, count: int = 0) -> None:
        """Note what happens later."""
        heapq.heappush(self._due, (time, next(self._numbers), what, hub, count))

    def go(self) -> float:
        """Let everything happen, and tell when the last thing did."""
        now = 0.0
        while self._due:
            now, _, what, hub, count = heapq.heappop(self._due)
            if what == "publish":
                self.unwritten.append(now)
                self.queue.append(None)
            elif what == "appended":
                self._appended()
            elif what == "answered":
                assert hub is not None
                self.is_busy = False
                self._take(hub, count, now)
            else:
                self.queue.append(hub)
            while self.queue and not self.is_busy:
                self._serve(self.queue.popleft(), now)
        return now

    def _appended(self) -> None:
        self.is_busy = False
        self.log.append(self.unwritten.popleft())
        # Those who wait are answered before anything else is done.
        waiting, self.waiting = self.waiting, []
        self.queue.extendleft(reversed(waiting))

    def _serve(self, hub: _Hub | None, now: float) -> None:
        if hub is None:
            self._spend(self.costs.append, now, "appended")
            return
        count = min(len(self.log) - hub.place, READ_COUNT)
        if not count:
            self.waiting.append(hub)
            return
        self.entries += count
        self.answers += 1
        seconds = self.costs.answer + (count - 1) * self.costs.answer_entry
        self._spend(seconds, now, "answered", hub, count)

    def _spend(
        self, seconds: float, now: float, what: str, hub: _Hub | None = None, count: int = 0
    ) -> None:
        self.is_busy = True
        self.broker_busy += seconds
        self.at(now + seconds, what, hub, count)

    def _take(self, hub: _Hub, count: int, now: float) -> None:
        costs = self.costs
        sends, deliveries = self.fleet.sends(count), count * self.fleet.audience
        seconds = costs.read + (count - 1) * costs.read_entry
        seconds += sends * costs.send + (deliveries - sends) * costs.send_event
        hub.busy += seconds
        hub.sent += sends * costs.send_size + deliveries * costs.event_size
        done = now + seconds
        self.latencies += [done - began for began in self.log[hub.place : hub.place + count]]
        hub.place += count
        is_dense = done - hub.arrived < 2 * GATHER and count < GATHER_COUNT
        hub.arrived = done
        self.at(done + (GATHER if is_dense else 0.0), "ask", hub)


def arrivals(rate: float, count: int, seed: int) -> Iterator[float]:
    """Random times, in order, at which so many events come at an average rate (a second)."""
    numbers = random.Random(seed)
    time = 0.0
    for _ in range(count):
        time += numbers.expovariate(rate)
        yield time


def simulate(costs: Costs, fleet: Fleet, rate: float, count: int = 0, seed: int = 1) -> Outcome:
    """See what a rate of events comes to.

    Args:
        costs: What each step takes.
        fleet: Who listens.
        rate: Events in a second, on average.
        count: How many events; 0: enough for a figure.
        seed: Of the times at which they come.
    """
    run = _Run(costs, fleet)
    for time in arrivals(rate, count or max(EVENTS, round(rate * SECONDS)), seed):
        run.at(time, "publish")
    seconds = run.go()
    beats = fleet.subscribers / fleet.hubs / fleet.heartbeat if fleet.heartbeat else 0.0
    busy = statistics.fmean(hub.busy for hub in run.hubs) / seconds
    sent = statistics.fmean(hub.sent for hub in run.hubs) / seconds
    cuts = statistics.quantiles(run.latencies, n=100)
    return Outcome(
        broker=run.broker_busy / seconds + costs.broker_alone + fleet.hubs * costs.broker_idle,
        hub=busy + costs.hub_idle + beats * costs.send,
        broker_line=run.entries * costs.entry_size / seconds / LINE,
        hub_line=(sent + beats * costs.send_size) / LINE,
        answers=run.answers / fleet.hubs / seconds,
        middle=cuts[49],
        late=cuts[98],
    )


def most(costs: Costs, fleet: Fleet) -> tuple[float, Outcome, str]:
    """The highest rate that holds, what it comes to, and what ends first beyond it.

    Raises:
        ValueError: Not even an event in a hundred seconds does.
    """
    holds, fails = 0.0, 0.0
    rate = 0.01
    while not fails:
        if simulate(costs, fleet, rate).holds:
            holds, rate = rate, rate * 2
        else:
            fails = rate
    if not holds:
        raise ValueError(f"{fleet} does not carry {rate} events in a second.")
    while fails - holds > PRECISION * holds:
        rate = (holds + fails) / 2
        if simulate(costs, fleet, rate).holds:
            holds = rate
        else:
            fails = rate
    return holds, simulate(costs, fleet, holds), simulate(costs, fleet, fails).first

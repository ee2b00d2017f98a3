"""Measures what each step takes, holds the simulation against real hubs, and asks it."""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence

from sidearm.settings import Settings

from ..measure import allow_descriptors, bounded
from . import report
from .rig import Check, Taken, running
from .simulation import Costs, Fleet, Outcome, most, simulate

LIMIT = 600.0  # seconds after which the benchmark gives up
DESCRIPTORS = 6000
ROUNDS = 3
IDLE = 3.0  # seconds
SUBSCRIBERS = 2000
READERS = 20  # that measure what Redis does for each hub
HUBS, MILLION = 50, 1_000_000
SEED = 2  # of the times at which events come where the simulation is checked

#: What readers alone are given: how many, events in a second, events.
READS = ((10, 300.0, 1800), (HUBS, 50.0, 300))

#: What is listened to: how many channels, by what it is like.
AUDIENCES = {
    "everybody, to a ticker": 1,
    "one in 100, to a room": 100,
    "one in 1,000, to a room": 1000,
    "one, to their own": MILLION,
}
#: What real hubs are given: channels, events in a second, events.
TRIALS = {"ticker": (1, 8.0, 48), "rooms of 200": (10, 40.0, 240), "rooms of 8": (250, 300.0, 1800)}


def main() -> None:
    """Measure, and print the tables."""
    run(write=False)


def parse_and_run() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the tables into docs/")
    run(write=parser.parse_args().write)


def run(*, write: bool) -> None:
    """Measure, check, simulate, and print; write the tables if that is wanted."""
    allow_descriptors(DESCRIPTORS)
    with bounded(LIMIT, "The benchmark of the fleet") as check:
        began = time.monotonic()
        rounds = []
        for number in range(ROUNDS):
            rounds.append(measure(check))
            print(f"  round {number + 1}: {rounds[-1]}", file=sys.stderr, flush=True)
        costs = Costs(*map(statistics.median, zip(*rounds, strict=True)))
        memory, trials = check_all(costs, check)
        heartbeat = Settings().heartbeat
        fleets = {name: Fleet(HUBS, MILLION, each, heartbeat) for name, each in AUDIENCES.items()}
        ends = {name: most(costs, fleet) for name, fleet in fleets.items()}
        minutes = (time.monotonic() - began) / 60
    text = report.text(report.Found(costs, memory, trials, fleets, ends), minutes)
    print(text)
    if write:
        report.TABLE.write_text(text)


def measure(check: Check) -> Costs:
    """One round: what each step takes."""
    with running(Fleet(0, 0, 1), check) as rig:
        broker_alone = rig.idle(IDLE).broker / IDLE
    with running(Fleet(1, 0, 1), check) as rig:
        idle = rig.idle(IDLE)
        few, many = rig.publish(60.0, 240), rig.publish(1000.0, 3000)
    with running(Fleet(READERS, 0, 1), check, only_reads=True) as rig:
        broker_idle = (rig.idle(IDLE).broker / IDLE - broker_alone) / READERS
        read_few, read_many = rig.publish(60.0, 240), rig.publish(1000.0, 3000)
    with running(Fleet(1, SUBSCRIBERS, 1), check) as rig:
        singles, joined = rig.publish(4.0, 24), rig.publish(60.0, 240)
    hub_idle = idle.hub / IDLE

    def broker(taken: Taken, hubs: int) -> tuple[float, ...]:
        answers = taken.answers * hubs
        used = taken.broker - taken.seconds * (broker_alone + hubs * broker_idle)
        return taken.events, answers, taken.events * hubs - answers, used

    def reading(taken: Taken) -> tuple[float, ...]:
        used = taken.hub - taken.seconds * hub_idle
        return taken.answers, taken.events - taken.answers, used

    append, answer, answer_entry = solve(
        [broker(many, 1), broker(read_few, READERS), broker(read_many, READERS)]
    )
    read, read_entry = solve([reading(few), reading(many)])

    def sending(taken: Taken) -> tuple[float, ...]:
        answers, more, used = reading(taken)
        sent = used - answers * read - more * read_entry
        return answers * SUBSCRIBERS, more * SUBSCRIBERS, sent

    send, send_event = solve([sending(singles), sending(joined)])
    return Costs(
        append=append,
        answer=answer,
        answer_entry=answer_entry,
        broker_alone=broker_alone,
        broker_idle=broker_idle,
        read=read,
        read_entry=read_entry,
        send=send,
        send_event=send_event,
        hub_idle=hub_idle,
        entry_size=read_many.size / read_many.events,
        event_size=report.EVENT_SIZE,
    )


def solve(equations: Sequence[Sequence[float]]) -> list[float]:
    """What each step took, from phases that had different numbers of them.

    Args:
        equations: How many of each step, and what they took together; one for each step.
    """
    rows = [list(each) for each in equations]
    for place in range(len(rows)):
        pivot = max(range(place, len(rows)), key=lambda number: abs(rows[number][place]))
        rows[place], rows[pivot] = rows[pivot], rows[place]
        for number in range(len(rows)):
            if number != place:
                factor = rows[number][place] / rows[place][place]
                pairs = zip(rows[number], rows[place], strict=True)
                rows[number] = [one - factor * other for one, other in pairs]
    # Where a step takes next to nothing, what is left of chance may be less than nothing.
    return [max(0.0, row[-1] / row[place]) for place, row in enumerate(rows)]


def check_all(
    costs: Costs, check: Check
) -> tuple[float, Mapping[tuple[str, int], tuple[Taken, Outcome]]]:
    """What real hubs took, and the simulated ones; and a hub's memory for a stream, in bytes."""
    trials = {}
    memories = []
    for readers, rate, count in READS:
        fleet = Fleet(readers, 0, 1)
        with running(fleet, check, only_reads=True) as rig:
            taken = rig.publish(rate, count, SEED)
        trials["readers alone", readers] = taken, simulate(costs, fleet, rate, count, SEED)
    for hubs in (1, 2, 4):
        for name, (channels, rate, count) in TRIALS.items():
            fleet = Fleet(hubs, SUBSCRIBERS, channels)
            with running(fleet, check) as rig:
                memories.append(rig.memory())
                taken = rig.publish(rate, count, SEED)
            trials[name, hubs] = taken, simulate(costs, fleet, rate, count, SEED)
            print(f"  {name}, {hubs} hubs: {trials[name, hubs]}", file=sys.stderr, flush=True)
    return statistics.median(memories), trials

"""The tables, and what goes into the documentation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from sidearm.hub.eventstream import encode_body

from ..hub.report import machine
from ..hub.system import event_data
from ..markdown import table
from ..measure import KIB
from .rig import Taken
from .simulation import LINE, Costs, Fleet, Outcome

TABLE = Path(__file__).parents[2] / "docs/explanation/fleet-table.md"
ID_SIZE = len("id: 0123456789-1234567890123456789\n\n")
EVENT_SIZE = len(encode_body(event_data())) + ID_SIZE  # bytes
MICRO = 1e-6
MEGABIT = 1e6 / 8  # bytes
FLOOR = 0.03  # of a core; below it a ratio says little, and is put in brackets

Trials = Mapping[tuple[str, int], tuple[Taken, Outcome]]
Ends = Mapping[str, tuple[float, Outcome, str]]


class Found(NamedTuple):
    """What came of a run.

    Attributes:
        costs: Of each step.
        memory: Of a hub for each stream, in bytes.
        trials: What real hubs took, and simulated ones, by the load and the number of hubs.
        fleets: Those that were asked for.
        ends: What :func:`~.simulation.most` said of each.
    """

    costs: Costs
    memory: float
    trials: Trials
    fleets: Mapping[str, Fleet]
    ends: Ends


def text(found: Found, minutes: float) -> str:
    """Everything, as it is printed and written."""
    return "\n\n".join(
        [
            "What 50 hubs with a million subscribers carry, as simulated:",
            _ends(found.fleets, found.ends),
            "What each step takes, as measured:",
            _costs(found.costs, found.memory),
            "Real hubs, and as many simulated ones:",
            _trials(found.trials),
            f"Measured in {minutes:.0f} minutes. {machine()}.\n",
        ]
    )


def _ends(fleets: Mapping[str, Fleet], ends: Ends) -> str:
    heads = [
        "who hears an event",
        "events per s",
        "deliveries per s",
        "ends first",
        "a hub's core",
        "Redis's core",
        "a hub's line",
        "Redis's line",
        "to the last, p50",
        "p99",
    ]
    rows = []
    for name, (rate, outcome, first) in ends.items():
        fleet = fleets[name]
        rows.append(
            [
                name,
                f"{rate:,.1f}" if rate < 10 else f"{rate:,.0f}",
                f"{rate * fleet.subscribers / fleet.channels:,.0f}",
                first,
                f"{outcome.hub:.0%}",
                f"{outcome.broker:.0%}",
                f"{outcome.hub_line * LINE / MEGABIT:,.0f} Mbit/s",
                f"{outcome.broker_line * LINE / MEGABIT:,.0f} Mbit/s",
                f"{outcome.middle * 1000:,.0f} ms",
                f"{outcome.late * 1000:,.0f} ms",
            ]
        )
    return table(heads, rows)


def _costs(costs: Costs, memory: float) -> str:
    rows = [
        ("Redis takes an event", costs.append),
        ("Redis answers a hub with one", costs.answer),
        ("and with each further one", costs.answer_entry),
        ("Redis, a second in which nothing happens", costs.broker_alone),
        ("and for each hub", costs.broker_idle),
        ("a hub asks, and takes in an answer with one event", costs.read),
        ("and with each further one", costs.read_entry),
        ("a hub sends to a subscriber", costs.send),
        ("and each further event of the same send", costs.send_event),
        ("a hub, a second in which nothing happens", costs.hub_idle),
    ]
    sizes = [
        ("an event, on the way from Redis to a hub", f"{costs.entry_size:.0f} bytes"),
        ("the same, on the way to a subscriber", f"{costs.event_size:.0f} bytes"),
        ("a hub's memory for each stream", f"{memory / KIB:.2f} KiB"),
    ]
    times = [(name, f"{seconds / MICRO:,.2f} µs") for name, seconds in rows]
    return table(["", "processor, or size"], [*times, *sizes])


def _trials(trials: Trials) -> str:
    heads = [
        "",
        "hubs",
        "events per s",
        "answers per s and hub",
        "simulated",
        "a hub's core",
        "simulated / measured",
        "Redis's core",
        "simulated / measured",
    ]
    rows = []
    for (name, hubs), (taken, outcome) in trials.items():
        hub, broker = taken.hub / taken.seconds, taken.broker / taken.seconds
        rows.append(
            [
                name,
                str(hubs),
                f"{taken.events / taken.seconds:.0f}",
                f"{taken.answers / taken.seconds:.1f}",
                f"{outcome.answers:.1f}",
                f"{hub:.1%}" if hub else "-",
                _ratio(outcome.hub, hub) if hub else "-",
                f"{broker:.1%}",
                _ratio(outcome.broker, broker),
            ]
        )
    return table(heads, rows)


def _ratio(simulated: float, measured: float) -> str:
    ratio = f"{simulated / measured:.2f}"
    return ratio if measured >= FLOOR else f"({ratio})"

"""The table, the goals, and what goes into the documentation."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

from .. import markdown
from ..measure import KIB
from .phases import BURST, PACE, Figures, Scale

DOCS = Path(__file__).parents[2] / "docs/explanation"
TABLE = DOCS / "performance-table.md"
PLOT = DOCS / "performance.svg"
SIDEARM, AGAIN, NCHAN = "Sidearm", "Sidearm, again (A/A)", "nchan (C, in nginx)"
FLOOR_C, FLOOR_PYTHON = "floor: one send, C", "floor: one send, Python"

Column = tuple[str, Callable[[Figures], str]]


def middle(values: list[float]) -> float:
    """The median; nothing measured is not a number."""
    return statistics.median(values) if values else float("nan")


def number(values: list[float], form: str = ".2f") -> str:
    """A median as text."""
    return format(middle(values), form) if values else "-"


COLUMNS: tuple[Column, ...] = (
    ("subscribers", lambda f: f"{f.subscribers:,}"),
    ("KiB each", lambda f: number([each / KIB for each in f.memory], ".1f")),
    ("paced, µs", lambda f: number(f.paced)),
    ("bursts, µs", lambda f: number(f.burst, ".3f")),
    ("bursts, per s", lambda f: number(f.rate, ",.0f")),
    ("p50, ms", lambda f: number(f.p50, ".1f")),
    ("p99, ms", lambda f: number(f.p99, ".1f")),
    ("crowd, ms", lambda f: number(f.crowd, ".1f")),
)


def rows(figures: dict[str, Figures]) -> list[list[str]]:
    """The cells."""
    return [
        [name, *(cell(each) for _, cell in COLUMNS)]
        for name, each in figures.items()
        if each.paced or each.crowd
    ]


def table(
    scale: Scale, figures: dict[str, Figures], left_out: dict[str, str], minutes: float
) -> str:
    """What is printed, and written: a table in Markdown."""
    heads = ["", *(head for head, _ in COLUMNS)]
    lines = [markdown.table(heads, rows(figures))]
    lines += ["", describe(scale, figures, minutes), ""]
    lines += [f"Not measured: {name}: {why}" for name, why in left_out.items()]
    return "\n".join(lines)


def describe(scale: Scale, figures: dict[str, Figures], minutes: float) -> str:
    """What was measured on what."""
    rounds = max((len(each.paced) for each in figures.values()), default=0)
    busiest = max((each.busiest for each in figures.values()), default=0.0)
    lost = sum(each.lost for each in figures.values())
    return (
        f"Medians of {rounds} rounds (fewer of the slow systems and of the crowd) in"
        f" {minutes:.0f} minutes: {scale.paced} events at {PACE} a second, {scale.bursts} bursts of"
        f" {BURST}, {scale.singles} single events to a crowd of {scale.crowd:,}. {machine()}. The"
        f" clients' program was busy for at most {busiest:.0%} of a phase, and {lost:,} deliveries"
        " did not come in time."
    )


def machine() -> str:
    """What it ran on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    cores = len(os.sched_getaffinity(0))
    kernel, python = platform.release().split("-")[0], platform.python_version()
    return f"{model}, {cores} cores, Linux {kernel}, Python {python}"


def ratio(one: list[float], other: list[float]) -> float:
    """How many times as much, in the middle; rounds that both had are compared with each other."""
    if len(one) == len(other):
        return middle([a / b for a, b in zip(one, other, strict=True)])
    return middle(one) / middle(other)


def goals(figures: dict[str, Figures]) -> str:
    """Each goal, what came of it, and what the same ratio is between Sidearm and itself."""
    if SIDEARM not in figures:
        return ""
    ours = figures[SIDEARM]
    again = figures.get(AGAIN)
    lines = ["Goals (ratio to Sidearm's own second row in brackets):"]

    def goal(what: str, other: str, name: str, most: float) -> None:
        values = getattr(ours, name)
        if other not in figures or not values or not getattr(figures[other], name):
            return
        found = ratio(values, getattr(figures[other], name))
        same = (
            ratio(values, getattr(again, name)) if again and getattr(again, name) else float("nan")
        )
        verdict = "yes" if found <= most else "NO"
        lines.append(f"  {what}: {found:.2f}, at most {most:g}: {verdict} (A/A {same:.2f})")

    goal("CPU/delivery of nchan's, paced", NCHAN, "paced", 0.8)
    goal("p50 of nchan's, paced", NCHAN, "p50", 1.0)
    goal("p99 of nchan's, paced", NCHAN, "p99", 1.0)
    goal("CPU/delivery of nchan's, bursts", NCHAN, "burst", 0.2)
    goal("CPU/delivery of the C floor's, paced", FLOOR_C, "paced", 1.2)
    goal("CPU/delivery of the Python floor's, bursts", FLOOR_PYTHON, "burst", 0.3)
    goal("one event to the crowd, of nchan's", NCHAN, "crowd", 1.0)
    if ours.hub_memory:
        size = middle(ours.hub_memory) / KIB
        verdict = "yes" if size <= 1.5 else "NO"
        lines.append(
            f"  the hub's memory for an idle stream: {size:.2f} KiB, at most 1.5: {verdict}"
        )
    return "\n".join(lines)


def write(
    scale: Scale, figures: dict[str, Figures], left_out: dict[str, str], minutes: float
) -> None:
    """Write table and plot into the documentation."""
    from .plot import draw

    text = table(scale, figures, left_out, minutes)
    TABLE.write_text(f"{text.strip()}\n\n```text\n{goals(figures)}\n```\n")
    PLOT.write_text(draw(figures))

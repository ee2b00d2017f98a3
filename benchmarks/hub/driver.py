"""Runs the rounds."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from sidearm.exceptions import ServerDied

from ..measure import allow_descriptors, bounded, on_core
from . import report
from .phases import LOAD_CORE, QUICK, WHOLE, Check, Figures, Scale, TooFew, measure, measure_crowd
from .system import System
from .systems import ALL

LIMIT = 3000.0  # seconds after which the benchmark gives up
MINUTES = 20.0  # after which no system has another turn
DESCRIPTORS = 16_000  # of the load's program, with 15,000 clients

Measure = Callable[[System, Scale, Figures, Check], None]


def main() -> None:
    """Measure small, and print the table."""
    run(Run(QUICK, ALL), crowd=True, write=False)


def parse_and_run() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hub", description=__doc__)
    parser.add_argument(
        "--whole", action="store_true", help="5,000 subscribers, and a crowd of 15,000"
    )
    parser.add_argument("--write", action="store_true", help="write table and plot into docs/")
    parser.add_argument("--only", metavar="WORD", nargs="+", help="systems whose names have one")
    parser.add_argument("--subscribers", type=int, help="as many as the machine keeps pace with")
    parser.add_argument("--rounds", type=int, help="rounds of each system")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="after these no system has another turn"
    )
    parser.add_argument("--no-crowd", action="store_true", help="no single events to very many")
    arguments = parser.parse_args()
    words = [word.lower() for word in arguments.only or [""]]
    chosen = [each for each in ALL if any(word in each.name.lower() for word in words)]
    scale = WHOLE if arguments.whole else QUICK
    if arguments.subscribers:
        scale = replace(scale, subscribers=arguments.subscribers)
    if arguments.rounds:
        number = arguments.rounds
        scale = replace(scale, rounds=number, slow_rounds=number, crowd_rounds=number)
    minutes = arguments.minutes
    run(Run(scale, chosen, minutes), crowd=not arguments.no_crowd, write=arguments.write)


class Run:
    """One run of the benchmark.

    Args:
        scale: How large it is.
        systems: Which.
        minutes: After these no system has another turn.

    Attributes:
        figures: What was measured, by the systems' names.
        left_out: What was not, and why.
    """

    def __init__(self, scale: Scale, systems: Sequence[System], minutes: float = MINUTES) -> None:
        self.scale = scale
        self.began = time.monotonic()
        self._end = self.began + minutes * 60
        self.systems = [each for each in systems if not each.missing()]
        self.figures = {each.name: Figures() for each in self.systems}
        self.left_out = {
            each.name: missing for each in systems if (missing := each.missing()) is not None
        }

    def turn(self, number: int, measure_one: Measure, check: Check) -> None:
        """One round: each system once, unless it is slow and has had its rounds."""
        order = list(self.systems)
        if number >= self.scale.slow_rounds:
            order = [each for each in order if not each.is_slow]
        if measure_one is measure_crowd:
            order = [each for each in order if each.fits_crowd]
        random.shuffle(order)
        for system in order:
            began = time.monotonic()
            if began > self._end:
                return
            try:
                measure_one(system, self.scale, self.figures[system.name], check)
            except (TooFew, ServerDied) as error:
                self.left_out[system.name] = str(error)
            took = f"{time.monotonic() - began:.0f} s"
            what = f"round {number + 1}, {measure_one.__name__}, {system.name}"
            print(f"  {what}: {took}", file=sys.stderr, flush=True)


def run(run: Run, *, crowd: bool, write: bool) -> None:
    """Measure, print the table, and write it if that is wanted."""
    allow_descriptors(DESCRIPTORS)
    with bounded(LIMIT, "The benchmark of the hub") as check, on_core(LOAD_CORE):
        for number in range(run.scale.rounds):
            run.turn(number, measure, check)
            if crowd and number < run.scale.crowd_rounds:
                run.turn(number, measure_crowd, check)
    minutes = (time.monotonic() - run.began) / 60
    print(report.table(run.scale, run.figures, run.left_out, minutes))
    print(report.goals(run.figures))
    if write:
        report.write(run.scale, run.figures, run.left_out, minutes)

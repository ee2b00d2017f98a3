"""A record for people: aligned, at most as wide as the terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from ..terminal import make_harmless

WIDTH = 100  # columns
NARROWEST = 70  # columns
LABEL_COLUMN = 23
TEXT_COLUMN = 36
PLACE_COLUMN = 52

#: The line above all records.
HEADING = f"{'time':<12}  {'pid':>7}  {'outcome':<11}  {'status':<6} {'took':>7}  task"


class Printer:
    """Prints records, under a line of headings; a line of its own tells a new day.

    Args:
        width: The longest line, in characters.
        colour: Whether to use colours.
    """

    def __init__(self, *, width: int, colour: bool) -> None:
        self._width = width
        self._colour = colour
        self._day: str | None = None

    @classmethod
    def for_output(cls) -> Printer:
        """For standard output: colours on a terminal only, and none where NO_COLOR is set."""
        columns, _ = shutil.get_terminal_size((WIDTH, 24))
        return cls(width=min(columns, WIDTH), colour=wants_colour())

    def lines(self, record: Mapping[str, Any]) -> Iterator[str]:
        """What to print for one record, after what was printed before it."""
        if self._day is None:
            yield _paint("heading", HEADING) if self._colour else HEADING
            self._day = time.strftime("%Y-%m-%d")
        if day_of(record) != self._day:
            self._day = day_of(record)
            yield f"-- {self._day} --"
        yield format_record(record, width=self._width, colour=self._colour)


def wants_colour() -> bool:
    """Whether standard output is a terminal, and nobody has said NO_COLOR."""
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def day_of(record: Mapping[str, Any]) -> str:
    """The local date on which a round ended."""
    return time.strftime("%Y-%m-%d", time.localtime(record["started"] + record["seconds"]))


def format_record(record: Mapping[str, Any], *, width: int = WIDTH, colour: bool = False) -> str:
    """The lines of one record.

    Args:
        record: As ``flask sidearm tasks --json`` prints it.
        width: The longest line, in characters; a single word may be longer.
        colour: Whether to use colours.

    Returns:
        One or several lines, without the end of the last one.
    """
    width = max(width, NARROWEST)
    painted = _paint if colour else _leave_plain
    outcome = "committed" if record["committed"] else "rolled back"
    status = "" if record["status"] is None else str(record["status"])
    place, *rest = _wrap(_place(record), width - PLACE_COLUMN)
    head = (
        f"{_clock(record)}  {record['pid']:>7}  {painted(outcome, f'{outcome:<11}')}"
        f"  {status:<3}  {_duration(record['seconds']):>9}  {place}"
    )
    lines = [head, *(f"{'':{PLACE_COLUMN}}{line}" for line in rest)]
    for label, texts in _details(record):
        for text in texts:
            for line in _wrap(text, width - TEXT_COLUMN):
                shown = painted(label, f"{label:<{TEXT_COLUMN - LABEL_COLUMN}}")
                lines.append(f"{'':{LABEL_COLUMN}}{shown}{line}".rstrip())
                label = ""  # noqa: PLW2901 - stands only once
    return "\n".join(lines)


def _place(record: Mapping[str, Any]) -> str:
    if record["kind"] == "request":
        place = f"{record['method']} {record['url_rule'] or '(no rule)'}"
        if record["endpoint"]:
            place += f" ({record['endpoint']})"
    elif record["kind"] == "context":
        place = "context"
    else:
        place = f"{record['kind']} {record['task']}"
    return place if record["round"] == "work" else f"{place}, {record['round']}"


def _details(record: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[str]]]:
    """The answer to "why did this commit?", by label."""
    yield "why", [record["decided_by"]]
    resources = record["resources"]
    longest = max((len(each["name"]) for each in resources), default=0)
    yield (
        "resource",
        [
            f"{each['name']:<{min(longest, 24)}}  {each['outcome']}"
            + (f", {_duration(each['seconds'])}" if each["seconds"] else "")
            for each in resources
        ],
    )
    yield "left", record["left"]
    yield "dropped", [f"{each['call']}: {each['reason']}" for each in record["dropped"]]
    yield "error", record["errors"]


def _clock(record: Mapping[str, Any]) -> str:
    ended = record["started"] + record["seconds"]
    return f"{time.strftime('%H:%M:%S', time.localtime(ended))}.{int(ended % 1 * 1000):03}"


def _duration(seconds: float) -> str:
    """Three digits or so; nothing where no time was measured, because nothing was claimed."""
    if not seconds:
        return ""
    if seconds >= 10:
        return f"{seconds:.1f} s"
    decimals = sum(seconds < limit for limit in (1e-4, 1e-2, 1e-1))
    return f"{seconds * 1000:.{decimals}f} ms"


def _wrap(text: str, width: int) -> list[str]:
    """Lines that hold a text; what could steer a terminal is escaped."""
    return textwrap.wrap(
        make_harmless(text),
        width,
        subsequent_indent="  ",
        break_on_hyphens=False,
        drop_whitespace=True,
    ) or [""]


def _paint(kind: str, text: str) -> str:
    colours = {"committed": "green", "rolled back": "red", "dropped": "yellow", "error": "red"}
    if kind in colours:
        return click.style(text, fg=colours[kind])
    return click.style(text, dim=True)


def _leave_plain(_: str, text: str) -> str:
    return text

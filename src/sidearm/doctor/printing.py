"""The report, for people and for programs."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

from .findings import Level, Report

_WIDTH = 96  # columns
_INDENT = " " * 8


def as_text(report: Report) -> str:
    """The report in lines."""
    return "\n".join(_lines(report))


def _lines(report: Report) -> Iterator[str]:
    for line in report.passed:
        yield from _wrapped("ok", line)
    for level in (Level.NOTE, Level.FAULT):
        for each in report.findings:
            if each.level is level:
                name = str(level).upper() if level is Level.FAULT else str(level)
                yield from _wrapped(name, f"{each.check}, {each.where}")
                yield from _wrapped("", each.message)
                yield from _wrapped("", f"What to do: {each.advice}")
    notes = len(report.findings) - report.faults
    yield f"{_count(report.faults, 'fault')}, {_count(notes, 'note')}."


def _wrapped(label: str, text: str) -> Iterator[str]:
    # What a server says is not to command the terminal.
    plain = "".join(char if char.isprintable() else "?" for char in text)
    yield from textwrap.wrap(
        plain,
        _WIDTH,
        initial_indent=f"{label:<8}",
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def as_json(report: Report) -> str:
    """The report as one JSON object."""
    return json.dumps(report.as_dict(), indent=1, ensure_ascii=False)

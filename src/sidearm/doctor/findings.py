"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How much a finding counts."""

    FAULT = "fault"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was found.

    Attributes:
        check: Its name, the same in each version, such as ``stream-buffered``.
        level: Whether it is a fault.
        where: The URL.
        message: What is so, and how it was seen.
        advice: What to do.
    """

    check: str
    level: Level
    where: str
    message: str
    advice: str


def fault(check: str, where: str, message: str, advice: str) -> Finding:
    """A finding that has to be mended."""
    return Finding(check, Level.FAULT, where, message, advice)


def note(check: str, where: str, message: str, advice: str) -> Finding:
    """A finding that is good to know."""
    return Finding(check, Level.NOTE, where, message, advice)


@dataclass(slots=True)
class Report:
    """The result of an examination.

    Attributes:
        url: Where the application is.
        findings: What was found, in the order of the checks.
        passed: What was looked at and is right, a line for each.
    """

    url: str
    findings: list[Finding] = field(default_factory=list[Finding])
    passed: list[str] = field(default_factory=list[str])

    @property
    def faults(self) -> int:
        """How many findings are faults."""
        return sum(each.level is Level.FAULT for each in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON has it."""
        return {
            "url": self.url,
            "faults": self.faults,
            "findings": [
                {
                    "check": each.check,
                    "level": str(each.level),
                    "where": each.where,
                    "message": each.message,
                    "advice": each.advice,
                }
                for each in self.findings
            ],
            "passed": self.passed,
        }

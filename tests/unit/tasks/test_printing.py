"""What ``flask sidearm tasks`` prints for people."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from sidearm.tasks.printing import HEADING, WIDTH, Printer, format_record

ESCAPE = "\x1b"


def record(**changes: Any) -> dict[str, Any]:
    return {
        "pid": 4711,
        "app": "shop",
        "task": "buy",
        "kind": "request",
        "round": "work",
        "endpoint": "buy",
        "url_rule": "/buy/<int:item>",
        "method": "POST",
        "status": 200,
        "committed": True,
        "decided_by": "status 200",
        "resources": [{"name": "get_connection", "outcome": "committed", "seconds": 0.0012}],
        "left": ["publish('shop')", "after_commit(shop.mail.send)"],
        "dropped": [],
        "errors": [],
        "started": time.time() - 1,
        "seconds": 0.004,
        **changes,
    }


def test_t11_a_record_answers_why_it_committed() -> None:
    """When, which process, the outcome and its reason, each resource with its time, what left."""
    ended = time.mktime((2026, 11, 25, 12, 55, 3, 0, 0, -1)) + 0.25
    lines = format_record(record(started=ended - 0.004)).splitlines()
    head, why, resource, first, second = (line.split(None, 1) for line in lines)
    assert re.fullmatch(r"12:55:03\.2(50|49)", head[0])
    assert head[1] == "   4711  committed    200    4.00 ms  POST /buy/<int:item> (buy)".lstrip()
    assert why == ["why", "status 200"]
    assert resource == ["resource", "get_connection  committed, 1.20 ms"]
    assert first == ["left", "publish('shop')"]
    assert second == ["after_commit(shop.mail.send)"]


def test_t11_a_failed_record_says_what_was_dropped_and_why() -> None:
    """The rule that decided, what never left and why, and each error of the settling."""
    text = format_record(
        record(
            status=500,
            committed=False,
            decided_by="the commit of db failed: OperationalError",
            resources=[],
            left=[],
            dropped=[{"call": "publish('shop')", "reason": "exception ValueError"}],
            errors=["the commit of db: OperationalError"],
        )
    )
    assert "rolled back" in text
    labels = [line.split()[0] for line in text.splitlines()[1:]]
    assert labels == ["why", "dropped", "error"]
    assert "publish('shop'): exception ValueError" in text


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"url_rule": None, "endpoint": None}, "POST (no rule)"),
        ({"kind": "command", "task": "import-stock"}, "command import-stock"),
        ({"kind": "task", "task": "nightly", "round": "callback"}, "task nightly, callback"),
        ({"kind": "context", "task": "context"}, "context"),
        ({"round": "error page"}, "POST /buy/<int:item> (buy), error page"),
    ],
)
def test_t11_each_kind_of_task_and_round_is_told(changes: dict[str, Any], place: str) -> None:
    """Requests by method, rule and endpoint, others by their names, and which round it was."""
    assert format_record(record(**changes)).splitlines()[0].endswith(f"  {place}")


def test_t11_columns_stand_under_their_headings() -> None:
    """Whatever the numbers are, what belongs together stands in one column."""
    for changes in ({}, {"pid": 7, "status": None, "seconds": 0.0}, {"seconds": 31.0}):
        line = format_record(record(**changes)).splitlines()[0]
        assert line.index("committed") == HEADING.index("outcome")
        assert line.index("POST") == HEADING.index("task")
        assert line[: HEADING.index("outcome")].rstrip().endswith(str(record(**changes)["pid"]))


def test_t11_no_line_is_wider_than_a_hundred_columns() -> None:
    """Long rules, names and reasons are wrapped, and nothing of them is lost."""
    words = [f"word{number}" for number in range(60)]
    text = format_record(
        record(
            url_rule="/" + "/".join(words[:20]),
            decided_by="doomed: " + " ".join(words),
            resources=[
                {"name": f"get_connection_of_{words[5]}", "outcome": " ".join(words), "seconds": 9}
            ],
            left=[", ".join(words)],
            dropped=[{"call": "publish('shop')", "reason": " ".join(words)}],
        )
    )
    assert max(map(len, text.splitlines())) <= WIDTH == 100
    assert text.count("word59") == 4
    joined = re.sub(r"\s+", "", text)
    assert "".join(f"/{word}" for word in words[:20]) in joined


def test_t11_nothing_in_a_record_steers_the_terminal() -> None:
    """Control characters, also of a reason that came from a client, are shown and not obeyed."""
    text = format_record(record(decided_by=f"doomed: {ESCAPE}[2J\r\n\x07\u202egnp\udcff"))
    assert text.isprintable() is False  # the ends of lines
    assert all(line.isprintable() for line in text.splitlines())
    assert r"\x1b[2J\r\n\x07\u202egnp\udcff" in text
    text.encode()


def test_t11_colours_change_nothing_but_colours() -> None:
    """With colours it is the same text, in the same columns."""
    for changes in ({}, {"committed": False, "dropped": [{"call": "a", "reason": "b"}]}):
        shown = record(**changes)
        plain = format_record(shown)
        coloured = format_record(shown, colour=True)
        assert ESCAPE not in plain
        assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain != coloured


class Terminal:
    """Standard output that is a terminal, or is none."""

    def __init__(self, is_terminal: bool) -> None:
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal

    def fileno(self) -> int:
        raise OSError


@pytest.mark.parametrize(
    ("is_terminal", "environment", "coloured"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_t11_colours_are_for_terminals(
    monkeypatch: pytest.MonkeyPatch,
    is_terminal: bool,
    environment: dict[str, str],
    coloured: bool,
) -> None:
    """A pipe gets none, and nobody who sets NO_COLOR to anything."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", Terminal(is_terminal))
    heading, text = Printer.for_output().lines(record())
    assert (ESCAPE in text) == (ESCAPE in heading) == coloured


def test_t11_another_day_is_told_once() -> None:
    """Times have no date, so a line says when the day is not that of the line before."""
    day = 86_400
    printer = Printer(width=WIDTH, colour=False)
    lines = [
        line
        for age in (3 * day, 3 * day, 0, 0)
        for line in printer.lines(record(started=time.time() - age))
    ]
    days = [line for line in lines if line.startswith("-- ")]
    assert len(days) == 2
    assert days[1] == time.strftime("-- %Y-%m-%d --")
    assert lines[0] == HEADING
    assert lines[1] == days[0]

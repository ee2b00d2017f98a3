"""Streams closed by their tag: who was there before, and who came after."""

from __future__ import annotations

import pytest

from sidearm.hub import closing
from sidearm.hub.closing import Closings


@pytest.fixture
def closings() -> Closings:
    """Streams of user:7 were closed at 100, and lost channel a at 200."""
    closings = Closings()
    closings.add("user:7", (), 100, 110)
    closings.add("user:7", ("a",), 200, 210)
    return closings


@pytest.mark.parametrize(
    ("tags", "seen", "left", "closed_at"),
    [
        pytest.param((), 50, ("a", "b"), None, id="no tag"),
        pytest.param(("user:8",), 50, ("a", "b"), None, id="another tag"),
        pytest.param(("user:7",), 50, ("b",), 110, id="before"),
        pytest.param(("user:7",), 100, ("b",), 110, id="at that moment"),
        pytest.param(("user:7",), 101, ("b",), None, id="after the one, before the other"),
        pytest.param(("user:8", "user:7"), 150, ("b",), None, id="one tag of two"),
        pytest.param(("user:7",), 201, ("a", "b"), None, id="after both"),
    ],
)
def test_h8_what_is_left_depends_on_when_the_view_ran(
    closings: Closings,
    tags: tuple[str, ...],
    seen: int,
    left: tuple[str, ...],
    closed_at: int | None,
) -> None:
    """A closing is for the streams whose views ran before it, and for no later one."""
    assert closings.left_of(("a", "b"), tags, seen) == left
    assert closings.closed_at(tags, seen) == closed_at


def test_h8_the_later_closing_counts_in_whatever_order_they_come(closings: Closings) -> None:
    """Two workers' messages may overtake each other."""
    closings.add("user:7", (), 90, 120)
    assert closings.closed_at(["user:7"], 95) == 110


def test_h8_closings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither many log-outs nor a long life makes them grow."""
    monkeypatch.setattr(closing, "TAGS", 3)
    closings = Closings()
    for number in range(10):
        closings.add(f"user:{number}", (), number, number)
    assert len(closings) == 3
    closings.add("user:late", (), closing.AGE + 9, closing.AGE + 9)
    assert len(closings) == 2  # the one of 9, and this
    closings.add("user:later", (), closing.AGE + 11, closing.AGE + 11)
    assert closings.closed_at(["user:9"], 0) is None
    assert closings.closed_at(["user:late"], 0) == closing.AGE + 9

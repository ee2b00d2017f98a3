"""What happened so far: counted, and now and then logged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidearm.hub.figures import FIGURES
from sidearm.hub.tally import Tally

if TYPE_CHECKING:
    import pytest


def test_one_warning_of_a_kind_for_very_many(caplog: pytest.LogCaptureFixture) -> None:
    """A log that is full of one line hides all others."""
    tally = Tally()
    for number in range(1000):
        tally.warn("event", "An event of %d bytes was refused.", number)
    tally.warn("user", "A connection of user %d was refused.", 7)
    assert caplog.messages == [
        "An event of 0 bytes was refused.",
        "A connection of user 7 was refused.",
    ]


def test_h5_counters_go_on_with_those_of_a_predecessor() -> None:
    """One that this version does not count any more is left out; a new one begins with 0."""
    tally = Tally()
    tally.restore({"opened": 5, "of_another_version": 9})
    assert tally.counts["opened"] == 5
    assert tally.counts["published"] == 0
    assert "of_another_version" not in tally.counts


def test_h10_every_counter_is_a_figure() -> None:
    """What is counted is shown."""
    assert set(Tally().counts) <= {figure.field for figure in FIGURES if figure.is_counter}

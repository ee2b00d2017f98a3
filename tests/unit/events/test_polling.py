"""What streams are told while the hub is away."""

from __future__ import annotations

from itertools import pairwise

from sidearm.events.polling import LONGEST_TURN, Turns


def test_h6_clients_of_a_hub_that_is_away_come_back_so_many_in_a_second() -> None:
    """A thousand that ask at the same time get turns that are a hundredth of a second apart."""
    turns = Turns()
    waits = [turns.wait(0, 100.0) for _ in range(1000)]
    # The thousandth waits ten seconds, less what the loop has taken itself.
    assert 5000 < waits[-1] <= 10_000
    assert all(later - wait <= 11 for wait, later in pairwise(waits))


def test_h6_few_clients_wait_no_longer_than_they_would() -> None:
    """Nobody is there to be kept apart from."""
    assert Turns().wait(1500, 100.0) == 1500


def test_h6_no_crowd_makes_a_client_wait_for_ever() -> None:
    """Nor does somebody who asks a million times."""
    turns = Turns()
    waits = [turns.wait(0, 1.0) for _ in range(1000)]
    assert max(waits) <= LONGEST_TURN * 1000
    assert turns.wait(0, 0.0) == 0

"""The simulated fleet does what its description says, in numbers that can be told beforehand."""

from __future__ import annotations

from itertools import pairwise

import pytest
from benchmarks.fleet.driver import solve
from benchmarks.fleet.simulation import (
    LATEST,
    MOST,
    Costs,
    Fleet,
    arrivals,
    most,
    simulate,
)

from sidearm.hub.following import GATHER

NOTHING = Costs(
    append=0.0,
    answer=0.0,
    answer_entry=0.0,
    broker_alone=0.0,
    broker_idle=0.0,
    read=0.0,
    read_entry=0.0,
    send=0.0,
    send_event=0.0,
    hub_idle=0.0,
    send_size=0.0,
)
SPARSE = 0.01  # events in a second, so that none meets another


def test_an_event_alone_takes_all_steps_once() -> None:
    costs = NOTHING._replace(append=0.1, answer=0.02, read=0.003, send=0.0004)
    found = simulate(costs, Fleet(1, 5, 1), SPARSE)
    assert found.middle == pytest.approx(0.1 + 0.02 + 0.003 + 5 * 0.0004)
    assert found.broker == pytest.approx(0.12 * SPARSE, rel=0.2)
    assert found.hub == pytest.approx(0.005 * SPARSE, rel=0.2)


def test_redis_answers_one_hub_after_the_other() -> None:
    found = simulate(NOTHING._replace(append=0.1, answer=0.02), Fleet(3, 0, 1), SPARSE)
    assert found.late == pytest.approx(0.1 + 3 * 0.02)
    assert found.broker == pytest.approx(0.16 * SPARSE, rel=0.2)


@pytest.mark.parametrize("hubs", [1, 7])
@pytest.mark.parametrize("rate", [2000.0, 12_000.0])
def test_dense_events_are_gathered(hubs: int, rate: float) -> None:
    found = simulate(NOTHING, Fleet(hubs, 0, 1), rate)
    assert 0.9 / GATHER < found.answers < 1.01 / GATHER


def test_sparse_events_are_not() -> None:
    found = simulate(NOTHING, Fleet(1, 0, 1), 1.0, count=300)
    assert found.answers == pytest.approx(1.0, rel=0.15)
    assert found.middle == 0.0


def test_events_that_arrive_together_are_one_send_to_each_subscriber() -> None:
    assert Fleet(2, 40, 1).sends(5) == 20
    assert Fleet(2, 40, 4).sends(1) == 5
    assert Fleet(2, 40, 4).sends(2) == pytest.approx(8.75)  # three times in four they differ
    assert Fleet(1, 1_000_000, 1_000_000).sends(3) == pytest.approx(3)


def test_further_events_of_a_send_cost_their_own() -> None:
    """At a thousand a second nearly all are further ones."""
    costs = NOTHING._replace(send_event=1e-5)
    found = simulate(costs, Fleet(1, 10, 1), 1000.0)
    assert found.hub == pytest.approx((1000 - found.answers) * 10 * 1e-5, rel=0.05)


def test_what_is_too_much_for_redis_is_said_to_be() -> None:
    found = simulate(NOTHING._replace(append=0.01), Fleet(1, 0, 1), 200.0)
    assert found.broker > MOST
    assert found.late > LATEST
    assert (found.first, found.holds) == ("Redis", False)


def test_a_hub_that_is_behind_reads_many_at_once() -> None:
    """It reads for a second at a time, and yet falls no further behind."""
    found = simulate(NOTHING._replace(read=1.0), Fleet(1, 0, 1), 100.0, count=1000)
    assert found.answers == pytest.approx(1.0, rel=0.2)
    assert 1.0 < found.late < 2.1


def test_the_limit_is_where_the_arithmetic_has_it() -> None:
    rate, outcome, first = most(NOTHING._replace(read=1e-3, read_entry=1e-3), Fleet(2, 0, 1))
    assert first == "hubs"
    assert rate == pytest.approx(MOST / 1e-3, rel=0.06)
    assert outcome.holds


def test_a_line_ends_too() -> None:
    """A kilobyte to each of a hundred thousand, over 125 megabytes a second."""
    rate, _, first = most(NOTHING._replace(event_size=1000.0), Fleet(1, 100_000, 1))
    assert first == "hubs' lines"
    assert rate == pytest.approx(MOST * 1.25, rel=0.1)


def test_heartbeats_are_sends() -> None:
    costs = NOTHING._replace(send=1e-5)
    found = simulate(costs, Fleet(2, 30_000, 30_000, heartbeat=15.0), SPARSE)
    assert found.hub == pytest.approx(1000 * 1e-5, rel=0.01)


def test_what_carries_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="does not carry"):
        most(NOTHING._replace(append=1000.0), Fleet(1, 0, 1))


def test_times_are_random_in_order_and_the_same_again() -> None:
    times = list(arrivals(50.0, 2000, seed=3))
    assert all(one < other for one, other in pairwise(times))
    assert times[-1] == pytest.approx(40.0, rel=0.1)
    assert times == list(arrivals(50.0, 2000, seed=3))
    assert times != list(arrivals(50.0, 2000, seed=4))


def test_costs_are_told_from_phases_that_differ() -> None:
    """1, 2 and 3; the first phase has none of the first step."""
    assert solve([(0, 2, 1, 7), (1, 1, 1, 6), (3, 0, 1, 6)]) == pytest.approx([1, 2, 3])
    assert solve([(1, 0, 1), (1, 1, 0.5)]) == [1, 0], "No step takes less than nothing."

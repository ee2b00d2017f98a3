"""Back-off and the words for an end, without a process."""

from __future__ import annotations

import pytest

from sidearm.workers.processes import Child, Service, describe_status


@pytest.fixture
def child() -> Child:
    return Child(Service(name="The hub", program=("-m", "nothing")))


def test_a_child_that_keeps_dying_waits_longer_each_time(child: Child) -> None:
    """The wait doubles from 0.1 s to 10 s, and stays there."""
    waits = [child.postpone(now=0.0) for _ in range(9)]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert child.due == 10.0


def test_ten_healthy_seconds_end_the_back_off(child: Child) -> None:
    """A child that was ready for 10 s is started again as quickly as at first."""
    child.postpone(now=0.0)
    child.postpone(now=1.0)
    child.take_down(b"{}\n", now=2.0)
    assert child.postpone(now=11.9) == 0.4
    assert child.postpone(now=12.0) == 0.1


@pytest.mark.parametrize(("said", "grace"), [("20.0", 30.0), ("90.0", 90.0)])
def test_what_it_says_when_ready_may_raise_the_time_to_stop(
    child: Child, said: str, grace: float
) -> None:
    """The graceful timeout of gunicorn counts where it is longer than our own."""
    child.take_down(f'{{"stop_within": {said}}}\n'.encode(), now=0.0)
    assert child.grace == grace


def test_a_child_is_ready_when_all_its_workers_are(child: Child) -> None:
    """Lines may come in any pieces; as many as there are workers make it ready."""
    line = b'{"workers": 3, "stop_within": 35.0}\n'
    assert not child.take_down(line + line, now=0.0)
    assert not child.take_down(line[:5], now=0.0)
    assert child.ready is None
    assert child.grace == 5.0
    assert child.take_down(line[5:], now=0.0)
    assert child.grace == 35.0


@pytest.mark.parametrize(
    ("returncode", "words"),
    [
        (0, "ended with status 0"),
        (3, "ended with status 3"),
        (-9, "was ended by SIGKILL"),
        (-63, "was ended by signal 63"),
    ],
)
def test_the_end_of_a_child_in_words(returncode: int, words: str) -> None:
    """A signal has its name; statuses stay numbers."""
    assert describe_status(returncode) == words

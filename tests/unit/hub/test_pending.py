"""What waits in a worker while the hub is away."""

from __future__ import annotations

from collections import Counter

from sidearm.hub import pending as pending_module
from sidearm.hub.messages import Lost, Splitter, decode_to_hub
from sidearm.hub.pending import Chunk, Pending


def chunk(
    data: bytes = b"0123456789", events: int = 1, channel: str = "a", since: float = 0
) -> Chunk:
    return Chunk(data, events, frozenset([channel]), since)


def drain(pending: Pending) -> list[bytes]:
    got = []
    while pending:
        head = bytes(pending.head())
        got.append(head)
        pending.sent(len(head))
    return got


def test_chunks_leave_in_order() -> None:
    """First in, first out, also in pieces."""
    pending = Pending(10, 1000, 10)
    pending.add(chunk(b"one"), 0)
    pending.add(chunk(b"two"), 0)
    pending.sent(1)
    assert drain(pending) == [b"ne", b"two"]
    assert not pending.has_work


def test_count_drops_the_oldest() -> None:
    """Too many events: the newest are worth most."""
    pending = Pending(3, 1000, 10)
    assert not pending.add(chunk(b"one", events=2), 0)
    assert not pending.add(chunk(b"two"), 0)
    assert pending.add(chunk(b"three"), 0) == Counter({"more than 3 events waited": 2})
    assert drain(pending) == [b"two", b"three"]


def test_bytes_drop_the_oldest() -> None:
    """Too many bytes, one call's too many among them."""
    pending = Pending(100, 25, 10)
    pending.add(chunk(), 0)
    pending.add(chunk(), 0)
    assert pending.add(chunk(), 0).total() == 1
    assert pending.add(chunk(b"x" * 26), 0).total() == 3
    assert not pending


def test_age_drops_what_waited_too_long() -> None:
    """Old events leave, younger ones stay."""
    pending = Pending(100, 1000, 10)
    pending.add(chunk(b"old", since=0), 0)
    pending.add(chunk(b"young", since=5), 5)
    assert pending.trim(10) == Counter()
    assert pending.trim(10.1) == Counter({"they waited for more than 10 seconds": 1})
    assert drain(pending) == [b"young"]


def test_half_sent_chunk_is_sent_whole_on_a_new_connection() -> None:
    """A new connection knows nothing of the old one's half message."""
    pending = Pending(10, 1000, 10)
    pending.add(chunk(b"message"), 0, sent=3)
    assert bytes(pending.head()) == b"sage"
    pending.begin_again()
    assert bytes(pending.head()) == b"message"


def test_dropping_a_half_sent_chunk_tears_the_connection() -> None:
    """What the hub has a part of cannot just be left out."""
    pending = Pending(10, 1000, 10)
    pending.add(chunk(b"message"), 0, sent=3)
    pending.trim(11)
    assert pending.torn
    pending.begin_again()
    assert not pending.torn


def test_channels_of_losses_are_told_once() -> None:
    """The hub hears of them after what waited, and then they are forgotten."""
    pending = Pending(10, 1000, 10)
    pending.add(chunk(channel="b"), 0)
    pending.add(chunk(channel="a"), 0)
    pending.drop_all("test", 20)
    assert pending.has_work
    lost = pending.take_lost(20)
    assert lost is not None
    [data] = Splitter(1000).feed(lost.data)
    assert decode_to_hub(data) == Lost(("a", "b"))
    assert lost.events == 0
    assert pending.take_lost(20) is None
    assert not pending.has_work


def test_losses_of_very_many_channels_are_told_as_all() -> None:
    """The memory for names is bounded."""
    pending = Pending(1, 1000, 10)
    for n in range(pending_module.LOST_CHANNELS + 2):
        pending.add(chunk(channel=str(n)), 0)
    pending.drop_all("test", 0)
    lost = pending.take_lost(0)
    assert lost is not None
    assert lost.channels is None
    [data] = Splitter(1000).feed(lost.data)
    assert decode_to_hub(data) == Lost(())
    pending.add(lost, 0)
    pending.drop_all("again", 0)
    assert pending.lost is None


def test_old_losses_are_not_worth_a_thread() -> None:
    """Nobody tries for ever to reach a hub that is gone."""
    pending = Pending(10, 1000, 10)
    pending.add(chunk(), 0)
    pending.trim(11)
    assert pending.is_worth_a_thread(20)
    assert not pending.is_worth_a_thread(22)
    assert pending.has_work

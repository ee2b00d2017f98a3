"""The leading hub's feed: every entry once, in order, as long as it is kept."""

from __future__ import annotations

from sidearm.brokers import LEAST_AGE, LEAST_SIZE, Event, Limits
from sidearm.hub.feed import HELD, READ_COUNT, READ_SIZE, Feed
from sidearm.hub.log import NANOSECONDS

FLOOR = 1000  # the position before the first entry


def feed(age: float = LEAST_AGE, size: int = LEAST_SIZE) -> Feed:
    """An empty feed."""
    return Feed(Limits(age, size), FLOOR)


def bodies(entries: object) -> list[bytes]:
    """What events carry."""
    return [entry.item.body for entry in entries]  # type: ignore[attr-defined]


def test_e2_positions_grow_while_the_clock_stands_still() -> None:
    """Each entry names the one before it, and none shares its place."""
    log = feed()
    entries = log.append([Event("a", b"1"), Event("a", b"2")], FLOOR)
    entries += log.append([Event("a", b"3")], FLOOR - 5)
    assert [entry.position for entry in entries] == [FLOOR + 1, FLOOR + 2, FLOOR + 3]
    assert [entry.before for entry in entries] == [FLOOR, FLOOR + 1, FLOOR + 2]
    assert log.last == FLOOR + 3


def test_e3_whoever_reads_on_misses_nothing() -> None:
    """Answers are bounded, and follow one another."""
    log = feed()
    log.append([Event("a", b"%d" % number) for number in range(2 * READ_COUNT + 1)], 2000)
    seen, after = list[bytes](), 0
    while part := log.after(after):
        assert len(part) <= READ_COUNT
        seen += bodies(part)
        after = part[-1].position
    assert seen == [b"%d" % number for number in range(2 * READ_COUNT + 1)]
    assert log.after(log.last) == []


def test_e3_large_entries_come_one_by_one() -> None:
    """An answer is no larger than it has to be."""
    log = feed()
    log.append([Event("a", b"x" * READ_SIZE) for _ in range(3)], 2000)
    assert len(log.after(0)) == 1


def test_h4_what_is_too_much_or_too_old_goes() -> None:
    """But nothing of the last call: who follows has not read it yet."""
    log = feed()
    body = b"x" * (LEAST_SIZE // 2)
    log.append([Event("a", body)] * 4, 2000)
    assert len(log.kept()) == 4
    log.append([Event("a", b"next")], 3000)
    assert len(log.kept()) == 2
    assert log.after(0)[0].before > FLOOR  # it is seen that something is missing
    log.append([Event("a", b"later")], int(LEAST_AGE * NANOSECONDS) + 4000)
    assert bodies(log.kept()) == [b"later"]


def test_e3_who_follows_is_not_overtaken() -> None:
    """What a follower has not read is kept, within a larger bound."""
    log = feed()
    event = [Event("a", b"x" * (LEAST_SIZE // 2))]
    read = log.append(event, 2000)[-1].position
    for number in range(2 * HELD - 1):
        log.append(event, 3000 + number, read)
    assert log.after(read)[0].before == read
    for number in range(3):
        log.append(event, 4000 + number, read)
    assert log.after(read)[0].before > read


def test_h5_a_successor_goes_on() -> None:
    """It has the same entries, and the next follows the last."""
    log, successor = feed(), feed()
    log.append([Event("a", b"1"), Event("a", b"2")], 2000)
    successor.restore(log.kept())
    [entry] = successor.append([Event("a", b"3")], 2000)
    assert entry.before == log.last
    assert bodies(successor.after(0)) == [b"1", b"2", b"3"]

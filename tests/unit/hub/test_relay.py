"""The hub's part in ``flask sidearm tasks``: who is asked, and who gets what."""

from __future__ import annotations

from typing import Any

import pytest

from sidearm.exceptions import ProtocolError
from sidearm.hub import relay as module
from sidearm.hub.messages import (
    Leave,
    Message,
    ReadRecords,
    Records,
    RecordsOf,
    Report,
    ReporterLeft,
    Reporters,
    SendRecords,
)
from sidearm.hub.relay import Relay

GOOD = (False, b"good")
BAD = (True, b"bad")


class Connection:
    """One that remembers what was sent on it."""

    def __init__(self) -> None:
        self.sent: list[Message] = []
        self.unread = 0

    def take(self) -> list[Message]:
        sent, self.sent = self.sent, []
        return sent

    def records(self) -> list[bytes]:
        return [
            data for each in self.take() if isinstance(each, RecordsOf) for data in each.records
        ]


def send(connection: Any, message: Message) -> None:
    connection.sent.append(message)


@pytest.fixture
def relay() -> Any:
    return Relay(send)  # type: ignore[arg-type]


def a_process(relay: Any, pid: int = 1) -> Connection:
    connection = Connection()
    relay.take(connection, Report(pid, "shop"))
    return connection


def a_reader(
    relay: Any, *, count: int = 10, failed: bool = False, follow: bool = False
) -> Connection:
    connection = Connection()
    relay.take(connection, ReadRecords(count, failed, follow))
    return connection


def asked(process: Connection) -> SendRecords:
    question = process.take()[-1]
    assert isinstance(question, SendRecords)
    return question


def test_t11_nobody_is_asked_while_nobody_reads(relay: Any) -> None:
    """A process that has reported hears nothing until there is a reader."""
    process = a_process(relay)
    assert process.take() == []
    reader = a_reader(relay, count=7, failed=True)
    assert reader.take() == [Reporters([(1, 1, "shop")]), RecordsOf(0, [])]
    question = asked(process)
    assert (question.count, question.failed, question.follow) == (7, True, "")
    assert question.request


def test_t11_an_answer_goes_to_who_asked(relay: Any) -> None:
    """Two readers, two questions; each gets its own answer, and its end."""
    process = a_process(relay)
    first, second = a_reader(relay), a_reader(relay)
    questions = process.take()
    first.take()
    second.take()
    relay.take(process, Records(questions[1].request, [GOOD], more=True))
    relay.take(process, Records(questions[1].request, [BAD]))
    assert first.take() == []
    assert second.take() == [RecordsOf(1, [b"good"], more=True), RecordsOf(1, [b"bad"])]


def test_t11_who_follows_gets_each_record_once(relay: Any) -> None:
    """News that come before a process's answer are in the answer, and are not passed on."""
    process = a_process(relay)
    early = a_reader(relay, follow=True)
    relay.take(process, Records(asked(process).request, [GOOD]))
    late = a_reader(relay, follow=True)
    question = asked(process)
    early.take()
    late.take()
    relay.take(process, Records(0, [(False, b"news")]))
    relay.take(process, Records(question.request, [GOOD, (False, b"news")]))
    relay.take(process, Records(0, [(False, b"more")]))
    assert early.records() == [b"news", b"more"]
    assert late.records() == [b"good", b"news", b"more"]


def test_t11_processes_send_news_only_while_somebody_follows(relay: Any) -> None:
    """What they are told to send is what is wanted most: all, only what failed, or nothing."""
    process = a_process(relay)
    failed = a_reader(relay, failed=True, follow=True)
    assert asked(process).follow == "failed"
    everything = a_reader(relay, follow=True)
    assert asked(process).follow == "all"
    relay.forget(everything)
    assert process.take() == [SendRecords(0, 0, False, "failed")]
    relay.forget(failed)
    assert process.take() == [SendRecords(0, 0, False, "")]


def test_t11_who_wants_failed_rounds_gets_no_others(relay: Any) -> None:
    """In answers, in news, and in what ended processes have left."""
    ended = a_process(relay)
    relay.take(ended, Leave([GOOD, BAD]))
    relay.forget(ended)
    process = a_process(relay)
    reader = a_reader(relay, failed=True, follow=True)
    assert reader.records() == [b"bad"]
    relay.take(process, Records(asked(process).request, [GOOD, BAD]))
    relay.take(process, Records(0, [GOOD]))
    relay.take(process, Records(0, [GOOD, BAD]))
    assert reader.take() == [RecordsOf(2, [b"bad"]), RecordsOf(2, [b"bad"])]


def test_t11_who_follows_hears_of_a_process_that_comes_and_goes(relay: Any) -> None:
    """A new worker is asked for all that it has, and its end is told."""
    reader = a_reader(relay, count=1, follow=True)
    reader.take()
    process = a_process(relay, 7)
    question = asked(process)
    assert question.count > 1_000_000
    relay.take(process, Records(question.request, [GOOD]))
    relay.forget(process)
    assert reader.take() == [
        Reporters([(1, 7, "shop")]),
        RecordsOf(1, [b"good"]),
        ReporterLeft(1),
    ]


def test_t11_what_a_process_leaves_can_be_read(relay: Any) -> None:
    """The newest, as many as are wanted, also when nobody read while it lived."""
    process = a_process(relay)
    relay.take(process, Leave([(False, b"1"), (False, b"2")], more=True))
    relay.take(process, Leave([(False, b"3")]))
    relay.forget(process)
    assert a_reader(relay, count=2).records() == [b"2", b"3"]


def test_t11_who_follows_gets_of_what_is_left_only_what_is_new(relay: Any) -> None:
    """And everything of a process that ends before it could answer."""
    process = a_process(relay)
    reader = a_reader(relay, follow=True)
    relay.take(process, Records(asked(process).request, [GOOD]))
    reader.take()
    relay.take(process, Leave([GOOD, (False, b"new")], seen=1))
    short_lived = a_process(relay)
    relay.take(short_lived, Leave([(True, b"failed")]))
    assert reader.records() == [b"new", b"failed"]


@pytest.mark.parametrize("size", [1, 300_000])
def test_t11_what_is_kept_of_ended_processes_is_bounded(relay: Any, size: int) -> None:
    """By count and by bytes; the newest are kept."""
    process = a_process(relay)
    for number in range(module.KEPT_RECORDS + 10):
        relay.take(process, Leave([(False, f"{number:>{size}}".encode())]))
    kept = a_reader(relay, count=10_000).records()
    assert len(kept) == min(module.KEPT_RECORDS, module.KEPT_BYTES // size)
    assert int(kept[-1]) == module.KEPT_RECORDS + 9


def test_t11_a_reader_that_does_not_read_misses_news_and_is_told(relay: Any) -> None:
    """The hub keeps no more than a bounded number of bytes for it, and says so afterwards."""
    process = a_process(relay)
    reader = a_reader(relay, follow=True)
    relay.take(process, Records(asked(process).request, []))
    reader.take()
    reader.unread = module.UNREAD_LIMIT + 1
    relay.take(process, Records(0, [GOOD]))
    assert reader.take() == []
    reader.unread = 0
    relay.take(process, Records(0, [BAD]))
    relay.take(process, Records(0, [BAD]))
    assert reader.take() == [RecordsOf(1, [b"bad"], missed=True), RecordsOf(1, [b"bad"])]


def test_t11_a_process_that_does_not_read_is_asked_nothing_more(relay: Any) -> None:
    """A stopped worker costs the hub a bounded number of bytes."""
    process = a_process(relay)
    process.unread = module.QUESTIONS_LIMIT + 1
    reader = a_reader(relay, follow=True)
    relay.forget(reader)
    assert process.take() == []


@pytest.mark.parametrize(
    "messages",
    [
        [Records(0, [GOOD])],
        [Leave([GOOD])],
        [Report(1, "shop"), Report(1, "shop")],
        [ReadRecords(1, False, False), ReadRecords(1, False, False)],
    ],
)
def test_t11_what_does_not_fit_is_refused(relay: Any, messages: list[Any]) -> None:
    """Records of nobody, and a second beginning."""
    connection = Connection()
    with pytest.raises(ProtocolError):
        for message in messages:
            relay.take(connection, message)

"""What workers and the hub say to each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidearm.exceptions import ProtocolError
from sidearm.hub.messages import (
    VERSION,
    Close,
    Fetch,
    Fetched,
    Figures,
    Handoff,
    Hello,
    Leave,
    Lost,
    Message,
    Publish,
    ReadRecords,
    Records,
    RecordsOf,
    Refused,
    Report,
    ReporterLeft,
    Reporters,
    SendRecords,
    Splitter,
    Stats,
    Welcome,
    decode_from_hub,
    decode_to_hub,
    encode,
)

TO_HUB = [
    Hello(VERSION, "publish"),
    Publish([("a", b"data: \xf0\x9f\x8d\xb5\n", True), ("b", b"", False)], (1,)),
    Lost(("a", "b")),
    Close("user:7", ("a",), 5),
    Handoff(("a",), "p", "l", b"s", 1, 2.5, "203.0.113.7", ("user:7",), 60.0),
    Handoff(("a", "b")),
    Fetch(("a",), "p", None, None, 2000, None, ("user:7",)),
    Stats(),
    Report(7, "shop"),
    Records(3, [(True, b"{}")], more=True, missed=True),
    Leave([(False, b"{}")], 1, more=True),
    ReadRecords(20, True, False),
]
FROM_HUB = [
    Welcome(VERSION, "e", -5, 1 << 20, 7),
    Refused("why"),
    Fetched(b"data: x\n\n"),
    Figures("e", 7, 1.5, subscribers=3),
    SendRecords(3, 20, True, "failed"),
    Reporters([(1, 7, "shop")]),
    RecordsOf(1, [b"{}"], more=True, missed=True),
    ReporterLeft(1),
]


@pytest.mark.parametrize("message", TO_HUB, ids=lambda message: type(message).__name__)
def test_worker_is_understood(message: Message) -> None:
    """Every message to the hub survives the wire."""
    [data] = Splitter(1000).feed(encode(message))
    assert decode_to_hub(data) == message


@pytest.mark.parametrize("message", FROM_HUB, ids=lambda message: type(message).__name__)
def test_hub_is_understood(message: Message) -> None:
    """Every answer survives the wire."""
    [data] = Splitter(1000).feed(encode(message))
    assert decode_from_hub(data) == message


@given(st.lists(st.integers(1, 40), max_size=40))
def test_bytes_may_be_cut_anywhere(cuts: list[int]) -> None:
    """A stream socket keeps no borders."""
    data = b"".join(encode(message) for message in TO_HUB)
    splitter = Splitter(1000)
    got: list[bytes] = []
    for size in [*cuts, len(data)]:
        got += splitter.feed(data[:size])
        data = data[size:]
    assert [decode_to_hub(each) for each in got] == TO_HUB
    assert not splitter.holds_part


def test_part_of_a_message_is_held() -> None:
    """Whether something is unfinished decides whether a descriptor may wait for it."""
    data = encode(Stats())
    splitter = Splitter(1000)
    assert splitter.feed(data[:3]) == []
    assert splitter.holds_part
    assert len(splitter.feed(data[3:])) == 1
    assert not splitter.holds_part


@pytest.mark.parametrize("size", [0, 1001, 0xFFFFFFFF])
def test_size_out_of_bounds_is_refused_before_it_comes(size: int) -> None:
    """Nobody can make the reader wait for, or keep, more than the limit."""
    with pytest.raises(ProtocolError, match=f"{size} bytes"):
        Splitter(1000).feed(size.to_bytes(4, "big"))


@given(st.binary(max_size=60))
def test_nonsense_is_a_protocol_error(data: bytes) -> None:
    """Random bytes are a message or a ProtocolError, and nothing else."""
    for decode in (decode_to_hub, decode_from_hub):
        try:
            message: Message = decode(data)
        except ProtocolError:
            continue
        assert isinstance(message, Message)


def test_an_answer_is_no_request() -> None:
    """Each side reads only what the other may say."""
    [data] = Splitter(1000).feed(encode(Refused("why")))
    with pytest.raises(ProtocolError):
        decode_to_hub(data)


def test_newer_worker_may_add_fields() -> None:
    """A field at the end of a message is no new version."""
    import msgspec

    added = msgspec.msgpack.encode(["publish", [["a", b"data: x\n", True]], [], "something new"])
    assert decode_to_hub(added) == Publish([("a", b"data: x\n", True)])


def test_older_worker_may_leave_fields_out() -> None:
    """What a worker of an earlier release sends is understood, with the defaults of what is new."""
    import msgspec

    publish = msgspec.msgpack.encode(["publish", [["a", b"data: x\n", True]]])
    assert decode_to_hub(publish) == Publish([("a", b"data: x\n", True)], ())
    handoff = msgspec.msgpack.encode(
        ["handoff", ["a"], "p", None, None, 1000, None, "203.0.113.7", []]
    )
    assert decode_to_hub(handoff) == Handoff(("a",), "p", retry=1000, address="203.0.113.7")
    fetch = msgspec.msgpack.encode(["fetch", ["a"], "p", None, None, 2000, None])
    assert decode_to_hub(fetch) == Fetch(("a",), "p", retry=2000)


def test_kind_that_is_unknown_is_refused_by_its_name() -> None:
    """A message of a later release is no mystery in the log."""
    import msgspec

    with pytest.raises(ProtocolError, match="'levitate'"):
        decode_to_hub(msgspec.msgpack.encode(["levitate", 7]))

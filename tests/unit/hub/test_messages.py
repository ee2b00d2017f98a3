"""What workers and the hub say to each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidearm.exceptions import ProtocolError
from sidearm.hub.messages import (
    VERSION,
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
    Publish([("a", b"data: \xf0\x9f\x8d\xb5\n", True), ("b", b"", False)]),
    Lost(("a", "b")),
    Handoff(("a",), "p", "l", b"s", 1, 2.5, "203.0.113.7", ("user:7",)),
    Handoff(("a", "b")),
    Fetch(("a",), "p", None, None, 2000, None),
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

    added = msgspec.msgpack.encode(["publish", [["a", b"data: x\n", True]], "something new"])
    assert decode_to_hub(added) == Publish([("a", b"data: x\n", True)])

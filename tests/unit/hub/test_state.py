"""A hub's state in pieces and together again, without a socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidearm.exceptions import ProtocolError
from sidearm.hub.config import HubConfig
from sidearm.hub.log import Log
from sidearm.hub.messages import LENGTH_BYTES, Refused, encode
from sidearm.hub.position import Clock
from sidearm.hub.state import (
    CLIENTS_AT_ONCE,
    STATE_VERSION,
    Client,
    Clients,
    ClientState,
    Collected,
    End,
    Frames,
    History,
    LogState,
    Outline,
    RelayState,
    Worker,
    WorkerState,
    decode,
    pieces,
)
from sidearm.hub.subscribers import Outbox

if TYPE_CHECKING:
    from collections.abc import Iterable

LOG = LogState("0123456789", 5, 1, 9, 2, [("gone", 3)], [("done", 4)])
OUTLINE = Outline(STATE_VERSION, 1, 0.5, LOG, RelayState(), {"published": 7})


def tell(
    history: Iterable[tuple[int, str, bytes]] = (),
    workers: Iterable[Worker] = (),
    clients: Iterable[Client] = (),
) -> Collected:
    """What arrives when all pieces are encoded, and decoded again."""
    collected = Collected()
    for piece, descriptors in pieces(OUTLINE, [1, 2, 3], history, workers, clients):
        there = decode(encode(piece)[LENGTH_BYTES:])
        assert not isinstance(there, Refused)
        assert len(descriptors) <= 253
        collected.take(there, descriptors)
    assert collected.is_whole
    return collected


def test_everything_arrives_as_it_was() -> None:
    """History, workers with what they hold, and clients with what waits for them."""
    kept = [(n, "ab"[n % 2], b"frame %d" % n) for n in range(12_000)]
    workers = [
        Worker(WorkerState("publish", b"\0\0", b"answer", []), [10]),
        Worker(WorkerState(None, b"", b"", [True, False]), [11, 12]),
    ]
    clients = [
        Client(100 + n, ClientState(("a",), exempt=n % 3), [(kept[n][2], n % 5)] * (n % 3))
        for n in range(CLIENTS_AT_ONCE + 1)
    ]
    collected = tell(kept, workers, clients)
    assert collected.outline == OUTLINE
    assert collected.descriptors == [1, 2, 3]
    assert collected.history == kept
    assert collected.workers == workers
    assert [(c.descriptor, c.waiting, c.state.exempt) for c in collected.clients] == [
        (c.descriptor, c.waiting, c.state.exempt) for c in clients
    ]


def test_h5_no_message_has_more_descriptors_than_the_kernel_takes() -> None:
    """Linux takes 253 (SCM_MAX_FD); each worker may hold a client's beside its own."""
    workers = [Worker(WorkerState("handoff", b"", b"", [True]), [n, 1]) for n in range(1001)]
    clients = [Client(n, ClientState(("a",)), []) for n in range(1001)]
    told = list(pieces(OUTLINE, [1, 2, 3], [], workers, clients))
    assert max(len(descriptors) for _, descriptors in told) <= 253
    assert sum(len(descriptors) for _, descriptors in told) == 3 + 3 * 1001
    collected = tell((), workers, clients)
    assert collected.workers == workers
    assert collected.clients == clients


def test_one_frame_for_many_stays_one_object() -> None:
    """A thousand slow clients do not make a thousand copies of what waits for them."""
    frame = b"x" * 100_000
    clients = [Client(n, ClientState(("a",)), [(frame, n)]) for n in range(1000)]
    told = list(pieces(OUTLINE, [1, 2, 3], [(1, "a", frame)], [], clients))
    assert sum(len(encode(piece)) for piece, _ in told) < 2 * len(frame)
    collected = tell([(1, "a", frame)], [], clients)
    objects = {id(c.waiting[0][0]) for c in collected.clients} | {id(collected.history[0][2])}
    assert len(objects) == 1


@given(st.lists(st.binary(min_size=1, max_size=30), min_size=1, max_size=20), st.data())
def test_an_outbox_goes_over_cut_at_the_byte(frames: list[bytes], data: st.DataObject) -> None:
    """What was sent of the first frame is not sent again."""
    sent = data.draw(st.integers(0, len(frames[0]) - 1))
    exempt = data.draw(st.integers(0, 10))
    outbox = Outbox([memoryview(frames[0])[sent:], *map(memoryview, frames[1:])], exempt=False)
    outbox.exempt = exempt
    [client] = tell(clients=[Client(9, ClientState(("a",), exempt=exempt), outbox.parts())]).clients
    restored = Outbox.restore(client.waiting, client.state.exempt)
    assert (restored.size, restored.exempt) == (outbox.size, exempt)
    assert b"".join(frame[start:] for frame, start in restored.parts()) == b"".join(frames)[sent:]


def test_a_log_goes_over_with_what_it_has_forgotten() -> None:
    """The restored log gives the same answers, and goes on with later positions."""
    config = HubConfig(socket="", history_count=3)
    log = Log(config, Clock.start())
    start = log.mark()
    for n in range(5):
        log.append("a", b"data: %d\n" % n, True)
        log.append("b", b"data: b%d\n" % n, n != 2)
    log.lose(("c",))
    again = Log.restore(config, log.state(), tell(log.kept()).history)
    assert (again.clock, again.first, again.last, again.size, len(again)) == (
        log.clock,
        log.first,
        log.last,
        log.size,
        len(log),
    )
    for channels in (("a",), ("b",), ("a", "b"), ("c",), ("d",)):
        for time in (start, log.last, *(time for time, _, _ in log.kept())):
            assert again.since(channels, time) == log.since(channels, time), (channels, time)
    before = again.last
    again.append("a", b"data: 6\n", True)
    assert again.last > before


def test_a_log_obeys_the_limits_of_its_new_hub() -> None:
    """Fewer events may be kept than before; what goes leaves its mark."""
    log = Log(HubConfig(socket=""), Clock.start())
    start = log.mark()
    for n in range(9):
        log.append("a", b"data: %d\n" % n, True)
    again = Log.restore(HubConfig(socket="", history_count=2), log.state(), log.kept())
    assert len(again) == 2
    assert again.since(("a",), start) is None


def test_what_does_not_fit_is_refused() -> None:
    """Missing descriptors, pieces out of order, frames that nobody told, and nonsense."""
    collected = Collected()
    with pytest.raises(ProtocolError, match="out of order"):
        collected.take(Frames([b"a"]), [])
    with pytest.raises(ProtocolError, match="2 descriptors came where 3"):
        collected.take(OUTLINE, [1, 2])
    collected.take(OUTLINE, [1, 2, 3])
    with pytest.raises(ProtocolError, match="out of order"):
        collected.take(OUTLINE, [1, 2, 3])
    with pytest.raises(ProtocolError, match="Frame 1 was named"):
        collected.take(History([(1, "a", 1)]), [])
    with pytest.raises(ProtocolError, match="1 descriptors came where 0"):
        collected.take(End(), [4])
    collected.take(End(), [])
    with pytest.raises(ProtocolError, match="out of order"):
        collected.take(Clients([]), [])
    with pytest.raises(ProtocolError, match="cannot be read"):
        decode(b"nonsense")

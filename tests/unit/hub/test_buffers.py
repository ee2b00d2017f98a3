"""What waits for slow subscribers counts once, however many wait for it."""

from __future__ import annotations

import socket

from hypothesis import given
from hypothesis import strategies as st

from sidearm.hub.buffers import OBJECT_OVERHEAD, Buffers
from sidearm.hub.subscribers import Outbox


def test_h4_shared_data_counts_once() -> None:
    """A thousand that do not read cost what one does."""
    buffers = Buffers()
    data = b"x" * 1000
    for _ in range(1000):
        buffers.hold(data)
        buffers.hold(memoryview(data)[10:])
    assert buffers.size == 1000 + OBJECT_OVERHEAD
    for _ in range(1000):
        buffers.release(data)
        buffers.release(memoryview(data)[20:])
    assert buffers.size == 0


@given(
    st.lists(st.integers(0, 200_000), max_size=20),
    st.lists(st.sampled_from(["add", "read", "send"]), max_size=60),
)
def test_h4_outbox_gives_back_what_it_counted(sizes: list[int], steps: list[str]) -> None:
    """Whatever was sent and joined: when nothing waits, nothing is counted."""
    buffers = Buffers()
    near, far = socket.socketpair()
    with near, far:
        far.setblocking(False)
        parts = [bytes(size + 2) for size in sizes]  # each an object of its own
        outbox = Outbox(parts, exempt=True)
        outbox.count_in(buffers)
        for step in steps:
            if step == "add":
                outbox.add(bytes(1000))
            elif step == "send":
                outbox.send(near)
            else:
                _read(far)
            assert buffers.size >= outbox.size
        outbox.discard()
        assert buffers.size == outbox.size == 0


def test_h4_outbox_sends_in_order_while_it_is_counted() -> None:
    """Counting changes nothing of what leaves."""
    buffers = Buffers()
    near, far = socket.socketpair()
    with near, far:
        far.setblocking(False)
        parts = [b"%06d" % number for number in range(100_000)]
        outbox = Outbox(parts, exempt=False)
        outbox.count_in(buffers)
        received = b""
        while outbox.size:
            outbox.send(near)
            received += _read(far)
        received += _read(far)
    assert received == b"".join(parts)
    assert buffers.size == 0


def _read(end: socket.socket) -> bytes:
    received = b""
    try:
        while more := end.recv(1 << 20):
            received += more
    except BlockingIOError:
        pass
    return received

"""The two ends of a takeover: who may go on when, and who serves at the end."""

from __future__ import annotations

import array
import fcntl
import os
import socket
import termios
from _socket import socket as RawSocket  # noqa: N812
from typing import TYPE_CHECKING

import pytest

from sidearm.hub.state import (
    CLIENTS_AT_ONCE,
    STATE_VERSION,
    AnyPiece,
    Client,
    Clients,
    ClientState,
    End,
    LogState,
    Outline,
    RelayState,
    pieces,
)
from sidearm.hub.takeover import ARRIVED, GIVEN_UP, SERVING, Token, give

if TYPE_CHECKING:
    from collections.abc import Iterator

OUTLINE = Outline(STATE_VERSION, 1, 0.5, LogState("0123456789", 0, 0, 0, 0, []), RelayState(), {})


class Ends:
    """Both ends of a connection, and a token.

    Attributes:
        link: The old hub's end.
        far: The new hub's end.
    """

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        self.link = RawSocket(near.family, near.type, near.proto, near.detach())
        self.link.setblocking(False)
        self.token = Token.make()

    def untaken(self) -> int:
        """How many bytes of what the new hub has said the old one has not read yet."""
        count = array.array("i", [0])
        fcntl.ioctl(self.link.fileno(), termios.FIONREAD, count)
        return count[0]

    def close(self) -> None:
        self.link.close()
        self.far.close()
        self.token.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


def test_h5_each_batch_of_descriptors_waits_for_the_arrival_of_the_one_before(ends: Ends) -> None:
    """2,001 clients: never more than one batch is under way, nor more than one message may have."""
    clients = [Client(ends.far.fileno(), ClientState(("a",)), []) for _ in range(2001)]
    batches = -(-len(clients) // CLIENTS_AT_ONCE)
    total = batches + 2  # the outline and the end
    ends.far.sendall(ARRIVED * total)
    sizes = []

    def watched() -> Iterator[tuple[AnyPiece, list[int]]]:
        first = [ends.token.fileno()] * 3
        for number, (piece, descriptors) in enumerate(pieces(OUTLINE, first, [], [], clients)):
            assert ends.untaken() == total - number, "The answer to the last piece was not read."
            sizes.append(len(descriptors))
            yield piece, descriptors
            if number == total - 1:
                ends.far.sendall(SERVING)

    ends.token.take()  # the new hub has it
    # What has arrived is taken out of the way, so that it fits.
    reader = _Drain(ends.far)
    assert give(ends.link, reader.after_each(watched()), ends.token) is None
    assert sizes == [3, *[CLIENTS_AT_ONCE] * (batches - 1), 1, 0]
    assert max(sizes) <= 253
    assert reader.descriptors == sum(sizes)


class _Drain:
    """Receives what each piece was, when the next one is asked for."""

    def __init__(self, far: socket.socket) -> None:
        self._far = far
        self.descriptors = 0

    def after_each(
        self, told: Iterator[tuple[AnyPiece, list[int]]]
    ) -> Iterator[tuple[AnyPiece, list[int]]]:
        for piece, descriptors in told:
            yield piece, descriptors
            left = len(descriptors)
            while left:
                _, arrived, _, _ = socket.recv_fds(self._far, 1 << 18, 253)
                for descriptor in arrived:
                    os.close(descriptor)
                left -= len(arrived)
                self.descriptors += len(arrived)


def broken() -> Iterator[tuple[AnyPiece, list[int]]]:
    """A state that cannot be told to its end."""
    yield End(), []
    raise TypeError("a frame is no bytes")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "ended before"),
        (GIVEN_UP + "no room: ä".encode(), "no room: ä"),
        (b"HTTP/1.1", "answered b'H'"),
        (ARRIVED, "ended before"),
    ],
    ids=["hung up", "gave up", "nonsense", "hung up after a piece"],
)
def test_h5_old_hub_takes_the_token_back(ends: Ends, said: bytes, reason: str) -> None:
    """And so it serves, and knows why."""
    ends.far.sendall(said)
    ends.far.shutdown(socket.SHUT_WR)
    answer = give(ends.link, iter([(Clients([]), []), (End(), [])]), ends.token)
    assert answer is not None
    assert reason in answer
    assert not ends.token.take()


def test_h5_token_decides_also_where_the_state_cannot_be_told(
    ends: Ends, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is wrong with the old hub: it goes on, unless the new one has the right to serve."""
    ends.far.sendall(ARRIVED)
    answer = give(ends.link, broken(), ends.token)
    assert answer is not None
    assert "a frame is no bytes" in answer
    assert "Traceback" in caplog.text
    assert not ends.token.take()

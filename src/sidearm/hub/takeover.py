"""One hub takes over from another: every connection, and all that belongs to it.

The new hub connects to the old one's socket, like a worker, and asks for everything
(:class:`~sidearm.hub.messages.TakeOver`). From then on the old one does nothing else: it reads from
nobody and sends to nobody, so what it tells is exact and stays so. It tells its state in pieces
(:mod:`~sidearm.hub.state`), each with its descriptors, and waits after each for a byte that says
that it has arrived: descriptors on their way count against the sender's limit. The new hub only
collects: it reads from no connection and sends on none.

Nothing is lost and nothing comes twice, because each byte is in one place:

- what the old hub has read of a worker is in the log that goes over, or is the part of a message
  that goes over with its connection; what it has not read is in the kernel's buffer, and the new
  hub reads on there. A descriptor whose message is not whole yet goes over too;
- what the old hub has sent to a client has gone; what the kernel did not take is in the outbox that
  goes over, cut at the byte;
- who connects meanwhile waits in the backlog of the listening socket, which goes over, as does the
  lock that says that this path is served.

**Who serves** is never in doubt, whoever dies or stands still, and when. The right to serve is a
*token*: one byte in a pipe of which both hold the read end. Reading it is one system call, and only
one of them can get the byte. The new hub reads it when it has everything, is ready, and has nothing
more to do that could fail. The old one reads it when it gives up: when the other hangs up, sends
nonsense, or moves nothing for :data:`STEP_PATIENCE`, or the whole takes :data:`PATIENCE`.

- The old hub gets the byte: it goes on as if nothing had been. The new one, if it still lives,
  finds the pipe empty, and ends without having touched a connection. Descriptors are closed there
  without ``shutdown``, so the connections are unharmed.
- The new hub gets the byte: it serves. The old one finds the pipe empty and ends, again without
  ``shutdown``. If the new one dies after this moment, that is the death of a hub like any other.
- The old hub dies before all was told: the new one has only a part, and ends too; the streams that
  were not told have ended with the old hub. That is the death of a hub, as without a replacement.
- The old hub dies after all was told: the new one has everything, gets the byte and serves.

While this lasts (0.15 to 0.2 s for 10,000 clients) publishing processes go on writing into the
buffers of their connections, and what does not fit waits in them.
"""

from __future__ import annotations

import array
import contextlib
import errno
import logging
import os
import socket
import time
from _socket import socket as RawSocket  # noqa: N812
from collections.abc import Callable, Iterable, Iterator

from ..exceptions import HubError, ProtocolError
from . import platform
from .link import ANSWER_LIMIT, Link
from .messages import Refused, Splitter, TakeOver, encode
from .reader import NoHub
from .state import STATE_VERSION, AnyPiece, Collected, decode

STEP_PATIENCE = 5.0  # seconds without any progress
PATIENCE = 20.0  # seconds in all; what workers let wait waits for 30
CONNECT_PATIENCE = 10.0  # seconds; the old hub may be busy
RECEIVE_SIZE = 1 << 18  # bytes
REASON_LIMIT = 1000  # bytes
_DESCRIPTOR_SIZE = array.array("i").itemsize
_ANCILLARY_SIZE = socket.CMSG_SPACE(253 * _DESCRIPTOR_SIZE) if platform.can_hand_off() else 0

ARRIVED = b"+"
SERVING = b"!"
GIVEN_UP = b"-"

logger = logging.getLogger("sidearm.hub")


class NotReplaceable(HubError):
    """The running hub goes on; the message says why it could not be replaced."""


class Token:
    """The right to serve: one byte in a pipe, which one process at most can read.

    Args:
        descriptor: The read end; owned from now on.
    """

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def make(cls) -> Token:
        """A token that nobody has taken."""
        descriptor, writing = os.pipe()
        try:
            os.write(writing, b"\0")
        finally:
            # Without a writer, an empty pipe reads as its end, and nobody waits.
            os.close(writing)
        return cls(descriptor)

    def fileno(self) -> int:
        """The read end, to be given to the other process."""
        return self._descriptor

    def take(self) -> bool:
        """Take it; False: the other one was faster."""
        return os.read(self._descriptor, 1) != b""

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)


class Timer:
    """Ends waits: each step, and the whole."""

    def __init__(self) -> None:
        self._end = time.monotonic() + PATIENCE

    def wait(self, link: RawSocket, condition: int) -> None:
        """Wait until a socket can be read or written.

        Raises:
            TimeoutError: It took too long.
        """
        seconds = min(STEP_PATIENCE, self._end - time.monotonic())
        if seconds <= 0 or not platform.wait_ready(link.fileno(), condition, seconds):
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


# The old hub


def give(link: RawSocket, pieces: Iterable[tuple[AnyPiece, list[int]]], token: Token) -> str | None:
    """Tell everything to a successor, and learn who serves.

    Args:
        link: The successor's connection; not blocking.
        pieces: The state, with descriptors.
        token: Was among the descriptors of the first piece.

    Returns:
        None: the successor serves. Else why it does not: this process does.
    """
    timer = Timer()
    reason = "the new hub ended before it took over"
    try:
        for piece, descriptors in pieces:
            _send(link, encode(piece), descriptors, timer)
            _expect_arrival(link, timer)
        timer.wait(link, platform.READ)
        reason = _given_up(link) or reason
    except TimeoutError:
        reason = "the new hub did not answer in time"
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ECONNRESET):
            reason = f"its descriptors could not be sent ({error.strerror or error})"
    except ProtocolError as error:
        reason = str(error)
    except Exception as error:  # else nobody would ask the token
        logger.exception("The hub's state could not be told.")
        reason = f"the state could not be told: {error!r}"
    return reason if token.take() else None


def _send(link: RawSocket, data: bytes, descriptors: list[int], timer: Timer) -> None:
    rest = memoryview(data)
    ancillary = (
        [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        if descriptors
        else []
    )
    while rest:
        try:
            sent = link.sendmsg([rest], ancillary)
        except BlockingIOError:
            timer.wait(link, platform.WRITE)
            continue
        ancillary = []
        rest = rest[sent:]


def _expect_arrival(link: RawSocket, timer: Timer) -> None:
    timer.wait(link, platform.READ)
    answer = link.recv(1, platform.PEEK)
    if not answer:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    if answer == ARRIVED:
        link.recv(1)
        return
    raise ProtocolError(_given_up(link) or f"the new hub answered {answer!r}")


def _given_up(link: RawSocket) -> str | None:
    """Why the new hub gave up, if it says so."""
    answer = link.recv(REASON_LIMIT)
    return answer[1:].decode("utf-8", "replace") if answer.startswith(GIVEN_UP) else None


# The new hub


class Successor:
    """The new hub's end of the connection to the old one.

    Args:
        path: The socket of the hub to take over from.
        room: How many descriptors this process may have.

    Raises:
        NoHub: Nobody is there.
        HubError: Another user's program, or a hub that does not understand us, is there.
    """

    def __init__(self, path: str, room: int) -> None:
        self._path = path
        self._timer = Timer()
        try:
            self._link = Link(path, "successor", CONNECT_PATIENCE)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise NoHub(f"No hub answers on {path!r} ({error}).", path) from error
        except (OSError, ProtocolError) as error:
            raise self._failure(f"it did not answer ({error})") from error
        self.old_pid = self._link.welcome.pid
        self._room = room
        self._descriptors: list[int] = []

    def collect(self, on_piece: Callable[[AnyPiece], None] | None = None) -> Collected:
        """Ask for everything, and wait for it.

        Args:
            on_piece: Called with each piece, before its arrival is told.

        Raises:
            NotReplaceable: The old hub refuses, or dies, or what it says cannot be had. All
                descriptors that it sent are closed.
        """
        collected = Collected()
        try:
            self._link.send(encode(TakeOver((STATE_VERSION,), self._room)), STEP_PATIENCE)
            for piece, descriptors in self._pieces():
                collected.take(piece, descriptors)
                if on_piece is not None:
                    on_piece(piece)
                self._link.send(ARRIVED, STEP_PATIENCE)
                if collected.is_whole:
                    return collected
        except TimeoutError as error:
            self._discard()
            raise self._failure("it said nothing more in time") from error
        except OSError as error:
            self._discard()
            raise self._failure(f"it hung up in the middle ({error.strerror or error})") from error
        except ProtocolError as error:
            self.give_up(str(error))
            self._discard()
            raise self._failure(str(error)) from error
        except BaseException:
            self._discard()
            raise
        raise AssertionError("the pieces end with an error or with the whole")

    def tell_serving(self) -> None:
        """Let the old hub go; the token has been taken."""
        with contextlib.suppress(OSError):  # it has died: nobody waits
            self._link.send(SERVING, STEP_PATIENCE)
        self._link.close()

    def give_up(self, reason: str) -> None:
        """Tell the old hub why it has to go on."""
        with contextlib.suppress(OSError):
            self._link.send(GIVEN_UP + reason.encode()[: REASON_LIMIT - 1], STEP_PATIENCE)
        self._link.close()

    def _pieces(self) -> Iterator[tuple[AnyPiece, list[int]]]:
        splitter = Splitter(ANSWER_LIMIT)
        arrived: list[int] = []
        while True:
            data = self._receive(arrived)
            for message in splitter.feed(data):
                piece = decode(message)
                if isinstance(piece, Refused):
                    raise ProtocolError(piece.reason.removesuffix("."))
                # The next one is only sent when this one has been answered.
                yield piece, arrived
                arrived = []

    def _receive(self, arrived: list[int]) -> bytes:
        link = self._link.socket
        self._timer.wait(link, platform.READ)
        data, ancillary, flags, _ = link.recvmsg(
            RECEIVE_SIZE, _ANCILLARY_SIZE, platform.CMSG_CLOEXEC
        )
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors = array.array("i")
                descriptors.frombytes(raw[: len(raw) - len(raw) % _DESCRIPTOR_SIZE])
                arrived.extend(descriptors)
                self._descriptors.extend(descriptors)
                if not platform.CMSG_CLOEXEC:
                    for descriptor in descriptors:
                        os.set_inheritable(descriptor, False)
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError("the new hub has no room for all descriptors")
        if not data:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        return data

    def _discard(self) -> None:
        """Close what was received, without shutdown: it still belongs to the old hub."""
        self._link.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []

    def _failure(self, reason: str) -> NotReplaceable:
        return NotReplaceable(f"The hub on {self._path!r} was not replaced: {reason}.", self._path)

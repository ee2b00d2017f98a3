"""The hub's side of one worker's connection: bytes and descriptors in, messages out."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import sys
from _socket import socket as RawSocket  # noqa: N812
from collections import deque
from collections.abc import Iterator

from ..exceptions import ProtocolError
from . import platform
from .messages import (
    HELLO_LIMIT,
    VERSION,
    Handoff,
    Hello,
    Message,
    Splitter,
    ToHub,
    decode_to_hub,
    encode,
)
from .state import Worker, WorkerState

READS = 128  # for one wake-up; a worker that never stops does not starve the others
READ_LIMIT = 4 << 20  # bytes for one wake-up, about
OUTGOING_LIMIT = 1 << 26  # bytes of answers that a worker may leave unread
_SOCKET, _RIGHTS = int(socket.SOL_SOCKET), int(getattr(socket, "SCM_RIGHTS", -1))
_DESCRIPTOR_SIZE = array.array("i").itemsize
# Room for a few more descriptors than the one that is due: whoever sends more is seen, and refused.
_ANCILLARY_SIZE = socket.CMSG_SPACE(4 * _DESCRIPTOR_SIZE) if platform.can_hand_off() else 0


class Connection:
    """One worker's connection.

    Args:
        connection: The accepted socket.
        buffer: What to read through: one for all connections of a hub, one after the other.
        message_limit: The largest message accepted after the greeting, in bytes.

    Attributes:
        role: What the worker said the connection is for; None before it said hello.
        lost_descriptors: Descriptors that the kernel had no room for, since the last look.
        was_emptied: Whether the last look found everything that had arrived.
        most_read: The most bytes that came at once in it: a hand-off always comes by itself.
    """

    __slots__ = (
        "_buffer",
        "_descriptors",
        "_message_limit",
        "_outgoing",
        "_socket",
        "_splitter",
        "lost_descriptors",
        "most_read",
        "role",
        "was_emptied",
    )

    def __init__(self, connection: RawSocket, buffer: memoryview, message_limit: int) -> None:
        connection.setblocking(False)
        self._buffer = buffer
        self._socket = connection
        self._message_limit = message_limit
        self._splitter = Splitter(HELLO_LIMIT)
        # Descriptors in the order in which they came, None for one that was lost on its way.
        self._descriptors: deque[int | None] = deque()
        self._outgoing = bytearray()
        self.role: str | None = None
        self.lost_descriptors = 0
        self.was_emptied = False
        self.most_read = 0

    @classmethod
    def restore(cls, worker: Worker, buffer: memoryview, message_limit: int) -> Connection:
        """The connection as a predecessor had it; owns the descriptors from now on."""
        state, (own, *held) = worker
        raw = RawSocket(socket.AF_UNIX, socket.SOCK_STREAM, 0, own)
        connection = cls(raw, buffer, message_limit)
        arrived = iter(held)
        connection._descriptors.extend(next(arrived) if there else None for there in state.held)
        connection.role = state.role
        if state.role is not None:
            connection._splitter.limit = message_limit
        connection._splitter.feed(state.unparsed)
        connection._outgoing += state.outgoing
        return connection

    def state(self) -> Worker:
        """What a successor has to know, with the descriptors."""
        held = [descriptor for descriptor in self._descriptors if descriptor is not None]
        there = [descriptor is not None for descriptor in self._descriptors]
        state = WorkerState(self.role, self._splitter.part, bytes(self._outgoing), there)
        return Worker(state, [self.fileno(), *held])

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._socket.fileno()

    @property
    def socket(self) -> RawSocket:
        """The socket itself."""
        return self._socket

    @property
    def unread(self) -> int:
        """Bytes of answers that the other end has not taken yet."""
        return len(self._outgoing)

    def read(self) -> Iterator[tuple[ToHub, int | None]]:
        """Yield what has arrived: messages, each with its descriptor if it carries one.

        Raises:
            ProtocolError: What came is no message of this version. The connection must be closed.
            EOFError: The worker hung up.
        """
        self.was_emptied = False
        self.most_read = 0
        left = READ_LIMIT
        for _ in range(READS):
            try:
                # CLOEXEC: a received descriptor would otherwise be inheritable.
                size, ancillary, flags, _ = self._socket.recvmsg_into(
                    [self._buffer], _ANCILLARY_SIZE, platform.CMSG_CLOEXEC
                )
            except BlockingIOError:
                self.was_emptied = True
                return
            except OSError as error:
                raise EOFError from error
            if ancillary or flags & platform.CTRUNC:
                self._take_descriptors(ancillary, flags)
            if not size:
                raise EOFError
            self.most_read = max(self.most_read, size)
            left -= size
            for data in self._splitter.feed(self._buffer[:size]):
                message = self._checked(decode_to_hub(data))
                yield message, self._next_descriptor() if isinstance(message, Handoff) else None
            # One may have come with the beginning of a message, and waits for the rest.
            if len(self._descriptors) > self._splitter.holds_part:
                raise ProtocolError("A descriptor came with a message that carries none.")
            if left <= 0 or (size < len(self._buffer) and not ancillary):
                return

    def answer(self, message: Message) -> bool:
        """Send an answer. False: not all of it fits yet, so :meth:`write` must be called later.

        Raises:
            ProtocolError: The worker asks and does not read.
        """
        self._outgoing += encode(message)
        if len(self._outgoing) > OUTGOING_LIMIT:
            raise ProtocolError(f"{len(self._outgoing)} bytes of answers wait to be read.")
        return self.write()

    def write(self) -> bool:
        """Send what waits; whether nothing waits any more."""
        try:
            sent = self._socket.send(self._outgoing)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
            # Reading will tell that it is over.
            sent = len(self._outgoing)
        del self._outgoing[:sent]
        return not self._outgoing

    def close(self) -> None:
        """Hang up. What came without the rest of its message still belongs to the worker."""
        self.hang_up()
        self.release()

    def hang_up(self) -> None:
        """End it, for whoever reads it next to find out, here too."""
        with contextlib.suppress(OSError):  # the worker was faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """Give the descriptors back, and leave the connection to another process."""
        for descriptor in self._descriptors:
            if descriptor is not None:
                os.close(descriptor)
        self._descriptors.clear()
        self._socket.close()

    def _checked(self, message: ToHub) -> ToHub:
        """See to it that a greeting comes first, and of this version."""
        if isinstance(message, Hello):
            if message.version != VERSION:
                raise ProtocolError(
                    f"It speaks version {message.version}, and this hub version {VERSION}. Restart"
                    " the workers and the hub together."
                )
            self.role = message.role
            self._splitter.limit = self._message_limit
        elif self.role is None:
            raise ProtocolError("It did not say hello.")
        return message

    def _take_descriptors(self, ancillary: list[tuple[int, int, bytes]], flags: int) -> None:
        if platform.CMSG_CLOEXEC and len(ancillary) == 1 and not flags & platform.CTRUNC:
            level, kind, data = ancillary[0]
            if level == _SOCKET and kind == _RIGHTS and len(data) == _DESCRIPTOR_SIZE:
                self._descriptors.append(int.from_bytes(data, sys.byteorder))  # as it always comes
                return
        received = array.array("i")
        for level, kind, data in ancillary:
            if level == _SOCKET and kind == _RIGHTS:
                received.frombytes(data[: len(data) - len(data) % _DESCRIPTOR_SIZE])
        self._descriptors.extend(received)
        if not platform.CMSG_CLOEXEC:
            for descriptor in received:
                os.set_inheritable(descriptor, False)
        if len(received) > 1:
            raise ProtocolError(f"{len(received)} descriptors came with one message.")
        if flags & platform.CTRUNC and not received:
            # The table is full: the kernel gives the bytes, and throws the descriptor away.
            self._descriptors.append(None)
            self.lost_descriptors += 1

    def _next_descriptor(self) -> int | None:
        if not self._descriptors:
            raise ProtocolError("A client was handed over without its descriptor.")
        return self._descriptors.popleft()

"""One connection of a worker to the hub. Every wait has an end."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import time
from _socket import socket as RawSocket  # noqa: N812

from ..exceptions import HubError, ProtocolError
from . import platform
from .messages import VERSION, FromHub, Hello, Message, Refused, Splitter, Welcome, encode
from .messages import decode_from_hub as decode
from .position import Clock

RECEIVE_SIZE = 1 << 16  # bytes
ANSWER_LIMIT = 1 << 30  # bytes; the hub is trusted


class Link:
    """A connection that has been welcomed.

    The socket is the C type: under gevent and eventlet, too, a send stays one system call.

    Attributes:
        welcome: What the hub said of itself.
        clock: Of its log.
    """

    __slots__ = ("_path", "_socket", "_splitter", "clock", "welcome")

    def __init__(self, path: str, role: str, seconds: float) -> None:
        """Connect.

        Args:
            path: The hub's socket.
            role: What the connection is for; see :class:`~sidearm.hub.messages.Hello`.
            seconds: The longest wait.

        Raises:
            OSError: Nobody listens (``ConnectionRefusedError``, ``FileNotFoundError``), or the hub
                does not answer in time (``TimeoutError``, ``BlockingIOError``).
            HubError: Another user listens there, or a hub that does not understand us.
        """
        self._path = path
        self._splitter = Splitter(ANSWER_LIMIT)
        self._socket = RawSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        try:
            self._socket.connect(path)
            self._check_user()
            answer = self.ask(Hello(VERSION, role), seconds)
        except BaseException:
            self._socket.close()
            raise
        if not isinstance(answer, Welcome):
            self._socket.close()
            reason = answer.reason if isinstance(answer, Refused) else f"It said {answer!r}."
            raise HubError(f"The hub on {path!r} refused this process: {reason}", path)
        self.welcome = answer
        self.clock = Clock(answer.epoch, answer.offset)

    def is_alive(self) -> bool:
        """Whether the hub has not hung up, as far as the kernel knows."""
        try:
            return self._socket.recv(1, platform.PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def send_some(self, data: bytes | memoryview) -> int:
        """Send what fits at once; how many bytes that were."""
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0

    def send(self, data: bytes, seconds: float, descriptor: int | None = None) -> None:
        """Send a whole message, with a descriptor if there is one.

        Raises:
            OSError: The hub is gone, or did not take all of it in time (``TimeoutError``).
        """
        sent = self._send_first(data, descriptor)
        if sent == len(data):
            return
        deadline = time.monotonic() + seconds
        rest = memoryview(data)[sent:]
        while rest:
            self._wait(platform.WRITE, deadline)
            sent = self._send_first(rest, None if len(rest) < len(data) else descriptor)
            rest = rest[sent:]

    def ask(self, message: Message, seconds: float) -> FromHub:
        """Send a message and wait for the answer.

        Raises:
            OSError: The hub is gone, or did not answer in time (``TimeoutError``).
            ProtocolError: What came is no answer.
        """
        deadline = time.monotonic() + seconds
        self.send(encode(message), seconds)
        while True:
            try:
                data = self._socket.recv(RECEIVE_SIZE)
            except BlockingIOError:
                self._wait(platform.READ, deadline)
                continue
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            answers = self._splitter.feed(data)
            if len(answers) > 1:
                raise ProtocolError(f"The hub on {self._path!r} gave {len(answers)} answers.")
            if answers:
                return decode(answers[0])

    def receive(self, seconds: float) -> list[FromHub]:
        """Wait for what the hub says by itself; nothing may have come when the time is over.

        Raises:
            OSError: The hub is gone.
            ProtocolError: What came is no message.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                data = self._socket.recv(RECEIVE_SIZE)
            except BlockingIOError:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not platform.wait_ready(
                    self._socket.fileno(), platform.READ, remaining
                ):
                    return []
                continue
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            if messages := self._splitter.feed(data):
                return [decode(message) for message in messages]

    def wait_writable(self, seconds: float) -> None:
        """Wait until the hub takes more, or hangs up, or the time is over."""
        platform.wait_ready(self._socket.fileno(), platform.WRITE, seconds)

    @property
    def socket(self) -> RawSocket:
        """The socket itself; not blocking."""
        return self._socket

    def end(self) -> None:
        """Let whoever waits for the hub, in another thread, see the end of the connection."""
        with contextlib.suppress(OSError):  # the hub was faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _send_first(self, data: bytes | memoryview, descriptor: int | None) -> int:
        """Send what fits at once, the descriptor with its first byte; how many bytes that were."""
        if descriptor is None:
            return self.send_some(data)
        # socket.send_fds ignores its flags, and hides how much was sent.
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))
        try:
            return self._socket.sendmsg((data,), (rights,))
        except BlockingIOError:
            return 0

    def _wait(self, condition: int, deadline: float) -> None:
        remaining = deadline - time.monotonic()
        if remaining <= 0 or not platform.wait_ready(self._socket.fileno(), condition, remaining):
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    def _check_user(self) -> None:
        # What listens here will be given clients' connections: nobody else's process may do that.
        uid, own = platform.peer_uid(self._socket), platform.effective_uid()
        if uid not in (None, 0, own):
            raise HubError(
                f"The socket {self._path!r} belongs to user {uid}, and this process to user {own}."
                " Run both as one user, or set SIDEARM_SOCKET to a path of your own.",
                self._path,
            )

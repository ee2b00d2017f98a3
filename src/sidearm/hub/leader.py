"""The leading hub, as a hub of the same machine follows it: what a broker is to others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from typing import NoReturn

from ..brokers import Appender, Bridge, Entry, LogHead, unusable
from ..brokers.pace import CONNECT_PATIENCE, PATIENCE
from ..exceptions import BrokerError, HubError, ProtocolError
from .leading import entry_of
from .link import ANSWER_LIMIT, RECEIVE_SIZE, Link
from .messages import (
    AskHead,
    FromHub,
    Head,
    LogPart,
    Message,
    ReadLog,
    Refused,
    Splitter,
    decode_from_hub,
    encode,
)

_ERRORS = (OSError, HubError, ProtocolError)


class Leader:
    """The log of the leading hub.

    Args:
        socket_path: Where it listens.
    """

    def __init__(self, socket_path: str) -> None:
        self.name = f"hub:{socket_path}"
        self._path = socket_path

    def reader(self) -> LeaderReader:
        """A following hub's end, not connected yet."""
        return LeaderReader(self._path, self.name)

    def appender(self) -> Appender:
        """None: workers publish to the leading hub's own socket."""
        self._refuse("Workers publish to its socket")

    def bridge(self, patterns: Sequence[str]) -> Bridge:
        """None: no other program publishes in a hub."""
        self._refuse(f"It passes nothing on from {', '.join(patterns)}")

    def _refuse(self, why: str) -> NoReturn:
        raise BrokerError(f"The log {self.name} is a hub's own. {why}.")


class LeaderReader:
    """A following hub's end.

    Args:
        socket_path: Where the leading hub listens.
        name: Of the log, for messages.
    """

    def __init__(self, socket_path: str, name: str) -> None:
        self._path = socket_path
        self._name = name
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._splitter = Splitter(ANSWER_LIMIT)
        self._messages: deque[FromHub] = deque()

    async def head(self) -> LogHead:
        """What the log is just now."""
        await self._say(AskHead())
        async with self._patience(PATIENCE):
            while True:
                if isinstance(message := await self._next(), Head):
                    return LogHead(message.epoch, message.last, message.offset)

    async def read(self, after: int, seconds: float) -> list[Entry]:
        """The entries after a position, in order."""
        await self._say(ReadLog(after, wait=seconds > 0))
        async with self._patience(seconds + PATIENCE):
            with contextlib.suppress(TimeoutError):  # nothing happens; it will be asked again
                async with asyncio.timeout(seconds or None):
                    return await self._part(after)
        return []

    async def renew(self, epoch: str) -> None:
        """Nothing: what this log has taken in, it has as long as its epoch lasts."""

    async def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()

    async def _part(self, after: int) -> list[Entry]:
        while True:
            message = await self._next()
            # An answer that came too late for the question before is not for this one.
            if isinstance(message, LogPart) and message.after == after:
                return [entry_of(each) for each in message.entries]

    async def _say(self, message: Message) -> None:
        async with self._patience(PATIENCE + CONNECT_PATIENCE):
            writer = self._writer or await self._connect()
            writer.write(encode(message))
            await writer.drain()

    async def _connect(self) -> asyncio.StreamWriter:
        # The hub's loop goes on meanwhile.
        link = await asyncio.to_thread(Link, self._path, "hub", CONNECT_PATIENCE)
        try:
            own = socket.socket(fileno=os.dup(link.socket.fileno()))
        finally:
            link.close()
        self._reader, self._writer = await asyncio.open_connection(sock=own)
        return self._writer

    async def _next(self) -> FromHub:
        """What the leading hub says next."""
        assert self._reader is not None  # noqa: S101  # it was asked something
        while not self._messages:
            data = await self._reader.read(RECEIVE_SIZE)
            if not data:
                raise ConnectionResetError("It hung up.")
            self._messages.extend(map(decode_from_hub, self._splitter.feed(data)))
        message = self._messages.popleft()
        if isinstance(message, Refused):
            raise ProtocolError(f"It refused this hub: {message.reason}")
        return message

    @contextlib.asynccontextmanager
    async def _patience(self, seconds: float) -> AsyncGenerator[None]:
        """Wait for so long inside the block, and let every failure be a broker's."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except _ERRORS as error:  # a TimeoutError, too
            raise unusable(self._name, error) from error

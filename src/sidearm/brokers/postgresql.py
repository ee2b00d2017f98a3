"""PostgreSQL as the broker: a table is the log.

``NOTIFY`` only wakes hubs up, and is sent once the entries are committed, in a statement of its
own: in the same transaction it would hold a lock that all notifying commits of the server share.
Where it does not arrive, as behind a pooler that lends connections for single transactions, a hub
looks when its wait is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Any, NoReturn

import psycopg
from psycopg import sql as composing
from psycopg.conninfo import conninfo_to_dict

from ..exceptions import BrokerError
from . import Bridge, Entry, Item, Limits, LogHead, sql, unusable, without_password
from .items import item_of, words_of
from .pace import CONNECT_PATIENCE, PATIENCE, QUIET, SENDER_AGE, ReadPace

TRIM_PAUSE = 2.0  # seconds
TRIM_SIZE = 1 << 20  # bytes that are appended before the log is trimmed again
ENTRY_SIZE = 100  # bytes of an entry beside its name and body
NANOSECONDS = 1_000_000_000  # in a second

#: What libpq is told where the URL does not say it: a server that has vanished is not waited for.
_DEFAULTS = {
    "application_name": "sidearm",
    "connect_timeout": f"{CONNECT_PATIENCE:.0f}",
    "keepalives_idle": "5",
    "keepalives_interval": "1",
    "keepalives_count": "3",
    "tcp_user_timeout": f"{PATIENCE * 1000:.0f}",
}

logger = logging.getLogger("sidearm.hub")


class PostgreSQLBroker:
    """A log in PostgreSQL.

    Args:
        url: Where it is, as libpq takes it.
        key: Names the log among others in the same database.
        limits: How much is kept.
    """

    def __init__(self, url: str, key: str, limits: Limits) -> None:
        self.name = without_password(url)
        self._where = _Where(url, self.name, key, limits)
        self._pace = ReadPace()

    def appender(self) -> PostgreSQLAppender:
        """A worker's end, not connected yet."""
        return PostgreSQLAppender(self._where)

    def reader(self) -> PostgreSQLReader:
        """A hub's end, not connected yet."""
        return PostgreSQLReader(self._where, self._pace)

    def bridge(self, patterns: Sequence[str]) -> Bridge:
        """There is none."""
        raise BrokerError(f"The broker {self.name} has no channels such as {patterns[0]!r}.")


class _Where:
    """A log, and how it is reached."""

    def __init__(self, url: str, name: str, key: str, limits: Limits) -> None:
        self.name = name
        self.key = key
        self.options: dict[str, Any] = {**_DEFAULTS, **conninfo_to_dict(url)}
        # Names of channels end after 63 bytes, and keys may be longer.
        self.channel = f"sidearm_{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        kept = limits.at_least()
        self.trimming = [key, int(kept.age * NANOSECONDS), kept.size, SENDER_AGE]

    def fail(self, error: Exception) -> NoReturn:
        """Raise what an end raises, for what psycopg raised."""
        if isinstance(error, psycopg.errors.InsufficientPrivilege):
            raise BrokerError(
                f"The broker {self.name} cannot be used: {str(error).strip()}. Its log is in the"
                " schema sidearm_1, which is made on first use: its user needs the right to CREATE"
                " in the database, or to use that schema, its tables and its functions."
            ) from error
        raise unusable(self.name, error) from error


class PostgreSQLAppender:
    """A worker's end."""

    def __init__(self, where: _Where) -> None:
        self._where = where
        self._connection: psycopg.Connection | None = None
        self._trimmed = 0.0  # when, by the monotonic clock
        self._appended = 0  # bytes since then

    def append(self, sender: str, number: int, items: Sequence[Item]) -> None:
        """Append items in order, all or none of them, and once however often it is called."""
        where = self._where
        words = [words_of(item) for item in items]
        kinds, bodies = [kind for kind, _, _ in words], [body for _, _, body in words]
        names = [name.encode() for _, name, _ in words]
        try:
            connection = self._connected()
            with _answered_soon(connection):
                connection.execute(
                    sql.APPEND,
                    [where.key, secrets.token_hex(5), sender, number, kinds, names, bodies],
                )
        except (psycopg.Error, OSError) as error:
            self.close()
            where.fail(error)
        size = sum(map(len, names)) + sum(map(len, bodies)) + ENTRY_SIZE * len(words)
        try:
            self._follow_up(connection, size)
        except (psycopg.Error, OSError) as error:
            # They are in the log. Hubs look by themselves, and others trim.
            logger.debug("What follows an append failed: %s", error)
            self.close()

    def _follow_up(self, connection: psycopg.Connection, size: int) -> None:
        """Wake the hubs up; now and then remove what is old."""
        with _answered_soon(connection):
            connection.execute(sql.NOTIFY, [self._where.channel])
        self._appended += size
        if self._appended > TRIM_SIZE or time.monotonic() - self._trimmed > TRIM_PAUSE:
            with _answered_soon(connection):
                connection.execute(sql.TRIM, self._where.trimming)
            self._appended, self._trimmed = 0, time.monotonic()

    def _connected(self) -> psycopg.Connection:
        if self._connection is None:
            options = self._where.options
            # Server-side prepared statements would not survive a pooler.
            connection = psycopg.connect(**options, autocommit=True, prepare_threshold=None)
            try:
                with _answered_soon(connection):
                    row = connection.execute(sql.IS_THERE).fetchone()
                    if row is None or not row[0]:
                        connection.execute(sql.CREATE)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def close(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class PostgreSQLReader:
    """A hub's end."""

    def __init__(self, where: _Where, pace: ReadPace) -> None:
        self._where = where
        self._pace = pace
        self._connection: psycopg.AsyncConnection | None = None

    async def head(self) -> LogHead:
        """What the log is just now; begins one where there is none."""
        where = self._where
        rows = await self._ask(sql.LOOK, [where.key])
        if not rows or rows[0][2] >= QUIET * NANOSECONDS:
            quiet = int(QUIET * NANOSECONDS)
            rows = await self._ask(sql.HEAD, [where.key, secrets.token_hex(5), quiet])
            await self._ask(sql.TRIM, where.trimming)
        epoch, last = rows[0][:2]
        return LogHead(epoch, last)

    async def read(self, after: int, seconds: float) -> list[Entry]:
        """The entries after a position, in order."""
        rows = await self._read(after)
        if not rows and seconds:
            await self._wait(seconds)
            rows = await self._read(after)
        return [
            Entry(position, before, item_of(kind, name.decode(), body))
            for position, before, kind, name, body in rows
        ]

    async def renew(self, epoch: str) -> None:
        """Give the log another epoch."""
        await self._ask(sql.RENEW, [self._where.key, epoch, secrets.token_hex(5)])

    async def close(self) -> None:
        """Hang up."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    async def _read(self, after: int) -> list[Any]:
        began = time.monotonic()
        try:
            rows = await self._ask(sql.READ, [self._where.key, after, self._pace.count])
        except BrokerError:
            if time.monotonic() - began >= PATIENCE:
                self._pace.timed_out()
            raise
        self._pace.went_well()
        return rows

    async def _wait(self, seconds: float) -> None:
        """Wait until somebody has appended."""
        try:
            connection = await self._connected()
            async for _ in connection.notifies(timeout=seconds, stop_after=1):
                pass
        except (psycopg.Error, OSError) as error:
            await self.close()
            self._where.fail(error)

    async def _ask(self, statement: Any, values: Sequence[Any]) -> list[Any]:
        """What a statement gives."""
        try:
            connection = await self._connected()
            async with _answered_soon_in_loop(connection):
                cursor = await connection.execute(statement, values, binary=True)
                return await cursor.fetchall()
        except (psycopg.Error, OSError) as error:
            await self.close()
            self._where.fail(error)

    async def _connected(self) -> psycopg.AsyncConnection:
        if self._connection is None:
            connection = await psycopg.AsyncConnection.connect(
                **self._where.options, autocommit=True, prepare_threshold=None
            )
            try:
                async with _answered_soon_in_loop(connection):
                    row = await (await connection.execute(sql.IS_THERE)).fetchone()
                    if row is None or not row[0]:
                        await connection.execute(sql.CREATE)
                    channel = composing.Identifier(self._where.channel)
                    await connection.execute(composing.SQL(sql.LISTEN).format(channel))
            except BaseException:
                await connection.close()
                raise
            self._connection = connection
        return self._connection


@contextlib.contextmanager
def _answered_soon(connection: psycopg.Connection) -> Generator[None]:
    """Cut a connection whose server does not answer in time; what waits for it then fails."""
    timer = threading.Timer(PATIENCE, _cut, [connection])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


@contextlib.asynccontextmanager
async def _answered_soon_in_loop(connection: psycopg.AsyncConnection) -> AsyncGenerator[None]:
    timer = asyncio.get_running_loop().call_later(PATIENCE, _cut, connection)
    try:
        yield
    finally:
        timer.cancel()


def _cut(connection: psycopg.Connection | psycopg.AsyncConnection) -> None:
    """End a connection below the library, which may be in the middle of something."""
    with (
        contextlib.suppress(psycopg.Error, OSError),
        socket.socket(fileno=os.dup(connection.fileno())) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)

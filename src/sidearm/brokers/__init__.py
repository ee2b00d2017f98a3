"""The log where others keep it: what a broker has to do, and which there are.

A broker keeps one log for every hub and every worker that name it by the same URL and key. Workers
append to it, and each hub follows it: what the hub's own log holds in memory is a copy of its
newest part. So an id that one hub has given to a client is understood by every other.

Each entry names the one before it. A follower that sees another one before than it has seen itself
knows that something is missing, whatever became of the broker's memory: trimmed, failed over to a
copy that was behind, emptied.

This package knows no hub and no socket of ours. The broker's library is imported only when a broker
of its kind is opened.
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

from ..exceptions import BrokerError
from . import redis_urls

#: The hub's own log: there is no broker.
HUB = "hub:"

_POSTGRESQL = ("postgresql", "postgres")
_KNOWN = (
    "'hub:' (the hub's own log), 'redis://HOST:PORT/DATABASE' ('rediss://...' with TLS),"
    " 'redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DATABASE',"
    " 'redis+cluster://HOST:PORT,HOST:PORT' or"
    " 'postgresql://USER:PASSWORD@HOST:PORT/DATABASE'"
)
LEAST_AGE = 60.0  # seconds
LEAST_SIZE = 4 << 20  # bytes


class Event(NamedTuple):
    """An event as a worker publishes it.

    Attributes:
        channel: Where it belongs.
        body: Its encoded fields, without id.
        keep: Whether it can be resumed from; else it is live only.
        end: Whether it is its channel's last.
    """

    channel: str
    body: bytes
    keep: bool = True
    end: bool = False


class Closing(NamedTuple):
    """Streams are closed by a tag, or lose channels."""

    tag: str
    channels: tuple[str, ...] = ()


class Loss(NamedTuple):
    """Events of these channels will never come; of any, if none is named."""

    channels: tuple[str, ...] = ()


Item: TypeAlias = Event | Closing | Loss


class Entry(NamedTuple):
    """One place in the log.

    Attributes:
        position: Its time, in nanoseconds since 1970: larger than that of every entry before.
        before: The position of the entry before; 0: this one begins the log.
        item: What happened; None: nothing, it only marks the time.
    """

    position: int
    before: int
    item: Item | None


class LogHead(NamedTuple):
    """What a log is just now.

    Attributes:
        epoch: Names the log: ten hexadecimal digits.
        last: The position of its newest entry.
        offset: Nanoseconds between this machine's monotonic clock and the time of positions, where
            that is known; else the machine's wall clock has to do.
    """

    epoch: str
    last: int
    offset: int | None = None


class Limits(NamedTuple):
    """How much of its log a broker keeps.

    Attributes:
        age: Seconds.
        size: Bytes.
    """

    age: float
    size: int

    def at_least(self) -> Limits:
        """The same, or more: less could be gone before a hub that was busy has read it."""
        return Limits(max(self.age, LEAST_AGE), max(self.size, LEAST_SIZE))


class Appender(Protocol):
    """A worker's end. Blocks; for one thread at a time."""

    def append(self, sender: str, number: int, items: Sequence[Item]) -> None:
        """Append items in order, all or none of them.

        Args:
            sender: Names who appends.
            number: Counts the sender's calls: one that is repeated, because its answer was lost,
                changes nothing.
            items: At least one.

        Raises:
            BrokerError: It is not known that they are in the log. Call again with the same.
        """
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class Reader(Protocol):
    """A hub's end: one connection, in the hub's loop."""

    async def head(self) -> LogHead:
        """What the log is just now; begins one where there is none.

        In a log in which nothing has happened for a while it also marks the time.

        Raises:
            BrokerError: The broker is away, or cannot be used.
        """
        ...

    async def read(self, after: int, seconds: float) -> list[Entry]:
        """The entries after a position, in order; not all of them, if there are many.

        Args:
            after: A position.
            seconds: How long to wait for the first. 0: not at all.

        Raises:
            BrokerError: The broker is away, or cannot be used.
        """
        ...

    async def renew(self, epoch: str) -> None:
        """Give the log another epoch, because it has lost entries that were read from it.

        Args:
            epoch: The one that it had. If it has another one by now, nothing changes.

        Raises:
            BrokerError: The broker is away, or cannot be used.
        """
        ...

    async def close(self) -> None:
        """Hang up."""
        ...


class Bridge(Protocol):
    """A hub's ear for what other programs publish by the broker's own means: live, without ids."""

    async def receive(self, seconds: float) -> list[tuple[str, bytes]]:
        """What has come, as channel and data; nothing, if nothing comes in time.

        Raises:
            BrokerError: The broker is away, or cannot be used.
        """
        ...

    async def close(self) -> None:
        """Hang up."""
        ...


class Broker(Protocol):
    """Makes the ends of one log.

    Attributes:
        name: Where it is, without a password, for messages.
    """

    name: str

    def appender(self) -> Appender:
        """A worker's end, not connected yet."""
        ...

    def reader(self) -> Reader:
        """A hub's end, not connected yet."""
        ...

    def bridge(self, patterns: Sequence[str]) -> Bridge:
        """An ear for channels, not connected yet.

        Args:
            patterns: Of their names, as the broker takes them.
        """
        ...


def check_url(url: str) -> None:
    """See whether a broker can be opened by a URL, without asking for it.

    Raises:
        ValueError: It cannot; the message says why, and what to do. It shows no password.
    """
    if url == HUB:
        return
    scheme = redis_urls.scheme_of(url)
    if is_postgresql(url):
        _check_postgresql(url)
        return
    if scheme not in redis_urls.SCHEMES:
        raise ValueError(f"There is no broker {scheme + ':'!r}. Give {_KNOWN}.")
    redis_urls.check(url, _KNOWN)
    if importlib.util.find_spec("redis") is None:
        raise ValueError("It needs the package redis: pip install 'sidearm[redis]'.")


def _check_postgresql(url: str) -> None:
    """See whether libpq takes a URL; it knows its own options."""
    try:
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict
    except ImportError as error:  # also where there is no libpq
        raise ValueError("It needs psycopg 3: pip install 'sidearm[postgresql]'.") from error
    host = None
    with contextlib.suppress(ProgrammingError):
        host = str(conninfo_to_dict(url).get("host", ""))
    # The first "@" ends the password, and what libpq takes for the host may be the rest of it. A
    # host that begins with one is an abstract socket.
    if host is None or "@" in host[1:]:
        # What libpq says may show the password.
        raise ValueError(
            "libpq cannot read it. Give 'postgresql://USER:PASSWORD@HOST:PORT/DATABASE', with"
            " libpq's own options behind it ('?sslmode=require'). What would end a part of it is"
            " escaped: '@' in a password is '%40'."
        )


def is_postgresql(url: str) -> bool:
    """Whether a broker's URL is one of PostgreSQL."""
    return redis_urls.scheme_of(url) in _POSTGRESQL


def without_password(url: str) -> str:
    """A broker's URL as it may be shown, also where it is wrong: a password may hold anything."""
    before, at, after = url.rpartition("@")
    scheme = before.partition("://")[0]
    shown = re.split("[?#]", after, maxsplit=1)[0]
    return f"{scheme}://***@{shown}" if at else shown


def open_broker(url: str, key: str, limits: Limits) -> Broker:
    """The broker with a URL.

    Args:
        url: As :func:`check_url` accepts it; not that of the hub's own log.
        key: What the broker's own names begin with: applications that share a broker have
            different ones.
        limits: How much is kept.

    Raises:
        BrokerError: It cannot be opened; whether it answers is not known yet.
    """
    try:
        check_url(url)
    except ValueError as error:
        raise BrokerError(f"SIDEARM_BROKER is {without_password(url)!r}. {error}") from error
    if is_postgresql(url):
        from .postgresql import PostgreSQLBroker

        return PostgreSQLBroker(url, key, limits)
    from .redis import RedisBroker

    return RedisBroker(url, key, limits)


def unusable(name: str, error: Exception) -> BrokerError:
    """The error of a broker's end, whatever its library says."""
    reason = str(error).rstrip(".") or type(error).__name__
    return BrokerError(f"The broker {name} cannot be used: {reason}")

"""Redis, or Valkey, as the broker: a Stream is the log.

Neither end lets redis-py try again by itself: a call that may have been carried out is repeated
with its number, and a follower that was cut off has to look what has become of the log first.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any

import redis
from redis.exceptions import MovedError, RedisError

from ..exceptions import BrokerError
from . import Entry, Item, Limits, LogHead, scripts, unusable, without_password
from .items import item_of, words_of
from .pace import PATIENCE, QUIET, READ_COUNT, SENDER_AGE, ReadPace
from .redis_places import Place, place_of
from .redis_urls import is_cluster

KNOWN_CHANNELS = 10_000
NANOSECONDS = 1_000_000  # in a millisecond, and sequence numbers in one of an id


class RedisBroker:
    """A log in Redis.

    Args:
        url: Where it is.
        key: What its keys begin with.
        limits: How much is kept.
    """

    def __init__(self, url: str, key: str, limits: Limits) -> None:
        self.name = without_password(url)
        self._key = f"{{{key}}}"
        self._place = place_of(url, self._key)
        self._limits = _limit_words(limits)
        self._pace = ReadPace()

    def appender(self) -> RedisAppender:
        """A worker's end, not connected yet."""
        return RedisAppender(self._place, self.name, self._key, self._limits)

    def reader(self) -> RedisReader:
        """A hub's end, not connected yet."""
        return RedisReader(self._place, self.name, self._key, self._limits, self._pace)

    def bridge(self, patterns: Sequence[str]) -> RedisBridge:
        """An ear for ``PUBLISH``, not connected yet."""
        return RedisBridge(self._place, self.name, patterns)


class RedisAppender:
    """A worker's end."""

    def __init__(self, place: Place, name: str, key: str, limits: Sequence[str]) -> None:
        self._place = place
        self._name = name
        self._key = key
        self._limits = [str(SENDER_AGE), *limits]
        self._client: Any = None
        self._append: Callable[..., Any] | None = None

    def append(self, sender: str, number: int, items: Sequence[Item]) -> None:
        """Append items in order, all or none of them, and once however often it is called."""
        arguments: list[str | bytes] = [secrets.token_hex(5), str(number), *self._limits]
        for item in items:
            arguments += words_of(item)
        keys = [f"{self._key}:log", f"{self._key}:state", f"{self._key}:sender:{sender}"]
        try:
            append = self._append
            if append is None:
                self._client = self._place.client()
                append = self._append = self._client.register_script(scripts.APPEND)
            append(keys=keys, args=arguments)
        except (RedisError, OSError) as error:
            self._place.failed()
            self.close()
            raise _unusable(self._name, error) from error

    def close(self) -> None:
        """Hang up."""
        client, self._client, self._append = self._client, None, None
        if client is not None:
            client.close()


class RedisReader:
    """A hub's end."""

    def __init__(
        self, place: Place, name: str, key: str, limits: Sequence[str], pace: ReadPace
    ) -> None:
        self._place = place
        self._name = name
        self._limits = limits
        self._pace = pace
        self._log = f"{key}:log"
        self._keys = [self._log, f"{key}:state"]
        self._client: Any = None

    async def head(self) -> LogHead:
        """What the log is just now; begins one where there is none."""
        arguments = [secrets.token_hex(5), str(int(QUIET * 1000)), *self._limits]
        epoch, last = await self._run(scripts.HEAD, arguments)
        return LogHead(epoch.decode(), position_of(last))

    async def read(self, after: int, seconds: float) -> list[Entry]:
        """The entries after a position, in order."""
        block = max(1, int(min(seconds, PATIENCE / 2) * 1000)) if seconds else None
        with self._errors():
            client = await self._connected()
            try:
                found = await client.xread({self._log: id_of(after)}, self._pace.count, block)
            except (redis.TimeoutError, TimeoutError):
                self._pace.timed_out()
                raise
        if not found:
            return []
        self._pace.went_well()
        streams: list[Any] = list(found.values()) if isinstance(found, dict) else [found[0][1]]
        rows: Any = streams[0]
        if isinstance(found, dict):  # RESP3 has a list of lists for each stream
            rows = rows[0] if rows and isinstance(rows[0], list) else rows
        return [_entry(place, fields) for place, fields in rows]

    async def renew(self, epoch: str) -> None:
        """Give the log another epoch."""
        await self._run(scripts.RENEW, [epoch, secrets.token_hex(5)])

    async def close(self) -> None:
        """Hang up."""
        if self._client is not None:
            await self._client.aclose()

    async def _run(self, script: str, arguments: list[str]) -> Any:
        with self._errors():
            client = await self._connected()
            return await client.register_script(script)(keys=self._keys, args=arguments)

    async def _connected(self) -> Any:
        if self._client is None:
            self._client = await self._place.async_client()
        return self._client

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        try:
            yield
        except (RedisError, OSError) as error:
            self._place.failed()
            raise _unusable(self._name, error) from error


class RedisBridge:
    """A hub's ear for ``PUBLISH``."""

    def __init__(self, place: Place, name: str, patterns: Sequence[str]) -> None:
        self._place = place
        self._name = name
        self._patterns = patterns
        self._client: Any = None
        self._subscription: Any = None
        self._heard = 0.0  # when something came last
        #: By which pattern each channel is heard: Redis says everything once for each that matches.
        self._heard_by: dict[bytes, bytes] = {}

    async def receive(self, seconds: float) -> list[tuple[str, bytes]]:
        """What has come."""
        messages: list[tuple[str, bytes]] = []
        try:
            if self._subscription is None:
                self._client = await self._place.listener()
                self._subscription = self._client.pubsub(ignore_subscribe_messages=True)
                await self._subscription.psubscribe(*self._patterns)
            message = await self._subscription.get_message(timeout=seconds)
            if message is None:
                await self._look()
            while message is not None and len(messages) < READ_COUNT:
                channel, pattern = message["channel"], message["pattern"]
                if self._heard_by.setdefault(channel, pattern) == pattern:
                    messages.append((channel.decode("utf-8", "replace"), message["data"]))
                self._heard = time.monotonic()
                message = await self._subscription.get_message(timeout=0)
        except (RedisError, OSError) as error:
            raise _unusable(self._name, error) from error
        return messages

    async def _look(self) -> None:
        """See whether the server is there: a subscription would not notice that it has vanished."""
        if len(self._heard_by) > KNOWN_CHANNELS:
            self._heard_by.clear()  # nothing is on its way just now
        if time.monotonic() - self._heard > PATIENCE:
            await self._client.ping()
            self._heard = time.monotonic()

    async def close(self) -> None:
        """Hang up."""
        if self._subscription is not None:
            await self._subscription.aclose()
        if self._client is not None:
            await self._client.aclose()


def _unusable(name: str, error: Exception) -> BrokerError:
    """The error of an end, with what to do where a server is a Cluster's, and was not named so."""
    made = unusable(name, error)
    if isinstance(error, MovedError) and not is_cluster(name):
        return BrokerError(f"{made} It belongs to a Cluster: give 'redis+cluster://HOST:PORT'")
    return made


def _limit_words(limits: Limits) -> list[str]:
    """How much is kept, as the scripts take it: milliseconds and bytes."""
    kept = limits.at_least()
    return [str(int(kept.age * 1000)), str(kept.size)]


def position_of(place: bytes) -> int:
    """An entry's id as a position."""
    milliseconds, _, sequence = place.partition(b"-")
    return int(milliseconds) * NANOSECONDS + int(sequence)


def id_of(position: int) -> str:
    """A position as an entry's id."""
    milliseconds, sequence = divmod(position, NANOSECONDS)
    return f"{milliseconds}-{sequence}"


def _entry(place: bytes, fields: dict[bytes, bytes]) -> Entry:
    item = item_of(fields[b"kind"].decode(), fields[b"name"].decode(), fields[b"body"])
    return Entry(position_of(place), position_of(fields[b"after"]), item)

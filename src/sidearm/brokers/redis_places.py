"""Where a Redis is just now: one server, what Sentinels say, or the node of a Cluster with the log.

All keys of a log are in one slot, so in a Cluster one node has it, and is spoken to like a server
of its own: redis-py's client of a Cluster would ask again by itself, sleep, and look up each
command, and here a call is to end in bounded time. When the node says that it has the slot no
longer, or says nothing, the Cluster is asked anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator
from typing import Any, Protocol

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel

from .pace import CONNECT_PATIENCE, PATIENCE
from .redis_urls import SENTINEL, is_cluster, read_cluster_url, read_sentinel_url, scheme_of

TIMEOUTS: dict[str, Any] = {"socket_timeout": PATIENCE, "socket_connect_timeout": CONNECT_PATIENCE}
#: Each node is asked where a slot is with little patience: another one knows as well.
LOOK_TIMEOUTS: dict[str, Any] = {"socket_timeout": 1.0, "socket_connect_timeout": 0.5}


class Place(Protocol):
    """Makes clients, which ask once, and for not too long."""

    def client(self) -> Any:
        """A client that blocks.

        Raises:
            RedisError: It is not known where the server is.
            OSError: The same.
        """
        ...

    async def async_client(self) -> Any:
        """A client in the running loop.

        Raises:
            RedisError: It is not known where the server is.
            OSError: The same.
        """
        ...

    async def listener(self) -> Any:
        """A client in the running loop that hears what is published by ``PUBLISH``."""
        ...

    def failed(self) -> None:
        """Note that a client has met an error: the server may be elsewhere by now."""
        ...


def place_of(url: str, key: str) -> Place:
    """Where the Redis with a URL is.

    Args:
        url: As :func:`~sidearm.brokers.redis_urls.check` accepts it.
        key: One of the log's keys.
    """
    if scheme_of(url) == SENTINEL:
        return Watched(url)
    return Cluster(url, key) if is_cluster(url) else Server(url)


class Server:
    """One server.

    Args:
        url: Where it is.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def client(self) -> Any:
        """A client that blocks."""
        return _client(self._url)

    async def async_client(self) -> Any:
        """A client in the running loop."""
        return _async_client(self._url)

    async def listener(self) -> Any:
        """A client in the running loop."""
        return _async_client(self._url)

    def failed(self) -> None:
        """It is nowhere else."""


class Watched:
    """A server that Sentinels watch, and that may be another one after a failover.

    Args:
        url: Where the Sentinels are.
    """

    def __init__(self, url: str) -> None:
        where = read_sentinel_url(url)
        self._hosts, self._service = where.hosts, where.service
        self._options = {
            **TIMEOUTS,
            "db": where.database,
            "username": where.username,
            "password": where.password,
        }

    def client(self) -> Any:
        """A client that blocks; each of its connections asks the Sentinels."""
        return self._made(Sentinel, Retry(NoBackoff(), 0))

    async def async_client(self) -> Any:
        """A client in the running loop; each of its connections asks the Sentinels."""
        return self._made(AsyncSentinel, AsyncRetry(NoBackoff(), 0))

    async def listener(self) -> Any:
        """A client in the running loop."""
        return await self.async_client()

    def failed(self) -> None:
        """Nothing is kept."""

    def _made(self, sentinel: Any, retry: Any) -> Any:
        # One that is away is not asked again and again while others would answer.
        asking = {**TIMEOUTS, "retry": retry}
        sentinels = sentinel(self._hosts, sentinel_kwargs=asking, **self._options, retry=retry)
        return sentinels.master_for(self._service)


class Cluster:
    """The node of a Cluster that has a key.

    Args:
        url: Where some of the nodes are.
        key: The key.
    """

    def __init__(self, url: str, key: str) -> None:
        self._where = read_cluster_url(url)
        self._slot = key_slot(key.encode())
        self._node: str | None = None  # the URL of the one that had it last

    def client(self) -> Any:
        """A client that blocks, of the node that has the key."""
        return _client(self._node or self._look())

    async def async_client(self) -> Any:
        """A client in the running loop, of the node that has the key."""
        node = self._node
        return _async_client(node if node is not None else await asyncio.to_thread(self._look))

    async def listener(self) -> Any:
        """A client in the running loop, of any node: all hear what is published at one."""
        return _async_client(await asyncio.to_thread(self._find_any))

    def failed(self) -> None:
        """Ask the Cluster anew."""
        self._node = None

    def _look(self) -> str:
        """Ask one node after the other who has the key."""
        for asked, _, rows in self._asked():
            for start, end, primary, *_ in rows:
                if start <= self._slot <= end:
                    # A node that does not know its own name is where it was asked.
                    host = primary[0].decode() if primary[0] not in (None, b"", b"?") else asked
                    self._node = self._where.url_of(host, primary[1])
                    return self._node
        raise ClusterDownError("No node of the Cluster knows who has the log's slot.")

    def _find_any(self) -> str:
        for host, port, _ in self._asked():
            return self._where.url_of(host, port)
        raise ClusterDownError("No node of the Cluster answers.")

    def _asked(self) -> Iterator[tuple[str, int, Any]]:
        """Host and port of each node that answers, with what it says of the slots."""
        hosts = list(self._where.hosts)
        random.shuffle(hosts)
        failure: Exception | None = None
        for host, port in hosts:
            url = self._where.url_of(host, port)
            with contextlib.closing(_client(url, **LOOK_TIMEOUTS)) as client:
                try:
                    rows = client.execute_command("CLUSTER", "SLOTS")
                except (RedisError, OSError) as error:
                    failure = error
                    continue
            yield host, port, rows
        if failure is not None:
            raise failure


def _client(url: str, **options: Any) -> Any:
    retry = Retry(NoBackoff(), 0)
    return redis.Redis.from_url(url, **{**TIMEOUTS, **options}, retry=retry)


def _async_client(url: str) -> Any:
    retry = AsyncRetry(NoBackoff(), 0)
    return redis.asyncio.Redis.from_url(url, **TIMEOUTS, retry=retry)

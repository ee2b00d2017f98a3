"""The servers that brokers are made of, and what a test does to a log behind everybody's back."""

from __future__ import annotations

import os
import shutil
import signal
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from processes import ends_of, family
from redis_clusters import RedisCluster

from sidearm.brokers import scripts, sql
from sidearm.testing import PostgresServer, RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidearm.testing.servers import Server

redis = pytest.importorskip("redis", reason="pip install 'sidearm[redis]'")
psycopg = pytest.importorskip("psycopg", reason="pip install 'sidearm[postgresql]'")


class Contents(Protocol):
    """What is in a server, or several, that hold logs.

    Attributes:
        url: How brokers find it.
    """

    @property
    def url(self) -> str: ...

    def length(self, key: str) -> int:
        """How many entries a log has."""
        ...

    def empty(self) -> None:
        """Remove everything."""
        ...

    def renew(self, key: str, epoch: str) -> None:
        """Give a log another epoch, as a hub does that has lost entries."""
        ...

    def mark(self, key: str) -> None:
        """Mark the time in a log that keeps nothing that is older."""
        ...


class Store(Contents, Protocol):
    """A server that holds logs.

    Attributes:
        server: The server.
    """

    server: Server

    def cut(self) -> None:
        """Cut every connection."""
        ...

    def refuse(self, *, refuses: bool) -> None:
        """Let it refuse to write, or not any more."""
        ...

    def kill(self) -> None:
        """Kill it, with all of its processes."""
        ...

    def signal(self, number: int) -> None:
        """Send a signal to all of its processes."""
        ...

    def save(self) -> None:
        """Note its state."""
        ...

    def restore(self) -> None:
        """Kill it, and start it with the state that was noted."""
        ...


class _RedisContents:
    """What is in a Redis, however it is found."""

    def urls(self) -> list[str]:
        """Each server that has a part of it."""
        raise NotImplementedError

    def url_for(self, key: str) -> str:
        """The server that has a log."""
        raise NotImplementedError

    def length(self, key: str) -> int:
        with self.client(key) as client:
            return int(client.xlen(f"{{{key}}}:log"))

    def empty(self) -> None:
        for url in self.urls():
            with closing(redis.Redis.from_url(url)) as client:
                client.flushall()

    # Not redis-py's own client for a Cluster: closing that leaves its connections open.
    @contextmanager
    def client(self, key: str = "") -> Iterator[Any]:
        """A client for the server that has a log."""
        with closing(redis.Redis.from_url(self.url_for(key))) as client:
            yield client

    def renew(self, key: str, epoch: str) -> None:
        with self.client(key) as client:
            keys = [f"{{{key}}}:log", f"{{{key}}}:state"]
            before = client.hget(keys[1], "epoch")
            client.register_script(scripts.RENEW)(keys=keys, args=[before, epoch])

    def mark(self, key: str) -> None:
        with self.client(key) as client:
            keys = [f"{{{key}}}:log", f"{{{key}}}:state"]
            client.register_script(scripts.HEAD)(keys=keys, args=["0123456789", "0", "0", "0"])


class ClusterStore(_RedisContents):
    """A Redis Cluster.

    Attributes:
        cluster: It.
    """

    def __init__(self) -> None:
        self.cluster = RedisCluster()

    @property
    def url(self) -> str:
        return self.cluster.url

    def urls(self) -> list[str]:
        return [node.url for node in self.cluster.nodes]

    def url_for(self, key: str) -> str:
        return self.cluster.node_of(key).url


class RedisStore(_RedisContents):
    """Redis, or Valkey."""

    def __init__(self, *args: str) -> None:
        self.server = RedisServer(args=args)

    @property
    def url(self) -> str:
        return self.server.url

    def urls(self) -> list[str]:
        return [self.url]

    def url_for(self, key: str) -> str:
        return self.url

    def _command(self, *words: str) -> None:
        with self.client() as client:
            client.execute_command(*words)

    def cut(self) -> None:
        self._command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    def refuse(self, *, refuses: bool) -> None:
        """It is out of memory."""
        self._command("CONFIG", "SET", "maxmemory", "1" if refuses else "0")

    def kill(self) -> None:
        self.server.kill()

    def signal(self, number: int) -> None:
        self.server.send_signal(number)

    def save(self) -> None:
        self._command("SAVE")

    def restore(self) -> None:
        self.kill()
        self.server.restart()


class PostgreSQLStore:
    """PostgreSQL."""

    def __init__(self) -> None:
        self.server = PostgresServer()

    @property
    def url(self) -> str:
        return self.server.url

    def length(self, key: str) -> int:
        statement = "SELECT count(*) FROM sidearm_1.entry WHERE log = %s"
        return int(self._execute(statement, [key])[0][0])

    def empty(self) -> None:
        self._execute("TRUNCATE sidearm_1.log, sidearm_1.entry, sidearm_1.sender")

    def renew(self, key: str, epoch: str) -> None:
        [[before]] = self._execute("SELECT epoch FROM sidearm_1.log WHERE key = %s", [key])
        self._execute(sql.RENEW, [key, before, epoch])

    def mark(self, key: str) -> None:
        self._execute(sql.HEAD, [key, "0123456789", 0])
        self._execute(sql.TRIM, [key, 0, 0, 0])

    def cut(self) -> None:
        self._execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )

    def refuse(self, *, refuses: bool) -> None:
        """It takes no more than reading, as one does that has become a standby."""
        word = "on" if refuses else "off"
        self._execute(f"ALTER SYSTEM SET default_transaction_read_only = {word}")
        self._execute("SELECT pg_reload_conf()")

    def kill(self) -> None:
        pids = family(self.server.pid)
        with ends_of(pids) as wait:
            for pid in reversed(pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.server.kill()
            wait()

    def signal(self, number: int) -> None:
        for pid in family(self.server.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def save(self) -> None:
        """Copy what is on the disk; the server must not stand between two states meanwhile."""
        self.server.terminate()
        shutil.copytree(self._data, self._noted)
        for each in [self._noted, *self._noted.rglob("*")]:
            owner = self._data.stat()
            os.chown(each, owner.st_uid, owner.st_gid)
        self.server.restart()

    def restore(self) -> None:
        self.kill()
        shutil.rmtree(self._data)
        self._noted.rename(self._data)
        self.server.restart()

    @property
    def _data(self) -> Any:
        return self.server.folder / "data"

    @property
    def _noted(self) -> Any:
        return self.server.folder / "noted"

    def _execute(self, statement: Any, values: Any = None) -> list[Any]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute("SET default_transaction_read_only = off")
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

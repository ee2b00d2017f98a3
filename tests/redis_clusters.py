"""A real Redis Cluster on this machine."""

from __future__ import annotations

import random
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

from sidearm.testing import RedisServer
from sidearm.testing.servers import free_port

if TYPE_CHECKING:
    from typing import Self

redis = pytest.importorskip("redis", reason="pip install 'sidearm[redis]'")

SLOTS = 16384
PATIENCE = 60.0  # seconds until its nodes agree
PAUSE = 0.05


class ClusterNode(RedisServer):
    """One of its servers.

    Args:
        more: Further arguments of ``redis-server``.

    Attributes:
        bus_port: Where the other nodes reach it.
    """

    def __init__(self, *more: str) -> None:
        self.bus_port = free_port()
        settings = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": "2000",
            "cluster-port": str(self.bus_port),
            # A replica that was made a moment ago may stand in, and is made without delay.
            "cluster-replica-validity-factor": "0",
            "repl-diskless-sync-delay": "0",
        }
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        super().__init__(args=[*options, *more])

    def ask(self, *words: Any) -> Any:
        """The answer to a command, whatever node is meant to have its key."""
        with closing(redis.Redis.from_url(self.url)) as client:
            return client.execute_command(*words)

    def fact(self, name: str) -> str:
        """What it says of the Cluster."""
        lines = self.ask("CLUSTER", "INFO").decode().splitlines()
        return dict(line.split(":", 1) for line in lines)[name]

    def name(self) -> str:
        """What the nodes call it."""
        return str(self.ask("CLUSTER", "MYID").decode())

    def is_primary(self) -> bool:
        """Whether it has slots of its own."""
        return bool(self.ask("ROLE")[0] == b"master")


class RedisCluster:
    """Three primaries, and as many replicas for each as are asked for.

    Args:
        replicas: Of each primary.
        args: Further arguments of each ``redis-server``.

    Attributes:
        nodes: The primaries, then their replicas in the same order.
        url: For ``SIDEARM_BROKER``; it names a node of each kind.

    Raises:
        FileNotFoundError: There is no Redis here; the message says what to install.
    """

    def __init__(self, replicas: int = 0, *, args: tuple[str, ...] = ()) -> None:
        self.primaries = 3
        self.nodes = [ClusterNode(*args) for _ in range(self.primaries * (1 + replicas))]
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        self.url = f"redis+cluster://{hosts}"
        self._stack = ExitStack()

    def node_of(self, key: str) -> ClusterNode:
        """The node that has a log's slot."""
        slot = self.slot_of(key)
        for start, end, [_, port, *_], *_ in self._answering().ask("CLUSTER", "SLOTS"):
            if start <= slot <= end:
                return next(node for node in self.nodes if node.port == port)
        raise LookupError(f"No node has the slot {slot}.")

    def slot_of(self, key: str) -> int:
        """The slot of a log's keys."""
        return int(self._answering().ask("CLUSTER", "KEYSLOT", f"{{{key}}}"))

    def move_slot(self, key: str) -> ClusterNode:
        """Give a log's slot to another primary, as ``redis-cli --cluster reshard`` does."""
        slot, source = self.slot_of(key), self.node_of(key)
        target = random.choice(
            [node for node in self.nodes if node.is_primary() and node is not source]
        )
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.name())
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.name())
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for node in [target, source, *self.nodes]:
            if node.is_primary():
                node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.name())
        return target

    def _answering(self) -> ClusterNode:
        return next(node for node in self.nodes if node.status is None)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
            self._join()
            self._stack = stack.pop_all()
        return self

    def _join(self) -> None:
        first = self.nodes[0]
        for number in range(self.primaries):
            start, end = (SLOTS * each // self.primaries for each in (number, number + 1))
            self.nodes[number].ask("CLUSTER", "ADDSLOTSRANGE", start, end - 1)
        for number, node in enumerate(self.nodes):
            # Two with the same epoch would settle it later, while tests are running.
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in self.nodes[1:]:
            first.ask("CLUSTER", "MEET", "127.0.0.1", node.port, node.bus_port)
        self._wait("know each other", self._is_known)
        for number, node in enumerate(self.nodes[self.primaries :]):
            node.ask("CLUSTER", "REPLICATE", self.nodes[number % self.primaries].name())
        self._wait("are one Cluster", self._is_whole)

    def _is_known(self, node: ClusterNode) -> bool:
        return node.fact("cluster_known_nodes") == str(len(self.nodes))

    def _is_whole(self, node: ClusterNode) -> bool:
        role = node.ask("ROLE")
        rows = node.ask("CLUSTER", "SLOTS")
        copies = len(self.nodes) // self.primaries
        return (
            node.fact("cluster_state") == "ok"
            and len(rows) == self.primaries
            and all(len(row) == 2 + copies for row in rows)
            and (role[0] == b"master" or role[3] == b"connected")
        )

    def _wait(self, what: str, condition: Any) -> None:
        deadline = time.monotonic() + PATIENCE
        while not all(condition(node) for node in self.nodes):
            assert time.monotonic() < deadline, f"The nodes do not say that they {what}."
            time.sleep(PAUSE)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

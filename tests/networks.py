"""Machines of their own that reach one server, and can be cut off from it.

Each machine is a network namespace (``ip-netns(8)``) with two links: one on which its clients come,
and one to the network with the server. Where namespaces cannot be made, a machine is a proxy before
the server instead.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

HOST = "127.0.0.1"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: a close resets the connection


class Machine(Protocol):
    """A machine.

    Attributes:
        host: Its address for clients.
        prefix: What stands before a command that is to run on it.
    """

    host: str
    prefix: Sequence[str]

    def way_to(self, port: int) -> tuple[str, int]:
        """Where it finds a server that listens on :attr:`Network.server_host`."""
        ...

    def vanish(self) -> None:
        """Cut it off: what it sends and what is sent to it gets lost, and nobody says so."""
        ...

    def reset(self) -> None:
        """Cut it off: its connections are reset, and new ones are refused."""
        ...

    def come_back(self) -> None:
        """Connect it again."""
        ...


class Network(Protocol):
    """Some machines.

    Attributes:
        server_host: On which address the server has to listen.
        machines: The machines.
    """

    server_host: str
    machines: Sequence[Machine]

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def network(count: int) -> Network:
    """Machines in namespaces, or else behind proxies."""
    if reason := _why_no_namespaces():
        sys.stderr.write(f"No network namespaces ({reason}): the machines are proxies.\n")
        return Proxies(count)
    return Namespaces(count)


class Namespaces:
    """Machines in network namespaces, and a bridge to which they and the server are connected."""

    # 198.18.0.0/15 is for such tests (RFC 2544), and none of the Internet.
    def __init__(self, count: int) -> None:
        self._name = f"sa{os.getpid() % 100_000}"
        net = _free_net()
        self.server_host = f"198.18.{net}.1"
        self.machines = [_Namespace(self._name, number, net) for number in range(1, count + 1)]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            bridge = f"{self._name}b"
            _ip("link", "add", bridge, "type", "bridge")
            stack.callback(_ip, "link", "del", bridge)
            _ip("addr", "add", f"{self.server_host}/24", "dev", bridge)
            _ip("link", "set", bridge, "up")
            for machine in self.machines:
                stack.callback(machine.remove)
                machine.make(bridge)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class _Namespace:
    def __init__(self, name: str, number: int, net: int) -> None:
        self._name = f"{name}n{number}"
        self._front, self._back = f"{self._name}f", f"{self._name}s"
        self._server = f"198.18.{net}.1"
        self._own = f"198.18.{net}.{number + 1}"
        self._outside = f"198.19.{net}.{4 * number + 1}"
        self.host = f"198.19.{net}.{4 * number + 2}"
        self.prefix = ["ip", "netns", "exec", self._name]

    def make(self, bridge: str) -> None:
        """Make it, with its links."""
        _ip("netns", "add", self._name)
        _ip("-n", self._name, "link", "set", "lo", "up")
        for outer, inner in ((self._front, "front"), (self._back, "back")):
            peer = ("peer", "name", inner, "netns", self._name)
            _ip("link", "add", outer, "type", "veth", *peer)
        _ip("link", "set", self._back, "master", bridge)
        _ip("addr", "add", f"{self._outside}/30", "dev", self._front)
        _ip("-n", self._name, "addr", "add", f"{self.host}/30", "dev", "front")
        _ip("-n", self._name, "addr", "add", f"{self._own}/24", "dev", "back")
        for outer, inner in ((self._front, "front"), (self._back, "back")):
            _ip("link", "set", outer, "up")
            _ip("-n", self._name, "link", "set", inner, "up")

    def remove(self) -> None:
        """Remove it; its links go with it."""
        with suppress(subprocess.CalledProcessError):
            _ip("netns", "del", self._name)

    def way_to(self, port: int) -> tuple[str, int]:
        return self._server, port

    def vanish(self) -> None:
        _ip("link", "set", self._back, "down")

    def reset(self) -> None:
        _ip("-n", self._name, "route", "add", "unreachable", f"{self._server}/32")
        _reset_all(self.prefix, self._server)

    def come_back(self) -> None:
        _ip("link", "set", self._back, "up")
        with suppress(subprocess.CalledProcessError):  # it had vanished
            _ip("-n", self._name, "route", "del", "unreachable", f"{self._server}/32")


def _ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    return done.stdout


def _reset_all(prefix: Sequence[str], host: str) -> None:
    """Reset every connection to a host."""
    subprocess.run([*prefix, "ss", "-K", "dst", host], check=True, capture_output=True)


def _why_no_namespaces() -> str:
    """Why there can be none here, after an attempt; empty if there can."""
    if "WITHOUT_NAMESPACES" in os.environ:
        return "WITHOUT_NAMESPACES is set"
    if sys.platform != "linux" or os.geteuid() != 0:
        return "they are for root on Linux"
    missing = [name for name in ("ip", "ss") if shutil.which(name) is None]
    if missing:
        return f"there is no {missing[0]}; Debian: apt install iproute2"
    return _why_no_network() or _why_no_resets()


def _free_net() -> int:
    """A number that no other test of this machine uses."""
    addresses = _ip("-4", "-o", "addr")
    return next(net for net in range(250) if f" 198.18.{net}." not in addresses)


def _why_no_network() -> str:
    """Why the kernel makes no namespace with a bridge; empty if it does."""
    name = f"sa{os.getpid() % 100_000}t"
    try:
        _ip("netns", "add", name)
        try:
            _ip("link", "add", name, "type", "bridge")
            _ip("link", "del", name)
            _ip("-n", name, "link", "set", "lo", "up")
        finally:
            _ip("netns", "del", name)
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip()
    return ""


def _why_no_resets() -> str:
    """Why the kernel resets no connection when asked; empty if it does."""
    with socket.create_server((HOST, 0)) as listener:
        address = listener.getsockname()
        with socket.create_connection(address) as probe, listener.accept()[0]:
            words = ["ss", "-K", "dst", HOST, "dport", "=", str(address[1])]
            subprocess.run(words, check=False, capture_output=True)
            probe.setblocking(False)
            try:
                probe.recv(1)
            except ConnectionAbortedError:
                return ""
            except BlockingIOError:
                return "the kernel resets no connection for ss -K"
    return "ss -K does not do"


class Proxies:
    """Machines that are proxies before a server of this one."""

    def __init__(self, count: int) -> None:
        self.server_host = HOST
        self.machines = [_Proxy() for _ in range(count)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self.machines:
            machine.close()


class _Proxy:
    def __init__(self) -> None:
        self.host = HOST
        self.prefix: list[str] = []
        self._listener = socket.create_server((HOST, 0))
        self._port = 0
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        self._passes = threading.Event()
        self._passes.set()
        self._resets = False
        threading.Thread(target=self._accept, daemon=True).start()

    def way_to(self, port: int) -> tuple[str, int]:
        self._port = port
        return HOST, int(self._listener.getsockname()[1])

    def vanish(self) -> None:
        self._passes.clear()

    def reset(self) -> None:
        self._resets = True
        self._hang_up()

    def come_back(self) -> None:
        self._resets = False
        self._passes.set()

    def close(self) -> None:
        """End it."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the one who waits for it up
        self._listener.close()
        self.come_back()
        self._hang_up()

    def _hang_up(self) -> None:
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RD)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._resets:
                near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                near.close()
                continue
            far = socket.create_connection((HOST, self._port))
            with self._lock:
                self._ends |= {near, far}
            for ends in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                self._passes.wait()
                target.sendall(data)
        except OSError:
            pass
        with self._lock:
            self._ends -= {source, target}
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

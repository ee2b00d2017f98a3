"""Very many clients of a hub in one thread, each of which reads all that it is sent."""

from __future__ import annotations

import selectors
import socket
import time
from typing import TYPE_CHECKING

from hub_streams import PATIENCE, SMALL, wait_for_hub

from sidearm.hub.eventstream import Event, Parser
from sidearm.hub.messages import Handoff

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from sidearm.hub.client import HubClient


class Member:
    """One client: what it has been sent.

    Attributes:
        raw: All that has come. It is parsed when it is asked for: there is no time meanwhile.
        has_ended: Whether the stream has.
    """

    def __init__(self, connection: socket.socket, *, reads: bool = True) -> None:
        self.socket = connection
        self.reads = reads
        self.raw = bytearray()
        self.has_ended = False

    @property
    def events(self) -> list[Event]:
        """The events, in the order in which they came."""
        return Parser().feed(bytes(self.raw))

    @property
    def data(self) -> list[str]:
        """The data of the events."""
        return [event.data for event in self.events]

    def has_just_got(self, data: object) -> bool:
        """Whether the last event has this data."""
        return b"data: %b\n" % str(data).encode() in self.raw[-200:]


class Crowd:
    """Clients whose connections the hub holds.

    Args:
        hub: A worker's end of the hub's socket.
    """

    def __init__(self, hub: HubClient) -> None:
        self._hub = hub
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.members: list[Member] = []

    def join(self, count: int, *channels: str, reads: bool = True) -> list[Member]:
        """Open so many streams.

        Args:
            count: How many.
            channels: What each listens to.
            reads: Whether they read what they are sent, while :meth:`read` runs. If not, the
                kernel's buffers are small, too.
        """
        place = wait_for_hub(self._hub)
        joined = []
        for _ in range(count):
            connection = socket.socket()
            if not reads:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
            connection.connect(self._listener.getsockname())
            served, _ = self._listener.accept()
            with served:
                if not reads:
                    served.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
                deadline = time.monotonic() + PATIENCE
                while not self._hub.handoff(Handoff(channels, position=place), served.fileno()):
                    assert time.monotonic() < deadline, "The hub takes no more clients."
            connection.setblocking(False)
            member = Member(connection, reads=reads)
            joined.append(member)
            if reads:
                self._selector.register(connection, selectors.EVENT_READ, member)
        self.members += joined
        return joined

    def let_read(self, members: Sequence[Member]) -> None:
        """Have members read from now on that did not."""
        for member in members:
            member.reads = True
            self._selector.register(member.socket, selectors.EVENT_READ, member)

    def read(self, until: Callable[[], bool], patience: float = PATIENCE) -> None:
        """Read what comes, until a condition holds."""
        deadline = time.monotonic() + patience
        while not until():
            assert time.monotonic() < deadline, self._describe()
            self.read_once(0.05)

    def read_until_all_have(self, count: int, patience: float = PATIENCE) -> None:
        """Read until every member that reads has so many events."""
        late = [member for member in self.members if member.reads]

        def all_have() -> bool:
            nonlocal late
            late = [member for member in late if member.raw.count(b"data: ") < count]
            return not late

        self.read(all_have, patience)

    def read_once(self, seconds: float) -> None:
        """Read what is there; wait for so long if nothing is."""
        for key, _ in self._selector.select(seconds):
            member: Member = key.data
            try:
                data = member.socket.recv(1 << 16)
            except BlockingIOError:
                continue
            except ConnectionResetError:
                data = b""
            if data:
                member.raw += data
            else:
                member.has_ended = True
                self._selector.unregister(member.socket)

    def ended(self) -> int:
        """How many streams have ended."""
        return sum(member.has_ended for member in self.members)

    def close(self) -> None:
        """Go away, all at once."""
        self._selector.close()
        self._listener.close()
        for member in self.members:
            member.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _describe(self) -> str:
        counts = sorted({member.raw.count(b"data: ") for member in self.members if member.reads})
        return f"Waited in vain: {self.ended()} streams have ended; the others have {counts}."

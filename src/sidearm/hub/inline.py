"""Tells processes that hold streams themselves what happens, on one connection for each of them.

Nothing is chosen for them: each is told everything, in the hub's own order, and knows who of its
clients wants to hear it. So the hub has nothing to remember of them but the connection's role,
which a hub that takes over knows too. One that does not read is closed when too much waits for it;
its streams then end, and their clients resume by their ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..exceptions import ProtocolError
from .connection import Connection
from .messages import INLINE, Beat, Close, Events, Gap, Message, PassedEvent

Send = Callable[[Connection, Message], None]


class Inline:
    """The processes that hold streams themselves.

    Args:
        connections: Those of all workers, by descriptor.
        send: Sends a message on a connection, without waiting.
    """

    __slots__ = ("_connections", "_events", "_send")

    def __init__(self, connections: Mapping[int, Connection], send: Send) -> None:
        self._connections = connections
        self._send = send
        self._events: list[PassedEvent] = []

    def add(self, event: PassedEvent) -> None:
        """Let an event leave with the next :meth:`send`."""
        self._events.append(event)

    def send(self) -> None:
        """Pass on the events that were published together."""
        events, self._events = self._events, []
        if events:
            self._tell(Events(events))

    def close(self, message: Close) -> None:
        """Pass on that streams are closed by their tag."""
        self._tell(message)

    def gap(self, channels: tuple[str, ...], frame: bytes, time: int) -> None:
        """Pass on that events are lost."""
        self._tell(Gap(channels, frame, time))

    def beat(self, frame: bytes, time: int) -> None:
        """Pass a heartbeat on."""
        self._tell(Beat(frame, time))

    def part(self) -> None:
        """Hang up on all: their streams end, and their clients resume by their ids."""
        self._events.clear()
        for connection in self._connections.values():
            if connection.role == INLINE:
                connection.hang_up()

    def _tell(self, message: Message) -> None:
        for connection in [each for each in self._connections.values() if each.role == INLINE]:
            try:
                self._send(connection, message)
            except (ProtocolError, OSError):
                # Its own reading finds the end, and does all that belongs to it.
                connection.hang_up()

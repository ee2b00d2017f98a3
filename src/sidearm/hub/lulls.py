"""Hand-offs that come close together are read together.

To be woken for each of them costs more than to take it, and takes the processor away from the
worker that has sent it. So a connection that brings a client soon after another is not watched for
a moment (a *lull*): the next ones wait in the kernel, until the moment is over or something else
wakes the hub. Nobody waits for that: a worker is not answered, and its client has had its head, and
its place in the log. A snapshot comes up to that moment later. Nothing is lost: each message says
from which position its stream goes on, and all that wait are taken before an event is.
"""

from __future__ import annotations

import math
import time

from . import platform
from .connection import Connection

LULL = 0.05  # seconds
SMALL = 4096  # bytes; of such messages, more fit the kernel's buffer than come in a lull


class Lulls:
    """The connections that are not watched just now.

    Args:
        poller: Watches the others.
    """

    def __init__(self, poller: platform.Poller) -> None:
        self._poller = poller
        self._last = -math.inf  # when a client came
        # Whether each has brought a client since the last look.
        self._quiet: dict[Connection, bool] = {}

    def __bool__(self) -> bool:
        return bool(self._quiet)

    def connections(self) -> list[Connection]:
        """Those that have to be read in each round, because nothing tells that they can be."""
        return list(self._quiet)

    def brought_client(self, connection: Connection) -> None:
        """Begin a lull, or go on with it, if clients come in quick succession.

        Not where there was more to read than is read at once, which goes on in the next round, nor
        where a few messages would fill the kernel's buffer: their worker would have to wait.

        Args:
            connection: What brought one.
        """
        before, self._last = self._last, time.monotonic()
        if not connection.was_emptied or connection.most_read > SMALL:
            self._end(connection)
        elif connection in self._quiet:
            self._quiet[connection] = True
        elif self._last - before < LULL:
            self._quiet[connection] = True
            self._poller.watch_reading(connection.fileno(), wanted=False)

    def look(self) -> None:
        """End the lulls in which nothing came since the last look."""
        for connection, has_brought in list(self._quiet.items()):
            if has_brought:
                self._quiet[connection] = False
            else:
                self._end(connection)

    def forget(self, connection: Connection) -> None:
        """A connection has ended, or is another process's."""
        self._quiet.pop(connection, None)

    def _end(self, connection: Connection) -> None:
        if self._quiet.pop(connection, None) is not None:
            self._poller.watch_reading(connection.fileno(), wanted=True)

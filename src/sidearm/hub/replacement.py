"""The running hub's part in its own replacement: who wants it, whether it can be, and how it went.

A command asks for it (:class:`~sidearm.hub.messages.Replace`). Whoever started the hub then starts
the new one, or the command becomes it. The new one connects and asks for everything
(:class:`~sidearm.hub.messages.TakeOver`); at the end of that round it gets it.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator

from ..exceptions import ProtocolError
from .connection import Connection
from .messages import Message, NotReplaced, Replace, Replacing, TakeOver
from .state import STATE_VERSION, AnyPiece
from .takeover import Token, give

RESERVE = 64  # descriptors that a new process needs beside those that it gets

logger = logging.getLogger("sidearm.hub")

Send = Callable[[Connection, Message], None]
Tell = Callable[[Token], Iterator[tuple[AnyPiece, list[int]]]]


class Replacement:
    """Decides whether this hub is replaced.

    Args:
        send: Sends a message on a connection, without waiting.

    Attributes:
        is_possible: Whether another process may have what this one holds.
        want: Tells whoever started this hub to start one that replaces it (True), or that the one
            that was started is of no use any more (False). None: nobody looks after this hub.
        successor: Who takes over at the end of this round.
        failed: Attempts that failed so far.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._want_it: set[Connection] = set()
        self.is_possible = True
        self.want: Callable[[bool], None] | None = None
        self.successor: Connection | None = None
        self.failed = 0

    def take(
        self, connection: Connection, message: Replace | TakeOver, descriptor_count: int
    ) -> None:
        """Handle a message.

        Args:
            connection: Where it came from.
            message: What it says.
            descriptor_count: How many descriptors a new hub gets.

        Raises:
            ProtocolError: This hub cannot be replaced like that; the message says why.
        """
        if isinstance(message, Replace):
            self._send(connection, Replacing(os.getpid(), self.want is not None))
            if self.want is not None:
                self._want_it.add(connection)
                self.want(True)
            return
        flaw = self._find_flaw(message, descriptor_count)
        if flaw is not None:
            if self.successor is None:  # else those who wait may still get what they want
                self._fail(flaw)
            raise ProtocolError(flaw)
        self.successor = connection

    def forget(self, connection: Connection) -> None:
        """Note that a connection is gone."""
        self._want_it.discard(connection)
        if self.successor is connection:
            self.successor = None

    def hand_over(self, connection: Connection, tell: Tell) -> bool:
        """Give everything to the successor.

        Args:
            connection: Where it is; not among those that are told.
            tell: Makes the pieces of the state, with the token in the first.

        Returns:
            Whether it serves from now on. If not, this hub goes on.
        """
        self.successor = None
        began = time.monotonic()
        try:
            reason = self._give(connection, tell)
        finally:
            connection.close()
        if reason is None:
            logger.info("Another hub has taken over, in %.3f s.", time.monotonic() - began)
            return True
        logger.error(
            "The hub was not replaced, and goes on: %s (after %.1f s).",
            reason,
            time.monotonic() - began,
        )
        self._fail(f"{reason}.")
        if self.want is not None:
            self.want(False)
        return False

    def _give(self, connection: Connection, tell: Tell) -> str | None:
        try:
            token = Token.make()
        except OSError as error:
            return f"there is no descriptor for the token ({error.strerror})"
        try:
            return give(connection.socket, tell(token), token)
        finally:
            token.close()

    def _find_flaw(self, message: TakeOver, descriptor_count: int) -> str | None:
        if not self.is_possible:
            return "it is about to stop, or runs in a thread of a development server."
        if self.successor is not None:
            return "another process is about to take over."
        if STATE_VERSION not in message.versions:
            return (
                f"it tells its state in version {STATE_VERSION}, and the new hub understands"
                f" {', '.join(map(str, message.versions))}. Restart it instead."
            )
        if message.room - RESERVE < descriptor_count:
            return (
                f"it holds {descriptor_count} descriptors, and the new process may have"
                f" {message.room}, of which it needs {RESERVE} itself. Raise its limit"
                " (LimitNOFILE, ulimit -n)."
            )
        return None

    def _fail(self, reason: str) -> None:
        self.failed += 1
        for connection in self._want_it:
            try:
                self._send(connection, NotReplaced(reason))
            except (ProtocolError, OSError) as error:
                logger.debug("Who wanted it could not be told: %s", error)
        self._want_it.clear()

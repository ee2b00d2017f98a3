"""Lets workers in: who may, and what to do where no descriptor is left."""

from __future__ import annotations

import errno
import os
from _socket import socket as RawSocket  # noqa: N812
from collections.abc import Iterator

from . import platform
from .descriptors import Descriptors
from .listener import Listener
from .tally import Tally


class Acceptor:
    """Accepts connections.

    Args:
        listener: Where they arrive.
        poller: Watches it.
        descriptors: How many there may be.
        tally: Counts those that are refused.
    """

    def __init__(
        self, listener: Listener, poller: platform.Poller, descriptors: Descriptors, tally: Tally
    ) -> None:
        self._listener = listener
        self._poller = poller
        self._descriptors = descriptors
        self._tally = tally
        self._spare: int | None = _open_spare()
        self._is_paused = False
        self._poller.watch(listener.fileno())

    def accept(self) -> Iterator[RawSocket]:
        """Yield the connections of all who wait, and may come in."""
        while True:
            try:
                accepted = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    raise
                if self._turn_away():
                    continue
                return
            uid = platform.peer_uid(accepted)
            if uid not in (None, 0, platform.effective_uid()):
                self._refuse("user", "A connection of user %d was refused.", uid)
                accepted.close()
                continue
            yield accepted

    def begin_round(self) -> None:
        """Take a spare descriptor back, if it was given away and there is one again."""
        if self._spare is None:
            self._accept_again()

    def close(self) -> None:
        """Give the spare descriptor back."""
        if self._spare is not None:
            os.close(self._spare)

    def _turn_away(self) -> bool:
        """Accept and close one connection where no descriptor is left, lest the loop spin on it.

        Returns:
            Whether there may be more: ``accept`` reports the full table also where nobody waits.
        """
        if self._spare is None:
            return False
        os.close(self._spare)
        self._spare = None
        try:
            self._listener.accept().close()
        except OSError:
            return False
        finally:
            self._accept_again()
        limit = self._descriptors.limit
        self._refuse("accept", "A worker was turned away: all %d descriptors are in use.", limit)
        return True

    def _accept_again(self) -> None:
        """Take a spare descriptor back; without one, nobody is let in until the next round."""
        was_paused = self._is_paused
        try:
            self._spare = _open_spare()
        except OSError:
            self._is_paused = True
            if not was_paused:
                self._poller.forget(self._listener.fileno())
            return
        self._is_paused = False
        if was_paused:
            self._poller.watch(self._listener.fileno())

    def _refuse(self, kind: str, text: str, value: int | None) -> None:
        self._tally.counts["refused_connections"] += 1
        self._tally.warn(kind, text, value)


def _open_spare() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

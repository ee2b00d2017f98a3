"""Which endpoints were seen to stream though their annotation does not say so.

They are remembered in a file beside the hub's socket, one endpoint a line, so that another process
(``flask sidearm topology``, ``export``) knows what the workers found out. A worker writes once for
each endpoint, and only where a hub has made the folder.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from typing import TYPE_CHECKING

from ..hub import platform
from .declared import Declared, declared

if TYPE_CHECKING:
    from flask import Flask

logger = logging.getLogger("sidearm.events")

SUFFIX = ".streams"
LARGEST = 1 << 20  # bytes that are read; an endpoint takes some twenty


class Sightings:
    """What this process has seen, and writes down.

    Args:
        socket_path: The hub's socket.
    """

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._seen: set[str] = set()

    def note(self, app: Flask, endpoint: str | None) -> None:
        """Remember that an endpoint has made a stream.

        Args:
            app: The application.
            endpoint: The request's; ``None`` where no rule matched.
        """
        if endpoint is None or endpoint in self._seen:
            return
        self._seen.add(endpoint)
        view = app.view_functions.get(endpoint)
        if view is not None and declared(view) in (Declared.STREAMS, Declared.MAY_STREAM):
            return
        if endpoint.isprintable() and endpoint not in read_sightings(self._socket_path):
            _append(self._socket_path + SUFFIX, endpoint)


def read_sightings(socket_path: str) -> frozenset[str]:
    """The endpoints that were seen to stream by any process of this user's.

    Args:
        socket_path: The hub's socket.
    """
    try:
        descriptor = os.open(socket_path + SUFFIX, os.O_RDONLY | platform.PLAIN_FILE)
    except (OSError, ValueError):
        return frozenset()
    with os.fdopen(descriptor, "rb") as file:
        if not _is_ours(file.fileno()):
            return frozenset()
        lines = file.read(LARGEST).decode("utf-8", "replace").split("\n")
    return frozenset(line for line in lines if line)


def _append(path: str, endpoint: str) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | platform.PLAIN_FILE
    try:
        descriptor = os.open(path, flags, 0o600)
        with contextlib.closing(os.fdopen(descriptor, "wb", buffering=0)) as file:
            if _is_ours(file.fileno()) and os.fstat(file.fileno()).st_size < LARGEST:
                file.write(f"{endpoint}\n".encode())  # in one piece, whoever else appends
    except OSError as error:  # no folder, no right to write, a full disk: only the memory is lost
        logger.debug("%s cannot be written: %s.", path, error.strerror)


def _is_ours(descriptor: int) -> bool:
    """Nobody else may tell a user's programs what streams; root reads its services' files."""
    found = os.fstat(descriptor)
    return stat.S_ISREG(found.st_mode) and platform.effective_uid() in (found.st_uid, 0, -1)

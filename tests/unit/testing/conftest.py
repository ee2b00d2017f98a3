"""A server that says exactly the bytes it is told to, and keeps what it is asked."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Self

DEADLINE = 10.0  # seconds


class ScriptedServer:
    """Answers its connections one after the other, each with the bytes that :meth:`say` queued.

    Attributes:
        url: Its address.
        requests: The head of each request, as it came.
    """

    def __init__(self, path: str | None = None) -> None:
        self.requests: queue.Queue[bytes] = queue.Queue()
        self._answers: queue.Queue[bytes | None] = queue.Queue()
        self._listener = socket.socket(socket.AF_UNIX if path else socket.AF_INET)
        self._listener.bind(path or ("127.0.0.1", 0))
        self._listener.listen()
        self._stopping = False
        port = 80 if path else self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/stream?a=b"
        self._thread = threading.Thread(target=self._serve, name="sidearm-test-script")

    def say(self, *pieces: bytes) -> None:
        """Queue what the current connection, or the next one, is sent."""
        for piece in pieces:
            self._answers.put(piece)

    def hang_up(self) -> None:
        """Queue the end of the connection."""
        self._answers.put(None)

    def request(self) -> str:
        """The head of the next request."""
        return self.requests.get(timeout=DEADLINE).decode()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopping = True
        self.hang_up()
        # A last connection wakes accept(), which close() would not.
        with contextlib.suppress(OSError), socket.socket(self._listener.family) as last:
            last.connect(self._listener.getsockname())
        self._thread.join(DEADLINE)
        self._listener.close()

    def _serve(self) -> None:
        while not self._stopping:
            connection, _ = self._listener.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(DEADLINE)
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            received = connection.recv(4096)
            if not received:
                return
            head += received
        self.requests.put(head)
        while (piece := self._answers.get(timeout=DEADLINE)) is not None:
            connection.sendall(piece)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A scripted server on a loopback port."""
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def unix_server(tmp_path: Path) -> Iterator[tuple[ScriptedServer, str]]:
    """A scripted server on a Unix socket, and the socket's path."""
    path = str(tmp_path / "s")
    with ScriptedServer(path) as server:
        yield server, path

"""The hand-off against a server of ten lines, with real sockets and no hub."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidearm.events import capture, handoff
from sidearm.events.capture import ended_connection
from sidearm.events.handoff import COMMENT, hand_off, head_for_hub
from sidearm.events.servers import ServerSocket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: tiny\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n"
    b"Set-Cookie: a=1\r\nset-cookie: b=2\r\n\r\n"
)
HUB_HEAD = (
    b"HTTP/1.1 200 OK\r\nServer: tiny\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\n"
    b"Connection: close\r\n\r\n"
)
PLAIN_HEAD = HEAD.replace(b"Transfer-Encoding: chunked\r\n", b"")
ANSWER = b"retry: 2000\n\n"


class OtherSocket(socket.socket):
    """A socket with methods of its own, as servers with an event loop have them."""


class Connection:
    """A client, the server's socket for it, and a hub that keeps what it is given."""

    def __init__(self, kind: type[socket.socket] = socket.socket) -> None:
        self.client, server = socket.socketpair()
        self.server = kind(fileno=server.detach())
        self.client.settimeout(5)
        self.hub_is_there = True
        self.handed: list[socket.socket] = []

    def give(self, descriptor: int) -> bool:
        if self.hub_is_there:
            self.handed.append(socket.socket(fileno=os.dup(descriptor)))
        return self.hub_is_there

    def body(self) -> Iterator[bytes]:
        return hand_off(ServerSocket(self.server), self.give, lambda: ANSWER)

    def serve(self, body: Iterable[bytes], head: bytes = PLAIN_HEAD) -> None:
        """Write head and body as a server does: the head with the first piece."""
        for piece in body:
            self.server.sendall(head + piece)
            head = b""

    def close(self) -> None:
        for each in (self.client, self.server, *self.handed):
            each.close()

    def received(self) -> bytes:
        """All that the client got, once nobody else holds its connection."""
        for each in (self.server, *self.handed):
            each.close()
        pieces = iter(lambda: self.client.recv(65536), b"")
        return b"".join(pieces)


def is_other(connection: Connection) -> bool:
    return type(connection.server) is OtherSocket


def open_descriptors() -> list[str]:
    folder = Path("/proc/self/fd")
    return sorted(each.name for each in folder.iterdir()) if folder.is_dir() else []


@pytest.fixture(params=[socket.socket, OtherSocket], ids=["captured", "stand-in"])
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A connection, after which every descriptor must have been given back."""
    ended_connection()  # the process keeps this one
    before = open_descriptors()
    made = Connection(request.param)
    yield made
    made.close()
    assert open_descriptors() == before


@pytest.fixture
def reasons(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The log lines that say why a stream is polled, with none said before."""
    monkeypatch.setattr(handoff, "_logged", set())
    caplog.set_level(logging.WARNING, "sidearm.events")

    class Reasons(list[str]):
        def __iter__(self) -> Iterator[str]:
            return iter(record.getMessage() for record in caplog.records)

    return Reasons()


@pytest.mark.parametrize("head", [HEAD, PLAIN_HEAD], ids=["chunked", "plain"])
def test_the_client_goes_to_the_hub_behind_the_servers_own_head(
    connection: Connection, head: bytes
) -> None:
    """The hub writes on, on the client's own socket, after the head that the server wrote."""
    connection.serve(connection.body(), head)
    connection.handed[0].sendall(b"data: from the hub\n\n")

    assert connection.received() == HUB_HEAD + COMMENT + b"data: from the hub\n\n"


def test_h7_a_client_that_is_lost_on_its_way_knows_when_to_come_back(
    connection: Connection,
) -> None:
    """The worker says it with the head: a hub that dies, or has no room, says nothing more."""
    body = hand_off(
        ServerSocket(connection.server), connection.give, lambda: ANSWER, b"retry: 1234\n\n"
    )
    connection.serve(body)

    assert connection.received() == HUB_HEAD + COMMENT + b"retry: 1234\n\n"


def test_the_server_is_free_at_once(connection: Connection) -> None:
    """What the server writes or reads after the hand-off ends at once, and reaches nobody."""
    connection.serve(connection.body())

    with pytest.raises(BrokenPipeError):
        connection.server.sendall(b"0\r\n\r\n")
    assert connection.server.recv(100) == b""
    assert connection.received() == HUB_HEAD + COMMENT


def test_a_server_that_closes_anyway_meets_no_error(connection: Connection) -> None:
    """The end of the body that gunicorn's sync worker still writes reaches nobody, and is no error.

    Not by the stand-in, which knows nothing of what is written to it afterwards.
    """
    body = hand_off(ServerSocket(connection.server, closes=True), connection.give, lambda: ANSWER)
    connection.serve(body)

    with pytest.raises(BrokenPipeError) if is_other(connection) else contextlib.nullcontext():
        connection.server.sendall(b"0\r\n\r\n")
    assert connection.received() == HUB_HEAD + COMMENT


def read_ahead(body: Iterable[bytes]) -> Iterator[bytes]:
    """A middleware that always asks for the next piece before it passes the last."""
    pieces = iter(body)
    held = next(pieces)
    for piece in pieces:
        yield held
        held = piece
    yield held


def test_a_middleware_that_reads_ahead_changes_nothing(connection: Connection) -> None:
    """A middleware that holds one piece back does not keep the stream from the hub."""
    with pytest.raises(BrokenPipeError):  # its last piece is a comment, and nobody misses it
        connection.serve(read_ahead(connection.body()))

    assert connection.received() == HUB_HEAD + COMMENT


def join(body: Iterable[bytes]) -> list[bytes]:
    return [b"".join(body)]


def unchanged(body: Iterable[bytes]) -> Iterable[bytes]:
    return body


def upper(body: Iterable[bytes]) -> Iterator[bytes]:
    return (piece.upper() for piece in body)


LENGTH_HEAD = PLAIN_HEAD.replace(b"Server", b"content-length: 9000\r\nServer")
GZIP_HEAD = PLAIN_HEAD.replace(b"Server", b"Content-Encoding: gzip\r\nServer")
TEAPOT_HEAD = PLAIN_HEAD.replace(b"200 OK", b"418 I'm a teapot")


@pytest.mark.parametrize(
    ("head", "middleware", "reason"),
    [
        pytest.param(PLAIN_HEAD, join, "holds the response back", id="joiner"),
        pytest.param(LENGTH_HEAD, unchanged, "header 'content-length'", id="length"),
        pytest.param(GZIP_HEAD, unchanged, "header 'content-encoding'", id="coding"),
        pytest.param(TEAPOT_HEAD, unchanged, "status to '418'", id="status"),
        pytest.param(b"ICY 200 OK\r\n\r\n", unchanged, "no HTTP/1 head", id="protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", unchanged, "no HTTP/1 head", id="unfinished head"),
        pytest.param(PLAIN_HEAD, upper, "changed the body", id="other body"),
    ],
)
def test_what_a_hub_cannot_continue_stays_with_the_server(
    connection: Connection,
    reasons: list[str],
    head: bytes,
    middleware: Callable[[Iterable[bytes]], Iterable[bytes]],
    reason: str,
) -> None:
    """The client gets every byte that the server wrote, in order, and then one poll's answer."""
    connection.serve(middleware(connection.body()), head)
    connection.server.sendall(b"0\r\n\r\n")

    received = connection.received()
    assert connection.handed == []
    assert received.startswith(head)
    assert received.lower().endswith(ANSWER.lower() + b"0\r\n\r\n")
    assert received.lower().count(COMMENT) == 1
    assert [line for line in reasons if reason in line]


def test_a_body_closed_in_between_gives_the_socket_back(connection: Connection) -> None:
    """A server that stops after the first piece has written it to the client all the same."""
    body = connection.body()
    piece = next(body)
    connection.server.sendall(PLAIN_HEAD + piece)
    body.close()  # type: ignore[attr-defined]
    connection.server.sendall(b"the end")

    assert connection.received() == PLAIN_HEAD + COMMENT + b"the end"


def test_a_body_that_is_never_asked_for_takes_nothing(connection: Connection) -> None:
    """Closing a body that no server began leaves the client with the server."""
    connection.body().close()  # type: ignore[attr-defined]
    connection.server.sendall(b"still here")

    assert connection.received() == b"still here"


def test_a_body_closed_late_touches_no_other_client(connection: Connection) -> None:
    """A descriptor's number that has gone to the next client stays with that client."""
    body = connection.body()
    next(body)
    number = connection.server.fileno()
    connection.server.close()
    other, next_client = socket.socketpair()
    with other, next_client:
        assert number in (other.fileno(), next_client.fileno())  # the lowest free one
        body.close()  # type: ignore[attr-defined]
        other.sendall(b"for the next client")
        assert next_client.recv(100) == b"for the next client"


def test_a_hub_that_leaves_at_the_last_moment_costs_no_client(connection: Connection) -> None:
    """With the head sent already, the answer follows on the same socket, and the end."""
    connection.hub_is_there = False
    connection.client.sendall(b"what nobody reads")
    connection.serve(connection.body(), HEAD)

    assert connection.received() == HUB_HEAD + COMMENT + ANSWER


def test_a_client_that_has_gone_is_no_error(connection: Connection) -> None:
    """The body just ends; the server finds out by itself."""
    body = connection.body()
    piece = next(body)
    connection.server.sendall(PLAIN_HEAD + piece)
    connection.client.close()

    assert list(body) == []
    assert connection.handed == []


def test_a_closed_socket_is_answered_not_raised(connection: Connection, reasons: list[str]) -> None:
    """A server that closed the socket already gets the answer to throw away."""
    connection.server.close()

    assert list(connection.body()) == [ANSWER]
    assert [line for line in reasons if "cannot be duplicated" in line]


def test_h2_a_server_that_writes_past_its_socket_serves_the_client_itself(
    connection: Connection, reasons: list[str]
) -> None:
    """What is not caught reaches the client as it was written, and the stream is polled."""
    write = connection.server.sendall  # the method of the class that it had then
    for number, piece in enumerate(connection.body()):
        write(piece if number else PLAIN_HEAD + piece)
    if is_other(connection):  # the stand-in catches whatever is written
        assert connection.received() == HUB_HEAD + COMMENT
        return

    connection.server.sendall(b"the end")
    received = connection.received()
    assert connection.handed == []
    assert received.startswith(PLAIN_HEAD + COMMENT)
    assert received.endswith(ANSWER + b"the end")
    assert [line for line in reasons if "holds the response back" in line]


def test_h1_each_way_to_write_is_caught(connection: Connection) -> None:
    """A server may send by any method of its socket."""
    server, body = connection.server, connection.body()
    piece = next(body)
    sent = server.send(PLAIN_HEAD[:30])
    assert server.sendmsg([PLAIN_HEAD[sent:50], PLAIN_HEAD[50:]]) == len(PLAIN_HEAD) - sent
    with server.makefile("wb", buffering=0) as file:
        file.write(piece)

    assert list(body) == []
    assert connection.received() == HUB_HEAD + COMMENT


@pytest.mark.parametrize("blocking", [True, False])
def test_the_stand_in_blocks_as_the_original_does(
    connection: Connection, *, blocking: bool
) -> None:
    """A server that expects EAGAIN from a full socket gets it, and one that waits may wait."""
    connection.server.setblocking(blocking)
    body = connection.body()
    next(body)
    assert os.get_blocking(connection.server.fileno()) is blocking
    assert not os.get_inheritable(connection.server.fileno())
    body.close()  # type: ignore[attr-defined]
    assert os.get_blocking(connection.server.fileno()) is blocking


def test_a_long_head_is_read_whole(connection: Connection) -> None:
    """A head larger than one read, as with many cookies, is handed over unchanged."""
    cookies = b"Set-Cookie: " + b"a" * 40_000 + b"\r\n"
    connection.serve(connection.body(), PLAIN_HEAD.replace(b"Server", cookies + b"Server"))

    assert cookies in connection.received()
    assert len(connection.handed) == 1


def test_the_head_keeps_a_header_whose_value_names_a_dropped_one() -> None:
    """Only whole names count."""
    written = b"HTTP/1.0 200\r\nX-Connection: close\r\nVary: Connection\r\n\r\n" + COMMENT

    assert head_for_hub(written) == (
        b"HTTP/1.0 200\r\nX-Connection: close\r\nVary: Connection\r\nConnection: close\r\n\r\n"
    )


def test_each_reason_is_logged_once_in_a_process(reasons: list[str]) -> None:
    """A thousand polls of one cause are one log line."""
    for _ in range(3):
        handoff.log_once("a reason")
    handoff.log_once("another")

    assert len(list(reasons)) == 2


def test_h1_two_threads_leave_one_ended_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread's own would be closed with its last reference, and another descriptor be copied."""
    monkeypatch.setattr(capture, "_ended", [])
    make, both = socket.socketpair, threading.Barrier(2)

    def make_together() -> tuple[socket.socket, socket.socket]:
        with contextlib.suppress(threading.BrokenBarrierError):  # nobody else makes one
            both.wait(0.5)
        return make()

    monkeypatch.setattr(socket, "socketpair", make_together)
    found: list[socket.socket] = []
    threads = [threading.Thread(target=lambda: found.append(ended_connection())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, two = found
    with one, two:
        assert one is two

"""Q1 on real servers: bodies of any size in constant memory, and refusals that the sender sees."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidearm.testing import FlaskRunServer, GunicornServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidearm.testing.servers import Server

APPS = Path(__file__).parents[1] / "apps"
PATIENCE = 120.0  # seconds
MIB = 1 << 20
UPLOAD = int(os.environ.get("UPLOAD", "256")) * MIB  # of `make test-long`: 2 GiB
PIECE = bytes(range(256)) * 256  # 64 KiB


@pytest.fixture(scope="module", params=["sync", "gthread", "flask-run"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """The application on a real server with one process."""
    made: Server
    if request.param == "flask-run":
        made = FlaskRunServer("raw_bodies", cwd=APPS)
    else:
        threads = 4 if request.param == "gthread" else None
        made = GunicornServer(
            "raw_bodies:app", cwd=APPS, worker_class=request.param, threads=threads
        )
    with made as server:
        yield server


def pieces(size: int) -> Iterator[bytes]:
    for _ in range(size // len(PIECE)):
        yield PIECE
    if size % len(PIECE):
        yield PIECE[: size % len(PIECE)]


def post(server: Server, path: str, size: int, *, chunked: bool, type_: str = "") -> Any:
    """Send a body and only then look for the answer, as simple clients do."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    headers = {"Content-Type": type_ or "application/octet-stream"}
    headers |= {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(size)}
    try:
        connection.request("POST", path, body=pieces(size), headers=headers, encode_chunked=chunked)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 64 << 10, (8 << 20) + 1])
def test_q1_a_body_comes_whole(server: Server, size: int, *, chunked: bool) -> None:
    """Announced or in chunks."""
    status, text = post(server, "/count", size, chunked=chunked)
    assert status == 200
    told = json.loads(text)
    assert told["size"] == size
    assert told["digest"] == digest_of(size)


def digest_of(size: int) -> str:
    digest = hashlib.blake2b()
    for piece in pieces(size):
        digest.update(piece)
    return digest.hexdigest()


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("more", [1, 8 << 20])
def test_q1_the_sender_sees_that_its_body_is_too_long(
    server: Server, more: int, *, chunked: bool
) -> None:
    """The application's own page, also to who sends all of it first; the limit itself is taken."""
    limit = 64 << 10
    assert post(server, "/small", limit, chunked=chunked) == (200, str(limit))
    for _ in range(3):
        answer = post(server, "/small", limit + more, chunked=chunked)
        assert answer == (413, f"ours: At most {limit} bytes can be sent here.")
    assert post(server, "/small", 5, chunked=chunked) == (200, "5")


@pytest.mark.parametrize("chunked", [False, True])
def test_q1_the_sender_sees_a_refusal_of_a_body_that_was_not_read(
    server: Server, *, chunked: bool
) -> None:
    """A view may answer without a look at it."""
    assert post(server, "/unread", 8 << 20, chunked=chunked) == (403, "not you")


def test_q1_a_body_that_says_it_is_too_long_need_not_be_sent(server: Server) -> None:
    """413 comes before the first byte of it, and then the server waits for nobody."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n")
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    assert answer.partition(b"\r\n")[0].split()[1] == b"413"
    assert b"ours: At most" in answer


def test_q1_a_sender_that_goes_on_for_ever_is_left(server: Server) -> None:
    """What is thrown away for it is bounded; the worker is free again."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(b"POST /small HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent, chunk = 0, b"10000\r\n" + PIECE + b"\r\n"
        with contextlib.suppress(OSError):
            while True:
                client.sendall(chunk)
                sent += len(chunk)
    assert sent > 64 << 10
    assert post(server, "/small", 5, chunked=False) == (200, "5")


def test_q1_limits_of_one_view_are_not_those_of_another(server: Server) -> None:
    """``MAX_CONTENT_LENGTH`` is 16 MiB, and holds for forms (C17, without the proxy)."""
    form = "application/x-www-form-urlencoded"
    with_field = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    with contextlib.closing(with_field):
        body = b"a=" + b"x" * (5 * MIB)
        with_field.request("POST", "/form", body, {"Content-Type": form})
        assert with_field.getresponse().read() == str(5 * MIB).encode()
    status, text = post(server, "/count", 50 * MIB, chunked=False, type_=form)
    assert (status, json.loads(text)["size"]) == (200, 50 * MIB)


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_q1_an_upload_grows_the_worker_by_less_than_16_mib(
    worker_class: str, tmp_path: Path
) -> None:
    """The peak of its resident memory meanwhile, as the kernel counts it."""
    no_time_limit = ["--timeout", "0"]  # the sync worker's, for which this machine may be too slow
    with GunicornServer(
        "raw_bodies:app", cwd=APPS, worker_class=worker_class, args=no_time_limit
    ) as server:
        assert post(server, "/size", MIB, chunked=False)[0] == 200  # what is loaded once
        peak(server)
        before = peak(server)
        assert upload(server, tmp_path / "sparse", UPLOAD).endswith(f"\r\n\r\n{UPLOAD}".encode())
        assert peak(server) - before < 16 * MIB


def peak(server: Server) -> int:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", "/memory")
        found = json.loads(connection.getresponse().read())["peak"]
    assert isinstance(found, int)
    return found


def upload(server: Server, path: Path, size: int) -> bytes:
    """Send a file of zeros, which takes no room on the disk and no time of this process."""
    path.touch()
    os.truncate(path, size)
    address = "127.0.0.1", server.port
    head = f"POST /size HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n"
    with path.open("rb") as file, socket.create_connection(address, timeout=PATIENCE) as client:
        client.sendall(head.encode())
        client.sendfile(file)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    return answer


def test_q1_a_sender_that_leaves_is_noticed(server: Server) -> None:
    """Its half body is no body: the view raises, and the next request finds a free worker."""
    for head in (b"Content-Length: 100000", b"Transfer-Encoding: chunked"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
            client.sendall(b"POST /count HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n1\r\nx\r\n")
            client.shutdown(socket.SHUT_WR)
            answer = client.recv(65536)
        assert answer.partition(b"\r\n")[0].split()[1] == b"400"
    assert post(server, "/small", 5, chunked=False) == (200, "5")


def test_q1_expect_continue(server: Server) -> None:
    """Who asks before it sends is told 413 in place of 100, or sees it after."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(
            b"POST /small HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Content-Length: 1000000\r\n\r\n"
        )
        answer = b""
        while b"ours" not in answer:
            piece = client.recv(65536)
            assert piece, answer
            answer += piece
        statuses = [line.split()[1] for line in answer.split(b"\r\n") if line[:5] == b"HTTP/"]
    assert statuses[-1] == b"413"
    assert set(statuses[:-1]) <= {b"100"}  # the development server says it twice


def test_q1_a_short_body_that_nobody_read_costs_no_time_and_no_connection() -> None:
    """A single thread answers the next one at once, on the same connection too."""
    with GunicornServer("raw_bodies:app", cwd=APPS, worker_class="gthread", threads=1) as server:
        first = HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        with contextlib.closing(first):
            for _ in range(3):
                first.request("POST", "/unread", body=b"x" * 10)
                answer = first.getresponse()
                assert (answer.status, answer.read()) == (403, b"not you")
                assert answer.headers["Connection"] == "keep-alive"
            assert post(server, "/size", 10, chunked=False) == (200, "10")
            first.request("POST", "/size", body=b"x" * 7)
            answer = first.getresponse()
            assert (answer.status, answer.read()) == (200, b"7")

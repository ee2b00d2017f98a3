"""Contract W3 end to end: exported nginx before ``flask sidearm up``, at the root and below."""

from __future__ import annotations

import contextlib
import gzip
import json
import selectors
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote_plus

import pytest
import urllib3
from fronts import APPS, PATIENCE, Nginx, ask, sidearm

from sidearm.testing import EventSource, UpServer

KIB = 1 << 10  # bytes


@dataclass
class Stack:
    """An application and its front."""

    nginx: Nginx
    up: UpServer
    prefix: str
    env: dict[str, str]

    @property
    def url(self) -> str:
        return self.nginx.url + self.prefix

    def publish(self, channel: str, data: str) -> None:
        assert ask(f"{self.url}/publish/{channel}", data.encode()).text == "published"


@contextlib.contextmanager
def running(folder: Path, prefix: str) -> Iterator[Stack]:
    files = {
        "static/site.css": "a {}",
        "static/long.css": "a {}\n" * 500,
        "admin/admin.css": "p {}",
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    env = {"FRONTED_FOLDER": str(folder), "PYTHONPATH": str(APPS)}
    with UpServer("fronted:app", env=env, cwd=APPS, start_timeout=PATIENCE) as up:
        words = ("--port", str(up.port), *(("--prefix", prefix) if prefix else ()))
        with Nginx("fronted:app", *words, env=env) as nginx:
            yield Stack(nginx, up, prefix, env)


@pytest.fixture(scope="module", params=["", "/shop"], ids=["at the root", "under a prefix"])
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("fronted"), request.param) as stack:
        yield stack


def test_w3_a_stream_passes_event_by_event(stack: Stack) -> None:
    """Each small event is read before the next one is sent."""
    with EventSource(f"{stack.url}/streams/news", timeout=PATIENCE) as source:
        for number in range(5):
            stack.publish("news", str(number))
            assert source.next_event().data == str(number)
        assert source.headers["Content-Type"].startswith("text/event-stream")
        assert stack.up.hub_figures().subscribers == 1  # the hub holds it, no worker polls


def test_w3_bodies_up_to_the_limit_pass(stack: Stack) -> None:
    """Within MAX_CONTENT_LENGTH a form arrives; above it the application's own page says so."""
    assert ask(f"{stack.url}/form", b"text=" + b"x" * 50 * KIB).text == str(50 * KIB)
    refused = ask(f"{stack.url}/form", b"text=" + b"x" * 80 * KIB)
    assert (refused.status, refused.text) == (413, "the application's own page")


def test_w3_a_view_with_its_own_limit(stack: Stack) -> None:
    """C17: its bodies may be longer, up to its limit, and nobody else's."""
    assert ask(f"{stack.url}/raw", b"x" * 200 * KIB).text == str(200 * KIB)
    refused = ask(f"{stack.url}/raw", b"x" * 300 * KIB)
    assert (refused.status, refused.text) == (413, "the application's own page")


def test_w3_what_no_page_should_answer_is_ended_by_the_front(stack: Stack) -> None:
    """Far above the limit no worker is bothered."""
    refused = ask(f"{stack.url}/form", b"text=" + b"x" * 400 * KIB)
    assert refused.status == 413
    assert "nginx" in refused.text


def test_w3_static_files_come_from_the_front(stack: Stack) -> None:
    """With the application's caching, its type, and a version to ask for; a blueprint's too."""
    for path, text in {"/static/site.css": "a {}", "/admin/files/admin.css": "p {}"}.items():
        answer = ask(stack.url + path)
        direct = ask(stack.up.url + path)
        assert answer.text == direct.text == text
        for name in ("Content-Type", "Cache-Control"):
            assert answer.headers[name] == direct.headers[name]
        again = ask(stack.url + path, If_None_Match=answer.headers["ETag"])
        assert again.status == 304
    # The last word of a line names who answered: nobody behind the front.
    lines = [line for line in stack.nginx.access_log().splitlines() if "/static/site.css" in line]
    assert lines
    assert all(line.endswith(" -") for line in lines)


def test_w3_the_front_compresses_what_the_application_does_not(stack: Stack) -> None:
    """Text that is worth it, for those who accept that, and caches are told."""
    long = ask_for_bytes(f"{stack.url}/static/long.css", "gzip")
    assert gzip.decompress(long.data) == b"a {}\n" * 500
    assert (long.headers["Content-Encoding"], long.headers["Vary"]) == ("gzip", "Accept-Encoding")
    for path, accepted in (("long.css", "identity"), ("site.css", "gzip")):
        plain = ask_for_bytes(f"{stack.url}/static/{path}", accepted)
        assert plain.data.startswith(b"a {}")


def ask_for_bytes(url: str, accepted: str) -> urllib3.BaseHTTPResponse:
    return urllib3.request(
        "GET", url, headers={"Accept-Encoding": accepted}, decode_content=False, timeout=PATIENCE
    )


def test_w3_a_static_url_that_is_on_no_disk_is_the_applications(stack: Stack) -> None:
    """Such as one with a hash: its own headers arrive; and a missing one is its own 404."""
    answer = ask(f"{stack.url}/static/generated.css")
    assert answer.text == "b {}"
    assert answer.headers.get_all("Cache-Control") == ["public, max-age=31536000, immutable"]
    assert "nginx" not in ask(f"{stack.url}/static/gone.css").text


def test_w3_the_application_sees_the_browser(stack: Stack) -> None:
    """Address, host, port and prefix are what the browser used; forged headers do not count."""
    forged = ask(
        f"{stack.url}/seen",
        X_Forwarded_For="203.0.113.7",
        X_Forwarded_Host="evil.example",
        X_Forwarded_Proto="https",
        X_Forwarded_Prefix="/evil",
        Forwarded="for=203.0.113.7",
    )
    assert json.loads(forged.text) == {
        "address": "127.0.0.1",
        "root": f"http://127.0.0.1:{stack.nginx.port}{stack.prefix}/",
        "static": f"{stack.prefix}/static/site.css",
        "admin": f"{stack.prefix}/admin/files/admin.css",
    }


def test_w3_paths_with_escapes_and_queries(stack: Stack) -> None:
    """What a channel's name holds reaches the application as it was meant."""
    name = "täst & 100% +x"
    with EventSource(
        f"{stack.url}/streams/{quote_plus(name).replace('+', '%20')}?a=1&b=%26"
    ) as source:
        stack.publish(quote_plus(name).replace("+", "%20"), "hello")
        assert source.next_event().data == "hello"


def test_w3_the_prefix_without_its_slash(stack: Stack) -> None:
    """It leads to the application; what is beside the prefix is not its business."""
    if not stack.prefix:
        assert "nginx" not in ask(f"{stack.url}/shopping").text  # all is its business
        return
    answer = ask(f"{stack.nginx.url}/shop?a=1")
    assert (answer.status, answer.headers["Location"]) == (308, "/shop/?a=1")
    assert ask(f"{stack.nginx.url}/seen").status == 404
    assert ask(f"{stack.nginx.url}/shopping").status == 404


def open_stream(stack: Stack, source: str, **headers: str) -> socket.socket:
    """Open a stream from one address of this machine, and send its request."""
    connection = socket.create_connection(
        ("127.0.0.1", stack.nginx.port), PATIENCE, source_address=(source, 0)
    )
    lines = [f"GET {stack.prefix}/streams/crowd HTTP/1.1", f"Host: 127.0.0.1:{stack.nginx.port}"]
    lines += ["Connection: close"]  # so that the end can be seen
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def test_w3_limits_of_an_address_cannot_be_forged(stack: Stack) -> None:
    """C16: of ten addresses with 3 streams each all are held; of one's 8, exactly 5."""
    with contextlib.ExitStack() as streams:
        for last in range(2, 12):
            for _ in range(3):
                streams.enter_context(open_stream(stack, f"127.0.0.{last}"))
        held = stack.up.hub_figures
        stack.up.wait_until(lambda: held().subscribers == 30, PATIENCE, "30 streams")
        greedy = [
            streams.enter_context(
                open_stream(stack, "127.0.0.50", X_Forwarded_For=f"203.0.113.{number}")
            )
            for number in range(8)
        ]
        stack.up.wait_until(lambda: held().subscribers == 35, PATIENCE, "35 streams")
        # The other three were answered, with an end: their browsers come back later.
        assert ends_of(greedy, 3) == 3
        assert held().subscribers == 35


def ends_of(streams: list[socket.socket], wanted: int) -> int:
    """Read until so many have ended; the others go on."""
    ended = 0
    with selectors.DefaultSelector() as selector:
        for stream in streams:
            selector.register(stream, selectors.EVENT_READ)
        while ended < wanted and (ready := selector.select(PATIENCE)):
            for key, _ in ready:
                stream = next(each for each in streams if each.fileno() == key.fd)
                if not stream.recv(65536):
                    selector.unregister(stream)
                    ended += 1
    return ended


def test_w3_check_knows_the_deployed_file(stack: Stack, tmp_path: Path) -> None:
    """The file that runs covers what streams."""
    said = sidearm(
        "fronted:app",
        *("export", "nginx", "--check", str(stack.nginx.folder / "nginx.conf")),
        *(("--prefix", stack.prefix) if stack.prefix else ()),
        env=stack.env,
    )
    assert "covers all 1 streaming routes" in said


def test_w2_a_stream_without_annotation_is_found_out(stack: Stack) -> None:
    """Unknown until a worker sees it; then any process of this user knows, and export too."""
    env = {**stack.env, "SIDEARM_SOCKET": stack.up.socket_path}

    def kind() -> str:
        routes = json.loads(sidearm("fronted:app", "topology", "--json", env=env))["routes"]
        (found,) = [route for route in routes if route["endpoint"] == "unsaid"]
        return f"{found['kind']}, {found['known_by']}"

    assert kind() == "unknown, until it first streams"
    with EventSource(f"{stack.url}/unsaid/1", timeout=PATIENCE) as source:
        stack.publish("unsaid-1", "x")
        assert source.next_event().data == "x"  # so it passes the front all the same
    assert kind() == "streams, seen by a worker"
    assert r"/unsaid/(?:\\d+)" in sidearm("fronted:app", "export", "nginx", env=env)

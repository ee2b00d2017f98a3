"""Real servers with real streams: how tests start them, and what they ask of them."""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from sidearm.exceptions import StreamEnded
from sidearm.hub.client import ask_figures
from sidearm.testing import EventSource, FlaskRunServer, GunicornServer, HubServer, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sidearm.hub.eventstream import Event
    from sidearm.hub.messages import Figures

APPS = Path(__file__).parent / "apps"
# A stream that held a worker up would hold it for this long, which no test waits.
GRACE = ["--graceful-timeout", "600"]  # seconds
THREADS = 4  # of the worker that has some
FRIEND = "https://app.example"  # may read the streams of the applications in tests/apps
STRANGER = "https://evil.example"


class UwsgiServer(Server):
    """uWSGI with one worker; ``http-socket`` makes it speak HTTP itself."""

    def __init__(self, app: str, *, args: Sequence[str] = (), **options: Any) -> None:
        super().__init__(**options)
        module, _, call = app.partition(":")
        self.args = ["--module", module, "--callable", call.removesuffix("()"), *args]

    def command(self) -> list[str]:
        uwsgi = [str(Path(sys.executable).with_name("uwsgi")), "--master", "--need-app"]
        # What it runs again when it reloads; by itself it takes the Python outside of the .venv.
        uwsgi += ["--binary-path", sys.executable]
        uwsgi += ["--die-on-term", "--enable-threads", "--lazy-apps", "--pythonpath", "."]
        # A stream that held a worker up would hold it for this long.
        uwsgi += ["--worker-reload-mercy", "600", "--reload-mercy", "600"]
        return [*uwsgi, "--http-socket", f"127.0.0.1:{self.port}", *self.args]


class EventletServer(Server):
    """eventlet's own server, which is a function and no program."""

    def __init__(self, app: str, **options: Any) -> None:
        super().__init__([sys.executable, "eventlet_server.py", app, "{port}"], **options)


class WaitressServer(Server):
    """waitress, whose socket only private attributes would give."""

    def __init__(self, app: str, **options: Any) -> None:
        serve = [sys.executable, "-m", "waitress", "--listen", "127.0.0.1:{port}"]
        super().__init__([*serve, app], **options)


@dataclass
class Live:
    """A server, the hub that it hands its streams to, and how to ask both."""

    server: Server
    socket_path: str

    @property
    def url(self) -> str:
        return self.server.url

    def get(self, path: str, *, data: bytes | None = None, timeout: float = 30) -> bytes:
        with urllib.request.urlopen(self.url + path, data, timeout) as response:
            body: bytes = response.read()
            return body

    def publish(self, channel: str, *lines: str) -> None:
        assert self.get(f"/publish/{channel}", data="\n".join(lines).encode()) == b"published"

    def process(self) -> dict[str, int]:
        return msgspec.json.decode(self.get("/process"), type=dict[str, int])

    def figures(self) -> Figures:
        return ask_figures(self.socket_path, 30)

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        self.server.wait_until(condition, timeout=30, what=what)

    def wait_for_subscribers(self, count: int) -> None:
        self.wait_until(lambda: self.figures().subscribers == count, f"{count} subscribers")


@contextmanager
def private_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="sa-", dir="/tmp"))  # short enough for a socket
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _gunicorn(worker_class: str, *given: str) -> Callable[..., Server]:
    def make(app: str, args: Sequence[str] = (), **options: Any) -> Server:
        every = [*GRACE, *given, *args]
        return GunicornServer(app, worker_class=worker_class, args=every, **options)

    return make


def _gthread(app: str, args: Sequence[str] = (), **options: Any) -> Server:
    every = [*GRACE, *args]
    return GunicornServer(app, worker_class="gthread", threads=THREADS, args=every, **options)


def _uwsgi(*given: str) -> Callable[..., Server]:
    def make(app: str, args: Sequence[str] = (), **options: Any) -> Server:
        return UwsgiServer(app, args=[*given, *args], **options)

    return make


MAKERS: dict[str, Callable[..., Server]] = {
    "gunicorn sync": _gunicorn("sync"),
    "gunicorn gthread": _gthread,
    "gunicorn gevent": _gunicorn("gevent"),
    "gunicorn gevent_pywsgi": _gunicorn("gevent_pywsgi"),
    "flask run": FlaskRunServer,
    "flask run without threads": lambda app, **options: FlaskRunServer(
        app, args=["--without-threads"], **options
    ),
    "uwsgi": _uwsgi(),
    "uwsgi threads": _uwsgi("--threads", str(THREADS)),
    "uwsgi gevent": _uwsgi("--gevent", "300"),
    "eventlet": EventletServer,
    "waitress": WaitressServer,
}


def make_server(
    name: str,
    socket_path: str,
    app: str = "streams:app",
    env: dict[str, str] | None = None,
    args: Sequence[str] = (),
) -> Server:
    """A server by its name in :data:`MAKERS`."""
    return MAKERS[name](
        app,
        cwd=APPS,
        env={"SIDEARM_SOCKET": socket_path, **(env or {})},
        start_timeout=60,  # seconds, on a machine that does much else
        stop_timeout=60,
        **({"args": args} if args else {}),
    )


@contextmanager
def serving(
    name: str,
    app: str = "streams:app",
    env: dict[str, str] | None = None,
    args: Sequence[str] = (),
) -> Iterator[Live]:
    """One worker and its hub: a process of its own, or the one that ``flask run`` starts."""
    with ExitStack() as stack:
        if name.startswith("flask run"):
            socket_path = str(stack.enter_context(private_folder()) / "hub.sock")
        else:
            socket_path = stack.enter_context(HubServer(start_timeout=60)).socket_path
        server = make_server(name, socket_path, app, env, args)
        yield Live(stack.enter_context(server), socket_path)


def held(live: Live, path: str) -> EventSource:
    """An open stream that the hub holds.

    On a busy machine the hub may be too slow for a worker's patience; the answer is then that of a
    poll, in the server's own framing, and the client comes back as browsers do.
    """
    source = EventSource(live.url + path, timeout=30)
    for _ in range(10):
        if "Transfer-Encoding" not in source.headers:
            return source
        source.wait_for_end()
        source.reconnect()
    raise AssertionError(f"{source!r} is polled.")


def next_event(source: EventSource) -> Event:
    """The next event, over as many connections as it takes."""
    while True:
        try:
            return source.next_event(30)
        except StreamEnded:
            source.reconnect(30)


def collect(source: EventSource, count: int) -> list[str]:
    """The data of the next events."""
    return [next_event(source).data for _ in range(count)]


@contextmanager
def sources(live: Live, count: int, path: str) -> Iterator[list[EventSource]]:
    """So many open streams, all known to the hub; afterwards all gone from it."""
    before = live.figures().subscribers
    with ExitStack() as stack:
        with ThreadPoolExecutor(16) as pool:
            opened = list(pool.map(lambda _: stack.enter_context(held(live, path)), range(count)))
        live.wait_for_subscribers(before + count)
        yield opened
    live.wait_for_subscribers(before)


# What holds on every server


def check_nothing_behind_is_answered(live: Live, channel: str) -> None:
    """Send a request behind the one for a stream: it gets no answer, and the worker goes on."""
    target = live.figures().opened + 1
    with socket.create_connection(("127.0.0.1", live.server.port), 30) as client:
        request = f"GET /streams/{channel} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        client.sendall(request + b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        live.wait_until(lambda: live.figures().opened == target, "the hand-off")
        assert live.get("/ping") == b"pong"
        live.publish(channel, "the only")
        received = b""
        while b"the only" not in received:
            received += client.recv(65536)
    assert received.count(b"HTTP/1.") == 1
    assert b"pong" not in received


def check_nothing_is_missed(live: Live, channel: str) -> None:
    """Publish while a client is away: that comes first, then what is new."""
    with held(live, f"/streams/{channel}") as source:
        live.publish(channel, "one")
        assert collect(source, 1) == ["one"]
        source.close()
        live.publish(channel, "two", "three")
        source.reconnect()
        live.publish(channel, "four")
        assert collect(source, 3) == ["two", "three", "four"]


def check_foreign_pages(live: Live, channel: str) -> None:
    """A page of another site is refused; one whose origin the application names reads."""
    url = f"{live.url}/streams/{channel}"
    for headers in (
        {"Sec-Fetch-Site": "cross-site", "Origin": STRANGER},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": STRANGER},
    ):
        request = urllib.request.Request(url, headers=headers)
        with pytest.raises(urllib.error.HTTPError) as raised:
            urllib.request.urlopen(request, timeout=30)
        with raised.value as refusal:
            assert refusal.code == 403
            assert "SIDEARM_STREAM_ORIGINS" in refusal.read().decode()
    friend = {"Sec-Fetch-Site": "cross-site", "Origin": FRIEND}
    with EventSource(url, headers=friend, timeout=30) as source:
        assert source.headers.get_all("Access-Control-Allow-Origin") == [FRIEND]
        assert source.headers.get_all("Access-Control-Allow-Credentials") == ["true"]
        assert "Origin" in source.headers.get_all("Vary", [])
        live.publish(channel, "one")
        assert collect(source, 1) == ["one"]

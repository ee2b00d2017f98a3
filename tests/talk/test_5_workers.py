"""Chapter 5, worker separation: two pools and one front, from exported files."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from fronts import APPS, PATIENCE, ask, program, sidearm, sidearm_ends

from sidearm.exceptions import ServerDied, StreamEnded
from sidearm.testing import EventSource, Server, free_port

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

SLIDE_NGINX = """\
server {
    listen 80;
    server_name example.com;

    location /streams {
        proxy_set_header Host $http_host;
        proxy_pass http://localhost:8001/streams;
    }

    location / {
        proxy_set_header Host $http_host;
        proxy_pass http://localhost:8000/;
    }
}
"""


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    for name in ("static", "admin"):
        (tmp_path / name).mkdir()
    return {
        "FRONTED_FOLDER": str(tmp_path),
        "PYTHONPATH": str(APPS),
        "SIDEARM_SOCKET": str(tmp_path / "hub.sock"),
    }


class TalksSystem(Server):
    """The exported supervisord: hub, both pools, Redis, and nginx on ``port``."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        super().__init__(env=env, cwd=APPS, start_timeout=PATIENCE, stop_timeout=PATIENCE)
        self.run_folder = folder
        self.ports = {"blocking": free_port(), "streaming": free_port()}
        self._supervisord = program("supervisord")
        program("nginx")
        program("redis-server")

    def command(self) -> list[str]:
        """The command line, whose files are written now."""
        words = (
            *("--layout", "talk", "--port", str(self.ports["blocking"])),
            *("--streams-port", str(self.ports["streaming"]), "--listen", str(self.port)),
            *("--run-dir", str(self.run_folder), "-o", str(self.run_folder), "--force"),
            *("--redis-port", str(free_port())),
        )
        env = {name: value for name, value in self._env.items() if value is not None}
        for kind in ("nginx", "supervisor"):
            sidearm("fronted:app", "export", kind, *words, env=env)
        path = self.run_folder / "supervisord.conf"
        text = path.read_text()
        # A machine of tests may allow fewer descriptors than a server does.
        path.write_text(re.sub(r"minfds = \d+", "minfds = 64", text))
        return [self._supervisord, "-n", "-c", str(path)]

    def is_ready(self) -> bool:
        """Whether both pools answer through the front."""
        try:
            return all(
                ask(f"{self.url}{path}").status == status
                for path, status in {"/seen": 200, "/streams/": 404}.items()
            ) and self.is_listening("streaming")
        except OSError:
            return False

    def is_listening(self, pool: str) -> bool:
        """Whether a pool answers."""
        return ask(f"http://127.0.0.1:{self.ports[pool]}/seen").status == 200

    def pool_of(self, path: str) -> set[str]:
        """Which pools answered a path, read in nginx's own log."""
        names = {f"127.0.0.1:{port}": name for name, port in self.ports.items()}
        lines = (self.run_folder / "nginx-access.log").read_text().splitlines()
        return {names[line.split()[-1]] for line in lines if f" {path} " in line}


def data_of_next(source: EventSource) -> str:
    """The next event's data; a stream that was polled is opened again, as browsers do."""
    while True:
        try:
            return source.next_event().data
        except StreamEnded:
            source.reconnect()


@pytest.fixture
def system(tmp_path: Path, env: dict[str, str]) -> Iterator[TalksSystem]:
    with TalksSystem(tmp_path, env) as system:
        yield system


def test_5a_5b_supervisor_runs_both_pools_and_nginx_chooses(system: TalksSystem) -> None:
    """A stream is answered by the gevent pool and everything else by the blocking one."""
    with EventSource(f"{system.url}/streams/news", timeout=PATIENCE) as source:
        for number in range(3):
            assert ask(f"{system.url}/publish/news", str(number).encode()).text == "published"
            assert data_of_next(source) == str(number)
    # nginx writes a line when a request is over.
    system.wait_until(lambda: system.pool_of("/streams/news") != set(), PATIENCE, "nginx's log")
    assert system.pool_of("/streams/news") == {"streaming"}
    assert system.pool_of("/publish/news") == {"blocking"}
    assert system.pool_of("/seen") == {"blocking"}
    assert system.terminate() == 0


def test_4c_5b_the_slides_nginx_block_is_found_wanting(tmp_path: Path) -> None:
    """Footgun 13: it collects events, and covers no stream that is not under /streams."""
    (tmp_path / "slide.conf").write_text(SLIDE_NGINX)
    words = ("export", "nginx", "--layout", "talk", "--check", str(tmp_path / "slide.conf"))
    status, _, errors = sidearm_ends("streams:app", *words)
    assert status == 1
    assert "'location /streams', which collects events: proxy_buffering is not off" in errors
    assert "/snapshots/x is served by 'location /'" in errors


def test_footgun_13_pools_listen_on_the_loopback_interface_only(
    tmp_path: Path, env: dict[str, str]
) -> None:
    """The slide's pools can be reached past their front; and a stream holds no stop up for long."""
    for kind in ("supervisor", "procfile", "systemd"):
        text = sidearm("fronted:app", "export", kind, "--layout", "talk", env=env)
        assert "0.0.0.0" not in text
        assert text.count("-b 127.0.0.1:") == 2
        assert "--graceful-timeout 5" in text


class MakeTalk(Server):
    """``make talk``, on ports that are free; the front's is ``port``."""

    def __init__(self, server: str, instance: Path) -> None:
        super().__init__(
            env={"SHOP_INSTANCE_PATH": str(instance)}, start_timeout=120, stop_timeout=PATIENCE
        )
        for name in ("nginx", "redis-server", "supervisord", "make"):
            program(name)
        self.server = server
        self.ports = {name: free_port() for name in ("PORT", "STREAMS_PORT", "REDIS_PORT")}

    def command(self) -> list[str]:
        """The command line; two workers in each pool are enough to see what is shared."""
        ports = [f"{name}={port}" for name, port in {"LISTEN": self.port, **self.ports}.items()]
        talk = ["make", "--no-print-directory", "-C", str(ROOT), "talk"]
        return [*talk, f"SERVER={self.server}", "WORKERS=2", *ports]

    def is_ready(self) -> bool:
        """Whether it has said so."""
        return "Ctrl-C stops it" in self.log_text()

    @property
    def run_folder(self) -> Path:
        """Where its files and logs are, as it says."""
        found = re.search(r"files and logs in (\S+)", self.log_text())
        assert found is not None
        return Path(found[1])

    def pool_of(self, request: str) -> set[str]:
        """Which pools answered such requests, read in nginx's own log."""
        names = {f"127.0.0.1:{port}": name for name, port in self.ports.items()}
        lines = (self.run_folder / "nginx-access.log").read_text().splitlines()
        return {names[line.split()[-1]] for line in lines if f'"{request}' in line}

    def press_ctrl_c(self) -> None:
        """What a terminal does: everything in its foreground group is told."""
        os.killpg(self.pid, signal.SIGINT)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("server", ["gunicorn", "uwsgi"])
def test_5a_5b_5c_make_talk_runs_the_talks_system(server: str, tmp_path: Path) -> None:
    """Bought through nginx, seen live, and each pool has answered what the slide gives it."""
    with MakeTalk(server, tmp_path / "instance") as talk:
        _buy_and_see(talk)
        talk.wait_until(lambda: talk.pool_of("GET /streams/shop") != set(), PATIENCE, "its log")
        assert talk.pool_of("GET /streams/shop") == {"STREAMS_PORT"}
        assert talk.pool_of("POST /products/") == {"PORT"}
        assert talk.pool_of("GET / ") == {"PORT"}
        # The pool has held the stream, and did not poll.
        log = (talk.run_folder / "worker-nonblocking.log").read_text()
        assert "answered by polling" not in log
        configuration = (talk.run_folder / "supervisord.conf").read_text()
        assert ("--http-socket" in configuration) is (server == "uwsgi")
        with closing(redis.Redis(port=talk.ports["REDIS_PORT"])) as broker:
            (log_key,) = broker.keys("*:log")
            assert broker.xlen(log_key) > 0  # what was seen has come this way

        folder = talk.run_folder
        talk.press_ctrl_c()
        talk.wait_for_exit(PATIENCE)
        assert not folder.exists()
        for port in (talk.port, *talk.ports.values()):
            with socket.socket() as probe:
                assert probe.connect_ex(("127.0.0.1", port)) != 0


def _buy_and_see(talk: MakeTalk) -> None:
    """One window watches while another buys."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
        browser = driver.chromium.launch(
            executable_path=CHROMIUM, args=arguments, timeout=PATIENCE * 2000
        )
        watching, buying = browser.new_page(), browser.new_page()
        for page in (watching, buying):
            page.set_default_timeout(PATIENCE * 1000)
        watching.goto(talk.url)
        watching.locator("#live-state[data-state=live]").wait_for()
        name = watching.locator(".card-name a").first.inner_text()
        buying.goto(talk.url)
        buying.locator(".card-name a").first.click()
        buying.get_by_label("E-mail for the confirmation").fill("ada@example.org")
        buying.get_by_label("How many").fill("1")
        buying.get_by_role("button", name="Buy it").click()
        buying.locator(".receipt").wait_for()
        watching.locator("#sold li", has_text=name).first.wait_for()
        browser.close()


def test_w4_make_talk_names_a_port_that_is_taken(tmp_path: Path) -> None:
    """Before it starts anything, and with the variable that names another one."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        talk = MakeTalk("gunicorn", tmp_path / "instance")
        talk.ports["STREAMS_PORT"] = taken.getsockname()[1]
        with pytest.raises(ServerDied) as caught, talk:
            pass
    assert "make talk STREAMS_PORT=PORT" in str(caught.value)
    assert "Traceback" not in str(caught.value)

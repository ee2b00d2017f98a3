"""Chapter 5, worker separation: two pools and one front, from exported files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from fronts import APPS, PATIENCE, ask, program, sidearm, sidearm_ends

from sidearm.exceptions import StreamEnded
from sidearm.testing import EventSource, Server, free_port

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
        )
        env = {name: value for name, value in self._env.items() if value is not None}
        for kind in ("nginx", "supervisor"):
            sidearm("fronted:app", "export", kind, *words, env=env)
        path = self.run_folder / "supervisord.conf"
        text = path.read_text().replace("--port 6379", f"--port {free_port()}")
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

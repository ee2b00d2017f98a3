"""Contract W1 for those who keep their launcher: ``gunicorn -c python:sidearm.gunicorn``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hub_streams import wait_for
from processes import children, ends_of, expect_end_of, family, program_of

from sidearm.exceptions import HubError
from sidearm.hub.client import ask_figures
from sidearm.testing import EventSource, GunicornServer, HubServer, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

APPS = Path(__file__).parent.parent / "apps"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches processes in /proc")

PATIENCE = 60.0  # seconds; a busy machine takes its time
KINDS = {
    "sync": ["-w", "2"],
    "gthread": ["-w", "2", "-k", "gthread", "--threads", "2"],
    "gevent": ["-w", "2", "-k", "gevent"],
    "preload": ["-w", "2", "--preload"],
}


class Launched(GunicornServer):
    """gunicorn with our settings, on the application of the tests of ``up``."""

    def __init__(
        self, folder: Path, args: Sequence[str] = (), env: dict[str, str] | None = None
    ) -> None:
        (folder / "version").write_text("1")
        super().__init__(
            "whole_site:app",
            workers=2,
            args=["-c", "python:sidearm.gunicorn", *args],
            cwd=APPS,
            env={"SITE_FOLDER": str(folder), "PYTHONPATH": str(APPS), **(env or {})},
            start_timeout=PATIENCE,
            stop_timeout=PATIENCE,
        )
        self.marks = folder

    def command(self) -> list[str]:
        """The script that users start: after SIGUSR2, "python -m gunicorn" cannot import http."""
        _, _, _, *words = super().command()
        return [str(Path(sys.executable).with_name("gunicorn")), *words]

    def is_ready(self) -> bool:
        """Whether it answers, by a worker."""
        try:
            return super().is_ready() and bool(self.get("/version"))
        except OSError:
            return False

    def get(self, path: str, *, data: bytes | None = None) -> str:
        with urllib.request.urlopen(self.url + path, data, PATIENCE) as response:
            text: str = response.read().decode()
            return text

    @property
    def keeper(self) -> int:
        """The process that keeps the hub."""
        return program_of(children(self.pid), "sidearm.workers.keeper")

    @property
    def hub(self) -> int:
        """The hub's process."""
        return program_of(children(self.keeper), "sidearm.hub")


@pytest.mark.parametrize("kind", KINDS)
def test_w1_hub_beside_every_kind_of_worker(kind: str, tmp_path: Path) -> None:
    """It outlives a reload, which brings the new code, and a stop ends all."""
    with Launched(tmp_path, KINDS[kind]) as server:
        hub = server.hub
        server.get("/publish/first", data=b"")
        wait_for(server.socket_path, lambda figures: figures.published == 1)
        (tmp_path / "version").write_text("2")
        before = [pid for pid in children(server.pid) if pid != server.keeper]
        with expect_end_of(before):
            server.send_signal(signal.SIGHUP)
        # Preloaded code is what the master has; only SIGUSR2 loads it anew.
        assert server.get("/version") == ("1" if kind == "preload" else "2")
        server.get("/publish/second", data=b"")
        figures = wait_for(server.socket_path, lambda figures: figures.published == 2)
        assert (figures.pid, server.hub) == (hub, hub)
        with expect_end_of(family(server.pid)[1:]):
            assert server.terminate() == 0
        assert not Path(server.socket_path).exists()


def test_w1_reload_keeps_every_stream(tmp_path: Path) -> None:
    """An open stream has not noticed that all workers are new."""
    with Launched(tmp_path) as server, EventSource(f"{server.url}/stream") as source:
        wait_for(server.socket_path, lambda figures: figures.subscribers == 1)
        with expect_end_of([pid for pid in children(server.pid) if pid != server.keeper]):
            server.send_signal(signal.SIGHUP)
        server.get("/publish/reloaded", data=b"")
        assert source.next_event().data == "reloaded"


def test_w1_hub_that_dies_is_started_again(tmp_path: Path) -> None:
    """A killed hub is said so, and a stream that reconnects goes on."""
    with Launched(tmp_path) as server, EventSource(f"{server.url}/stream") as source:
        os.kill(server.hub, signal.SIGKILL)
        server.wait_for_log("The hub is back", PATIENCE)
        assert "hub: The hub was ended by SIGKILL; it is started again in 0.1 s." in (
            server.log_text()
        )
        source.reconnect()
        server.get("/publish/again", data=b"")
        assert source.next_event().data


def test_w1_what_keeps_the_hub_is_started_again_with_the_next_worker(tmp_path: Path) -> None:
    """A killed keeper takes the hub along; the master sees it when it forks."""
    with Launched(tmp_path) as server:
        keeper = server.keeper
        with expect_end_of(family(keeper)):
            os.kill(keeper, signal.SIGKILL)
        server.send_signal(signal.SIGHUP)
        server.wait_for_log("What keeps Sidearm's hub has ended", PATIENCE)
        server.wait_until(lambda: figures_pid(server.socket_path) != 0, PATIENCE, "a new hub")
        assert server.hub == figures_pid(server.socket_path)


def test_w1_nothing_outlives_a_killed_master(tmp_path: Path) -> None:
    """After SIGKILL of the master its keeper and hub end by themselves."""
    with Launched(tmp_path) as server:
        helpers = family(server.keeper)
        assert len(helpers) == 2
        with expect_end_of(helpers):
            server.kill()


def test_w1_new_master_takes_the_hub_over_with_its_streams(tmp_path: Path) -> None:
    """SIGUSR2, then SIGTERM to the old master: the stream has not noticed."""
    pidfile = tmp_path / "gunicorn.pid"
    with (
        Launched(tmp_path, ["--pid", str(pidfile)]) as server,
        EventSource(f"{server.url}/stream", timeout=PATIENCE) as source,
    ):
        wait_for(server.socket_path, lambda figures: figures.subscribers == 1)
        old_hub = server.hub
        server.send_signal(signal.SIGUSR2)
        new_pidfile = Path(f"{pidfile}.2")
        server.wait_until(
            lambda: new_pidfile.exists() and figures_pid(server.socket_path) not in (0, old_hub),
            PATIENCE,
            "a new master with its hub",
        )
        new_master = int(new_pidfile.read_text())
        server.wait_until(
            lambda: len(children(new_master)) == 3, PATIENCE, "the new master's workers"
        )
        with ends_of([new_master]) as ends:
            with expect_end_of([server.pid]):
                server.send_signal(signal.SIGTERM)
            assert server.get("/version") == "1"
            server.get("/publish/after", data=b"")
            assert source.next_event().data == "after"
            helpers = family(new_master)[1:]
            with expect_end_of(helpers):
                os.kill(new_master, signal.SIGTERM)
            ends()


def test_w1_two_launchers_share_a_hub(tmp_path: Path) -> None:
    """The second stands by, and goes on with a hub of its own when the first has ended."""
    with Launched(tmp_path) as first:
        env = {"SIDEARM_SOCKET": first.socket_path}
        with Launched(tmp_path, env=env) as second:
            second.wait_for_log("this one stands by", PATIENCE)
            hub = figures_pid(first.socket_path)
            with EventSource(f"{second.url}/stream", timeout=PATIENCE) as source:
                first.get("/publish/shared", data=b"")
                assert source.next_event().data == "shared"
            assert first.terminate() == 0
            second.wait_until(
                lambda: figures_pid(first.socket_path) not in (0, hub), PATIENCE, "its own hub"
            )
            assert second.hub == figures_pid(first.socket_path)


def test_w1_hub_that_cannot_start_stops_gunicorn_with_its_reason(tmp_path: Path) -> None:
    """Before it listens, with a status that is not zero, and nothing is left."""
    (tmp_path / "version").write_text("1")
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-c", "python:sidearm.gunicorn"]
    for app, said in (
        ("plain:create_nothing()", "Failed to find attribute 'create_nothing' in 'plain'"),
        ("wsgiref.simple_server:demo_app", "no Flask application is found"),
    ):
        ended = subprocess.run(
            [*command, "-b", f"127.0.0.1:{port}", app],
            cwd=APPS,
            env={**os.environ, "SIDEARM_SOCKET": str(tmp_path / "hub.sock")},
            stderr=subprocess.STDOUT,
            stdout=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert ended.returncode == 1, ended.stdout
        assert said in ended.stdout
        assert "The hub could not be started. The lines above say why." in ended.stdout
        assert "Listening at" not in ended.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["version"]


def test_w1_settings_file_of_ones_own_takes_it_along(tmp_path: Path) -> None:
    """The functions can be imported; a hub that runs already is used."""
    settings = tmp_path / "gunicorn.conf.py"
    settings.write_text(
        "from sidearm.gunicorn import on_exit, on_starting, post_worker_init, pre_fork\n"
        "threads = 3\n"
    )
    with Launched(tmp_path, ["-c", str(settings)]) as server:
        assert server.hub_figures().pid == server.hub
        assert "Using worker: gthread" in server.log_text()


def test_w1_hub_that_runs_alone_is_used(tmp_path: Path) -> None:
    """``flask sidearm hub`` beside it is no reason not to start."""
    with HubServer() as hub, Launched(tmp_path, env={"SIDEARM_SOCKET": hub.socket_path}) as server:
        server.wait_for_log("this one stands by", PATIENCE)
        assert figures_pid(hub.socket_path) == hub.pid


def figures_pid(socket_path: str) -> int:
    """The process of the hub that answers on a socket; 0: none does."""
    try:
        return ask_figures(socket_path, PATIENCE).pid
    except HubError:
        return 0

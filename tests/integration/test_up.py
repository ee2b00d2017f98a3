"""Contract W1 with real processes: ``flask sidearm up`` starts, watches, restarts and stops."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fronts import run
from processes import children, expect_end_of, family, program_of

from sidearm.testing import EventSource, UpServer, free_port

APPS = Path(__file__).parent.parent / "apps"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="watches processes in /proc")

PATIENCE = 60.0  # seconds; a busy machine takes its time


class Site(UpServer):
    """``up`` with two workers on the application of these tests, and a folder for marks."""

    def __init__(self, folder: Path, *args: str) -> None:
        (folder / "version").write_text("1")
        super().__init__(
            "whole_site:app",
            args=args,
            cwd=APPS,
            env={"SITE_FOLDER": str(folder), "PYTHONPATH": str(APPS)},
            start_timeout=PATIENCE,
            stop_timeout=PATIENCE,
        )
        self.marks = folder

    def get(self, path: str, *, data: bytes | None = None) -> str:
        with urllib.request.urlopen(self.url + path, data, PATIENCE) as response:
            text: str = response.read().decode()
            return text

    def child(self, program: str) -> int:
        """The process id of the hub (``sidearm.hub``) or gunicorn (``sidearm.workers.web``)."""
        return program_of(children(self.pid), program)

    def wait_for_mark(self, name: str) -> None:
        self.wait_until((self.marks / name).exists, PATIENCE, f"the file {name}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A running deployment, for the tests that leave it running."""
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


def start(*args: str, app: str = "plain:app", env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run ``up`` where it is expected to end by itself: its status, and all that it prints."""
    flask = [sys.executable, "-m", "flask", "--app", app]
    return run(*flask, "sidearm", "up", *args, cwd=APPS, env=env)


def test_it_says_in_three_lines_what_runs(site: Site) -> None:
    """Address, web workers with number and kind, and the hub with its socket; no other noise."""
    address, web, hub = site.log_text().splitlines()[:3]
    assert f"http://127.0.0.1:{site.port}" in address
    assert "2 workers (gunicorn, sync, blocking)" in web
    assert f"process {site.child('sidearm.hub')}, socket {site.socket_path}" in hub


def test_pages_and_streams_come_from_one_port(site: Site) -> None:
    """A worker answers, and what one worker publishes arrives on a stream that the hub holds."""
    with EventSource(f"{site.url}/stream", timeout=PATIENCE) as source:
        assert site.get("/publish/first", data=b"") == "published"
        assert source.next_event().data == "first"


def test_the_hub_is_restarted_when_it_dies(site: Site) -> None:
    """A killed hub is said so and started again, and a stream that reconnects goes on."""
    with EventSource(f"{site.url}/stream", timeout=PATIENCE) as source:
        os.kill(site.child("sidearm.hub"), signal.SIGKILL)
        site.wait_for_log("The hub is back", PATIENCE)
        assert "The hub was ended by SIGKILL; it is started again in 0.1 s." in site.log_text()
        source.reconnect()
        site.get("/publish/again", data=b"")
        assert source.next_event().data  # the gap, or the event: both say that it goes on


def test_the_web_server_is_restarted_when_it_dies(site: Site) -> None:
    """A killed gunicorn takes its workers along; connections wait for the next one."""
    with expect_end_of(family(site.child("sidearm.workers.web"))):
        os.kill(site.child("sidearm.workers.web"), signal.SIGKILL)
    assert site.get("/version") == "1"
    log = site.wait_for_log("The web server is back", PATIENCE)
    assert "The web server was ended by SIGKILL; it is started again in" in log


def test_hup_reloads_the_code_and_keeps_the_streams(site: Site) -> None:
    """After SIGHUP the workers run what is there now, and an open stream has not noticed."""
    with EventSource(f"{site.url}/stream", timeout=PATIENCE) as source:
        (site.marks / "version").write_text("2")
        site.send_signal(signal.SIGHUP)
        site.wait_until(lambda: site.get("/version") == "2", PATIENCE, "the new code")
        site.get("/publish/reloaded", data=b"")
        assert source.next_event().data == "reloaded"


def test_a_second_up_on_the_same_socket_is_told_who_has_it(site: Site) -> None:
    """One line that names the socket and the process, a status, and nothing was started."""
    status, output = start("--port", str(free_port()), "--socket", site.socket_path)
    assert status == 1
    (line,) = output.splitlines()
    assert site.socket_path in line
    assert re.search(rf"process {site.child('sidearm.hub')}\b", line)


def test_a_port_in_use_is_told(site: Site, folder: Path) -> None:
    """One line that names the address and the cure."""
    status, output = start("--port", str(site.port), "--socket", str(folder / "hub.sock"))
    assert status == 1
    (line,) = output.splitlines()
    assert f"127.0.0.1:{site.port}" in line
    assert "another program listens there" in line
    assert not list(folder.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_in_order_and_leaves_nothing(number: signal.Signals, folder: Path) -> None:
    """A signal to ``up`` alone ends web workers and hub, with status 0 and without a socket."""
    with Site(folder) as site:
        socket_folder = Path(site.socket_path).parent
        with expect_end_of(family(site.pid)[1:]):
            site.send_signal(number)
            assert site.wait_for_exit(PATIENCE) == 0
        assert [path.name for path in socket_folder.iterdir()] == ["log"]
        assert "first the web server, then the hub" in site.log_text().splitlines()[-1]


def test_a_request_under_way_is_answered_before_the_end(folder: Path) -> None:
    """Stopping is graceful: who is being served is served to the end."""
    with Site(folder) as site, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(site.get, "/slow")
        site.wait_for_mark("slow-has-begun")
        site.send_signal(signal.SIGTERM)
        site.wait_for_log("first the web server", PATIENCE)
        (folder / "slow-may-end").touch()
        assert answer.result(PATIENCE) == "slow but whole"
        assert site.wait_for_exit(PATIENCE) == 0


def test_a_second_signal_ends_it_at_once(folder: Path) -> None:
    """Who presses Ctrl-C twice does not wait for a request that hangs."""
    with Site(folder) as site, ThreadPoolExecutor(1) as threads:
        answer = threads.submit(site.get, "/slow")
        site.wait_for_mark("slow-has-begun")
        socket_folder = Path(site.socket_path).parent
        with expect_end_of(family(site.pid)[1:]):
            site.send_signal(signal.SIGINT)
            site.wait_for_log("first the web server", PATIENCE)
            site.send_signal(signal.SIGINT)
            assert site.wait_for_exit(PATIENCE) == 0
        assert [path.name for path in socket_folder.iterdir()] == ["log"]
        assert isinstance(answer.exception(PATIENCE), OSError)


def test_it_ends_with_its_terminal(folder: Path) -> None:
    """Who closes the window stops it; only without a terminal SIGHUP means to reload."""
    controller, terminal = os.openpty()
    up = [sys.executable, "-m", "flask", "--app", "plain:app", "sidearm", "up", "--port", "0"]
    in_terminal = (
        "import fcntl, os, sys, termios;"
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
        "os.execv(sys.executable, sys.argv[1:])"
    )
    with os.fdopen(terminal, "rb+", buffering=0) as end:
        process = subprocess.Popen(
            [sys.executable, "-c", in_terminal, *up, "--socket", str(folder / "hub.sock")],
            cwd=APPS,
            stdin=end,
            stdout=end,
            stderr=end,
            start_new_session=True,
        )
    with process, os.fdopen(controller, "rb", buffering=0) as screen:
        shown = b""
        while str(folder).encode() not in shown:
            assert select.select([screen], [], [], PATIENCE)[0], shown
            shown += screen.read(4096)
        with expect_end_of(family(process.pid)):
            screen.close()
    assert process.returncode == 0
    assert not list(folder.iterdir())


def test_nothing_outlives_a_killed_up_and_the_next_one_starts(folder: Path) -> None:
    """After SIGKILL the children end by themselves; a stale socket is in nobody's way."""
    with Site(folder) as site:
        with expect_end_of(family(site.pid)[1:]):
            site.kill()
        path = Path(site.socket_path)
        path.unlink(missing_ok=True)
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as stale:
            stale.bind(str(path))  # as a hub that was killed too leaves it
        with Site(folder, "--socket", str(path)) as next_site:
            assert next_site.get("/version") == "1"


def test_gunicorn_takes_what_stands_behind_the_dashes(folder: Path) -> None:
    """Threads, workers and gunicorn's own options reach it."""
    with Site(folder, "--threads", "3", "--", "--workers", "1") as site:
        assert "1 worker (gunicorn, gthread, 3 threads each, blocking)" in site.log_text()
        assert site.get("/version") == "1"


def test_an_application_that_fails_to_import_shows_its_own_traceback(folder: Path) -> None:
    """Nothing is started, and the traceback names the line at fault."""
    (folder / "faulty.py").write_text("from flask import Flask\n\napp = Flask(nonsense)\n")
    status, output = start(app="faulty", env={"PYTHONPATH": str(folder)})
    assert status != 0
    assert "app = Flask(nonsense)" in output
    assert "NameError: name 'nonsense' is not defined" in output


def test_an_application_that_fails_in_the_workers_only_ends_the_whole(folder: Path) -> None:
    """The workers show the traceback, the last line names the culprit, and the hub is stopped."""
    (folder / "version").touch()
    (folder / "broken").touch()
    env = {"SITE_FOLDER": str(folder), "PYTHONPATH": str(APPS)}
    path = folder / "hub.sock"
    status, output = start(
        "--port", str(free_port()), "--socket", str(path), app="whole_site:app", env=env
    )
    assert status == 1
    assert "RuntimeError: broken in the workers only" in output
    assert re.search(r"The web server ended with status \d before", output.splitlines()[-1])
    assert not path.exists()


def test_a_wrong_setting_is_one_line(folder: Path) -> None:
    """The setting is named, with its value and the cure."""
    (folder / "wrong.py").write_text(
        "from flask import Flask\nfrom sidearm import Sidearm\n\napp = Flask(__name__)\n"
        "app.config['SIDEARM_HEARTBEAT'] = '15s'\nSidearm(app)\n"
    )
    status, output = start(app="wrong", env={"PYTHONPATH": str(folder)})
    assert status == 1
    (line,) = output.splitlines()
    assert "SIDEARM_HEARTBEAT is '15s'" in line


@pytest.mark.parametrize(
    ("path", "said"),
    [
        pytest.param("/tmp/" + "x" * 120, "has 125 bytes", id="too long"),
        pytest.param("/proc/hub.sock", "/proc/hub.sock", id="not writable"),
        pytest.param("/dev/null", "no socket", id="something else"),
    ],
)
def test_a_socket_path_that_cannot_be_had_is_one_line(path: str, said: str) -> None:
    """The path is named, and what to set instead."""
    status, output = start("--port", str(free_port()), "--socket", path)
    assert status == 1
    (line,) = output.splitlines()
    assert said in line
    assert "SIDEARM_SOCKET" in line


def test_the_hub_can_run_alone(folder: Path) -> None:
    """``flask sidearm hub`` serves the application's socket until it is stopped."""
    path = folder / "hub.sock"
    flask = [sys.executable, "-m", "flask", "--app", "plain:app"]
    hub = subprocess.Popen(
        [*flask, "sidearm", "hub", "--socket", str(path)],
        cwd=APPS,
        stdout=subprocess.PIPE,
        text=True,
    )
    with hub:
        assert hub.stdout is not None
        assert str(path) in hub.stdout.readline()
        assert path.is_socket()
        hub.send_signal(signal.SIGINT)
        assert hub.wait(PATIENCE) == 0
    assert not list(folder.iterdir())

"""``flask sidearm up`` as a service of systemd: its sockets, and what it tells it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest
from fronts import program
from processes import children, expect_end_of, family, program_of

from sidearm.testing import EventSource, Server, free_port

if TYPE_CHECKING:
    from collections.abc import Sequence

APPS = Path(__file__).parent.parent / "apps"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")

PATIENCE = 60.0  # seconds; a busy machine takes its time
UP = [sys.executable, "-m", "flask", "--app", "whole_site:app", "sidearm", "up", "--workers", "2"]


class Unit(Server):
    """``up``, started by something that hands it sockets or listens to its notes."""

    def __init__(self, folder: Path, *words: str, before: Sequence[str] = (), **env: str) -> None:
        (folder / "version").write_text("1")
        super().__init__(
            [*before, *UP, *words],
            env={"SITE_FOLDER": str(folder), "PYTHONPATH": str(APPS), **env},
            cwd=APPS,
            start_timeout=PATIENCE,
            stop_timeout=PATIENCE,
        )
        self.marks = folder

    def is_ready(self) -> bool:
        """Whether it has said where it serves."""
        return "Sidearm serves" in self.log_text()

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as response:
            text: str = response.read().decode()
            return text


class Notes:
    """A service manager's end of NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._socket.settimeout(PATIENCE)

    def next(self) -> dict[str, str]:
        """The next note that is no sign of life."""
        while True:
            note = self.any()
            if "WATCHDOG" not in note:
                return note

    def any(self) -> dict[str, str]:
        """The next note."""
        lines = self._socket.recv(4096).decode().split("\n")
        return dict(line.split("=", 1) for line in lines)

    def is_quiet(self) -> bool:
        """Whether none has come."""
        return not select.select([self._socket], [], [], 0)[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A notify socket's, in the file system or not."""
    return str(tmp_path / "notify") if request.param == "path" else f"@sidearm-{os.getpid()}"


def test_w1_it_tells_when_it_serves_reloads_and_stops(address: str, tmp_path: Path) -> None:
    """READY when web workers and hub serve, RELOADING with the time and READY, then STOPPING."""
    with Notes(address) as notes:
        with Unit(tmp_path, "--port", "{port}", NOTIFY_SOCKET=address) as unit:
            ready = notes.next()
            assert ready["READY"] == "1"
            assert unit.get("/version") == "1"
            before = time.clock_gettime(time.CLOCK_MONOTONIC)
            web = program_of(children(unit.pid), "sidearm.workers.web")
            (tmp_path / "version").write_text("2")
            with expect_end_of(children(web)):
                unit.send_signal(signal.SIGHUP)
            reloading = notes.next()
            assert reloading["RELOADING"] == "1"
            at = int(reloading["MONOTONIC_USEC"]) / 1e6
            assert before <= at <= time.clock_gettime(time.CLOCK_MONOTONIC)
            assert notes.next()["READY"] == "1"
            assert "The web server runs the new code." in unit.log_text()
            assert unit.get("/version") == "2"
            unit.send_signal(signal.SIGTERM)
            assert notes.next()["STOPPING"] == "1"
            assert unit.wait_for_exit(PATIENCE) == 0
        assert notes.is_quiet()  # none of its processes has said anything besides


def test_w1_code_that_cannot_be_loaded_leaves_the_old_code_at_work(tmp_path: Path) -> None:
    """The traceback and a line say so, no worker ends, and READY comes all the same."""
    address = str(tmp_path / "notify")
    with Notes(address) as notes, Unit(tmp_path, "--port", "{port}", NOTIFY_SOCKET=address) as unit:
        assert notes.next()["READY"] == "1"
        workers = children(program_of(children(unit.pid), "sidearm.workers.web"))
        (tmp_path / "version").write_text("2")
        (tmp_path / "broken").touch()
        unit.send_signal(signal.SIGHUP)
        assert notes.next()["RELOADING"] == "1"
        assert notes.next()["READY"] == "1"
        assert "RuntimeError: broken in the workers only" in unit.log_text()
        assert (
            "The web server goes on with the code that it has: loading the new one ended with"
            " status 1." in unit.log_text()
        )
        assert unit.get("/version") == "1"
        assert workers == children(program_of(children(unit.pid), "sidearm.workers.web"))
        (tmp_path / "broken").unlink()
        with expect_end_of(workers):
            unit.send_signal(signal.SIGHUP)
        assert notes.next()["RELOADING"] == "1"
        assert notes.next()["READY"] == "1"
        assert unit.get("/version") == "2"


def test_w1_signs_of_life_come_as_often_as_wanted(tmp_path: Path) -> None:
    """WATCHDOG_USEC asks for them; they stop when the process stands still."""
    address = str(tmp_path / "notify")
    with (
        Notes(address) as notes,
        Unit(tmp_path, "--port", "{port}", NOTIFY_SOCKET=address, WATCHDOG_USEC="400000") as unit,
    ):
        signs = [note for note in (notes.any() for _ in range(5)) if "WATCHDOG" in note]
        assert len(signs) >= 4
        unit.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, unit.pid, os.WSTOPPED | os.WNOWAIT)
        while not notes.is_quiet():
            notes.any()
        assert notes.is_quiet()
        unit.send_signal(signal.SIGCONT)
        assert "WATCHDOG" in notes.any()


def test_w1_a_watchdog_for_another_process_is_not_ours(tmp_path: Path) -> None:
    """WATCHDOG_PID names who is meant."""
    address = str(tmp_path / "notify")
    env = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "100000", "WATCHDOG_PID": "1"}
    with Notes(address) as notes, Unit(tmp_path, "--port", "{port}", **env) as unit:
        assert "READY" in notes.any()
        unit.send_signal(signal.SIGTERM)
        assert "STOPPING" in notes.any()


def test_w1_it_serves_the_sockets_of_systemd(tmp_path: Path) -> None:
    """A TCP port and a Unix socket at once; its own --port does not count then."""
    path = tmp_path / "web.sock"
    other = free_port()
    before = [program("systemd-socket-activate"), "-l", "127.0.0.1:{port}", "-l", str(path)]
    # It starts the service with the first connection.
    environment = [f"--setenv={name}" for name in ("SITE_FOLDER", "PYTHONPATH", "SIDEARM_SOCKET")]
    unit = Unit(tmp_path, "--port", str(other), before=[*before, *environment])
    unit.is_ready = lambda: "Listening on" in unit.log_text()  # type: ignore[method-assign]
    with unit:
        assert unit.get("/version") == "1"
        log = unit.wait_for_log("Sidearm serves", PATIENCE)
        assert f"on http://127.0.0.1:{unit.port} and unix:{path}" in log
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
            client.settimeout(PATIENCE)
            client.connect(str(path))
            client.sendall(b"GET /version HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
        assert answer.endswith(b"\r\n\r\n1")
        with EventSource(f"{unit.url}/stream", timeout=PATIENCE) as source:
            urllib.request.urlopen(f"{unit.url}/publish/first", b"", PATIENCE).close()
            assert source.next_event().data == "first"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", other), 5)
        web = program_of(children(unit.pid), "sidearm.workers.web")
        for pid in (web, children(web)[0]):
            told = Path(f"/proc/{pid}/environ").read_text()
            assert "LISTEN_FDS" not in told
        with expect_end_of(family(unit.pid)[1:]):
            unit.send_signal(signal.SIGTERM)
            assert unit.wait_for_exit(PATIENCE) == 0
        assert path.is_socket()  # the file is systemd's


# Puts a descriptor where systemd puts it, and becomes the program.
HAND_OVER = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3);"
    "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[2]);"
    "os.execv(sys.executable, [sys.executable, *sys.argv[3:]])"
)


@pytest.mark.parametrize(
    ("kind", "count", "said"),
    [
        pytest.param("socket", "1", "Descriptor 3 of LISTEN_FDS is no listening", id="connected"),
        pytest.param("file", "1", "descriptor 3, which is no socket", id="file"),
        pytest.param("file", "many", "LISTEN_FDS is 'many'", id="no number"),
    ],
)
def test_w1_what_systemd_did_not_open_is_one_line(
    kind: str, count: str, said: str, tmp_path: Path
) -> None:
    """The variable, the descriptor and what to set in the unit; nothing was started."""
    (tmp_path / "version").write_text("1")
    env = {"SITE_FOLDER": str(tmp_path), "SIDEARM_SOCKET": str(tmp_path / "hub.sock")}
    with socket.socket() as plain, (tmp_path / "version").open() as file:
        given = plain.fileno() if kind == "socket" else file.fileno()
        ended = subprocess.run(
            [sys.executable, "-c", HAND_OVER, str(given), count, *UP[1:]],
            cwd=APPS,
            pass_fds=(given,),
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert ended.returncode == 1
    (line,) = ended.stdout.splitlines()
    assert said in line
    assert [path.name for path in tmp_path.iterdir()] == ["version"]


def test_w1_sockets_for_another_process_are_left_alone(tmp_path: Path) -> None:
    """LISTEN_PID names who is meant: not a child that has inherited the variables."""
    with Unit(tmp_path, "--port", "{port}", LISTEN_FDS="1", LISTEN_PID="1") as unit:
        assert unit.get("/version") == "1"


def test_p5_where_nobody_listens_nothing_is_said(tmp_path: Path) -> None:
    """A notify socket that is gone is no reason not to serve."""
    with Unit(tmp_path, "--port", "{port}", NOTIFY_SOCKET=str(tmp_path / "gone")) as unit:
        assert unit.get("/version") == "1"

"""What ``flask sidearm up`` finds out before it listens, and says in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fronts import run

from sidearm.testing import UpServer, free_port

APPS = Path(__file__).parent.parent / "apps"
PATIENCE = 60.0  # seconds; a busy machine takes its time
UP = [sys.executable, "-m", "flask", "--app", "plain:app", "sidearm", "up"]
PRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")
# CAP_NET_BIND_SERVICE leaves the bounding set (prctl.h, capability.h): root, too, may not then.
WITHOUT_PRIVILEGE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 10, 0, 0, 0);"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


def start(*words: str, socket: Path, **env: str) -> tuple[int, list[str]]:
    """The status of a program that starts ``up``, and the lines that it prints."""
    status, said = run(*words, cwd=APPS, env={"SIDEARM_SOCKET": str(socket), **env})
    return status, said.splitlines()


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "hub.sock"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits")
def test_w1_full_descriptor_table_is_one_line(socket: Path) -> None:
    """What there is room for, what is needed, and where the limit is raised."""
    words = ["sh", "-c", 'ulimit -n 24; exec "$@"', "sh", *UP, "--port", str(free_port())]
    status, lines = start(*words, socket=socket)
    assert status == 1
    (line,) = lines
    assert "This process may open " in line
    assert "more files, and needs 32" in line
    assert "LimitNOFILE" in line
    assert not list(socket.parent.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="takes a capability of Linux away")
def test_w1_privileged_port_is_one_line(socket: Path) -> None:
    """The address, and a port that this user may have."""
    first_free = int(PRIVILEGED.read_text())
    if first_free == 0:  # as in some containers, where every port is free to all
        pytest.skip("no port of this machine is privileged")
    port = min(first_free - 1, 79)
    words = [sys.executable, "-c", WITHOUT_PRIVILEGE, *UP[1:], "--port", str(port)]
    status, lines = start(*words, socket=socket)
    assert status == 1
    (line,) = lines
    assert f"127.0.0.1:{port} cannot be had: this user may not listen there" in line
    assert "Choose a port from 1024 up" in line
    assert not list(socket.parent.iterdir())


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--bind", "127.0.0.1:1"], "bind is '127.0.0.1:1'"),
        (["--daemon"], "daemon is True"),
        (["--worker-klass", "sync"], "--worker-klass"),
        (["--worker-class", "nonsense"], "nonsense"),
        (["--config", "/nowhere/gunicorn.conf.py"], "/nowhere/gunicorn.conf.py"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_w1_options_of_gunicorn_that_cannot_be(option: list[str], said: str, socket: Path) -> None:
    """The option and its value are named, nothing serves, and the status is not zero."""
    status, lines = start(*UP, "--port", str(free_port()), "--", *option, socket=socket)
    assert status == 1
    assert any(said in line for line in lines)
    assert "before it was ready" in lines[-1]
    assert not list(socket.parent.iterdir())


@pytest.mark.parametrize("place", ["arguments", "environment", "file"])
def test_w1_settings_of_gunicorn_come_from_everywhere(place: str, tmp_path: Path) -> None:
    """After the dashes, by GUNICORN_CMD_ARGS, or from its own file in the working directory."""
    args: list[str] = []
    env = {"PYTHONPATH": str(APPS)}
    if place == "arguments":
        args = ["--", "--threads", "3"]
    elif place == "environment":
        env["GUNICORN_CMD_ARGS"] = "--threads 3"
    else:
        (tmp_path / "gunicorn.conf.py").write_text("threads = 3\n")
    with UpServer("plain:app", args=args, env=env, cwd=tmp_path) as server:
        assert "2 workers (gunicorn, gthread, 3 threads each, blocking)" in server.log_text()


def test_w1_flags_come_from_the_environment(tmp_path: Path) -> None:
    """As all options of Flask's commands do: FLASK_SIDEARM_UP_ and the flag."""
    port = free_port()
    env = {"FLASK_SIDEARM_UP_PORT": str(port), "FLASK_SIDEARM_UP_THREADS": "2"}
    path = tmp_path / "hub.sock"
    environment = {**os.environ, **env, "SIDEARM_SOCKET": str(path)}
    with subprocess.Popen(
        UP, cwd=APPS, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        address, web, _ = (process.stdout.readline() for _ in range(3))
        process.terminate()
    assert f"http://127.0.0.1:{port}" in address
    assert "gthread, 2 threads each" in web
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("HEALTH", "yes", "Give True, False or None."),
        ("HEALTH_TIMEOUT", "0", "Give at least 0.1 seconds."),
        ("LOG_FORMAT", '"xml"', "Give one of 'text', 'json'."),
    ],
)
def test_w1_wrong_setting_is_one_line(setting: str, value: str, said: str, socket: Path) -> None:
    """By its name, with its value and what to do, before anything listens."""
    words = [*UP[:4], "plain_health:app", *UP[5:], "--port", str(free_port())]
    status, lines = start(*words, socket=socket, **{f"FLASK_SIDEARM_{setting}": value})
    assert status == 1
    (line,) = lines
    assert f"SIDEARM_{setting} is " in line
    assert said in line

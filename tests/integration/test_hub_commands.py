"""``flask sidearm hub ...`` with real hubs: replacement, figures, channels, live events."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from hub_streams import PATIENCE, Stream, event, publish_all, wait_for

from sidearm.exceptions import HubError
from sidearm.hub.client import HubClient
from sidearm.hub.config import HubConfig
from sidearm.hub.messages import Figures, Refused, encode
from sidearm.hub.operator import ask_for_replacement
from sidearm.testing import EventSource, HubServer, UpServer, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

APPS = Path(__file__).parent.parent / "apps"
FLASK = [sys.executable, "-m", "flask", "--app", "plain:app", "sidearm", "hub"]
START = 90.0  # seconds; a busy machine takes its time


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of ``flask sidearm hub`` to its end."""
    return subprocess.run(
        [*FLASK, *arguments], cwd=APPS, capture_output=True, text=True, timeout=START, check=False
    )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[UpServer]:
    (tmp_path / "version").write_text("1")
    env = {"SITE_FOLDER": str(tmp_path), "PYTHONPATH": str(APPS)}
    with UpServer("whole_site:app", cwd=APPS, env=env, start_timeout=START) as site:
        yield site


def post(site: UpServer, news: str) -> None:
    with urllib.request.urlopen(f"{site.url}/publish/{news}", b"", PATIENCE) as response:
        response.read()


# Replacement


def test_h5_replace_under_up_is_done_by_up(site: UpServer) -> None:
    """The command waits for the new hub, which ``up`` watches like the old; no stream notices."""
    with EventSource(f"{site.url}/stream", timeout=PATIENCE) as source:
        post(site, "first")
        assert source.next_event().data == "first"
        old = site.hub_figures().pid
        done = run("--replace", "--socket", site.socket_path)
        assert (done.returncode, done.stderr) == (0, "")
        new = site.hub_figures().pid
        assert new != old
        assert f"process {new}" in done.stdout
        site.wait_for_log(f"The hub was replaced by process {new}.", PATIENCE)
        site.send_signal(signal.SIGUSR2)  # the other way to say it
        site.wait_until(lambda: site.hub_figures().takeovers == 2, PATIENCE, "the second")
        post(site, "second")
        assert source.next_event().data == "second"
        assert "started again" not in site.log_text()
    os.kill(site.hub_figures().pid, signal.SIGKILL)
    site.wait_for_log("The hub was ended by SIGKILL; it is started again", PATIENCE)
    site.wait_for_log("The hub is back", PATIENCE)
    site.terminate()
    assert not Path(site.socket_path).exists()


def test_h5_replacement_that_fails_under_up_is_told_and_harms_nothing(site: UpServer) -> None:
    """The command ends with the reason and status 1, and so says ``up``; the old hub goes on."""
    with EventSource(f"{site.url}/stream", timeout=PATIENCE) as source, contextlib.ExitStack() as s:
        hub = HubClient(site.socket_path)
        s.callback(hub.close)
        for _ in range(10):
            s.enter_context(Stream(hub, "news"))
        old = wait_for(site.socket_path, lambda figures: figures.subscribers >= 11).pid
        limit = resource.prlimit(site.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(site.pid, resource.RLIMIT_NOFILE, (80, limit[1]))
        # Children inherit both limits, and raise the soft one to the hard one.
        resource.prlimit(site.pid, resource.RLIMIT_NOFILE, (80, 80))
        done = run("--replace", "--socket", site.socket_path)
        assert done.returncode == 1
        assert "LimitNOFILE" in done.stderr
        assert f"Process {old} goes on" in done.stderr
        site.wait_for_log("The hub was not replaced: its replacement ended with status 1", PATIENCE)
        post(site, "still-here")
        assert source.next_event().data == "still-here"
        assert site.hub_figures().pid == old


def test_h5_new_hub_that_stands_still_under_up_is_given_up(tmp_path: Path) -> None:
    """The old hub goes on after its time limit, and says so; ``up`` ends the one that hangs."""
    standing_still = tmp_path / "patch" / "sitecustomize.py"
    standing_still.parent.mkdir()
    standing_still.write_text(
        "import os, signal, sys\n"
        "if {'sidearm.hub', '--replace'} <= {*sys.orig_argv}:\n"
        "    from sidearm.hub.takeover import Token\n"
        "    Token.take = lambda _: os.kill(os.getpid(), signal.SIGSTOP)\n"
    )
    (tmp_path / "version").write_text("1")
    paths = f"{standing_still.parent}{os.pathsep}{APPS}"
    env = {"SITE_FOLDER": str(tmp_path), "PYTHONPATH": paths}
    with (
        UpServer("whole_site:app", cwd=APPS, env=env, start_timeout=START) as site,
        EventSource(f"{site.url}/stream", timeout=PATIENCE) as source,
    ):
        post(site, "before")
        assert source.next_event().data == "before"
        old = site.hub_figures().pid
        done = run("--replace", "--socket", site.socket_path)
        assert (done.returncode, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert f"did not answer in time. Process {old} goes on." in line
        site.wait_for_log("not replaced, and goes on: the new hub did not answer in time", PATIENCE)
        post(site, "after")
        assert source.next_event().data == "after"
        end = "The hub was not replaced: its replacement did not take over in time"
        site.wait_for_log(end, PATIENCE)
        with pytest.raises(HubError, match="did not answer in time"):
            ask_for_replacement(site.socket_path)
        # The next attempt comes before the one that hangs is ended, and succeeds.
        standing_still.unlink()
        new = ask_for_replacement(site.socket_path)
        assert new == site.hub_figures().pid != old
        assert site.log_text().count(end) == 2
        assert site.hub_figures().failed_takeovers == 2
        post(site, "replaced")
        assert source.next_event().data == "replaced"


def test_h5_replace_without_up_becomes_the_hub(tmp_path: Path) -> None:
    """A hub that nobody looks after is replaced by the command itself; the old one ends."""
    path = str(tmp_path / "hub.sock")

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*FLASK, "--socket", path, *arguments], cwd=APPS, stdout=subprocess.PIPE, text=True
        )

    with start() as old:
        assert old.stdout is not None
        assert path in old.stdout.readline()
        hub = HubClient(path)
        with Stream(hub, "a") as stream:
            publish_all(hub, [event("a", 1)])
            with start("--replace") as new:
                assert new.stdout is not None
                assert f"in place of process {old.pid}" in new.stdout.readline()
                assert old.wait(PATIENCE) == 0
                assert "Another hub has taken over" in old.stdout.read()
                publish_all(hub, [event("a", 2)])
                assert stream.data(2) == ["1", "2"]
                hub.close()
                new.send_signal(signal.SIGINT)
                assert new.wait(PATIENCE) == 0
    assert not list(tmp_path.iterdir())


def test_h5_full_disk_behind_its_output_ends_no_hub(tmp_path: Path) -> None:
    """It has taken over every stream; that it cannot say so is no reason to end them."""
    config = HubConfig(socket=str(tmp_path / "hub.sock"), heartbeat=0)
    with HubServer(lambda _: config) as old, Path("/dev/full").open("wb") as full:
        hub = HubClient(config.socket)
        with Stream(hub, "a") as stream:
            publish_all(hub, [event("a", 1)])
            command = [*FLASK, "--replace", "--socket", config.socket]
            with subprocess.Popen(command, cwd=APPS, stdout=full) as new:
                assert old.wait_for_exit(PATIENCE) == 0
                publish_all(hub, [event("a", 2)])
                assert stream.data(2) == ["1", "2"]
                hub.close()
                new.send_signal(signal.SIGINT)
                new.wait(PATIENCE)


# Figures


def test_h10_stats(hub_server: HubServer, hub: HubClient) -> None:
    """For people, as JSON and as Prometheus reads it; the socket may stand before the name."""
    with Stream(hub, "a"):
        wait_for(hub_server.socket_path, lambda figures: figures.subscribers == 1)
        text = run("stats", "--socket", hub_server.socket_path)
        assert text.returncode == 0
        assert f"process {hub_server.pid}" in text.stdout
        assert "1  subscribers" in text.stdout
        as_json = run("--socket", hub_server.socket_path, "stats", "--json")
        assert msgspec.json.decode(as_json.stdout)["subscribers"] == 1
        prometheus = run("stats", "--prometheus", "--socket", hub_server.socket_path)
        assert "sidearm_hub_streams 1\n" in prometheus.stdout


def test_h10_metrics_are_on_the_loopback_interface_and_go_over(tmp_path: Path) -> None:
    """Without the name of any channel; the port is the new hub's when the old one is replaced."""
    port = free_port()
    config = HubConfig(socket=str(tmp_path / "hub.sock"), metrics_port=port)

    def read() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text: str = answer.read().decode()
            return text

    with HubServer(lambda _: config):
        hub = HubClient(config.socket)
        with Stream(hub, "a-name-of-a-channel"):
            wait_for(config.socket, lambda figures: figures.subscribers == 1)
            text = read()
            assert "sidearm_hub_streams 1\n" in text
            assert "a-name-of-a-channel" not in text
            listening = Path("/proc/net/tcp").read_text()
            assert f"0100007F:{port:04X} 00000000:0000 0A" in listening
            assert f"00000000:{port:04X} " not in listening
            with subprocess.Popen(
                [sys.executable, "-m", "sidearm.hub", "--replace", config.to_json()]
            ) as new:
                wait_for(config.socket, lambda figures: figures.pid == new.pid)
                assert "sidearm_hub_takeovers_total 1\n" in read()
                new.terminate()
        hub.close()


def test_h10_a_port_in_use_is_named_with_its_setting(tmp_path: Path) -> None:
    """One line, status 1, and no socket is left behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = HubConfig(socket=str(tmp_path / "hub.sock"), metrics_port=port)
        done = subprocess.run(
            [sys.executable, "-m", "sidearm.hub", config.to_json()],
            stderr=subprocess.PIPE,
            text=True,
            timeout=START,
            check=False,
        )
    assert done.returncode == 1
    assert f"SIDEARM_METRICS_PORT is {port}" in done.stderr
    assert not list(tmp_path.iterdir())


# Channels and events


def test_channels_with_the_most_subscribers_come_first(
    hub_server: HubServer, hub: HubClient
) -> None:
    """Bounded, and without what a terminal would obey."""
    with contextlib.ExitStack() as stack:
        for channels in (("few",), ("many", "few"), ("many",), ("many",), ("bad\x1b[31m",)):
            stack.enter_context(Stream(hub, *channels))
        wait_for(hub_server.socket_path, lambda figures: figures.subscribers == 5)
        lines = run("channels", "--socket", hub_server.socket_path).stdout.splitlines()
        assert [line.split() for line in lines] == [
            ["3", "many"],
            ["2", "few"],
            ["1", "bad\\x1b[31m"],
        ]
        one = run("channels", "--count", "1", "--socket", hub_server.socket_path)
        assert [line.split() for line in one.stdout.splitlines()] == [["3", "many"]]
        assert "2 more" in one.stderr


def test_watch_goes_on_when_the_hub_is_replaced_and_when_it_is_restarted(tmp_path: Path) -> None:
    """Events come as they are published, each once; a line tells of a restart; Ctrl-C ends it."""
    config = HubConfig(socket=str(tmp_path / "hub.sock"), heartbeat=0)
    command = [*FLASK, "watch", "news", "other", "--socket", config.socket]
    with HubServer(lambda _: config) as first:
        hub = HubClient(config.socket)
        with subprocess.Popen(
            command, cwd=APPS, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as watch:
            assert watch.stdout is not None
            assert watch.stderr is not None
            wait_for(config.socket, lambda figures: figures.subscribers == 2)
            hub.publish([event("news", {"a": 1}), event("other", "x\x1b[31m\ny", keep=False)])
            lines = [watch.stdout.readline() for _ in range(3)]
            assert any(line.endswith('  news  message  {"a":1}\n') for line in lines)
            assert any(line.endswith("  other  message  x\\x1b[31m\n") for line in lines)
            assert "\x1b" not in "".join(lines)
            program = [sys.executable, "-m", "sidearm.hub"]
            with subprocess.Popen([*program, "--replace", config.to_json()]) as second:
                wait_for(config.socket, lambda figures: figures.pid == second.pid)
                assert first.wait_for_exit(PATIENCE) == 0
                hub.publish([event("news", "replaced")])
                assert watch.stdout.readline().endswith("  news  message  replaced\n")
                second.kill()
            assert "Waiting for the hub" in watch.stderr.readline()
            with subprocess.Popen([*program, config.to_json()]) as third:
                assert f"The hub is back (process {third.pid})" in watch.stderr.readline()
                hub.publish([event("news", "restarted")])
                while not (line := watch.stdout.readline()).endswith("message  restarted\n"):
                    assert "sidearm:gap" in line
                watch.send_signal(signal.SIGINT)
                assert watch.wait(PATIENCE) == 0
                assert watch.stderr.read() == ""
                third.terminate()
        hub.close()


# Errors


@pytest.mark.parametrize(
    "command", [("stats",), ("channels",), ("watch", "news")], ids=lambda command: command[0]
)
def test_no_hub_is_one_line(tmp_path: Path, command: tuple[str, ...]) -> None:
    """It names the socket and says how to start one, or how to name another."""
    path = str(tmp_path / "hub.sock")
    done = run(*command, "--socket", path)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert path in line
    assert "flask sidearm up" in line


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(encode(Refused("It speaks version 0.")), "version 0", id="another version"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", "no hub of this version", id="no hub"),
        pytest.param(encode(Figures("0123456789", 1, 0.0)), "It said Figures", id="nonsense"),
    ],
)
def test_something_else_on_the_socket_is_one_line(tmp_path: Path, answer: bytes, said: str) -> None:
    """What is there is told, and what to do."""
    path = str(tmp_path / "hub.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)
                connection.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        done = run("stats", "--socket", path)
        thread.join()
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert path in line
    assert said in line


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
def test_another_users_hub_is_one_line(tmp_path: Path) -> None:
    """Whose it is, and whose command this is."""
    path = tmp_path / "hub.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        os.seteuid(65534)
        try:
            listener.listen()  # the kernel remembers who did this
        finally:
            os.seteuid(0)
        done = run("stats", "--socket", str(path))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "belongs to user 65534" in line


def test_replace_goes_with_no_other_command() -> None:
    """A mistake is told, and does nothing."""
    done = run("--replace", "stats")
    assert done.returncode == 2
    assert "--replace runs a hub" in done.stderr

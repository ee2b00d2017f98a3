"""Servers as context managers, with real processes: what they show, and that nothing stays."""

from __future__ import annotations

import signal
import smtplib
import sys
import threading
from email.message import EmailMessage
from pathlib import Path
from urllib.request import urlopen

import pytest
from needed import or_skip

from sidearm.exceptions import ServerDied
from sidearm.testing import (
    EventSource,
    FlaskRunServer,
    GunicornServer,
    HubServer,
    RedisServer,
    Server,
    SMTPServer,
    UpServer,
)

APPS = Path(__file__).parents[2] / "apps"

LISTENING = """
import os, signal, socket, subprocess, sys, time
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("environment", sorted(name for name in os.environ if name.startswith(("FLASK_", "MY_"))))
print("folder", sys.argv[2])
{more}
print("waiting", flush=True)
time.sleep(60)
"""


def script(more: str = "", **options: object) -> Server:
    """A server that listens, does something else too, and waits."""
    command = [sys.executable, "-c", LISTENING.format(more=more), "{port}", "{folder}"]
    return Server(command, **options)  # type: ignore[arg-type]


def fetch(url: str) -> str:
    with urlopen(url, timeout=60) as response:
        text: str = response.read().decode()
        return text


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


class TestServer:
    def test_it_is_ready_in_the_block_and_gone_after_it(self) -> None:
        """Any command can be a server; its folder goes with it."""
        with script() as server:
            assert runs(server.pid)
            pid, folder = server.pid, server.folder
            assert f"folder {folder}" in server.wait_for_log("waiting")
        assert not runs(pid)
        assert not folder.exists()
        with pytest.raises(RuntimeError, match="Use it in a 'with' block"):
            server.log_text()

    def test_a_server_that_dies_shows_its_log(self) -> None:
        """The error says how it ended, and what it had written."""
        server = Server([sys.executable, "-c", "import sys; sys.exit('no database')"])
        with pytest.raises(ServerDied, match=r"(?s)ended with status 1.*no database") as caught:
            server.start()
        assert (caught.value.status, caught.value.log) == (1, "no database\n")

    def test_a_server_that_is_never_ready_meets_the_deadline(self) -> None:
        """Its log is shown, and it is gone."""
        code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
        server = Server([sys.executable, "-c", code], start_timeout=1.5)
        with pytest.raises(TimeoutError, match=r"being ready\. Its log:\n\d+") as caught:
            server.start()
        assert not runs(int(str(caught.value).split()[-1]))

    def test_what_refuses_to_stop_is_killed(self) -> None:
        """SIGTERM first, SIGKILL after the deadline."""
        with script("signal.signal(15, signal.SIG_IGN)", stop_timeout=0.2) as server:
            server.wait_for_log("waiting")
            assert server.terminate() == -signal.SIGKILL

    def test_what_it_started_goes_with_it(self) -> None:
        """Children too, in process groups of their own, and when the server itself was killed."""
        more = (
            "child = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
            "one = subprocess.Popen(child)\n"
            "two = subprocess.Popen(child, process_group=0)\n"
            "print('children', one.pid, two.pid)"
        )
        with script(more) as server:
            line = server.wait_for_log("waiting").partition("children ")[2].splitlines()[0]
            children = [int(pid) for pid in line.split()]
            assert all(runs(pid) for pid in children)
            assert server.kill() == -signal.SIGKILL
        assert not any(runs(pid) for pid in children)

    def test_waiting_for_the_log_ends_with_the_server(self) -> None:
        """What a dead server has not written it never will."""
        with script("listener.accept(); sys.exit(3)") as server:
            with pytest.raises(ServerDied, match="status 3"):
                server.wait_for_log("never written")
            assert server.wait_for_exit() == 3
            assert server.status == 3

    def test_an_error_in_the_block_gets_the_log(self) -> None:
        """A failing assertion shows what the server said."""
        with pytest.raises(AssertionError) as caught, script() as server:
            assert server.wait_for_log("waiting") == "something else"
        assert "waiting" in caught.value.__notes__[0]

    def test_its_environment_is_clean(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Flask's and Sidearm's variables come from the test, none from outside."""
        monkeypatch.setenv("FLASK_APP", "mine")
        monkeypatch.setenv("MY_OWN", "kept")
        monkeypatch.setenv("MY_OTHER", "taken away")
        env = {"FLASK_ENV_FILE": "{folder}/x", "MY_OTHER": None}
        with script(env=env) as server:
            assert "environment ['FLASK_ENV_FILE', 'MY_OWN']" in server.wait_for_log("waiting")

    def test_a_restart_keeps_port_and_folder(self) -> None:
        """Clients find it again."""
        with script() as server:
            pid, folder, url = server.pid, server.folder, server.url
            server.restart()
            assert server.pid != pid
            assert (server.folder, server.url) == (folder, url)


class TestGunicornServer:
    def test_it_serves_when_all_workers_are_ready(self) -> None:
        """Two workers, whose readiness does not depend on the log's level."""
        args = ["--log-level", "error"]
        with GunicornServer("plain:app", workers=2, cwd=APPS, args=args) as server:
            pids = {fetch(f"{server.url}/pid") for _ in range(2)}
            assert str(server.pid) not in pids

    def test_threads_and_a_configuration_of_ones_own(self, tmp_path: Path) -> None:
        """Options reach gunicorn."""
        config = tmp_path / "config.py"
        config.write_text("raw_env = ['MY_NAME=configured']")
        server = GunicornServer(
            "plain:app", worker_class="gthread", threads=2, cwd=APPS, args=["-c", str(config)]
        )
        with server:
            assert fetch(f"{server.url}/name") == "configured"

    def test_an_application_that_fails_to_import(self) -> None:
        """The error shows the application's own traceback."""
        with pytest.raises(ServerDied, match="No module named 'nowhere'"):
            GunicornServer("nowhere:app", cwd=APPS).start()

    @pytest.mark.parametrize("path", ["/counts", "/counts-closed"])
    def test_a_stream_over_a_real_server(self, path: str) -> None:
        """Chunked or ended by the close, the client reads it."""
        with GunicornServer("plain:app", cwd=APPS) as server:
            with EventSource(f"{server.url}{path}") as source:
                assert [event.data for event in source] == ["0", "1", "2"]
            assert not source.connection.truncated


class TestFlaskRunServer:
    def test_it_serves(self) -> None:
        """``flask run`` without its reloader: one process."""
        with FlaskRunServer("plain", cwd=APPS) as server:
            assert fetch(f"{server.url}/pid") == str(server.pid)
            with EventSource(f"{server.url}/counts") as source:
                assert len(source.wait_for_end()) == 3

    def test_an_application_that_fails_to_import(self) -> None:
        """The error shows what Flask says."""
        with pytest.raises(ServerDied, match="nowhere"):
            FlaskRunServer("nowhere", cwd=APPS).start()


class TestUpServer:
    def test_web_and_hub_are_up_in_the_block_and_gone_after_it(self) -> None:
        """Three processes at least, none of which stays."""
        with UpServer("plain", workers=1, cwd=APPS) as server:
            pids = {server.pid, server.hub_figures().pid, int(fetch(f"{server.url}/pid"))}
            assert len(pids) == 3
        assert not any(runs(pid) for pid in pids)


class TestHubServer:
    def test_it_answers_until_it_is_killed(self) -> None:
        """Its figures name its process; after a restart it is another on the same socket."""
        with HubServer() as hub:
            path = hub.socket_path
            assert hub.hub_figures().pid == hub.pid
            hub.kill()
            hub.restart()
            assert hub.socket_path == path
            assert hub.hub_figures().pid == hub.pid
        assert not Path(path).exists()


class TestSMTPServer:
    def test_it_keeps_what_it_is_sent(self) -> None:
        """A message that comes while the test waits, with its envelope."""
        message = EmailMessage()
        message["Subject"] = "Thank you…"
        message.set_content("The order is on its way.\n")

        def send() -> None:
            with smtplib.SMTP(smtp.host, smtp.port, timeout=10) as connection:
                connection.send_message(message, "shop@example.com", ["a@example.com"])

        with SMTPServer() as smtp:
            sender = threading.Thread(target=send)
            sender.start()
            came = smtp.wait_for_message()
            sender.join(10)
            with pytest.raises(TimeoutError, match=r"for message 2; 1 came"):
                smtp.wait_for_message(2, timeout=0.05)
        assert came["Subject"] == "Thank you…"
        assert came.get_content() == "The order is on its way.\n"
        assert (came["X-Mail-From"], came["X-Rcpt-To"]) == ("shop@example.com", "a@example.com")


class TestRedisServer:
    def test_it_is_empty_and_gone_after_the_block(self) -> None:
        """It says what it is asked, keeps nothing on the disk, and starts again empty."""
        redis = pytest.importorskip("redis", reason="pip install 'sidearm[redis]'")
        with or_skip(RedisServer) as server, redis.Redis.from_url(server.url) as client:
            assert client.dbsize() == 0
            client.set("key", "value")
            pid = server.pid
            server.restart()
            assert not runs(pid)
            assert client.dbsize() == 0
            pid = server.pid
        assert not runs(pid)

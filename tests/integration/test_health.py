"""``/-/live`` and ``/-/ready``: under ``up``, and elsewhere where the setting asks."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fronts import ask
from processes import children, expect_end_of, program_of

from sidearm.testing import GunicornServer, PostgresServer, RedisServer, UpServer

if TYPE_CHECKING:
    from collections.abc import Iterator

APPS = Path(__file__).parent.parent / "apps"
PATIENCE = 60.0  # seconds; a busy machine takes its time
LOG = "Not ready: "


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


class Well(UpServer):
    """``up`` with the application that has every kind of resource."""

    def __init__(self, *args: str, **env: str) -> None:
        super().__init__(
            "healthy:app",
            workers=1,
            args=args,
            cwd=APPS,
            env={"PYTHONPATH": str(APPS), **env},
            start_timeout=PATIENCE,
            stop_timeout=PATIENCE,
        )

    def ready(self) -> int:
        return ask(f"{self.url}/-/ready").status

    def wait_for_ready(self, status: int) -> None:
        self.wait_until(lambda: self.ready() == status, PATIENCE, f"status {status}")


@pytest.fixture(scope="module")
def well(postgres: PostgresServer, redis_server: RedisServer) -> Iterator[Well]:
    with Well(DATABASE=postgres.url, REDIS=redis_server.url) as server:
        yield server


@pytest.mark.parametrize(("path", "word"), [("/-/live", "live"), ("/-/ready", "ready")])
def test_w1_one_word_for_whoever_asks(well: Well, path: str, word: str) -> None:
    """GET and HEAD alone, never stored, whatever host is named and whoever is logged in."""
    answer = ask(well.url + path, Host="stranger.example")
    assert (answer.status, json.loads(answer.text)) == (200, {"status": word})
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Set-Cookie" not in answer.headers
    # The application refuses this one, and asks for a log-in everywhere.
    assert ask(f"{well.url}/", Host="stranger.example").status == 400
    assert ask(f"{well.url}/").status == 401
    request = urllib.request.Request(well.url + path, method="HEAD")
    with urllib.request.urlopen(request, timeout=PATIENCE) as head:
        assert (head.status, head.read()) == (200, b"")
    refused = ask(well.url + path, data=b"")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")


def test_w1_not_ready_while_the_database_is_away() -> None:
    """What works with it is named in the log, and not in the answer; then it is back."""
    with (
        PostgresServer() as postgres,
        RedisServer() as redis_server,
        Well(DATABASE=postgres.url, REDIS=redis_server.url) as well,
    ):
        well.wait_for_ready(200)
        postgres.terminate()
        well.wait_for_ready(503)
        answer = ask(f"{well.url}/-/ready")
        assert (answer.status, json.loads(answer.text)) == (503, {"status": "not ready"})
        assert ask(f"{well.url}/-/live").status == 200
        names = ("connection", "session", "db.session", "get_by_hand", "pooled")
        # A request may come while only some have failed.
        well.wait_until(
            lambda: any(all(f"{n}: " in line for n in names) for line in said(well)),
            PATIENCE,
            "a line that names all",
        )
        assert not any("TaskRedis" in line or "secret" in line for line in said(well))
        postgres.restart()
        well.wait_for_ready(200)
        assert "Ready again." in well.log_text()
        redis_server.terminate()
        well.wait_for_ready(503)
        well.wait_for_log(f"{LOG}TaskRedis: ConnectionError", PATIENCE)
        redis_server.restart()
        well.wait_for_ready(200)


def said(well: Well) -> list[str]:
    """The lines that name what is away; asking makes one, where there is something new to say."""
    well.ready()
    return [line for line in well.log_text().splitlines() if LOG in line]


@pytest.mark.skipif(sys.platform != "linux", reason="stops a process")
def test_w1_a_database_that_says_nothing_holds_no_worker(
    well: Well, redis_server: RedisServer
) -> None:
    """One that hangs is away after SIDEARM_HEALTH_TIMEOUT, and the worker answers others."""
    well.wait_for_ready(200)
    redis_server.send_signal(signal.SIGSTOP)
    try:
        well.wait_for_ready(503)
        well.wait_for_log("TaskRedis: no answer within 0.5 s", PATIENCE)
        assert ask(f"{well.url}/-/live").status == 200
        web = program_of(children(well.pid), "sidearm.workers.web")
        (worker,) = children(web)
        before = len(list(Path(f"/proc/{worker}/task").iterdir()))
        for _ in range(20):
            assert well.ready() == 503
        # One thread waits for it, however often somebody asks.
        assert len(list(Path(f"/proc/{worker}/task").iterdir())) <= before + 1
    finally:
        redis_server.send_signal(signal.SIGCONT)
    well.wait_for_ready(200)


def test_w1_checks_of_the_users_own(well: Well, tmp_path: Path) -> None:
    """A function that raises, and one that returns False."""
    well.wait_for_ready(200)
    mark = Path(well.folder) / "ill"
    for word, said in (("raise", "own: ValueError: ill"), ("false", "own: it returned False")):
        mark.write_text(word)
        well.wait_for_log(said, PATIENCE) if well.ready() == 503 else well.wait_for_ready(503)
        well.wait_for_log(said, PATIENCE)
        mark.unlink()
        well.wait_for_ready(200)


def test_w1_not_ready_while_draining(postgres: PostgresServer, redis_server: RedisServer) -> None:
    """SIGTERM with --drain: it serves on, and says no; a second signal ends it at once."""
    with Well("--drain", "600", DATABASE=postgres.url, REDIS=redis_server.url) as server:
        server.wait_for_ready(200)
        server.send_signal(signal.SIGTERM)
        server.wait_for_log("Draining: it serves for 600 s more", PATIENCE)
        assert server.ready() == 503
        assert ask(f"{server.url}/-/live").status == 200
        assert ask(f"{server.url}/").status == 401
        with expect_end_of(children(server.pid)):
            server.send_signal(signal.SIGTERM)
            assert server.wait_for_exit(PATIENCE) == 0


def test_w1_after_draining_it_stops(postgres: PostgresServer, redis_server: RedisServer) -> None:
    """In order, and with status 0."""
    with Well("--drain", "0.5", DATABASE=postgres.url, REDIS=redis_server.url) as server:
        with expect_end_of(children(server.pid)):
            server.send_signal(signal.SIGTERM)
            assert server.wait_for_exit(PATIENCE) == 0
        assert "first the web server, then the hub" in server.log_text()


@pytest.mark.parametrize(("setting", "status"), [("true", 200), (None, 404), ("false", 404)])
def test_w1_elsewhere_only_where_the_setting_asks(setting: str | None, status: int) -> None:
    """Under gunicorn alone; the application's own answer without it."""
    env = {"FLASK_SIDEARM_HEALTH": setting} if setting else {}
    options = {"cwd": APPS, "env": {"PYTHONPATH": str(APPS), **env}}
    with GunicornServer("plain_health:app", **options) as server:
        assert ask(f"{server.url}/-/live").status == status
        assert ask(f"{server.url}/-/ready").status == status
        assert ask(f"{server.url}/x/-/ready").status == 404


def test_w1_up_leaves_it_out_where_the_setting_says_so() -> None:
    """SIDEARM_HEALTH = False; and an own rule goes before ours."""
    for setting, expected in (("false", ("/-/live", 404)), ("true", ("/-/own", 404))):
        env = {"PYTHONPATH": str(APPS), "FLASK_SIDEARM_HEALTH": setting}
        with UpServer("plain_health:app", workers=1, cwd=APPS, env=env) as server:
            path, status = expected
            assert ask(server.url + path).status == status
    env = {"PYTHONPATH": str(APPS), "OWN_RULE": "1"}
    with UpServer("plain_health:app", workers=1, cwd=APPS, env=env) as server:
        assert ask(f"{server.url}/-/ready").text == "the application's own"
        assert ask(f"{server.url}/-/live").status == 200


if os.name != "posix":
    pytestmark = pytest.mark.skip("up needs Unix sockets")

"""Contract T11 with real processes: ``flask sidearm tasks`` beside two web workers and a hub."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from sidearm.testing import FlaskRunServer, GunicornServer, HubServer, Server, UpServer

APPS = Path(__file__).parent.parent / "apps"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the hub's process is in /proc")

PATIENCE = 60.0  # seconds; a busy machine takes its time


def get(server: Server, path: str, data: bytes | None = None) -> str:
    """Ask for a page; one that fails is a page, too."""
    try:
        with urllib.request.urlopen(server.url + path, data, PATIENCE) as response:
            text: str = response.read().decode()
            return text
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()


def post(server: Server, path: str) -> str:
    return get(server, path, b"")


def meet(server: Server) -> set[int]:
    """Two requests at once, of which none is answered before another worker has the other."""
    with ThreadPoolExecutor(2) as pool:
        return {int(pid) for pid in pool.map(lambda _: get(server, "/meet"), range(2))}


def environment(server: Server) -> dict[str, str]:
    return {**os.environ, "SIDEARM_SOCKET": server.socket_path, "SITE_FOLDER": str(server.folder)}


FLASK = [sys.executable, "-m", "flask", "--app", "recorded:app"]


def run(server: Server, *args: str) -> tuple[int, str, str]:
    """Run a command of the application to its end: status, output, errors."""
    ended = subprocess.run(
        [*FLASK, *args],
        cwd=APPS,
        env=environment(server),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def records_of(server: Server, *args: str) -> list[dict[str, Any]]:
    status, output, errors = run(server, "sidearm", "tasks", "--json", *args)
    assert status == 0, errors
    return [json.loads(line) for line in output.splitlines()]


def wait_for_records(
    server: Server, condition: Callable[[list[dict[str, Any]]], bool], *args: str
) -> list[dict[str, Any]]:
    """Ask until the workers, which connect in the background, have told what is waited for."""
    deadline = time.monotonic() + PATIENCE
    while True:
        records = records_of(server, *args)
        if condition(records):
            return records
        assert time.monotonic() < deadline, records


class Following:
    """``flask sidearm tasks --follow`` as a process, with its outputs in files."""

    def __init__(self, server: Server, folder: Path, *args: str) -> None:
        self._paths = folder / "output", folder / "errors"
        with self._paths[0].open("wb") as output, self._paths[1].open("wb") as errors:
            self._process = subprocess.Popen(
                [*FLASK, "sidearm", "tasks", "--follow", *args],
                cwd=APPS,
                env=environment(server),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
            )

    @property
    def output(self) -> str:
        return self._paths[0].read_text()

    @property
    def errors(self) -> str:
        return self._paths[1].read_text()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert self._process.poll() is None, self.errors
            assert time.monotonic() < deadline, (self.output, self.errors)
            time.sleep(0.02)

    def interrupt(self) -> int:
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(PATIENCE)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
def follow(tmp_path: Path) -> Iterator[Callable[..., Following]]:
    with ExitStack() as stack:

        def start(server: Server, *args: str) -> Following:
            following = Following(server, tmp_path, *args)
            stack.callback(following.close)
            return following

        yield start


@pytest.fixture(scope="module")
def site() -> Iterator[UpServer]:
    """A running deployment with two workers, which the hub knows."""
    with UpServer(
        "recorded:app",
        cwd=APPS,
        env={"SITE_FOLDER": "{folder}"},
        start_timeout=PATIENCE,
        stop_timeout=PATIENCE,
    ) as site:
        pids = meet(site)
        assert len(pids) == 2
        wait_for_records(site, lambda records: pids == {each["pid"] for each in records})
        yield site


def test_t11_rounds_of_two_workers_are_merged_by_time(site: UpServer) -> None:
    """Each with the process that it ran in; what the record says, and no secret."""
    post(site, "/buy/7")
    post(site, "/fail/s3cret?code=s3cret")

    def has_come(records: list[dict[str, Any]]) -> bool:
        met = {each["pid"] for each in records if each["task"] == "meet"}
        return len(met) == 2 and any(each["task"] == "fail" for each in records)

    records = wait_for_records(site, has_come, "-n", "1000")
    ends = [each["started"] + each["seconds"] for each in records]
    assert ends == sorted(ends)
    bought = next(each for each in records if each["task"] == "buy")
    assert (bought["committed"], bought["decided_by"]) == (True, "status 200")
    assert bought["left"] == ["publish('shop')", "after_commit(recorded.send_mail)"]
    failed = next(each for each in records if each["task"] == "fail")
    assert (failed["committed"], failed["status"]) == (False, 500)
    assert failed["decided_by"] == "exception ValueError"
    assert [each["outcome"] for each in failed["resources"]] == ["rolled back"]
    assert failed["dropped"] == [{"call": "publish('shop')", "reason": "exception ValueError"}]
    status, text, _ = run(site, "sidearm", "tasks", "-n", "1000")
    assert status == 0
    assert "POST /fail/<secret> (fail)" in text
    assert "s3cret" not in text + json.dumps(records)
    assert max(map(len, text.splitlines())) <= 100
    for record in records:
        assert f" {record['pid']}  " in text


def test_t11_a_failed_round_is_seen_while_its_worker_is_idle(
    site: UpServer, follow: Callable[..., Following]
) -> None:
    """One that follows sees it without another request; Ctrl-C ends it, and that is no error."""
    post(site, "/full")  # so that there is something to see when it has begun
    following = follow(site, "--failed", "-n", "1")
    following.wait_for(lambda: "(full)" in following.output)
    post(site, "/full")
    following.wait_for(lambda: following.output.count("(full)") == 2)
    assert "(index)" not in following.output
    assert following.interrupt() == 0
    assert following.errors == ""


def test_t11_following_survives_a_killed_hub(
    site: UpServer, follow: Callable[..., Following]
) -> None:
    """It says that the hub is away and when it is back, and goes on where it was."""
    get(site, "/")
    following = follow(site, "--json")
    following.wait_for(lambda: '"index"' in following.output)
    os.kill(site.hub_figures().pid, signal.SIGKILL)
    following.wait_for(lambda: "is back" in following.errors)
    assert "is away" in following.errors
    post(site, "/buy/1")
    following.wait_for(lambda: '"buy"' in following.output)
    lines = following.output.splitlines()
    assert len(set(lines)) == len(lines)
    assert following.interrupt() == 0


def test_t11_a_command_leaves_its_record_to_the_hub(site: UpServer) -> None:
    """Why an import failed can be asked when its process is gone."""
    status, _, errors = run(site, "import-stock")
    assert (status, "no stock" in errors) == (1, True)

    def commands(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [each for each in records if each["kind"] == "command"]

    record = commands(wait_for_records(site, lambda records: bool(commands(records))))[-1]
    assert (record["task"], record["committed"]) == ("import-stock", False)
    assert record["decided_by"] == "exception RuntimeError"


def test_t11_a_stopped_worker_leaves_its_records_to_the_hub() -> None:
    """What it did is known after the web server has been stopped."""
    with HubServer() as hub:
        env = {"SIDEARM_SOCKET": hub.socket_path, "SITE_FOLDER": "{folder}"}
        with GunicornServer("recorded:app", cwd=APPS, env=env, start_timeout=PATIENCE) as server:
            pid = int(get(server, "/"))
        records = wait_for_records(hub, bool)
        assert [(each["pid"], each["task"]) for each in records] == [(pid, "index")]


def test_t11_flask_run_has_a_hub_for_it() -> None:
    """In a thread of its process, also for an application that publishes nothing."""
    with FlaskRunServer(
        "recorded:app", cwd=APPS, env={"SITE_FOLDER": "{folder}"}, start_timeout=PATIENCE
    ) as server:
        pid = int(get(server, "/"))
        deadline = time.monotonic() + PATIENCE
        while run(server, "sidearm", "tasks")[0] and time.monotonic() < deadline:
            pass  # the hub starts in the background
        records = wait_for_records(server, bool)
        assert (records[0]["pid"], records[0]["task"]) == (pid, "index")
        assert "hub" not in server.log_text()  # nothing is wrong, so nothing is said


def test_t11_output_that_nobody_reads_ends_it(site: UpServer) -> None:
    """``| head -1`` is no error message."""
    for _ in range(3):
        get(site, "/")
    ended = subprocess.run(
        ["sh", "-c", '"$@" sidearm tasks --follow --json | head -1', "sh", *FLASK],
        cwd=APPS,
        env=environment(site),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert len(ended.stdout.splitlines()) == 1
    assert ended.stderr == ""

"""``flask sidearm up``: one form of lines, which name their process; JSON where it is wanted."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from fronts import ask
from processes import children, program_of

from sidearm.testing import EventSource, UpServer

APPS = Path(__file__).parent.parent / "apps"
PATIENCE = 60.0  # seconds; a busy machine takes its time
ACCESS = ("--", "--access-logfile", "-")
LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    r" \[\d+\] \[(?:INFO|WARNING|ERROR)\] (up|web|hub): ."
)


def make_noise(server: UpServer) -> str:
    """Have every process say something; the whole log."""
    assert ask(f"{server.url}/noise").status == 500
    with EventSource(f"{server.url}/stream", timeout=PATIENCE):
        server.wait_until(lambda: server.hub_figures().subscribers == 1, PATIENCE, "a stream")
        assert ask(f"{server.url}/stream").status == 200  # one too many, of which the hub tells
        server.wait_until(lambda: server.hub_figures().refused_streams > 0, PATIENCE, "a refusal")
    os.kill(program_of(children(server.pid), "sidearm.hub"), signal.SIGKILL)
    server.wait_for_log("The hub is back", PATIENCE)
    assert server.terminate() == 0
    return server.log_text()


def test_w1_lines_have_one_form_and_name_their_process() -> None:
    """Time, process id, level and name, for what is logged; what is printed stays as it is."""
    with UpServer("noisy:app", workers=1, cwd=APPS, args=ACCESS) as server:
        log = make_noise(server)
    said = {match[1] for line in log.splitlines() if (match := LINE.match(line))}
    assert said == {"up", "web", "hub"}
    for words in (
        r"up: Sidearm serves noisy on http",
        r"up: The hub was ended by SIGKILL",
        r"hub: .*SIDEARM_MAX_STREAMS",
        r"web: logged in JSON",
        r"web: Exception on /noise \[GET\]",
        r'web: 127\.0\.0\.1 .*"GET /noise HTTP/1\.1" 500',
    ):
        (line,) = [line for line in log.splitlines() if re.search(words, line)]
        assert LINE.match(line), line
    assert "\nRuntimeError: out of order\n" in log
    assert "\nprinted\nin two lines\n" in log


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_w1_every_line_is_json_where_it_is_wanted(how: str) -> None:
    """What is logged, with its traceback and what was given with it, and all that is printed."""
    env = {"SIDEARM_LOG_FORMAT": "json"} if how == "environment" else {}
    args = (*(("--log-format", "json") if how == "flag" else ()), *ACCESS)
    with UpServer("noisy:app", workers=1, cwd=APPS, args=args, env=env) as server:
        log = make_noise(server)
    entries: list[dict[str, Any]] = [json.loads(line) for line in log.splitlines()]
    for entry in entries:
        assert {"time", "level", "process", "pid", "logger", "message"} <= set(entry), entry
    assert {entry["process"] for entry in entries} == {"up", "web", "hub"}

    def one(text: str) -> dict[str, Any]:
        (found,) = [entry for entry in entries if text in entry["message"]]
        return found

    assert one("logged in JSON") | {"order": 7, "logger": "shop", "level": "WARNING"} == one(
        "logged in JSON"
    )
    failure = one("Exception on /noise [GET]")
    assert "RuntimeError: out of order" in failure["exception"]
    assert failure["level"] == "ERROR"
    assert one("printed")["message"] == "printed"
    assert one("in two lines")["process"] == "web"
    assert one("half")["message"] == "half"
    assert one("looks")["message"] == '{"looks": like JSON'
    assert one("UserWarning: a warning of Python")["level"] == "WARNING"
    assert one('"GET /noise HTTP/1.1" 500')["logger"] == "gunicorn.access"
    assert one("SIDEARM_MAX_STREAMS")["process"] == "hub"
    assert one("The hub was ended by SIGKILL")["process"] == "up"


def test_w1_failures_to_start_are_json_too(tmp_path: Path) -> None:
    """A worker's traceback, and the line with which `up` ends."""
    (tmp_path / "broken.py").write_text(
        "import os\nfrom flask import Flask\n"
        "app = Flask(__name__)\n"
        "if 'SIDEARM_SOCKET' in os.environ and os.getppid() != int(os.environ['TESTS']):\n"
        "    raise ValueError('only in the workers')\n"
    )
    server = UpServer(
        "broken:app",
        args=["--log-format", "json"],
        env={"PYTHONPATH": str(tmp_path), "TESTS": str(os.getpid())},
    )
    with pytest.raises(Exception, match="only in the workers") as caught:
        server.start()
    lines = str(caught.value).splitlines()
    objects = [json.loads(line) for line in lines if line.startswith("{")]
    assert any("only in the workers" in entry.get("exception", "") for entry in objects)
    assert "before it was ready" in objects[-1]["message"]
    assert objects[-1]["process"] == "up"

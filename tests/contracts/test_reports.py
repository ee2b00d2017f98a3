"""Contract T11: what ``flask sidearm tasks`` is told, by processes with a real hub between."""

from __future__ import annotations

import json
import os
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask

from sidearm import Sidearm, after_commit, publish
from sidearm.cli import sidearm as command
from sidearm.hub.config import HubConfig
from sidearm.hub.link import Link
from sidearm.hub.messages import (
    VERSION,
    Hello,
    ReadRecords,
    Records,
    Reporters,
    SendRecords,
    encode,
)
from sidearm.hub.server import Server
from sidearm.tasks import reporting
from sidearm.tasks.reading import Line, TaskReader
from sidearm.tasks.records import Records as Ring
from sidearm.tasks.reporting import LONGEST_LIST, Reporter, encode_record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 60.0  # seconds


class Follower:
    """Follows in a thread; what it has seen can be waited for."""

    def __init__(self, socket_path: str, **options: Any) -> None:
        self.notices: list[str] = []
        self.records: list[dict[str, Any]] = []
        self.tasks: list[str] = []
        self.is_over = False
        self._changed = threading.Condition()
        self._reader = TaskReader(
            socket_path,
            notice=self._notice,
            is_over=lambda: self.is_over,
            **{"count": 20, **options},
        )
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _notice(self, text: str) -> None:
        with self._changed:
            self.notices.append(text)
            self._changed.notify_all()

    def _follow(self) -> None:
        for line in self._reader.follow():
            with self._changed:
                self.records.append(line.record)
                self.tasks.append(line.record["task"])
                self._changed.notify_all()

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), (self.tasks, self.notices)

    def close(self) -> None:
        self.is_over = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


@pytest.fixture
def socket_path() -> Iterator[str]:
    """Where there may be a hub."""
    with TemporaryDirectory(prefix="sa-") as folder:
        yield f"{folder}/hub.sock"


@pytest.fixture
def followers() -> Iterator[list[Follower]]:
    """Those of the test, which end with it."""
    followers: list[Follower] = []
    yield followers
    for follower in followers:
        follower.close()


@pytest.fixture
def follow(socket_path: str, followers: list[Follower]) -> Callable[..., Follower]:
    """Follow in a thread, until the end of the test."""

    def start(**options: Any) -> Follower:
        followers.append(Follower(socket_path, **options))
        return followers[-1]

    return start


@pytest.fixture
def hub(socket_path: str) -> Iterator[Server]:
    """A hub in a thread."""
    server = Server(HubConfig(socket=socket_path, heartbeat=0))
    server.start_in_thread()
    yield server
    server.stop()


@pytest.fixture
def make_site(socket_path: str) -> Iterator[Callable[..., tuple[Flask, Sidearm]]]:
    """Make an application as a worker has it, on the hub's socket."""
    with ExitStack() as stack:

        def make(name: str = "site", **settings: Any) -> tuple[Flask, Sidearm]:
            app = Flask(name)
            app.config.update(
                TESTING=True,
                PROPAGATE_EXCEPTIONS=False,
                SIDEARM_HUB="socket",
                SIDEARM_SOCKET=socket_path,
                **settings,
            )
            arm = Sidearm(app)
            stack.callback(app.extensions["sidearm"].hub.close)
            stack.callback(app.extensions["sidearm"].reporter.close)
            return app, arm

        yield make


@pytest.fixture
def site(hub: Server, make_site: Callable[..., tuple[Flask, Sidearm]]) -> tuple[Flask, Sidearm]:
    return make_site()


def reader_of(socket_path: str, notices: list[str] | None = None, **options: Any) -> TaskReader:
    notice = [].append if notices is None else notices.append  # type: ignore[var-annotated]
    return TaskReader(socket_path, notice=notice, **{"count": 20, **options})


def wait_for_records(socket_path: str, count: int, **options: Any) -> list[Line]:
    """Read again and again, until a thread has told the hub that there is something."""
    deadline = time.monotonic() + PATIENCE
    while True:
        lines = reader_of(socket_path, **options).recent()
        if len(lines) >= count or time.monotonic() > deadline:
            return lines


def report(app: Flask) -> None:
    """Let a process be known to the hub before a test goes on."""
    app.extensions["sidearm"].reporter.ensure()
    link = Link(app.extensions["sidearm"].socket_path, "tasks", PATIENCE)
    link.send(encode(ReadRecords(1, True, True)), PATIENCE)
    known: list[Any] = []
    while not any(pid == os.getpid() for pid in known):
        for message in link.receive(PATIENCE):
            if isinstance(message, Reporters):
                known += [pid for _, pid, _ in message.processes]
    link.close()


def run(args: list[str], app: Flask) -> Any:
    from click.testing import CliRunner
    from flask.cli import ScriptInfo

    info = ScriptInfo(create_app=lambda: app)
    return CliRunner().invoke(command, ["tasks", *args], obj=info, catch_exceptions=False)


# -- the content


def test_t11_the_hub_tells_what_the_record_tells(
    site: tuple[Flask, Sidearm], socket_path: str
) -> None:
    """``--json`` is ``Record.as_dict()`` and nothing else, with process and application."""
    app, arm = site

    class Connection:
        def commit(self) -> None: ...
        def rollback(self) -> None: ...

    @arm.resource
    def get_connection() -> Iterator[Connection]:
        yield Connection()

    @app.post("/buy/<int:item>")
    def buy(item: int) -> str:
        get_connection()
        publish("shop", {"item": item})
        after_commit(lambda: None)
        return "bought"

    @app.post("/full")
    def full() -> tuple[str, int]:
        get_connection()
        publish("shop", "full")
        return "full", 409

    app.test_client().post("/buy/7")
    app.test_client().post("/full")
    lines = wait_for_records(socket_path, 2)
    known = {"pid": os.getpid(), "app": "site"}
    expected = [known | each.as_dict() for each in app.extensions["sidearm"].records]
    assert [json.loads(line.text) for line in lines] == expected
    assert [line.record for line in lines] == expected
    assert expected[0]["left"]
    assert expected[1]["dropped"]
    result = run(["--json"], app)
    assert [json.loads(line) for line in result.output.splitlines()] == expected
    text = run([], app).output
    for part in ("POST /buy/<int:item> (buy)", "status 409", "get_connection  rolled back"):
        assert part in text


def test_t11_no_secret_is_told(site: tuple[Flask, Sidearm], socket_path: str) -> None:
    """No path, query, form, payload, cookie, header or error's text, in either form."""
    app, arm = site

    @arm.resource
    def get_connection() -> Iterator[str]:
        yield "s3cret connection"

    @app.post("/activate/<code>")
    def activate(code: str) -> None:
        get_connection()
        publish("tokens", code)
        raise ValueError(code)

    app.test_client().post(
        "/activate/s3cret?next=s3cret",
        data={"password": "s3cret"},
        headers={"Authorization": "s3cret", "Cookie": "session=s3cret"},
    )
    assert wait_for_records(socket_path, 1)
    for options in ([], ["--json"]):
        output = run(options, app).output
        assert "/activate/<code>" in output
        assert "s3cret" not in output


def test_t11_failed_is_what_failed_dropped_or_met_an_error(
    site: tuple[Flask, Sidearm], socket_path: str
) -> None:
    """``--failed`` shows a rollback and a commit with a failing callback; no good round."""
    app, arm = site

    def failing() -> None:
        raise ValueError

    with arm.task("good"):
        after_commit(lambda: None)
    with arm.task("good, with a failing callback"):
        after_commit(failing)
    with arm.task("doomed") as task:
        task.doom("a rehearsal")
    assert len(wait_for_records(socket_path, 3)) == 3
    failed = reader_of(socket_path, failed=True).recent()
    assert [line.record["task"] for line in failed] == ["good, with a failing callback", "doomed"]
    assert "doomed: a rehearsal" in run(["--failed"], app).output


def test_t11_the_newest_are_shown_the_oldest_first(
    site: tuple[Flask, Sidearm], socket_path: str
) -> None:
    """``--count`` counts from the end."""
    app, arm = site
    for number in range(5):
        with arm.task(f"task {number}"):
            pass
    assert len(wait_for_records(socket_path, 5)) == 5
    output = run(["-n", "2", "--json"], app).output
    assert [json.loads(line)["task"] for line in output.splitlines()] == ["task 3", "task 4"]


def test_t11_rounds_of_several_processes_are_merged_by_time(
    hub: Server, make_site: Callable[..., tuple[Flask, Sidearm]], socket_path: str
) -> None:
    """And each tells where it comes from."""
    sites = [make_site("one"), make_site("other")]
    for number in range(6):
        _, arm = sites[number % 2]
        with arm.task(f"task {number}"):
            pass
    lines = wait_for_records(socket_path, 6)
    assert [line.record["task"] for line in lines] == [f"task {number}" for number in range(6)]
    assert [line.record["app"] for line in lines] == ["one", "other"] * 3


def test_t11_a_record_that_fills_a_screen_is_cut(app: Flask, arm: Sidearm) -> None:
    """Ten thousand events leave one line that can be sent; it says how many it does not show."""
    with arm.task("import") as task:
        for number in range(10_000):
            publish("stock", number)
        task.doom()
    (entry,) = app.extensions["sidearm"].records.entries
    record = json.loads(encode_record(entry, 1, "site"))
    assert len(record["dropped"]) == LONGEST_LIST + 1
    assert record["dropped"][-1]["call"] == f"and {10_000 - LONGEST_LIST} more"


def test_t11_a_reason_that_is_no_text_is_told_all_the_same(app: Flask, arm: Sidearm) -> None:
    """A lone surrogate, which UTF-8 cannot have, breaks nothing."""
    with arm.task("odd") as task:
        task.doom("\udcff")
    (entry,) = app.extensions["sidearm"].records.entries
    assert json.loads(encode_record(entry, 1, "site"))["decided_by"] == "doomed: \udcff"


# -- following


def test_t11_follow_shows_what_was_and_each_new_round_once(
    site: tuple[Flask, Sidearm], socket_path: str, follow: Callable[..., Follower]
) -> None:
    """Past ones first, then new ones in their order, while a second reader comes and goes."""
    _, arm = site
    with arm.task("before"):
        pass
    wait_for_records(socket_path, 1)
    follower = follow()
    follower.wait_for(lambda: follower.tasks == ["before"])
    expected = ["before"]
    for number in range(30):
        with arm.task(f"task {number}"):
            expected.append(f"task {number}")
        if number % 10 == 5:
            reader_of(socket_path).recent()
    follower.wait_for(lambda: len(follower.tasks) >= len(expected))
    assert follower.tasks == expected
    assert follower.notices == []


def test_t11_follow_goes_on_after_a_restart_of_the_hub(
    site: tuple[Flask, Sidearm], hub: Server, socket_path: str, follow: Callable[..., Follower]
) -> None:
    """It says so, shows what was settled meanwhile, and shows nothing twice."""
    _, arm = site
    with arm.task("before"):
        pass
    wait_for_records(socket_path, 1)
    follower = follow()
    follower.wait_for(lambda: follower.tasks == ["before"])
    with arm.task("live"):
        pass
    follower.wait_for(lambda: len(follower.tasks) == 2)
    hub.stop()
    follower.wait_for(lambda: len(follower.notices) == 1)
    assert "is away" in follower.notices[0]
    with arm.task("meanwhile"):
        pass
    again = Server(HubConfig(socket=socket_path, heartbeat=0))
    again.start_in_thread()
    try:
        follower.wait_for(lambda: any("is back" in each for each in follower.notices))
        follower.wait_for(lambda: "meanwhile" in follower.tasks)
        with arm.task("after"):
            pass
        follower.wait_for(lambda: "after" in follower.tasks)
        assert follower.tasks == ["before", "live", "meanwhile", "after"]
    finally:
        again.stop()


def test_t11_who_follows_failed_rounds_sees_no_others(
    site: tuple[Flask, Sidearm], socket_path: str, follow: Callable[..., Follower]
) -> None:
    """The process sends only these."""
    app, arm = site
    report(app)
    follower = follow(failed=True)
    for number in range(20):
        with arm.task(f"task {number}") as task:
            if number % 5 == 4:
                task.doom()
    follower.wait_for(lambda: len(follower.tasks) >= 4)
    assert follower.tasks == ["task 4", "task 9", "task 14", "task 19"]


def test_t11_rounds_that_were_overwritten_before_they_were_sent_are_told(
    hub: Server,
    make_site: Callable[..., tuple[Flask, Sidearm]],
    socket_path: str,
    follow: Callable[..., Follower],
) -> None:
    """A ring that is too small for the traffic loses records, never silently."""
    app, arm = make_site(SIDEARM_RECORD_COUNT=3)
    report(app)
    follower = follow()

    def has_missed() -> bool:
        return any("are missing" in each for each in follower.notices)

    deadline = time.monotonic() + PATIENCE
    while not has_missed() and time.monotonic() < deadline:
        for _ in range(100):
            with arm.task("one of many"):
                pass
    follower.wait_for(has_missed)
    assert "SIDEARM_RECORD_COUNT" in follower.notices[-1]


def test_t11_a_failed_request_is_shown_with_the_status_of_its_error_page(
    site: tuple[Flask, Sidearm],
    socket_path: str,
    follow: Callable[..., Follower],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its round settles before the page is made: whoever follows sees it when that has a status."""
    monkeypatch.setattr(reporting, "UNFINISHED", 1000.0)  # whatever this machine does meanwhile
    app, _ = site
    seen = threading.Event()
    asked = threading.Event()

    @app.errorhandler(ValueError)
    def page(_: ValueError) -> tuple[str, int]:
        seen.set()
        assert asked.wait(PATIENCE)
        return "mended", 202

    @app.get("/")
    def view() -> None:
        raise ValueError

    report(app)
    follower = follow()
    request = threading.Thread(target=app.test_client().get, args=("/",))
    request.start()
    assert seen.wait(PATIENCE)
    assert reader_of(socket_path).recent() == []
    asked.set()
    request.join(PATIENCE)
    follower.wait_for(lambda: follower.tasks == ["view"])
    assert [(each["committed"], each["status"]) for each in follower.records] == [(False, 202)]


def test_t11_a_round_whose_page_takes_long_is_not_held_back_for_ever(
    app: Flask, arm: Sidearm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a second it is shown without a status."""
    ring: Ring = app.extensions["sidearm"].records
    reporter = Reporter(ring, "site", "/nowhere")
    with arm.task("work"):
        pass
    now = time.time()
    facts = [None, "view", "request", None, "GET"]
    entry = (facts, "work", ring.entries[0][2], (), (), (), (), 0, 0, now + 1000)
    ring.entries.append(entry)
    monkeypatch.setattr(reporting.time, "time", lambda: now + 1000.5)
    assert len(reporter._snapshot()) == 1
    monkeypatch.setattr(reporting.time, "time", lambda: now + 1001.5)
    assert len(reporter._snapshot()) == 2


# -- ends


def test_t11_what_an_ended_process_left_is_shown(
    site: tuple[Flask, Sidearm], socket_path: str
) -> None:
    """A command, and a worker that is recycled, leave their records to the hub."""
    app, arm = site
    with arm.task("import") as task:
        task.doom()
    app.extensions["sidearm"].reporter.close()
    lines = wait_for_records(socket_path, 1)
    assert [line.record["task"] for line in lines] == ["import"]


def test_t11_who_follows_sees_the_last_rounds_of_an_ending_process_once(
    site: tuple[Flask, Sidearm], socket_path: str, follow: Callable[..., Follower]
) -> None:
    """Those that it had no time to send before."""
    app, arm = site
    report(app)
    follower = follow()
    with arm.task("first"):
        pass
    follower.wait_for(lambda: follower.tasks == ["first"])
    with arm.task("last"):
        pass
    app.extensions["sidearm"].reporter.close()
    follower.wait_for(lambda: "last" in follower.tasks)
    assert follower.tasks == ["first", "last"]


def test_t11_a_forked_child_reports_its_own_records_only(
    site: tuple[Flask, Sidearm], socket_path: str
) -> None:
    """Not what its parent had settled, of which it has a copy."""
    app, arm = site
    with arm.task("of the parent"):
        pass
    wait_for_records(socket_path, 1)
    # A thread of ours runs, which the child does not have; Python 3.12 warns of that in general.
    child = _fork()
    if not child:
        try:
            with arm.task("of the child"):
                pass
            app.extensions["sidearm"].reporter.close()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    lines = wait_for_records(socket_path, 2)
    assert [(line.record["task"], line.record["pid"]) for line in lines] == [
        ("of the parent", os.getpid()),
        ("of the child", child),
    ]


def _fork() -> int:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def test_t11_an_application_takes_its_thread_with_it(
    hub: Server, make_site: Callable[..., tuple[Flask, Sidearm]], socket_path: str
) -> None:
    """No cycle keeps an application alive; the thread that waits for the hub ends with it."""
    app = Flask("gone")
    app.config.update(SIDEARM_HUB="socket", SIDEARM_SOCKET=socket_path)
    with Sidearm(app).task("work"):
        pass
    wait_for_records(socket_path, 1)
    (thread,) = [each for each in threading.enumerate() if each.name == "sidearm-records"]
    del app
    import gc

    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


# -- what it costs


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("sidearm")]


@pytest.mark.parametrize(
    "settings",
    [
        {"SIDEARM_HUB": "memory"},
        {"SIDEARM_HUB": "auto"},
        {"SIDEARM_REPORT_RECORDS": False},
        {"SIDEARM_RECORD_COUNT": 0},
    ],
    ids="-".join,
)
def test_t11_nothing_is_started_for_who_does_not_report(
    hub: Server, socket_path: str, settings: dict[str, Any]
) -> None:
    """Tests, and who switched it off, have no thread and are not known to the hub."""
    app = Flask("quiet")
    app.config.update(TESTING=True, SIDEARM_HUB="socket", SIDEARM_SOCKET=socket_path)
    app.config.update(settings)
    with Sidearm(app).task("work"):
        pass
    app.extensions["sidearm"].reporter.close()
    assert threads() == ["sidearm-hub"]
    assert reader_of(socket_path).recent() == []


def test_t11_without_a_hub_there_is_no_thread(
    make_site: Callable[..., tuple[Flask, Sidearm]], socket_path: str
) -> None:
    """Where nobody can ask, nothing waits for questions; a hub that comes later is found."""
    app, arm = make_site()
    with arm.task("early"):
        pass
    assert threads() == []
    server = Server(HubConfig(socket=socket_path, heartbeat=0))
    server.start_in_thread()
    try:
        app.extensions["sidearm"].records.look_again()  # as a second later
        with arm.task("late"):
            pass
        lines = wait_for_records(socket_path, 2)
        assert [line.record["task"] for line in lines] == ["early", "late"]
    finally:
        app.extensions["sidearm"].reporter.close()
        server.stop()


def test_t11_nobody_is_looked_for_more_than_once_a_second(app: Flask, arm: Sidearm) -> None:
    """Nor less, when the clock has been set back."""
    ring: Ring = app.extensions["sidearm"].records
    looks: list[int] = []
    ring.watchers = (lambda: looks.append(len(ring)),)
    with arm.task("first"):
        pass
    ring.looked = time.time() - 1e-3  # whatever this machine did in between
    ring.next_look = time.time() + 1000
    with arm.task("second"):
        pass
    assert looks == [1]
    ring.looked = time.time() + 500
    with arm.task("third"):
        pass
    assert looks == [1, 3]


def test_t11_a_process_sends_nothing_that_nobody_asked_for(
    site: tuple[Flask, Sidearm], monkeypatch: pytest.MonkeyPatch, socket_path: str
) -> None:
    """While nobody follows, no record is encoded."""
    app, arm = site
    report(app)
    encoded: list[Any] = []
    monkeypatch.setattr(
        reporting, "encode_record", lambda *args: encoded.append(args) or encode_record(*args)
    )
    for _ in range(50):
        with arm.task("work"):
            pass
    assert len(reader_of(socket_path, count=3).recent()) == 3
    assert len(encoded) == 3


# -- errors


def error_of(app: Flask, *args: str) -> str:
    result = run([*args], app)
    assert result.exit_code == 1
    line: str
    (line,) = result.stderr.splitlines()
    return line


def test_t11_no_hub_is_one_line_that_says_what_to_do(
    make_site: Callable[..., tuple[Flask, Sidearm]], socket_path: str
) -> None:
    """Following, too: one that never was there is not waited for."""
    app, _ = make_site()
    for options in ([], ["--follow"]):
        line = error_of(app, *options)
        assert socket_path in line
        assert "flask sidearm up" in line


@pytest.mark.parametrize(
    "settings",
    [{"SIDEARM_HUB": "memory"}, {"SIDEARM_REPORT_RECORDS": False}, {"SIDEARM_RECORD_COUNT": 0}],
)
def test_t11_settings_that_keep_records_to_themselves_are_named(settings: dict[str, Any]) -> None:
    """The command says which setting it is, and does not show an empty list."""
    app = Flask("site")
    app.config.update(settings)
    Sidearm(app)
    ((key, value),) = settings.items()
    assert f"{key} is {value!r}" in error_of(app)


#: What a hub said before there were records.
OLD_WELCOME = b"\0\0\0\x13\x96\xa7welcome\x01\xa1e\0\xce\0\x10\0\0\x07"


class Peer:
    """Something else that listens on the socket: answers whoever connects with the same bytes."""

    def __init__(self, socket_path: str, answer: bytes) -> None:
        import socket

        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(socket_path)
        self._listener.listen()
        self._answer = answer
        self.heard = b""
        self.has_answered = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        with client:
            self.heard = client.recv(1000)
            client.sendall(self._answer)
            self.has_answered.set()
            while data := client.recv(1000):
                self.heard += data

    def close(self) -> None:
        self._thread.join(PATIENCE)
        self._listener.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "announces"),
        (encode(SendRecords(1, 1, False, "")), "refused"),
        (OLD_WELCOME, "of an older version"),
    ],
    ids=["another server", "nonsense", "an older hub"],
)
def test_t11_what_is_no_hub_of_this_version_is_told(
    make_site: Callable[..., tuple[Flask, Sidearm]], socket_path: str, answer: bytes, said: str
) -> None:
    """One line, with the socket at fault."""
    app, _ = make_site()
    peer = Peer(socket_path, answer)
    try:
        line = error_of(app)
    finally:
        peer.close()
    assert said in line
    assert socket_path in line


def test_t11_a_process_says_nothing_to_an_older_hub(
    make_site: Callable[..., tuple[Flask, Sidearm]], socket_path: str
) -> None:
    """Which would call it an error, and log that again and again."""
    app, arm = make_site()
    peer = Peer(socket_path, OLD_WELCOME)
    try:
        with arm.task("work"):
            pass
        assert peer.has_answered.wait(PATIENCE)
        app.extensions["sidearm"].reporter.close()
    finally:
        peer.close()
    assert peer.heard == encode(Hello(VERSION, "records"))


def test_t11_a_path_that_is_no_socket_is_told(
    make_site: Callable[..., tuple[Flask, Sidearm]], tmp_path: Path
) -> None:
    """``--socket`` with a file, a path that is too long, and one that is not there."""
    app, _ = make_site()
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / ("x" * 120), tmp_path / "nothing"):
        assert str(path) in error_of(app, "--socket", str(path))


def test_t11_a_hub_without_processes_says_so(
    site: tuple[Flask, Sidearm],
) -> None:
    """An empty list and the reason for it."""
    result = run([], site[0])
    assert result.exit_code == 0
    assert result.stdout == ""
    assert "first request" in result.stderr


def test_t11_a_process_that_does_not_answer_is_named(
    hub: Server,
    make_site: Callable[..., tuple[Flask, Sidearm]],
    socket_path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others are shown all the same."""
    _, arm = make_site()
    with arm.task("work"):
        pass
    wait_for_records(socket_path, 1)
    stuck = Link(socket_path, "records", PATIENCE)
    stuck.send(encode(reporting.Report(4711, "stuck")), PATIENCE)
    monkeypatch.setattr("sidearm.tasks.reading.ANSWER_PATIENCE", 1.0)
    notices: list[str] = []
    deadline = time.monotonic() + PATIENCE
    lines: list[Line] = []
    while not lines and time.monotonic() < deadline:  # this process may be slow itself
        notices.clear()
        lines = reader_of(socket_path, notices).recent()
    stuck.close()
    assert [line.record["task"] for line in lines] == ["work"]
    assert "process 4711 (stuck)" in notices[0]


def test_t11_the_hub_survives_records_of_nobody(
    site: tuple[Flask, Sidearm], socket_path: str
) -> None:
    """Whoever breaks the protocol loses the connection; the others go on."""
    _, arm = site
    link = Link(socket_path, "records", PATIENCE)
    link.send(encode(Records(1, [(False, b"{}")])), PATIENCE)
    link.receive(PATIENCE)
    link.close()
    with arm.task("work"):
        pass
    assert len(wait_for_records(socket_path, 1)) == 1

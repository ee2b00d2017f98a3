"""``sidearm_faults``: a sound application passes at each step, a planted mistake is found."""

from __future__ import annotations

import itertools
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy
from cachelib import SimpleCache
from flask import Flask, Response, current_app, stream_with_context
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import QueuePool

from sidearm import (
    Sidearm,
    after_commit,
    after_response,
    after_rollback,
    commit_on,
    current_task,
    publish,
    publish_now,
)
from sidearm.exceptions import FaultsFound, InjectedExit, InjectedFault
from sidearm.resources.sqlite import SQLite
from sidearm.testing import Faults
from sidearm.testing.faults import FaultReport, FaultRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STOCK = 10


class Store:
    """A stock and its sales in a SQLite file, and an application's way to them."""

    def __init__(self, path: Path, arm: Sidearm) -> None:
        self.path = path
        self.mails: list[int] = []
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # a commit waits for the disk once
            connection.execute("CREATE TABLE stock (left INTEGER)")
            connection.execute("INSERT INTO stock VALUES (0)")
            connection.execute("CREATE TABLE sales (quantity INTEGER)")
            connection.commit()
        self.get = arm.use(SQLite(path, timeout=20))

    def restore(self) -> None:
        """No sales, and all of the stock."""
        self.mails.clear()
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("UPDATE stock SET left = ?", (STOCK,))
            connection.execute("DELETE FROM sales")
            connection.commit()

    def figures(self) -> tuple[int, int]:
        """What is left and what is sold, as another connection sees it."""
        with closing(sqlite3.connect(self.path)) as connection:
            (left,) = connection.execute("SELECT left FROM stock").fetchone()
            (sold,) = connection.execute("SELECT COALESCE(SUM(quantity), 0) FROM sales").fetchone()
        return left, sold

    def check(self, run: FaultRun) -> None:
        """The user's own invariant."""
        left, sold = self.figures()
        assert left + sold == STOCK, f"{left} left and {sold} sold are not {STOCK}"
        assert sold == (1 if run.committed else 0), f"{sold} sold, committed: {run.committed}"

    def sell(self, connection: Any = None) -> None:
        """Both halves of a sale."""
        connection = connection or self.get()
        connection.execute("UPDATE stock SET left = left - 1")
        connection.execute("INSERT INTO sales VALUES (1)")


@pytest.fixture
def store(tmp_path: Path, arm: Sidearm) -> Store:
    return Store(tmp_path / "stock.db", arm)


@pytest.fixture
def faults() -> Faults:
    """As the fixture gives it, without its table in this test's own output."""
    return Faults()


@pytest.fixture
def wrong(app: Flask, faults: Faults, store: Store) -> Callable[..., FaultReport]:
    """Try a view that is wrong; returns the report."""

    def run(view: Callable[[], Any], **options: Any) -> FaultReport:
        app.add_url_rule("/", view_func=view, methods=["POST"])
        client = app.test_client()
        options = {"reset": store.restore, "check": store.check, **options}
        with pytest.raises(FaultsFound) as caught:
            faults.run(lambda: client.post("/"), **options)
        report: FaultReport = caught.value.report
        return report

    return run


def found(report: FaultReport) -> set[str]:
    """The problems, each once."""
    return {problem for run in report.runs for problem in run.problems}


# -- what is right


def test_a_sound_purchase_passes(app: Flask, faults: Faults, store: Store) -> None:
    """Every step is found, failed by both kinds of exception, and nothing is wrong."""

    @app.post("/")
    def buy() -> str:
        store.sell()
        publish("stock", 1)
        after_commit(lambda: store.mails.append(1))
        after_response(lambda: store.mails.append(2))
        return "sold"

    client = app.test_client()
    report = faults.run(lambda: client.post("/"), reset=store.restore, check=store.check)
    assert report.problems == []
    assert report.notes == []
    assert report.steps == [
        "claim of sqlite3",
        "sqlite3: UPDATE stock",
        "sqlite3: INSERT INTO sales",
        "call of publish('stock')",
        "call of after_commit(<lambda>)",
        "call of after_response(<lambda>)",
        "commit of sqlite3",
        "sending of events on stock",
        "callback after_commit(<lambda>)",
        "release of sqlite3",
        "callback after_response(<lambda>)",
        "client, before the response",
        "client, at the end of the response",
    ]
    by_step = {(run.step, run.fault): run for run in report.runs}
    statement = by_step["sqlite3: INSERT INTO sales", "Exception"]
    assert (statement.status, statement.committed, statement.left) == (500, False, [])
    assert statement.outcomes == [("sqlite3", "rolled back")]
    ended = by_step["sqlite3: INSERT INTO sales", "BaseException"]
    assert (ended.status, type(ended.error)) == (None, InjectedExit)
    commit = by_step["commit of sqlite3", "Exception"]
    assert (commit.status, commit.committed) == (500, False)
    callback = by_step["callback after_commit(<lambda>)", "Exception"]
    assert (callback.status, callback.committed) == (200, True)
    assert [call for call in callback.failed if "after_commit" in call]
    assert [channel for channel, _ in callback.events] == ["stock"]
    release = by_step["release of sqlite3", "Exception"]
    assert (release.status, release.committed) == (200, True)
    assert "the release of sqlite3 failed" in release.log


def test_nothing_stays_replaced(app: Flask, faults: Faults, store: Store) -> None:
    """After the runs every method is the one that it was, also if a run fails."""
    from sidearm.tasks.task import Round, Task

    watched: list[tuple[Any, str]] = [
        (sqlite3, "connect"),
        (Round, "claim"),
        (Round, "settle"),
        (Task, "hold"),
        (Flask, "__call__"),
        (sqlalchemy.Engine, "raw_connection"),
        (sqlalchemy.Engine, "_has_events"),
        (sqlalchemy.Dialect, "_has_events"),
    ]
    before = [getattr(owner, name) for owner, name in watched]

    @app.post("/")
    def view() -> str:
        store.sell()
        raise LookupError("always")

    client = app.test_client()
    with pytest.raises(LookupError, match="always"):
        faults.run(lambda: client.post("/"))
    assert [getattr(owner, name) for owner, name in watched] == before
    assert app.config["PROPAGATE_EXCEPTIONS"] is None


def test_each_of_several_commits_fails(
    app: Flask, arm: Sidearm, faults: Faults, store: Store, tmp_path: Path
) -> None:
    """The second of two is failed after the first has committed: half saved, and the table says."""
    other = arm.use(SQLite(tmp_path / "other.db"))
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE log (text TEXT)")

    @app.post("/")
    def buy() -> str:
        store.sell()
        other().execute("INSERT INTO log VALUES ('sold')")
        return "sold"

    client = app.test_client()
    report = faults.run(lambda: client.post("/"), reset=store.restore)
    halves = [
        run
        for run in report.runs
        if [outcome for _, outcome in run.outcomes] == ["committed", "rolled back"]
    ]
    assert [run.fault for run in halves] == ["Exception", "BaseException"]
    assert all("half saved" in run.log for run in halves)


def test_t6_the_client_leaves_a_streamed_body(app: Flask, faults: Faults, store: Store) -> None:
    """Before, within and at the end of the body: its round is rolled back, and gives all back."""

    @app.post("/")
    def export() -> Response:
        @stream_with_context
        def body() -> Iterator[str]:
            for _ in range(3):
                store.get().execute("INSERT INTO sales VALUES (1)")
                yield "row"

        return Response(body())

    def check(run: FaultRun) -> None:
        assert store.figures()[1] == (3 if run.outcomes == [("sqlite3", "committed")] else 0)

    client = app.test_client()
    report = faults.run(lambda: client.post("/"), reset=store.restore, check=check)
    left = {run.step: run.outcomes for run in report.runs if run.fault == "client leaves"}
    assert left == {
        "client, before the response": [],
        "client, after piece 1 of the response": [("sqlite3", "rolled back")],
        "client, at the end of the response": [("sqlite3", "rolled back")],
    }


def test_a_driver_s_error_looks_like_a_real_one(
    app: Flask, arm: Sidearm, faults: Faults, tmp_path: Path
) -> None:
    """A handler of SQLAlchemy's or sqlite3's OperationalError catches it; its ``orig`` is ours."""
    seen: list[BaseException] = []
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/engine.db", poolclass=QueuePool)
    get_connection = arm.use(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE notes (text TEXT)")

    @app.errorhandler(OperationalError)
    def away(error: OperationalError) -> tuple[str, int]:
        seen.append(error)
        return "later", 503

    @app.post("/")
    def write() -> str:
        get_connection().execute(sqlalchemy.text("INSERT INTO notes VALUES ('text')"))
        return "written"

    client = app.test_client()
    report = faults.run(lambda: client.post("/"))
    engine.dispose()
    answers = {run.step: run.status for run in report.runs if run.fault == "Exception"}
    assert answers == {
        "claim of connection": 503,
        "connection: INSERT INTO notes": 503,
        "commit of connection": 503,
        "release of connection": 200,
    }
    assert all(isinstance(error.orig, InjectedFault) for error in seen)  # type: ignore[attr-defined]
    assert all(isinstance(error.orig, sqlite3.OperationalError) for error in seen)  # type: ignore[attr-defined]
    assert [error.orig.step for error in seen] == [  # type: ignore[attr-defined]
        "step 1, claim of connection",
        "step 2, connection: INSERT INTO notes",
        "step 3, commit of connection",
    ]


def test_a_cache_that_fails_costs_no_commit(
    app: Flask, arm: Sidearm, faults: Faults, store: Store
) -> None:
    """A write that waited for the commit is a step when it is called and when it leaves."""
    simple = SimpleCache()
    cache = arm.use(simple)

    @app.post("/")
    def buy() -> str:
        store.sell()
        cache.set("left", 9)
        return "sold"

    def restore() -> None:
        store.restore()
        simple.clear()

    def check(run: FaultRun) -> None:
        store.check(run)
        assert simple.get("left") in ((9, None) if run.committed else (None,))

    client = app.test_client()
    report = faults.run(lambda: client.post("/"), reset=restore, check=check)
    leaving = [run for run in report.runs if run.step == "cache.set leaving"]
    assert [(run.status, run.fault) for run in leaving] == [
        (200, "Exception"),
        (None, "BaseException"),
    ]
    cache_of_tasks: Any = cache
    assert cache_of_tasks._cache is simple, "something stays in the cache's place"


def test_what_is_told_of_a_rollback_is_no_mistake(app: Flask, faults: Faults, store: Store) -> None:
    """``publish_now`` in an ``after_rollback`` callback speaks of what was decided."""

    @app.post("/")
    def buy() -> str:
        after_rollback(lambda: publish_now("failures", 1))
        store.sell()
        return "sold"

    client = app.test_client()
    report = faults.run(lambda: client.post("/"), reset=store.restore, check=store.check)
    assert ("failures", "1") in [event for run in report.runs for event in run.events]


def test_what_cannot_be_seen_is_said(app: Flask, arm: Sidearm, faults: Faults) -> None:
    """A resource of an unknown kind fails at its claim, commit and release, and the table says."""

    class Client:
        def commit(self) -> None:
            pass

        def rollback(self) -> None:
            pass

    @arm.resource
    def get_client() -> Iterator[Client]:
        yield Client()

    @app.post("/")
    def view() -> str:
        get_client()
        return "done"

    client = app.test_client()
    report = faults.run(lambda: client.post("/"))
    [note] = report.notes
    assert "no statement of get_client was seen" in note
    assert f"Note: {note}" in str(report)


def test_kept_work_is_allowed_where_it_is_meant(app: Flask, faults: Faults, store: Store) -> None:
    """``may_keep`` and ``unconditional`` say what the application does on purpose."""

    @app.post("/")
    @commit_on(403)
    def log_in() -> tuple[str, int]:
        store.get().execute("INSERT INTO sales VALUES (1)")
        publish_now("attempts", 1)
        return "no", 403

    client = app.test_client()
    with pytest.raises(FaultsFound):
        faults.run(lambda: client.post("/"), reset=store.restore)
    faults.run(
        lambda: client.post("/"), reset=store.restore, may_keep=True, unconditional=["attempts"]
    )


def test_t8_a_body_that_fails_at_once_is_closed(app: Flask, faults: Faults, store: Store) -> None:
    """As a server closes it: what waited for the end of the response runs."""

    @app.post("/")
    def export() -> Response:
        store.sell()
        after_response(lambda: store.mails.append(1))

        @stream_with_context
        def body() -> Iterator[str]:
            store.get().execute("SELECT left FROM stock")
            yield "row"

        return Response(body())

    def check(run: FaultRun) -> None:
        late = run.step.startswith("callback after_response")
        sold = store.figures()[1]
        assert len(store.mails) == (0 if late else sold)

    client = app.test_client()
    faults.run(lambda: client.post("/"), reset=store.restore, check=check)


@pytest.mark.parametrize("way_out", [KeyboardInterrupt, pytest.fail.Exception])
def test_a_test_s_own_way_out_is_left_alone(
    app: Flask, faults: Faults, way_out: type[BaseException]
) -> None:
    """Ctrl-C and ``pytest.fail()`` end the test, and what was replaced is put back."""
    before = Flask.__call__

    @app.post("/")
    def view() -> str:
        raise way_out("enough")

    client = app.test_client()
    with pytest.raises(way_out, match="enough"):
        faults.run(lambda: client.post("/"))
    assert Flask.__call__ is before


# -- what is wrong, planted


def test_it_finds_a_view_that_swallows_errors(wrong: Callable[..., Any], store: Store) -> None:
    """The statement fails, the view says 200, and half a sale is committed: ``check`` tells."""

    def buy() -> str:
        connection = store.get()
        connection.execute("UPDATE stock SET left = left - 1")
        try:
            connection.execute("INSERT INTO sales VALUES (1)")
        except sqlite3.Error:
            current_app.logger.warning("no sale")
        return "sold"

    report = wrong(buy)
    [problem] = report.problems
    assert problem == (
        "step 3, sqlite3: INSERT INTO sales (Exception): check: 9 left and 0 sold are not 10"
    )


def test_it_finds_a_failed_request_that_is_committed(
    wrong: Callable[..., Any], store: Store
) -> None:
    """``keep()`` too early: the client hears of a failure, and what was done until then stays."""

    def buy() -> str:
        current_task.keep()
        store.sell()
        return "sold"

    problems = found(wrong(buy))
    assert "the client was told of a failure (500), and the work was committed" in problems


def test_it_finds_a_commit_by_hand_in_the_middle(wrong: Callable[..., Any], store: Store) -> None:
    """What the task is to commit has two outcomes if the view commits a part."""

    def buy() -> str:
        connection = store.get()
        connection.execute("UPDATE stock SET left = left - 1")
        connection.commit()
        connection.execute("INSERT INTO sales VALUES (1)")
        return "sold"

    report = wrong(buy, check=None)
    assert "commit of sqlite3 by hand" in report.steps
    two = "sqlite3 has two outcomes: 1 writing statement committed by hand, and the task rolled"
    assert any(problem.startswith(two) for problem in found(report))


def test_it_finds_a_connection_without_transactions(
    wrong: Callable[..., Any], arm: Sidearm, store: Store
) -> None:
    """Each statement commits itself, so that a rollback undoes nothing."""
    get_plain = arm.use(SQLite(store.path, isolation_level=None))

    def buy() -> str:
        store.sell(get_plain())
        return "sold"

    problems = found(wrong(buy, check=None))
    assert any(problem.startswith("sqlite3 has two outcomes: 1 writing") for problem in problems)


def test_it_finds_an_event_before_the_commit(wrong: Callable[..., Any], store: Store) -> None:
    """``publish_now`` tells of a sale that is rolled back."""

    def buy() -> str:
        store.sell()
        publish_now("stock", 9)
        return "sold"

    [problem] = found(wrong(buy))
    assert problem.startswith("an event on 'stock' left by publish_now(), and the work was rolled")


def test_it_finds_a_leaked_connection(
    wrong: Callable[..., Any], store: Store, tmp_path: Path
) -> None:
    """A connection that is taken by hand, and given back only where all goes well."""
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path}/log.db", poolclass=QueuePool)
    kept = []

    def buy() -> str:
        connection = engine.connect()
        kept.append(connection)
        store.sell()
        connection.close()
        return "sold"

    problems = found(wrong(buy))
    assert problems == {"the pool of the sqlite engine misses 1 connection after the run"}
    for connection in kept:
        connection.close()
    engine.dispose()


def test_it_finds_a_leaked_sqlite3_connection(wrong: Callable[..., Any], store: Store) -> None:
    """The same, without a pool."""
    kept: list[sqlite3.Connection] = []

    def buy() -> str:
        kept.append(sqlite3.connect(store.path))
        store.sell()
        kept[-1].close()
        return "sold"

    problems = found(wrong(buy))
    assert problems == {"1 sqlite3 connection opened in the run still open"}
    for connection in kept:
        connection.close()


def test_it_finds_a_claim_that_leaks_before_its_yield(
    wrong: Callable[..., Any], arm: Sidearm, store: Store
) -> None:
    """A generator that fails after it has connected, outside of its ``try``."""
    kept: list[sqlite3.Connection] = []

    @arm.resource
    def get_log() -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(store.path)
        kept.append(connection)
        connection.execute("PRAGMA foreign_keys=ON")
        try:
            yield connection
        finally:
            connection.close()

    def buy() -> str:
        get_log()
        store.sell()
        return "sold"

    report = wrong(buy)
    assert {run.step for run in report.runs if run.problems} == {
        "sqlite3: PRAGMA",
    }
    assert found(report) == {"1 sqlite3 connection opened in the run still open"}
    for connection in kept:
        connection.close()


class Books:
    """What an application may put around its connection; no driver that Sidearm knows."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.commit = connection.commit
        self.rollback = connection.rollback


def test_it_finds_a_callback_that_writes_past_the_task(
    wrong: Callable[..., Any], arm: Sidearm, store: Store
) -> None:
    """What it writes on the view's connection comes after the commit, and nobody commits it."""

    @arm.resource
    def get_books() -> Iterator[Books]:
        with closing(sqlite3.connect(store.path)) as connection:
            yield Books(connection)

    def buy() -> str:
        books = get_books()
        store.sell(books.connection)
        after_commit(lambda: books.connection.execute("UPDATE stock SET left = left"))
        return "sold"

    [problem] = wrong(buy).runs[0].problems
    assert problem == (
        "1 writing statement on sqlite3, past every claim, never committed: lost, though nothing"
        " failed"
    )


def test_t13_it_finds_a_forgotten_commit(
    wrong: Callable[..., Any], arm: Sidearm, store: Store
) -> None:
    """The application commits by hand, and this view does not."""
    get_explicit = arm.use(SQLite(store.path), commit="explicit")

    def buy() -> str:
        store.sell(get_explicit())
        return "sold"

    report = wrong(buy, check=None)
    assert report.runs[0].problems == [
        "2 writing statements on sqlite3 never committed by hand: lost"
    ]


def test_it_finds_what_its_reset_cannot_undo(wrong: Callable[..., Any], store: Store) -> None:
    """A reset that fails tells of the run before it, and no further run is made."""
    left: list[str] = []

    def restore() -> None:
        store.restore()
        assert not left, f"{left} is still there"

    def buy() -> str:
        store.sell()
        after_rollback(lambda: left.append("a file"))
        return "sold"

    report = wrong(buy, reset=restore)
    assert report.runs[-1].step == "commit of sqlite3"
    assert report.runs[-1].problems == ["reset= failed after it: ['a file'] is still there"]


def test_it_finds_a_success_that_was_rolled_back(wrong: Callable[..., Any], store: Store) -> None:
    """The task is doomed where an error was swallowed, and the client is told of a success."""

    def buy() -> str:
        try:
            store.sell()
        except sqlite3.Error as error:
            current_task.doom(str(error))
        return "sold"

    problems = found(wrong(buy))
    assert "the client was told of a success (200), and the work was rolled back" in problems


def test_it_finds_a_view_that_never_does_the_same_twice(
    wrong: Callable[..., Any], store: Store
) -> None:
    """Chance in the steps is reported, with the first step that differs, and nothing is failed."""
    numbers = itertools.count()

    def buy() -> str:
        for _ in range(next(numbers)):
            store.get().execute("SELECT left FROM stock")
        store.sell()
        return "sold"

    report = wrong(buy)
    assert len(report.runs) == 1
    [problem] = report.problems
    assert "took different steps" in problem
    assert "step 3 was 'sqlite3: UPDATE stock', then 'sqlite3: SELECT FROM stock'" in problem


def test_it_finds_a_run_that_takes_another_way(wrong: Callable[..., Any], store: Store) -> None:
    """A fault that changes what later runs do (no ``reset=``) is reported, not overlooked."""
    failures: list[BaseException] = []

    def buy() -> str:
        if failures:
            store.get().execute("SELECT left FROM stock")
        try:
            store.sell()
        except Exception as error:
            failures.append(error)
            raise
        return "sold"

    problems = found(wrong(buy))
    assert any(
        problem.startswith("it took other steps than the run without a fault: step 2 was")
        for problem in problems
    )


def test_a_first_run_may_have_more_to_do(app: Flask, faults: Faults, store: Store) -> None:
    """What is done once, such as filling a cache, is no step."""
    cache: list[int] = []

    @app.post("/")
    def buy() -> str:
        if not cache:
            cache.append(store.get().execute("SELECT left FROM stock").fetchone()[0])
        store.sell()
        return "sold"

    client = app.test_client()
    report = faults.run(lambda: client.post("/"), reset=store.restore, check=store.check)
    assert not [step for step in report.steps if "SELECT" in step]


# -- what is shown

TEST_FILE = """
import pytest
from flask import Flask
from sidearm import Sidearm, current_task

app = Flask(__name__)
app.testing = True
Sidearm(app)


@app.post("/<way>")
def view(way):
    if way == "doomed":
        current_task.doom("on purpose")
    return "done"


@pytest.mark.parametrize("fine", [True, False])
def test_view(sidearm_faults, fine):
    def check(run):
        assert fine, "the invariant does not hold"

    sidearm_faults.run(lambda: app.test_client().post("/x"), check=check)
"""


@pytest.mark.parametrize("options", [["-v"], ["-v", "-n1"]], ids=["alone", "xdist"])
def test_the_table_is_shown_by_pytest(tmp_path: Path, options: list[str]) -> None:
    """Where a test fails, and with ``-v`` where it passes; each once, from xdist's workers too."""
    (tmp_path / "test_view.py").write_text(TEST_FILE)
    text = run_pytest(tmp_path, *options)
    assert "1 failed, 1 passed" in text
    assert text.count("client, before the response  ") == 2
    assert "sidearm faults: test_view.py::test_view[True]" in text
    assert "Captured sidearm faults call" in text
    assert "check: the invariant does not hold" in text


def test_the_table_is_not_shown_without_need(tmp_path: Path) -> None:
    """A test that passes is a dot."""
    (tmp_path / "test_view.py").write_text(TEST_FILE)
    text = run_pytest(tmp_path, "-k", "True")
    assert "1 passed" in text
    assert "sidearm faults" not in text


def run_pytest(folder: Path, *options: str) -> str:
    """The output of a pytest of its own, with this plugin and xdist."""
    plugins = ["-p", "sidearm.testing.plugin", "-p", "xdist", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", *plugins, "--rootdir", folder, *options, "test_view.py"],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return result.stdout + result.stderr

"""Contract T6: a body that is made while it is sent is a round of its own."""

from __future__ import annotations

import gc
import json
import socket
import sqlite3
import threading
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, Response, abort, stream_with_context
from flasks import raises
from werkzeug.test import EnvironBuilder

from sidearm import Sidearm, after_commit, after_rollback, current_task, publish
from sidearm.testing import FlaskRunServer, GunicornServer, capture

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from sidearm.testing.servers import Server

APPS = Path(__file__).parents[1] / "apps"
SETTLED = ["claim thing", "commit thing", "release thing"]
UNDONE = ["claim thing", "rollback thing", "release thing"]


class Broken(Exception):
    """What bodies raise here."""


@pytest.fixture
def answer(ledger: Any, serve: Any) -> Callable[..., None]:
    """Answer ``/`` with a body that claims in its first piece, and again after each."""
    ledger.thing = ledger.resource("thing")

    def answer(
        end: Callable[[], None] = lambda: None,
        *,
        before: Callable[[], None] = lambda: None,
        **options: Any,
    ) -> None:
        def view() -> Response:
            before()

            def body() -> Generator[bytes]:
                ledger.thing()
                yield b"one"
                ledger.thing()
                yield b"two"
                end()

            return Response(stream_with_context(body()), **options)

        serve(view)

    return answer


def records(app: Flask) -> list[tuple[str, bool, str]]:
    return [
        (record.round, record.committed, record.decided_by)
        for record in app.extensions["sidearm"].records
    ]


def test_t6_a_body_claims_and_commits_at_its_end(app: Flask, ledger: Any, answer: Any) -> None:
    """One claim however often it is used, a commit when the last piece was made, a release."""
    seen: list[list[str]] = []
    answer(lambda: seen.append([*ledger.lines]))
    assert app.test_client().get("/").data == b"onetwo"
    assert seen == [["claim thing"]]
    assert ledger.lines == SETTLED
    assert records(app) == [("work", True, "status 200"), ("body", True, "the body ended")]
    assert [record.status for record in app.extensions["sidearm"].records] == [200, 200]


def test_t6_the_views_round_and_the_bodys_are_two(app: Flask, ledger: Any, answer: Any) -> None:
    """What the view claimed was committed and released before the body begins."""
    answer(before=ledger.thing)
    assert app.test_client().get("/").data == b"onetwo"
    assert ledger.lines == SETTLED * 2


def test_t6_ss23_a_body_that_raises_rolls_back(handled: Flask, ledger: Any, answer: Any) -> None:
    """Its own round alone: what the view had saved stays."""

    def end() -> None:
        raise Broken

    answer(end, before=ledger.thing)
    with pytest.raises(Broken):
        _ = handled.test_client().get("/").data
    assert ledger.lines == SETTLED + UNDONE
    assert records(handled)[-1] == ("body", False, "exception Broken")


def test_t6_ss09_a_client_that_leaves_rolls_back(app: Flask, ledger: Any, answer: Any) -> None:
    """The server closes a body that has not come to its end."""
    answer()
    response = app.test_client().get("/", buffered=False)
    next(iter(response.response))
    response.close()
    assert ledger.lines == UNDONE
    assert records(app)[-1] == ("body", False, "the body was abandoned")


def test_t6_a_client_that_leaves_before_the_first_piece(
    app: Flask, ledger: Any, answer: Any
) -> None:
    """Nothing was claimed, nothing is settled."""
    answer()
    body: Any = app.wsgi_app(EnvironBuilder("/").get_environ(), lambda *_: lambda _: None)
    body.close()
    assert ledger.lines == []


def test_t6_a_commit_that_fails_is_no_end_like_others(app: Flask, ledger: Any, serve: Any) -> None:
    """The body ends with the error, so that a server cuts the connection off."""
    thing = ledger.resource("thing", commit=Broken())

    def view() -> Response:
        def body() -> Generator[str]:
            thing()
            yield "x"

        return Response(stream_with_context(body()))

    serve(view)
    with raises(Broken):
        _ = app.test_client().get("/").data
    assert ledger.lines == ["claim thing", "commit thing", "rollback thing", "release thing"]


def test_t6_callbacks_and_events_wait_for_the_bodys_commit(
    app: Flask, ledger: Any, answer: Any
) -> None:
    """They belong to the round in which they were registered, and have its contexts."""

    def end() -> None:
        after_commit(lambda: ledger.lines.append(f"callback of {current_task.name}"))
        publish("news", 1)

    answer(end, before=lambda: after_commit(lambda: ledger.lines.append("callback of the view")))
    with capture(app) as captured:
        assert app.test_client().get("/").data == b"onetwo"
    assert ledger.lines == [
        "callback of the view",
        *SETTLED[:2],
        "callback of view",
        SETTLED[2],
    ]
    assert [event.data for event in captured.events] == [1]


def test_t6_nobody_hears_of_a_body_that_was_rolled_back(
    handled: Flask, ledger: Any, answer: Any
) -> None:
    """Its callbacks and events are dropped, its ``after_rollback`` runs."""

    def end() -> None:
        after_commit(lambda: ledger.lines.append("never"))
        after_rollback(lambda: ledger.lines.append("undone"))
        publish("news", 1)
        raise Broken

    answer(end)
    with capture(handled) as captured, pytest.raises(Broken):
        _ = handled.test_client().get("/").data
    assert ledger.lines == [*UNDONE[:2], "undone", UNDONE[2]]
    assert captured.events == []


def test_t6_the_body_of_a_failed_task_is_rolled_back_too(
    app: Flask, ledger: Any, answer: Any
) -> None:
    """A body of an error's response commits nothing behind the back of the rollback."""
    answer(status=409)
    assert app.test_client().get("/").data == b"onetwo"
    assert ledger.lines == UNDONE
    assert records(app)[-1] == ("body", False, "the task had failed: status 409")


def test_t6_a_body_may_doom_itself(app: Flask, ledger: Any, answer: Any) -> None:
    """``doom()`` in a body that goes on to its end."""
    answer(lambda: current_task.doom("changed its mind"))
    assert app.test_client().get("/").data == b"onetwo"
    assert ledger.lines == UNDONE


def test_t6_direct_passthrough_is_a_body_too(app: Flask, ledger: Any, answer: Any) -> None:
    """As on the slide of the event stream."""
    answer(direct_passthrough=True)
    assert app.test_client().get("/").data == b"onetwo"
    assert ledger.lines == SETTLED


def test_t6_an_aborted_view_has_no_body_to_settle(handled: Flask, ledger: Any, serve: Any) -> None:
    """The page of ``abort`` is no streaming body."""
    thing = ledger.resource("thing")

    def view() -> None:
        thing()
        abort(404)

    serve(view)
    assert handled.test_client().get("/").status_code == 404
    assert ledger.lines == UNDONE


def test_t6_an_inner_task_in_a_body_is_independent(
    handled: Flask, arm: Sidearm, ledger: Any, answer: Any
) -> None:
    """It commits although the body around it fails."""

    def end() -> None:
        with arm.task("inner"):
            ledger.thing()
        raise Broken

    answer(end)
    with pytest.raises(Broken):
        _ = handled.test_client().get("/").data
    assert ledger.lines == [UNDONE[0], *SETTLED, *UNDONE[1:]]


@pytest.mark.parametrize("kind", ["generator", "engine", "sqlite3", "session", "flask-sqlalchemy"])
def test_t6_rows_of_a_body(handled: Flask, make: Any, serve: Any, kind: str) -> None:
    """Saved at its end, or not at all, with each kind of resource; nothing stays out."""
    store = make(kind, "task")

    def stream(*, fail: bool) -> Response:
        store.write("view")

        def body() -> Generator[str]:
            store.write("body")
            yield "x"
            if fail:
                raise Broken

        return Response(stream_with_context(body()))

    def good() -> Response:
        return stream(fail=False)

    def bad() -> Response:
        return stream(fail=True)

    serve(good, "/good")
    serve(bad, "/bad")
    assert handled.test_client().get("/good").text == "x"
    assert store.saved() == ["view", "body"]
    with pytest.raises(Broken):
        _ = handled.test_client().get("/bad").data
    assert store.saved() == ["view", "body", "view"]
    assert store.out() == 0


def test_t6_a_body_that_nobody_closes_is_given_back_with_its_last_reference(
    app: Flask, ledger: Any, answer: Any
) -> None:
    """Also where a thread without contexts drops it; the contexts are Flask's to complain about."""
    answer()

    def serve_one() -> None:
        body: Any = app.wsgi_app(EnvironBuilder("/").get_environ(), lambda *_: lambda _: None)
        next(iter(body))

    thread = threading.Thread(target=serve_one)
    thread.start()
    thread.join(30)
    gc.collect()
    assert ledger.lines == UNDONE


# On real servers


@pytest.fixture(params=["gunicorn sync", "gunicorn gthread", "flask run"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with closing(sqlite3.connect(tmp_path / "notes.db")) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    options: dict[str, Any] = {"cwd": APPS, "env": {"NOTES": str(tmp_path / "notes.db")}}
    if request.param == "flask run":
        made: Server = FlaskRunServer("bodies:app", **options)
    else:
        worker_class = request.param.split()[1]
        made = GunicornServer("bodies:app", worker_class=worker_class, **options)
    with made as server:
        yield server


def ask(server: Server, path: str) -> Any:
    with urllib.request.urlopen(server.url + path, None, 30) as response:
        return json.loads(response.read())


def test_t6_ss09_clients_that_read_and_clients_that_leave(server: Server) -> None:
    """Rows of the bodies that were sent, none of those that nobody read, and no lock stays."""
    ends = ["finite: the body ended", "endless: the body was abandoned"]
    for turn in (1, 2):
        with urllib.request.urlopen(f"{server.url}/finite", None, 30) as response:
            assert response.read() == b"onetwo"
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        expected = ends * turn
        server.wait_until(lambda: ask(server, "/records") == expected, 30, "the body's end")  # noqa: B023
    assert ask(server, "/saved") == ["finite", "finite"]


def test_t6_ss20_a_clean_up_that_hangs_ends_with_its_worker(tmp_path: Path) -> None:
    """The server gives it up after its own deadline, and says so; nothing of it is saved."""
    with closing(sqlite3.connect(tmp_path / "notes.db")) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    env = {"NOTES": str(tmp_path / "notes.db")}
    # Loading the application is no part of what a worker has five seconds for.
    args = ["--timeout", "5", "--preload"]
    with GunicornServer("bodies:app", cwd=APPS, env=env, args=args) as server:
        with urllib.request.urlopen(f"{server.url}/finite", None, 30) as response:
            assert response.read() == b"onetwo"  # one that ends in time: no warning
        assert "TIMEOUT" not in server.log_text()
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(b"GET /hanging HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        server.wait_for_log("WORKER TIMEOUT", 60)
        assert ask(server, "/saved") == ["finite"]


@pytest.mark.timeout(60)
def test_t9_a_body_is_collected_while_another_task_settles(
    app: Flask, ledger: Any, serve: Any
) -> None:
    """The garbage collector comes at any allocation: the two do not wait for each other."""
    thing = ledger.resource("thing")
    tasks: list[Any] = []

    class Collecting(dict[Any, Any]):
        """The claims of a round, in the middle of whose settling the collector comes."""

        def values(self) -> Any:
            gc.collect()
            return super().values()

    def stream() -> Response:
        tasks.append(current_task._get_current_object())  # type: ignore[attr-defined]
        return Response(iter(["one", "two"]))

    def view() -> str:
        thing()
        current_task.round.claims = Collecting(current_task.round.claims)
        return "good"

    serve(stream, "/stream")
    serve(view)
    gc.disable()  # until then
    try:
        response: Any = app.test_client().get("/stream", buffered=False)
        next(response.response)
        response.itself = response
        del response
        assert tasks[0].round.state == "open"
        assert app.test_client().get("/").text == "good"
    finally:
        gc.enable()
    assert (tasks[0].round.kind, tasks[0].round.state) == ("body", "closed")
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]

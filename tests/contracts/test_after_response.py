"""Contract T8: ``after_response`` callbacks run when the server closes the response, once."""

from __future__ import annotations

import io
import json
import logging
import sqlite3
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, Response, current_app, send_file, stream_with_context
from flasks import raises
from werkzeug.test import EnvironBuilder

from sidearm import Sidearm, after_commit, after_response, current_task
from sidearm.testing import GunicornServer, capture

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

APPS = Path(__file__).parents[1] / "apps"
SETTLED = ["claim thing", "commit thing", "release thing"]


class Broken(Exception):
    """What callbacks raise here."""


class Killed(BaseException):
    """No ``Exception``."""


@pytest.fixture
def thing(ledger: Any) -> Callable[[], Any]:
    resource: Callable[[], Any] = ledger.resource("thing")
    return resource


def open_response(app: Flask, path: str = "/") -> Any:
    """A response's body as the server gets it, which closes it when it likes."""
    return app.wsgi_app(EnvironBuilder(path).get_environ(), lambda *_: lambda _: None)


def test_t8_it_runs_when_the_server_closes_the_response(
    app: Flask, ledger: Any, thing: Any, serve: Any
) -> None:
    """After the resources were released and the body was sent, and not twice."""

    def view() -> str:
        thing()
        after_response(lambda: ledger.lines.append(f"late in {current_app.name}"))
        return "ok"

    serve(view)
    body = open_response(app)
    assert ledger.lines == SETTLED
    assert b"".join(body) == b"ok"
    assert ledger.lines == SETTLED
    body.close()
    assert ledger.lines == [*SETTLED, f"late in {app.name}"]
    body.close()
    assert ledger.lines == [*SETTLED, f"late in {app.name}"]


def test_t8_ss19_also_of_a_response_that_was_abandoned(app: Flask, ledger: Any, serve: Any) -> None:
    """The client left: what was committed is followed by what belongs to it."""

    def view() -> str:
        after_response(lambda: ledger.lines.append("late"))
        return "ok"

    serve(view)
    open_response(app).close()
    assert ledger.lines == ["late"]


def test_t8_it_has_a_task_of_its_own(app: Flask, ledger: Any, thing: Any, serve: Any) -> None:
    """What it claims is claimed anew and committed; each one by itself."""
    names: list[str] = []

    def late() -> None:
        thing()
        names.append(current_task.name)

    def failing() -> None:
        thing()
        raise Broken

    def view() -> str:
        thing()
        after_response(failing)
        after_response(late)
        return "ok"

    serve(view)
    with capture(app) as captured:
        app.test_client().get("/", buffered=True)
    undone = ["claim thing", "rollback thing", "release thing"]
    assert ledger.lines == SETTLED + undone + SETTLED
    assert [(name, type(exc)) for name, exc in captured.failed] == [
        (f"{__name__}.{failing.__qualname__}", Broken)
    ]
    assert names == [f"after_response({__name__}.{late.__qualname__})"]
    assert [record.task for record in captured.records][1:] == [
        f"after_response({__name__}.{failing.__qualname__})",
        *names,
    ]


def test_t8_one_that_raises_is_logged_with_its_place(
    app: Flask, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """One ERROR record names the function and where it was registered."""

    def failing() -> None:
        raise Broken

    def view() -> str:
        after_response(failing)
        return "ok"

    serve(view)
    app.test_client().get("/", buffered=True)
    (error,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert "failing" in error.getMessage()
    assert "test_after_response.py" in error.getMessage()
    assert error.exc_info is not None


def test_t8_a_base_exception_goes_on_when_all_have_run(app: Flask, ledger: Any, serve: Any) -> None:
    """A worker that is told to end does, and the other callbacks have had their turn."""

    def killed() -> None:
        raise Killed

    def view() -> str:
        after_response(killed)
        after_response(lambda: ledger.lines.append("late"))
        return "ok"

    serve(view)
    body = open_response(app)
    with pytest.raises(Killed):
        body.close()
    assert ledger.lines == ["late"]


@pytest.mark.parametrize("status", [409, 500])
def test_t8_nothing_runs_after_a_rollback(
    handled: Flask, ledger: Any, serve: Any, status: int
) -> None:
    """It belongs to what was committed, and here is nothing."""

    def view() -> tuple[str, int]:
        after_response(lambda: ledger.lines.append("late"))
        return "no", status

    serve(view)
    with capture(handled) as captured:
        handled.test_client().get("/", buffered=True)
    assert ledger.lines == []
    assert [call.partition("(")[0] for call, _ in captured.dropped] == ["after_response"]


def test_t8_nothing_runs_after_a_failed_commit(handled: Flask, ledger: Any, serve: Any) -> None:
    """The 500 page is closed too, and says nothing of what was not saved."""
    broken = ledger.resource("broken", commit=Broken())

    def view() -> str:
        broken()
        after_response(lambda: ledger.lines.append("late"))
        return "ok"

    serve(view)
    assert handled.test_client().get("/", buffered=True).status_code == 500
    assert "late" not in ledger.lines


def test_t8_a_callback_may_register_one(app: Flask, ledger: Any, serve: Any) -> None:
    """From a callback of the commit, and from one of the response itself."""

    def late() -> None:
        ledger.lines.append("late")
        after_response(lambda: ledger.lines.append("later"))

    def view() -> str:
        after_commit(lambda: after_response(late))
        return "ok"

    serve(view)
    app.test_client().get("/", buffered=True)
    assert ledger.lines == ["late", "later"]


@pytest.mark.parametrize("passthrough", [False, True])
def test_t8_from_a_streaming_body(app: Flask, ledger: Any, serve: Any, passthrough: bool) -> None:
    """Its round has committed when the server closes the response."""

    def view() -> Response:
        def body() -> Generator[bytes]:
            after_response(lambda: ledger.lines.append("late"))
            yield b"x"

        return Response(stream_with_context(body()), direct_passthrough=passthrough)

    serve(view)
    body = open_response(app)
    assert b"".join(body) == b"x"
    assert ledger.lines == []
    body.close()
    assert ledger.lines == ["late"]


def test_t8_with_a_file_that_the_server_sends(app: Flask, ledger: Any, serve: Any) -> None:
    """Werkzeug gives such a body to the server as it is; its end is seen all the same."""

    def view() -> Response:
        after_response(lambda: ledger.lines.append("late"))
        return send_file(io.BytesIO(b"file"), "text/plain")

    serve(view)
    response = app.test_client().get("/", buffered=True)
    assert response.data == b"file"
    assert ledger.lines == ["late"]


@pytest.mark.parametrize("kind", ["block", "context", "request by hand", "command"])
def test_t8_where_there_is_no_response_it_runs_after_the_release(
    app: Flask, arm: Sidearm, ledger: Any, thing: Any, kind: str
) -> None:
    """A block, a pushed context, a command: when the task has given everything back."""

    def work() -> None:
        thing()
        after_response(lambda: ledger.lines.append("late"))

    app.cli.command("work")(work)
    if kind == "block":
        with arm.task("work"):
            work()
    elif kind == "context":
        with app.app_context():
            work()
    elif kind == "request by hand":
        with app.test_request_context():
            work()
    else:
        assert app.test_cli_runner().invoke(args=["work"]).exit_code == 0
    assert ledger.lines == [*SETTLED, "late"]


def test_t8_outside_of_a_task_it_is_an_error(app: Flask) -> None:
    """As with ``after_commit``, and so is what cannot be called."""
    with pytest.raises(RuntimeError, match="after_response"):
        after_response(print)
    with app.app_context(), pytest.raises(TypeError, match="after_response"):
        after_response(42)  # type: ignore[type-var]


def test_t8_belongs_to_the_transaction_that_was_open(handled: Flask, make: Any, serve: Any) -> None:
    """Committed by hand it runs, although the request fails later; rolled back it does not."""
    store = make("flask-sqlalchemy", "explicit")
    ran: list[str] = []

    def view() -> tuple[str, int]:
        for name, end in (("kept", store.db.session.commit), ("lost", store.db.session.rollback)):
            store.write(name)
            after_response(lambda name=name: ran.append(name))  # type: ignore[misc]
            end()
        return "no", 500

    serve(view)
    handled.test_client().get("/", buffered=True)
    assert (ran, store.saved()) == (["kept"], ["kept"])


@pytest.mark.parametrize("worker_class", ["sync", "gthread"])
def test_t8_on_a_real_server_the_client_does_not_wait(tmp_path: Path, worker_class: str) -> None:
    """The response is whole at the client before the callback has begun, and then it runs."""
    with closing(sqlite3.connect(tmp_path / "notes.db")) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    env = {"NOTES": str(tmp_path / "notes.db")}
    with GunicornServer("bodies:app", cwd=APPS, env=env, worker_class=worker_class) as server:

        def ask(path: str) -> Any:
            with urllib.request.urlopen(server.url + path, None, 30) as response:
                return json.loads(response.read())

        # The callback waits for a file that is not there before the response was read.
        assert ask("/late") == "answered"
        Path(f"{env['NOTES']}.go").touch()
        server.wait_until(lambda: ask("/saved") == ["late"], 30, "the callback's row")


@pytest.mark.parametrize("kind", ["request", "request by hand", "command", "context", "block"])
def test_t8_it_runs_although_a_callback_ends_the_process(
    app: Flask, arm: Sidearm, ledger: Any, kind: str
) -> None:
    """What was committed is followed by what belongs to it; then the exception goes on."""

    def killed() -> None:
        raise Killed

    def work() -> str:
        after_commit(killed)
        after_response(lambda: ledger.lines.append("late"))
        return "ok"

    app.cli.command("work")(work)
    app.add_url_rule("/", view_func=work)
    with raises(Killed):
        if kind == "request":
            app.test_client().get("/", buffered=True)
        elif kind == "command":
            app.test_cli_runner().invoke(args=["work"])
        else:
            blocks = {"request by hand": app.test_request_context, "context": app.app_context}
            with blocks[kind]() if kind in blocks else arm.task("work"):
                work()
    assert ledger.lines == ["late"]

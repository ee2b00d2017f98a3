"""Contracts T1, T2 and T9: what a task is, when it claims, and that it settles exactly once."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
from flask import (
    Flask,
    Response,
    after_this_request,
    copy_current_request_context,
    current_app,
    flash,
    g,
    get_flashed_messages,
    has_request_context,
    render_template_string,
    request,
    session,
    stream_with_context,
    url_for,
)
from flasks import MERGED, before_3_2, call, raises
from werkzeug.test import EnvironBuilder

from sidearm import OutsideTask, Sidearm, TaskSettled, after_commit, current_task, publish

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path


class Broken(Exception):
    """What views raise here."""


def in_thread(function: Callable[[], Any]) -> Any:
    """The function's result, or its exception, from a new thread."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as exc:  # noqa: BLE001 - it is looked at
            results.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    return results[0]


@contextmanager
def raises_outside_task() -> Iterator[None]:
    with pytest.raises(RuntimeError, match="Working outside of a task"):
        yield


# -- T1: requests


def test_t1_each_request_is_a_task(app: Flask, ledger: Any, serve: Any) -> None:
    """Two requests are two tasks with a claim and a commit each."""
    thing = ledger.resource("thing")

    def view() -> str:
        thing()
        return "ok"

    serve(view)
    client = app.test_client()
    client.get("/"), client.get("/")
    assert ledger.lines == ["claim thing", "commit thing", "release thing"] * 2


def test_pt_14_current_task_is_there_in_a_view(app: Flask, serve: Any) -> None:
    """In a view ``current_task`` is the request's task, with the endpoint as its name."""

    def view() -> dict[str, Any]:
        return {"name": current_task.name, "kind": current_task.kind, "true": bool(current_task)}

    serve(view, endpoint="stock.show")
    app.add_url_rule("/two", "two", view)
    client = app.test_client()
    assert client.get("/").json == {"name": "stock.show", "kind": "request", "true": True}
    assert client.get("/two").json["name"] == "two"  # type: ignore[index]


@pytest.mark.parametrize("end", ["success", "doomed", "failed"])
def test_pt_15_current_task_is_gone_after_the_response(
    handled: Flask, serve: Any, end: str
) -> None:
    """After the response there is no task, however it ended."""

    def view() -> str:
        after_commit(lambda: None)
        if end == "doomed":
            current_task.doom()
        if end == "failed":
            raise Broken
        return "ok"

    serve(view)
    handled.test_client().get("/")
    assert not current_task
    with raises_outside_task():
        _ = current_task.name


@pytest.mark.parametrize("when", ["before", "after", "in the body"])
def test_pt_16_a_middleware_has_no_task(app: Flask, ledger: Any, serve: Any, when: str) -> None:
    """A resource that WSGI middleware touches outside the task raises, and nothing is claimed."""
    thing = ledger.resource("thing")
    serve(lambda: "ok", endpoint="view")
    inner = app.wsgi_app
    seen: list[str] = []

    def touch() -> None:
        with raises_outside_task():
            thing()
        seen.append(when)

    def middleware(environ: Any, start_response: Any) -> Any:
        if when == "before":
            touch()
        body = inner(environ, start_response)
        if when == "after":
            touch()

        def chunks() -> Iterator[bytes]:
            if when == "in the body":
                touch()
            try:
                yield from body
            finally:
                body.close()  # type: ignore[attr-defined]

        return chunks()

    app.wsgi_app = middleware  # type: ignore[method-assign]
    assert app.test_client().get("/").text == "ok"
    assert seen == [when]
    assert ledger.lines == []


def test_t1_a_request_under_a_pushed_context_has_its_own_task(
    app: Flask, ledger: Any, serve: Any
) -> None:
    """Also where Flask 3.1 lends it the app context that a fixture keeps pushed."""
    thing = ledger.resource("thing")

    def view() -> dict[str, str]:
        thing()
        return {"task": current_task.name}

    serve(view)
    with app.app_context():
        thing()
        client = app.test_client()
        assert client.get("/").json == {"task": "view"}
        assert client.get("/").json == {"task": "view"}
        assert ledger.lines == [
            "claim thing",
            *["claim thing", "commit thing", "release thing"] * 2,
        ]
        thing()
    assert ledger.lines[-2:] == ["commit thing", "release thing"]
    assert ledger.count("claim") == 3


@pytest.mark.parametrize("commit", ["task", "explicit"])
def test_c7_requests_under_a_fixtures_context_settle_their_own_work(
    handled: Flask, make: Any, serve: Any, commit: str
) -> None:
    """A fixture keeps a context with a row in it; a request fails, another does not."""
    store = make("flask-sqlalchemy", commit)
    db = store.db

    def good() -> str:
        store.write("of the good request")
        db.session.commit()
        return "ok"

    def bad() -> None:
        store.write("of the bad request")
        db.session.flush()
        raise Broken

    serve(good, "/good")
    serve(bad, "/bad")
    with handled.app_context():
        fixture = store.Note(text="of the fixture")
        db.session.add(fixture)
        db.session.commit()
        client = handled.test_client()
        assert client.get("/bad").status_code == 500
        assert store.saved() == ["of the fixture"]
        assert fixture.text == "of the fixture"
        assert client.get("/good").status_code == 200
        assert store.saved() == ["of the fixture", "of the good request"]
        assert fixture.text == "of the fixture"
        fixture.text = "changed by the fixture"
        db.session.commit()
    assert store.saved() == ["changed by the fixture", "of the good request"]
    assert store.out() == 0


@pytest.mark.parametrize("kind", ["generator", "sqlite3", "session"])
def test_c7_a_fixtures_uncommitted_row_survives_both(
    handled: Flask, make: Any, serve: Any, kind: str
) -> None:
    """The fixture's own uncommitted work is neither saved nor lost by the requests inside."""
    store = make(kind)
    other = make(kind)

    def good() -> str:
        other.write("good")
        return "ok"

    def bad() -> None:
        other.write("bad")
        raise Broken

    serve(good, "/good")
    serve(bad, "/bad")
    with handled.app_context():
        store.write("of the fixture")
        other.rows()
        client = handled.test_client()
        assert client.get("/bad").status_code == 500
        assert client.get("/good").status_code == 200
        assert (store.saved(), other.saved()) == ([], ["good"])
        assert store.rows() == ["of the fixture"]
    assert store.saved() == ["of the fixture"]
    assert (store.out(), other.out()) == (0, 0)


@pytest.mark.parametrize("commit", ["task", "explicit"])
@pytest.mark.parametrize("flushed", [False, True])
def test_c7_requests_that_use_no_database_leave_a_fixtures_row_alone(
    handled: Flask, make: Any, serve: Any, commit: str, flushed: bool
) -> None:
    """The fixture's row is uncommitted while a 500 and a 200 go by that have nothing to settle."""
    store = make("flask-sqlalchemy", commit)
    db = store.db

    def good() -> str:
        return "ok"

    def bad() -> None:
        raise Broken

    serve(good, "/good")
    serve(bad, "/bad")
    with handled.app_context():
        fixture = store.Note(text="of the fixture")
        db.session.add(fixture)
        if flushed:
            db.session.flush()
        client = handled.test_client()
        assert client.get("/bad").status_code == 500
        assert client.get("/good").status_code == 200
        assert store.saved() == []
        db.session.commit()
        assert (fixture.id, fixture.text) == (1, "of the fixture")
    assert store.saved() == ["of the fixture"]
    assert store.out() == 0


@before_3_2
@pytest.mark.parametrize("commit", ["task", "explicit"])
def test_c7_one_session_that_is_lent_has_one_transaction(
    handled: Flask, make: Any, serve: Any, commit: str
) -> None:
    """Flask-SQLAlchemy's session is lent with the context; the fixture's object outlives both."""
    store = make("flask-sqlalchemy", commit)
    db = store.db

    def good() -> str:
        store.write("good")
        if commit == "explicit":
            db.session.commit()
        return "ok"

    def bad() -> None:
        store.write("bad")
        raise Broken

    serve(good, "/good")
    serve(bad, "/bad")
    with handled.app_context():
        fixture = store.Note(text="of the fixture")
        db.session.add(fixture)
        client = handled.test_client()
        assert client.get("/bad").status_code == 500
        assert (store.saved(), fixture.text) == ([], "of the fixture")
        db.session.add(fixture)
        assert client.get("/good").status_code == 200
        assert sorted(store.saved()) == ["good", "of the fixture"]
        assert fixture.text == "of the fixture"
        fixture.text = "changed"
        db.session.commit()
    assert sorted(store.saved()) == ["changed", "good"]
    assert store.out() == 0


def test_t1_a_context_pushed_inside_a_request_belongs_to_its_task(
    app: Flask, ledger: Any, serve: Any
) -> None:
    """An app context of the same application, pushed in a view, shares the request's task."""
    thing = ledger.resource("thing")
    ran = []

    def view() -> str:
        with current_app.app_context():
            first = thing()
            after_commit(lambda: ran.append("callback"))
        assert ledger.lines == ["claim thing"]
        assert ran == []
        assert thing() is first
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]
    assert ran == ["callback"]


def test_t1_an_exception_in_a_context_inside_a_request_decides_nothing(
    app: Flask, ledger: Any, serve: Any
) -> None:
    """An exception that leaves only the inner context, and that the view catches, fails nothing."""
    thing = ledger.resource("thing")

    def view() -> str:
        try:
            with current_app.app_context():
                thing()
                raise Broken
        except Broken:
            return "caught"

    serve(view)
    assert app.test_client().get("/").text == "caught"
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]


def test_t1_a_context_of_another_application_is_a_task_of_its_own(ledger: Any) -> None:
    """Inside a request of one application, a context of another one settles by itself."""
    arm = ledger.arm
    one, two = Flask("one"), Flask("two")
    for app in (one, two):
        app.config["TESTING"] = True
        arm.init_app(app)
    thing = ledger.resource("thing")

    @one.get("/")
    def view() -> dict[str, str]:
        thing()
        with two.app_context():
            thing()
            ledger.lines.append("inner ends")
        assert ledger.lines[-2:] == ["commit thing", "release thing"]
        return {"task": current_task.name}

    assert one.test_client().get("/").json == {"task": "view"}
    assert ledger.lines == [
        *("claim thing", "claim thing", "inner ends"),
        *("commit thing", "release thing") * 2,
    ]
    assert len(one.extensions["sidearm"].records) == 1
    assert len(two.extensions["sidearm"].records) == 1


def test_t1_a_request_inside_a_request_is_its_own_task(
    handled: Flask, ledger: Any, serve: Any
) -> None:
    """A view that calls the application through a client does not share its task."""
    thing = ledger.resource("thing")

    def outer() -> str:
        thing()
        assert handled.test_client().get("/inner").status_code == 500
        return "ok"

    def inner() -> None:
        thing()
        raise Broken

    serve(outer, "/outer")
    serve(inner, "/inner")
    assert handled.test_client().get("/outer").text == "ok"
    assert ledger.lines == [
        *("claim thing", "claim thing", "rollback thing", "release thing"),
        *("commit thing", "release thing"),
    ]


def test_t1_two_extension_objects_know_nothing_of_each_other(tmp_path: Path) -> None:
    """Two applications with an extension each: neither sees what the other claimed or publishes."""
    arms, apps, lines = [], [], []
    for name in ("one", "two"):
        app = Flask(name)
        app.config["TESTING"] = True
        arm = Sidearm(app)

        def thing(name: str = name) -> Generator[str]:
            lines.append(f"claim {name}")
            yield name
            lines.append(f"release {name}")

        app.add_url_rule("/", "view", arm.resource(thing))
        arms.append(arm)
        apps.append(app)
    assert [app.test_client().get("/").text for app in apps] == ["one", "two"]
    with arms[1].task("work"):
        assert current_app.name == "two"
        publish("news", 1)
    assert lines == ["claim one", "release one", "claim two", "release two"]
    assert len(apps[0].extensions["sidearm"].records) == 1
    assert len(apps[1].extensions["sidearm"].records) == 2


def test_t1_init_app_twice_is_an_error(app: Flask, arm: Sidearm) -> None:
    """Installing a second time says so, naming the application."""
    with pytest.raises(RuntimeError, match="testapp"):
        arm.init_app(app)
    with pytest.raises(RuntimeError, match="testapp"):
        Sidearm(app)


def test_t1_sidearm_keeps_no_application_alive() -> None:
    """No cycle and no global list keeps an application alive (Flask's own suite asks for it)."""
    import weakref

    gc.disable()
    try:
        app = Flask("short-lived")
        app.config["TESTING"] = True
        Sidearm(app)
        reference = weakref.ref(app)
        del app
        assert reference() is None
    finally:
        gc.enable()


def test_t9_a_settled_task_is_freed_with_its_context() -> None:
    """A request leaves no cycle behind: neither tasks nor an application wait for the collector."""
    import weakref

    app = Flask("short-lived")
    app.config["TESTING"] = True
    Sidearm(app)
    tasks: list[Any] = []

    @app.get("/")
    def view() -> str:
        after_commit(lambda: None)
        tasks.append(weakref.ref(current_task._get_current_object()))  # type: ignore[attr-defined]
        return "ok"

    gc.collect()
    gc.disable()
    try:
        app.test_client().get("/")
        assert [reference() for reference in tasks] == [None]
    finally:
        gc.enable()


# -- T1: arm.task()


def test_t1_a_block_pushes_a_context_where_there_is_none(app: Flask, arm: Sidearm) -> None:
    """Outside of everything ``arm.task()`` gives an app context, and takes it away."""
    with arm.task("import") as task:
        assert current_app._get_current_object() is app  # type: ignore[attr-defined]
        assert not has_request_context()
        g.answer = 42
        assert task.name == current_task.name == "import"
    with pytest.raises(RuntimeError, match="outside of application context"):
        _ = g.answer
    assert not current_task


def test_t1_a_block_inside_a_request_has_its_own_resources_and_outcome(
    handled: Flask, arm: Sidearm, store: Any, serve: Any
) -> None:
    """Inner commits, outer fails; inner fails, outer commits."""

    def outer_fails() -> None:
        with arm.task("audit"):
            store.write("audit")
        assert store.saved() == ["audit"]
        store.write("order")
        raise Broken

    def inner_fails() -> str:
        with pytest.raises(Broken), arm.task("audit"):
            store.write("lost")
            raise Broken
        store.write("order")
        return "ok"

    serve(outer_fails, "/outer")
    serve(inner_fails, "/inner")
    client = handled.test_client()
    assert client.get("/outer").status_code == 500
    assert store.saved() == ["audit"]
    assert client.get("/inner").text == "ok"
    assert store.saved() == ["audit", "order"]
    assert store.out() == 0


def test_t1_a_block_inside_a_block_is_independent(arm: Sidearm, app: Flask, ledger: Any) -> None:
    """Blocks nest: each claims for itself, and the outer one goes on with what it had."""
    thing = ledger.resource("thing")
    with arm.task("outer"):
        outer = thing()
        with arm.task("inner") as task:
            assert thing() is not outer
            task.doom("inner only")
        assert thing() is outer
        assert current_task.name == "outer"
    assert ledger.lines == [
        *("claim thing", "claim thing", "rollback thing", "release thing"),
        *("commit thing", "release thing"),
    ]


def test_t1_a_block_inside_a_request_keeps_the_request(
    app: Flask, arm: Sidearm, serve: Any
) -> None:
    """Inside the block ``request`` and ``current_app`` are those of the view."""

    def view() -> dict[str, Any]:
        with arm.task("audit"):
            return {
                "path": request.path,
                "app": current_app.name,
                "task": current_task.name,
            }

    serve(view, "/order")
    assert app.test_client().get("/order").json == {
        "path": "/order",
        "app": app.name,
        "task": "audit",
    }


def test_t1_what_belongs_to_the_request_stays_its_own_in_a_block(
    app: Flask, arm: Sidearm, serve: Any
) -> None:
    """Session, flashes and ``after_this_request`` are the request's; ``g`` is the block's."""
    app.secret_key = "secret"

    def view() -> str:
        g.whose = "the request's"
        with arm.task("audit"):
            assert "whose" not in g
            session["user"] = 7
            flash("noted")
            after_this_request(lambda response: response.headers.add("X-Seen", "yes") or response)
            path_later = copy_current_request_context(lambda: request.path)
            page = render_template_string("{{ request.path }} {{ session.user }}")
            link = url_for("view")
        assert g.whose == "the request's"
        return f"{page} {link} {in_thread(path_later)} {get_flashed_messages()}"

    serve(view, "/order", endpoint="view")
    client = app.test_client()
    response = client.get("/order")
    assert response.text == "/order 7 /order /order ['noted']"
    assert response.headers["X-Seen"] == "yes"
    with client.session_transaction() as session_:
        assert session_["user"] == 7


def test_t6_a_body_made_in_a_block_streams_after_it(app: Flask, arm: Sidearm, serve: Any) -> None:
    """It holds the request's context open, and not the block's."""

    def view() -> Response:
        def body() -> Iterator[str]:
            yield request.path
            yield "!"

        with arm.task("audit"):
            response = Response(stream_with_context(body()))
        assert request.path == "/order"
        return response

    serve(view, "/order")
    client = app.test_client()
    for _ in range(2):
        assert client.get("/order").text == "/order!"


def test_t1_a_request_inside_a_block_is_its_own_task(
    app: Flask, arm: Sidearm, ledger: Any, serve: Any
) -> None:
    """A client's request inside ``with arm.task()`` does not become a part of the block."""
    thing = ledger.resource("thing")

    def view() -> dict[str, str]:
        thing()
        return {"task": current_task.name}

    serve(view)
    with arm.task("outer"):
        thing()
        assert app.test_client().get("/").json == {"task": "view"}
        assert current_task.name == "outer"
    assert ledger.lines == [
        *("claim thing", "claim thing", "commit thing", "release thing"),
        *("commit thing", "release thing"),
    ]


def test_t1_a_context_pushed_inside_a_block_belongs_to_it(
    app: Flask, arm: Sidearm, ledger: Any
) -> None:
    """An app context of the same application inside a block shares the block's task."""
    thing = ledger.resource("thing")
    with arm.task("import"):
        first = thing()
        with app.app_context():
            assert current_task.name == "import"
            assert thing() is first
        assert ledger.lines == ["claim thing"]
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]


def test_t1_a_block_is_used_once_and_needs_a_name(app: Flask, arm: Sidearm) -> None:
    """The same block can be entered again only when it has been left; each time anew."""
    names = []
    for _ in range(2):
        with arm.task("import") as task:
            names.append((task.name, task))
    assert names[0][0] == names[1][0] == "import"
    assert names[0][1] is not names[1][1]


def test_t1_a_block_without_a_known_application_is_an_error() -> None:
    """``arm.task()`` where no context tells which of several (or no) applications is meant."""
    arm = Sidearm()
    with pytest.raises(RuntimeError, match="no application"), arm.task("import"):
        pytest.fail("it ran")
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        app.config["TESTING"] = True
        arm.init_app(app)
    with pytest.raises(RuntimeError, match="2 applications"), arm.task("import"):
        pytest.fail("it ran")
    with apps[0].app_context(), arm.task("import"):
        assert current_app.name == "one"


def test_t1_a_context_pushed_and_popped_by_hand_is_a_task(app: Flask, store: Any) -> None:
    """As on the slide: ``ctx.push()``, work, ``ctx.pop()``; it commits at the end."""
    context = app.app_context()
    context.push()
    store.write("row")
    assert store.saved() == []
    context.pop()
    assert store.saved() == ["row"]
    assert store.out() == 0


@pytest.mark.parametrize("push", ["app_context", "test_request_context"])
def test_t4_a_context_whose_first_claim_is_made_while_handling_an_error(
    app: Flask, ledger: Any, push: str
) -> None:
    """What leaves the context fails it, although it was handled when the claim was made."""
    thing = ledger.resource("thing")
    with pytest.raises(Broken), getattr(app, push)():
        try:
            raise Broken
        except Broken:
            thing()
            raise
    assert ledger.lines == ["claim thing", "rollback thing", "release thing"]


def test_t1_a_context_inside_a_context_is_its_own_task(app: Flask, ledger: Any) -> None:
    """Where no request runs, each pushed context is a task."""
    thing = ledger.resource("thing")
    with app.app_context():
        thing()
        with pytest.raises(Broken), app.app_context():
            thing()
            raise Broken
        thing()
    assert ledger.lines == [
        *("claim thing", "claim thing", "rollback thing", "release thing"),
        *("commit thing", "release thing"),
    ]


# -- T1: threads and what carries a context along


def test_t1_a_new_thread_has_no_task(app: Flask, arm: Sidearm, ledger: Any, serve: Any) -> None:
    """A thread that a view starts cannot claim, register or publish, and can open a task."""
    thing = ledger.resource("thing")

    def in_background() -> list[str]:
        for use in (thing, lambda: after_commit(print), lambda: publish("a", 1)):
            with raises_outside_task():
                use()
        with arm.task("background"):
            thing()
        return ["done"]

    def view() -> Any:
        return in_thread(in_background)

    serve(view)
    assert app.test_client().get("/").json == ["done"]
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]


def test_t1_a_new_thread_inside_a_block_has_no_task(app: Flask, arm: Sidearm, ledger: Any) -> None:
    """The same inside ``arm.task()`` and a pushed context."""
    thing = ledger.resource("thing")
    with arm.task("import"):
        assert isinstance(in_thread(thing), OutsideTask)
    with app.app_context():
        assert isinstance(in_thread(thing), OutsideTask)
    assert ledger.lines == []


def test_t1_a_new_greenlet_has_no_task(app: Flask, arm: Sidearm, ledger: Any) -> None:
    """A greenlet starts with an empty context, so it has none either."""
    greenlet = pytest.importorskip("greenlet")
    thing = ledger.resource("thing")
    seen: list[BaseException] = []

    def run() -> None:
        try:
            thing()
        except OutsideTask as error:
            seen.append(error)

    with arm.task("import"):
        greenlet.greenlet(run).switch()
    assert len(seen) == 1
    assert ledger.lines == []


@pytest.mark.parametrize("kind", ["request", "block", "context"])
def test_t1_what_carries_the_context_along_shares_the_task(
    app: Flask, arm: Sidearm, ledger: Any, serve: Any, kind: str
) -> None:
    """``copy_context().run`` in a thread, and ``asyncio.to_thread``, share the task."""
    thing = ledger.resource("thing")
    ran = []

    def work() -> str:
        first = thing()
        carried = contextvars.copy_context()
        assert in_thread(lambda: carried.run(thing)) is first

        async def main() -> Any:
            return await asyncio.to_thread(thing)

        assert asyncio.run(main()) is first
        again = contextvars.copy_context()
        in_thread(lambda: again.run(after_commit, lambda: ran.append("callback")))
        return "ok"

    if kind == "request":
        serve(work)
        assert app.test_client().get("/").text == "ok"
    else:
        with arm.task("work") if kind == "block" else app.app_context():
            work()
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]
    assert ran == ["callback"]


def test_t2_threads_that_share_a_task_claim_once(app: Flask, arm: Sidearm) -> None:
    """Also when several of them ask for the same resource at the same moment."""
    claims = []
    gate = threading.Barrier(8)

    @arm.resource
    def thing() -> Generator[object]:
        claims.append(1)
        yield object()

    seen: list[object] = []

    def use() -> None:
        gate.wait(30)
        seen.append(thing())

    with arm.task("work"):
        carried = [contextvars.copy_context() for _ in range(8)]
        threads = [threading.Thread(target=each.run, args=(use,)) for each in carried]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert len(claims) == 1
    assert len(seen) == 8
    assert len(set(map(id, seen))) == 1


def test_t1_an_async_view_is_one_task(app: Flask, ledger: Any) -> None:
    """An async view, which runs in another thread, has the request's task, as its coroutines."""
    pytest.importorskip("asgiref")
    thing = ledger.resource("thing")

    @app.get("/")
    async def view() -> dict[str, Any]:
        first = thing()

        async def inner() -> bool:
            return thing() is first

        return {"same": all(await asyncio.gather(inner(), inner()))}

    assert app.test_client().get("/").json == {"same": True}
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]


def test_t1_an_async_view_that_raises_is_rolled_back(handled: Flask, ledger: Any) -> None:
    """And fails as any other."""
    pytest.importorskip("asgiref")
    thing = ledger.resource("thing")

    @handled.get("/")
    async def view() -> str:
        thing()
        raise Broken

    assert handled.test_client().get("/").status_code == 500
    assert ledger.lines == ["claim thing", "rollback thing", "release thing"]


def test_t1_many_threads_of_a_server_do_not_meet(app: Flask, serve: Any, make: Any) -> None:
    """Requests in several threads at once: each has its own claim, and all is saved."""
    store = make("generator")
    gate = threading.Barrier(4)
    seen: list[int] = []

    def view() -> str:
        gate.wait(30)
        connection = store.connection()
        seen.append(id(connection))
        gate.wait(30)
        assert store.connection() is connection
        return "ok"

    serve(view)
    threads = [threading.Thread(target=lambda: app.test_client().get("/")) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(set(seen)) == 4
    assert (store.pool.claims, store.out()) == (4, 0)


# -- T2: claiming


def test_t2_a_resource_is_claimed_on_first_use_and_once(
    app: Flask, ledger: Any, serve: Any
) -> None:
    """Nothing before the first use, one claim for all uses, the same value each time."""
    thing = ledger.resource("thing")

    def view() -> str:
        assert ledger.lines == []
        first = thing()
        assert ledger.lines == ["claim thing"]
        assert thing() is first
        return "ok"

    serve(view)
    assert app.test_client().get("/").text == "ok"
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]


def test_t2_an_unused_resource_is_not_claimed(app: Flask, ledger: Any, serve: Any) -> None:
    """A view that does not use it claims, commits and releases nothing."""
    ledger.resource("thing")
    serve(lambda: "ok", endpoint="view")
    app.test_client().get("/")
    assert ledger.lines == []


def test_t2_use_outside_of_a_task_says_how_to_get_one(app: Flask, store: Any) -> None:
    """``RuntimeError`` in Flask's own style: what happened, what was tried, how to solve it."""
    if type(store).__name__ == "FlaskSQLAlchemyStore":  # its scope is Flask-SQLAlchemy's own
        with pytest.raises(RuntimeError, match="application context"):
            store.db.session()
        return
    with pytest.raises(RuntimeError) as caught:
        store.connection()
    text = str(caught.value)
    assert text.startswith("Working outside of a task.\n\n")
    assert 'arm.task("' in text
    assert isinstance(caught.value, OutsideTask)
    assert store.out() == 0


def test_t2_the_error_names_the_resource(ledger: Any, app: Flask) -> None:
    """It names the call that was made."""
    thing = ledger.resource("get_database_connection")
    with pytest.raises(OutsideTask, match=r"get_database_connection\(\)") as caught:
        thing()
    assert caught.value.what == "get_database_connection()"
    assert ledger.lines == []


def test_t2_an_application_without_sidearm_says_so(ledger: Any) -> None:
    """A resource that is used in an application where Sidearm is not installed is an error."""
    thing = ledger.resource("thing")
    bare = Flask("bare")
    with bare.app_context(), pytest.raises(RuntimeError, match="bare") as caught:
        thing()
    assert "init_app" in str(caught.value)
    assert ledger.lines == []


def test_t2_a_claim_that_fails_is_an_ordinary_error(
    handled: Flask, arm: Sidearm, notes: Any, ledger: Any, serve: Any
) -> None:
    """What the claim raises leaves the view; what was claimed before rolls back; the next works."""
    working = []

    @arm.resource
    def flaky() -> Generator[str]:
        if not working:
            raise Broken("the pool is empty")
        yield "connection"

    def view() -> str:
        notes.write("row")
        return str(flaky())

    serve(view)
    client = handled.test_client()
    assert client.get("/").status_code == 500
    assert (notes.saved(), notes.out()) == ([], 0)
    working.append(True)
    assert client.get("/").text == "connection"
    assert (notes.saved(), notes.out()) == (["row"], 0)


def test_t2_a_claim_that_fails_can_be_tried_again_in_the_same_task(
    app: Flask, arm: Sidearm
) -> None:
    """A view that catches it may ask again."""
    attempts = []

    @arm.resource
    def flaky() -> Generator[str]:
        attempts.append(1)
        if len(attempts) == 1:
            raise Broken
        yield "connection"

    with arm.task("work"):
        with pytest.raises(Broken):
            flaky()
        assert flaky() == "connection"


def test_t2_a_resource_may_use_another(app: Flask, arm: Sidearm, ledger: Any) -> None:
    """A resource that is built on another one claims it; both settle in the order of claims."""
    base = ledger.resource("base")

    @arm.resource
    def built() -> Generator[Any]:
        base()
        ledger.lines.append("claim built")
        yield object()
        ledger.lines.append("release built")

    with arm.task("work"):
        built()
    assert ledger.lines == [
        *("claim base", "claim built"),
        *("commit base", "release built", "release base"),
    ]


def test_t2_a_value_may_be_anything(app: Flask, arm: Sidearm) -> None:
    """A value without ``commit()`` and ``rollback()`` is claimed and released; ``None`` too."""
    lines = []

    @arm.resource
    def nothing() -> Generator[None]:
        lines.append("claim")
        yield None
        lines.append("release")

    with arm.task("good"):
        assert nothing() is None
        assert nothing() is None
    with pytest.raises(Broken), arm.task("bad"):
        nothing()
        raise Broken
    assert lines == ["claim", "release"] * 2


def test_t2_the_generator_sees_no_exception_of_the_task(app: Flask, arm: Sidearm) -> None:
    """What comes after a plain ``yield`` runs at the release, also when the work failed."""
    lines = []

    @arm.resource
    def thing() -> Generator[str]:
        yield "value"
        lines.append("released")

    with pytest.raises(Broken), arm.task("bad"):
        thing()
        raise Broken
    assert lines == ["released"]


def test_t2_the_decorated_function_keeps_its_name(arm: Sidearm) -> None:
    """It is the same function to a reader and to the documentation."""

    @arm.resource
    def get_database_connection() -> Generator[str]:
        """Claim a connection."""
        yield "connection"

    assert get_database_connection.__name__ == "get_database_connection"
    assert get_database_connection.__doc__ == "Claim a connection."


def test_t2_what_is_no_resource_is_refused_where_it_is_declared(arm: Sidearm) -> None:
    """A plain function, and one with arguments, are refused with the cure."""

    def plain() -> str:
        return "connection"

    def with_argument(name: str) -> Generator[str]:
        yield name

    def generator() -> Generator[str]:
        yield "connection"

    with pytest.raises(TypeError, match=r"plain.*yield"):
        arm.resource(plain)  # type: ignore[type-var]
    with pytest.raises(TypeError, match=r"with_argument.*name"):
        arm.resource(with_argument)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'sometimes'"):
        arm.resource(commit="sometimes")(generator)  # type: ignore[arg-type, call-overload]
    with pytest.raises(TypeError, match="42"):
        arm.use(42)


def test_t2_a_generator_that_yields_never_or_twice_is_an_error(
    app: Flask, arm: Sidearm, caplog: pytest.LogCaptureFixture
) -> None:
    """No ``yield`` fails the use; a second one is reported at the release."""

    @arm.resource
    def never() -> Generator[str]:
        if not app.testing:
            yield "connection"

    @arm.resource
    def twice() -> Generator[str]:
        yield "one"
        yield "two"

    with pytest.raises(RuntimeError, match="never"), arm.task("work"):
        never()
    with arm.task("work"):
        twice()
    assert "twice" in caplog.text


# -- T9: each round settles and releases exactly once


def test_t9_a_client_block_settles_before_it_ends(app: Flask, ledger: Any, serve: Any) -> None:
    """``with client:`` keeps Flask's context; the task has settled, once, with the answer."""
    thing = ledger.resource("thing")

    def view() -> str:
        thing()
        return "ok"

    serve(view, "/one")
    expected = ["claim thing", "commit thing", "release thing"]
    with app.test_client() as client:
        client.get("/one")
        assert request.path == "/one"
        assert ledger.lines == expected
        client.get("/one")
        assert ledger.lines == expected * 2
    assert ledger.lines == expected * 2


@pytest.mark.parametrize("claims", [True, False])
def test_t9_in_a_client_block_a_claim_is_a_round_of_its_own(
    app: Flask, ledger: Any, serve: Any, claims: bool
) -> None:
    """In the block, under the preserved context, what a test claims is given back at its end."""
    thing = ledger.resource("thing")

    def view() -> str:
        if claims:
            thing()
        return "ok"

    serve(view)
    with app.test_client() as client:
        client.get("/")
        ledger.lines.clear()
        thing()
        assert ledger.lines == ["claim thing"]
        with pytest.raises(TaskSettled):
            current_task.doom()
    assert ledger.lines == ["claim thing", "commit thing", "release thing"]


def test_t9_a_failed_request_in_a_client_block_settles_once(
    handled: Flask, ledger: Any, serve: Any
) -> None:
    """The same for one that fails."""
    thing = ledger.resource("thing")

    def view() -> None:
        thing()
        raise Broken

    serve(view)
    with handled.test_client() as client:
        assert client.get("/").status_code == 500
    assert ledger.lines == ["claim thing", "rollback thing", "release thing"]


@pytest.fixture
def streaming(app: Flask, ledger: Any, serve: Any) -> Callable[..., None]:
    """Answer ``/`` with a streaming body under ``stream_with_context``, after a claim."""
    thing = ledger.resource("thing")
    ledger.thing = thing

    def streaming(chunk: Callable[[], str] = lambda: "chunk", *, claim: bool = True) -> None:
        def view() -> Response:
            if claim:
                thing()

            def body() -> Generator[str]:
                ledger.lines.append("body begins")
                yield chunk()
                yield chunk()
                ledger.lines.append("body ends")

            return Response(stream_with_context(body()))

        serve(view)

    return streaming


SETTLED = ["claim thing", "commit thing", "release thing"]


@pytest.mark.parametrize("block", [False, True])
def test_t9_stream_with_context_settles_once_before_the_body(
    app: Flask, ledger: Any, streaming: Any, block: bool
) -> None:
    """One commit and one release, before the first byte, although Flask may tear down twice."""
    streaming()
    client = app.test_client()
    if block:
        with client:
            assert client.get("/").text == "chunkchunk"
    else:
        assert client.get("/").text == "chunkchunk"
    assert ledger.lines == [*SETTLED, "body begins", "body ends"]
    assert len(app.extensions["sidearm"].records) == 1


def test_t9_two_streams_in_turn_never_share_a_connection(
    app: Flask, notes: Any, serve: Any
) -> None:
    """While one body streams, the pool's connection serves another request, and comes back once."""
    bodies: list[Any] = []

    def stream() -> Response:
        notes.write("stream")

        def body() -> Generator[str]:
            yield "one"
            yield "two"

        return Response(stream_with_context(body()))

    def other() -> str:
        notes.write("other")
        return "ok"

    serve(stream, "/stream")
    serve(other, "/other")
    for _ in range(3):
        bodies.append(app.test_client().get("/stream", buffered=False))
        iterator = iter(bodies[-1].response)
        next(iterator)
        app.test_client().get("/other")
        list(iterator)
        bodies[-1].close()
    assert notes.pool.claims == notes.pool.releases == 6
    assert len(notes.pool.free) == 1
    assert notes.saved() == ["stream", "other"] * 3


@pytest.mark.parametrize("read", [0, 1])
def test_t9_a_body_that_is_abandoned_settles_nothing_twice(
    app: Flask, ledger: Any, streaming: Any, read: int
) -> None:
    """A client that leaves before or in the middle of the body changes nothing: it was settled."""
    streaming()
    response = app.test_client().get("/", buffered=False)
    iterator = iter(response.response)
    for _ in range(read):
        next(iterator)
    response.close()
    assert [line for line in ledger.lines if "body" not in line] == SETTLED


def test_t9_a_body_that_is_never_closed_leaves_the_next_request_alone(
    app: Flask, ledger: Any, streaming: Any
) -> None:
    """A server that forgets ``close()``: the next request, in the same thread, settles as ever."""
    streaming()
    forgotten: Any = app.wsgi_app(EnvironBuilder("/").get_environ(), lambda *_: lambda _: None)
    app.test_client().get("/")
    assert [line for line in ledger.lines if "body" not in line] == SETTLED * 2
    forgotten.close()
    assert [line for line in ledger.lines if "body" not in line] == SETTLED * 2


@pytest.mark.skipif(
    version("flask") == "3.1.1" or MERGED,
    reason="It pushes the body's context in the thread of the view.",
)
@pytest.mark.parametrize("read", [True, False])
def test_t9_a_body_that_ends_in_another_thread_is_no_trouble(
    app: Flask, ledger: Any, streaming: Any, read: bool
) -> None:
    """A body that another thread reads, or only closes, finds its task settled."""
    streaming()
    # The test client would begin the body in this thread.
    body: Any = app.wsgi_app(EnvironBuilder("/").get_environ(), lambda *_: lambda _: None)

    def end() -> bytes:
        text = b"".join(body) if read else b""
        body.close()
        return text

    assert in_thread(end) == (b"chunkchunk" if read else b"")
    assert [line for line in ledger.lines if "body" not in line] == SETTLED


def test_t9_a_streamed_body_may_open_a_task(
    app: Flask, arm: Sidearm, ledger: Any, streaming: Any
) -> None:
    """``arm.task()`` in the body works: claimed, committed and released there."""

    def chunk() -> str:
        with arm.task("chunk"):
            ledger.thing()
        return "x"

    streaming(chunk)
    assert app.test_client().get("/").text == "xx"
    assert [line for line in ledger.lines if "body" not in line] == SETTLED * 3


def test_t9_a_body_without_context_cannot_claim(app: Flask, ledger: Any, serve: Any) -> None:
    """In a plain generator there is no context, no task: ``RuntimeError``, nothing claimed."""
    thing = ledger.resource("thing")

    def view() -> Response:
        def body() -> Generator[str]:
            with pytest.raises(RuntimeError):
                thing()
            yield "x"

        return Response(body())

    serve(view)
    assert app.test_client().get("/").text == "x"
    assert ledger.lines == []


def test_t9_a_body_that_raises_does_not_undo_the_commit(
    handled: Flask, ledger: Any, streaming: Any
) -> None:
    """What was settled stays settled when the body breaks later."""

    def chunk() -> str:
        raise Broken

    streaming(chunk)
    with pytest.raises(Broken):
        handled.test_client().get("/")
    assert [line for line in ledger.lines if "body" not in line] == SETTLED


@pytest.mark.parametrize("order", ["before Sidearm", "after Sidearm"])
@pytest.mark.parametrize("hook", ["teardown_request", "teardown_appcontext"])
def test_t9_anothers_failing_teardown_function_skips_nothing(
    arm: Sidearm, ledger: Any, order: str, hook: str
) -> None:
    """A teardown function of another extension that raises keeps no claim from its release."""
    app = Flask(__name__)
    app.config.update(TESTING=True)
    thing = ledger.resource("thing")

    def teardown(_: Any) -> None:
        raise Broken

    if order == "before Sidearm":
        getattr(app, hook)(teardown)
    arm.init_app(app)
    if order == "after Sidearm":
        getattr(app, hook)(teardown)

    @app.get("/")
    def view() -> str:
        thing()
        return "ok"

    with pytest.raises(Exception) as caught:  # Flask 3.2 wraps it in a group
        app.test_client().get("/")
    assert "Broken" in repr(caught.value)
    assert ledger.lines == SETTLED
    ledger.lines.clear()
    if hook == "teardown_appcontext":
        with pytest.raises(Exception), app.app_context():  # noqa: B017 - as above
            thing()
        assert ledger.count("claim") == ledger.count("release") == 1


def test_t9_a_late_claim_in_anothers_teardown_function_leaks_nothing(
    app: Flask, ledger: Any, serve: Any
) -> None:
    """A teardown function that uses a resource either works or is told; nothing stays claimed."""
    thing = ledger.resource("thing")
    outcome: list[str] = []

    @app.teardown_appcontext
    def teardown(_: Any) -> None:
        try:
            thing()
            outcome.append("worked")
        except RuntimeError:
            outcome.append("told")

    def view() -> str:
        thing()
        return "ok"

    serve(view)
    app.test_client().get("/")
    with app.app_context():
        pass
    assert len(outcome) == 2
    assert ledger.count("claim") == ledger.count("release")


def test_tx_11_a_settled_task_holds_nothing(app: Flask, arm: Sidearm) -> None:
    """After its end, good or bad, the task keeps no value of a resource and no callback alive."""
    import weakref

    class Thing:
        pass

    class Callback:
        def __call__(self) -> None:
            pass

    @arm.resource
    def thing() -> Generator[Thing]:
        yield Thing()

    tasks, references = [], []
    for doomed in (False, True):
        with arm.task("work") as task:
            references.append(weakref.ref(thing()))
            callback = Callback()
            references.append(weakref.ref(callback))
            after_commit(callback)
            del callback
            if doomed:
                task.doom()
        tasks.append(task)
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


def test_tx_05_a_claim_while_the_task_commits_is_never_left_open(
    app: Flask, arm: Sidearm, ledger: Any
) -> None:
    """A resource that is asked for in another one's commit is refused, or settled too."""
    late = ledger.resource("late")

    class Thing:
        def commit(self) -> None:
            late()

    @arm.resource
    def thing() -> Generator[Thing]:
        yield Thing()

    with pytest.raises(TaskSettled), arm.task("work"):
        thing()
    assert ledger.count("claim") == ledger.count("release") == 0


def test_t9_a_test_request_context_settles_when_it_ends(app: Flask, store: Any) -> None:
    """A request context that a test pushes, with and without dispatching, settles once."""
    app.add_url_rule("/", "view", lambda: store.write("dispatched") or "ok")
    with app.test_request_context("/"):
        store.write("by hand")
        assert call(app.full_dispatch_request).status_code == 200
    assert store.saved() in (["by hand", "dispatched"], ["by hand"], ["dispatched"])
    assert store.saved() == ["by hand", "dispatched"]
    assert store.out() == 0


def test_t9_preprocess_and_process_response_by_hand(app: Flask, ledger: Any) -> None:
    """``preprocess_request()`` in a test claims for the context; it settles when that ends."""
    thing = ledger.resource("thing")

    @app.before_request
    def before() -> None:
        thing()

    with app.test_request_context("/"):
        call(app.preprocess_request)
        assert ledger.lines == ["claim thing"]
    assert ledger.lines == SETTLED


def test_t9_teardown_by_name_and_after_a_callback_that_ends_the_process(
    app: Flask, ledger: Any
) -> None:
    """Flask's method takes its exception by name too; no teardown function is skipped."""
    torn_down: list[BaseException | None] = []
    app.teardown_request(torn_down.append)
    with app.test_request_context():
        call(app.do_teardown_request, exc=None)
    assert torn_down == [None, None]
    thing = ledger.resource("thing")

    def ends() -> None:
        raise SystemExit(9)

    with raises(SystemExit), app.test_request_context():
        thing()
        after_commit(ends)
    assert len(torn_down) == 3
    assert ledger.lines == SETTLED


@before_3_2
def test_c7_a_request_with_a_callback_leaves_a_fixtures_row_alone_too(
    handled: Flask, make: Any, serve: Any
) -> None:
    """It reads, which flushes the fixture's row, and commits nothing; nor does it undo anything."""
    store = make("flask-sqlalchemy", "explicit")
    ran: list[str] = []

    def view() -> str:
        after_commit(lambda: ran.append("ran"))
        return str(len(store.rows()))

    serve(view)
    with handled.app_context():
        store.db.session.add(store.Note(text="of the fixture"))
        assert handled.test_client().get("/").text == "1"
        store.db.session.commit()
    assert (ran, store.saved()) == (["ran"], ["of the fixture"])


def test_t9_the_first_claim_of_all_in_an_async_teardown_function(app: Flask, ledger: Any) -> None:
    """Asgiref runs it in a thread of its own; what it claims is settled and given back."""
    pytest.importorskip("asgiref")
    thing = ledger.resource("thing")

    @app.teardown_appcontext
    async def claim(_: Any) -> None:
        thing()

    app.add_url_rule("/", view_func=lambda: "ok")
    for turn in (1, 2):
        app.test_client().get("/")
        assert ledger.lines == SETTLED * turn

"""Contract T11: every round leaves one structured record."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, abort
from flask.sessions import SecureCookieSessionInterface

from sidearm import Sidearm, after_commit, after_rollback, current_task, publish
from sidearm.signals import round_settled

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


class Broken(Exception):
    """What views raise here."""


def records_of(app: Flask) -> list[Any]:
    return list(app.extensions["sidearm"].records)


@pytest.fixture
def only(handled: Flask) -> Callable[[], Any]:
    """The one record that there is."""

    def only() -> Any:
        (record,) = records_of(handled)
        return record

    return only


def test_t11_a_good_request_leaves_one_record(
    handled: Flask, notes: Any, ledger: Any, serve: Any, only: Any
) -> None:
    """What was claimed, the rule, what each resource did, what left, the times, and where."""
    other = ledger.resource("other")

    def send_mail() -> None:
        """Send nothing."""

    def view(number: int) -> str:
        notes.write("row")
        other()
        after_commit(send_mail)
        publish("orders", {"secret": "s3cret"})
        return "ok"

    serve(view, "/orders/<int:number>", methods=["POST"])
    before = time.time()
    handled.test_client().post("/orders/424242?token=s3cret", data={"password": "s3cret"})
    record = only()
    assert (record.task, record.kind, record.round) == ("view", "request", "work")
    assert (record.endpoint, record.url_rule, record.method) == (
        "view",
        "/orders/<int:number>",
        "POST",
    )
    assert (record.committed, record.status) == (True, 200)
    assert "200" in record.decided_by
    assert [(name, outcome) for name, outcome, _ in record.resources] == [
        ("get_connection", "committed"),
        ("other", "committed"),
    ]
    assert all(seconds >= 0 for _, _, seconds in record.resources)
    assert len(record.left) == 2
    assert "send_mail" in record.left[0]
    assert record.left[1] == "publish('orders')"
    assert record.dropped == record.errors == ()
    assert before - 1 <= record.started <= time.time()
    assert 0 <= record.seconds < 60


def test_t11_no_path_query_form_or_payload_is_in_a_record(
    handled: Flask, notes: Any, serve: Any, only: Any
) -> None:
    """Endpoint and rule, never a filled-in path, and no secret, in a good or a failed one."""

    def view(code: str) -> None:
        notes.write(code)
        publish("tokens", code)
        raise Broken(code)

    serve(view, "/activate/<code>")
    handled.test_client().get("/activate/s3cret?next=s3cret", headers={"Authorization": "s3cret"})
    text = json.dumps(only().as_dict()) + str(only()) + repr(only())
    assert "s3cret" not in text
    assert "/activate/<code>" in text


def test_t11_no_secret_of_an_errors_text_is_in_a_record(
    handled: Flask, ledger: Any, serve: Any, only: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor the values that a database quotes in its error of a failing commit or rollback."""
    caplog.set_level(logging.DEBUG, "sidearm")
    thing = ledger.resource("thing", commit=Broken("Key (email)=(ann@s3cret.example) exists"))

    def view() -> str:
        thing()
        return "ok"

    serve(view)
    handled.test_client().get("/")
    record = next(each for each in records_of(handled) if each.resources)
    assert "Broken" in str(record)
    assert "s3cret" not in json.dumps(record.as_dict()) + str(record)


def test_t11_a_failed_request_says_why_and_what_was_dropped(
    handled: Flask, notes: Any, serve: Any
) -> None:
    """The exception's type, the rollback, and what never left."""

    def view() -> None:
        notes.write("row")
        after_commit(print)
        publish("orders", 1)
        raise Broken

    serve(view)
    handled.test_client().get("/")
    record = records_of(handled)[0]
    assert not record.committed
    assert record.round == "work"
    assert "Broken" in record.decided_by
    assert record.status == 500
    assert [(name, outcome) for name, outcome, _ in record.resources] == [
        ("get_connection", "rolled back")
    ]
    assert record.left == ()
    assert [call for call, _ in record.dropped][1] == "publish('orders')"
    assert "print" in record.dropped[0][0]
    assert all(reason for _, reason in record.dropped)


def test_t11_a_handled_exception_has_the_status_that_was_sent(handled: Flask, serve: Any) -> None:
    """Rolled back because of the exception, answered with the handler's status: both are there."""

    @handled.errorhandler(Broken)
    def handler(_: Broken) -> Any:
        return "mended", 202

    def view() -> None:
        after_commit(lambda: None)
        raise Broken

    serve(view)
    handled.test_client().get("/")
    record = records_of(handled)[0]
    assert (record.committed, record.status) == (False, 202)
    assert "Broken" in record.decided_by


def test_t11_a_failing_commit_is_told(handled: Flask, ledger: Any, serve: Any) -> None:
    """Which resource committed, which failed and with what, which rolled back."""
    claims = [
        ledger.resource("first"),
        ledger.resource("second", commit=Broken()),
        ledger.resource("third"),
    ]

    def view() -> str:
        for claim in claims:
            claim()
        return "ok"

    serve(view)
    handled.test_client().get("/")
    record = records_of(handled)[0]
    assert not record.committed
    assert "second" in record.decided_by
    assert "commit" in record.decided_by
    outcomes = {name: outcome for name, outcome, _ in record.resources}
    assert outcomes["first"] == "committed"
    assert "failed" in outcomes["second"]
    assert "Broken" in outcomes["second"]
    assert outcomes["third"] == "rolled back"
    assert record.errors


@pytest.mark.parametrize("step", ["rollback", "release"])
def test_t11_a_failing_rollback_and_release_are_told(
    arm: Sidearm, app: Flask, ledger: Any, step: str
) -> None:
    """Each error of the settling is in the record, by its step."""
    thing = ledger.resource("thing", **{step: Broken()})
    with pytest.raises(Broken), arm.task("work") as task:
        thing()
        task.doom()
    (record,) = records_of(app)
    assert len(record.errors) == 1
    assert step in record.errors[0]
    assert "thing" in record.errors[0]
    assert "Broken" in record.errors[0]


def test_t11_an_explicit_resource_is_left_to_the_application(
    app: Flask, arm: Sidearm, make: Any
) -> None:
    """The record of a resource that the application commits does not claim that it committed."""
    store = make("sqlite3", "explicit")
    with arm.task("work"):
        store.write("row")
        store.commit()
    (record,) = records_of(app)
    ((_, outcome, _),) = record.resources
    assert outcome != "committed"
    assert "application" in outcome


def test_t11_every_kind_of_task_has_its_name_and_kind(
    app: Flask, arm: Sidearm, ledger: Any, serve: Any
) -> None:
    """Requests, blocks, pushed contexts and commands are told apart."""
    thing = ledger.resource("thing")

    def view() -> str:
        thing()
        return "ok"

    @app.cli.command("import-stock")
    def command() -> None:
        thing()

    serve(view)
    app.test_client().get("/")
    with arm.task("nightly"):
        thing()
    with app.app_context():
        thing()
    app.test_cli_runner().invoke(args=["import-stock"])
    kinds = [(each.kind, each.task) for each in records_of(app)]
    assert kinds[0] == ("request", "view")
    assert kinds[1] == ("task", "nightly")
    assert kinds[2][0] == "context"
    assert kinds[3] == ("command", "import-stock")
    assert [each.method for each in records_of(app)] == ["GET", None, None, None]


def test_t11_a_callbacks_round_has_a_record_of_its_own(
    app: Flask, arm: Sidearm, notes: Any
) -> None:
    """What a callback claimed or lost is told apart from its task's work."""

    def failing() -> None:
        notes.write("lost")
        raise Broken

    with arm.task("work"):
        notes.write("work")
        after_commit(lambda: notes.write("audit"))
        after_commit(failing)
    records = records_of(app)
    assert sorted(each.round for each in records) == ["callback", "callback", "work"]
    callbacks = [each for each in records if each.round == "callback"]
    assert sorted(each.committed for each in callbacks) == [False, True]
    (work,) = [each for each in records if each.round == "work"]
    assert work.committed


def test_t11_an_error_page_that_claims_has_a_record(handled: Flask, notes: Any, serve: Any) -> None:
    """What an error handler claimed is a round too, and rolled back."""

    @handled.errorhandler(Broken)
    def handler(_: Broken) -> str:
        return str(notes.rows())

    def view() -> None:
        notes.write("row")
        raise Broken

    serve(view)
    handled.test_client().get("/")
    work, page = records_of(handled)
    assert (work.round, page.round) == ("work", "error page")
    assert not page.committed
    assert len(page.resources) == 1


def test_t11_a_request_that_touched_nothing_has_its_record_too(handled: Flask, serve: Any) -> None:
    """A page that used no resource is a round too, and has a record."""
    serve(lambda: "ok", endpoint="view")
    handled.test_client().get("/")
    handled.test_client().get("/nowhere")
    good, missing = records_of(handled)
    assert (good.task, good.committed, good.status, good.resources) == ("view", True, 200, ())
    assert (missing.committed, missing.status) == (False, 404)
    assert (missing.endpoint, missing.url_rule) == (None, None)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda: ("x", 409), "409"),
        (lambda: abort(403), "403"),
        (lambda: 1 / 0, "ZeroDivisionError"),
        (lambda: current_task.doom("a rehearsal") or "ok", "a rehearsal"),
        (lambda: current_task.keep() or ("x", 500), "kept"),
        (lambda: "ok", "200"),
    ],
)
def test_t11_why_did_this_commit_has_an_answer(
    handled: Flask, notes: Any, serve: Any, end: Any, said: str
) -> None:
    """The record's rule tells the reader what decided."""

    def view() -> Any:
        notes.write("row")
        return end()

    serve(view)
    handled.test_client().get("/")
    assert said in records_of(handled)[0].decided_by


def test_pt_17_a_path_that_is_no_utf_8_is_recorded_by_its_rule(
    handled: Flask, notes: Any, serve: Any, only: Any
) -> None:
    """The task works; its record holds endpoint and rule."""

    def view(name: str) -> str:
        notes.write("row")
        return "ok"

    serve(view, "/file/<name>")
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/file/\xff\xfe"}
    assert handled.test_client().get("/file/x", environ_overrides=environ).status_code == 200
    assert (only().endpoint, only().url_rule) == ("view", "/file/<name>")
    assert notes.saved() == ["row"]
    json.dumps(only().as_dict()).encode()


def test_pt_18_other_than_ascii_letters_are_recorded_as_they_are(
    handled: Flask, arm: Sidearm, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Endpoint, rule and task name keep their letters, in the log line too."""
    caplog.set_level(logging.DEBUG, "sidearm")

    def view() -> str:
        after_commit(lambda: None)
        return "ok"

    serve(view, "/käse/<size>", endpoint="käse", defaults=None)
    handled.view_functions["käse"] = lambda size: view()
    handled.test_client().get("/käse/groß")
    with arm.task("Überweisung 送金"):
        pass
    request_record, block_record = records_of(handled)
    assert (request_record.endpoint, request_record.url_rule) == ("käse", "/käse/<size>")
    assert block_record.task == "Überweisung 送金"
    assert "/käse/<size>" in caplog.text
    assert "送金" in caplog.text


# -- where records go


def test_t11_records_are_kept_in_a_ring(tmp_path: Any) -> None:
    """``SIDEARM_RECORD_COUNT`` records are kept, the newest."""
    app = Flask(__name__)
    app.config.update(TESTING=True, SIDEARM_RECORD_COUNT=3)
    arm = Sidearm(app)
    for number in range(5):
        with arm.task(f"task {number}"):
            after_commit(lambda: None)
    work = [each.task for each in app.extensions["sidearm"].records]
    assert len(work) == 3
    assert work[-1] == "task 4"


def test_t11_the_signal_has_each_record_when_it_settles(app: Flask, arm: Sidearm) -> None:
    """``round_settled`` is sent by the application, once for each round, with its record."""
    seen: list[Any] = []

    def receive(sender: Any, record: Any, **_: Any) -> None:
        seen.append((sender, record))

    with round_settled.connected_to(receive), arm.task("work"):
        after_rollback(lambda: None)
    assert [(sender, record) for sender, record in seen] == [(app, records_of(app)[0])]


def test_t11_a_receiver_that_raises_breaks_no_response(
    handled: Flask, notes: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """After a complete commit nothing turns the response into an error, no receiver either (T3)."""

    def receive(_: Any, **__: Any) -> None:
        raise Broken("of the receiver")

    def view() -> str:
        notes.write("row")
        return "ok"

    serve(view)
    with round_settled.connected_to(receive, handled):
        response = handled.test_client().get("/")
    assert (response.status_code, response.text) == (200, "ok")
    assert (notes.saved(), notes.out()) == (["row"], 0)
    assert "of the receiver" in caplog.text


def test_t11_a_log_line_for_what_failed_or_dropped_something(
    handled: Flask, notes: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Good rounds log nothing at the usual level; one that failed with work to lose logs a line."""
    caplog.set_level(logging.INFO, "sidearm")

    def good() -> str:
        notes.write("row")
        after_commit(lambda: None)
        return "ok"

    def bad() -> None:
        notes.write("row")
        raise Broken

    def dropping() -> Any:
        publish("orders", 1)
        return "no", 409

    serve(good, "/good")
    serve(bad, "/bad")
    serve(dropping, "/dropping")
    client = handled.test_client()

    def lines_of(path: str) -> list[str]:
        caplog.clear()
        client.get(path)
        return [each.getMessage() for each in caplog.records if each.name.startswith("sidearm")]

    assert lines_of("/good") == []
    assert lines_of("/nowhere") == []
    (line,) = lines_of("/bad")
    assert "Broken" in line
    assert "/bad" in line
    (line,) = lines_of("/dropping")
    assert "publish('orders')" in line


def test_t11_the_level_asks_for_the_good_ones_too(
    handled: Flask, notes: Any, serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """At DEBUG each round has its line, with the record as data for structured logs."""
    caplog.set_level(logging.DEBUG, "sidearm")

    def view() -> str:
        notes.write("row")
        return "ok"

    serve(view)
    handled.test_client().get("/")
    (line,) = [each for each in caplog.records if each.name.startswith("sidearm")]
    assert re.search(r"commit", line.getMessage())
    assert "status 200" in line.getMessage()
    assert line.sidearm_record["task"] == "view"  # type: ignore[attr-defined]
    json.dumps(line.sidearm_record)  # type: ignore[attr-defined]


def test_t11_a_record_is_plain_json(handled: Flask, notes: Any, serve: Any, only: Any) -> None:
    """``as_dict()`` can be written as JSON, and has what the attributes have."""

    def view() -> str:
        notes.write("row")
        after_commit(lambda: None)
        return "ok"

    serve(view)
    handled.test_client().get("/")
    data = json.loads(json.dumps(only().as_dict()))
    assert data["task"] == only().task
    assert data["committed"] is True
    assert data["resources"][0]["name"] == "get_connection"
    assert data["left"] == list(only().left)


def test_t11_a_task_that_fails_in_a_body_has_no_second_record(
    app: Flask, serve: Any, ledger: Any
) -> None:
    """``stream_with_context`` makes no second record of a round that settled once."""
    from flask import Response, stream_with_context

    thing = ledger.resource("thing")

    def view() -> Response:
        thing()

        def body() -> Generator[str]:
            yield "x"

        return Response(stream_with_context(body()))

    serve(view)
    with app.test_client() as client:
        client.get("/")
    assert len(records_of(app)) == 1


@pytest.mark.parametrize("by_hand", [False, True])
def test_t11_a_task_that_began_to_open_the_session_has_its_endpoint(
    handled: Flask, ledger: Any, serve: Any, by_hand: bool
) -> None:
    """Sessions are opened before the request is routed; the record knows the rule all the same."""
    thing = ledger.resource("thing")

    class Interface(SecureCookieSessionInterface):
        def open_session(self, app: Any, request: Any) -> Any:
            thing()
            return super().open_session(app, request)

    def good() -> str:
        return "ok"

    def bad() -> None:
        raise Broken

    handled.session_interface = Interface()
    serve(good, "/good")
    serve(bad, "/bad")
    for path in ("/good", "/bad"):
        if by_hand:
            with handled.test_request_context(path):
                pass
        else:
            handled.test_client().get(path)
    names = [each.task for each in records_of(handled) if each.round == "work"]
    assert names == ["good", "bad"]

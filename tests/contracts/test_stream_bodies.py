"""Bodies that a worker streams, and settings of streams: what others got wrong before us."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from flask import Flask, Response, stream_with_context

from sidearm import EventStream, Sidearm, after_response, event_stream
from sidearm.exceptions import FieldTypeError, SettingError
from sidearm.hub.eventstream import Parser, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient


class Broken(Exception):
    """What bodies raise here."""


class Raised(NamedTuple):
    """What a client had got when the body raised, and what was raised."""

    sent: bytes
    error: BaseException


def read_until_error(app: Flask, error: type[Exception]) -> Raised:
    """Read a body that raises."""
    response = app.test_client().get("/", buffered=False)
    sent = b""
    try:
        with pytest.raises(error) as raised:
            for piece in response.response:
                sent += piece if isinstance(piece, bytes) else piece.encode()
    finally:
        response.close()
    return Raised(sent, raised.value)


@pytest.mark.parametrize("step", ["rollback", "release"])
def test_ss10_clean_up_that_fails_hides_no_error(
    handled: Flask, ledger: Any, serve: Any, caplog: pytest.LogCaptureFixture, step: str
) -> None:
    """The body's own error goes on, and tells of the other one; that is logged, once."""
    thing = ledger.resource("thing", **{step: OSError(f"the {step} failed")})

    def view() -> Response:
        def body() -> Iterator[str]:
            thing()
            yield "one"
            raise Broken

        return Response(stream_with_context(body()))

    serve(view)
    raised = read_until_error(handled, Broken)
    assert raised.sent == b"one"
    assert raised.error.__notes__ == [f"While rolling back, also: OSError: the {step} failed"]
    told = [record for record in caplog.records if f"the {step} failed" in str(record.exc_info)]
    assert len(told) == 1
    assert ledger.lines.count("release thing") == 1


def test_ss11_event_that_cannot_be_encoded_tears_no_other(
    handled: Flask, ledger: Any, serve: Any
) -> None:
    """Those before it were sent whole, of it not one byte, and what was claimed is given back."""
    thing = ledger.resource("thing")

    def view() -> Response:
        def body() -> Iterator[bytes]:
            thing()
            yield encode("one")
            yield encode({"two": object()})

        return Response(stream_with_context(body()), mimetype="text/event-stream")

    serve(view)
    assert read_until_error(handled, FieldTypeError).sent == encode("one")
    assert ledger.lines == ["claim thing", "rollback thing", "release thing"]


def test_ss22_what_waits_for_the_response_runs_after_head(app: Flask, client: FlaskClient) -> None:
    """HEAD on a stream has a response like any other."""
    ran: list[str] = []

    @app.get("/stream")
    def stream() -> EventStream:
        after_response(lambda: ran.append("after the response"))
        return event_stream("stock")

    response = client.head("/stream")
    assert response.status_code == 200
    response.close()
    assert ran == ["after the response"]


def test_ss18_what_waits_for_the_response_runs_when_a_polled_stream_has_ended(
    app: Flask, client: FlaskClient
) -> None:
    """Not before its last byte."""
    ran: list[str] = []

    @app.get("/stream")
    def stream() -> EventStream:
        after_response(lambda: ran.append("after the response"))
        return event_stream("stock", snapshot="all")

    response = client.get("/stream", buffered=False)
    body = b"".join(response.response)
    assert ran == []
    assert [event.data for event in Parser().feed(body)] == ["all"]
    response.close()
    assert ran == ["after the response"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SIDEARM_HEARTBEAT", -1),
        ("SIDEARM_HEARTBEAT", "15"),
        ("SIDEARM_HEARTBEAT", True),
        ("SIDEARM_HEARTBEAT", float("nan")),
        ("SIDEARM_HEARTBEAT", None),
    ],
)
def test_ss16_heartbeat_that_is_none_fails_at_start_by_its_name(key: str, value: object) -> None:
    """Not at the first stream."""
    _assert_refused(key, value)


@pytest.mark.parametrize("value", [0, -1, "1000", 1.5, True, None])
def test_ss31_buffer_without_a_bound_fails_at_start_by_its_name(value: object) -> None:
    """0 would have to mean none, or any: it is refused."""
    _assert_refused("SIDEARM_SUBSCRIBER_BUFFER", value)


def _assert_refused(key: str, value: object) -> None:
    app = Flask("wrong")
    app.config[key] = value
    with pytest.raises(SettingError, match=key) as refused:
        Sidearm(app)
    assert repr(value) in str(refused.value)

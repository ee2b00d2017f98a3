"""Contract T11: each round is a span of OpenTelemetry, where the application has a provider."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, abort
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from sidearm import Sidearm, after_commit, current_task, publish
from sidearm.tasks import tracing


class Provider:
    """The process's tracer provider, which OpenTelemetry lets nobody set twice."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.exporter = InMemorySpanExporter()

    def set(self, **options: Any) -> TracerProvider:
        provider = TracerProvider(shutdown_on_exit=False, **options)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self._monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
        return provider

    def spans(self) -> list[Any]:
        return list(self.exporter.get_finished_spans())


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Provider:
    return Provider(monkeypatch)


@pytest.fixture
def spans(provider: Provider) -> Any:
    """A provider is set; this gives the spans so far."""
    provider.set()
    return provider.spans


def send_mail() -> None:
    """Send nothing."""


@pytest.fixture
def get_connection(arm: Sidearm) -> Any:
    class Connection:
        def commit(self) -> None: ...
        def rollback(self) -> None: ...

    @arm.resource
    def get_connection() -> Iterator[Connection]:
        yield Connection()

    return get_connection


def test_t11_a_round_is_a_span_with_its_record(app: Flask, get_connection: Any, spans: Any) -> None:
    """Name, times and every field of the record, those of HTTP under their conventions' names."""

    @app.post("/buy/<int:item>")
    def buy(item: int) -> str:
        get_connection()
        publish("shop", {"item": item})
        after_commit(send_mail)
        return "bought"

    before = time.time_ns()
    app.test_client().post("/buy/7?token=s3cret")
    (span,) = spans()
    (record,) = app.extensions["sidearm"].records
    assert span.name == "task buy"
    assert span.instrumentation_scope.name == "sidearm"
    assert dict(span.attributes) == {
        "sidearm.task": "buy",
        "sidearm.kind": "request",
        "sidearm.round": "work",
        "sidearm.endpoint": "buy",
        "sidearm.committed": True,
        "sidearm.decided_by": "status 200",
        "sidearm.resources": ("get_connection: committed",),
        "sidearm.resource_seconds": (record.resources[0][2],),
        "sidearm.left": ("publish('shop')", record.left[1]),
        "http.route": "/buy/<int:item>",
        "http.request.method": "POST",
        "http.response.status_code": 200,
    }
    assert span.status.status_code is StatusCode.UNSET
    assert abs(span.start_time - record.started * 1e9) < 1e6
    assert abs(span.end_time - span.start_time - record.seconds * 1e9) < 1e6
    assert before - 1e9 < span.start_time <= span.end_time <= time.time_ns() + 1e9


def test_t11_a_failed_round_is_a_span_that_says_why(
    app: Flask, get_connection: Any, spans: Any
) -> None:
    """The rule that decided and what was dropped; an error's text, which may be secret, never."""
    app.config["PROPAGATE_EXCEPTIONS"] = False

    @app.get("/fail/<code>")
    def fail(code: str) -> None:
        get_connection()
        publish("tokens", code)
        raise ValueError(code)

    app.test_client().get("/fail/s3cret")
    (span,) = spans()
    assert span.attributes["sidearm.committed"] is False
    assert span.attributes["sidearm.dropped"] == ("publish('tokens'): exception ValueError",)
    assert (span.status.status_code, span.status.description) == (
        StatusCode.ERROR,
        "exception ValueError",
    )
    assert "s3cret" not in span.to_json()


@pytest.mark.parametrize(
    ("end", "is_error"),
    [
        (lambda: abort(404), False),
        (lambda: ("full", 409), False),
        (lambda: ("down", 503), True),
        (lambda: current_task.doom("a rehearsal") or "ok", True),
        (lambda: current_task.keep() or ("kept", 500), False),
    ],
    ids=["404", "409", "503", "doomed", "kept"],
)
def test_t11_a_request_that_was_refused_is_no_error(
    app: Flask, spans: Any, end: Any, is_error: bool
) -> None:
    """The span's status is an error where the server failed, as in OpenTelemetry's conventions."""
    app.add_url_rule("/", view_func=end)
    app.test_client().get("/")
    (span,) = spans()
    assert (span.status.status_code is StatusCode.ERROR) is is_error


def test_t11_a_failing_callback_makes_the_span_an_error(
    arm: Sidearm, app: Flask, spans: Any
) -> None:
    """The work is committed, and something went wrong all the same."""

    def failing() -> None:
        raise ValueError

    with arm.task("work"):
        after_commit(failing)
    (span,) = spans()
    assert span.attributes["sidearm.committed"] is True
    assert len(span.attributes["sidearm.errors"]) == 1
    assert span.status.status_code is StatusCode.ERROR


def test_t11_a_span_belongs_to_the_span_around_it(
    arm: Sidearm, app: Flask, provider: Provider
) -> None:
    """Its parent is current when the round settles: the request's, where Flask is instrumented."""
    tracer = provider.set().get_tracer("test")
    with tracer.start_as_current_span("GET /") as around, arm.task("work"):
        pass
    span, _ = provider.spans()
    assert span.parent.span_id == around.get_span_context().span_id


def test_t11_each_round_has_its_span(
    app: Flask, arm: Sidearm, get_connection: Any, spans: Any
) -> None:
    """A callback that claims is a round, told by the span's name."""
    with arm.task("nightly"):
        after_commit(get_connection)
    assert sorted(span.name for span in spans()) == ["callback nightly", "task nightly"]


def test_t11_a_span_that_is_not_sampled_costs_no_attributes(
    app: Flask, arm: Sidearm, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody records is not put together."""
    made: list[Any] = []
    monkeypatch.setattr(tracing, "attributes", lambda record: made.append(record) or {})
    provider.set(sampler=ALWAYS_OFF)
    with arm.task("work"):
        pass
    assert app.extensions["sidearm"].records.export is not None
    assert made == provider.spans() == []


def test_t11_an_exporter_that_raises_breaks_no_response(
    app: Flask, get_connection: Any, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    """After a complete commit nothing turns the response into an error (T3)."""

    class Broken(SimpleSpanProcessor):
        def on_end(self, span: Any) -> None:
            raise ValueError("of the processor")

    provider.set().add_span_processor(Broken(provider.exporter))

    @app.get("/")
    def view() -> str:
        get_connection()
        return "ok"

    assert app.test_client().get("/").text == "ok"
    assert "of the processor" in caplog.text


def test_t11_without_a_provider_there_is_no_tracer(
    app: Flask, arm: Sidearm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API alone costs a look now and then; a provider that comes later is found."""
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    records = app.extensions["sidearm"].records
    with arm.task("before"):
        pass
    assert records.export is None
    provider = Provider(monkeypatch)
    provider.set()
    records.look_again()  # as a second later
    with arm.task("after"):
        pass
    assert [span.name for span in provider.spans()] == ["task after"]


SCRIPT = """
import sys
from flask import Flask
from sidearm import Sidearm

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ImportError(f"{name} was asked for")

sys.meta_path.insert(0, Refuse())
app = Flask("app")
app.config["SIDEARM_HUB"] = "memory"
arm = Sidearm(app)
app.add_url_rule("/", view_func=lambda: "ok")
assert app.test_client().get("/").text == "ok"
with arm.task("work"):
    pass
assert len(app.extensions["sidearm"].records) == 2
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""


def test_t11_opentelemetry_is_never_asked_for(tmp_path: Path) -> None:
    """Where it is not installed, or not used, nothing tries to import it."""
    subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT], timeout=60, check=True)

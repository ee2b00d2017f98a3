"""Reading a test client's response: whole, up to a limit, and never for ever."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import pytest
from flask import Flask, Response

from sidearm.exceptions import NotAStream
from sidearm.testing import Event, read_events

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask.testing import FlaskClient

BLOCKED = 20.0  # seconds; a test that gets there has failed


@pytest.fixture
def closed() -> list[str]:
    """How each generator of the views below ended."""
    return []


@pytest.fixture
def client(closed: list[str]) -> FlaskClient:
    """An application whose views write their streams by hand."""
    app = Flask("plain")
    never = threading.Event()

    def stream(pieces: Iterator[bytes]) -> Response:
        def body() -> Iterator[bytes]:
            try:
                yield from pieces
            except BaseException as error:
                closed.append(type(error).__name__)
                raise
            closed.append("finished")

        return Response(body(), mimetype="text/event-stream")

    @app.get("/finite")
    def finite() -> Response:
        return stream(iter([b"id:1\nda", b"ta:a\n", b"\ndata:b\n\ndata:unfinished"]))

    @app.get("/endless")
    def endless() -> Response:
        return stream(b"data:%d\n\n" % number for number in iter(int, 1))

    @app.get("/blocked")
    def blocked() -> Response:
        def pieces() -> Iterator[bytes]:
            yield b"data:a\n\n"
            never.wait(BLOCKED)

        return stream(pieces())

    @app.get("/page")
    def page() -> str:
        return "a page"

    return app.test_client()


def test_a_stream_that_ends_is_read_whole(client: FlaskClient, closed: list[str]) -> None:
    """All events, and only whole ones; the response is closed."""
    assert read_events(client.get("/finite")) == [Event("a", id="1"), Event("b", id="1")]
    assert closed == ["finished"]


def test_a_limit_stops_a_stream_that_goes_on(client: FlaskClient, closed: list[str]) -> None:
    """So many events, then the generator is closed, as when a client leaves."""
    assert read_events(client.get("/endless"), limit=3) == [Event("0")] * 3
    assert closed == ["GeneratorExit"]


def test_a_generator_that_never_pauses_meets_the_deadline(client: FlaskClient) -> None:
    """The error says how many came and what to give."""
    with pytest.raises(TimeoutError, match=r"\d+ events came. Give limit="):
        read_events(client.get("/endless"), timeout=0.05)


def test_a_generator_that_waits_is_interrupted(client: FlaskClient, closed: list[str]) -> None:
    """It sees the error where it waits, so that its clean-up runs."""
    with pytest.raises(TimeoutError, match="1 events came"):
        read_events(client.get("/blocked"), timeout=0.1)
    assert closed == ["TimeoutError"]


def test_an_alarm_that_runs_goes_on_afterwards(client: FlaskClient) -> None:
    """pytest-timeout has one, whose time is not lengthened."""
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    handler = signal.getsignal(signal.SIGALRM)
    read_events(client.get("/finite"))
    assert signal.getsignal(signal.SIGALRM) is handler
    assert left * 0.5 < signal.getitimer(signal.ITIMER_REAL)[0] <= left


def test_another_thread_is_checked_between_pieces(client: FlaskClient) -> None:
    """Signals belong to the main thread; the deadline does not."""
    errors: list[BaseException] = []

    def read() -> None:
        try:
            read_events(client.get("/endless"), timeout=0.05)
        except TimeoutError as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    thread.join(BLOCKED)
    assert len(errors) == 1


def test_a_page_is_no_stream(client: FlaskClient) -> None:
    """The error shows what came instead."""
    with pytest.raises(NotAStream, match=r"The view answered with the type 'text/html.*a page"):
        read_events(client.get("/page"))
    with pytest.raises(NotAStream, match="status 404"):
        read_events(client.get("/nowhere"))

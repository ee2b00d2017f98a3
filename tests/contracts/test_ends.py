"""Contracts E7 and H8 as an application sees them, on the log in its own process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, abort, request

from sidearm import (
    EventStream,
    Sidearm,
    close_streams,
    close_streams_now,
    event_stream,
    publish,
    publish_now,
)
from sidearm.exceptions import InvalidChannel, OutsideTask, SettingError
from sidearm.hub.eventstream import Parser
from sidearm.testing import capture

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient
    from werkzeug.test import TestResponse


@pytest.fixture
def snapshots() -> list[str]:
    """A word for each snapshot that was made."""
    return []


@pytest.fixture
def app(app: Flask, snapshots: list[str]) -> Flask:
    @app.get("/jobs/<channel>")
    def job(channel: str) -> EventStream:
        return event_stream(channel, snapshot=lambda: snapshots.append(channel) or "running")

    @app.get("/streams/<channel>")
    def stream(channel: str) -> EventStream:
        return event_stream(channel, tags=request.args.getlist("tag"))

    @app.post("/logout/<tag>")
    def logout(tag: str) -> str:
        publish("news", "you are logged out")
        close_streams(tag)
        if "fail" in request.args:
            abort(409)
        return "logged out"

    return app


def event_one(channel: str) -> EventStream:
    return event_stream(channel)


class Browser:
    """An ``EventSource`` on the test client: it comes back until it is told to stop."""

    def __init__(self, client: FlaskClient, url: str) -> None:
        self.client, self.url = client, url
        self.id = ""
        self.stopped = False

    def connect(self) -> list[str]:
        """The data of one connection's events."""
        assert not self.stopped
        headers = {"Last-Event-ID": self.id} if self.id else {}
        response = self.client.get(self.url, headers=headers)
        if response.status_code == 204:
            self.stopped = True
            check_204(response)
            return []
        assert response.status_code == 200
        parser = Parser(self.id)
        events = parser.feed(response.data)
        self.id = parser.last_event_id
        return [event.data for event in events]


def check_204(response: TestResponse) -> None:
    assert response.data == b""
    assert response.headers["Cache-Control"] == "no-store, no-transform"
    assert "Content-Type" not in response.headers


def test_e7_client_stops_after_the_last_event(
    app: Flask, client: FlaskClient, snapshots: list[str]
) -> None:
    """One reconnection is answered 204, without asking the hub or making a snapshot."""
    browser = Browser(client, "/jobs/job:7")
    assert browser.connect() == ["running"]
    with app.app_context():
        publish("job:7", "half")
        publish("job:7", "done", event="done", end=True)
    assert browser.connect() == ["half", "done"]
    assert not browser.stopped
    browser.connect()
    assert browser.stopped
    assert len(snapshots) == 2  # the last answer made none


def test_e7_end_stays_an_end_whatever_becomes_of_the_hub(arm: Sidearm, client: FlaskClient) -> None:
    """The id says it, so another worker and a hub that was started anew say the same."""
    browser = Browser(client, "/streams/job:7")
    browser.connect()
    with client.application.app_context():
        publish_now("job:7", "done", end=True)
    assert browser.connect() == ["done"]

    another = Flask("another")
    another.testing = True
    arm.init_app(another)
    another.get("/streams/<channel>")(event_one)
    url = f"/streams/job:7?last_event_id={browser.id}"
    assert another.test_client().get(url).status_code == 204
    response = another.test_client().get(f"/streams/other?last_event_id={browser.id}")
    assert response.status_code == 200  # there it is the id of another log
    assert b"sidearm:gap" in response.data


def test_e7_header_wins_over_the_query(app: Flask, client: FlaskClient) -> None:
    """A page's old position in the URL does not bring an ended stream back."""
    start = Browser(client, "/streams/job:7")
    start.connect()
    with app.app_context():
        publish("job:7", "done", end=True)
    browser = Browser(client, f"/streams/job:7?last_event_id={start.id}")
    assert browser.connect() == ["done"]
    browser.connect()
    assert browser.stopped


def test_e7_end_is_held_like_its_event(app: Flask, client: FlaskClient) -> None:
    """What was rolled back has not ended."""
    browser = Browser(client, "/streams/job:7")
    browser.connect()
    with pytest.raises(ZeroDivisionError), app.app_context():
        publish("job:7", "done", end=True)
        _ = 1 / 0
    assert browser.connect() == []
    browser.connect()
    assert not browser.stopped


@pytest.mark.parametrize("call", [publish, publish_now])
def test_e7_live_only_event_cannot_be_the_last(app: Flask, call: Callable[..., None]) -> None:
    """Who comes back has to be told: the call fails, and nothing leaves."""
    with capture(app) as captured, app.app_context():
        with pytest.raises(ValueError, match="end=True and keep=False"):
            call("job:7", "done", end=True, keep=False)
        publish("job:7", "done", end=True)
    assert [(event.data, event.end) for event in captured.events] == [("done", True)]


def test_h8_streams_are_closed_after_the_commit(client: FlaskClient) -> None:
    """What was published before comes first; who has another tag goes on."""
    mine = Browser(client, "/streams/news?tag=user:7&tag=all")
    other = Browser(client, "/streams/news?tag=user:8&tag=all")
    for browser in (mine, other):
        browser.connect()
    client.post("/logout/user:7?fail=1")
    assert mine.connect() == other.connect() == []
    client.post("/logout/user:7")
    assert mine.connect() == ["you are logged out"]
    mine.connect()
    assert mine.stopped
    assert other.connect() == ["you are logged out"]
    other.connect()
    assert not other.stopped


def test_h8_dropped_closing_is_in_the_record(app: Flask, client: FlaskClient) -> None:
    """Who wonders why a user is still there finds the call and the reason."""
    with capture(app) as captured:
        client.post("/logout/user:7?fail=1")
        client.post("/logout/user:7")
    assert [call for call, _ in captured.dropped] == ["publish('news')", "close_streams('user:7')"]
    assert list(captured.records[-1].left) == ["publish('news')", "close_streams('user:7')"]


def test_h8_closing_now_does_not_wait(app: Flask, client: FlaskClient) -> None:
    """Whatever becomes of the work."""
    browser = Browser(client, "/streams/news?tag=user:7")
    browser.connect()
    with pytest.raises(ZeroDivisionError), app.app_context():
        close_streams_now("user:7")
        _ = 1 / 0
    browser.connect()
    browser.connect()
    assert browser.stopped


def test_h8_closing_needs_a_task() -> None:
    """It waits for a commit, so there must be one; the error names the other call."""
    with pytest.raises(OutsideTask, match="close_streams_now"):
        close_streams("user:7")


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        pytest.param(lambda: close_streams(""), InvalidChannel, "''", id="empty"),
        pytest.param(lambda: close_streams_now("a\nb"), InvalidChannel, "a", id="newline"),
        pytest.param(
            lambda: close_streams("u", channels="team"),
            ValueError,
            r"channels=\['team'\]",
            id="str",
        ),
        pytest.param(lambda: close_streams("u", channels=[""]), InvalidChannel, "''", id="channel"),
        pytest.param(
            lambda: event_stream("a", tags="user:7"), ValueError, r"tags=\['user:7'\]", id="tags"
        ),
        pytest.param(lambda: event_stream("a", tags=[7]), InvalidChannel, "7", id="tag"),  # type: ignore[list-item]
        pytest.param(lambda: event_stream("a", max_age=-1), ValueError, "max_age is -1", id="age"),
    ],
)
def test_h8_wrong_names_fail_where_they_are_given(
    app: Flask, call: Callable[[], Any], error: type[Exception], told: str
) -> None:
    """A text for a list would else close nothing, letter by letter."""
    with app.test_request_context(), pytest.raises(error, match=told):
        call()


@pytest.mark.parametrize(
    ("given", "setting", "told"),
    [(None, 3600.0, 3600.0), (None, 0, None), (60, 3600.0, 60), (0, 3600.0, None)],
)
def test_h8_maximum_age_is_the_streams_or_the_settings(
    given: float | None, setting: float, told: float | None
) -> None:
    """0 is never."""
    app = Flask("aged")
    app.config.update(TESTING=True, SIDEARM_STREAM_MAX_AGE=setting)
    Sidearm(app)
    with app.test_request_context():
        assert event_stream("a", max_age=given).subscription.max_age == told


@pytest.mark.parametrize(
    "settings",
    [
        {"SIDEARM_STREAM_MAX_AGE": -1},
        {"SIDEARM_MAX_STREAMS": -1},
        {"SIDEARM_MAX_STREAMS_PER_ADDRESS": "5"},
        {"SIDEARM_LIMIT_LOOPBACK": 1},
        {"SIDEARM_WAITING_BYTES": 0},
        {"SIDEARM_WAITING_BYTES": 1 << 20},
    ],
)
def test_h7_wrong_limit_fails_at_start_by_its_name(settings: dict[str, Any]) -> None:
    """Also one that contradicts another setting."""
    app = Flask("wrong")
    app.config.update(settings)
    with pytest.raises(SettingError, match=next(iter(settings))):
        Sidearm(app)

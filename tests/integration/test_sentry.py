"""T4 to T7 beside Sentry's own wrapping, on a real server: each outcome, and what it is told."""

from __future__ import annotations

import http.client
import json
import sqlite3
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sidearm.hub.client import ask_figures
from sidearm.testing import EventSource, UpServer

if TYPE_CHECKING:
    from collections.abc import Iterator

APPS = Path(__file__).parent.parent / "apps"


@dataclass
class Watched:
    """An application that Sentry watches, on a server."""

    server: UpServer
    path: Path

    def get(self, path: str) -> tuple[int, str]:
        """The status and text of an answer."""
        try:
            with urllib.request.urlopen(self.server.url + path, timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def seen(self) -> Any:
        """What Sentry was given since the last look, the newest record, and what is open."""
        return json.loads(self.get("/seen")[1])

    def take_rows(self) -> list[str]:
        """The rows that were saved, and are no more."""
        with closing(sqlite3.connect(self.path, timeout=30)) as connection, connection:
            return [text for (text,) in connection.execute("DELETE FROM notes RETURNING text")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """One worker, so that what a request leaves behind is there when the next one begins."""
    path = tmp_path_factory.mktemp("sentry") / "notes.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    with UpServer("watched:app", workers=1, cwd=APPS, env={"NOTES": str(path)}) as server:
        yield Watched(server, path)


@pytest.fixture
def watched(server: Watched) -> Watched:
    """The server, with nothing seen."""
    server.seen()
    server.take_rows()
    return server


@pytest.mark.parametrize(
    ("path", "answer", "rows", "rule", "errors"),
    [
        pytest.param("/good", (200, "good"), ["good"], "status 200", [], id="a success"),
        pytest.param(
            "/raises/broken",
            (500, None),
            [],
            "exception Broken",
            [["Broken", "flask", "raises"]],
            id="an exception that nobody handles",
        ),
        pytest.param(
            "/raises/known", (409, "known"), [], "exception Known", [], id="a handled exception"
        ),
        pytest.param(
            "/commit/broken",
            (500, None),
            [],
            "the commit of get_broken failed: Broken",
            [["Broken", "flask", "commit"]],
            id="a commit that fails",
        ),
        pytest.param(
            "/commit/known",
            (409, "known"),
            [],
            "the commit of get_known failed: Known",
            [],
            id="a commit that fails in a way that is handled",
        ),
        pytest.param(
            "/callback",
            (200, "good"),
            ["callback"],
            "status 200",
            [["Broken", "logging", "callback"]],
            id="a callback that fails",
        ),
    ],
)
def test_t4_sentry_is_told_once_of_what_nobody_handles(
    watched: Watched,
    path: str,
    answer: tuple[int, str | None],
    rows: list[str],
    rule: str,
    errors: list[list[str]],
) -> None:
    """With its endpoint; and the task has the outcome that it has without Sentry."""
    status, text = watched.get(path)
    assert (status, text if answer[1] else None) == answer
    seen = watched.seen()
    assert seen["errors"] == errors
    assert seen["requests"] == [path.split("/")[1]]
    assert seen["record"] == [["work", bool(rows), rule]]
    assert seen["open"] == 0
    assert watched.take_rows() == rows


def test_t6_a_body_streams_through_sentry_and_commits_at_its_end(watched: Watched) -> None:
    """Sentry hands on each piece from a generator of its own."""
    assert watched.get("/body/good") == (200, "piece")
    seen = watched.seen()
    assert seen["errors"] == []
    assert seen["record"] == [["body", True, "the body ended"]]
    assert seen["open"] == 0
    assert watched.take_rows() == ["body"]


def test_t6_a_body_that_raises_through_sentry_rolls_back(watched: Watched) -> None:
    """The client sees that it is not whole, and Sentry is told."""
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        watched.get("/body/broken")
    seen = watched.seen()
    assert [error[0] for error in seen["errors"]] == ["Broken"]
    assert seen["record"] == [["body", False, "exception Broken"]]
    assert seen["open"] == 0
    assert watched.take_rows() == []


def test_h1_a_stream_is_handed_over_through_sentry(watched: Watched) -> None:
    """The hub has it, and the only worker is free for the request that publishes."""
    socket_path = watched.server.socket_path
    with EventSource(f"{watched.server.url}/live") as source:
        watched.server.wait_until(
            lambda: ask_figures(socket_path, 30).subscribers == 1, what="the subscriber"
        )
        assert watched.get("/publish") == (200, "published")
        assert source.next_event().data == "news"

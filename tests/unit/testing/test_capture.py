"""What a test can see leave an application, and the pytest plugin that brings it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from sidearm import after_commit, after_rollback, publish, publish_now
from sidearm.testing import PublishedEvent, capture

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from sqlite3 import Connection

    from flask import Flask

    from sidearm import Sidearm
    from sidearm.testing import Captured


def send_mail() -> None:
    """A callback with a name."""


def fail() -> None:
    """A callback that raises."""
    raise LookupError("no such mail")


def test_events_are_seen_as_they_leave(app: Flask, arm: Sidearm) -> None:
    """Those of a task after its commit, in order; one that does not wait at once."""
    with capture(app) as captured, app.app_context(), arm.task("import"):
        publish("stock", {"id": 7}, event="sold")
        publish("log", "two\nlines", keep=False)
        publish_now("stock", 7)
        assert captured.events == [PublishedEvent("stock", "7")]
    assert captured.events[1:] == [
        PublishedEvent("stock", '{"id":7}', "sold"),
        PublishedEvent("log", "two\nlines", keep=False),
    ]
    assert [event.data for event in captured.on("stock")] == [7, {"id": 7}]
    assert captured.on("log")[0].data == "two\nlines"


def test_callbacks_are_seen_by_name(app: Flask, arm: Sidearm) -> None:
    """Those that ran, and those that raised with what they raised."""
    with capture(app) as captured, app.app_context(), arm.task("import"):
        after_commit(send_mail)
        after_commit(fail)
        after_rollback(send_mail)
    assert captured.callbacks == [f"{__name__}.send_mail"]
    [(name, error)] = captured.failed
    assert name == f"{__name__}.fail"
    assert isinstance(error, LookupError)


def test_what_a_rollback_drops_is_seen(
    app: Flask, arm: Sidearm, database: Callable[[], Connection]
) -> None:
    """Nothing left; each call is there with the reason, and the record says what failed."""

    def work() -> None:
        with arm.task("import"):
            database().execute("INSERT INTO notes VALUES ('lost')")
            publish("stock", 1)
            after_commit(send_mail)
            raise LookupError

    with capture(app) as captured, app.app_context(), pytest.raises(LookupError):
        work()
    assert (captured.events, captured.callbacks) == ([], [])
    assert [call for call, _ in captured.dropped] == [
        "publish('stock')",
        f"after_commit({__name__}.send_mail)",
    ]
    assert all("LookupError" in reason for _, reason in captured.dropped)
    assert [record.committed for record in captured.records if record.task == "import"] == [False]


def test_only_the_blocks_time_and_application_are_seen(app: Flask, arm: Sidearm) -> None:
    """Before and after the block nothing is kept."""
    with app.app_context():
        publish_now("stock", 1)
        with capture(app) as captured:
            publish_now("stock", 2)
        publish_now("stock", 3)
    assert [event.data for event in captured.events] == [2]


def test_the_fixture_is_the_function(
    sidearm_capture: Callable[[Flask], AbstractContextManager[Captured]], app: Flask
) -> None:
    """The plugin is there without an import."""
    with sidearm_capture(app) as captured, app.app_context():
        publish_now("stock", 1)
    assert len(captured.events) == 1


def test_the_plugin_is_cheap_to_load() -> None:
    """It is imported in every pytest run: nothing optional, no client and no server with it."""
    program = (
        "import sys, sidearm.testing.plugin\n"
        "print([name for name in ('sqlalchemy', 'aiosmtpd', 'gunicorn', 'pydantic',"
        " 'sidearm.testing.client', 'sidearm.testing.servers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"

"""The talk's chapter 4, rows 4a and 4b, with the Redis that is on the slides."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from needed import or_skip

from sidearm.testing import EventSource, FlaskRunServer, RedisServer, UpServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidearm.testing.servers import Server

redis = pytest.importorskip("redis", reason="pip install 'sidearm[redis]'")

APPS = Path(__file__).parents[1] / "apps"
SERVERS = {"up": UpServer, "flask run": FlaskRunServer}


@pytest.fixture(scope="module", autouse=True)
def broker() -> Iterator[RedisServer]:
    with or_skip(RedisServer) as server:
        yield server


@pytest.fixture(scope="module", params=list(SERVERS))
def server(request: pytest.FixtureRequest, broker: RedisServer) -> Iterator[Server]:
    env = {
        "TESTED_SIDEARM_BROKER": broker.url,
        "TESTED_SIDEARM_BROKER_BRIDGE": '["interesting-*"]',
    }
    with SERVERS[request.param]("interesting_redis:app", cwd=APPS, env=env) as server:
        # Under 'flask run' the first stream starts the hub.
        EventSource(f"{server.url}/streams/interesting", timeout=60).close()
        wait_for_ears(broker)
        yield server


def post(server: Server, path: str) -> str:
    """Ask as a browser does; returns the final address."""
    with urllib.request.urlopen(server.url + path, b"", 60) as response:
        address: str = response.geturl()
        return address


def wait_for_ears(broker: RedisServer) -> None:
    """Wait until the hub listens."""
    with redis.Redis.from_url(broker.url) as client:
        broker.wait_until(lambda: client.pubsub_numpat() > 0, 60, "a subscription")


def test_4b_literal_redis_publish_and_every_browser_hears(
    server: Server,
) -> None:
    """``redis.publish`` in a POST view, then the redirect; every stream hears it, without an id."""
    with ExitStack() as stack:
        sources = [
            stack.enter_context(EventSource(f"{server.url}/streams/interesting", timeout=60))
            for _ in range(3)
        ]
        post(server, "/create-for-good")
        assert {json.loads(source.next_event().data)["kind"] for source in sources} == {"kept"}
        before = [source.last_event_id for source in sources]
        assert post(server, "/create-something") == f"{server.url}/"
        for source in sources:
            assert json.loads(source.next_event().data) == {"event": "created", "kind": "something"}
        # What was only said has no place in the log.
        assert [source.last_event_id for source in sources] == before


def test_4b_literal_any_program_may_say_it(server: Server, broker: RedisServer) -> None:
    """Nothing of Sidearm is needed to be heard; whatever it says cannot end the event's frame."""
    program = (
        "import redis, sys; c = redis.Redis.from_url(sys.argv[1]);"
        "c.publish('interesting-channel', 'two\\nlines\\n\\nid: 7'); c.publish('other', 'unheard')"
    )
    with EventSource(f"{server.url}/streams/interesting", timeout=60) as source:
        post(server, "/create-for-good")
        source.next_event()
        subprocess.run([sys.executable, "-c", program, broker.url], check=True, timeout=60)
        event = source.next_event()
        assert event.data == "two\nlines\n\nid: 7"
        assert event.id != "7"

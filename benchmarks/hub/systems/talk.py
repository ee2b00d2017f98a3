"""The talk's pattern: gunicorn with gevent, and a connection to Redis's Pub/Sub for each client."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator

from sidearm.testing import RedisServer

from ..load import Handshake
from ..system import SSE_REQUEST, Gunicorn, Running, System, missing_package


class Talk(System):
    """The pattern; Redis's processor time and memory count, too."""

    name = "the talk's pattern (gevent, Redis)"
    is_slow = True
    limit = 500

    def missing(self) -> str | None:
        """Its packages, or Redis."""
        if shutil.which("redis-server") is None:
            return "redis-server ('scripts/setup dev' installs it)"
        return missing_package("gevent")

    @contextlib.contextmanager
    def run(self) -> Iterator[Running]:
        """Run it."""
        args = ["--worker-class", "gevent", "--worker-connections", "19000"]
        with RedisServer(args=["--maxclients", "19000"]) as redis:
            args += ["--env", f"BENCH_REDIS={redis.url}"]
            with Gunicorn("benchmarks.hub.apps.talk_app:app", *args) as server:
                yield Running(server, Handshake(SSE_REQUEST, b"\n\n"), redis)

"""sse-starlette on uvicorn with uvloop; a queue for each client."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

from sidearm.testing import Server

from ..load import Handshake
from ..system import PYTHON_ENV, ROOT, SSE_REQUEST, Running, System, missing_package, running


class SseStarlette(System):
    """sse-starlette."""

    name = "sse-starlette (uvicorn, uvloop)"
    is_slow = True
    limit = 1000

    def missing(self) -> str | None:
        """Its packages."""
        return missing_package("sse_starlette")

    def run(self) -> AbstractContextManager[Running]:
        """Run it."""
        command = [sys.executable, "-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}"]
        command += ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
        command += ["--log-level", "error", "benchmarks.hub.apps.starlette_app:app"]
        return running(Server(command, cwd=ROOT, env=PYTHON_ENV), Handshake(SSE_REQUEST))

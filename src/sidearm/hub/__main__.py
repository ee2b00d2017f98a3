"""``python -m sidearm.hub CONFIG``: the hub as a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys

from .. import logs
from ..exceptions import BrokerError, HubError
from .config import HubConfig
from .server import Server


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sidearm.hub")
    parser.add_argument("config", help="the configuration, as HubConfig.to_json() writes it")
    parser.add_argument(
        "--lifeline", type=int, metavar="FD", help="stop at the end of this inherited descriptor"
    )
    parser.add_argument(
        "--ready",
        type=int,
        metavar="FD",
        help="write '{\"hubs\": COUNT}' there when the socket is served, and later"
        " '{\"replace\": true}' when a new hub is wanted, or false in place of true when it"
        " cannot take over any more",
    )
    parser.add_argument(
        "--replace", action="store_true", help="take over from the hub that runs, if one does"
    )
    parser.add_argument("--log-level", default="WARNING", help="such as INFO; default: WARNING")
    parser.add_argument("--log-format", choices=logs.FORMATS, default="text")
    options = parser.parse_args(arguments)
    logs.begin("hub", options.log_format, level=options.log_level)
    for descriptor in (options.lifeline, options.ready):
        if descriptor is not None:
            os.set_inheritable(descriptor, False)

    def tell(line: bytes) -> None:
        if options.ready is not None:
            with contextlib.suppress(OSError):  # nobody listens any more
                os.write(options.ready, line)

    def want_successor(wanted: bool) -> None:  # noqa: FBT001
        tell(b'{"replace": true}\n' if wanted else b'{"replace": false}\n')

    try:
        config = HubConfig.from_json(options.config)
        server = Server(
            config,
            lifeline=options.lifeline,
            replace=options.replace,
            on_replace=None if options.ready is None else want_successor,
        )
        server.run(lambda: tell(b'{"hubs": %d}\n' % config.hubs))
    except (BrokerError, HubError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

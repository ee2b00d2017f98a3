"""Keeps a hub running for a launcher that starts the web workers itself.

``python -m sidearm.workers.keeper --lifeline FD --ready FD --app URI`` is what
:mod:`sidearm.gunicorn` starts. It is a process of its own because such a launcher reaps whatever
child ends, and has no moment at which it would look after one that is no worker.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence

from ..exceptions import StartError
from ..logs import speaker
from .hubs import HUB, name_of
from .lifeline import end_with_parent
from .processes import Child, Service, Supervisor


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until the launcher stops it or is gone; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m sidearm.workers.keeper")
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--ready", type=int, required=True)
    parser.add_argument("--app", required=True, metavar="URI", help="as gunicorn takes it")
    parser.add_argument(
        "--replace", action="store_true", help="take over from the hub that runs, if one does"
    )
    options = parser.parse_args(arguments)

    end_with_parent(options.lifeline)
    os.set_inheritable(options.lifeline, False)
    os.set_inheritable(options.ready, False)

    def tell(_children: Mapping[str, Child]) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(options.ready, b"{}\n")

    def service(number: int, count: int) -> Service:
        return Service(
            name=name_of(number, count),
            program=("-m", "sidearm.workers.own_hub"),
            arguments=(
                *("--app", options.app, "--number", str(number)),
                *(("--replace",) if options.replace else ()),
            ),
            succeeds=True,
        )

    def others(children: Mapping[str, Child]) -> Sequence[Service]:
        """The other hubs, if there are several: only the first knows the application's settings."""
        count = (children[HUB].ready or {}).get("hubs", 1)
        return [service(number, count) for number in range(len(children), count)]

    supervisor = Supervisor(
        (service(0, 1),),
        say=speaker("hub"),
        on_ready=tell,
        on_stop=lambda _failure: None,
        more=others,
    )
    try:
        supervisor.run()
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

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
from .lifeline import end_with_parent
from .processes import Child, Service, Supervisor

HUB = "The hub"


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

    service = Service(
        name=HUB,
        program=("-m", "sidearm.workers.own_hub"),
        arguments=("--app", options.app, *(("--replace",) if options.replace else ())),
        succeeds=True,
    )
    supervisor = Supervisor(
        (service,), say=speaker("hub"), on_ready=tell, on_stop=lambda _failure: None
    )
    try:
        supervisor.run()
    except StartError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

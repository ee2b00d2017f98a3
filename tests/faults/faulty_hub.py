"""``python faulty_hub.py CONFIG STEP:TIME:FAULT...``: a hub that takes over, and fails on the way.

A step is a function, such as ``log.Log.restore``, or ``piece``: the arrival of a piece of the
state. The time says at which of its calls, from 1 on; 0: at every one.
"""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

from sidearm.hub import takeover
from sidearm.hub.__main__ import main

if TYPE_CHECKING:
    from collections.abc import Callable


def fail() -> None:
    """Raise what nobody expects."""
    raise RuntimeError("the test wants it so")


FAULTS: dict[str, Callable[[], None]] = {
    "raise": fail,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "dawdle": lambda: time.sleep(0.2),
}


def patch(step: str, at: int, fault: Callable[[], None]) -> None:
    """Let something happen before one call of a function, or at one piece."""
    calls = itertools.count(1)

    def happen() -> None:
        if at in (0, next(calls)):
            fault()

    if step == "piece":
        collect = takeover.Successor.collect

        def slowly(successor: takeover.Successor) -> Any:
            return collect(successor, lambda _: happen())

        setattr(takeover.Successor, "collect", slowly)  # noqa: B010
        return
    module, kind, name = step.split(".")
    owner = getattr(importlib.import_module(f"sidearm.hub.{module}"), kind)
    is_bound = isinstance(owner.__dict__[name], classmethod)
    function = getattr(owner, name)

    def instead(*arguments: Any, **named: Any) -> Any:
        happen()
        return function(*arguments, **named)

    setattr(owner, name, staticmethod(instead) if is_bound else instead)


if __name__ == "__main__":
    for each in sys.argv[2:]:
        step, at, fault = each.split(":")
        patch(step, int(at), FAULTS[fault])
    sys.exit(main(["--replace", "--log-level", "INFO", sys.argv[1]]))

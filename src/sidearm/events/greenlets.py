"""What of gevent a stream has to know. It is looked at, and never imported before a server did."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any


def gevent_loop() -> Any:
    """The event loop of gevent that runs in this thread, or None."""
    # What gevent has not begun to run here, asking it for its hub would begin.
    hub_module = sys.modules.get("gevent._hub_local")
    hub = None if hub_module is None else hub_module.get_hub_if_exists()
    return None if hub is None else hub.loop


def forget(descriptor: int) -> None:
    """Have gevent's loop in this thread forget a connection that it has watched.

    Where the loop does not use epoll, closing a descriptor is enough, and nothing happens.
    """
    epoll = _original_epoll()
    if epoll is None:
        return
    loop = gevent_loop()
    number = -1 if loop is None else loop.fileno()
    if number is None or number < 0:
        return
    # Of a copy of the number, because it is closed with its object.
    with epoll.fromfd(os.dup(number)) as watched, contextlib.suppress(OSError):
        # An error: the loop uses another mechanism, or has not watched this one yet.
        watched.unregister(descriptor)


def _original_epoll() -> Any:
    """``select.epoll``, which gevent takes away from ``select`` when it patches."""
    from gevent.monkey import get_original

    try:
        return get_original("select", "epoll")
    except AttributeError:
        return None

"""What of gevent a stream has to know. It is not imported before a server did it.

A worker of gevent runs each request in a greenlet, and one loop beside them in the same thread. So
a stream can stay where it is, and wait, and the worker serves others meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, Protocol


class Waiter(Protocol):
    """Where one greenlet waits, and others, or the loop, wake it."""

    def wait(self, seconds: float | None) -> None:
        """Let others run until somebody wakes this one, or the time is over."""

    def wake(self) -> None:
        """Let it go on soon; it is no matter whether it waits."""


class Loop(Protocol):
    """The loop of the thread's greenlets."""

    @property
    def key(self) -> object:
        """The same object for the same loop."""

    def waiter(self) -> Waiter:
        """Make a place to wait."""
        ...

    def watch(self, descriptor: int, on_readable: Callable[[], None]) -> Callable[[], None]:
        """Call a function, from the loop, whenever a descriptor is readable.

        Returns:
            What ends that; to be called before the descriptor is closed.
        """
        ...


def running_loop() -> Loop | None:
    """The loop beside the greenlet that runs now; None where nothing else runs while this waits."""
    hub = _gevent_hub()
    if hub is not None:
        from gevent import getcurrent

        if getcurrent().parent is hub:
            return _GeventLoop(hub)
    return None


def gevent_loop() -> Any:
    """The event loop of gevent that runs in this thread, or None."""
    hub = _gevent_hub()
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


def _gevent_hub() -> Any:
    # What gevent has not begun to run here, asking it for its hub would begin.
    module = sys.modules.get("gevent._hub_local")
    return None if module is None else module.get_hub_if_exists()


def _original_epoll() -> Any:
    """``select.epoll``, which gevent takes away from ``select`` when it patches."""
    from gevent.monkey import get_original

    try:
        return get_original("select", "epoll")
    except AttributeError:
        return None


class _GeventLoop:
    def __init__(self, hub: Any) -> None:
        self.key = hub

    def waiter(self) -> Waiter:
        return _GeventWaiter()

    def watch(self, descriptor: int, on_readable: Callable[[], None]) -> Callable[[], None]:
        watcher = self.key.loop.io(descriptor, 1)  # READ
        watcher.start(on_readable)

        def stop() -> None:
            watcher.stop()
            watcher.close()

        return stop


class _GeventWaiter:
    __slots__ = ("_event",)

    def __init__(self) -> None:
        from gevent.event import Event

        self._event = Event()

    def wait(self, seconds: float | None) -> None:
        self._event.wait(seconds)
        self._event.clear()

    def wake(self) -> None:
        self._event.set()

"""The pytest plugin: fixtures for the tests of applications that use Sidearm.

It is loaded in every pytest run where Sidearm is installed, so it imports nothing but pytest until
a fixture is used.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask

    from .captured import Captured
    from .client import EventSource


@pytest.fixture
def sidearm_capture() -> Callable[[Flask], AbstractContextManager[Captured]]:
    """Give the function with which a test sees what leaves an application.

    ::

        with sidearm_capture(app) as captured:
            client.post("/buy/7")


    The same as :func:`sidearm.testing.capture`, without an import.
    """
    from .captured import capture

    return capture


@pytest.fixture
def event_source() -> Iterator[Callable[..., EventSource]]:
    """Open streams of a live server; each is closed at the test's end.

    The arguments are those of :class:`sidearm.testing.EventSource`::

        def test_stock(event_source):
            source = event_source(f"{server.url}/streams/stock")
    """
    from .client import EventSource

    with ExitStack() as sources:

        def open_source(url: str, **options: Any) -> EventSource:
            return sources.enter_context(EventSource(url, **options))

        yield open_source

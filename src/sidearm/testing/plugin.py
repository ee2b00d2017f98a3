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
    from .faults import Faults

#: The heading of a table of faults in pytest's own output.
FAULTS = "sidearm faults"


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


@pytest.fixture
def sidearm_faults(request: pytest.FixtureRequest) -> Faults:
    """Run a view again and again, failing it once at each of its steps.

    ::

        def test_a_purchase_survives(sidearm_faults, client):
            sidearm_faults.run(lambda: client.post("/buy/1"), reset=restore, check=invariant)


    The table of the runs is shown where the test fails, and with ``-v`` also where it passes.
    """
    from .faults import Faults

    item: pytest.Item = request.node
    return Faults(item.name, lambda table: item.add_report_section("call", FAULTS, str(table)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show the tables of tests that have passed, if details are wanted."""
    if terminalreporter.verbosity < 1:
        return
    for report in terminalreporter.getreports("passed"):
        for name, text in report.sections:
            if name == f"Captured {FAULTS} call":
                terminalreporter.section(f"{FAULTS}: {report.nodeid}", "-")
                terminalreporter.line(text)

"""For tests of applications: read streams strictly, see what left, run real servers.

The fixtures of :mod:`sidearm.testing.plugin` are there as soon as Sidearm is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..hub.eventstream import Event as Event
    from .captured import Captured as Captured
    from .captured import PublishedEvent as PublishedEvent
    from .captured import capture as capture
    from .client import EventSource as EventSource
    from .client import read_events as read_events
    from .faults import FaultReport as FaultReport
    from .faults import FaultRun as FaultRun
    from .faults import Faults as Faults
    from .servers import FlaskRunServer as FlaskRunServer
    from .servers import GunicornServer as GunicornServer
    from .servers import HubServer as HubServer
    from .servers import PostgresServer as PostgresServer
    from .servers import RedisServer as RedisServer
    from .servers import Server as Server
    from .servers import UpServer as UpServer
    from .servers import free_port as free_port
    from .smtp import SMTPServer as SMTPServer

# pytest imports this package for its plugin in every run, so names are loaded when they are used.
_HOMES = {
    "Captured": "captured",
    "Event": "client",
    "EventSource": "client",
    "FaultReport": "faults",
    "FaultRun": "faults",
    "Faults": "faults",
    "FlaskRunServer": "servers",
    "GunicornServer": "servers",
    "HubServer": "servers",
    "PostgresServer": "servers",
    "PublishedEvent": "captured",
    "RedisServer": "servers",
    "SMTPServer": "smtp",
    "Server": "servers",
    "UpServer": "servers",
    "capture": "captured",
    "free_port": "servers",
    "read_events": "client",
}

__all__ = sorted(_HOMES)  # noqa: PLE0605  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = import_module(f".{_HOMES[name]}", __name__)
    return getattr(home, name)


def __dir__() -> list[str]:
    return __all__

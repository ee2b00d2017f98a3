"""What the application itself knows of its deployment, where it is at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Flask

from ..workers.export.locations import location_of
from ..workers.topology import Topology, static_folder_of

if TYPE_CHECKING:
    from ..settings import Settings

#: Beyond two comments that should have come.
_MARGIN = 5.0  # seconds
QUIET = 75.0  # seconds; longer than the usual idle timeout


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of the application.

    Attributes:
        streams: Paths that stream, without what only a user can fill in.
        slashed: Paths that end with a slash.
        files: Paths of static files.
        ports: Where its pools listen.
        silence: Seconds for which a stream may be silent.
        max_age: Seconds after which it ends a stream itself.
    """

    streams: tuple[str, ...] = ()
    slashed: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    silence: float = QUIET
    max_age: float = 0


def known_of(app: Flask, topology: Topology, settings: Settings) -> Known:
    """Read off an application what there is to examine."""
    literal = [(route, location_of(route.source).path) for route in topology.routes]
    return Known(
        streams=tuple(path for route, path in literal if path and route.streams),
        slashed=tuple(path for _, path in literal if path and path.endswith("/") and path != "/"),
        files=tuple(_files(app, topology)),
        ports=tuple(pool.port for pool in topology.pools.values() if pool.port),
        silence=2 * settings.heartbeat + _MARGIN if settings.heartbeat else QUIET,
        max_age=settings.stream_max_age,
    )


def _files(app: Flask, topology: Topology) -> Iterator[str]:
    """One static file of each endpoint: a stylesheet or a script, which is worth compressing."""
    from pathlib import Path

    for route in topology.routes:
        folder = static_folder_of(app, route.endpoint)
        if folder is None or "<path:filename>" not in route.rule:
            continue
        found = next(
            (path for kind in ("css", "js") for path in sorted(Path(folder).glob(f"*.{kind}"))),
            None,
        )
        if found is not None:
            with app.test_request_context():
                yield app.url_for(route.endpoint, filename=found.name)

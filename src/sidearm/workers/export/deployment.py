"""What the exported files are made from: the application's facts and the operator's choices.

Everything that a front has to agree about with the application is read off the application: which
paths stream, how long a body may be, which forwarded headers it believes, where static files are.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask import Flask

from ...bodies.raw import limit_of
from ...exceptions import ExportError
from ..topology import Pool, Route, Topology
from .locations import Location, location_of, precedence_of
from .static_files import Rules, StaticFiles, rules_of, static_files

if TYPE_CHECKING:
    from ...assets.installation import Assets
    from ...settings import Settings

# A body up to twice the limit still reaches the application, so that its own 413 page answers.
BODY_MARGIN = 2
# Where SIDEARM_MAX_STREAMS is 0 the hub takes what its descriptors allow; a front needs a number.
UNLIMITED_STREAMS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What the command line chooses.

    Attributes:
        flask_app: As ``flask --app`` takes it; ``None``: as Flask finds it by itself.
        wsgi_app: As gunicorn takes it.
        prefix: The path under which browsers find the application; empty: at the root.
        server_name: The front's host name; empty: any.
        listen: The front's port.
        workers: Web workers, in each pool.
        directory: The application's working directory.
        run_dir: Where the hub's socket and, in the talk's layout, logs and process ids are.
        user: Who runs it; ``None``: whoever starts it.
        static: Whether the front serves static files.
        brotli: The module that lets nginx send Brotli copies; ``None``: it has none.
        certificate: The TLS certificate's file.
        certificate_key: Its key's.
        blocking_server: What runs the blocking pool of the talk's layout: gunicorn or uwsgi.
        redis_port: Redis's, in the talk's layout.
    """

    flask_app: str | None
    wsgi_app: str
    prefix: str = ""
    server_name: str = ""
    listen: int = 80
    workers: int = 4
    directory: str
    run_dir: str | None = None
    user: str | None = None
    static: bool = True
    brotli: str | None = None
    certificate: str | None = None
    certificate_key: str | None = None
    blocking_server: str = "gunicorn"
    redis_port: int = 6379


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A location of the front.

    Attributes:
        comment: The rules that it is for.
        location: What it matches.
        pool: Who answers.
        streams: Whether it streams.
        body_limit: Bytes that the front lets pass, where the view has a limit of its own.
    """

    comment: str
    location: Location
    pool: str
    streams: bool
    body_limit: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """How many proxies the application believes, as it told ``ProxyFix``; all 0 without one."""

    x_for: int = 0
    x_proto: int = 0
    x_host: int = 0
    x_port: int = 0
    x_prefix: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Everything that the templates are given.

    Attributes:
        topology: Endpoints and pools.
        choices: The operator's.
        served: Locations of their own: streams, and views with their own limit for bodies.
        static_files: What the front serves itself.
        static_rules: How the application answers for such files.
        body_limit: Bytes that the front lets pass; 0: any number.
        max_content_length: The application's own; ``None``: any number.
        trust: Which forwarded headers the application believes.
        heartbeat: Seconds between comments on a quiet stream; 0: none.
        streams: The most streams that the front prepares for.
        streams_per_address: The hub's limit; 0: none.
        socket: The hub's socket, where ``run_dir`` says; ``None``: its default.
    """

    topology: Topology
    choices: Choices
    served: tuple[Served, ...]
    static_files: tuple[StaticFiles, ...]
    static_rules: Rules
    body_limit: int
    max_content_length: int | None
    trust: Trust
    heartbeat: float
    streams: int
    streams_per_address: int
    socket: str | None

    @property
    def name(self) -> str:
        """The application's name, as units and services may be called."""
        return re.sub(r"[^a-zA-Z0-9_-]+", "-", self.topology.app_name).strip("-") or "app"

    @property
    def layout(self) -> str:
        """The topology's."""
        return self.topology.layout

    @property
    def blocking(self) -> Pool:
        """The pool that answers what does not stream."""
        return next(iter(self.topology.pools.values()))

    @property
    def streaming(self) -> Pool:
        """The pool that answers what streams."""
        return list(self.topology.pools.values())[-1]

    @property
    def streaming_locations(self) -> tuple[Location, ...]:
        """What the front has to match for streams."""
        return tuple(each.location for each in self.served if each.streams)

    @property
    def static_folders(self) -> tuple[str, ...]:
        """The folders that the front reads."""
        folders = (folder for each in self.static_files for folder in (each.folder, each.built))
        return tuple(dict.fromkeys(folder for folder in folders if folder))

    @property
    def read_timeout(self) -> int:
        """Seconds of silence after which the front gives a stream up."""
        return max(60, round(self.heartbeat * 4)) if self.heartbeat else 24 * 3600

    @property
    def connections(self) -> int:
        """Connections of the front: two for each stream, and what short requests need."""
        return 2 * self.streams + 2048

    @property
    def python(self) -> str:
        """The interpreter, whose environment has the application and Sidearm."""
        return sys.executable

    def remarks(self) -> Iterator[str]:
        """What an operator should know, because the files cannot mend it."""
        if not self.trust.x_for:
            yield (
                "The application does not use ProxyFix, so behind a front every client has the"
                " front's address and http is its scheme. Wrap it: app.wsgi_app ="
                " ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_prefix=1)."
            )
        elif self.trust.x_for > 1:
            yield (
                f"ProxyFix believes {self.trust.x_for} proxies (x_for), and this front adds to what"
                " the one before it says. A front that browsers reach directly needs x_for=1."
            )
        unknown = sorted({route.endpoint for route in self.topology.unknown()})
        if unknown:
            yield (
                f"Nobody knows whether these stream, so they are served as if they block:"
                f" {', '.join(unknown)}. Annotate their views."
            )
        if self.choices.static and self.static_rules.lacks_build:
            yield (
                "There is no build of the static files, so those with a hash are asked of the"
                ' application. Run "flask sidearm assets build" and export again: the front sends'
                " them then."
            )
        if self.max_content_length is None:
            yield "MAX_CONTENT_LENGTH is not set, so request bodies of any size are let through."


def describe(
    app: Flask,
    topology: Topology,
    choices: Choices,
    settings: Settings,
    socket_path: str,
    *,
    assets: Assets | None = None,
) -> Deployment:
    """Read what a deployment has to agree about with its application.

    Args:
        app: The application.
        topology: Of the same application.
        choices: The operator's.
        settings: Of the application.
        socket_path: The hub's, where no ``run_dir`` is chosen.
        assets: Its static files, where ``SIDEARM_ASSETS`` is set.

    Raises:
        ExportError: The application could not work so; the message says what to change.
    """
    trust = _trust_of(app)
    if choices.prefix and not trust.x_prefix:
        raise ExportError(
            f"The application would not know that it is under {choices.prefix!r}, and its links"
            " would leave it out. Let it believe the front: app.wsgi_app ="
            " ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_prefix=1), from"
            " werkzeug.middleware.proxy_fix."
        )
    limit = _number(app.config.get("MAX_CONTENT_LENGTH"))
    run_dir = choices.run_dir
    rules = rules_of(app, assets)
    files = static_files(app, topology, choices.prefix, assets, rules) if choices.static else ()
    return Deployment(
        topology=topology,
        choices=choices,
        served=tuple(_served(app, topology, choices.prefix)),
        static_files=tuple(files),
        static_rules=rules,
        body_limit=0 if limit is None else _with_margin(limit),
        max_content_length=limit,
        trust=trust,
        heartbeat=settings.heartbeat,
        streams=settings.max_streams or UNLIMITED_STREAMS,
        streams_per_address=settings.max_streams_per_address,
        socket=f"{run_dir}/hub.sock" if run_dir else settings.socket and socket_path,
    )


def prefix_of(text: str) -> str:
    """A path prefix as the rest of the room writes it: ``/shop``, or nothing for the root.

    Raises:
        ExportError: It is no path.
    """
    path = "/" + text.strip("/") if text.strip("/") else ""
    if not re.fullmatch(r"(?:/[A-Za-z0-9._~@:+-]+)*", path) or {".", ".."} & set(path.split("/")):
        raise ExportError(f"The path prefix is {text!r}. Give a path such as /shop.")
    return path


def server_name_of(text: str) -> str:
    """A front's host name as the files write it; nothing where any host is meant.

    Raises:
        ExportError: It is no host name (RFC 1123, 2.1) and no address.
    """
    bare = text.removeprefix("[").removesuffix("]")
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(bare)
        return f"[{address}]" if address.version == 6 else str(address)
    label = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
    if text and not re.fullmatch(rf"(?:\*\.)?{label}(?:\.{label})*", text):
        raise ExportError(
            f"The server name is {text!r}. Give one host name without scheme, port or path, such"
            " as shop.example (outside ASCII in its xn-- form)."
        )
    return text


def host_of(app: Flask, settings: Settings) -> str:
    """The host name that the application's settings name, or nothing."""
    if settings.origin:
        return urlsplit(settings.origin).hostname or ""
    server_name = app.config.get("SERVER_NAME")
    return urlsplit(f"//{server_name}").hostname or "" if server_name else ""


def _served(app: Flask, topology: Topology, prefix: str) -> Iterator[Served]:
    """Locations of their own, one for each path; several rules may share one.

    In Werkzeug's order, for a front takes the first regular expression that matches.
    """
    special: list[tuple[Route, Location, int | None]] = []
    others: list[tuple[Route, Location, int | None]] = []
    for route in topology.routes:
        view = app.view_functions.get(route.endpoint)
        limit = limit_of(view)
        entry = route, location_of(route.source, prefix), limit
        apart = route.streams or limit is not None or route.pool == "streaming"
        (special if apart else others).append(entry)
    # What a wider special location would take away needs one of its own, before that one.
    special += [entry for entry in others if _is_hidden(entry[0], entry[1], special)]
    groups: dict[str, list[Any]] = {}
    for route, location, limit in sorted(special, key=lambda entry: precedence_of(entry[0].source)):
        groups.setdefault(location.pattern, []).append((route, limit))
    limit_of_all = _number(app.config.get("MAX_CONTENT_LENGTH"))
    for group in groups.values():
        routes = [route for route, _ in group]
        limits = [limit for _, limit in group if limit is not None]
        most = max([*limits, limit_of_all or 0])
        yield Served(
            comment=", ".join(f"{','.join(r.methods)} {r.rule} ({r.endpoint})" for r in routes),
            location=location_of(routes[0].source, prefix),
            pool=routes[0].pool,
            streams=any(route.streams for route in routes),
            body_limit=_with_margin(most) if limits and limit_of_all is not None else None,
        )


def _is_hidden(
    route: Route, location: Location, special: list[tuple[Route, Location, int | None]]
) -> bool:
    """Whether a front would take a path of this rule for one of a special, wider rule."""
    if location.example is None:
        return False
    return any(
        re.search(wider.pattern, location.example)
        for other, wider, _ in special
        if precedence_of(route.source) < precedence_of(other.source)
    )


def _trust_of(app: Flask) -> Trust:
    """What ``ProxyFix`` was told, wherever it stands among the application's middleware."""
    from werkzeug.middleware.proxy_fix import ProxyFix

    layer: Any = app.wsgi_app
    for _ in range(50):  # a middleware may be wrapped in others, under one of these names
        if isinstance(layer, ProxyFix):
            return Trust(
                x_for=layer.x_for,
                x_proto=layer.x_proto,
                x_host=layer.x_host,
                x_port=layer.x_port,
                x_prefix=layer.x_prefix,
            )
        layer = next(
            (
                inner
                for name in ("app", "wsgi_app", "application", "_app")
                if callable(inner := getattr(layer, name, None)) and not isinstance(inner, Flask)
            ),
            None,
        )
        if layer is None:
            break
    return Trust()


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _with_margin(limit: int) -> int:
    return max(limit, 1) * BODY_MARGIN

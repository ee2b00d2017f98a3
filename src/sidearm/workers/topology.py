"""Which endpoints block and which stream, and who serves them: read off the URL map.

A view that streams says so by its annotation (``-> EventStream``), or was seen to by some worker.
Nothing is guessed: what neither tells is *unknown*, and counts as blocking until it is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

from flask import Blueprint, Flask

from ..events.declared import Declared, declared

if TYPE_CHECKING:
    from werkzeug.routing import Rule

Layout = Literal["sidearm", "talk"]


class Kind(Enum):
    """What an endpoint does to the worker that answers it."""

    STREAMS = "streams"
    BLOCKS = "blocks"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Processes that answer requests.

    Attributes:
        name: As tables and exported files name it.
        meaning: What it is, in a few words.
        port: Where it listens.
    """

    name: str
    meaning: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One rule of the URL map.

    Attributes:
        rule: As it was written, such as ``/streams/<channel>``.
        methods: Those of the view itself, without HEAD and OPTIONS.
        endpoint: Flask's name for it.
        kind: Whether it streams.
        known_by: Where that is known from.
        pool: The name of the pool that answers it.
        source: Werkzeug's own rule.
    """

    rule: str
    methods: tuple[str, ...]
    endpoint: str
    kind: Kind
    known_by: str
    pool: str
    source: Rule

    @property
    def streams(self) -> bool:
        """Whether it is known to stream, at least sometimes."""
        return self.kind is Kind.STREAMS

    def to_dict(self) -> dict[str, Any]:
        """The route as JSON has it."""
        return {
            "rule": self.rule,
            "methods": list(self.methods),
            "endpoint": self.endpoint,
            "kind": self.kind.value,
            "known_by": self.known_by,
            "pool": self.pool,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """An application's endpoints and the pools that serve them.

    Attributes:
        app_name: The application's.
        layout: ``"sidearm"``: one port, streams go on in the hub. ``"talk"``: two pools.
        pools: Every pool, by its name.
        routes: In the order of their rules.
    """

    app_name: str
    layout: Layout
    pools: Mapping[str, Pool]
    routes: tuple[Route, ...]

    def streaming(self) -> tuple[Route, ...]:
        """The routes that are known to stream."""
        return tuple(route for route in self.routes if route.streams)

    def unknown(self) -> tuple[Route, ...]:
        """The routes of which nobody can say whether they stream."""
        return tuple(route for route in self.routes if route.kind is Kind.UNKNOWN)

    def to_dict(self) -> dict[str, Any]:
        """The topology as JSON has it."""
        return {
            "app": self.app_name,
            "layout": self.layout,
            "pools": {
                pool.name: {"meaning": pool.meaning, "port": pool.port}
                for pool in self.pools.values()
            },
            "routes": [route.to_dict() for route in self.routes],
        }


def pools_of(layout: Layout, *, port: int = 8000, streams_port: int = 8001) -> dict[str, Pool]:
    """The pools of a layout, the one for what blocks first.

    Args:
        layout: Which one.
        port: Of the web workers.
        streams_port: Of the streaming pool; only the talk's layout has one.
    """
    if layout == "sidearm":
        web = Pool(name="web", meaning="blocking workers; the hub holds open streams", port=port)
        return {web.name: web}
    blocking = Pool(name="blocking", meaning="blocking workers", port=port)
    streaming = Pool(name="streaming", meaning="gevent workers", port=streams_port)
    return {blocking.name: blocking, streaming.name: streaming}


def read_topology(
    app: Flask, *, pools: Mapping[str, Pool], layout: Layout, seen: AbstractSet[str] = frozenset()
) -> Topology:
    """Read an application's URL map.

    Args:
        app: The application, with all its blueprints.
        pools: Of the layout, from :func:`pools_of`.
        layout: Which one.
        seen: Endpoints that were seen to stream.
    """
    judged = [(rule, *_judge(app, rule, seen)) for rule in _rules(app)]
    # A front chooses by the path, so what shares a path with a stream is served where it is.
    streaming = {rule.rule for rule, kind, _ in judged if kind is Kind.STREAMS}
    first, *others = pools
    routes = tuple(
        Route(
            rule=rule.rule,
            methods=_methods(rule),
            endpoint=rule.endpoint,
            kind=kind,
            known_by=known_by,
            pool=others[0] if others and rule.rule in streaming else first,
            source=rule,
        )
        for rule, kind, known_by in judged
    )
    return Topology(app_name=app.name, layout=layout, pools=pools, routes=routes)


def _rules(app: Flask) -> Iterator[Rule]:
    rules = [rule for rule in app.url_map.iter_rules() if not rule.build_only]
    yield from sorted(rules, key=lambda rule: (rule.rule, sorted(rule.methods or ())))


def _methods(rule: Rule) -> tuple[str, ...]:
    return tuple(sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})) or ("OPTIONS",)


_UNKNOWN = (Kind.UNKNOWN, "until it first streams")
_SAID = {
    Declared.STREAMS: (Kind.STREAMS, "annotation"),
    Declared.MAY_STREAM: (Kind.STREAMS, "annotation; not always"),
}


def _judge(app: Flask, rule: Rule, seen: AbstractSet[str]) -> tuple[Kind, str]:
    view = app.view_functions.get(rule.endpoint)
    if rule.redirect_to is not None or view is None:
        return Kind.BLOCKS, "it has no view"
    if static_folder_of(app, rule.endpoint) is not None:
        return Kind.BLOCKS, "static files"
    said = declared(view)
    if said in _SAID:
        return _SAID[said]
    if rule.endpoint in seen:
        return Kind.STREAMS, "seen by a worker"
    return (Kind.BLOCKS, "annotation") if said is Declared.BLOCKS else _UNKNOWN


def static_folder_of(app: Flask, endpoint: str) -> str | None:
    """The folder behind an endpoint that is Flask's own for static files.

    Args:
        app: The application.
        endpoint: Such as ``static`` or ``admin.static``.

    Returns:
        The folder, or ``None``: the endpoint is something else, or the application has a function
        of its own for it, which may check who asks.
    """
    owner: Any = app
    if endpoint != "static":
        name, _, last = endpoint.rpartition(".")
        owner = app.blueprints.get(name)
        if last != "static" or owner is None:
            return None
    theirs: Any = Blueprint if isinstance(owner, Blueprint) else Flask
    view = app.view_functions.get(endpoint)
    if view is None or any(
        getattr(type(owner), name) is not getattr(theirs, name)
        for name in ("send_static_file", "get_send_file_max_age")
    ):
        return None
    if not getattr(view, "__module__", "").startswith("flask."):
        return None
    return owner.static_folder if owner.has_static_folder else None

"""The extension object: ``init_app`` and the methods that declare. It wires the rooms."""

from __future__ import annotations

import atexit
import functools
import hashlib
import os
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar, overload

from flask import Flask

from .bodies.raw import watch_views
from .bodies.sources import sources_of
from .bodies.webhooks import check_view
from .brokers import HUB, open_broker
from .events import guard, stream_position
from .events.sightings import Sightings
from .exceptions import HubError
from .hub.client import HubClient
from .hub.config import HubConfig
from .hub.memory import MemoryHub
from .hub.publisher import Publisher
from .hub.server import Server
from .page import install as install_page
from .page import sidearm_js_url
from .redirects.leaving import check_redirects
from .resources import GeneratorResource
from .resources.cache import TaskCache
from .resources.pool import ConnectionPool, is_pool
from .responses import Representations
from .settings import Settings
from .signals import events_dropped
from .signing.converter import watch_rules
from .signing.keys import Signers, keys_of
from .signing.tokens import TokenKind
from .tasks import context, hooks
from .tasks.claims import CommitMode, Resource, check_mode
from .tasks.flask_contexts import current_request_context
from .tasks.outcome import OutcomeRule
from .tasks.reporting import Reporter
from .tasks.requests import snapshot_headers
from .tasks.state import TaskState
from .tasks.tracing import look_for_provider

T = TypeVar("T")
R = TypeVar("R", bound=OutcomeRule)

#: Where ``flask sidearm up`` tells its workers which socket its hub listens on.
SOCKET_VARIABLE = "SIDEARM_SOCKET"


class AppState(TaskState):
    """What Sidearm keeps for one application: ``app.extensions["sidearm"]``.

    Attributes:
        arm: The extension object.
        settings: The checked settings.
        socket_path: The Unix socket on which this application's hub is to be found.
        reporter: Lets the hub ask for this process's records.
        sightings: Which endpoints were seen to stream, for ``flask sidearm topology``.
    """

    def __init__(self, arm: Sidearm, app: Flask, settings: Settings) -> None:
        super().__init__(settings.fail_statuses, settings.record_count)
        self.arm = arm
        self.settings = settings
        self.joining = arm.joining
        self.rule = arm.rule
        self.socket_path = (
            os.environ.get(SOCKET_VARIABLE) or settings.socket or default_socket_path(app)
        )
        self.sightings = Sightings(self.socket_path)
        if settings.check_redirects != "off":
            refuse = settings.check_redirects == "raise"
            self.last_look = functools.partial(check_redirects, refuse=refuse)
        self.signers: dict[str, Signers] = {}
        self.told: set[str] = set()
        self.unchecked_rules: list[Any] = []
        self.confirm_template: Any = None
        self.webhooks = sources_of(settings.webhooks)
        self.delivery_ledgers: dict[Any, Any] = {}
        self.guard: Any = None  # an events.guard.FirstRequest, until the first request
        self.health: Any = None  # a workers.health.Health, where it answers
        self.assets: Any = None  # an assets.installation.Assets, where SIDEARM_ASSETS is set
        self._app = weakref.ref(app)
        self._hub: HubClient | MemoryHub | None = None
        self._dev_hub = DevelopmentHub()
        self._lock = threading.Lock()
        self.reporter = Reporter(self.records, app.name, self.socket_path)
        # Also when the process ends.
        weakref.finalize(app, self.reporter.close)
        self.records.watchers = (self._report, functools.partial(look_for_provider, self.records))

    @property
    def hub(self) -> HubClient | MemoryHub:
        """Where events go, and where streams live; made on its first use in each process."""
        hub = self._its_hub()
        if isinstance(hub, HubClient) and self.settings.hub == "auto" and _in_development():
            self._dev_hub.ensure(hub, self.hub_config(hubs=1))
        return hub

    def plain(self, value: Any) -> Any:
        """What an event carries of a value: text and bytes as they are, else its representation.

        Args:
            value: What was published.
        """
        if isinstance(value, (str, bytes, bytearray, memoryview)):
            return value
        return self.arm.representations.plain(value)

    def hub_config(self, socket_path: str | None = None, hubs: int | None = None) -> HubConfig:
        """What a hub for this application is told at its start; the first, if there are several.

        Args:
            socket_path: Another socket than the application's own.
            hubs: How many there are, in place of what the settings say.
        """
        settings = self.settings
        return HubConfig(
            socket=socket_path or self.socket_path,
            heartbeat=settings.heartbeat,
            peer_timeout=settings.peer_timeout,
            max_event_size=settings.max_event_size,
            subscriber_buffer=settings.subscriber_buffer,
            history_count=settings.history_count,
            history_age=settings.history_age,
            history_bytes=settings.history_bytes,
            waiting_bytes=settings.waiting_bytes,
            max_streams=settings.max_streams,
            max_streams_per_address=settings.max_streams_per_address,
            limit_loopback=settings.limit_loopback,
            metrics_port=settings.metrics_port,
            retry_spread=settings.retry_spread,
            reconnect_rate=settings.reconnect_rate,
            broker=settings.broker,
            broker_key=settings.broker_key,
            bridge=settings.broker_bridge,
            hubs=settings.hubs if hubs is None else hubs,
        )

    def _its_hub(self) -> HubClient | MemoryHub:
        hub = self._hub
        if hub is None:
            with self._lock:
                hub = self._hub = self._hub or self._make_hub()
        return hub

    def _make_hub(self) -> HubClient | MemoryHub:
        app = self._app()
        where = self.settings.hub
        if where == "memory" or (where == "auto" and app is not None and app.testing):
            return MemoryHub(self.hub_config(hubs=1))
        options: Any = {
            "pending_count": self.settings.pending_count,
            "pending_bytes": self.settings.pending_bytes,
            "pending_age": self.settings.pending_age,
            "on_drop": self._events_dropped,
        }
        config = self.hub_config()
        if config.broker == HUB:
            return HubClient(self.socket_path, **options)
        broker = open_broker(config.broker, config.broker_key, config.broker_limits())
        return HubClient(self.socket_path, publisher=Publisher(broker, **options))

    def _report(self) -> None:
        """Let the hub ask for this process's records, where one can be."""
        app, where = self._app(), self.settings.hub
        if app is None or not (self.settings.report_records and self.settings.record_count):
            return
        if where == "memory" or (where == "auto" and app.testing):
            return
        start_hub = None
        if where == "auto" and _in_development():
            hub = self._its_hub()
            if isinstance(hub, HubClient):
                start_hub = functools.partial(self._dev_hub.ensure, hub, self.hub_config(hubs=1))
        self.reporter.ensure(start_hub)

    def _events_dropped(self, count: int, reason: str) -> None:
        app = self._app()
        if app is not None:
            events_dropped.send(app, count=count, reason=reason)


class DevelopmentHub:
    """The hub that ``flask run`` starts by itself, in a thread of its own process."""

    def __init__(self) -> None:
        self._server: Server | None = None
        self._lock = threading.Lock()
        self._next_try = 0.0  # a reading of time.monotonic()

    def ensure(self, client: HubClient, config: HubConfig) -> None:
        """Start a hub if none answers on the socket.

        Args:
            client: Who asks for it.
            config: How to start one.
        """
        # Without a socket there is none, and a client that finds that out says so in the log.
        is_there = Path(config.socket).exists() and client.position() is not None
        if is_there or time.monotonic() < self._next_try:
            return
        with self._lock:
            if time.monotonic() < self._next_try:
                return
            self._next_try = time.monotonic() + 1.0  # seconds
            server = Server(config)
            try:
                server.start_in_thread()
            except HubError:
                if client.position() is None:  # else somebody else was faster
                    raise
                return
            self._server = server
            atexit.register(server.stop)


class Sidearm:
    """The production half of a Flask application.

    Args:
        app: The application, or call :meth:`init_app` later, for one or several.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self.representations = Representations()
        self.rule: OutcomeRule | None = None
        self.joining: list[Resource] = []
        self.resources: list[Resource] = []
        self.clients: list[Any] = []  # of caches whose writes wait, that can tell if they are well
        self.health_checks: list[Callable[[], Any]] = []
        self.token_kinds: dict[str, TokenKind[Any]] = {}
        self._apps: weakref.WeakSet[Flask] = weakref.WeakSet()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Install Sidearm on an application; reads its ``SIDEARM_*`` settings.

        Args:
            app: The application; its configuration has to be loaded.

        Raises:
            SettingError: A ``SIDEARM_*`` setting is wrong or unknown.
            SecretKeyError: A kind of token is declared, and ``SECRET_KEY`` is missing or too short.
            RuntimeError: Sidearm is installed on it already.
        """
        if "sidearm" in app.extensions:
            raise RuntimeError(
                f"The application {app.name!r} has Sidearm already. Call init_app once; one"
                " Sidearm object serves all rooms."
            )
        state = AppState(self, app, Settings.from_config(app.config))
        for kind in list(self.token_kinds.values())[:1]:
            keys_of(app, repr(kind))
        app.extensions["sidearm"] = state
        self._apps.add(app)
        hooks.install(app)
        watch_rules(app)
        watch_views(app, check_view)
        self.representations.install(app, snapshot_headers)
        install_page(app)
        guard.install(app)
        # Not a template global: that would make the Jinja environment before the application
        # has had the chance to set its options.
        app.context_processor(_template_context)
        if state.settings.assets is not None:
            state.assets = _install_assets(app, state.settings)
        if state.settings.health:
            from .workers.health import install

            install(app)

    @overload
    def resource(self, function: Callable[[], Generator[T]], /) -> Callable[[], T]: ...

    @overload
    def resource(
        self, function: None = None, /, *, commit: CommitMode = "task"
    ) -> Callable[[Callable[[], Generator[T]]], Callable[[], T]]: ...

    def resource(
        self,
        function: Callable[[], Generator[Any]] | None = None,
        /,
        *,
        commit: CommitMode = "task",
    ) -> Any:
        """Declare a resource by a generator function: claim, ``yield``, release. A decorator.

        The decorated function returns what was yielded, the same for the whole task; it is
        claimed on its first use. If it has ``commit()`` and ``rollback()``, they settle it.

        Args:
            function: The generator function, without arguments.
            commit: ``"task"``: committed when the task succeeds. ``"explicit"``: the application
                commits by hand.

        Returns:
            A function that gives the task's own value.

        Raises:
            TypeError: It is no generator function without arguments.
            ValueError: ``commit`` is neither.
        """
        if function is None:
            return functools.partial(self._declare, commit=commit)
        return self._declare(function, commit=commit)

    def _declare(self, function: Callable[[], Generator[T]], commit: CommitMode) -> Callable[[], T]:
        return functools.wraps(function)(self._accessor(GeneratorResource(function, commit)))

    def use(self, thing: Any, *, commit: CommitMode | None = None) -> Any:
        """Declare a resource that Sidearm knows how to settle.

        Args:
            thing: A Flask-SQLAlchemy object, a SQLAlchemy ``Engine``, ``sessionmaker`` or
                ``scoped_session``, a pool with ``getconn()`` and ``putconn()`` (psycopg's), a
                :class:`~sidearm.resources.sqlite.SQLite`, a cache of cachelib, or a client of
                redis-py.
            commit: Who commits; by default ``"explicit"`` for Flask-SQLAlchemy, whose users
                commit by hand, and ``"task"`` for all others.

        Returns:
            A function that gives the task's own session or connection; for Flask-SQLAlchemy and a
            ``scoped_session`` the thing itself, which is used as before; for a cache a
            :class:`~sidearm.resources.cache.TaskCache`, for Redis a
            :class:`~sidearm.resources.redis.TaskRedis`.

        Raises:
            TypeError: Sidearm does not know such things; :meth:`resource` takes any.
            ValueError: ``commit`` is neither.
        """
        if isinstance(thing, Resource):
            if commit is not None:
                thing.commit = check_mode(commit)
            return self._accessor(thing)
        # Nothing of SQLAlchemy can have been given where it was never imported.
        if "sqlalchemy" in sys.modules:
            from .resources import sqlalchemy

            resource = sqlalchemy.resource_for(thing, commit)
            if resource is not None:
                if not resource.joins:
                    return self._accessor(resource)
                self.resources.append(resource)
                self.joining.append(resource)
                return thing
        wrapper = _wrapper_for(thing)
        if wrapper is not None:
            if commit is not None:
                raise ValueError(
                    f"arm.use() was given {thing!r} and commit={commit!r}. A cache's writes belong"
                    " to the transactions in which they are made; leave commit= out."
                )
            client = wrapper(thing, context.require_task)
            if hasattr(client, "reach"):
                self.clients.append(client)
            return client
        if is_pool(thing):
            return self._accessor(ConnectionPool(thing, commit or "task"))
        raise TypeError(
            f"arm.use() was given {thing!r}, which it does not know. It takes Flask-SQLAlchemy, an"
            " Engine, a sessionmaker, a scoped_session, a psycopg_pool.ConnectionPool, a"
            " cachelib cache, a redis.Redis and SQLite(path); for anything else write a generator"
            " function and decorate it with @arm.resource."
        )

    def _accessor(self, resource: Resource) -> Callable[[], Any]:
        self.resources.append(resource)
        find_task = context.find_task

        def accessor() -> Any:
            task = find_task(create=True)
            if task is None:
                task = context.require_task(f"{resource.name}()")
            return task.claim(resource)

        accessor.__name__ = accessor.__qualname__ = resource.name
        return accessor

    def task(self, name: str) -> context.TaskBlock:
        """Begin a unit of work of its own: ``with arm.task("import"):``.

        Outside of everything it pushes an application context; inside a task it is independent,
        with its own resources and its own outcome. It commits when the block ends, and rolls
        back if an exception leaves it.

        Args:
            name: Shown in records.

        Returns:
            A context manager that gives the :class:`~sidearm.tasks.Task`.
        """
        return context.TaskBlock(name, self.resources, apps=self._apps)

    def outcome(self, rule: R) -> R:
        """Decide by a function of your own whether a request's task commits. A decorator.

        Args:
            rule: Called with the exception that left the view, or else with the response.
                ``True`` commits, ``False`` rolls back, ``None`` leaves it to the settings.
                ``doom()``, ``keep()`` and ``@commit_on`` are stronger.

        Returns:
            The function.
        """
        self.rule = rule
        for app in self._apps:
            app.extensions["sidearm"].rule = rule
        return rule

    def health_check(self, check: Callable[[], Any]) -> Callable[[], Any]:
        """Declare something without which the application cannot work. A decorator.

        ``/-/ready`` says so while it fails. Declared databases and Redis are asked anyway.

        Args:
            check: Called without arguments, in an application context and a thread of its own, at
                most once a second; not well if it raises, returns ``False``, or takes longer than
                ``SIDEARM_HEALTH_TIMEOUT``.

        Returns:
            The function.
        """
        self.health_checks.append(check)
        return check

    def represent(self, type_: type[T]) -> Callable[[Callable[[T], Any]], Callable[[T], Any]]:
        """Declare what views that return an instance of a type answer. A decorator.

        Args:
            type_: The type, or a base of several.

        Returns:
            The decorator, for a function of one instance.
        """
        return self.representations.register(type_)

    def token(
        self,
        purpose: str,
        type_: type[T],
        *,
        max_age: float | timedelta,
        single_use: bool | Any = False,
        state: Callable[[T], Any] | None = None,
    ) -> TokenKind[T]:
        """Declare a kind of token: what is signed, for what, and for how long.

        Args:
            purpose: Its name, as in ``<token('activate'):user_id>``. Tokens of one purpose count
                for no other.
            type_: What a token carries: ``int``, ``str``, ``uuid.UUID``, ``datetime.date``, a
                dataclass, or whatever msgspec reads back. Who has a token can read it.
            max_age: Seconds, or a ``timedelta``.
            single_use: Whether a token acts once. That it did is a row in the application's only
                database; where there are several, give the function that :meth:`use` or
                :meth:`resource` returned for one, or the Flask-SQLAlchemy object.
            state: A function of the payload that returns what a token is bound to, such as the
                user's password hash; when that changes, the token counts no more.

        Returns:
            The kind, with ``sign()`` and ``load()``, and the decorator ``confirm()``.

        Raises:
            TypeError: msgspec cannot read back such a type, or ``state`` is no function.
            ValueError: The purpose is no name, or declared already; ``max_age`` is not above zero.
            SecretKeyError: Sidearm is installed on an application without a ``SECRET_KEY``.
        """
        if purpose in self.token_kinds:
            raise ValueError(
                f"The token kind {purpose!r} is declared already. Declare it once, and import it."
            )
        kind = TokenKind(
            purpose,
            type_,
            max_age=max_age,
            single_use=single_use,
            state=state,
            resources=self.resources,
            apps=self._apps,
        )
        for app in self._apps:
            keys_of(app, repr(kind))
        self.token_kinds[purpose] = kind
        return kind


def default_socket_path(app: Flask) -> str:
    """The hub's socket where none is set: the same for every process of this application.

    Args:
        app: The application.

    Returns:
        A path in a private folder of this user's, short enough for every platform.
    """
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"sidearm-{user}"
    digest = hashlib.sha256(os.fsencode(app.root_path)).hexdigest()[:8]
    name = "".join(c if c.isalnum() else "-" for c in app.import_name)[-24:]
    return str(folder / f"{name}-{digest}.sock")


def _wrapper_for(thing: Any) -> Callable[[Any, Any], Any] | None:
    """What lets a client without transactions wait for those of a task."""
    # Nothing of a package can have been given that was never imported.
    cachelib = sys.modules.get("cachelib")
    if cachelib is not None and isinstance(thing, cachelib.BaseCache):
        return TaskCache
    if "redis" in sys.modules:
        from .resources import redis

        if redis.is_client(thing):
            return redis.TaskRedis
    return None


def _in_development() -> bool:
    """Whether this is a request of Werkzeug's development server, or of ``flask run``."""
    request_context = current_request_context(None)
    if request_context is None:
        return False
    software = request_context.request.environ.get("SERVER_SOFTWARE", "")
    return isinstance(software, str) and software.startswith("Werkzeug/")


def _install_assets(app: Flask, settings: Settings) -> Any:
    from .assets import packages

    packages.require(settings.assets)
    from .assets.installation import install

    return install(app, settings)


def _from_assets(name: str, *args: Any, **kwargs: Any) -> Any:
    """Call a function of ``sidearm.assets``, which is imported only where it is used."""
    from . import assets

    return getattr(assets, name)(*args, **kwargs)


_TEMPLATE_CONTEXT = {
    "stream_position": stream_position,
    "sidearm_js_url": sidearm_js_url,
    "integrity_for": functools.partial(_from_assets, "integrity_for"),
    "import_map": functools.partial(_from_assets, "import_map"),
}


def _template_context() -> dict[str, Any]:
    return _TEMPLATE_CONTEXT

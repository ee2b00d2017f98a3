"""Whether a worker lives, and whether it should be sent requests: ``/-/live`` and ``/-/ready``.

They are answered before Flask sees the request. So no ``before_request`` function asks for a
log-in, no host is refused, no task begins, and the application has no rule that it did not add.
Both say one word, to whoever asks; what is wrong stands in the log.

A check runs in a thread of its own: a database that is away may let its caller wait for minutes.
Its answer is awaited for a bounded time, and kept for a second, so that nobody can wear a database
out by asking. While one still waits, no second is begun.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flask import Flask

from ..terminal import make_harmless

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

LIVE, READY = "/-/live", "/-/ready"
FRESH = 1.0  # seconds for which an answer counts
DEFAULT_TIMEOUT = 2.0  # seconds; where no setting says so

logger = logging.getLogger("sidearm.health")

#: Asked whether this process is about to end; the process's own, whatever it serves.
_draining: list[Callable[[], bool]] = []


def tell_draining(is_draining: Callable[[], bool]) -> None:
    """Have this process answer that it is not ready when it is about to end.

    Args:
        is_draining: Whether it is; asked at each ``/-/ready``, and quick.
    """
    _draining.append(is_draining)


def install(app: Flask) -> Health:
    """Let an application answer :data:`LIVE` and :data:`READY`, once.

    Args:
        app: The application.

    Returns:
        What answers.
    """
    state: Any = app.extensions.get("sidearm")
    known: Health | None = getattr(state, "health", None)
    if known is not None:
        return known
    health = Health(app, app.wsgi_app)
    app.wsgi_app = health  # type: ignore[method-assign]
    if state is not None:
        state.health = health
    return health


class Health:
    """Middleware that answers two paths, and passes on everything else.

    Args:
        app: The application; a rule of its own for such a path goes before.
        wsgi_app: What everything else is passed on to.
    """

    def __init__(self, app: Flask, wsgi_app: WSGIApplication) -> None:
        self.wsgi_app = wsgi_app
        self._app = app
        self._readiness = Readiness(app)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer, or pass on."""
        path = environ.get("PATH_INFO")
        if path not in (LIVE, READY) or self._is_the_applications(path):
            return self.wsgi_app(environ, start_response)
        method = environ["REQUEST_METHOD"]
        if method not in ("GET", "HEAD"):
            return _answer(start_response, "405 Method Not Allowed", "not allowed", method)
        if path == LIVE:
            return _answer(start_response, "200 OK", "live", method)
        if self._readiness.is_ready():
            return _answer(start_response, "200 OK", "ready", method)
        return _answer(start_response, "503 Service Unavailable", "not ready", method)

    def _is_the_applications(self, path: str) -> bool:
        return any(rule.rule == path for rule in self._app.url_map.iter_rules())


def _answer(start_response: StartResponse, status: str, word: str, method: str) -> list[bytes]:
    body = b'{"status": "%b"}\n' % word.encode()
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
    ]
    if status.startswith("405"):
        headers.append(("Allow", "GET, HEAD"))
    start_response(status, headers)
    return [] if method == "HEAD" else [body]


class Readiness:
    """Asks everything without which an application cannot work.

    Args:
        app: The application. Its resources may be declared later.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._checks: dict[int, Check] = {}
        self._lock = threading.Lock()
        self._said: tuple[str, ...] = ()

    def is_ready(self) -> bool:
        """Whether the worker should be sent requests."""
        if any(is_draining() for is_draining in _draining):
            return False
        # All run at once; together they take no longer than the slowest.
        checks = self._all()
        for check in checks:
            check.begin()
        failures = tuple(
            f"{check.name}: {failure}" for check in checks if (failure := check.failure())
        )
        self._log(failures)
        return not failures

    def _all(self) -> list[Check]:
        """A check for each thing that there is to check by now."""
        state: Any = self._app.extensions.get("sidearm")
        if state is None:
            return []
        timeout = state.settings.health_timeout
        arm = state.arm
        things = [
            *((each.name, each.reach) for each in arm.resources if hasattr(each, "reach")),
            *((type(each).__name__, each.reach) for each in arm.clients),
            *((getattr(each, "__name__", repr(each)), each) for each in arm.health_checks),
        ]
        with self._lock:
            return [
                self._checks.setdefault(place, Check(name, self._app, function, timeout))
                for place, (name, function) in enumerate(things)
            ]

    def _log(self, failures: tuple[str, ...]) -> None:
        names = tuple(failure.partition(":")[0] for failure in failures)
        with self._lock:
            if names == self._said:
                return
            self._said = names
        if failures:
            logger.warning("Not ready: %s", make_harmless("; ".join(failures)))
        else:
            logger.warning("Ready again.")


@dataclass(slots=True)
class _Run:
    """One run of a check."""

    started: float = field(default_factory=time.monotonic)
    process: int = field(default_factory=os.getpid)
    done: threading.Event = field(default_factory=threading.Event)
    ended: float = 0.0
    failure: str = ""

    @property
    def is_current(self) -> bool:
        """Whether its answer counts still, or may come yet."""
        if self.process != os.getpid():
            return False  # its thread was not forked
        return not self.done.is_set() or time.monotonic() - self.ended < FRESH


class Check:
    """Something that has to answer.

    Args:
        name: Stands in the log.
        app: In whose context it is asked.
        function: Raises, or returns ``False``, if it is not well.
        timeout: Seconds that it may take.
    """

    def __init__(self, name: str, app: Flask, function: Callable[[], Any], timeout: float) -> None:
        self.name = name
        self._app = app
        self._function = function
        self._timeout = timeout
        self._lock = threading.Lock()
        self._run: _Run | None = None

    def begin(self) -> None:
        """Ask, unless it was asked a moment ago, or has not answered yet."""
        with self._lock:
            run = self._run
            if run is not None and run.is_current:
                return
            run = self._run = _Run()
            thread = threading.Thread(
                target=self._ask, args=(run,), name="sidearm-health", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # no thread is left
                self._end(run, str(error))

    def failure(self) -> str:
        """What is wrong, or nothing; waits until its time is over."""
        run = self._run
        if run is None:
            return ""
        if run.done.wait(max(0.0, run.started + self._timeout - time.monotonic())):
            return run.failure
        return f"no answer within {self._timeout:g} s"

    def _ask(self, run: _Run) -> None:
        failure = ""
        try:
            with self._app.app_context():
                if self._function() is False:
                    failure = "it returned False"
        except Exception as error:  # noqa: BLE001 (whatever it is, that is the answer)
            first = str(error).strip().partition("\n")[0][:200]
            failure = f"{type(error).__name__}: {first}"
        except BaseException as error:  # noqa: BLE001 (gevent's Timeout, a SystemExit)
            failure = type(error).__name__
        self._end(run, failure)

    @staticmethod
    def _end(run: _Run, failure: str) -> None:
        run.failure = failure
        run.ended = time.monotonic()
        run.done.set()

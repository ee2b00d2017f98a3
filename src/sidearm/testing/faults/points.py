"""Where steps are seen and made to fail: the task core, Flask's door, and what leaves.

The core knows nothing of this. While runs are under way, a few of its methods are replaced: the
claim of a resource, the settling of a round, the holding of a call, and the giving of events to the
hub; of Flask the call of the application by a server.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from flask import Flask
from flask.globals import _cv_app

from ...resources.cache import TaskCache
from ...signals import callback_failed, round_settled
from ...tasks.callbacks import Held
from ...tasks.claims import Claim, Resource
from ...tasks.context import find_task
from ...tasks.records import Record
from ...tasks.task import OPEN, Round, Task
from .trace import LEAVES, ClaimTrack, HeldTrack, Trace

_MARK = "_sidearm_fault_track"
_QUALIFIED = re.compile(r"\([\w.<>]+\.(\w+|<lambda>)\)")


class Points:
    """What is replaced while an application is tried.

    Attributes:
        trace: Of the run that is under way; ``None`` between two runs.
    """

    def __init__(self) -> None:
        self.trace: Trace | None = None
        self.propagate_as_in_production = False
        self._patch = pytest.MonkeyPatch()
        self._config: list[Flask] = []
        self._resources: list[Resource] = []

    @property
    def active(self) -> Trace | None:
        """The trace, where an application's code is running."""
        return self.trace if self.trace is not None and _cv_app.get(None) is not None else None

    @contextmanager
    def installed(self) -> Generator[None]:
        """Replace the methods, and put them back at the end."""
        from . import drivers

        with ExitStack() as stack:
            stack.callback(self._restore)
            self._watch_core()
            self.replace(Flask, "__call__", self._serve)
            stack.enter_context(round_settled.connected_to(self._on_record))
            stack.enter_context(callback_failed.connected_to(self._on_callback_failed))
            drivers.watch(self, stack)
            yield

    def replace(self, owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
        """Put ``wrapper(original, ...)`` in the place of a function or method."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def replaced(*args: Any, **named: Any) -> Any:
            return wrapper(original, *args, **named)

        self._patch.setattr(owner, name, replaced)

    def _restore(self) -> None:
        self._patch.undo()
        for app in self._config:
            app.config["PROPAGATE_EXCEPTIONS"] = None
        self._config.clear()
        for resource in self._resources:
            del vars(resource)["claim"]
        self._resources.clear()

    def _watch_core(self) -> None:
        self.replace(Round, "claim", self._claim)
        self.replace(Round, "use", self._use)
        self.replace(Round, "settle", self._settle)
        self.replace(Task, "hold", self._hold)
        # The module, whose name in its package is the function's.
        publish = importlib.import_module("sidearm.events.publish")
        self.replace(publish, "_give", self._give)
        self._leave = publish._leave

    # -- claims

    def _claim(
        self, original: Callable[..., Claim], round_: Round, resource: Resource, task: Task
    ) -> Claim:
        if self.trace is not None and "claim" not in vars(resource):
            self._resources.append(resource)
            vars(resource)["claim"] = functools.partial(self._take, resource, resource.claim)
        claim = original(round_, resource, task)
        self._follow(claim, round_)
        return claim

    def _take(self, resource: Resource, claim: Callable[[], Claim]) -> Claim:
        """Claim a resource for the first time in a round."""
        trace = self.trace
        if trace is None:
            return claim()
        step, kind = trace.reach(f"claim of {resource.name}", ("claim", resource.name))
        taken: list[Claim] = []
        try:
            with trace.inside(step, kind):
                taken.append(claim())
        except BaseException:
            for each in taken:  # the driver was not asked for it this time
                each.release()
            raise
        return taken[0]

    def _use(self, original: Callable[..., None], round_: Round, claim: Claim) -> None:
        original(round_, claim)
        self._follow(claim, round_)

    def _follow(self, claim: Claim, round_: Round) -> None:
        trace = self.trace
        if trace is None or _MARK in vars(claim):
            return
        name = claim.resource.name
        track = ClaimTrack(claim, name, claim.explicit, trace.round(round_))
        trace.claims.append(track)
        vars(claim)[_MARK] = track
        for method, wrapper in (
            ("commit", self._commit),
            ("rollback", self._rollback),
            ("release", self._release),
        ):
            original = getattr(claim, method)
            setattr(claim, method, functools.partial(wrapper, trace, track, original))

    def _commit(self, trace: Trace, track: ClaimTrack, original: Callable[[], None]) -> None:
        if trace is not self.trace:
            return original()
        round_ = trace.settling[-1] if trace.settling else None
        of = "" if round_ is None or round_.kind == "work" else f" ({round_.kind})"
        step, kind = trace.reach(f"commit of {track.name}{of}", ("commit", track.name))
        try:
            with trace.inside(step, kind):
                original()
        except BaseException:
            track.note(round_, "commit failed")
            raise
        track.note(round_, "commit")
        if round_ is not None:
            round_.over = trace.tick()
        return None

    def _rollback(self, trace: Trace, track: ClaimTrack, original: Callable[[], None]) -> None:
        if trace is not self.trace:
            return original()
        track.note(trace.settling[-1] if trace.settling else None, "rollback")
        original()
        for work in trace.works:  # not each driver tells, if its transaction was over already
            if work.claim is track:
                work.rolled_back()
        return None

    def _release(self, trace: Trace, track: ClaimTrack, original: Callable[[], None]) -> None:
        vars(track.claim).pop(_MARK, None)
        for method in ("commit", "rollback", "release"):
            vars(track.claim).pop(method, None)
        if trace is not self.trace:
            return original()
        _, kind = trace.reach(f"release of {track.name}", ("release", track.name))
        track.released += 1
        track.unsettled += sum(work.opened for work in trace.works if work.claim is track)
        original()
        # It fails when it is done: what is not given back is lost, whoever settles.
        if kind is not None:
            raise trace.make(kind)
        return None

    # -- rounds

    def _settle(
        self, original: Callable[..., list[BaseException]], round_: Round, decision: Any
    ) -> list[BaseException]:
        trace = self.trace
        if trace is None or round_.state is not OPEN:
            return original(round_, decision)
        track = trace.round(round_)
        track.commits = bool(decision[0])
        if not round_.claims:
            track.over = trace.tick()
        trace.settling.append(track)
        try:
            return original(round_, decision)
        finally:
            trace.settling.pop()

    def _on_record(self, _: Flask, record: Record, **__: Any) -> None:
        trace = self.trace
        if trace is None:
            return
        trace.records.append(record)
        if trace.settling and trace.settling[-1].record is None:
            trace.settling[-1].record = record

    def _on_callback_failed(self, _: Flask, callback: str, **__: Any) -> None:
        if self.trace is not None:
            self.trace.failed.append(callback)

    # -- what is held, and leaves

    def _hold(self, original: Callable[..., None], task: Task, held: Held) -> None:
        trace = self.trace
        if trace is None:
            return original(task, held)
        call = held.call
        trace.come_by(f"call of {short(call)}", ("call", call))
        original(task, held)
        track = HeldTrack(held, call, held.on, trace.round(task.round))
        if held.callback is not None:
            held.callback = self._called(trace, track, held.callback)
        elif held.send is self._leave:
            track.event = held.item[1]
        elif call.startswith("after_response("):
            held.item = tuple(
                self._called(trace, track, item) if callable(item) else item for item in held.item
            )
        else:
            self._watch_cache(getattr(held.send, "__self__", None))
            return None
        trace.held.append(track)
        return None

    def _watch_cache(self, cache: Any) -> None:
        """See the writes of a cache, which leave like events."""
        if isinstance(cache, TaskCache) and not isinstance(cache._cache, _Cache):
            self._patch.setattr(cache, "_cache", _Cache(self, cache._cache))

    def _called(
        self, trace: Trace, track: HeldTrack, callback: Callable[[], Any]
    ) -> Callable[[], Any]:
        def call() -> Any:
            if trace is not self.trace:
                return callback()
            track.left = trace.tick()
            track.by_hand = any(work.by_hand for work in trace.works)
            track.failed = True
            trace.come_by(f"callback {short(track.call)}", ("callback", track.call))
            result = callback()
            track.failed = False
            return result

        if hasattr(callback, "__qualname__"):
            return functools.wraps(callback)(call)
        return _Callback(call, callback)

    def _give(
        self, original: Callable[..., None], app: Flask, events: list[Any], ends: tuple[int, ...]
    ) -> None:
        trace = self.trace
        if trace is None:
            return original(app, events, ends)
        waiting = {id(track.event): track for track in trace.held if not track.left}
        now = trace.tick()
        tracks = [track for event in events if (track := waiting.get(id(event))) is not None]
        for track in tracks:
            track.left = now
            track.by_hand = any(work.by_hand for work in trace.works)
            track.failed = True
        channels = ", ".join(dict.fromkeys(event[0] for event in events))
        trace.come_by(f"sending of events on {channels}", ("send", channels))
        original(app, events, ends)
        for track in tracks:
            track.failed = False
        for event in events:
            trace.events.append((now, event[0], event[1]))
            if id(event) not in waiting:
                trace.unheld.append((now, event[0], _is_early()))
        return None

    # -- requests

    def _serve(
        self,
        original: Callable[..., Any],
        app: Flask,
        environ: dict[str, Any],
        start_response: Callable[..., Any],
    ) -> Any:
        trace = self.trace
        if trace is None:
            return original(app, environ, start_response)
        if self.propagate_as_in_production and app.config["PROPAGATE_EXCEPTIONS"] is None:
            app.config["PROPAGATE_EXCEPTIONS"] = False
            self._config.append(app)
        number = len(trace.answers)
        trace.answers.append(None)
        trace.pieces.append(0)

        def start(status: str, *args: Any, **named: Any) -> Any:
            trace.answers[number] = int(status[:3])
            return start_response(status, *args, **named)

        try:
            with trace.making(number):
                body = original(app, environ, start)
        except BaseException:
            trace.answers[number] = None
            raise
        served = _Body(trace, number, body)
        trace.bodies.append(served)
        return served


class _Callback:
    """In the place of a callback that is no function: a partial, an object that can be called."""

    def __init__(self, call: Callable[[], Any], func: Any) -> None:
        self._call = call
        self.func = func

    def __call__(self) -> Any:
        return self._call()


class _Cache:
    """In the place of a cachelib cache, whose writes may fail."""

    def __init__(self, points: Points, cache: Any) -> None:
        self._points = points
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._cache, name)
        if name not in ("set", "add", "delete", "clear", "inc"):
            return method

        def write(*arguments: Any) -> Any:
            if self._points.trace is not None:
                self._points.trace.come_by(f"cache.{name} leaving", ("cache", name))
            return method(*arguments)

        return write


class _Body:
    """The body that a server gets; the client may leave before it is whole."""

    def __init__(self, trace: Trace, number: int, body: Any) -> None:
        self._trace = trace
        self._number = number
        self._body = body
        self._pieces: Iterator[bytes] = iter(body)
        self._closed = False

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        trace, fault = self._trace, self._trace.fault
        if (
            fault is not None
            and fault.kind == LEAVES
            and fault.step.response == self._number
            and fault.step.position == trace.pieces[self._number]
        ):
            trace.injected = GeneratorExit()
            self.close()
        if self._closed:
            raise StopIteration
        with trace.making(self._number):
            piece = next(self._pieces)
        trace.pieces[self._number] += 1
        return piece

    def close(self) -> None:
        """End it, once."""
        if not self._closed:
            self._closed = True
            if hasattr(self._body, "close"):
                with self._trace.making(self._number):
                    self._body.close()


def short(call: str) -> str:
    """A call for the table: ``after_commit(send_mail)``, without the module."""
    return _QUALIFIED.sub(r"(\1)", call)


def _is_early() -> bool:
    """Whether the code that is running belongs to work that is not settled yet."""
    task = find_task(create=False)
    return task is not None and task.round.state is OPEN and task.round.kind in ("work", "body")

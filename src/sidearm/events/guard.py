"""Asks who reads before a view runs that says that it streams (contract H12).

So whoever is refused costs no query. Only such views are asked for: they get a function around them
when the first request comes. What other views return, ``event_stream()`` asks for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, after_this_request, current_app, request_started

from ..tasks.flask_contexts import current_request_context
from ..tasks.state import state_of
from .declared import streaming_methods
from .readers import answer_preflight, fields_for, foreign_reader
from .stream import EventStream

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

View = Callable[..., Any]


def install(app: Flask) -> None:
    """Keep pages of other origins from the views of an application that say that they stream."""
    state = state_of(app)
    state.guard = FirstRequest()  # blinker holds it weakly
    request_started.connect(state.guard, app)
    if state.settings.stream_origins:
        app.before_request_funcs.setdefault(None, []).insert(0, answer_preflight)


class FirstRequest:
    """Guards the views when the first request begins: Flask takes no more of them then.

    It disconnects itself afterwards, so that a second request in another thread waits for it.
    """

    def __call__(self, app: Flask, **_: Any) -> None:
        for endpoint, view in list(app.view_functions.items()):
            methods = streaming_methods(view)
            if methods:
                app.view_functions[endpoint] = guarded(view, methods)
        request_started.disconnect(self)


def guarded(view: View, methods: AbstractSet[str | None]) -> View:
    """A view that answers who may read what it streams, and 403 to everybody else.

    Args:
        view: As it stands in ``app.view_functions``.
        methods: Those of HTTP that stream; ``None`` among them: every one.
    """
    streams_always = None in methods
    is_async = iscoroutinefunction(view)

    @functools.wraps(view)
    def asking(*args: Any, **kwargs: Any) -> Any:
        context = current_request_context(None)
        environ = context.request.environ
        if streams_always or environ["REQUEST_METHOD"] in methods:
            settings = context.app.extensions["sidearm"].settings
            reader = foreign_reader(environ, settings)
            if reader is not None:
                # What it answers in a stream's place (a log-in is wanted) is to be seen, too.
                after_this_request(functools.partial(_allow, reader=reader))
        return current_app.ensure_sync(view)(*args, **kwargs) if is_async else view(*args, **kwargs)

    return asking


def _allow(response: Response, *, reader: str) -> Response:
    if not isinstance(response, EventStream):  # which does it itself
        for name, value in fields_for(reader):
            response.headers[name] = value
        response.vary.add("Origin")
    return response

"""The insides of Flask's contexts, which differ between versions: seen here and nowhere else.

Flask 3.1 has a context for the application and one for the request, and either can be pushed
several times. From 3.2 on there is one class: a request's context is an application context too.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any

import flask.app
from flask import Flask, appcontext_popped, appcontext_pushed
from flask import globals as flask_globals
from flask.ctx import AppContext
from flask.globals import _cv_app

if TYPE_CHECKING:
    from flask.sessions import SessionMixin

_cv_request: Any = getattr(flask_globals, "_cv_request", None)

#: Whether one context stands for both (Flask 3.2).
MERGED = _cv_request is None

#: Truth, and the context, if one is pushed: ``current_app_context(None)``.
current_app_context: Callable[[None], AppContext | None] = _cv_app.get


def _find_request_context(default: None) -> Any:
    context: Any = _cv_app.get(default)
    # An application's may stand inside of it.
    while context is not None and (context._request is None or type(context) is _BlockContext):
        outer = context._cv_token.old_value if context._cv_token is not None else None
        context = outer if isinstance(outer, AppContext) else None
    return context


#: The same for the context of a request: ``current_request_context(None)``.
current_request_context: Callable[[None], Any] = (
    _find_request_context if MERGED else _cv_request.get
)

if MERGED:

    def _of_outer(name: str) -> Any:
        return property(
            lambda self: getattr(self._outer, name),
            lambda self, value: setattr(self._outer, name, value),
        )

    class _BlockContext(AppContext):
        """An application context in which the request around it is still there.

        An ordinary one hides it since 3.2. This one has its own ``g`` and its own end; what belongs
        to the request is the request's, and ends with it.
        """

        _request = _of_outer("_request")
        _session = _of_outer("_session")
        _flashes = _of_outer("_flashes")
        _after_request_functions = _of_outer("_after_request_functions")

        def __init__(self, outer: Any) -> None:
            self._outer = outer
            self.app = outer.app
            self.g = outer.app.app_ctx_globals_class()
            self.url_adapter = outer.url_adapter
            self._cv_token: Any = None
            self._push_count = 0

        def push(self) -> None:
            self._push_count += 1
            if self._cv_token is None:
                self._cv_token = _cv_app.set(self)
                appcontext_pushed.send(self.app, _async_wrapper=self.app.ensure_sync)

        def pop(self, exc: BaseException | None = None) -> None:
            if _cv_app.get(None) is not self:
                raise RuntimeError(f"Cannot pop this context ({self!r}), it is not the active one.")
            self._push_count -= 1
            if self._push_count:
                return
            try:
                self.app.do_teardown_appcontext(self, exc)  # type: ignore[arg-type, call-arg]
            finally:
                _cv_app.reset(self._cv_token)
                self._cv_token = None
                appcontext_popped.send(self.app, _async_wrapper=self.app.ensure_sync)

        # What carries the context along (``copy_current_request_context``) or holds it open
        # (``stream_with_context``) may outlive the block: it gets the request's.

        def copy(self) -> Any:
            return self._outer.copy()

        def __enter__(self) -> Any:
            return self._outer.__enter__()

        def __exit__(self, *exc_info: object) -> None:
            self._outer.__exit__(*exc_info)

    def block_context(app: Flask) -> AppContext:
        """A new application context for a block of code, in which the request stays visible."""
        outer = _find_request_context(None)
        return app.app_context() if outer is None or outer.app is not app else _BlockContext(outer)

    def context_first() -> tuple[Any, ...]:
        """What Flask's own methods take first: the context (3.2), or nothing."""
        return (_cv_app.get(),)

    def push_of(context: Any) -> object:
        """What names the push that ends with a context's teardown; ``None`` if it is not pushed."""
        return context._cv_token

    def app_context_of(request_context: Any) -> Any:
        """The application context that ends with a request; perhaps not the one that is on top."""
        return request_context

    def replace_session(request_context: Any, session: SessionMixin) -> None:
        """Put another session in the place of a request's."""
        request_context._session = session
        request_context._flashes = None

else:

    def block_context(app: Flask) -> AppContext:
        return app.app_context()

    def context_first() -> tuple[Any, ...]:
        return ()

    def push_of(context: Any) -> object:
        pushes = context._cv_tokens
        return pushes[-1] if pushes else None

    def app_context_of(request_context: Any) -> Any:
        # None where it was pushed already, by a test's fixture.
        return request_context._cv_tokens[-1][1]

    def replace_session(request_context: Any, session: SessionMixin) -> None:
        # Setting the public attribute marks the session as looked at in 3.1.3; it has no setter.
        name = "_session" if hasattr(request_context, "_session") else "session"
        setattr(request_context, name, session)
        request_context.flashes = None


def is_pushed(context: Any) -> bool:
    """Whether a context is pushed, so that its end will be seen; threads may carry it beyond."""
    return push_of(context) is not None


def own_method(name: str) -> Callable[..., None] | None:
    """A method as Flask itself has it, or ``None`` if somebody has put another in its place.

    Flask's methods around a request call functions and send signals. Where there are neither, it
    takes those of teardown a tenth of what a small request costs to find that out; whoever watches
    a method sees it at a glance, and leaves the call out.
    """
    method = vars(Flask)[name]
    is_own = type(method) is FunctionType and method.__globals__ is flask.app.__dict__
    return method if is_own and method.__code__.co_name == name else None

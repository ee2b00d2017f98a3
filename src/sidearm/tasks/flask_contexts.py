"""The insides of Flask's contexts, which differ between versions: seen here and nowhere else.

Flask 3.1 has a context for the application and one for the request, and either can be pushed
several times. From 3.2 on there is one class: a request's context is an application context too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import globals as flask_globals
from flask.globals import _cv_app

if TYPE_CHECKING:
    from flask.ctx import AppContext
    from flask.sessions import SessionMixin

_cv_request: Any = getattr(flask_globals, "_cv_request", None)

#: Whether one context stands for both (Flask 3.2).
MERGED = _cv_request is None

#: Truth, and the context, if one is pushed: ``current_app_context(None)``.
current_app_context: Callable[[None], AppContext | None] = _cv_app.get


def _find_request_context(default: None) -> Any:
    context: Any = _cv_app.get(default)
    while context is not None and context._request is None:  # an application's, inside of it
        outer = context._cv_token.old_value if context._cv_token is not None else None
        context = outer if isinstance(outer, type(context)) else None
    return context


#: The same for the context of a request: ``current_request_context(None)``.
current_request_context: Callable[[None], Any] = (
    _find_request_context if MERGED else _cv_request.get
)

if MERGED:

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

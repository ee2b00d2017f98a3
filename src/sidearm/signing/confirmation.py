"""The page that asks before a link acts, and the spending of what it posts.

Mail scanners, link previews and browsers that read ahead follow links, so ``GET`` and ``HEAD``
spend nothing. The page keeps the token to itself: it is not stored, its address goes to no other
site, and no other site can show it in a frame to have its button clicked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from flask import Flask, Response, current_app, make_response, render_template, request
from jinja2 import Template
from markupsafe import Markup
from werkzeug.exceptions import Forbidden

from ..tasks.state import state_of
from .converter import SAFE_METHODS, marked, tokens_of_request, withdraw_referrer

if TYPE_CHECKING:
    from .tokens import TokenKind

F = TypeVar("F", bound=Callable[..., Any])

OWN_TEMPLATE = "sidearm/confirm.html"
_SOURCE = Path(__file__).with_name("templates") / "confirm.html"

#: What the page's headers are, and those of the answer to its form: both have the token's URL.
PRIVATE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
PAGE = {
    **PRIVATE,
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "X-Robots-Tag": "noindex, nofollow",
}


class Confirmation:
    """The decorator that :meth:`TokenKind.confirm` gives."""

    def __init__(self, kind: TokenKind[Any], template: str | None, context: dict[str, Any]) -> None:
        self._kind = kind
        self._template = template
        self._context = context

    def __call__(self, view: F) -> F:
        """Decorate a view."""
        self._kind.asks = True
        act = spending(self._kind, view)

        @functools.wraps(view)
        def confirmed(*args: Any, **kwargs: Any) -> Any:
            if request.method in {"GET", "HEAD"}:
                return self._page(kwargs)
            refuse_other_sites()
            return act(*args, **kwargs)

        return cast("F", marked(confirmed, self._kind.purpose, asks=True))

    def _page(self, view_args: dict[str, Any]) -> Response:
        for token in tokens_of_request(self._kind):
            self._kind.refuse_spent(token)
        names: Any = self._template or [OWN_TEMPLATE, own_template(current_app)]
        context = {**view_args, **self._context, "csrf_field": csrf_field()}
        response = make_response(render_template(names, **context))
        response.headers.update(PAGE)
        return response


def spending(kind: TokenKind[Any], view: F) -> F:
    """Wrap a view: what is posted to it spends the URL's token."""

    @functools.wraps(view)
    def act(*args: Any, **kwargs: Any) -> Any:
        withdraw_referrer()
        tokens = tokens_of_request(kind)
        if request.method in SAFE_METHODS:
            for token in tokens:
                kind.refuse_spent(token)
            return current_app.ensure_sync(view)(*args, **kwargs)
        rows = [kind.spend_token(token) for token in tokens] if kind.single_use else []
        response = make_response(current_app.ensure_sync(view)(*args, **kwargs))
        if response.status_code < 400:
            for row in rows:
                row.require_committed()
        for name, value in PRIVATE.items():
            response.headers.setdefault(name, value)
        return response

    return cast("F", marked(act, kind.purpose, asks=False))


def refuse_other_sites() -> None:
    """Refuse what a page of another site posts (``Sec-Fetch-Site``, W3C Fetch Metadata).

    With a link of their own, others could otherwise have a visitor log in to *their* account.
    Browsers send it to every ``https`` site; who sends nothing is no browser, or an old one.

    Raises:
        Forbidden: It comes from there.
    """
    if request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        raise Forbidden("This form was sent from another site.")


def csrf_field() -> Markup:
    """A hidden field with the token of Flask-WTF's ``CSRFProtect``; empty without it."""
    if "csrf" not in current_app.extensions:
        return Markup("")
    generate: Any = current_app.jinja_env.globals.get("csrf_token")
    if not callable(generate):
        return Markup("")
    name = current_app.config.get("WTF_CSRF_FIELD_NAME", "csrf_token")
    return Markup('<input type="hidden" name="{}" value="{}">').format(name, generate())


def own_template(app: Flask) -> Template:
    """The plain page, compiled once by the application's own Jinja environment."""
    state = state_of(app)
    if state.confirm_template is None:
        state.confirm_template = app.jinja_env.from_string(_SOURCE.read_text())
    template: Template = state.confirm_template
    return template

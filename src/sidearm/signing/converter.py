"""``<token('activate'):user_id>``, and what is checked when a rule is added.

A rule that would let a token for one use act more than once is an error at the line that adds it:
where only ``GET`` reaches the view, or nothing in the view spends the token.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

from flask import Flask, has_request_context, request
from werkzeug.routing import BaseConverter, Map, Rule, ValidationError

from ..exceptions import TokenRuleError
from ..tasks.state import state_of
from .exceptions import BadToken
from .keys import SIGNATURE_LENGTH, keys_of

if TYPE_CHECKING:
    from .tokens import Token, TokenKind

F = TypeVar("F", bound=Callable[..., Any])

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

#: What decorators leave on a view: for each purpose whether it asks first.
_TOKENS = "_sidearm_tokens"
_SIGNED = "_sidearm_signed"
#: Where a request keeps the tokens of its URL.
_LOADED = "_sidearm_loaded_tokens"
#: In the environment of a request to which a ``Referer`` was lent.
_LENT = "sidearm.lent_referrer"

#: The application to which a rule is being added, and the kinds that its converters name.
_adding: ContextVar[tuple[Flask, list[TokenKind[Any]]] | None] = ContextVar(
    "sidearm_adding", default=None
)


class SignedText(str):
    """A token that was just signed; ``url_for`` puts it in as it is."""

    __slots__ = ("purpose",)

    purpose: str


class TokenConverter(BaseConverter):
    """The URL converter ``token``: signs in ``url_for``, and gives the view what was signed.

    What was not signed here is no match (404); what has expired, or was used, is 410.

    Args:
        map: The application's URL map.
        purpose: The kind of token.
    """

    regex = rf"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{{{SIGNATURE_LENGTH}}}"

    def __init__(self, map: Map, purpose: str = "") -> None:
        super().__init__(map)
        adding = _adding.get()
        if adding is None:
            raise TokenRuleError(
                f"<token({purpose!r})>", "Add the rule by app.route() or app.add_url_rule()."
            )
        app, found = adding
        kinds = state_of(app).arm.token_kinds
        if purpose not in kinds:
            known = ", ".join(map_repr(kinds)) or "none"
            raise TokenRuleError(
                f"<token({purpose!r})>",
                f"There is no such kind of token (known: {known}). Declare it with"
                f" arm.token({purpose!r}, ...) before the rule.",
            )
        self.kind: TokenKind[Any] = kinds[purpose]
        found.append(self.kind)

    def to_python(self, value: str) -> Any:
        """Verify a token of a URL."""
        check_pending(self.kind)
        try:
            token = self.kind.verify(value)
        except BadToken as error:
            raise ValidationError(error.reason) from error
        # Not when something else than the request's own routing looks a URL up.
        if has_request_context() and request.url_rule is None and request.routing_exception is None:
            vars(request._get_current_object()).setdefault(_LOADED, []).append(token)  # type: ignore[attr-defined]  # noqa: SLF001
            if self.kind.asks:
                lend_referrer()
        return token.payload

    def to_url(self, value: Any) -> str:
        """Sign a value for a URL, unless this kind has signed it before."""
        if isinstance(value, SignedText) and value.purpose == self.kind.purpose:
            return str(value)
        return self.kind.sign(value)


def map_repr(names: Any) -> list[str]:
    """The names, as they are written in a program."""
    return [repr(name) for name in names]


def tokens_of_request(kind: TokenKind[Any]) -> list[Token[Any]]:
    """The tokens of a kind in the URL of the request, verified.

    Raises:
        TokenRuleError: It has none.
    """
    loaded: list[Token[Any]] = vars(request._get_current_object()).get(_LOADED, [])  # type: ignore[attr-defined]  # noqa: SLF001
    tokens = [token for token in loaded if token.purpose == kind.purpose]
    if not tokens:
        raise _no_token_in_rule(str(request.url_rule), kind.purpose)
    return tokens


def lend_referrer() -> None:
    """Let Flask-WTF take the post of our own page, which has no ``Referer``.

    Over ``https`` Flask-WTF wants one of this site beside its token, and our page tells the
    browser to send none, because its address is a secret. A browser says in ``Sec-Fetch-Site``
    where the form came from; that is what counts here. The view sees none.
    """
    environ = request.environ
    if (
        request.method == "POST"
        and request.is_secure
        and not request.referrer
        and request.headers.get("Sec-Fetch-Site", "same-origin") == "same-origin"
    ):
        environ["HTTP_REFERER"] = request.host_url
        environ[_LENT] = True


def withdraw_referrer() -> None:
    """Take back what :func:`lend_referrer` has lent."""
    if request.environ.pop(_LENT, False):
        request.environ.pop("HTTP_REFERER", None)


def marked(view: F, purpose: str, *, asks: bool) -> F:
    """Note on a view that it spends tokens; decorators with ``functools.wraps`` pass it on."""
    known: dict[str, bool] = getattr(view, _TOKENS, {})
    setattr(view, _TOKENS, {**known, purpose: asks or known.get(purpose, False)})
    return view


def mark_signed(view: F, ignored: frozenset[str]) -> F:
    """Note on a view that its URLs are signed, and which parameters they may have besides."""
    setattr(view, _SIGNED, ignored)
    return view


def signed_mark(view: Any, method: str) -> frozenset[str] | None:
    """What :func:`mark_signed` left on a view, or on what a class-based one calls for a method.

    Returns:
        The parameters that its signed URLs may have besides; ``None`` if nothing checks them.
    """
    class_ = getattr(view, "view_class", None)
    for each in (
        view,
        getattr(class_, method.lower(), None),
        getattr(class_, "dispatch_request", None),
    ):
        ignored: frozenset[str] | None = getattr(each, _SIGNED, None)
        if ignored is not None:
            return ignored
    return None


def watch_rules(app: Flask) -> None:
    """Check each rule that is added to an application."""
    reference = weakref.ref(app)
    inner: Callable[..., None] | None = app.__dict__.get("add_url_rule")

    def add_url_rule(
        rule: str,
        endpoint: str | None = None,
        view_func: Any = None,
        provide_automatic_options: Any = None,
        **options: Any,
    ) -> None:
        app: Any = reference()
        add = inner or functools.partial(type(app).add_url_rule, app)
        found: list[TokenKind[Any]] = []
        before = _adding.set((app, found))
        try:
            add(rule, endpoint, view_func, provide_automatic_options, **options)
        finally:
            _adding.reset(before)
        name = endpoint or str(getattr(view_func, "__name__", ""))
        if found or hasattr(view_func, _TOKENS):
            if view_func is None:  # the function comes later, by @app.endpoint
                state_of(app).unchecked_rules.append((app.view_functions, name, rule, found))
            rules = [each for each in app.url_map.iter_rules(name) if each.rule == rule]
            check_rule(rules, view_func, found)
        if hasattr(view_func, _SIGNED):
            keys_of(app, f"The signed view {name!r}")

    app.add_url_rule = add_url_rule  # type: ignore[method-assign]
    # An application's own converter of that name goes before ours.
    app.url_map.converters.setdefault("token", TokenConverter)


def check_rule(rules: list[Rule], view: Any, kinds: list[TokenKind[Any]]) -> None:
    """Refuse a rule that cannot spend what it takes.

    Args:
        rules: The rule; several, if it was added more than once.
        view: Its function, if it is known.
        kinds: Those that its converters name.

    Raises:
        TokenRuleError: It is reached by ``GET`` alone, or its view spends nothing.
    """
    name = rules[-1].rule if rules else "?"
    marks: dict[str, bool] = getattr(view, _TOKENS, {})
    asking = {purpose for purpose, asks in marks.items() if asks}
    single = {kind.purpose for kind in kinds if kind.single_use}
    for purpose in sorted(single | asking):
        if any(rule.methods is not None and rule.methods <= SAFE_METHODS for rule in rules):
            raise TokenRuleError(
                name,
                f"It is reached by GET alone, by which a token for {purpose!r} never acts: mail"
                " scanners follow links. Give it methods=['GET', 'POST'], and decorate the view"
                " with @kind.confirm().",
            )
    for purpose in sorted(single - set(marks)):
        if view is not None:
            raise TokenRuleError(
                name,
                f"Nothing in its view spends the token for {purpose!r}, which would then work for"
                " ever. Decorate the view with @kind.confirm(), or with @kind.once if a page of"
                " your own posts to it.",
            )
    for purpose in sorted(set(marks) - {kind.purpose for kind in kinds}):
        raise _no_token_in_rule(name, purpose)


def check_pending(kind: TokenKind[Any]) -> None:
    """Check the rules whose functions came later."""
    pending = state_of(kind.app()).unchecked_rules
    while pending:
        functions, endpoint, rule, kinds = pending[-1]
        check_rule([Rule(rule)], functions.get(endpoint), kinds)
        pending.pop()


def _no_token_in_rule(rule: str, purpose: str) -> TokenRuleError:
    return TokenRuleError(
        rule,
        f"Its view is decorated for tokens of the kind {purpose!r}, and its URL has none. Put"
        f" <token({purpose!r}):name> into the rule.",
    )

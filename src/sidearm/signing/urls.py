"""Whole URLs that are signed: ``signed_url_for`` and ``@signed_url_required`` (contract S4).

What is signed is what the view will see: the method, the host unless the URL is a relative one,
the decoded path with its prefix, and the query's parameters. Their names may come in any order;
several values of one name keep theirs. The query is written in one spelling only (everything but
letters, digits, ``-``, ``.``, ``_`` and ``~`` is escaped), which browsers leave as it is, and any
other is refused. The scheme is not signed: behind a proxy it is not always known.

``_expires`` is a parameter like any other. ``_signed`` names those that are signed although they
are on a list of names to ignore, so that one which is signed cannot be replaced.
"""

from __future__ import annotations

import functools
import hmac
import logging
import math
import time
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar, cast, overload
from urllib.parse import parse_qsl, quote, unquote, unquote_plus, urlsplit, urlunsplit

import msgspec
from flask import Flask, current_app, request

from ..origin import vouched_origin
from ..tasks.state import state_of, the_app
from .converter import mark_signed, signed_mark
from .exceptions import BadSignedURL, ExpiredSignedURL
from .keys import signers_for
from .links import adapter_for, build, full_name, with_anchor
from .tokens import date_of, seconds

F = TypeVar("F", bound=Callable[..., Any])
Pairs = list[tuple[str, str]]

logger = logging.getLogger("sidearm.signing")

SALT = "sidearm.url"
EXPIRES, SIGNATURE, SIGNED = "_expires", "_signature", "_signed"
RESERVED = frozenset({EXPIRES, SIGNATURE, SIGNED})


def signed_url_for(
    endpoint: str,
    *,
    _max_age: float | timedelta | None = None,
    _method: str | None = None,
    _external: bool = True,
    _anchor: str | None = None,
    **values: Any,
) -> str:
    """Make a URL that opens a view decorated with ``@signed_url_required``, as it is, for a time.

    Args:
        endpoint: As for ``flask.url_for``.
        _max_age: Seconds, or a ``timedelta``; by default, and at most,
            ``SIDEARM_SIGNED_URL_MAX_AGE``.
        _method: The HTTP method that it is for; by default ``GET``, and with it ``HEAD``, or the
            only one of the endpoint.
        _external: Whether it has a host, which is signed too. Without one it counts on every host
            of the application.
        _anchor: The fragment, which is not signed: browsers do not send it.
        values: For the rule's variables; others become the query.

    Returns:
        The URL.

    Raises:
        UnknownOrigin: It shall have a host, and the settings do not tell which.
        ValueError: ``_max_age`` is too long, a value has a reserved name, or the view does not
            check signatures.
        SecretKeyError: ``SECRET_KEY`` is missing, or too short.
    """
    what = f"signed_url_for({endpoint!r})"
    app = the_app(what)
    endpoint = full_name(endpoint)
    reserved = RESERVED & set(values)
    if reserved:
        raise ValueError(
            f"{what} was given {', '.join(sorted(reserved))}, which it adds itself. Give the value"
            " another name."
        )
    expires = math.ceil(time.time() + _age(app, _max_age, what))
    adapter = adapter_for(app, vouched_origin(app, what) if _external else None)
    method = (_method or _usual_method(app, endpoint)).upper()
    ignored = signed_mark(app.view_functions.get(endpoint), method)
    if ignored is None and endpoint in app.view_functions:
        raise ValueError(
            f"{what} was called, and nothing in that view checks signatures: it opens for every"
            " URL. Decorate it with @signed_url_required, below @app.route()."
        )
    url = urlsplit(build(app, adapter, endpoint, values, method=method, external=_external))
    if url.netloc and not _external:
        raise ValueError(
            f"{what} was to have no host, and the endpoint is on another one, {url.netloc}. Leave"
            " _external=False out."
        )
    pairs = parse_qsl(url.query, keep_blank_values=True, errors="strict")
    kept = sorted(
        {name for name, _ in pairs} & ((ignored or frozenset()) | _ignored_everywhere(app))
    )
    if kept:
        pairs.append((SIGNED, ",".join(map(_escape, kept))))
    pairs.append((EXPIRES, str(expires)))
    message = _message(method, url.netloc, unquote(url.path), pairs)
    signature = signers_for(app, SALT, what)[0].get_signature(message).decode("ascii")
    query = "&".join(map(_spell, [*pairs, (SIGNATURE, signature)]))
    return with_anchor(urlunsplit((url.scheme, url.netloc, url.path, query, "")), _anchor)


@overload
def signed_url_required(view: F, /) -> F: ...


@overload
def signed_url_required(*, ignore: Iterable[str] = ()) -> Callable[[F], F]: ...


def signed_url_required(view: Any = None, /, *, ignore: Iterable[str] = ()) -> Any:
    """Let only URLs of ``signed_url_for`` reach a view; a decorator.

    Args:
        view: The view.
        ignore: Names of query parameters that may be added to the URL, such as those of mail
            trackers. ``SIDEARM_SIGNED_URL_IGNORE`` has them for every view.

    Raises:
        TypeError: ``ignore`` is no list of names.
        BadSignedURL: From the view: the URL is not as it was signed (403).
        ExpiredSignedURL: From the view: it is too old (410).
    """
    if isinstance(ignore, str) or not all(isinstance(name, str) for name in ignore):
        raise TypeError(
            f"@signed_url_required was given ignore={ignore!r}. Give a list of names, such as"
            " ['utm_source', 'fbclid']."
        )
    ignored = frozenset(ignore)

    def decorate(view: F) -> F:
        @functools.wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            check_request(ignored)
            return current_app.ensure_sync(view)(*args, **kwargs)

        return cast("F", mark_signed(checked, ignored))

    return decorate(view) if view is not None else decorate


def check_request(ignored: frozenset[str]) -> None:
    """Check the URL of the request.

    Args:
        ignored: The view's own names to ignore.

    Raises:
        BadSignedURL: It is not as it was signed.
        ExpiredSignedURL: It is too old.
    """
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001
    try:
        _check(app, ignored | _ignored_everywhere(app))
    except (BadSignedURL, ExpiredSignedURL) as error:
        logger.info("%s", error)
        raise


class _Query(NamedTuple):
    """What a query says.

    Attributes:
        pairs: What is signed, decoded.
        signatures: What stands for the signature; good URLs have one.
    """

    pairs: Pairs
    signatures: list[str]


def _check(app: Flask, ignored: frozenset[str]) -> None:
    query = _parse(request.query_string.decode("latin-1"), ignored)
    if len(query.signatures) != 1:
        number = "more than one" if query.signatures else "no"
        raise BadSignedURL(request.endpoint, f"it has {number} signature")
    signature = query.signatures[0].encode("ascii", "replace")
    method = "GET" if request.method == "HEAD" else request.method
    path = request.root_path.rstrip("/") + request.path
    messages = [_message(method, host, path, query.pairs) for host in (request.host.lower(), "")]
    if not any(
        hmac.compare_digest(signer.get_signature(message), signature)
        for signer in signers_for(app, SALT, "@signed_url_required")
        for message in messages
    ):
        raise BadSignedURL(
            request.endpoint,
            f"its signature does not fit (for the method {method} and the host {request.host!r})",
        )
    expires = int(dict(query.pairs)[EXPIRES])  # which is signed, so it is one of ours
    if time.time() > expires:
        raise ExpiredSignedURL(request.endpoint, date_of(expires))


def _parse(text: str, ignored: frozenset[str]) -> _Query:
    parts = text.split("&") if text else []
    signed = {
        unquote(name)
        for part in parts
        if part.startswith(f"{SIGNED}=")
        for name in unquote(part.partition("=")[2]).split(",")
    }
    query = _Query([], [])
    for part in parts:
        name, _, value = part.partition("=")
        # As Werkzeug decodes it, so that what is passed over is what it seems to be.
        if unquote_plus(name) in ignored - signed - RESERVED:
            continue
        pair = unquote(name), unquote(value)
        if _spell(pair) != part:
            raise BadSignedURL(request.endpoint, "its query is spelt in another way")
        if name == SIGNATURE:
            query.signatures.append(value)
        else:
            query.pairs.append(pair)
    return query


def _message(method: str, host: str, path: str, pairs: Pairs) -> bytes:
    # Sorting is stable: the values of one name keep their order, which the view sees.
    ordered = sorted(pairs, key=lambda pair: pair[0])
    return msgspec.msgpack.encode((method, host.lower(), path, ordered))


def _spell(pair: tuple[str, str]) -> str:
    return f"{_escape(pair[0])}={_escape(pair[1])}"


def _escape(text: str) -> str:
    return quote(text, safe="", errors="replace")


def _age(app: Flask, max_age: float | timedelta | None, what: str) -> float:
    longest: float = state_of(app).settings.signed_url_max_age
    if max_age is None:
        return longest
    age = seconds(max_age, f"The _max_age of {what}")
    if age > longest:
        raise ValueError(
            f"The _max_age of {what} is {age:g} seconds, and SIDEARM_SIGNED_URL_MAX_AGE allows"
            f" {longest:g}. Give less, or raise the setting."
        )
    return age


def _usual_method(app: Flask, endpoint: str) -> str:
    try:
        rules = list(app.url_map.iter_rules(endpoint))
    except KeyError:  # building the URL will say so
        return "GET"
    methods = set[str]().union(*(rule.methods or {"GET"} for rule in rules))
    methods -= {"HEAD", "OPTIONS"}
    return methods.pop() if len(methods) == 1 else "GET"


def _ignored_everywhere(app: Flask) -> frozenset[str]:
    ignored: frozenset[str] = state_of(app).settings.signed_url_ignore
    return ignored

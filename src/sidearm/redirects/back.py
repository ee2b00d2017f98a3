"""Going back: to where a form, a query or the page before asks, if that is safe (D2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, quote, unquote

from ada_url import URL
from flask import current_app, redirect, request, url_for
from werkzeug.urls import iri_to_uri
from werkzeug.wrappers import Response

from ..exceptions import RedirectLoop, UnsafeRedirect
from ..origin import trusted_origin
from .leaving import describe_place
from .verdict import is_safe_url

#: The form's and the query's field that says where to go, as in the talk and in Flask-Login.
FIELD = "next"

#: Methods that carry no form, and after which a redirect keeps the method anyway (RFC 9110, 9.2.1).
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

#: Any origin, to read a reference against where the application's own is not known.
_NOWHERE = "http://origin.invalid"


def is_different_url(target: Any) -> bool:
    """Whether a redirect to a target leads to another page than the one of this request.

    Compared is what a server gets: origin, path and query, decoded; not the fragment, and not the
    order of differently named fields.

    Args:
        target: A path, a URL, rubbish, ``None``.

    Returns:
        ``False`` also for what no browser could go to.

    Raises:
        RuntimeError: No request is running, or its application has no Sidearm.
    """
    if not isinstance(target, str):
        return False
    origin = trusted_origin() or _NOWHERE
    path = request.root_path + request.path
    query = request.query_string.decode(errors="replace")
    try:
        # As redirect() sends it, which drops a query that is empty.
        url = URL(iri_to_uri(target), origin + quote(path) + (f"?{query}" if query else ""))
    except ValueError:  # it has no host, or is no text
        return False
    return (url.origin, unquote(url.pathname), _fields(url.search[1:])) != (
        origin,
        path,
        _fields(query),
    )


def _fields(query: str) -> list[tuple[str, str]]:
    """The fields of a query by name; what has one name stays in order."""
    return sorted(parse_qsl(query, keep_blank_values=True), key=lambda field: field[0])


def redirect_target() -> str | None:
    """Where the running request asks to be sent back to.

    Asked are the form's field ``next``, the query's, and then the page before: what htmx says in
    ``HX-Current-URL``, and the referrer. What is not safe is skipped, and so is the page of this
    request itself.

    Returns:
        A target for which :func:`is_safe_url` and :func:`is_different_url` are true, or ``None``.

    Raises:
        RuntimeError: No request is running, or its application has no Sidearm.
    """
    return next(filter(is_different_url, filter(is_safe_url, _candidates())), None)


def _candidates() -> Iterator[str | None]:
    if request.method not in _SAFE_METHODS:
        yield request.form.get(FIELD)
    yield _asked_by_query()
    if _is_htmx():
        yield request.headers.get("HX-Current-URL")
    yield request.referrer


def _asked_by_query() -> str | None:
    try:
        return request.args.get(FIELD)
    except UnicodeDecodeError:  # bytes that are no UTF-8, and that nobody has percent-encoded
        return None


def redirect_back(fallback: str, /, code: int | None = None, **values: Any) -> Response:
    """Send the browser back to where it came from, or asks to go, and never off the site.

    The target is :func:`redirect_target`'s, or else the fallback. A request of htmx is answered
    with 204 and ``HX-Redirect``, because its script would follow a ``Location`` by itself and put
    the page that it finds into the one that is open.

    Args:
        fallback: A path or URL, such as ``url_for("index")``; or the name of an endpoint.
        code: The status. Without it 303 after a POST (and what else changes something), so that
            the browser goes on with GET, and 302 otherwise.
        **values: For the endpoint's URL.

    Returns:
        The response, which varies by ``HX-Request``.

    Raises:
        UnsafeRedirect: The fallback itself leads to another origin, in each mode of
            ``SIDEARM_CHECK_REDIRECTS``.
        RedirectLoop: There is only the fallback to go to, and it is the page of this very request,
            which is a GET.
        TypeError: The fallback is no text, or is a URL and there are values.
    """
    safe_method = request.method in _SAFE_METHODS
    htmx = _is_htmx()
    target = redirect_target()
    if target is None:
        target = _fallback_url(fallback, values)
        if not is_safe_url(target):
            raise UnsafeRedirect("Location", target, trusted_origin(), describe_place())
        if safe_method and not htmx and not is_different_url(target):
            raise RedirectLoop(target)
    response: Response
    if htmx:
        response = current_app.response_class(status=204)
        response.headers["HX-Redirect"] = iri_to_uri(target)
        del response.headers["Content-Type"]
    else:
        response = redirect(target, code or (302 if safe_method else 303))
    response.vary.add("HX-Request")
    return response


def _is_htmx() -> bool:
    return request.headers.get("HX-Request") == "true"


def _fallback_url(fallback: Any, values: dict[str, Any]) -> str:
    if not isinstance(fallback, str) or not fallback:
        raise TypeError(
            f"redirect_back() was given {fallback!r} to fall back on. Give a path, such as"
            " url_for('index'), or the name of an endpoint."
        )
    if not set(fallback) & set("/?#:"):
        return url_for(fallback, **values)
    if values:
        raise TypeError(
            f"redirect_back() was given the URL {fallback!r} and values for an endpoint:"
            f" {', '.join(values)}. Give the endpoint's name with them."
        )
    return fallback

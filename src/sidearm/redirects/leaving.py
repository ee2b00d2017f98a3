"""What leaves is looked at once more: no redirect goes elsewhere unnoticed (D1).

Seen are a response's final headers: after the view, the error handlers and all ``after_request``
functions, and as Werkzeug rewrites them for the server. What a WSGI middleware that is put around
the application changes afterwards is not seen; nothing of the application runs there.

``Location`` redirects with some statuses only. ``Refresh`` (HTML, 7.5.1), ``HX-Redirect`` and
``HX-Location`` (htmx) and ``Turbo-Location`` (Turbo) do so with every status.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

from flask import Response, current_app, request
from werkzeug.exceptions import InternalServerError
from werkzeug.wrappers import Response as WerkzeugResponse

from ..exceptions import UnsafeRedirect
from ..signals import redirect_leaving
from ..tasks.records import tell
from ..tasks.requests import answer_instead
from .verdict import current_destinations, is_path, is_relative

logger = logging.getLogger("sidearm.redirects")

#: Statuses with which a browser follows ``Location`` (Fetch, 2.2.6).
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})

_HEADERS = frozenset({"location", "refresh", "hx-redirect", "hx-location", "turbo-location"})

#: A time, and what may stand between it and a URL. Browsers agree about less than the standard
#: says, so everything that can end the time ends it here.
_REFRESH_TIME = re.compile(r"[^;,\s]*\s*[;,]?\s*")
_REFRESH_NAME = re.compile(r"url\s*=\s*", re.IGNORECASE)


def check_redirects(response: Response, *, refuse: bool) -> Response:
    """Look for a redirect away from the application's origin, in a request.

    Args:
        response: What is about to leave.
        refuse: Answer with :exc:`UnsafeRedirect` instead; else it is only told.

    Returns:
        The response, or the one of the application's error handlers.

    Raises:
        UnsafeRedirect: If it refuses and the application wants errors to propagate.
    """
    # Every response comes by here, and few redirect; most of those to a page of this site.
    for name, value in response.headers:
        lower = name.lower()
        if lower in _HEADERS and not (lower == "location" and _is_kept_here(response, value)):
            break
    else:
        return response
    error = find_unsafe_redirect(response)
    if error is None:
        return response
    app = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 (its API)
    if not refuse:
        logger.warning("%s", error)
    tell(redirect_leaving, app, error=error, refused=refuse)
    if not refuse:
        return response
    answer = answer_instead(response, error)
    if find_unsafe_redirect(answer) is not None:  # the handler makes the same mistake
        answer = app.make_response(InternalServerError(original_exception=error))
    return answer


def find_unsafe_redirect(response: Response) -> UnsafeRedirect | None:
    """Find the first header of a response by which a browser would leave, in a request.

    Args:
        response: Not yet sent.
    """
    for name, value in _redirecting_headers(response):
        for target in targets_of(name.lower(), value):
            if target is not None and is_relative(target):
                continue
            destinations = current_destinations()
            if target is None or not destinations.include(target):
                told = value if target is None else target
                return UnsafeRedirect(name, told, destinations.origin, describe_place())
    return None


def _redirecting_headers(response: Response) -> list[tuple[str, str]]:
    """The headers of a response that redirect, as they leave."""
    try:
        headers = response.get_wsgi_headers(request.environ)
    except ValueError:  # Werkzeug cannot read the location that it should rewrite
        headers = response.headers
    follows = response.status_code in _REDIRECT_STATUSES
    return [
        (name, value)
        for name, value in headers
        if (lower := name.lower()) in _HEADERS and (follows or lower != "location")
    ]


def _is_kept_here(response: Response, location: str) -> bool:
    """Whether a location is on this origin, before Werkzeug has rewritten it and so after it.

    What has no host is percent-encoded and nothing else, and what is plain is left alone. All
    else is judged as it leaves.
    """
    if (
        response.autocorrect_location_header
        or type(response).get_wsgi_headers is not WerkzeugResponse.get_wsgi_headers
    ):
        return False
    if location.startswith("http") and current_destinations().have_plain(location):
        return True
    return bool((location.isascii() and is_path(location)) or is_relative(location))


def targets_of(name: str, value: str) -> Iterator[str | None]:
    """Every target that some browser may find in a header.

    Args:
        name: The header's name in lower case.
        value: As it is given to the server.

    Yields:
        Targets; ``None`` for what cannot be read.
    """
    value = value.strip(" \t")  # as a browser strips a header's value
    if name == "refresh":
        yield from _refresh_targets(value)
    elif name == "hx-location" and value.startswith("{"):
        yield _htmx_path(value)
    else:
        yield value


def _refresh_targets(value: str) -> Iterator[str]:
    """The readings of ``5; url='/x'`` (HTML, 7.5.1; Chromium ends at the last quote)."""
    time = _REFRESH_TIME.match(value)
    rest = value[time.end() if time else 0 :]
    if not rest:  # the page itself, again
        return
    name = _REFRESH_NAME.match(rest)
    url = rest[name.end() if name else 0 :]
    if url[:1] in {'"', "'"}:
        quote, inner = url[0], url[1:]
        yield inner.partition(quote)[0]
        yield inner.rpartition(quote)[0].strip(" \t")
    else:
        yield url


def _htmx_path(value: str) -> str | None:
    """The ``path`` of an ``HX-Location`` that is an object."""
    try:
        path: Any = json.loads(value)["path"]
    except (ValueError, KeyError, RecursionError):
        return None
    return path if isinstance(path, str) else None


def describe_place() -> str:
    """Name the view of the running request, and where its code is."""
    endpoint = request.endpoint
    if endpoint is None:
        return f"The answer to a {request.method} that no rule matches"
    view = current_app.view_functions.get(endpoint)
    view = inspect.unwrap(getattr(view, "view_class", view)) if view is not None else None
    code = getattr(view, "__code__", None)
    place = f" ({code.co_filename}:{code.co_firstlineno})" if code is not None else ""
    return f"The view {endpoint!r}{place}"

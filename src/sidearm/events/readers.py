"""Whose pages may read streams: the application's own, and those that it names (contract H12).

A stream is asked for with the cookies of whoever looks at the page. That a page of another site
cannot read the answer is the browser's doing, and ends where somebody adds CORS headers to all
responses; and a stream that nobody can read is held open all the same. So it is refused.

Browsers say in ``Sec-Fetch-Site`` how far the page is from here, and no script can change that.
Where it is missing (plain HTTP, an old browser), or says no more than ``same-site``, ``Origin``
decides. What sends neither is no page, or asks in a way in which no script can read the answer.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..origin import trusted_origin
from ..tasks.flask_contexts import current_request_context
from ..tasks.state import state_of
from .exceptions import ForeignReader

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flask import Response

    from ..settings import Settings

logger = logging.getLogger("sidearm.events")

#: What ``Sec-Fetch-Site`` says of the application's own pages, and of what a person types.
_OWN = frozenset({"same-origin", "none"})

#: What a page of another origin may see of the head (Fetch, 3.2.4): ``sidearm.js`` wants it.
_EXPOSED = "Sidearm-Stream, Retry-After"

#: How long a browser may remember the answer to its preflight.
_MAX_AGE = 7200  # seconds; Chromium takes no more

_REPLACED = frozenset(
    {
        "access-control-allow-origin",
        "access-control-allow-credentials",
        "access-control-expose-headers",
    }
)


def foreign_reader(environ: dict[str, Any], settings: Settings) -> str | None:
    """Which other origin's page asks for a stream, if it may.

    Args:
        environ: Of the current request.
        settings: Which origins may.

    Returns:
        The origin, which needs :func:`allow`; ``None`` for the application's own pages, and for
        what is no page.

    Raises:
        ForeignReader: It may not.
    """
    site: str | None = environ.get("HTTP_SEC_FETCH_SITE")
    if site in _OWN:
        return None
    reader: str | None = environ.get("HTTP_ORIGIN")
    if reader is None and site != "cross-site":
        return None
    own = trusted_origin()
    if reader == own and site != "cross-site":
        return None
    if reader in settings.stream_origins:
        return reader
    error = ForeignReader(reader, site, own)
    _tell(error)
    raise error


def _tell(error: ForeignReader) -> None:
    """Log a refusal, once for each endpoint: a page's developer sees a CORS error and no reason."""
    context = current_request_context(None)
    endpoint = context.request.endpoint
    told: set[Any] = state_of(context.app).told
    if (ForeignReader, endpoint) not in told:
        told.add((ForeignReader, endpoint))
        logger.warning("%r refused a stream: %s", endpoint, error.description)


def fields_for(reader: str) -> tuple[tuple[str, str], ...]:
    """What lets a page of another origin read a response (Fetch, 3.2), beside ``Vary: Origin``.

    The origin was named by the application, so its page may send cookies.

    Args:
        reader: From :func:`foreign_reader`.
    """
    return (
        ("Access-Control-Allow-Origin", reader),
        ("Access-Control-Allow-Credentials", "true"),
        ("Access-Control-Expose-Headers", _EXPOSED),
    )


def allowing(headers: Iterable[tuple[str, str]], reader: str) -> list[tuple[str, str]]:
    """The final headers of a response, with those that let a page of another origin read it.

    Args:
        headers: Others that say the same are left out.
        reader: From :func:`foreign_reader`.
    """
    others = [pair for pair in headers if pair[0].lower() not in _REPLACED]
    return [*others, *fields_for(reader), ("Vary", "Origin")]


def answer_preflight() -> Response | None:
    """Answer a browser that asks whether a page may send ``Last-Event-ID``.

    An ``EventSource`` does not ask, and what reads by ``fetch`` has to (Fetch, 4.8). This runs
    before all others: a preflight carries no cookies, so whoever wants a log-in would refuse it.
    What the answer allows is a GET with this header, and not to read what comes.
    """
    context = current_request_context(None)
    environ = context.request.environ
    if environ["REQUEST_METHOD"] != "OPTIONS" or context.request.url_rule is None:
        return None
    asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "").lower().split(",")
    reader = environ.get("HTTP_ORIGIN")
    if (
        environ.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD") != "GET"
        or [name.strip() for name in asked] != ["last-event-id"]
        or reader not in context.app.extensions["sidearm"].settings.stream_origins
    ):
        return None
    response: Response = context.app.response_class(status=204)
    response.headers.extend(
        [
            *fields_for(reader),
            ("Access-Control-Allow-Headers", "Last-Event-ID"),
            ("Access-Control-Allow-Methods", "GET"),
            ("Access-Control-Max-Age", str(_MAX_AGE)),
        ]
    )
    response.vary.update(["Origin", "Access-Control-Request-Headers"])
    return response

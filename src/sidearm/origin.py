"""The application's own origin, as browsers see it: from the settings where they tell it.

A ``Host`` header is what a client says. A browser says the truth in it, but what stands in front
(a cache, a proxy that passes on what it was sent) can be told anything by anybody. So
``SIDEARM_ORIGIN`` decides, then ``SERVER_NAME``, and the header only where neither is set;
``TRUSTED_HOSTS`` is Flask's own list of what it may say.

There are two questions. Where a redirect may go is asked of the browser that sent the request, so
its ``Host`` counts where no setting tells more: :func:`trusted_origin`. A link that leaves in a
mail goes to somebody else, so there the header counts only if ``TRUSTED_HOSTS`` allows it:
:func:`vouched_origin`.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any, NamedTuple

from ada_url import URL
from flask import Flask, Request, current_app, has_request_context, request
from werkzeug.exceptions import SecurityError

from .exceptions import UnknownOrigin
from .tasks.flask_contexts import current_request_context
from .tasks.state import state_of

logger = logging.getLogger("sidearm.origin")


def trusted_origin() -> str | None:
    """The origin of the application, as in RFC 6454: scheme, host and unusual port.

    Returns:
        For example ``https://shop.example``; ``None`` where no setting tells it and the request
        has no host, or one that is not trusted.

    Raises:
        RuntimeError: No application context is pushed, or its application has no Sidearm.
    """
    app, context = running_application()
    origin: str | None = state_of(app).settings.origin
    return origin or derive_origin(app, context and context.request)


class Origin(NamedTuple):
    """Scheme and host, with an unusual port."""

    scheme: str
    host: str


def vouched_origin(app: Flask, what: str) -> Origin:
    """Where this site is, by the settings.

    ``SIDEARM_ORIGIN`` counts first, then Flask's ``SERVER_NAME``; then, in a request, a ``Host``
    that ``TRUSTED_HOSTS`` allows.

    Args:
        app: The application.
        what: The call that makes a link, for the error.

    Raises:
        UnknownOrigin: The settings do not tell. In debug mode the request's ``Host`` is taken.
    """
    origin: str | None = state_of(app).settings.origin
    if origin is not None:
        scheme, _, host = origin.partition("://")
        return Origin(scheme, host)
    in_request = has_request_context()
    # Behind a proxy the request knows the scheme by ProxyFix, and outside Flask has a setting.
    scheme = request.scheme if in_request else app.config["PREFERRED_URL_SCHEME"]
    server_name: str | None = app.config["SERVER_NAME"]
    if server_name is not None:
        return Origin(scheme, server_name)
    if in_request and request.trusted_hosts:
        return Origin(scheme, request.host)
    if in_request and app.debug:
        told: set[str] = state_of(app).told
        if "origin" not in told:
            told.add("origin")
            logger.warning(
                "%s takes the host from the request, because SIDEARM_ORIGIN is not set. Outside"
                " debug mode this is an error.",
                what,
            )
        return Origin(scheme, request.host)
    raise UnknownOrigin(what)


def running_application() -> tuple[Flask, Any]:
    """The application that runs, and the context of its request if there is one.

    Raises:
        RuntimeError: No application context is pushed.
    """
    context: Any = current_request_context(None)
    if context is not None:
        return context.app, context
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]  # noqa: SLF001 (its API)
    return app, None


def derive_origin(app: Flask, request: Request | None) -> str | None:
    """What :func:`trusted_origin` is where ``SIDEARM_ORIGIN`` does not tell it."""
    name: str | None = app.config["SERVER_NAME"]
    if request is not None:
        host = _request_host(request, name, subdomains=app.subdomain_matching)
        return serialize_origin(request.scheme, host) if host else None
    return serialize_origin(app.config["PREFERRED_URL_SCHEME"], name) if name else None


def _request_host(request: Request, name: str | None, *, subdomains: bool) -> str | None:
    """The host under which a request came, unless SERVER_NAME knows better."""
    try:
        host: str = request.host
    except SecurityError:  # not one of TRUSTED_HOSTS
        host = ""
    # Flask routes every host under SERVER_NAME where it has been told that there are such.
    if not name or (subdomains and host.lower().endswith(f".{name.lower()}")):
        return host
    return name


@lru_cache(maxsize=64)
def serialize_origin(scheme: str, host: str) -> str | None:
    """Write an origin as browsers do (URL, 4.7): in lower case, without the scheme's own port.

    Args:
        scheme: ``http`` or ``https``.
        host: A host, and a port if there is one.

    Returns:
        ``None`` if a browser would understand something else by it, or nothing.
    """
    if scheme not in {"http", "https"} or not host.isascii() or set(host) & set("/\\?#@%"):
        return None
    try:
        return URL(f"{scheme}://{host}").origin
    except ValueError:
        return None

"""The application's own origin, as browsers see it: from the settings where they tell it.

A ``Host`` header is what a client says. A browser says the truth in it, but what stands in front
(a cache, a proxy that passes on what it was sent) can be told anything by anybody. So
``SIDEARM_ORIGIN`` decides, then ``SERVER_NAME``, and the header only where neither is set;
``TRUSTED_HOSTS`` is Flask's own list of what it may say.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from ada_url import URL
from flask import Flask, Request, current_app
from werkzeug.exceptions import SecurityError

from .tasks.flask_contexts import current_request_context
from .tasks.state import state_of


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

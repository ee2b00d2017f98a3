"""Links that leave the application in a mail: with a host that the settings vouch for.

In a request Flask takes the host of ``url_for(..., _external=True)`` from the ``Host`` header.
Whoever asks for a password reset of somebody else chooses that header, and the mail then carries
the token to a host of theirs.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple
from urllib.parse import quote

from flask import Flask, has_request_context, request
from werkzeug.routing import BuildError, MapAdapter

from ..exceptions import UnknownOrigin
from ..tasks.state import state_of, the_app

logger = logging.getLogger("sidearm.signing")


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


def adapter_for(app: Flask, origin: Origin | None) -> MapAdapter:
    """What builds URLs, with the prefix and the subdomain of the request if there is one.

    Args:
        app: The application.
        origin: Under which host; ``None`` for URLs that have none.
    """
    adapter = app.create_url_adapter(request) if has_request_context() else None
    if adapter is None:
        adapter = app.url_map.bind("localhost", script_name=app.config["APPLICATION_ROOT"])
    if origin is not None:
        adapter.server_name, adapter.url_scheme = origin.host, origin.scheme
    return adapter


def build(
    app: Flask,
    adapter: MapAdapter,
    endpoint: str,
    values: dict[str, Any],
    *,
    method: str | None,
    external: bool,
) -> str:
    """Build a URL as ``app.url_for`` does, by another adapter."""
    app.inject_url_defaults(endpoint, values)
    try:
        return adapter.build(endpoint, values, method=method, force_external=external)
    except BuildError as error:
        values.update(_anchor=None, _method=method, _scheme=None, _external=external)
        return app.handle_url_build_error(error, endpoint, values)


def full_name(endpoint: str) -> str:
    """An endpoint with its blueprint, if it is relative to that of the request (``.index``)."""
    if not endpoint.startswith("."):
        return endpoint
    blueprint = request.blueprint if has_request_context() else None
    return f"{blueprint}{endpoint}" if blueprint else endpoint[1:]


def with_anchor(url: str, anchor: str | None) -> str:
    """A URL with a fragment."""
    return url if anchor is None else f"{url}#{quote(anchor, safe='%!#$&()*+,/:;=?@')}"


def external_url_for(
    endpoint: str, *, _anchor: str | None = None, _method: str | None = None, **values: Any
) -> str:
    """Make a link for a mail: ``url_for`` with a host that the request cannot choose.

    Args:
        endpoint: As for ``flask.url_for``.
        _anchor: The fragment.
        _method: The HTTP method whose rule is meant, if there are several.
        values: For the rule's variables; others become the query.

    Returns:
        A URL with scheme and host: those of ``SIDEARM_ORIGIN``, or of ``SERVER_NAME``, or a
        request's own if ``TRUSTED_HOSTS`` allows it.

    Raises:
        UnknownOrigin: None of them is set.
    """
    what = f"external_url_for({endpoint!r})"
    app = the_app(what)
    endpoint = full_name(endpoint)
    adapter = adapter_for(app, vouched_origin(app, what))
    url = build(app, adapter, endpoint, values, method=_method, external=True)
    return with_anchor(url, _anchor)

"""Links that leave the application in a mail: with a host that the settings vouch for.

In a request Flask takes the host of ``url_for(..., _external=True)`` from the ``Host`` header.
Whoever asks for a password reset of somebody else chooses that header, and the mail then carries
the token to a host of theirs.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from flask import Flask, has_request_context, request
from werkzeug.routing import BuildError, MapAdapter

from ..origin import Origin, vouched_origin
from ..tasks.state import the_app


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

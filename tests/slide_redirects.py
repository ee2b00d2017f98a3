"""The talk's slide of chapter 8, for Python 3 and today's Flask: only imports have changed."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urljoin, urlparse

from flask import redirect, request

if TYPE_CHECKING:
    from werkzeug.wrappers import Response


def is_safe_url(target: str) -> bool:
    """The slide's."""
    ref_url = urlparse(request.host_url)
    test_url = urlparse(urljoin(request.host_url, target))
    return test_url.scheme in ("http", "https") and ref_url.netloc == test_url.netloc


def is_different_url(url: str) -> bool:
    """The slide's; Werkzeug's ``url_decode`` is Python's ``parse_qs`` today."""
    this_parts = urlparse(request.url)
    other_parts = urlparse(url)
    return this_parts[:4] != other_parts[:4] and parse_qs(this_parts.query) != parse_qs(
        other_parts.query
    )


def redirect_back(fallback: str) -> Response:
    """The slide's."""
    next = request.args.get("next") or request.referrer  # noqa: A001 - as on the slide
    if next and is_safe_url(next) and is_different_url(next):
        return redirect(next)
    return redirect(fallback)

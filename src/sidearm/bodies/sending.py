"""``flask sidearm deliver``: what a source would send, signed with a secret of the settings."""

from __future__ import annotations

import time
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from flask import Flask

from ..exceptions import StartError
from .webhooks import require_source

TIMEOUT = 30.0  # seconds


def deliver(app: Flask, source: str, url: str, body: bytes, id: str | None = None) -> str:
    """Sign a body as a source would, send it, and tell the answer.

    Args:
        app: The application, for its settings.
        source: The source's name in ``SIDEARM_WEBHOOKS``.
        url: Where the view is.
        body: The body.
        id: The delivery's id, to send one again; by default a new one.

    Returns:
        The status, and the answer's body below it.

    Raises:
        SettingError: The settings lack the source.
        StartError: The URL is none of ``http``, or nobody answers there.
    """
    if urlsplit(url).scheme not in {"http", "https"}:
        raise StartError(f"The URL is {url!r}. Give one such as http://127.0.0.1:5000/hooks/pay.")
    headers = require_source(app, source).scheme.sign(body, now=time.time(), id=id)
    request = Request(  # noqa: S310 - the scheme was looked at
        url, body, {**headers, "Content-Type": "application/json"}, method="POST"
    )
    try:
        with urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            return _told(answer.status, answer.reason, answer.read())
    except HTTPError as answer:
        return _told(answer.code, answer.reason, answer.read())
    except (OSError, HTTPException) as error:
        raise StartError(f"Nobody answers at {url}: {error}.") from error


def _told(status: int, reason: str, body: bytes) -> str:
    return f"{status} {reason}\n{body.decode('utf-8', 'replace')}".rstrip()

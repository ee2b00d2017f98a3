"""Sidearm Outfitters: a small shop whose purchases, mails and live pages agree with one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Flask, Response

from sidearm import Sidearm

from . import config as configuration
from . import database, errors, seed, views
from .database import db

arm = Sidearm()
arm.use(db, commit="task")

# Everything that the pages need comes from the shop itself, so the browser may refuse the rest.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the application.

    Args:
        config: Goes before the environment; see :mod:`shop.config` for the keys.
    """
    app = Flask(
        __name__, instance_path=configuration.instance_path(), instance_relative_config=True
    )
    configuration.load(app, config or {})
    db.init_app(app)
    arm.init_app(app)
    database.prepare(app)
    errors.register(app)
    app.register_blueprint(views.shop)
    app.cli.add_command(seed.seed)
    app.after_request(_add_headers)
    return app


def _add_headers(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "same-origin")
    if response.mimetype == "text/html":
        # A page that comes back from the browser's history may show itself, and then catches up.
        response.headers.setdefault("Cache-Control", "private, no-cache")
    return response

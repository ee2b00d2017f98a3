"""Sidearm Outfitters: a small shop whose purchases, mails and live pages agree with one another."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from flask import Flask, Response, g
from flask_wtf import CSRFProtect

from . import account_views, database, errors, hooks, seed, views
from . import config as configuration
from .accounts import login_manager
from .database import arm, db

csrf = CSRFProtect()

# Everything that the pages need comes from the shop itself, so the browser may refuse the rest. The
# one script inside a page, its import map, has the nonce of its answer.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'{nonce}; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
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
    csrf.init_app(app)
    # Its context processor would ask the database for each page, also for that of a broken one.
    login_manager.init_app(app, add_context_processor=False)
    database.prepare(app)
    errors.register(app)
    app.register_blueprint(views.shop)
    app.register_blueprint(account_views.account)
    app.register_blueprint(hooks.hooks)
    csrf.exempt(hooks.hooks)  # services have no token of our forms; they sign
    app.cli.add_command(seed.seed)
    app.add_template_global(csp_nonce)
    app.after_request(_add_headers)
    return app


def csp_nonce() -> str:
    """The nonce that lets this answer's own inline script run, and no other's."""
    if "csp_nonce" not in g:
        g.csp_nonce = secrets.token_urlsafe(16)
    nonce: str = g.csp_nonce
    return nonce


def _add_headers(response: Response) -> Response:
    nonce = f" 'nonce-{g.csp_nonce}'" if "csp_nonce" in g else ""
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY.format(nonce=nonce)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "same-origin")
    if response.mimetype == "text/html":
        # A page that comes back from the browser's history may show itself, and then catches up.
        response.headers.setdefault("Cache-Control", "private, no-cache")
    return response

"""The shop's configuration: defaults, the environment, and a secret key that nobody has to invent.

======================  ===================================================================
``SHOP_DATABASE_URL``   where the data is; ``sqlite:///shop.db`` lies in the instance folder
``SHOP_SECRET_KEY``     signs the session; without it a random key is kept in that folder
``SHOP_SMTP_URL``       ``smtp://host:port`` or ``smtps://user:password@host``; without it mails
                        go to a mailbox that the shop shows at ``/mailbox``
``SHOP_MAIL_FROM``      the sender of these mails
``SHOP_INSTANCE_PATH``  the instance folder (only in the environment)
======================  ===================================================================
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flask import Flask

from .mail import parse_smtp_url

DEFAULTS = {
    "SHOP_DATABASE_URL": "sqlite:///shop.db",
    "SHOP_SECRET_KEY": None,
    "SHOP_SMTP_URL": None,
    "SHOP_MAIL_FROM": "Sidearm Outfitters <orders@outfitters.example>",
}

BUSY_TIMEOUT = 15.0  # seconds that one SQLite writer waits for another


def instance_path() -> str | None:
    """The instance folder that the environment names, or ``None`` for Flask's own choice."""
    folder = os.environ.get("SHOP_INSTANCE_PATH")
    return str(Path(folder).resolve()) if folder else None


def load(app: Flask, chosen: Mapping[str, Any]) -> None:
    """Fill ``app.config``: what was chosen in code goes before the environment and the defaults."""
    app.config.from_prefixed_env()
    for key, default in DEFAULTS.items():
        app.config[key] = os.environ.get(key, default)
    app.config.update(SESSION_COOKIE_SAMESITE="Lax", SESSION_COOKIE_NAME="outfitters")
    app.config.update(chosen)

    Path(app.instance_path).mkdir(parents=True, exist_ok=True)
    url = app.config["SHOP_DATABASE_URL"]
    app.config.setdefault("SQLALCHEMY_DATABASE_URI", url)
    if url.startswith("sqlite"):
        options = {"connect_args": {"timeout": BUSY_TIMEOUT}}
        app.config.setdefault("SQLALCHEMY_ENGINE_OPTIONS", options)
    if app.config["SECRET_KEY"] is None:
        app.config["SECRET_KEY"] = app.config["SHOP_SECRET_KEY"] or _kept_key(app.instance_path)
    app.extensions["shop_smtp"] = parse_smtp_url(app.config["SHOP_SMTP_URL"])


def _kept_key(folder: str) -> str:
    """The random key in the instance folder, made when the shop first starts there.

    Two workers may start at once: the key is written aside and then linked into place, which
    only one of them can do, so nobody ever reads half a key and all of them read the same.
    """
    path = Path(folder, "secret_key")
    if not path.exists():
        handle, written = tempfile.mkstemp(dir=folder, prefix="secret_key.")  # readable by us only
        try:
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_urlsafe(32))
            os.link(written, path)
        except FileExistsError:
            pass  # another worker was first, and its key is as good
        finally:
            Path(written).unlink()
    return path.read_text().strip()

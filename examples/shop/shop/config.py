"""The shop's configuration: defaults, the environment, and a secret key that nobody has to invent.

======================  ===================================================================
``SHOP_DATABASE_URL``   where the data is; ``sqlite:///shop.db`` lies in the instance folder,
                        ``postgresql://user:password@host/name`` wants psycopg 3
``SHOP_ORIGIN``         where the shop is, such as ``https://shop.example``: for links in mails, and
                        for what is a page of the shop. Without it the shop answers to
                        ``localhost`` and ``127.0.0.1`` only
``SHOP_SECRET_KEY``     signs the session and the links in mails, at least 16 bytes; without it a
                        random key is kept in that folder
``SHOP_SMTP_URL``       ``smtp://host:port`` or ``smtps://user:password@host``; without it mails
                        go to a mailbox that the shop shows at ``/mailbox``
``SHOP_MAIL_FROM``      the sender of these mails
``SHOP_WEBHOOK_SECRET`` with which the payment service signs, ``whsec_...``; without it a random one
                        is kept in that folder
``SIDEARM_BROKER``      where the events are, if the shop runs on several machines:
                        ``redis://host:port/database``; without it in the hub
``SHOP_INSTANCE_PATH``  the instance folder (only in the environment)
======================  ===================================================================
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import tempfile
from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flask import Flask
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from .mail import parse_smtp_url

DEFAULTS = {
    "SHOP_DATABASE_URL": "sqlite:///shop.db",
    "SHOP_ORIGIN": None,
    "SHOP_SECRET_KEY": None,
    "SHOP_SMTP_URL": None,
    "SHOP_WEBHOOK_SECRET": None,
    "SHOP_MAIL_FROM": "Sidearm Outfitters <orders@outfitters.example>",
}

LOCAL_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

BUSY_TIMEOUT = 15.0  # seconds that one SQLite writer waits for another
ENGINE_OPTIONS: dict[str, dict[str, Any]] = {
    "sqlite": {"connect_args": {"timeout": BUSY_TIMEOUT}},
    # A server that was started again breaks no request.
    "postgresql": {"pool_pre_ping": True},
}


def instance_path() -> str | None:
    """The instance folder that the environment names, or ``None`` for Flask's own choice."""
    folder = os.environ.get("SHOP_INSTANCE_PATH")
    return str(Path(folder).resolve()) if folder else None


def load(app: Flask, chosen: Mapping[str, Any]) -> None:
    """Fill ``app.config``: what was chosen in code goes before the environment and the defaults."""
    app.config.from_prefixed_env()
    for key, default in DEFAULTS.items():
        app.config[key] = os.environ.get(key, default)
    app.config.update(
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_NAME="outfitters",
        WTF_CSRF_TIME_LIMIT=None,  # as long as the session: a page may stay open over lunch
        SIDEARM_ASSETS=True,
    )
    if os.environ.get("SIDEARM_BROKER"):
        app.config["SIDEARM_BROKER"] = os.environ["SIDEARM_BROKER"]
    app.config.update(chosen)
    _set_origin(app)

    Path(app.instance_path).mkdir(parents=True, exist_ok=True)
    url = parse_database_url(app.config["SHOP_DATABASE_URL"])
    app.config.setdefault("SQLALCHEMY_DATABASE_URI", url)
    app.config.setdefault("SQLALCHEMY_ENGINE_OPTIONS", ENGINE_OPTIONS[url.get_backend_name()])
    if app.config["SECRET_KEY"] is None:
        app.config["SECRET_KEY"] = app.config["SHOP_SECRET_KEY"] or _kept_key(app.instance_path)
    payments = app.config["SHOP_WEBHOOK_SECRET"] or _kept_key(
        app.instance_path,
        "webhook_secret",
        _new_webhook_secret,
    )
    app.config.setdefault(
        "SIDEARM_WEBHOOKS", {"payments": {"scheme": "standard", "secrets": payments.split()}}
    )
    app.extensions["shop_smtp"] = parse_smtp_url(app.config["SHOP_SMTP_URL"])


def _set_origin(app: Flask) -> None:
    """Say where the shop is, so that no request can choose the host of a link in a mail."""
    origin = app.config["SHOP_ORIGIN"]
    if origin:
        app.config.setdefault("SIDEARM_ORIGIN", origin)
        app.config["SESSION_COOKIE_SECURE"] = str(origin).startswith("https:")
    elif not app.config.get("SIDEARM_ORIGIN") and not app.config["SERVER_NAME"]:
        app.config["TRUSTED_HOSTS"] = app.config["TRUSTED_HOSTS"] or LOCAL_HOSTS


def parse_database_url(url: str) -> URL:
    """Read ``SHOP_DATABASE_URL``; PostgreSQL is talked to by psycopg 3.

    Raises:
        ValueError: It is no URL of a database that the shop knows, or psycopg is not installed.
            The message does not repeat a password.
    """
    scheme, _, rest = url.partition(":")
    backend = "postgresql" if scheme == "postgres" else scheme.partition("+")[0]
    try:
        parsed = make_url(f"{backend}:{rest}")
    except ArgumentError:
        parsed = None
    if parsed is None or backend not in ENGINE_OPTIONS:
        raise ValueError(
            f"SHOP_DATABASE_URL begins with {scheme!r}. Give sqlite:///shop.db or"
            " postgresql://user:password@host/name."
        ) from None
    if backend == "postgresql":
        if importlib.util.find_spec("psycopg") is None:
            raise ValueError(
                "SHOP_DATABASE_URL names PostgreSQL, and psycopg is not installed. Install it:"
                " pip install 'psycopg[binary]'."
            )
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def _new_webhook_secret() -> str:
    return f"whsec_{b64encode(secrets.token_bytes(32)).decode()}"


def _kept_key(
    folder: str,
    name: str = "secret_key",
    make: Callable[[], str] = lambda: secrets.token_urlsafe(32),
) -> str:
    """The random key in the instance folder, made when the shop first starts there.

    Two workers may start at once: the key is written aside and then linked into place, which
    only one of them can do, so nobody ever reads half a key and all of them read the same.
    """
    path = Path(folder, name)
    if not path.exists():
        handle, written = tempfile.mkstemp(dir=folder, prefix=f"{name}.")  # readable by us only
        try:
            with os.fdopen(handle, "w") as file:
                file.write(make())
            os.link(written, path)
        except FileExistsError:
            pass  # another worker was first, and its key is as good
        finally:
            Path(written).unlink()
    return path.read_text().strip()

"""The talk's chapter 6, "Signing Stuff", row by row.

"literal" is the slide on Flask with Sidearm installed; "production" is Sidearm's answer.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import itsdangerous
import pytest
from flask import Flask, abort, url_for

from sidearm import Sidearm, signed_url_for, signed_url_required
from sidearm.resources.sqlite import SQLite
from sidearm.signing import CREATE_SPENT_TOKENS

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class User:
    """What the slide's function is given."""

    user_id: int


@dataclass
class Subscription:
    """A small fact that would need a row of its own."""

    list: str
    address: str


@pytest.fixture
def app(arm: Sidearm) -> Flask:
    app = Flask("yourapplication")
    app.config.update(
        TESTING=True,
        SECRET_KEY="for tests only, and long enough",
        SIDEARM_ORIGIN="https://shop.example",
    )
    arm.init_app(app)
    return app


def path_of(app: Flask, endpoint: str, **values: Any) -> str:
    with app.test_request_context():
        return url_for(endpoint, **values)


def test_6a_literal_an_activation_link(app: Flask) -> None:
    """The slide, unchanged: the link goes out, its code comes back in, a bad one is 404."""
    activated: list[int] = []
    activate_the_user_with_id = activated.append

    serializer = itsdangerous.URLSafeSerializer(secret_key=app.config["SECRET_KEY"])
    ACTIVATION_SALT = "\x7f\xfb\xc2(;\r\xa8O\x16{"  # noqa: N806 - the slide's name

    def get_activation_link(user: User) -> str:
        return url_for("activate", code=serializer.dumps(user.user_id, salt=ACTIVATION_SALT))

    @app.route("/activate/<code>")
    def activate(code: str) -> str:
        try:
            user_id = serializer.loads(code, salt=ACTIVATION_SALT)
        except itsdangerous.BadSignature:
            abort(404)
        activate_the_user_with_id(user_id)
        return "activated"

    with app.test_request_context():
        link = get_activation_link(User(42))
    client = app.test_client()

    assert client.get(link).text == "activated"
    assert activated == [42]
    assert client.get(link[:-2] + "xx").status_code == 404
    assert activated == [42]


def test_6a_production_an_activation_link(arm: Sidearm, app: Flask, tmp_path: Path) -> None:
    """It is asked for, works once, ends, and the view gets a number instead of a code."""
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.executescript(CREATE_SPENT_TOKENS)
    arm.use(SQLite(tmp_path / "shop.db"))
    activated: list[int] = []
    activate = arm.token("activate", int, max_age=timedelta(days=7), single_use=True)

    @app.route("/activate/<token('activate'):user_id>", methods=["GET", "POST"])
    @activate.confirm()
    def activate_user(user_id: int) -> str:
        activated.append(user_id)
        return "activated"

    link = path_of(app, "activate_user", user_id=42)
    client = app.test_client()

    assert '<form method="post">' in client.get(link).text
    assert activated == []
    assert client.post(link).text == "activated"
    assert activated == [42]
    assert client.post(link).status_code == 410
    assert client.post(link[:-2] + "xx").status_code == 404
    assert activated == [42]


def test_6b_literal_small_information_that_stays_around(app: Flask) -> None:
    """What makes a round trip needs no row: itsdangerous keeps it, for as long as the key stays."""
    serializer = itsdangerous.URLSafeSerializer(secret_key=app.config["SECRET_KEY"])

    @app.route("/unsubscribe/<code>")
    def unsubscribe(code: str) -> Any:
        return serializer.loads(code, salt="unsubscribe")

    code = serializer.dumps({"list": "news", "address": "a@b.example"}, salt="unsubscribe")

    assert app.test_client().get(f"/unsubscribe/{code}").json == {
        "list": "news",
        "address": "a@b.example",
    }


def test_6b_production_small_facts_need_no_row(arm: Sidearm, app: Flask) -> None:
    """A fact of any type, for years, over a rotation of keys; or a whole URL, as it is."""
    arm.token("unsubscribe", Subscription, max_age=timedelta(days=3650))

    @app.route("/unsubscribe/<token('unsubscribe'):subscription>", methods=["GET", "POST"])
    def unsubscribe(subscription: Subscription) -> str:
        return f"{subscription.address} leaves {subscription.list}"

    @app.get("/orders/<int:order_id>/invoice")
    @signed_url_required
    def invoice(order_id: int) -> str:
        return f"invoice {order_id}"

    link = path_of(app, "unsubscribe", subscription=Subscription("news", "a@b.example"))
    with app.app_context():
        url = signed_url_for("invoice", order_id=7, _max_age=3600)
    app.config["SECRET_KEY_FALLBACKS"] = [app.config["SECRET_KEY"]]
    app.config["SECRET_KEY"] = "the key after that, long enough too"
    client = app.test_client()

    assert client.get(link).text == "a@b.example leaves news"
    assert client.get(url, base_url="https://shop.example").text == "invoice 7"
    changed = url.replace("/7/", "/8/")
    assert client.get(changed, base_url="https://shop.example").status_code == 403

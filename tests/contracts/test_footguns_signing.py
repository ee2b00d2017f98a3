"""What goes wrong with the talk's activation link on today's Flask (14), and not with Sidearm."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import itsdangerous
import pytest
from flask import Flask, abort, url_for

from sidearm import Sidearm
from sidearm.resources.sqlite import SQLite
from sidearm.signing import CREATE_SPENT_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY, NEXT_KEY = "a key that is long enough", "the key after it, as long"
SALT = "\x7f\xfb\xc2(;\r\xa8O\x16{"
YEARS = 10 * 365 * 86400  # seconds


class Site:
    """An application with an activation link.

    Attributes:
        app: The application.
        activated: Whom its view has activated.
        link: Makes a link.
    """

    def __init__(self) -> None:
        self.app = Flask("site")
        self.app.config["SECRET_KEY"] = KEY
        self.activated: list[int] = []
        self.link: Callable[[int], str]

    def open(self, url: str, method: str = "GET") -> int:
        return self.app.test_client().open(url, method=method).status_code

    def rotate(self) -> None:
        """Take another key, and keep the old one for what it has signed, as Flask 3.1 has it."""
        self.app.config["SECRET_KEY_FALLBACKS"] = [KEY]
        self.app.config["SECRET_KEY"] = NEXT_KEY


@pytest.fixture
def slide() -> Site:
    """The slide's."""
    site = Site()
    serializer = itsdangerous.URLSafeSerializer(secret_key=site.app.config["SECRET_KEY"])

    @site.app.route("/activate/<code>")
    def activate(code: str) -> str:
        try:
            user_id = serializer.loads(code, salt=SALT)
        except itsdangerous.BadSignature:
            abort(404)
        site.activated.append(user_id)
        return "activated"

    def link(user_id: int) -> str:
        with site.app.test_request_context():
            return url_for("activate", code=serializer.dumps(user_id, salt=SALT))

    site.link = link
    return site


@pytest.fixture
def ours(tmp_path: Path) -> Site:
    """The same with Sidearm."""
    path = tmp_path / "site.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(CREATE_SPENT_TOKENS)
    site = Site()
    arm = Sidearm(site.app)
    arm.use(SQLite(path))
    kind = arm.token("activate", int, max_age=timedelta(days=7), single_use=True)

    @site.app.route("/activate/<token('activate'):user_id>", methods=["GET", "POST"])
    @kind.confirm()
    def activate(user_id: int) -> str:
        site.activated.append(user_id)
        return "activated"

    def link(user_id: int) -> str:
        with site.app.test_request_context():
            return url_for("activate", user_id=user_id)

    site.link = link
    return site


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + seconds)


def test_footgun_14_the_slides_link_never_expires(
    slide: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mail that is found ten years later still activates."""
    link = slide.link(42)
    later(monkeypatch, YEARS)
    assert slide.open(link) == 200


def test_footgun_14_sidearms_link_expires(ours: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a week, for good."""
    link = ours.link(42)
    later(monkeypatch, YEARS)
    assert [ours.open(link), ours.open(link, "POST")] == [410, 410]
    assert ours.activated == []


def test_footgun_14_the_slides_link_can_be_replayed(slide: Site) -> None:
    """Whoever finds it in a history or a log uses it again."""
    link = slide.link(42)
    assert [slide.open(link), slide.open(link)] == [200, 200]
    assert slide.activated == [42, 42]


def test_footgun_14_sidearms_link_works_once(ours: Site) -> None:
    """The second click is told so."""
    link = ours.link(42)
    assert [ours.open(link, "POST"), ours.open(link, "POST")] == [200, 410]
    assert ours.activated == [42]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_footgun_14_a_mail_scanner_uses_the_slides_link(slide: Site, method: str) -> None:
    """The user is activated before anybody has read the mail."""
    slide.open(slide.link(42), method)
    assert slide.activated == [42]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_footgun_14_a_mail_scanner_sees_sidearms_page(ours: Site, method: str) -> None:
    """And the link is good when the user comes."""
    link = ours.link(42)
    assert [ours.open(link, method) for _ in range(3)] == [200, 200, 200]
    assert ours.activated == []
    assert ours.open(link, "POST") == 200


def test_footgun_14_the_slides_key_is_read_at_import(slide: Site) -> None:
    """A changed key changes nothing until every process was started anew, and then everything."""
    link = slide.link(42)
    slide.rotate()
    assert slide.open(link) == 200
    restarted = itsdangerous.URLSafeSerializer(secret_key=slide.app.config["SECRET_KEY"])
    code: Any = link.rpartition("/")[2]
    with pytest.raises(itsdangerous.BadSignature):
        restarted.loads(code, salt=SALT)


def test_footgun_14_sidearms_keys_rotate(ours: Site) -> None:
    """The new key signs at once, and what is under way stays good."""
    link = ours.link(42)
    ours.rotate()
    new = ours.link(43)
    assert [ours.open(each, "POST") for each in (link, new)] == [200, 200]
    ours.app.config["SECRET_KEY_FALLBACKS"] = []
    assert ours.open(link) == 404

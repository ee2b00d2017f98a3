"""What the shop is told: seed, configuration, addresses."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from flask import Flask

from shop import create_app
from shop.config import parse_database_url
from shop.forms import parse_email_address
from shop.mail import SmtpServer, parse_smtp_url, send_mail
from shop.seed import read_catalogue


def test_seed_fills_an_empty_shop_once(make_app: Callable[..., Flask]) -> None:
    """The first run says what it did, in one line; the second does nothing and says so."""
    runner = make_app(empty=True).test_cli_runner()
    first, second = runner.invoke(args=["seed"]), runner.invoke(args=["seed"])
    assert first.output == "The shop has 234 products in 13 categories.\n"
    assert second.output == "The shop already has 234 products; nothing to do.\n"
    assert (first.exit_code, second.exit_code) == (0, 0)


def test_an_unseeded_shop_says_what_to_do(make_app: Callable[..., Flask]) -> None:
    """Without products the list names the command."""
    page = make_app(empty=True).test_client().get("/")
    assert page.status_code == 503
    assert "flask --app shop seed" in page.text


def test_the_catalogue_is_the_same_each_time() -> None:
    """Names are unique, prices and stocks are sensible, and two readings agree."""
    shelves = read_catalogue()
    products = [product for shelf in shelves for product in shelf.products]
    assert len(products) >= 200
    assert len({product.slug for product in products}) == len(products)
    assert all(100 <= product.price <= 100_000 for product in products)
    assert {product.stock == 0 for product in products} == {True, False}
    again = [product.stock for shelf in read_catalogue() for product in shelf.products]
    assert [product.stock for product in products] == again


def test_the_key_is_made_once_and_private(tmp_path: Path) -> None:
    """The first start makes a key that only its user can read; later ones and workers share it."""
    first, second = create_app(), create_app()
    assert first.config["SECRET_KEY"] == second.config["SECRET_KEY"]
    assert len(first.config["SECRET_KEY"]) >= 32
    path = tmp_path / "secret_key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.glob("secret_key*")] == ["secret_key"]


def test_the_environment_names_a_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several machines share one log by this variable alone; without it the hub has it."""
    assert create_app().extensions["sidearm"].settings.broker == "hub:"
    monkeypatch.setenv("SIDEARM_BROKER", "redis://127.0.0.1:6379/0")
    assert create_app().extensions["sidearm"].settings.broker == "redis://127.0.0.1:6379/0"


def test_the_environment_chooses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Variables go before the defaults, and what is given in code before both."""
    monkeypatch.setenv("SHOP_SECRET_KEY", "0123456789abcdef")
    monkeypatch.setenv("SHOP_DATABASE_URL", "sqlite:///other.db")
    app = create_app()
    assert app.secret_key == "0123456789abcdef"
    assert str(app.config["SQLALCHEMY_DATABASE_URI"]) == "sqlite:///other.db"
    assert not (tmp_path / "secret_key").exists()
    app = create_app({"SHOP_DATABASE_URL": "sqlite:///third.db"})
    assert str(app.config["SQLALCHEMY_DATABASE_URI"]) == "sqlite:///third.db"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_is_talked_to_by_psycopg_3(scheme: str) -> None:
    """In each of the spellings that providers give."""
    url = parse_database_url(f"{scheme}://ada:secret@db.example:5433/shop")
    assert url.render_as_string() == "postgresql+psycopg://ada:***@db.example:5433/shop"


@pytest.mark.parametrize("url", ["", "shop.db", "mysql://ada:secret@db.example/shop"])
def test_a_wrong_database_url_is_refused_at_the_start(url: str) -> None:
    """The error names the setting and the cure, and never the password."""
    with pytest.raises(ValueError, match=r"SHOP_DATABASE_URL .*postgresql://") as caught:
        create_app({"SHOP_DATABASE_URL": url})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "server"),
    [
        (None, None),
        ("", None),
        ("smtp://localhost:2525", SmtpServer("localhost", 2525, tls=False)),
        ("smtp://mail.example", SmtpServer("mail.example", 25, tls=False)),
        ("smtp://[::1]:25/", SmtpServer("::1", 25, tls=False)),
        ("smtps://ada:p%40ss@mail.example", SmtpServer("mail.example", 465, True, "ada", "p@ss")),
    ],
)
def test_an_smtp_url(url: str | None, server: SmtpServer | None) -> None:
    """Host, port, and with TLS a user too."""
    assert parse_smtp_url(url) == server


@pytest.mark.parametrize(
    "url",
    [
        "localhost:25",
        "http://mail.example",
        "smtp://",
        "smtp://mail.example:99999",
        "smtp://mail.example:no",
        "smtp://ada:secret@mail.example",
        "smtps://ada:secret@mail.example/path",
    ],
)
def test_a_wrong_smtp_url_is_refused_at_the_start(url: str) -> None:
    """The error names the setting and the cure, and never the password."""
    with pytest.raises(ValueError, match=r"SHOP_SMTP_URL .*smtps?://") as caught:
        create_app({"SHOP_SMTP_URL": url})
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(SmtpServer("mail.example", 465, True, "ada", "secret"))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ada@example.org", "ada@example.org"),
        ("  ada@example.org ", "ada@example.org"),
        ("Ada.Lovelace+tea@Mail.Example.ORG", "Ada.Lovelace+tea@mail.example.org"),
        ("o'brien@example.org", "o'brien@example.org"),
        ("", None),
        ("ada", None),
        ("ada@localhost", None),
        ("@example.org", None),
        (".ada@example.org", None),
        ("ada..l@example.org", None),
        ("ada@-example.org", None),
        ("ada@example..org", None),
        ("ada@example.org, eve@example.org", None),
        ("ada@example.org\nBcc: eve@example.org", None),
        ("ada\0@example.org", None),
        ("Ada <ada@example.org>", None),
        ('"ada eve"@example.org', None),
        ("ada@[127.0.0.1]", None),
        ("adä@example.org", None),
        ("a" * 65 + "@example.org", None),
        ("ada@" + "a" * 64 + ".org", None),
        ("ada@" + "a.aaaaaa" * 40 + ".org", None),
    ],
)
def test_an_address(text: str, address: str | None) -> None:
    """Only one plain address passes, in one spelling."""
    assert parse_email_address(text) == address


@pytest.mark.parametrize(
    ("recipient", "subject"),
    [("ada@example.org\nBcc: eve@example.org", "Hello"), ("ada@example.org", "Hello\r\nBcc: eve")],
)
def test_a_header_cannot_be_injected(
    make_app: Callable[..., Flask], recipient: str, subject: str
) -> None:
    """Even past the form, a line break never becomes a header."""
    app = make_app()
    with app.app_context(), pytest.raises(ValueError, match=r"newline|linefeed|line"):
        send_mail(recipient, subject, "Hello.")

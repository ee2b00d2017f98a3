"""Buying: everything of it happens, or nothing."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import Connection, event, select

from shop.database import db
from shop.models import Mail, Order, Product
from shop.purchases import customer_for, purchase_product
from sidearm.testing import SMTPServer

if TYPE_CHECKING:
    from conftest import Ledger

    from sidearm.testing import Captured

Capture = Callable[[Flask], AbstractContextManager["Captured"]]
SLUG = "kestrel-flask-0-5-l"
PAGE = f"/products/{SLUG}"


def test_a_purchase_commits_and_tells(
    buy: Callable[..., Any], ledger: Ledger, captured: Captured
) -> None:
    """A purchase lowers the stock, writes the order, and tells the pages the new values."""
    ledger.stock = 10
    response = buy(quantity="3")
    assert response.status_code == 303
    assert response.location.startswith("/orders/")
    assert (ledger.stock, ledger.orders, ledger.customers) == (7, 1, 1)

    [stock], [sold] = captured.on("stock"), captured.on("sold")
    assert (stock.event, stock.data["stock"], stock.data["version"]) == ("stock", 7, 2)
    assert (sold.event, sold.data["product"]) == ("sold", "Kestrel flask 0.5 l")
    assert sold.data["quantity"] == 3
    assert "ada" not in sold.text, "the public feed names a customer"


def test_the_receipt_is_shown(client: FlaskClient, buy: Callable[..., Any]) -> None:
    """The order's page, to which the purchase leads, says what was bought and for how much."""
    page = client.get(buy(quantity="2").location)
    assert page.status_code == 200
    assert "2 \N{MULTIPLICATION SIGN} " in page.text
    assert "€65.80" in page.text
    assert client.get("/orders/1").status_code == 404, "an order can be found by counting"


def test_one_customer_per_address(buy: Callable[..., Any], ledger: Ledger) -> None:
    """Who buys twice is one customer; the domain's capitals do not matter."""
    buy(email="ada@example.org")
    buy(email="ada@EXAMPLE.org")
    assert (ledger.orders, ledger.customers) == (2, 1)


def test_the_mail_waits_in_the_mailbox(
    app: Flask, client: FlaskClient, buy: Callable[..., Any]
) -> None:
    """Without a mail server the mail is written by the callback, whose own round is committed."""
    buy(quantity="2")
    with app.app_context():
        [mail] = db.session.execute(select(Mail.recipient, Mail.subject, Mail.body))
        number = db.session.scalars(select(Order.number)).one()
    assert mail.recipient == "ada@example.org"
    assert mail.subject == "Product purchased: Kestrel flask 0.5 l"
    assert f"thank you for your order {number}:" in mail.body
    assert "2 x Kestrel flask 0.5 l, €32.90 each" in mail.body
    assert number in client.get("/mailbox").text


def test_the_mail_goes_out_by_smtp_after_the_commit(
    make_app: Callable[..., Flask], tmp_path: Path, ledger: Ledger, buy: Callable[..., Any]
) -> None:
    """When the mail server hears of an order, everybody else can see it in the database."""
    seen = []

    class LookingServer(SMTPServer):
        async def handle_DATA(self, *args: Any) -> str:  # noqa: N802 - aiosmtpd's name
            database = sqlite3.connect(tmp_path / "shop.db")
            seen.extend(database.execute("SELECT quantity FROM orders"))
            database.close()
            return await super().handle_DATA(*args)

    with LookingServer() as smtp:
        app = make_app(SHOP_SMTP_URL=f"smtp://{smtp.host}:{smtp.port}")
        assert buy(app.test_client(), quantity="2").status_code == 303
        message: EmailMessage = smtp.wait_for_message()

    assert seen == [(2,)]
    assert message["X-Rcpt-To"] == message["To"] == "ada@example.org"
    assert message["From"] == "Sidearm Outfitters <orders@outfitters.example>"
    assert message["Subject"] == "Product purchased: Kestrel flask 0.5 l"
    assert "2 x Kestrel flask 0.5 l, €32.90 each" in message.get_content()
    assert ledger.mails == 0, "a mail that was sent is in the mailbox too"


def test_a_mail_server_that_is_away_costs_no_purchase(
    make_app: Callable[..., Flask],
    ledger: Ledger,
    buy: Callable[..., Any],
    sidearm_capture: Capture,
) -> None:
    """The order was saved when the mail failed, so the customer is told of the order."""
    with SMTPServer() as smtp:
        port = smtp.port  # nobody listens there any more when the block has ended
    app = make_app(SHOP_SMTP_URL=f"smtp://127.0.0.1:{port}")
    with sidearm_capture(app) as captured:
        response = buy(app.test_client())
    assert response.status_code == 303
    assert ledger.orders == 1
    [(name, error)] = captured.failed
    assert name.endswith("send_success_mail")
    assert isinstance(error, ConnectionRefusedError)


def test_a_purchase_that_fails_half_way_leaves_nothing(
    client: FlaskClient,
    buy: Callable[..., Any],
    ledger: Ledger,
    captured: Captured,
) -> None:
    """An exception after the last step: no order, no customer, same stock, no event, no mail."""
    ledger.stock = 10
    response = buy(quantity="3", fail="yes")
    assert response.status_code == 500
    assert "rolled back" in response.text
    assert "10 in stock" in response.text, "the page shows a stock that was not saved"
    assert captured.events == []
    assert captured.callbacks == []
    assert len(captured.dropped) == 3  # the mail and two events
    assert (ledger.stock, ledger.orders, ledger.customers) == (10, 0, 0)
    assert ledger.mails == 0

    assert buy(quantity="3").status_code == 303, "the failure has left something behind"
    assert ledger.stock == 7
    assert "7 in stock" in client.get(PAGE).text


def test_a_failed_commit_sends_nothing(
    make_app: Callable[..., Flask],
    buy: Callable[..., Any],
    ledger: Ledger,
    sidearm_capture: Capture,
) -> None:
    """A database that refuses at COMMIT: the 500 page, no mail, no event, no cookie."""
    app = make_app(PROPAGATE_EXCEPTIONS=False)

    def add_a_dangling_row(_mapper: Any, connection: Connection, _order: Order) -> None:
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        connection.exec_driver_sql(
            "INSERT INTO orders (number, quantity, price, ordered_at, customer_id, product_id)"
            " VALUES ('dangling', 1, 1, '2026-01-01', 999, 999)"
        )

    event.listen(Order, "after_insert", add_a_dangling_row)
    try:
        with sidearm_capture(app) as captured:
            response = buy(app.test_client())
    finally:
        event.remove(Order, "after_insert", add_a_dangling_row)
    assert response.status_code == 500
    assert "nothing of it was saved" in response.text
    assert "Set-Cookie" not in response.headers, "the address of a failed purchase is remembered"
    assert captured.events == []
    assert (ledger.orders, ledger.mails) == (0, 0)


@pytest.mark.parametrize(
    ("stock", "message"),
    [(2, "There are only 2 left."), (0, "Just sold out.")],
    ids=["not enough", "none"],
)
def test_sold_out(
    buy: Callable[..., Any],
    stock: int,
    message: str,
    ledger: Ledger,
    captured: Captured,
) -> None:
    """More than there is cannot be bought: the form comes back with a sentence, nothing is kept."""
    ledger.stock = stock
    response = buy(quantity="3")
    assert response.status_code == 409
    assert message in response.text
    assert 'value="ada@example.org"' in response.text, "what was typed is lost"
    assert captured.events == []
    assert (ledger.stock, ledger.orders, ledger.customers) == (stock, 0, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"email": ""}, "Please tell us where to send the confirmation."),
        ({"email": "ada"}, "That does not look like an address"),
        ({"email": "ada@example.org\r\nBcc: eve@example.org"}, "That does not look like"),
        ({"quantity": ""}, "Please give a whole number."),
        ({"quantity": "two"}, "Please give a whole number."),
        ({"quantity": "1.5"}, "Please give a whole number."),
        ({"quantity": "0"}, "Please choose between 1 and 99."),
        ({"quantity": "-3"}, "Please give a whole number."),
        ({"quantity": "100"}, "Please choose between 1 and 99."),
        ({"quantity": "\N{ARABIC-INDIC DIGIT THREE}"}, "Please give a whole number."),
    ],
)
def test_a_wrong_form_comes_back(
    buy: Callable[..., Any], fields: dict[str, str], message: str, ledger: Ledger
) -> None:
    """A wrong field is named beside it, with status 422, and nothing is bought."""
    response = buy(**fields)
    assert response.status_code == 422
    assert message in response.text
    assert 'aria-invalid="true"' in response.text
    assert (ledger.orders, ledger.customers) == (0, 0)


def test_an_empty_form_is_no_error_of_ours(client: FlaskClient) -> None:
    """A POST without any field is 422 too."""
    assert client.post(PAGE).status_code == 422


@pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)
def test_twenty_customers_for_the_last_five(
    app: Flask, ledger: Ledger, buy: Callable[..., Any], captured: Captured
) -> None:
    """Twenty threads buy the last five pieces: five get one, fifteen are told, none is negative."""
    ledger.stock = 5
    start = threading.Barrier(20, timeout=30)
    statuses: list[int] = []

    def buy_one(number: int) -> None:
        client = app.test_client()
        start.wait()
        statuses.append(buy(client, email=f"customer{number % 10}@example.org").status_code)

    threads = [threading.Thread(target=buy_one, args=[number]) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert Counter(statuses) == {303: 5, 409: 15}
    assert (ledger.stock, ledger.orders, ledger.mails) == (0, 5, 5)
    news = sorted(captured.on("stock"), key=lambda each: each.data["version"])
    assert [each.data["stock"] for each in news] == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("first_gives_up", [False, True], ids=["is bought", "is given back"])
def test_two_buyers_at_once_on_postgresql(
    app: Flask,
    ledger: Ledger,
    buy: Callable[..., Any],
    database_url: str,
    first_gives_up: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    """The second waits at the row until the first is done, and looks at the stock only then."""
    ledger.stock = 1
    answers: list[int] = []
    second = threading.Thread(target=lambda: answers.append(buy(app.test_client()).status_code))
    with contextlib.suppress(GaveUp), app.app_context():
        product = db.session.scalars(select(Product).filter_by(slug=SLUG)).one()
        purchase_product(product, customer_for("first@example.org"))
        second.start()
        wait_for_a_lock(database_url)
        assert answers == [], "the second buyer did not wait for the first"
        if first_gives_up:
            raise GaveUp
    second.join(60)
    assert answers == [303 if first_gives_up else 409]
    assert (ledger.stock, ledger.orders) == (0, 1)


class GaveUp(Exception):
    """The first buyer's task fails."""


def wait_for_a_lock(url: str) -> None:
    """Wait until a connection of this database waits for another one's lock."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    deadline = time.monotonic() + 60
    with psycopg.connect(url, autocommit=True) as connection:
        while connection.execute(waiting).fetchone() == (0,):
            assert time.monotonic() < deadline, "nobody waits for a lock"
            time.sleep(0.02)  # it cannot be waited for


def test_the_database_itself_refuses_less_than_nothing(app: Flask) -> None:
    """A negative stock is impossible, whoever writes it."""
    with app.app_context():
        product = db.session.scalars(select(Product)).first()
        assert product is not None
        product.stock = -1
        with pytest.raises(Exception, match="stock_is_not_negative"):
            db.session.flush()
        db.session.rollback()

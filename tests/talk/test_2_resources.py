"""Chapter 2, Resource Management: rows 2a to 2f, with Sidearm installed on the application."""

from __future__ import annotations

import smtplib
import sqlite3
from contextlib import closing
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, abort, g, render_template

from sidearm import Sidearm, after_commit, current_task
from sidearm.testing import SMTPServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class ConnectionPool:
    """The slides' ``connection_pool``: one SQLite connection, given and taken back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.claims = self.releases = 0
        self.connection = sqlite3.connect(path, check_same_thread=False)
        with self.connection:
            self.connection.execute("CREATE TABLE purchases (id INTEGER PRIMARY KEY, product TEXT)")

    def get_connection(self) -> sqlite3.Connection:
        self.claims += 1
        return self.connection

    def release_connection(self, connection: sqlite3.Connection) -> None:
        assert connection is self.connection
        assert not connection.in_transaction
        self.releases += 1

    def purchases(self) -> list[str]:
        """What another connection sees."""
        with closing(sqlite3.connect(self.path)) as other:
            return [name for (name,) in other.execute("SELECT product FROM purchases ORDER BY id")]


@pytest.fixture
def connection_pool(tmp_path: Path) -> Iterator[ConnectionPool]:
    pool = ConnectionPool(tmp_path / "shop.db")
    yield pool
    pool.connection.close()
    assert pool.claims == pool.releases


@pytest.fixture
def get_database_connection(
    arm: Sidearm, connection_pool: ConnectionPool
) -> Callable[[], sqlite3.Connection]:
    """The slide's function, as Sidearm has it written."""

    @arm.resource
    def get_database_connection() -> Iterator[sqlite3.Connection]:
        con = connection_pool.get_connection()
        try:
            yield con
        finally:
            connection_pool.release_connection(con)

    return get_database_connection


def buy(con: sqlite3.Connection, product: str = "tea") -> None:
    con.execute("INSERT INTO purchases (product) VALUES (?)", (product,))


# -- 2a


def test_2a_contexts_are_made_and_dropped_at_will(app: Flask) -> None:
    """Literal: app contexts are quick to make and drop; a thousand leave nothing behind."""
    for number in range(1000):
        with app.app_context():
            g.number = number
            assert g.number == number
    assert not app.extensions["sidearm"].records


def test_2a_tasks_are_made_and_dropped_at_will(app: Flask, arm: Sidearm) -> None:
    """Production: so are tasks, each of which settles by itself (benchmarks/ has the times)."""
    ran = []
    for number in range(1000):
        with arm.task("tiny"):
            after_commit(lambda number=number: ran.append(number))  # type: ignore[misc]
    assert ran == list(range(1000))
    assert len(app.extensions["sidearm"].records) == app.extensions["sidearm"].settings.record_count


# -- 2b


def test_2b_teardown_illustrated(app: Flask) -> None:
    """Literal: the teardown function gets ``None``, or the error, which still propagates."""
    seen: list[str] = []

    @app.teardown_appcontext
    def called_on_teardown(error: BaseException | None = None) -> None:
        seen.append(f"Tearing down, error: {error}")

    ctx = app.app_context()
    ctx.push()
    ctx.pop()
    with pytest.raises(ZeroDivisionError), app.app_context():
        _ = 1 / 0
    assert seen == ["Tearing down, error: None", "Tearing down, error: division by zero"]


def test_2b_teardown_production(
    app: Flask,
    connection_pool: ConnectionPool,
    get_database_connection: Callable[[], sqlite3.Connection],
) -> None:
    """Production: the task settles by it, and the error still propagates, the very one."""
    error = ZeroDivisionError("of the work")
    with app.app_context():
        buy(get_database_connection(), "tea")
    with pytest.raises(ZeroDivisionError) as caught, app.app_context():
        buy(get_database_connection(), "lost")
        raise error
    assert caught.value is error
    assert connection_pool.purchases() == ["tea"]


# -- 2c and 2d


def literal_slides(app: Flask, pool: ConnectionPool) -> Callable[[], sqlite3.Connection]:
    """The slides "Resource Management" and "Responsive Resources", with one key of ``g``."""

    def get_database_connection() -> sqlite3.Connection:
        con = getattr(g, "database_connection", None)
        if con is None:
            g.database_connection = con = pool.get_connection()
        return con

    @app.teardown_appcontext
    def return_database_connection(error: BaseException | None = None) -> None:
        con = getattr(g, "database_connection", None)
        if con is None:
            return
        if error is None:
            con.commit()
        else:
            con.rollback()
        pool.release_connection(con)

    return get_database_connection


def test_2c_resource_management(app: Flask, connection_pool: ConnectionPool) -> None:
    """Literal: claimed on ``g`` on first use, given back at teardown."""
    get_database_connection = literal_slides(app, connection_pool)

    @app.get("/")
    def index() -> dict[str, bool]:
        return {"same": get_database_connection() is get_database_connection()}

    @app.get("/plain")
    def plain() -> str:
        return "no connection"

    client = app.test_client()
    assert client.get("/").json == {"same": True}
    assert client.get("/plain").text == "no connection"
    assert (connection_pool.claims, connection_pool.releases) == (1, 1)


def test_2c_resource_management_production(
    app: Flask,
    connection_pool: ConnectionPool,
    get_database_connection: Callable[[], sqlite3.Connection],
) -> None:
    """Production: ``@arm.resource`` and nothing else: one claim for a task, none if unused."""

    @app.get("/")
    def index() -> dict[str, bool]:
        return {"same": get_database_connection() is get_database_connection()}

    @app.get("/plain")
    def plain() -> str:
        return "no connection"

    client = app.test_client()
    assert client.get("/").json == {"same": True}
    assert client.get("/plain").text == "no connection"
    assert (connection_pool.claims, connection_pool.releases) == (1, 1)


def test_2d_responsive_resources(app: Flask, connection_pool: ConnectionPool) -> None:
    """Literal: commit without an error, roll back with one."""
    get_database_connection = literal_slides(app, connection_pool)

    @app.post("/buy/<product>")
    def view(product: str) -> str:
        buy(get_database_connection(), product)
        if product == "broken":
            raise RuntimeError(product)
        return "bought"

    client = app.test_client()
    assert client.post("/buy/tea").text == "bought"
    with pytest.raises(RuntimeError, match="broken"):
        client.post("/buy/broken")
    assert connection_pool.purchases() == ["tea"]


@pytest.mark.parametrize("failure", ["an exception", "a handled exception", "abort", "a status"])
def test_2d_responsive_resources_production(
    app: Flask,
    connection_pool: ConnectionPool,
    get_database_connection: Callable[[], sqlite3.Connection],
    failure: str,
) -> None:
    """Production: whatever tells the client of a failure rolls back, before the answer leaves."""
    app.config["PROPAGATE_EXCEPTIONS"] = False
    app.register_error_handler(LookupError, lambda _: ("sold out", 200))

    @app.post("/buy/<product>")
    def view(product: str) -> Any:
        buy(get_database_connection(), product)
        if product == "tea":
            return "bought"
        if failure == "an exception":
            raise RuntimeError
        if failure == "a handled exception":
            raise LookupError
        if failure == "abort":
            abort(409)
        return "sold out", 409

    client = app.test_client()
    assert client.post("/buy/tea").text == "bought"
    client.post("/buy/lost")
    assert connection_pool.purchases() == ["tea"]


# -- 2e


def test_2e_per_task_callbacks(app: Flask, connection_pool: ConnectionPool) -> None:
    """Literal: the slide's ``after_commit`` on ``g``, run by the slide's teardown function."""
    seen: list[list[str]] = []

    def after_commit(f: Callable[[], Any]) -> Callable[[], Any]:
        callbacks = getattr(g, "on_commit_callbacks", None)
        if callbacks is None:
            g.on_commit_callbacks = callbacks = []
        callbacks.append(f)
        return f

    @app.teardown_appcontext
    def return_database_connection(error: BaseException | None = None) -> None:
        con = getattr(g, "database_connection", None)
        if con is None:
            return
        if error is None:
            con.commit()
            callbacks = getattr(g, "on_commit_callbacks", ())
            for callback in callbacks:
                callback()
        else:
            con.rollback()
        connection_pool.release_connection(con)

    @app.post("/buy")
    def view() -> str:
        g.database_connection = connection_pool.get_connection()
        buy(g.database_connection)

        @after_commit
        def look() -> None:
            seen.append(connection_pool.purchases())

        return "bought"

    app.test_client().post("/buy")
    assert seen == [["tea"]]


def test_2e_after_commit(
    app: Flask,
    connection_pool: ConnectionPool,
    get_database_connection: Callable[[], sqlite3.Connection],
) -> None:
    """Production: ``after_commit`` is written the same, and one that raises is isolated."""
    seen: list[Any] = []

    @app.post("/buy/<outcome>")
    def view(outcome: str) -> Any:
        buy(get_database_connection(), outcome)

        @after_commit
        def fail() -> None:
            raise RuntimeError(outcome)

        @after_commit
        def look() -> None:
            seen.append(connection_pool.purchases())

        if outcome == "bad":
            current_task.doom("on purpose")
        return "bought"

    client = app.test_client()
    assert client.post("/buy/bad").text == "bought"
    assert seen == []
    assert client.post("/buy/good").text == "bought"
    assert seen == [["good"]]


# -- 2f


class User:
    """A user as the slide needs one, in the database that the pool is for."""

    def __init__(self, con: sqlite3.Connection, email_address: str) -> None:
        self.con = con
        self._email_address = email_address
        self.purchased_products = self

    def append(self, product: Any) -> None:
        buy(self.con, product.name)

    @property
    def email_address(self) -> str:
        """Read as from an ORM's expired object: the connection has to be there."""
        self.con.execute("SELECT 1")
        return self._email_address


class Product:
    """A product as the slide needs one."""

    def __init__(self, name: str) -> None:
        self.name = name


@pytest.fixture
def smtp() -> Iterator[SMTPServer]:
    with SMTPServer() as server:
        yield server


@pytest.fixture
def shop(
    app: Flask,
    smtp: SMTPServer,
    get_database_connection: Callable[[], sqlite3.Connection],
    tmp_path: Path,
) -> Flask:
    """The slide's ``purchase_product``, word for word, behind a view."""
    templates = tmp_path / "templates"
    (templates / "mails").mkdir(parents=True)
    (templates / "mails" / "product_purchased.txt").write_text(
        "Hello {{ user.email_address }},\n\nthank you for buying {{ product.name }}!\n"
    )
    app.template_folder = str(templates)

    def send_mail(address: str, subject: str, body: str) -> None:
        message = EmailMessage()
        message["From"] = "shop@example.org"
        message["To"] = address
        message["Subject"] = subject
        message.set_content(body)
        with smtplib.SMTP(smtp.host, smtp.port, timeout=10) as connection:
            connection.send_message(message)

    def purchase_product(product: Any, user: Any) -> None:
        user.purchased_products.append(product)

        @after_commit
        def send_success_mail() -> None:
            body = render_template("mails/product_purchased.txt", user=user, product=product)
            send_mail(user.email_address, "Product Purchased", body)

    @app.post("/buy/<name>")
    def view(name: str) -> Any:
        user = User(get_database_connection(), "ann@example.org")
        purchase_product(Product(name), user)
        if name == "broken":
            raise RuntimeError(name)
        if name == "late":
            return "sold out", 409
        return "bought"

    return app


def test_2f_purchase_product(
    shop: Flask, smtp: SMTPServer, connection_pool: ConnectionPool
) -> None:
    """Literal: the mail, from its template, goes out over SMTP after the commit."""
    assert shop.test_client().post("/buy/tea").text == "bought"
    message = smtp.wait_for_message()
    assert message["Subject"] == "Product Purchased"
    assert message["X-Rcpt-To"] == "ann@example.org"
    assert "thank you for buying tea!" in message.get_content()
    assert connection_pool.purchases() == ["tea"]


@pytest.mark.parametrize("name", ["broken", "late"])
def test_2f_purchase_product_that_fails(
    shop: Flask, smtp: SMTPServer, connection_pool: ConnectionPool, name: str
) -> None:
    """Production: a purchase that fails, by an exception or a status, mails nobody."""
    shop.config["PROPAGATE_EXCEPTIONS"] = False
    client = shop.test_client()
    assert client.post(f"/buy/{name}").status_code >= 400
    client.post("/buy/tea")
    assert "buying tea" in smtp.wait_for_message().get_content()
    assert len(smtp.messages) == 1
    assert connection_pool.purchases() == ["tea"]


def test_2f_a_mail_server_that_is_away(
    shop: Flask, smtp: SMTPServer, connection_pool: ConnectionPool
) -> None:
    """Production: a mail that cannot be sent is logged, and the purchase stands."""
    smtp.port = 1  # nobody listens there
    assert shop.test_client().post("/buy/tea").text == "bought"
    assert connection_pool.purchases() == ["tea"]
    assert smtp.messages == []

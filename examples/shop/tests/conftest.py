"""A seeded shop of its own for each test, in a folder of its own."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString

import psycopg
import pytest
from flask import Flask
from flask.testing import FlaskClient
from jinja2 import BytecodeCache, FileSystemBytecodeCache
from sqlalchemy import delete, func, select, update

from shop import create_app
from shop.database import Base, db
from shop.models import Customer, Mail, Order, Product
from sidearm.testing import PostgresServer

if TYPE_CHECKING:
    from sidearm.testing import Captured

PRODUCT = "kestrel-flask-0-5-l"  # what all tests buy


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The developer's own shop is left alone."""
    for name in list(os.environ):
        if name.startswith(("SHOP_", "FLASK_", "SIDEARM_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SHOP_INSTANCE_PATH", str(tmp_path))


@pytest.fixture(scope="session")
def seeded_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that ``seed`` made, to be copied: much quicker than seeding for each test."""
    folder = tmp_path_factory.mktemp("seeded")
    path = folder / "shop.db"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SHOP_INSTANCE_PATH", str(folder))
        app = create_app({"TESTING": True})
    result = app.test_cli_runner().invoke(args=["seed"])
    assert result.exit_code == 0, result.output
    close_database(app)
    return path


@pytest.fixture(scope="session")
def compiled_templates(tmp_path_factory: pytest.TempPathFactory) -> BytecodeCache:
    """Templates are compiled once for all tests, not for each application."""
    return FileSystemBytecodeCache(str(tmp_path_factory.mktemp("templates")))


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A PostgreSQL server with a seeded database, ``seeded``, to be copied."""
    try:
        made = PostgresServer()
    except FileNotFoundError as error:
        if "CI" in os.environ:
            raise
        pytest.skip(str(error))
    with made as server:
        administer(server, "CREATE DATABASE seeded")
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("SHOP_INSTANCE_PATH", str(tmp_path_factory.mktemp("postgres")))
            app = create_app({"TESTING": True, "SHOP_DATABASE_URL": url_of(server, "seeded")})
        result = app.test_cli_runner().invoke(args=["seed"])
        assert result.exit_code == 0, result.output
        close_database(app)
        yield server


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """The URL of a seeded PostgreSQL database, for tests that ask for it; else ``None``."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield None
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    administer(server, "CREATE DATABASE test TEMPLATE seeded")
    yield url_of(server, "test")
    administer(server, "DROP DATABASE test WITH (FORCE)")


@pytest.fixture
def make_app(
    seeded_database: Path,
    compiled_templates: BytecodeCache,
    tmp_path: Path,
    database_url: str | None,
) -> Iterator[Callable[..., Flask]]:
    """Make the shop with some configuration; all that one test makes share one database."""
    apps = []

    def make(*, empty: bool = False, **config: Any) -> Flask:
        if database_url is not None:
            config.setdefault("SHOP_DATABASE_URL", database_url)
        elif not empty and not (tmp_path / "shop.db").exists():
            shutil.copy(seeded_database, tmp_path / "shop.db")
        app = create_app({"TESTING": True, "WTF_CSRF_ENABLED": False, **config})
        app.jinja_env.bytecode_cache = compiled_templates
        apps.append(app)
        return app

    yield make
    for app in apps:
        close_database(app)


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def captured(
    app: Flask, sidearm_capture: Callable[[Flask], AbstractContextManager[Captured]]
) -> Iterator[Captured]:
    """What left :func:`app` during the test, and what did not."""
    with sidearm_capture(app) as captured:
        yield captured


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def buy(client: FlaskClient) -> Callable[..., Any]:
    """Send the form of a product's page, by default through the ordinary client."""

    def send(client: FlaskClient = client, **fields: str) -> Any:
        form = {"email": "ada@example.org", "quantity": "1", **fields}
        return client.post(f"/products/{PRODUCT}", data=form)

    return send


@pytest.fixture
def ledger(app: Flask) -> Ledger:
    """The database, seen by an application of its own."""
    return Ledger(app)


class Ledger:
    """What is in the shop's database: the stock of the product that tests buy, and row counts."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    @property
    def stock(self) -> int:
        with self._app.app_context():
            return db.session.scalars(select(Product.stock).filter_by(slug=PRODUCT)).one()

    @stock.setter
    def stock(self, stock: int) -> None:
        with self._app.app_context():
            db.session.execute(update(Product).filter_by(slug=PRODUCT).values(stock=stock))

    @property
    def sold(self) -> int:
        with self._app.app_context():
            return db.session.scalar(select(func.sum(Order.quantity))) or 0

    def clear(self, stock: int) -> None:
        """No orders, customers and mails, and so many pieces in stock."""
        with self._app.app_context():
            for model in (Mail, Order, Customer):
                db.session.execute(delete(model))
        self.stock = stock

    @property
    def orders(self) -> int:
        return self._count(Order)

    @property
    def customers(self) -> int:
        return self._count(Customer)

    @property
    def mails(self) -> int:
        return self._count(Mail)

    def _count(self, model: type[Base]) -> int:
        with self._app.app_context():
            return db.session.scalar(select(func.count()).select_from(model)) or 0


def administer(server: PostgresServer, statement: LiteralString) -> None:
    """Execute a statement that no transaction may be around."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(statement)


def url_of(server: PostgresServer, database: str) -> str:
    return f"{server.url.rpartition('/')[0]}/{database}"


def close_database(app: Flask) -> None:
    with app.app_context():
        db.engine.dispose()

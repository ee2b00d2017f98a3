"""What the contracts of tasks share: a table that a second connection reads, pools that count."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from sidearm.resources.sqlite import SQLite

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from flask import Flask

    from sidearm import Sidearm
    from sidearm.testing import Captured


class Pool:
    """A real pool of SQLite connections that counts what it gives and gets.

    Attributes:
        claims: How many connections were given.
        releases: How many came back.
        unclean: How many came back with a transaction that nobody ended.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.claims = self.releases = self.unclean = 0
        self.free: list[sqlite3.Connection] = []

    @property
    def out(self) -> int:
        return self.claims - self.releases

    def getconn(self) -> sqlite3.Connection:
        self.claims += 1
        if self.free:
            return self.free.pop()
        return sqlite3.connect(self.path, timeout=1, check_same_thread=False)

    def putconn(self, connection: sqlite3.Connection) -> None:
        self.releases += 1
        self.unclean += connection.in_transaction
        assert connection not in self.free, "one connection came back twice"
        self.free.append(connection)

    def close(self) -> None:
        for connection in self.free:
            connection.close()


class Store:
    """A table of texts, reached through one kind of resource and read through none.

    Attributes:
        path: The SQLite file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT NOT NULL)")

    def saved(self) -> list[str]:
        """What another connection sees."""
        with closing(sqlite3.connect(self.path, timeout=1)) as connection:
            return [text for (text,) in connection.execute("SELECT text FROM notes ORDER BY id")]

    def write(self, text: str) -> None:
        """Insert a row, in the task that runs."""
        self.connection().execute("INSERT INTO notes (text) VALUES (?)", (text,))

    def rows(self) -> list[str]:
        """What the task that runs sees."""
        return [text for (text,) in self.connection().execute("SELECT text FROM notes ORDER BY id")]

    def commit(self) -> None:
        """Commit by hand."""
        self.connection().commit()

    def rollback(self) -> None:
        """Roll back by hand."""
        self.connection().rollback()

    def connection(self) -> Any:
        """What the resource gives."""
        raise NotImplementedError

    def out(self) -> int:
        """How many connections are claimed and not given back."""
        raise NotImplementedError

    def close(self) -> None:
        """End what the test's end would leave open."""


class GeneratorStore(Store):
    """A raw connection, by a generator function, from a pool: its driver tells nothing."""

    def __init__(self, path: Path, arm: Sidearm, commit: Any = "task") -> None:
        super().__init__(path)
        self.pool = Pool(path)

        @arm.resource(commit=commit)
        def get_connection() -> Generator[sqlite3.Connection]:
            connection = self.pool.getconn()
            try:
                yield connection
            finally:
                self.pool.putconn(connection)

        self.connection = get_connection  # type: ignore[method-assign]

    def out(self) -> int:
        assert self.pool.unclean == 0, "a connection came back with its transaction open"
        return self.pool.out

    def close(self) -> None:
        self.pool.close()


class SQLiteStore(Store):
    """Sidearm's own SQLite resource, which opens and closes."""

    def __init__(self, path: Path, arm: Sidearm, commit: Any = "task") -> None:
        super().__init__(path)
        self.opened: list[sqlite3.Connection] = []
        self.connection = arm.use(SQLite(path, commit=commit, timeout=1, setup=self.opened.append))

    def out(self) -> int:
        return sum(map(_is_open, self.opened))


class SessionStore(Store):
    """A ``sessionmaker`` over an engine with SQLAlchemy's own pool."""

    def __init__(self, path: Path, arm: Sidearm, commit: Any = "task") -> None:
        super().__init__(path)
        from sqlalchemy import create_engine
        from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

        class Base(DeclarativeBase):
            pass

        # Annotations are looked up in this module, and `Mapped` is not there.
        self.Note = type(
            "Note",
            (Base,),
            {
                "__tablename__": "notes",
                "__annotations__": {"id": Mapped[int], "text": Mapped[str]},
                "id": mapped_column(primary_key=True),
            },
        )
        self.engine = create_engine(f"sqlite:///{path}")
        self.connection = arm.use(sessionmaker(self.engine), commit=commit)

    def write(self, text: str) -> None:
        self.connection().add(self.Note(text=text))

    def rows(self) -> list[str]:
        from sqlalchemy import select

        return list(self.connection().scalars(select(self.Note.text).order_by(self.Note.id)))

    def out(self) -> int:
        return int(self.engine.pool.checkedout())  # type: ignore[attr-defined]

    def close(self) -> None:
        self.engine.dispose()


class FlaskSQLAlchemyStore(Store):
    """Flask-SQLAlchemy, which keeps its own scope and removal."""

    def __init__(self, path: Path, arm: Sidearm, app: Flask, commit: Any = None) -> None:
        super().__init__(path)
        from flask_sqlalchemy import SQLAlchemy

        app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{path}"
        self.db = db = SQLAlchemy()

        class Note(db.Model):  # type: ignore[misc, name-defined]
            __tablename__ = "notes"
            id = db.Column(db.Integer, primary_key=True)
            text = db.Column(db.String, nullable=False)

        self.Note = Note
        arm.use(db, commit=commit)
        db.init_app(app)
        with app.app_context():
            self.engine = db.engine

    def connection(self) -> Any:
        return self.db.session

    def write(self, text: str) -> None:
        self.db.session.add(self.Note(text=text))

    def rows(self) -> list[str]:
        query = self.db.select(self.Note.text).order_by(self.Note.id)
        return list(self.db.session.scalars(query))

    def out(self) -> int:
        return int(self.engine.pool.checkedout())  # type: ignore[attr-defined]

    def close(self) -> None:
        self.engine.dispose()


class EngineStore(Store):
    """A connection of SQLAlchemy's engine, whose commits by hand are not followed."""

    def __init__(self, path: Path, arm: Sidearm, commit: Any = "task") -> None:
        from sqlalchemy import create_engine

        super().__init__(path)
        self.engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 1})
        self.get_connection = arm.use(self.engine, commit=commit)

    def connection(self) -> Any:
        return self.get_connection()

    def write(self, text: str) -> None:
        self.connection().exec_driver_sql("INSERT INTO notes (text) VALUES (?)", (text,))

    def rows(self) -> list[str]:
        query = "SELECT text FROM notes ORDER BY id"
        return list(self.connection().exec_driver_sql(query).scalars())

    def out(self) -> int:
        return int(self.engine.pool.checkedout())  # type: ignore[attr-defined]

    def close(self) -> None:
        self.engine.dispose()


class PoolStore(Store):
    """A pool with ``getconn`` and ``putconn``."""

    def __init__(self, path: Path, arm: Sidearm, commit: Any = "task") -> None:
        super().__init__(path)
        self.pool = Pool(path)
        self.get_connection = arm.use(self.pool, commit=commit)

    def connection(self) -> Any:
        return self.get_connection()

    def out(self) -> int:
        return self.pool.out

    def close(self) -> None:
        self.pool.close()


def make_store(kind: str, path: Path, arm: Sidearm, app: Flask, commit: Any) -> Store:
    """A store by the name of its resource."""
    if kind == "flask-sqlalchemy":
        return FlaskSQLAlchemyStore(path, arm, app, commit)
    kinds = {
        "engine": EngineStore,
        "generator": GeneratorStore,
        "pool": PoolStore,
        "session": SessionStore,
        "sqlite3": SQLiteStore,
    }
    return kinds[kind](path, arm, commit)


@pytest.fixture(params=["generator", "pool", "sqlite3", "engine", "session", "flask-sqlalchemy"])
def store(
    request: pytest.FixtureRequest, arm: Sidearm, app: Flask, tmp_path: Path
) -> Iterator[Store]:
    """Each kind of resource in turn; the task commits."""
    store = make_store(request.param, tmp_path / "store.db", arm, app, "task")
    yield store
    store.close()


@pytest.fixture(params=["sqlite3", "session", "flask-sqlalchemy"])
def explicit(
    request: pytest.FixtureRequest, arm: Sidearm, app: Flask, tmp_path: Path
) -> Iterator[Store]:
    """Each kind of resource that tells of its transactions; the application commits."""
    store = make_store(request.param, tmp_path / "explicit.db", arm, app, "explicit")
    yield store
    store.close()


@pytest.fixture
def notes(arm: Sidearm, tmp_path: Path) -> Iterator[GeneratorStore]:
    """One raw connection for each task, from a pool that counts."""
    store = GeneratorStore(tmp_path / "notes.db", arm)
    yield store
    store.close()


@pytest.fixture
def make(arm: Sidearm, app: Flask, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Make stores: ``make("session", commit="explicit")``, each on a file of its own."""
    stores: list[Store] = []

    def make(kind: str, commit: Any = "task") -> Store:
        store = make_store(kind, tmp_path / f"{kind}-{len(stores)}.db", arm, app, commit)
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


class Ledger:
    """Resources that write down what is done to them, and fail on demand.

    Attributes:
        lines: What was done, in order, such as ``"commit a"``.
    """

    def __init__(self, arm: Sidearm) -> None:
        self.arm = arm
        self.lines: list[str] = []

    def resource(self, name: str, **failures: BaseException) -> Callable[[], Any]:
        """Declare a resource.

        Args:
            name: Its name, also in records.
            failures: What ``claim``, ``commit``, ``rollback`` or ``release`` raise.
        """

        def step(what: str) -> None:
            self.lines.append(f"{what} {name}")
            if what in failures:
                raise failures[what]

        class Thing:
            def use(self) -> None:
                self_lines.append(f"use {name}")

            def commit(self) -> None:
                step("commit")

            def rollback(self) -> None:
                step("rollback")

        self_lines = self.lines

        def resource() -> Generator[Thing]:
            step("claim")
            try:
                yield Thing()
            finally:
                step("release")

        resource.__name__ = name
        return self.arm.resource(resource)

    def count(self, what: str) -> int:
        """How often one kind of line was written."""
        return sum(line.split()[0] == what for line in self.lines)

    def of(self, *kinds: str) -> list[str]:
        """The lines of some kinds."""
        return [line for line in self.lines if line.split()[0] in kinds]


@pytest.fixture
def ledger(arm: Sidearm) -> Ledger:
    """Make resources that write down what is done to them."""
    return Ledger(arm)


@pytest.fixture
def captured(app: Flask, sidearm_capture: Callable[..., Any]) -> Iterator[Captured]:
    """What leaves :func:`app`, and the records of its rounds."""
    with sidearm_capture(app) as captured:
        yield captured


@pytest.fixture
def handled(app: Flask) -> Flask:
    """:func:`app` as in production: what nobody handles becomes the 500 page."""
    app.config["PROPAGATE_EXCEPTIONS"] = False
    return app


@pytest.fixture
def serve(app: Flask) -> Callable[..., Any]:
    """Answer ``/`` with a function of the test; takes the options of ``add_url_rule``."""

    def serve(view: Callable[..., Any], rule: str = "/", **options: Any) -> Callable[..., Any]:
        endpoint = options.pop("endpoint", view.__name__)
        app.add_url_rule(rule, endpoint, view, **options)
        return view

    return serve


def _is_open(connection: sqlite3.Connection) -> bool:
    try:
        _ = connection.in_transaction
    except sqlite3.ProgrammingError:
        return False
    return True

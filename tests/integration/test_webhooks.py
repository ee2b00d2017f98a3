"""Q1 on real servers: a thousand simultaneous deliveries, failures and deaths in between."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

import pytest
from flask import Flask
from needed import or_skip

from sidearm import Delivery, Sidearm, verify_webhook
from sidearm.bodies.schemes import StandardWebhooks
from sidearm.signing import CREATE_SPENT_TOKENS
from sidearm.testing import GunicornServer, PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

psycopg = pytest.importorskip("psycopg", reason="pip install 'psycopg[binary]' psycopg-pool")
psycopg_pool = pytest.importorskip("psycopg_pool")
sqlalchemy = pytest.importorskip("sqlalchemy")
orm = pytest.importorskip("sqlalchemy.orm")

APPS = Path(__file__).parents[1] / "apps"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
DELIVERIES, CLIENTS = 1000, 50
PATIENCE = 240.0  # seconds for all deliveries
TABLES = f"{CREATE_SPENT_TOKENS} CREATE TABLE payments (id integer);"


@pytest.fixture(scope="module", autouse=True)
def postgres() -> Iterator[PostgresServer]:
    with or_skip(PostgresServer) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """The URL of a database with empty tables."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS sidearm_spent_tokens, payments")
        connection.execute(TABLES)
    return postgres.url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    path = tmp_path / "hooks.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(f"PRAGMA journal_mode=WAL; {TABLES}")
    return f"sqlite:///{path}"


@pytest.fixture(params=["sqlite", "session", "pool"])
def server(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Two processes of eight threads, over SQLite, and over PostgreSQL in two ways."""
    name = "sqlite_url" if request.param == "sqlite" else "postgres_url"
    url = request.getfixturevalue(name)
    environment = {
        "DATABASE_URL": url,
        "RESOURCE": "pool" if request.param == "pool" else "session",
        "WEBHOOK_SECRET": SECRET,
    }
    with GunicornServer(
        "webhooks:app", cwd=APPS, worker_class="gthread", workers=2, threads=8, env=environment
    ) as gunicorn:
        yield Site(gunicorn, url)


class Site:
    """The application, and a sender."""

    def __init__(self, server: GunicornServer, database: str) -> None:
        self.server = server
        self.database = database

    def send(self, id: str, then: str = "") -> int:
        """Deliver, signed now; returns the status, or 0 where there was no answer."""
        body = f'{{"then": "{then}"}}'.encode()
        headers = StandardWebhooks([SECRET], "x").sign(body, now=time.time(), id=id)
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
        with closing(connection):
            try:
                connection.request("POST", "/hooks/pay", body, headers)
                answer = connection.getresponse()
                answer.read()
            except (HTTPException, OSError):
                return 0
            return answer.status

    def rows(self) -> tuple[int, int]:
        """Payments, and rows of deliveries."""
        statements = [
            f"SELECT count(*) FROM {table}" for table in ("payments", "sidearm_spent_tokens")
        ]
        if self.database.startswith("sqlite"):
            with closing(sqlite3.connect(self.database[10:], timeout=PATIENCE)) as connection:
                found = [connection.execute(each).fetchone()[0] for each in statements]
        else:
            with psycopg.connect(self.database) as connection:
                found = [connection.execute(each).fetchone()[0] for each in statements]
        return found[0], found[1]

    def connections_out(self) -> str:
        with urlopen(f"{self.server.url}/out", timeout=60) as response:
            text: bytes = response.read()
        return text.decode()


@pytest.mark.timeout(PATIENCE + 120)
def test_q1_a_thousand_simultaneous_deliveries_act_once(server: Site) -> None:
    """All of them are answered 2xx; before it, one whose work was rolled back (C25)."""
    assert server.send("msg_1", "fail") == 503
    assert server.rows() == (0, 0)
    statuses = [Counter[int]() for _ in range(CLIENTS)]

    def send(counted: Counter[int]) -> None:
        for _ in range(DELIVERIES // CLIENTS):
            counted[server.send("msg_1")] += 1

    threads = [threading.Thread(target=send, args=(counted,)) for counted in statuses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sum(statuses, Counter()) == {202: 1, 200: DELIVERIES - 1}
    assert server.rows() == (1, 2)
    assert server.send("msg_1", "fail") == 409
    assert server.connections_out() == "0"


def test_q1_a_delivery_whose_worker_died_before_the_answer_does_not_act_again(server: Site) -> None:
    """Killed between the commit and the answer; what its sender repeats is answered 2xx (C25)."""
    assert server.send("msg_2", "die") == 0
    assert server.rows() == (1, 2)
    # gunicorn starts another worker; until it listens, the other one answers.
    assert server.send("msg_2", "die") == 200
    assert server.rows() == (1, 2)
    assert server.send("msg_3") == 202


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_q1_who_waited_for_a_commit_is_told_that_it_was_received(
    postgres_url: str, level: str
) -> None:
    """At every isolation level; and after a rollback the one who waited acts."""
    app = Flask("testapp")
    app.config["SIDEARM_WEBHOOKS"] = {"pay": {"scheme": "standard", "secrets": [SECRET]}}
    app.config["SIDEARM_HUB"] = "memory"
    arm = Sidearm(app)
    engine = sqlalchemy.create_engine(
        postgres_url.replace("postgresql:", "postgresql+psycopg:"), isolation_level=level
    )
    get_session = arm.use(orm.sessionmaker(engine))
    inside, go_on = threading.Event(), threading.Event()
    statuses: dict[str, int] = {}

    @app.before_request
    def take_a_snapshot() -> None:
        get_session().execute(sqlalchemy.text("SELECT 1"))

    @app.post("/hook")
    @verify_webhook("pay")
    def hook(delivery: Delivery) -> Any:
        is_first = threading.current_thread().name == "first"
        if is_first:
            inside.set()
            assert go_on.wait(PATIENCE)
        return "acted", 503 if delivery.id == "fails" and is_first else 202

    def send(id: str) -> None:
        headers = StandardWebhooks([SECRET], "x").sign(b"{}", now=time.time(), id=id)
        answer = app.test_client().post("/hook", data=b"{}", headers=headers)
        statuses[threading.current_thread().name] = answer.status_code

    try:
        for id_, expected in (("fails", (503, 202)), ("works", (202, 200))):
            statuses.clear()
            inside.clear()
            go_on.clear()
            first = threading.Thread(target=send, args=(id_,), name="first")
            second = threading.Thread(target=send, args=(id_,), name="second")
            first.start()
            assert inside.wait(PATIENCE)
            second.start()
            wait_for_lock(postgres_url)
            go_on.set()
            first.join(PATIENCE)
            second.join(PATIENCE)
            assert (statuses["first"], statuses["second"]) == expected
        assert engine.pool.checkedout() == 0
    finally:
        engine.dispose()


def wait_for_lock(url: str) -> None:
    """Until a transaction of this database waits for another."""
    with psycopg.connect(url, autocommit=True) as connection:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            ).fetchone()
            if found[0]:
                return
            threading.Event().wait(0.01)
    raise AssertionError("Nobody waits for a lock.")

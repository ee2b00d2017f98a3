"""S2 on real servers: a thousand clicks on PostgreSQL, and the page in a browser over https."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import threading
from collections import Counter
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from flask import Flask
from needed import or_skip

from sidearm import Sidearm
from sidearm.signing import CREATE_SPENT_TOKENS, SpentToken
from sidearm.testing import FlaskRunServer, GunicornServer, PostgresServer

if TYPE_CHECKING:
    from collections.abc import Iterator

psycopg = pytest.importorskip("psycopg", reason="pip install 'psycopg[binary]' psycopg-pool")
psycopg_pool = pytest.importorskip("psycopg_pool")
sqlalchemy = pytest.importorskip("sqlalchemy")
orm = pytest.importorskip("sqlalchemy.orm")

APPS = Path(__file__).parents[1] / "apps"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
CLICKS, CLIENTS = 1000, 50
PATIENCE = 240.0  # seconds for all clicks


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with or_skip(PostgresServer) as server:
        yield server


@pytest.fixture
def database(server: PostgresServer) -> str:
    """The URL of a database with empty tables."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS sidearm_spent_tokens, activations")
        connection.execute(CREATE_SPENT_TOKENS)
        connection.execute("CREATE TABLE activations (user_id integer)")
    return server.url


def activations(url: str) -> tuple[int, int]:
    """How many rows the views have written, and how many tokens are spent."""
    with psycopg.connect(url) as connection:
        return tuple(
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("activations", "sidearm_spent_tokens")
        )


def click(host: str, port: int, path: str, count: int, statuses: Counter[int]) -> None:
    """Post a form some times, on one connection after another, as browsers do."""
    for _ in range(count):
        connection = HTTPConnection(host, port, timeout=PATIENCE)
        try:
            connection.request("POST", path)
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] += 1
        finally:
            connection.close()


def click_at_once(url: str, path: str) -> Counter[int]:
    """A thousand clicks on one link, from many clients."""
    parts = urlsplit(url)
    counters = [Counter[int]() for _ in range(CLIENTS)]
    threads = [
        threading.Thread(
            target=click, args=(parts.hostname, parts.port, path, CLICKS // CLIENTS, counter)
        )
        for counter in counters
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    total: Counter[int] = sum(counters, Counter())
    return total


@pytest.mark.timeout(PATIENCE + 120)
@pytest.mark.parametrize("resource", ["session", "pool"])
def test_s2_a_thousand_simultaneous_clicks_give_one_success(database: str, resource: str) -> None:
    """Two processes with eight threads each; before it, a scanner and an activation that failed."""
    environment = {"DATABASE_URL": database, "RESOURCE": resource}
    with GunicornServer(
        "one_use:app", cwd=APPS, worker_class="gthread", workers=2, threads=8, env=environment
    ) as server:
        path = read(f"{server.url}/link/42")
        for _ in range(20):
            assert "<form" in read(server.url + path)
        with pytest.raises(OSError, match="409"):
            read(f"{server.url}{path}?fail=1", method="POST")
        assert activations(database) == (0, 0)

        assert click_at_once(server.url, path) == {200: 1, 410: CLICKS - 1}
        assert activations(database) == (1, 1)
        assert read(f"{server.url}/out") == "0"


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_s2_who_waited_for_a_commit_is_told_that_the_token_is_spent(
    database: str, level: str
) -> None:
    """At every isolation level; and after a rollback the one who waited succeeds."""
    app = Flask("testapp")
    app.config["SECRET_KEY"] = "for tests only, and long enough"
    arm = Sidearm(app)
    engine = sqlalchemy.create_engine(
        database.replace("postgresql:", "postgresql+psycopg:"), isolation_level=level
    )
    get_session = arm.use(orm.sessionmaker(engine))
    kind = arm.token("k", int, max_age=60, single_use=True)
    outcomes: list[Any] = []

    def second(text: str) -> None:
        try:
            with arm.task("second"):
                get_session().execute(sqlalchemy.text("SELECT 1"))  # its snapshot
                begun.set()
                outcomes.append(kind.spend(text))
        except SpentToken:
            outcomes.append("spent")

    try:
        for fails in (True, False):
            text = kind.sign(42)
            begun = threading.Event()
            waiting = threading.Thread(target=second, args=(text,))
            try:
                with arm.task("first"):
                    kind.spend(text)
                    waiting.start()
                    assert begun.wait(60)
                    wait_for_lock(database)
                    if fails:
                        raise LookupError
            except LookupError:
                pass
            waiting.join(60)
        assert outcomes == [42, "spent"]
        assert engine.pool.checkedout() == 0
    finally:
        engine.dispose()


def wait_for_lock(url: str) -> None:
    """Until a transaction of this database waits for another."""
    with psycopg.connect(url, autocommit=True) as connection:
        for _ in range(6000):
            found = connection.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            ).fetchone()
            if found[0]:
                return
            threading.Event().wait(0.01)
    raise AssertionError("Nobody waits for a lock.")


def read(url: str, method: str = "GET") -> str:
    with urlopen(Request(url, method=method), timeout=60) as response:
        body: bytes = response.read()
    return body.decode()


# In a browser.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for 127.0.0.1 that nobody vouches for, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    paths = str(folder / "cert.pem"), str(folder / "key.pem")
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run(
        [*made, "-out", paths[0], "-keyout", paths[1]], check=True, capture_output=True, timeout=60
    )
    return paths


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_s2_the_page_posts_in_a_browser_over_https_under_csrf_protect(
    certificate: tuple[str, str], tmp_path: Path
) -> None:
    """Chromium sends no ``Referer`` from it, which Flask-WTF would want, and the click counts."""
    playwright = pytest.importorskip("playwright.sync_api")
    options = ["--cert", certificate[0], "--key", certificate[1]]
    environment = {"DATABASE_URL": f"sqlite:///{tmp_path / 'one.db'}", "RESOURCE": "session"}
    with (
        FlaskRunServer("one_use", cwd=APPS, args=options, env=environment) as server,
        playwright.sync_playwright() as api,
    ):
        url = server.url.replace("http:", "https:")
        context = ssl.create_default_context(cafile=certificate[0])
        with urlopen(f"{url}/link/42", context=context, timeout=60) as response:
            link = url + response.read().decode()
        browser = api.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=180_000
        )
        page = browser.new_context(ignore_https_errors=True).new_page()
        page.set_default_timeout(60_000)
        requests: list[Any] = []
        page.on("request", lambda sent: requests.append(sent))  # noqa: PLW0108 - Playwright marks it
        page.goto(link)
        assert page.get_by_role("heading").inner_text() == "Please confirm"
        page.get_by_role("button").click()
        page.get_by_text("welcome, 42; referrer None").wait_for()
        page.goto(link)
        page.get_by_text("used already").wait_for()
        browser.close()
    post = next(each for each in requests if each.method == "POST")
    assert "referer" not in post.headers
    assert re.fullmatch(r"https://127\.0\.0\.1:\d+/activate/[\w.-]+", post.url)

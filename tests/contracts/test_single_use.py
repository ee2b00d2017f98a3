"""S2: tokens for one use, the row that spends them, and the page that asks before."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import closing
from functools import wraps
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask, Response, redirect, render_template_string, request, url_for
from flask.views import MethodView
from flask_sqlalchemy import SQLAlchemy
from flask_wtf import CSRFProtect
from flasks import REDIRECT_STATUS
from jinja2 import DictLoader
from sqlalchemy import MetaData, create_engine
from sqlalchemy.orm import scoped_session, sessionmaker

from sidearm import Sidearm, current_task
from sidearm.exceptions import NoSpentTokens, OutsideTask, TokenRuleError
from sidearm.resources.sqlite import SQLite
from sidearm.signing import CREATE_SPENT_TOKENS, SpentToken, spent_tokens_table
from sidearm.spent import SQLAlchemyRows

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from sidearm.signing import TokenKind

PATIENCE = 120.0  # seconds for a lock
WEEK = 7 * 86400.0  # seconds


class Broken(Exception):
    """What a view raises."""


class Site:
    """An application whose view activates a user, by a link that works once.

    Attributes:
        activated: Whom the view has activated, whatever became of it.
    """

    def __init__(self, path: Path, arm: Sidearm, resource: Any = None, **config: Any) -> None:
        self.path = path
        self.arm = arm
        self.app = app = Flask("site")
        app.config.update(SECRET_KEY="for tests only, and long enough", **config)
        arm.init_app(app)
        self.activated: list[int] = []
        self.fails: Callable[[], Any] = lambda: None
        spends = resource or True
        self.kind: TokenKind[int] = arm.token("activate", int, max_age=WEEK, single_use=spends)

        @app.route("/activate/<token('activate'):user_id>", methods=["GET", "POST"])
        @self.kind.confirm()
        def activate_user(user_id: int) -> Any:
            self.activated.append(user_id)
            return self.fails() or f"welcome, {user_id}"

        self.client = app.test_client()

    def link(self, user_id: int = 42) -> str:
        with self.app.test_request_context():
            return url_for("activate_user", user_id=user_id)

    def post(self, url: str, **options: Any) -> int:
        return self.client.post(url, **options).status_code

    def rows(self) -> int:
        with closing(sqlite3.connect(self.path, timeout=PATIENCE)) as connection:
            ((found,),) = connection.execute("SELECT count(*) FROM sidearm_spent_tokens")
        assert isinstance(found, int)
        return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "spent.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(CREATE_SPENT_TOKENS)
    return path


def use_sqlite(arm: Sidearm, path: Path) -> Any:
    arm.use(SQLite(path, timeout=PATIENCE))


def use_generator(arm: Sidearm, path: Path) -> Any:
    @arm.resource
    def get_connection() -> Generator[sqlite3.Connection]:
        with closing(sqlite3.connect(path, timeout=PATIENCE)) as connection:
            yield connection


def use_engine(arm: Sidearm, path: Path) -> Any:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": PATIENCE})
    arm.use(engine)
    return engine.dispose


def use_session(arm: Sidearm, path: Path) -> Any:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": PATIENCE})
    arm.use(sessionmaker(engine))
    return engine.dispose


def use_scoped_session(arm: Sidearm, path: Path) -> Any:
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": PATIENCE})
    arm.use(scoped_session(sessionmaker(engine)))
    return engine.dispose


RESOURCES = [use_sqlite, use_generator, use_engine, use_session, use_scoped_session]


@pytest.fixture(params=RESOURCES, ids=lambda use: use.__name__[4:])
def site(request: pytest.FixtureRequest, path: Path, arm: Sidearm) -> Iterator[Site]:
    """The site, over each kind of resource."""
    close = request.param(arm, path)
    yield Site(path, arm)
    if close is not None:
        close()


@pytest.fixture
def plain_site(path: Path, arm: Sidearm) -> Site:
    """The site, over sqlite3."""
    use_sqlite(arm, path)
    return Site(path, arm)


# Spending.


def test_s2_a_link_works_once(site: Site) -> None:
    """The page, the click, and then 410 for both."""
    url, other = site.link(), site.link()
    assert site.client.get(url).status_code == 200
    assert site.client.post(url).text == "welcome, 42"
    assert site.client.get(url).status_code == 410
    assert site.client.post(url).status_code == 410
    assert site.activated == [42]
    assert site.post(other) == 200  # another link for the same user is another link
    assert site.rows() == 2


@pytest.mark.parametrize("how", ["raise", "status", "doom"])
def test_s2_a_rolled_back_activation_leaves_the_link_usable(site: Site, how: str) -> None:
    """Whatever rolls it back."""
    url = site.link()

    def fail() -> Any:
        if how == "raise":
            raise Broken
        if how == "status":
            return "try again", 409
        current_task.doom("the mail server is away")
        return "sorry"

    site.fails = fail
    site.post(url)
    assert site.rows() == 0
    assert site.client.get(url).status_code == 200
    site.fails = lambda: None
    assert [site.post(url), site.post(url)] == [200, 410]
    assert site.activated == [42, 42]


def test_s2_a_mail_scanner_burns_no_link(plain_site: Site) -> None:
    """It follows a thousand, by GET and HEAD; all are good afterwards."""
    links = [f"/activate/{plain_site.kind.sign(number)}" for number in range(1000)]
    for number, url in enumerate(links):
        open_ = plain_site.client.head if number % 2 else plain_site.client.get
        assert open_(url).status_code == 200
    assert plain_site.rows() == 0
    assert plain_site.activated == []
    assert {plain_site.post(url) for url in links[:20]} == {200}


def test_s2_simultaneous_clicks_give_one_success_on_sqlite(site: Site) -> None:
    """Threads that wait for each other's lock; one acts. PostgreSQL has its own test."""
    url = site.link()
    start = threading.Barrier(12)
    statuses: list[int] = []

    def click() -> None:
        client = site.app.test_client()
        start.wait(PATIENCE)
        statuses.append(client.post(url).status_code)

    threads = [threading.Thread(target=click) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(statuses) == [200] + [410] * 11
    assert site.activated == [42]


def test_s2_tokens_that_come_in_a_form_are_spent_by_hand(plain_site: Site) -> None:
    """``load`` looks, ``spend`` acts; both refuse a spent one."""
    app, kind = plain_site.app, plain_site.kind

    @app.post("/code")
    def code() -> str:
        return str(kind.spend(request.form["code"]))

    text = kind.sign(42)
    with app.app_context():
        assert kind.load(text) == kind.load(text) == 42
        assert kind.inspect(text).id is not None
    client = app.test_client()
    assert client.post("/code", data={"code": text}).text == "42"
    assert client.post("/code", data={"code": text}).status_code == 410
    assert client.post("/code", data={"code": text[:-1]}).status_code == 404
    with app.app_context(), pytest.raises(SpentToken) as caught:
        kind.load(text)
    assert caught.value.payload == 42


def test_s2_two_in_one_task_are_one(plain_site: Site) -> None:
    """The second spending in a task sees the first."""
    text = plain_site.kind.sign(42)
    with pytest.raises(SpentToken), plain_site.arm.task("twice"):
        plain_site.kind.spend(text)
        plain_site.kind.spend(text)
    with plain_site.arm.task("once"):
        plain_site.kind.spend(text)


def test_s2_spending_needs_a_task(plain_site: Site) -> None:
    """As every use of a resource does."""
    text = plain_site.kind.sign(42)
    with pytest.raises(OutsideTask):
        plain_site.kind.spend(text)


def test_s2_rows_of_expired_tokens_are_deleted(
    plain_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a spending, in a task of its own; what could still be used stays."""
    assert plain_site.post(plain_site.link()) == 200
    assert plain_site.rows() == 1
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + WEEK + 30)
    monkeypatch.setattr("sidearm.spent.PRUNE_INTERVAL", 0.0)
    plain_site.kind._spent._next_prune = 0.0  # type: ignore[union-attr]
    assert plain_site.client.post(plain_site.link(), buffered=True).status_code == 200
    assert plain_site.rows() == 2
    monkeypatch.setattr(time, "time", lambda: now + WEEK + 100)
    assert plain_site.client.post(plain_site.link(), buffered=True).status_code == 200
    assert plain_site.rows() == 2


def test_s2_a_kind_whose_age_is_lowered_and_raised_revives_no_spent_token(
    path: Path, arm: Sidearm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row stays for as long as the token itself could count."""
    use_sqlite(arm, path)
    site = Site(path, arm)
    text = site.kind.sign(42)
    site.kind.max_age = 3600
    with arm.task("spend"):
        site.kind.spend(text)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 7200)
    with arm.task("prune"):
        site.kind._spent.prune()  # type: ignore[union-attr]
    site.kind.max_age = int(WEEK)
    with pytest.raises(SpentToken), arm.task("again"):
        site.kind.spend(text)


def test_s2_rows_are_deleted_where_the_application_commits_by_hand(
    path: Path, arm: Sidearm
) -> None:
    """Nobody else would commit that."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO sidearm_spent_tokens VALUES ('old', 1)")
        connection.commit()
    site, db = flask_sqlalchemy_site(path, arm, None)
    site.fails = db.session.commit
    assert site.client.post(site.link(), buffered=True).status_code == 200
    assert site.rows() == 1


# Who commits.


def flask_sqlalchemy_site(path: Path, arm: Sidearm, commit: Any) -> tuple[Site, SQLAlchemy]:
    db = SQLAlchemy()
    arm.use(db, commit=commit)
    site = Site(path, arm, SQLALCHEMY_DATABASE_URI=f"sqlite:///{path}")
    db.init_app(site.app)
    return site, db


def test_s2_flask_sqlalchemy_the_task_commits(path: Path, arm: Sidearm) -> None:
    """With ``commit="task"`` nobody has to do anything."""
    site, _ = flask_sqlalchemy_site(path, arm, "task")
    url = site.link()
    assert [site.post(url), site.post(url)] == [200, 410]


def test_s2_flask_sqlalchemy_the_view_commits(path: Path, arm: Sidearm) -> None:
    """By hand, with its own work; if it rolls back, the link is good."""
    site, db = flask_sqlalchemy_site(path, arm, None)
    url = site.link()
    site.fails = db.session.rollback
    assert site.post(url) == 200
    site.fails = db.session.commit
    assert [site.post(url), site.post(url)] == [200, 410]


def test_s2_a_view_that_forgets_to_commit_is_an_error(path: Path, arm: Sidearm) -> None:
    """Else a log-in link would work again and again, and nobody would see it."""
    site, _ = flask_sqlalchemy_site(path, arm, None)
    site.app.config["PROPAGATE_EXCEPTIONS"] = True
    with pytest.raises(RuntimeError, match=r"db.session is committed by hand.*commit='task'"):
        site.post(site.link())
    site.fails = lambda: ("no", 409)
    assert site.post(site.link()) == 409


def test_s2_the_table_is_declared_for_sqlalchemy(tmp_path: Path) -> None:
    """``create_all`` makes what the SQL makes."""
    metadata = MetaData()
    assert spent_tokens_table(metadata) is spent_tokens_table(metadata)
    engine = create_engine(f"sqlite:///{tmp_path / 'made.db'}")
    metadata.create_all(engine)
    engine.dispose()
    described = []
    with (
        closing(sqlite3.connect(tmp_path / "made.db")) as one,
        closing(sqlite3.connect(":memory:")) as other,
    ):
        other.executescript(CREATE_SPENT_TOKENS)
        for connection in (one, other):
            columns = connection.execute("PRAGMA table_info(sidearm_spent_tokens)").fetchall()
            described.append([(name, kind, key) for _, name, kind, _, _, key in columns])
            assert (
                len(connection.execute("PRAGMA index_list(sidearm_spent_tokens)").fetchall()) == 2
            )
    assert described[0] == described[1]


def test_s2_other_databases_of_sqlalchemy_get_a_savepoint(
    path: Path, arm: Sidearm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where "on conflict do nothing" is not known, the error of a savepoint tells."""
    monkeypatch.setattr(SQLAlchemyRows, "_dialect", lambda self: "mssql")
    close = use_session(arm, path)
    site = Site(path, arm)
    url = site.link()
    assert [site.post(url), site.post(url)] == [200, 410]
    close()


def test_s2_a_missing_table_says_how_to_make_it(tmp_path: Path, arm: Sidearm) -> None:
    """The database's own error, with a note."""
    use_sqlite(arm, tmp_path / "empty.db")
    site = Site(tmp_path / "empty.db", arm, PROPAGATE_EXCEPTIONS=True)
    with pytest.raises(sqlite3.OperationalError) as caught:
        site.client.get(site.link())
    assert "CREATE_SPENT_TOKENS" in caught.value.__notes__[0]


def test_s2_without_a_resource_no_link_is_made(arm: Sidearm, app: Flask) -> None:
    """It could never be spent; nor is one made that could be spent in two places."""
    kind = arm.token("k", int, max_age=60, single_use=True)
    with pytest.raises(NoSpentTokens, match="there is none"):
        kind.sign(42)
    arm.use(SQLite(":memory:"))
    arm.use(create_engine("sqlite://"))
    with pytest.raises(NoSpentTokens, match=r"several \(sqlite3, connection\)"):
        kind.sign(42)


def test_s2_a_resource_that_is_named(path: Path, arm: Sidearm) -> None:
    """Where there are several; a generator's is passed over for a database's."""
    arm.use(SQLite(":memory:"))
    get_spent = arm.use(SQLite(path))
    site = Site(path, arm, get_spent)
    url = site.link()
    assert [site.post(url), site.post(url), site.rows()] == [200, 410, 1]


def test_s2_a_resource_that_is_no_database(arm: Sidearm, path: Path) -> None:
    """Says what it takes."""

    @arm.resource
    def get_mailer() -> Generator[object]:
        yield object()

    site = Site(path, arm, PROPAGATE_EXCEPTIONS=True)
    with pytest.raises(TypeError, match="SQLAlchemy, sqlite3 or psycopg"):
        site.post(site.link())


# The page.


def test_s2_the_page_keeps_the_token_to_itself(plain_site: Site) -> None:
    """Not stored, sent to nobody, in nobody's frame, in no index; nor is the answer to its form."""
    url = plain_site.link()
    for answer in (plain_site.client.get(url), plain_site.client.head(url)):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
        assert "noindex" in answer.headers["X-Robots-Tag"]
    page = plain_site.client.get(url)
    assert '<form method="post">' in page.text
    assert url.rpartition("/")[2] not in page.text
    answer = plain_site.client.post(url)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_s2_the_page_can_be_restyled(path: Path, arm: Sidearm) -> None:
    """All of them by ``sidearm/confirm.html``, one by a template of its own."""
    use_sqlite(arm, path)
    site = Site(path, arm)
    site.app.jinja_loader = DictLoader(  # type: ignore[assignment]
        {
            "sidearm/confirm.html": "<h1>Ours</h1>{{ csrf_field }}",
            "leave.html": "{{ user_id }}, {{ title }}?",
        }
    )
    leave = arm.token("leave", int, max_age=60, single_use=True)

    @site.app.route("/leave/<token('leave'):user_id>", methods=["GET", "POST"])
    @leave.confirm("leave.html", title="really")
    def leave_us(user_id: int) -> str:
        return "gone"

    assert site.client.get(site.link()).text == "<h1>Ours</h1>"
    with site.app.test_request_context():
        url = url_for("leave_us", user_id=7)
    assert site.client.get(url).text == "7, really?"


def test_s2_the_plain_page_takes_words(path: Path, arm: Sidearm) -> None:
    """Escaped, as in every template."""
    use_sqlite(arm, path)
    site = Site(path, arm)
    leave = arm.token("leave", int, max_age=60)

    @site.app.route("/leave/<token('leave'):user_id>", methods=["GET", "POST"])
    @leave.confirm(title="Leave <us>?", button="Yes")
    def leave_us(user_id: int) -> Response:
        return redirect("/")  # type: ignore[return-value]

    with site.app.test_request_context():
        url = url_for("leave_us", user_id=7)
    page = site.client.get(url).text
    assert "<h1>Leave &lt;us&gt;?</h1>" in page
    assert "Yes</button>" in page
    # Not for one use: it asks, that is all.
    assert [site.post(url), site.post(url)] == [REDIRECT_STATUS, REDIRECT_STATUS]


@pytest.mark.parametrize("base_url", ["http://localhost", "https://localhost"])
def test_s2_the_form_passes_csrf_protect(plain_site: Site, base_url: str) -> None:
    """Flask-WTF's, with its defaults; over https it wants a ``Referer``, which our page forbids."""
    seen: list[str | None] = []
    plain_site.fails = lambda: seen.append(request.referrer)
    CSRFProtect(plain_site.app)
    url = plain_site.link()
    client = plain_site.client
    page = client.get(url, base_url=base_url).text
    token = page.partition('name="csrf_token" value="')[2].partition('"')[0]
    assert token
    answers = [
        client.post(url, base_url=base_url, **options)
        for options in (
            {},
            {"data": {"csrf_token": token[:-1]}},
            {"data": {"csrf_token": token}, "headers": {"Sec-Fetch-Site": "cross-site"}},
            {"data": {"csrf_token": token}, "headers": {"Sec-Fetch-Site": "same-origin"}},
        )
    ]
    assert [answer.status_code for answer in answers[:2]] == [400, 400]
    assert answers[2].status_code in {400, 403}
    assert answers[3].text == "welcome, 42"
    assert seen == [None]
    assert plain_site.activated == [42]


def test_s2_csrf_protect_still_guards_every_other_view(plain_site: Site) -> None:
    """Nothing of it was switched off."""
    CSRFProtect(plain_site.app)
    plain_site.app.add_url_rule("/other", "other", lambda: "other", methods=["POST"])
    plain_site.client.get(plain_site.link())
    for base_url in ("http://localhost", "https://localhost"):
        assert plain_site.post("/other", base_url=base_url) == 400


def test_s2_a_page_of_another_site_cannot_click(plain_site: Site) -> None:
    """Else it would have visitors log in to an account of its owner's."""
    url = plain_site.link()
    assert plain_site.post(url, headers={"Sec-Fetch-Site": "cross-site"}) == 403
    assert plain_site.post(url, headers={"Sec-Fetch-Site": "same-site"}) == 403
    assert plain_site.post(url, headers={"Sec-Fetch-Site": "same-origin"}) == 200


def test_s2_an_async_view(plain_site: Site) -> None:
    """Is waited for, like any."""
    kind = plain_site.arm.token("later", int, max_age=60, single_use=True)

    @plain_site.app.route("/later/<token('later'):number>", methods=["GET", "POST"])
    @kind.confirm()
    async def later(number: int) -> str:
        return f"later {number}"

    with plain_site.app.test_request_context():
        url = url_for("later", number=7)
    assert plain_site.client.post(url).text == "later 7"
    assert plain_site.post(url) == 410


# What is an error at start.


def test_s2_a_rule_that_only_get_reaches_is_an_error_at_start(plain_site: Site) -> None:
    """The link would act when a scanner follows it, or never."""
    kind = plain_site.arm.token("k", int, max_age=60, single_use=True)
    view = kind.confirm()(lambda number: "")
    for methods in (None, ["GET"], ["GET", "HEAD", "OPTIONS"]):
        with pytest.raises(TokenRuleError, match="It is reached by GET alone"):
            plain_site.app.add_url_rule(
                "/k/<token('k'):number>", f"v{methods}", view, methods=methods
            )


def test_s2_a_view_that_spends_nothing_is_an_error_at_start(plain_site: Site) -> None:
    """Also when its function comes later; then at the first request."""
    plain_site.arm.token("k", int, max_age=60, single_use=True)
    app = plain_site.app
    with pytest.raises(TokenRuleError, match="Nothing in its view spends the token for 'k'"):
        app.add_url_rule("/k/<token('k'):number>", "k", lambda number: "", methods=["POST"])
    app.add_url_rule("/l/<token('k'):number>", "l", methods=["POST"])
    app.endpoint("l")(lambda number: "")
    app.config["PROPAGATE_EXCEPTIONS"] = True
    with app.test_request_context():
        url = url_for("l", number=7)
    for _ in range(2):
        with pytest.raises(TokenRuleError, match="Nothing in its view spends the token for 'k'"):
            plain_site.client.post(url)


def test_s2_a_decorated_view_whose_rule_has_no_token_is_an_error_at_start(
    plain_site: Site,
) -> None:
    """There would be nothing to spend."""
    view = plain_site.kind.confirm()(lambda number: "")
    with pytest.raises(TokenRuleError, match="its URL has none"):
        plain_site.app.add_url_rule("/k/<int:number>", "k", view, methods=["GET", "POST"])


def test_s2_once_is_for_kinds_for_one_use(arm: Sidearm, app: Flask) -> None:
    """Else it would promise what it does not keep."""
    with pytest.raises(TypeError, match="single_use=True"):
        arm.token("k", int, max_age=60).once(lambda: "")
    with pytest.raises(TypeError, match="single_use=True"):
        arm.token("l", int, max_age=60).spend(arm.token_kinds["l"].sign(1))


def test_s2_once_below_a_log_in_that_turns_away(plain_site: Site) -> None:
    """Who is sent to the log-in page has spent nothing; behind it the link works, once."""
    app, kind = plain_site.app, plain_site.arm.token("gift", str, max_age=60, single_use=True)

    def login_required(view: Any) -> Any:
        @wraps(view)
        def wrapped(**kwargs: Any) -> Any:
            return view(**kwargs) if "user" in request.args else redirect("/login")

        return wrapped

    @app.post("/gift/<token('gift'):name>")
    @login_required
    @kind.once
    def gift(name: str) -> str:
        return render_template_string("a {{ name }}", name=name)

    with app.test_request_context():
        url = url_for("gift", name="lamp")
    statuses = [
        plain_site.post(url),
        plain_site.post(f"{url}?user=1"),
        plain_site.post(f"{url}?user=1"),
    ]
    assert statuses == [REDIRECT_STATUS, 200, 410]


def test_s2_class_based_views(plain_site: Site) -> None:
    """By ``decorators``, as Flask has it."""
    kind = plain_site.arm.token("k", int, max_age=60, single_use=True)

    class Gift(MethodView):
        decorators = (kind.confirm(),)

        def get(self, number: int) -> str:
            raise AssertionError

        def post(self, number: int) -> str:
            return f"gift {number}"

    plain_site.app.add_url_rule("/k/<token('k'):number>", view_func=Gift.as_view("gift"))
    with plain_site.app.test_request_context():
        url = url_for("gift", number=7)
    assert plain_site.client.get(url).status_code == 200
    assert plain_site.client.post(url).text == "gift 7"
    assert plain_site.post(url) == 410


def test_s2_looking_a_url_up_spends_nothing(plain_site: Site) -> None:
    """What an extension matches inside a request is not the request's own."""
    other = plain_site.link(7)

    @plain_site.app.before_request
    def look() -> None:
        plain_site.app.url_map.bind("localhost").match(other, method="POST")

    url = plain_site.link(42)
    assert plain_site.client.post(url).text == "welcome, 42"
    assert plain_site.rows() == 1
    assert plain_site.post(other) == 200

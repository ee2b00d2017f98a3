"""Accounts: links that work once, passwords, the way back, and receipts that end."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import select

from shop.account_views import RECEIPT_AGE
from shop.accounts import ACTIVATION_AGE, RESET_AGE, find_account
from shop.database import db
from shop.models import Account, Mail

if TYPE_CHECKING:
    from conftest import Ledger

    from sidearm.testing import FaultRun, Faults

ADDRESS = "grace@example.org"
PASSWORD = "correct horse battery"
OTHER = "another horse battery"
ORIGIN = "http://localhost"

on_both = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def newest_mail(app: Flask) -> Callable[..., Any]:
    """The newest mail in the mailbox."""

    def read() -> Any:
        with app.app_context():
            query = select(Mail.recipient, Mail.subject, Mail.body).order_by(Mail.id.desc())
            return db.session.execute(query).first()

    return read


@pytest.fixture
def mailed_link(client: FlaskClient, newest_mail: Callable[..., Any]) -> Callable[..., str]:
    """Give an address to a page, and return the path of the link that is mailed to it."""

    def ask(page: str, address: str = ADDRESS) -> str:
        answer = client.post(page, data={"email": address})
        assert (answer.status_code, answer.location) == (303, "/mailed")
        mail = newest_mail()
        assert mail.recipient == address
        link = re.search(r"^http://localhost(/(?:activate|reset)/\S+)$", mail.body, re.MULTILINE)
        assert link is not None, mail.body
        return link[1]

    return ask


@pytest.fixture
def account(client: FlaskClient, mailed_link: Callable[..., str]) -> str:
    """An active account that nobody is logged in to; its address."""
    client.post(mailed_link("/sign-up"), data={"password": PASSWORD})
    client.post("/log-out")
    return ADDRESS


def log_in(client: FlaskClient, path: str = "/log-in", **fields: Any) -> Any:
    return client.post(path, data={"email": ADDRESS, "password": PASSWORD, **fields})


def is_logged_in(client: FlaskClient) -> bool:
    return client.get("/orders").status_code == 200


def is_active(app: Flask) -> bool:
    with app.app_context():
        account = find_account(ADDRESS)
        return account is not None and account.is_active


@on_both
def test_s3_an_account_is_activated_once(
    app: Flask, client: FlaskClient, mailed_link: Callable[..., str]
) -> None:
    """The link shows a form, the form activates and logs in, and then the link is over."""
    link = mailed_link("/sign-up")
    page = client.get(link)
    assert page.status_code == 200
    assert 'autocomplete="new-password"' in page.text
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
    assert not is_active(app)

    answer = client.post(link, data={"password": PASSWORD})
    assert (answer.status_code, answer.location) == (303, "/orders")
    assert is_active(app)
    assert ADDRESS in client.get("/orders").text

    for again in (client.get(link), client.post(link, data={"password": OTHER})):
        assert again.status_code == 410
        assert "This link is over" in again.text
    client.post("/log-out")
    assert log_in(client, password=OTHER).status_code == 422
    assert log_in(client).status_code == 303


def test_s3_a_mail_scanner_burns_nothing(
    app: Flask, client: FlaskClient, mailed_link: Callable[..., str]
) -> None:
    """Who follows a link, however often, leaves it as it is."""
    link = mailed_link("/sign-up")
    scanner = app.test_client()
    for _ in range(20):
        assert scanner.get(link).status_code == 200
        assert scanner.head(link).status_code == 200
    assert not is_active(app)
    assert client.post(link, data={"password": PASSWORD}).status_code == 303


@pytest.mark.parametrize("password", ["", "short", "x" * 201])
def test_s3_a_failing_activation_leaves_the_link(
    app: Flask, client: FlaskClient, mailed_link: Callable[..., str], password: str
) -> None:
    """A password that is refused rolls back, and the same link is good for the next try."""
    link = mailed_link("/sign-up")
    answer = client.post(link, data={"password": password})
    assert answer.status_code == 422
    assert 'aria-describedby="password-problem"' in answer.text
    assert not is_active(app)
    assert client.post(link, data={"password": PASSWORD}).status_code == 303


@on_both
def test_s3_an_activation_survives_every_fault(
    app: Flask,
    client: FlaskClient,
    mailed_link: Callable[..., str],
    sidearm_faults: Faults,
) -> None:
    """Whatever fails: either the account is active and the link is over, or neither."""
    links: list[str] = []

    def restore() -> None:
        with app.app_context():
            if account := find_account(ADDRESS):
                account.password_hash = None
        links.append(mailed_link("/sign-up"))

    def check(run: FaultRun) -> None:
        assert is_active(app) == run.committed
        assert client.get(links[-1]).status_code == (410 if run.committed else 200)

    sidearm_faults.run(
        lambda: app.test_client().post(links[-1], data={"password": PASSWORD}),
        reset=restore,
        check=check,
    )


def test_s3_of_two_activation_links_one_counts(
    client: FlaskClient, mailed_link: Callable[..., str]
) -> None:
    """Who signs up twice has two mails, and an account is activated once."""
    first, second = mailed_link("/sign-up"), mailed_link("/sign-up")
    assert client.post(second, data={"password": PASSWORD}).status_code == 303
    assert client.post(first, data={"password": OTHER}).status_code == 410


def alike(text: str) -> str:
    """Without what is another in each answer: the position, and the nonce of the import map."""
    return re.sub(r"""data-position="[^"]+"|\bnonce(="|-)[\w-]+""", "", text)


@pytest.mark.parametrize("page", ["/sign-up", "/forgotten"])
def test_a_known_address_is_answered_as_an_unknown_one(
    app: Flask, account: str, newest_mail: Callable[..., Any], page: str
) -> None:
    """Status, headers and page are alike; only the mail tells."""
    answers, subjects = [], []
    for address in (account, "nobody@example.org", account.upper().replace("EXAMPLE", "example")):
        client = app.test_client()
        answer = client.post(page, data={"email": address})
        answers.append((answer.status_code, *map(alike, (answer.text, str(answer.headers)))))
        answers.append((200, alike(client.get("/mailed").text), ""))
        subjects.append(newest_mail().subject)
    assert answers[:2] == answers[2:4] == answers[4:]
    assert subjects[0] == subjects[2] != subjects[1]


def test_la_a_reset_link_dies_with_the_old_password(
    client: FlaskClient, account: str, mailed_link: Callable[..., str]
) -> None:
    """A change of the password ends each link to another one, used or not."""
    used, spare = mailed_link("/forgotten"), mailed_link("/forgotten")
    assert client.get(used).status_code == 200
    assert client.post(used, data={"password": "short"}).status_code == 422
    answer = client.post(used, data={"password": OTHER})
    assert (answer.status_code, answer.location) == (303, "/log-in")
    for link in (used, spare):
        assert client.get(link).status_code == 410
        assert client.post(link, data={"password": PASSWORD}).status_code == 410
    assert log_in(client).status_code == 422
    assert log_in(client, password=OTHER).status_code == 303


def test_a_new_password_ends_other_sessions(
    app: Flask, client: FlaskClient, account: str, mailed_link: Callable[..., str]
) -> None:
    """Whoever was logged in by the old password is not any more."""
    thief = app.test_client()
    log_in(thief)
    assert is_logged_in(thief)
    client.post(mailed_link("/forgotten"), data={"password": OTHER})
    assert not is_logged_in(thief)
    assert thief.get("/").status_code == 200


@pytest.mark.parametrize(("page", "age"), [("/sign-up", ACTIVATION_AGE), ("/forgotten", RESET_AGE)])
def test_la_a_mailed_link_ends(
    request: pytest.FixtureRequest,
    client: FlaskClient,
    mailed_link: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    page: str,
    age: timedelta,
) -> None:
    """After its time a link is 410; one that was changed is no page at all."""
    if page == "/forgotten":
        request.getfixturevalue("account")
    link = mailed_link(page)
    assert client.get(f"{link[:-1]}{'A' if link[-1] != 'A' else 'E'}").status_code == 404
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + age.total_seconds() + 5)
    assert client.get(link).status_code == 410


def test_s_tokens_of_one_purpose_open_nothing_else(
    client: FlaskClient, account: str, mailed_link: Callable[..., str]
) -> None:
    """A link for a new password activates nothing."""
    link = mailed_link("/forgotten")
    assert client.get(link.replace("/reset/", "/activate/")).status_code == 404


def test_a_mailed_link_has_no_host_of_a_request(
    app: Flask, make_app: Callable[..., Flask], newest_mail: Callable[..., Any]
) -> None:
    """A forged host is refused, and with SHOP_ORIGIN it counts for nothing."""
    forged = {"base_url": "http://evil.example"}
    client = app.test_client()
    answer = client.post("/sign-up", data={"email": ADDRESS}, **forged)
    assert (answer.status_code, newest_mail()) == (400, None)
    assert "SHOP_ORIGIN" in answer.text

    client = make_app(SHOP_ORIGIN="https://shop.example").test_client()
    assert client.post("/sign-up", data={"email": ADDRESS}, **forged).status_code == 303
    assert "https://shop.example/activate/" in newest_mail().body
    assert "evil" not in newest_mail().body


def test_d2_log_in_goes_back_to_where_one_was(client: FlaskClient, account: str) -> None:
    """To the page that wanted an account, and to the page that one came from."""
    page = client.get("/orders")
    assert page.status_code == 302
    assert log_in(client, page.location).location == "/orders"

    client.post("/log-out")
    product = f"{ORIGIN}/products/kestrel-flask-0-5-l"
    form = client.get("/log-in", headers={"Referer": product})
    assert f'name="next" type="hidden" value="{product}"' in form.text
    refused = log_in(client, next=product, password="wrong")
    assert refused.status_code == 422
    assert f'value="{product}"' in refused.text, "a wrong password forgets the way back"
    assert log_in(client, next=product).location == product
    assert client.get("/log-in?next=/mailbox").location == "/mailbox", "logged in, and still asked"


HOSTILE = [
    "https://evil.example",
    "//evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "http:evil.example",
    "https:///evil.example",
    " https://evil.example",
    "http://localhost@evil.example/",
    "http://localhost.evil.example/",
    "javascript:alert(1)",
    "%2f%2fevil.example\n//evil.example",
    "/%0d%0aLocation:https://evil.example\n",
    "\x00//evil.example",
]


@pytest.mark.parametrize("target", HOSTILE)
@pytest.mark.parametrize("place", ["form", "query", "both"])
def test_d1_a_hostile_next_ends_on_the_shop(
    client: FlaskClient, account: str, target: str, place: str
) -> None:
    """Whatever the link to the log-in page asks for, nobody leaves the shop."""
    form = client.get("/log-in", query_string={"next": target}) if place != "form" else None
    assert form is None or "evil" not in form.text
    answer = client.post(
        "/log-in",
        query_string={"next": target} if place != "form" else None,
        data={"email": account, "password": PASSWORD}
        | ({"next": target} if place != "query" else {}),
    )
    assert answer.status_code == 303
    path = answer.location
    assert path == "/orders" or path.startswith(("/%0", "/%2")), path


def test_a_session_is_new_after_log_in(app: Flask, client: FlaskClient, account: str) -> None:
    """What somebody put into the session before is gone, and log-out leaves nothing."""
    with client.session_transaction() as session:
        session["email"] = "eve@example.org"
        session["planted"] = "yes"
    log_in(client)
    with client.session_transaction() as session:
        assert {"email", "planted"}.isdisjoint(session)
    page = client.get("/products/kestrel-flask-0-5-l").text
    assert f'value="{account}"' in page
    assert "Log out" in page

    answer = client.post("/log-out")
    assert (answer.status_code, answer.location) == (303, "/")
    assert not is_logged_in(client)
    assert account not in client.get("/products/kestrel-flask-0-5-l").text
    assert client.get("/log-out").status_code == 405, "a picture on another site logs people out"


@pytest.mark.parametrize("way", ["log out", "new password"])
def test_e_logging_out_closes_the_accounts_streams(
    app: Flask, client: FlaskClient, account: str, mailed_link: Callable[..., str], way: str
) -> None:
    """A stream of the account ends, wherever it is open; a stranger's goes on."""
    other, stranger = app.test_client(), app.test_client()
    log_in(client)
    log_in(other)

    def poll(browser: FlaskClient, position: str) -> Any:
        return browser.get("/streams/shop", query_string={"last_event_id": position})

    def last_id(answer: Any) -> str:
        return str(answer.text.rpartition("id: ")[2].strip())

    opened = {browser: last_id(browser.get("/streams/shop")) for browser in (other, stranger)}
    link = mailed_link("/forgotten") if way == "new password" else ""
    if way == "log out":
        client.post("/log-out")
    else:
        client.post(link, data={"password": OTHER})
        log_in(other, password=OTHER)
    ended = poll(other, opened[other])
    assert poll(other, last_id(ended)).status_code == 204
    assert poll(stranger, last_id(poll(stranger, opened[stranger]))).status_code == 200


def test_e6_a_member_shares_no_stream_with_a_stranger(app: Flask, account: str) -> None:
    """Windows share by the URL, and only a stream that was opened after the log-in has the tag."""
    client = app.test_client()
    assert 'data-stream="/streams/shop"' in client.get("/").text
    log_in(client)
    assert 'data-stream="/streams/shop?member=1"' in client.get("/").text


def test_log_in_tells_nobody_who_has_an_account(
    app: Flask, client: FlaskClient, account: str
) -> None:
    """Wrong password, no account, no active account: one answer."""
    client.post("/sign-up", data={"email": "new@example.org"})
    answers = {
        alike(log_in(app.test_client(), email=email, password="wrong").text).replace(email, "")
        for email in (account, "nobody@example.org", "new@example.org")
    }
    assert len(answers) == 1
    assert "The address or the password is not right." in answers.pop()


def test_passwords_are_kept_as_scrypt(app: Flask, account: str) -> None:
    """The database has no password, and a hash that is slow to guess."""
    with app.app_context():
        hashed = db.session.scalars(select(Account.password_hash)).one()
    assert hashed is not None
    assert hashed.startswith("scrypt:")
    assert PASSWORD not in hashed


def test_an_order_belongs_to_who_is_logged_in(
    app: Flask, client: FlaskClient, account: str, buy: Callable[..., Any]
) -> None:
    """Without an account one buys as before; with one the order is among one's own."""
    assert buy(quantity="1").status_code == 303
    log_in(client)
    assert "No orders yet" in client.get("/orders").text
    assert buy(quantity="3").status_code == 303
    page = client.get("/orders").text
    assert "3 \N{MULTIPLICATION SIGN} Kestrel flask 0.5 l" in page
    assert page.count("receipt.txt") == 1


def test_s4_a_receipt_opens_until_its_link_ends(
    app: Flask,
    client: FlaskClient,
    account: str,
    buy: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also logged out; a changed link is 403, an old one 410, and both look like the shop."""
    log_in(client)
    buy(quantity="2")
    buy(quantity="1")
    links = re.findall(r'href="(/orders/[^"]+/receipt\.txt[^"]+)"', client.get("/orders").text)
    newer, older = (link.replace("&amp;", "&") for link in links)
    stranger = app.test_client()
    receipt = stranger.get(older)
    assert receipt.status_code == 200
    assert "attachment" in receipt.headers["Content-Disposition"]
    assert "2 x Kestrel flask 0.5 l" in receipt.text

    number, other = older.split("/")[2], newer.split("/")[2]
    wrong = [older.replace(number, other), older.partition("?")[0], f"{older}&more=1", older[:-3]]
    for link in wrong:
        refused = stranger.get(link)
        assert refused.status_code == 403, link
        assert 'class="masthead"' in refused.text

    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + RECEIPT_AGE.total_seconds() + 5)
    ended = stranger.get(older)
    assert ended.status_code == 410
    assert "This link is over" in ended.text
    assert 'class="masthead"' in ended.text


@pytest.mark.parametrize(
    "path",
    ["/log-in", "/sign-up", "/forgotten", "/log-out", "/products/kestrel-flask-0-5-l"],
)
def test_forms_of_other_sites_are_refused(
    make_app: Callable[..., Flask], ledger: Ledger, path: str
) -> None:
    """Each form carries the token of its session, and without it nothing is done."""
    client = make_app(WTF_CSRF_ENABLED=True).test_client()
    fields = {"email": ADDRESS, "password": PASSWORD, "quantity": "1"}
    refused = client.post(path, data=fields)
    assert refused.status_code == 400
    assert "Please try again" in refused.text
    assert (ledger.orders, ledger.mails) == (0, 0)
    if path == "/log-out":
        return
    token = re.search(r'name="csrf_token" type="hidden" value="([^"]+)"', client.get(path).text)
    assert token is not None
    assert client.post(path, data={**fields, "csrf_token": token[1]}).status_code in {303, 422}


def test_a_link_passes_under_csrf_protection(
    make_app: Callable[..., Flask], mailed_link: Callable[..., str]
) -> None:
    """The form behind a mailed link works with its token, and only with it."""
    link = mailed_link("/sign-up")
    client = make_app(WTF_CSRF_ENABLED=True).test_client()
    assert client.post(link, data={"password": PASSWORD}).status_code == 400
    token = re.search(r'name="csrf_token" type="hidden" value="([^"]+)"', client.get(link).text)
    assert token is not None
    fields = {"password": PASSWORD, "csrf_token": token[1]}
    assert client.post(link, data=fields).status_code == 303


def test_a_database_from_before_there_were_accounts(
    make_app: Callable[..., Flask], tmp_path: Path
) -> None:
    """``seed`` adds the tables that are missing; until then their pages say what to do."""
    app = make_app()
    with sqlite3.connect(tmp_path / "shop.db") as old:
        for table in ("account_orders", "accounts", "sidearm_spent_tokens"):
            old.execute(f"DROP TABLE {table}")
        old.execute("INSERT INTO customers VALUES (1, 'ada@example.org')")
        old.execute("INSERT INTO orders VALUES (1, 'old', 1, 100, '2026-01-01 00:00:00', 1, 1)")
    old.close()
    client = app.test_client()
    assert client.get("/").status_code == 200
    answer = client.post("/sign-up", data={"email": ADDRESS})
    assert answer.status_code == 503
    assert "flask --app shop seed" in answer.text

    result = app.test_cli_runner().invoke(args=["seed"])
    assert result.output == "The shop already has 234 products; nothing to do.\n"
    assert client.post("/sign-up", data={"email": ADDRESS}).status_code == 303
    assert client.get("/orders/old").status_code == 200

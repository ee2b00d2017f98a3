"""The pages, and how page and stream join."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from shop.models import STOCK_WORDS
from sidearm.testing import read_events

if TYPE_CHECKING:
    from conftest import Ledger

PAGE = "/products/kestrel-flask-0-5-l"


def names(client: FlaskClient, url: str) -> list[str]:
    page = client.get(url)
    assert page.status_code == 200
    return re.findall(r'class="card-name"><a [^>]*>([^<]*)<', page.text)


def test_the_list_shows_every_product_once(client: FlaskClient) -> None:
    """Page after page, the list holds all of at least 200 products."""
    pages = [names(client, f"/?page={number}") for number in range(1, 11)]
    everything = [name for page in pages for name in page]
    assert len(everything) == len(set(everything)) >= 200
    assert client.get("/?page=11").status_code == 404


def test_a_shelf_shows_only_its_own(client: FlaskClient) -> None:
    """The category filters."""
    fire = names(client, "/?category=fire")
    assert len(fire) == 18
    assert "Storm matches, 25" in fire


@pytest.mark.parametrize(
    ("words", "found"),
    [("wool RUST", ["Wool blanket, rust"]), ("100%", []), ("_", []), ("'\"<b>", [])],
)
def test_the_search_takes_every_word_as_it_is(
    client: FlaskClient, words: str, found: list[str]
) -> None:
    """Every word must be there, in any case; nothing is a wildcard, nothing becomes markup."""
    assert names(client, f"/?q={words.replace('%', '%25')}") == found
    assert "<b>”" not in client.get("/", query_string={"q": "<b>"}).text


def test_search_and_shelf_together(client: FlaskClient) -> None:
    """A search inside a shelf; the links to the other shelves keep the words."""
    page = client.get("/?category=light&q=storm")
    assert "Storm lantern" in page.text
    assert "Storm matches" not in page.text
    assert "/?category=fire&amp;q=storm" in page.text


def test_sorting(client: FlaskClient) -> None:
    """By price in both directions; an unknown sorting is the ordinary one."""
    cheap = names(client, "/?category=care&sort=cheap")
    assert cheap[0] == "Lip balm"
    assert names(client, "/?category=care&sort=dear")[-1] == "Lip balm"
    assert names(client, "/?sort=nonsense") == names(client, "/")


@pytest.mark.parametrize("stock", [0, 1, 5, 6])
def test_a_stock_is_said_in_words(client: FlaskClient, stock: int, ledger: Ledger) -> None:
    """None, low, plenty; nothing can be bought of none."""
    ledger.stock = stock
    page = client.get(PAGE).text
    level = "none" if stock == 0 else "low" if stock <= 5 else "plenty"
    assert f">{STOCK_WORDS[level].format(n=stock)}<" in page
    assert ("disabled>Buy it" in page) == (stock == 0)


def test_the_address_is_remembered(client: FlaskClient, buy: Callable[..., Any]) -> None:
    """After a purchase the form knows the address; before, nobody gets a cookie."""
    assert "Set-Cookie" not in client.get(PAGE).headers
    cookie = buy().headers["Set-Cookie"]
    assert "SameSite=Lax" in cookie
    assert "HttpOnly" in cookie
    assert 'value="ada@example.org"' in client.get(PAGE).text


def test_a_page_and_its_stream_join_without_a_gap(
    client: FlaskClient, buy: Callable[..., Any]
) -> None:
    """What is sold after a page was made, and before its stream opens, is on the stream."""
    page = client.get("/").text
    position = re.search(r'data-position="([^"]+)"', page)
    assert position is not None
    buy(quantity="2")
    stream = client.get("/streams/shop", query_string={"last_event_id": position[1]})
    assert [event.event for event in read_events(stream)] == ["stock", "sold"]


def test_figures_after_a_gap(client: FlaskClient, buy: Callable[..., Any], ledger: Ledger) -> None:
    """The page asks for the products that it shows, and gets them and the last sales."""
    ledger.stock = 10
    buy()
    now = client.get("/stock.json?id=2&id=3&id=nonsense&id=999999").json
    assert now is not None
    assert sorted(each["id"] for each in now["stock"]) == [2, 3]
    assert {"id": 2, "stock": 9, "version": 2} in now["stock"]
    assert [sale["slug"] for sale in now["sold"]] == ["kestrel-flask-0-5-l"]
    assert client.get("/stock.json").json == {"stock": [], "sold": now["sold"], "paid": []}


@pytest.mark.parametrize(
    ("method", "url", "status", "words"),
    [
        ("GET", "/nowhere", 404, "Off the map"),
        ("GET", "/products/nothing", 404, "Off the map"),
        ("GET", "/orders/guessed", 404, "Off the map"),
        ("POST", "/streams/shop", 405, "Method Not Allowed"),
    ],
)
def test_errors_have_pages_of_their_own(
    client: FlaskClient, method: str, url: str, status: int, words: str
) -> None:
    """Whatever goes wrong, there is a way back into the shop."""
    page = client.open(url, method=method)
    assert page.status_code == status
    assert words in page.text
    assert 'href="/"' in page.text


def test_a_broken_database_has_a_page(make_app: Callable[..., Flask]) -> None:
    """The 500 page needs no database, which may be what broke."""
    app = make_app(PROPAGATE_EXCEPTIONS=False, SHOP_DATABASE_URL="sqlite:///nowhere/shop.db")
    page = app.test_client().get("/")
    assert page.status_code == 500
    assert "Something broke" in page.text


def test_the_shop_under_a_prefix(client: FlaskClient) -> None:
    """Mounted under a path, every link and address stays under it."""
    page = client.get("/", base_url="http://localhost/shop")
    links = re.findall(r'(?:href|src|action|data-stream|data-now)="([^"#]+)"', page.text)
    assert links
    assert [link for link in links if not link.startswith("/shop/")] == []
    assert '{"sidearm": "/shop/_sidearm/sidearm.' in page.text


def test_the_import_map_alone_has_the_nonce(client: FlaskClient) -> None:
    """Another one in each answer, and none where nothing is inline: no other script can run."""
    allowed = set()
    for _ in range(2):
        page = client.get("/")
        (nonce,) = re.findall(r'<script type="importmap" nonce="([\w-]{22})">', page.text)
        assert f"script-src 'self' 'nonce-{nonce}';" in page.headers["Content-Security-Policy"]
        assert page.text.count(nonce) == 1
        allowed.add(nonce)
        assert re.search(r'"integrity": \{"/_sidearm/sidearm\.[0-9a-f]+\.js": "sha384-', page.text)
    assert len(allowed) == 2
    figures = client.get("/stock.json")
    assert "script-src 'self';" in figures.headers["Content-Security-Policy"]


def test_headers(client: FlaskClient) -> None:
    """Nothing from elsewhere is loaded, framed or sniffed."""
    headers = client.get("/").headers
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "private, no-cache"
    with client.get("/favicon.ico") as icon:
        assert icon.mimetype == "image/svg+xml"

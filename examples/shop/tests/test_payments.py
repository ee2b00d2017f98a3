"""Payments: signed webhooks from a real HTTP client, and the order's page that shows them."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from flask import Flask
from flask.testing import FlaskClient

from sidearm.cli import sidearm as sidearm_command
from sidearm.testing import EventSource, UpServer

START_TIMEOUT = 180.0  # seconds for workers and hub
WAIT = 60.0  # seconds


@pytest.fixture
def server(tmp_path: Path, seeded_database: Path) -> Iterator[UpServer]:
    """``flask --app shop sidearm up`` on the database of :func:`app`."""
    if not (tmp_path / "shop.db").exists():
        shutil.copy(seeded_database, tmp_path / "shop.db")
    environment = dict.fromkeys(filter(lambda name: name.startswith("SHOP_"), os.environ))
    environment["SHOP_INSTANCE_PATH"] = str(tmp_path)
    folder = Path(__file__).parents[1]
    with UpServer("shop", cwd=folder, env=environment, start_timeout=START_TIMEOUT) as server:
        yield server


def test_q1_a_payment_is_shown_at_once_and_counts_once(
    app: Flask,
    client: FlaskClient,
    buy: Callable[..., Any],
    server: UpServer,
    event_source: Callable[..., EventSource],
    tmp_path: Path,
) -> None:
    """Over HTTP, from ``flask sidearm deliver``, to the order's page of another worker."""
    number = buy().location.rpartition("/")[2]
    page = read(f"{server.url}/orders/{number}")
    assert ">Not yet<" in page
    stream = re.findall(r'data-stream="(.*?)"', page)[0]
    total = round(float(re.findall(r"In all</th><td>€([\d.,]+)<", page)[0].replace(",", "")) * 100)

    def pay(amount: int, id: str = "evt_1", type: str = "payment.succeeded") -> str:
        body = tmp_path / "payment.json"
        body.write_text(
            f'{{"type": "{type}", "data": {{"order": "{number}", "amount": {amount}}}}}'
        )
        arguments = ["--id", id, "payments", f"{server.url}/hooks/payments", str(body)]
        result = app.test_cli_runner().invoke(sidearm_command, ["deliver", *arguments])
        assert result.exit_code == 0, result.output
        return str(result.output).partition(" ")[0]

    position = re.findall(r'data-position="(.*?)"', page)[0]
    with event_source(f"{server.url}{stream}&last_event_id={position}", timeout=WAIT) as source:
        assert pay(total, "evt_0", "payment.created") == "204"
        assert pay(total - 1) == "422"
        assert pay(total) == "204"
        event = source.next_event()
        assert (event.event, event.data) == ("paid", f'{{"order":"{number}"}}')
        assert pay(total) == "200"
        assert pay(total + 1) == "409"
    assert ">Paid<" in read(f"{server.url}/orders/{number}")
    assert f'"paid":[{{"order":"{number}"}}]' in read(f"{server.url}/stock.json?order={number}")
    with pytest.raises(HTTPError, match="403"):
        read(f"{server.url}/hooks/payments", b'{"type": "payment.succeeded"}')


def test_q1_the_webhook_secret_is_made_once_and_private(app: Flask, tmp_path: Path) -> None:
    """As the key is; a wrong one is refused when the shop starts."""
    path = tmp_path / "webhook_secret"
    assert app.config["SIDEARM_WEBHOOKS"]["payments"]["secrets"] == [path.read_text()]
    assert path.stat().st_mode & 0o777 == 0o600


def test_q1_a_wrong_webhook_secret_is_refused_at_start(make_app: Callable[..., Flask]) -> None:
    """By the name of its setting, without showing it."""
    with pytest.raises(ValueError, match=r"SIDEARM_WEBHOOKS\['payments'\]\['secrets'\]") as caught:
        make_app(SHOP_WEBHOOK_SECRET="hunter2")
    assert "hunter2" not in str(caught.value)


def read(url: str, body: bytes | None = None) -> str:
    request = Request(url, body)  # noqa: S310 - of our own server
    with urlopen(request, timeout=WAIT) as response:  # noqa: S310
        text: bytes = response.read()
    return text.decode()

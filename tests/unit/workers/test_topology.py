"""Contract W2: endpoints, whether they block or stream, and who serves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from flask import Blueprint, Flask

from sidearm import EventStream
from sidearm.workers import picture
from sidearm.workers.topology import (
    Kind,
    Layout,
    Topology,
    pools_of,
    read_topology,
    static_folder_of,
)


def make_app(tmp_path: Path) -> Flask:
    (tmp_path / "static").mkdir(exist_ok=True)
    app = Flask("testapp", root_path=str(tmp_path))
    live = Blueprint("live", "live", root_path=str(tmp_path), url_prefix="/live")

    @live.get("/<channel>")
    def channel(channel: str) -> EventStream: ...  # type: ignore[empty-body]

    @live.post("/<channel>")
    def send(channel: str) -> str:
        return "sent"

    @live.get("/stock")
    def stock() -> EventStream | str: ...  # type: ignore[empty-body]

    app.register_blueprint(live)

    @app.get("/")
    def index() -> str:
        return "page"

    @app.get("/legacy")
    def legacy(): ...  # noqa: ANN202

    app.add_url_rule("/built/only", "index", build_only=True)
    app.add_url_rule("/old", "old", redirect_to="/")
    return app


def topology(app: Flask, layout: Layout = "sidearm", **options: Any) -> Topology:
    return read_topology(app, pools=pools_of(layout), layout=layout, **options)


def shown(topology: Topology) -> dict[tuple[str, str], tuple[str, str, str]]:
    return {
        (route.rule, ",".join(route.methods)): (route.kind.value, route.known_by, route.pool)
        for route in topology.routes
    }


def test_w2_kinds_and_pools_of_the_talks_layout(tmp_path: Path) -> None:
    """A front chooses by the path: what shares one with a stream is served where it is."""
    assert shown(topology(make_app(tmp_path), "talk")) == {
        ("/", "GET"): ("blocks", "annotation", "blocking"),
        ("/legacy", "GET"): ("unknown", "until it first streams", "blocking"),
        ("/live/<channel>", "GET"): ("streams", "annotation", "streaming"),
        ("/live/<channel>", "POST"): ("blocks", "annotation", "streaming"),
        ("/live/stock", "GET"): ("streams", "annotation; not always", "streaming"),
        ("/old", "GET"): ("blocks", "it has no view", "blocking"),
        ("/static/<path:filename>", "GET"): ("blocks", "static files", "blocking"),
    }


def test_w2_one_pool_in_our_own_layout(tmp_path: Path) -> None:
    """The web workers answer everything; open streams are the hub's."""
    found = topology(make_app(tmp_path))
    assert {route.pool for route in found.routes} == {"web"}
    assert [route.rule for route in found.streaming()] == ["/live/<channel>", "/live/stock"]


def test_w2_what_was_seen_is_known(tmp_path: Path) -> None:
    """An endpoint without annotation that a worker saw stream; one that is gone is not shown."""
    found = topology(make_app(tmp_path), "talk", seen={"legacy", "gone", "index"})
    assert shown(found)["/legacy", "GET"] == ("streams", "seen by a worker", "streaming")
    # What was seen goes before an annotation that does not mention it.
    assert shown(found)["/", "GET"] == ("streams", "seen by a worker", "streaming")
    assert not found.unknown()


def test_w2_the_table_says_what_it_does_not_know(tmp_path: Path) -> None:
    """One line for each rule, the pools, and how to make the rest known."""
    lines = list(picture.table(topology(make_app(tmp_path))))
    assert lines[0].split() == ["RULE", "METHODS", "ENDPOINT", "KIND", "KNOWN", "BY", "POOL"]
    assert any(line.split()[:4] == ["/legacy", "GET", "legacy", "unknown"] for line in lines)
    assert "1 route is unknown" in lines[-1]
    assert "-> EventStream" in lines[-1]


@pytest.mark.parametrize("layout", ["sidearm", "talk"])
def test_w2_the_picture_is_svg_with_every_rule(layout: Layout, tmp_path: Path) -> None:
    """It can be read as XML, also with a rule of characters that XML and terminals mind."""
    app = make_app(tmp_path)
    app.add_url_rule("/a<any('<b>&', x\x1b):y>", "odd", lambda y: y)
    found = topology(app, layout)
    root = ET.fromstring(picture.svg(found))
    texts = [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert any(text == "~ GET /live/<channel>" for text in texts)
    assert any(text.startswith("? GET /a<any('<b>&', x\\x1b):y>") for text in texts)
    assert ("hub: streams" in texts) is (layout == "sidearm")
    title = root.find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert "/live/<channel> (streams)" in (title.text or "")


def test_w2_json_has_all_of_it(tmp_path: Path) -> None:
    """With the pools' ports, for programs."""
    found = topology(make_app(tmp_path), "talk").to_dict()
    assert found["pools"]["streaming"] == {"meaning": "gevent workers", "port": 8001}
    assert found["routes"][2] == {
        "rule": "/live/<channel>",
        "methods": ["GET"],
        "endpoint": "live.channel",
        "kind": "streams",
        "known_by": "annotation",
        "pool": "streaming",
    }
    assert Kind(found["routes"][2]["kind"]) is Kind.STREAMS


def test_w3_only_flasks_own_static_view_may_be_bypassed(tmp_path: Path) -> None:
    """A function or a class of the application's may check who asks, or choose the caching."""
    assert static_folder_of(make_app(tmp_path), "static") == str(tmp_path / "static")

    class Own(Flask):
        def send_static_file(self, filename: str) -> Any: ...

    class Aged(Flask):
        def get_send_file_max_age(self, filename: str | None) -> int | None:
            return 7

    for kind in (Own, Aged):
        assert static_folder_of(kind("testapp", root_path=str(tmp_path)), "static") is None
    guarded = make_app(tmp_path)
    guarded.view_functions["static"] = lambda filename: filename
    assert static_folder_of(guarded, "static") is None
    assert static_folder_of(guarded, "index") is None
    assert static_folder_of(guarded, "nobody.static") is None

"""What goes wrong with the talk's cache busting on today's Flask (15), and not with Sidearm."""

from __future__ import annotations

from hashlib import md5
from typing import TYPE_CHECKING, Any

import pytest
from asset_site import Site
from flask import Blueprint

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "1.0"


class SlideSite(Site):
    """An application as the slide has it: one version for all files."""

    version = VERSION

    def start(self, *blueprints: Blueprint, **config: Any) -> Any:
        app = super().start(*blueprints, SIDEARM_ASSETS=None, **config)

        @app.url_defaults
        def static_cache_buster(endpoint: str, values: dict[str, Any]) -> None:
            if endpoint == "static":
                values["_v"] = md5(self.version.encode()).hexdigest()[:14]

        return app


def fill(site: Site) -> None:
    """Two stylesheets, one with a picture, and those of a blueprint."""
    site.write("one.css", "a { background: url(dot.png) }")
    site.write("two.css", "b { }")
    site.write("dot.png", b"one")
    site.write("three.css", "c { }", site.root / "files")
    options: dict[str, Any] = {"root_path": str(site.root), "static_folder": "files"}
    site.start(Blueprint("bp", "bp", url_prefix="/bp", **options))


@pytest.fixture
def slide(tmp_path: Path) -> SlideSite:
    """The slide's."""
    site = SlideSite(tmp_path)
    fill(site)
    return site


@pytest.fixture
def ours(tmp_path: Path) -> Site:
    """The same with ``SIDEARM_ASSETS``."""
    site = Site(tmp_path)
    fill(site)
    return site


def test_15_literally_it_does_not_run() -> None:
    """``md5(str)`` is a TypeError."""
    with pytest.raises(TypeError):
        md5(VERSION)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def change(site: Site, name: str, content: str) -> tuple[set[str], set[str]]:
    """The URLs that change with a file, and those that stay."""
    names = ("one.css", "two.css", "dot.png")
    before = [site.url(each) for each in names]
    site.write(name, content)
    site.start(*site.app.blueprints.values())
    after = [site.url(each) for each in names]
    changed = {each for each, old, new in zip(names, before, after, strict=True) if old != new}
    return changed, set(names) - changed


def test_15_one_version_for_all_files(slide: SlideSite, ours: Site) -> None:
    """A file that changed between two versions keeps its URL; a new version changes all."""
    assert change(slide, "two.css", "b { color: red }")[0] == set()
    before = slide.url("one.css")
    slide.version = "1.1"
    assert slide.url("one.css") != before  # which nobody touched

    assert change(ours, "two.css", "b { color: tan }") == ({"two.css"}, {"one.css", "dot.png"})


def test_15_what_a_stylesheet_refers_to_has_no_version(slide: Site, ours: Site) -> None:
    """The picture's URL stays, whatever it shows."""
    assert slide.get(slide.url("one.css")).text == "a { background: url(dot.png) }"
    assert change(ours, "dot.png", "two")[0] == {"one.css", "dot.png"}
    assert "url(dot.png)" not in ours.text(ours.url("one.css"))


def test_15_files_of_blueprints_have_none(slide: Site, ours: Site) -> None:
    """The slide asks for one endpoint."""
    assert slide.url("three.css", "bp.static") == "/bp/files/three.css"
    assert ours.url("three.css", "bp.static") != "/bp/files/three.css"


def test_15_nothing_is_kept_for_long(slide: Site, ours: Site) -> None:
    """Flask has browsers ask again each time, version or not."""
    assert slide.get(slide.url("two.css")).headers["Cache-Control"] == "no-cache"
    assert "immutable" in ours.get(ours.url("two.css")).headers["Cache-Control"]

"""Contract A1: how a static file is answered (WN-01 to WN-32, WN-35, WN-36)."""

from __future__ import annotations

import contextlib
import gzip
import logging
import mimetypes
import os
import re
import shutil
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import brotli
import pytest
import zstandard
from asset_site import IMMUTABLE, Site
from flask import Blueprint
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client, EnvironBuilder, create_environ

from sidearm.assets.serving import AssetServer

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

TEXT = "a { color: red }\n" * 100
BYTES = bytes(range(256)) * 4
LARGE = 1 << 19  # bytes; more than is read at once


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An application with some files, and a build of them."""
    site = Site(tmp_path)
    site.settle(
        site.write("app.css", TEXT),
        site.write("refers.css", f"{TEXT} b {{ c: url(dot.png) }}"),
        site.write("dot.png", BYTES),
        site.write("large.bin", os.urandom(LARGE)),
        site.write("sm\u00f6r g\u00e5s.txt", "\u00e4" * 200),
    )
    return site


@pytest.fixture
def built(site: Site) -> Site:
    """The same after ``flask sidearm assets build``."""
    result = site.build()
    assert result.exit_code == 0, result.output
    return site


def both(site: Site, name: str = "app.css") -> list[str]:
    """The URLs of a file, with its hash and without."""
    return [site.url(name), f"/static/{name}"]


def test_wn01_a_hashed_url_is_immutable(site: Site) -> None:
    """Any cache may keep it for a year, and need not ask again."""
    assert site.get(site.url("app.css")).headers["Cache-Control"] == IMMUTABLE


def test_wn02_without_the_hash_a_file_has_a_short_age(site: Site) -> None:
    """That of Flask's setting, if there is one; in debug none."""
    plain = "/static/app.css"
    assert site.get(plain).text == TEXT
    assert site.get(plain).headers["Cache-Control"] == "public, max-age=60"
    for age in (5, timedelta(seconds=5)):
        site.start(SEND_FILE_MAX_AGE_DEFAULT=age)
        assert site.get(plain).headers["Cache-Control"] == "public, max-age=5"
    site.start(DEBUG=True)
    assert site.get(plain).headers["Cache-Control"] == "no-cache"


def test_wn03_gzip_is_sent_to_who_accepts_it(built: Site) -> None:
    """With the length of what is sent, and the file inside; with hashed references or without."""
    for name in ("app.css", "refers.css"):
        for url in both(built, name):
            response = built.get(url, Accept_Encoding="gzip")
            assert response.headers["Content-Encoding"] == "gzip"
            assert response.headers["Vary"] == "Accept-Encoding"
            assert int(response.headers["Content-Length"]) == len(response.data)
            assert gzip.decompress(response.data) == built.get(url).data
            assert response.headers["Content-Type"] == "text/css; charset=utf-8"


def test_wn04_brotli_and_zstd_are_sent_to_who_accepts_them(built: Site) -> None:
    """Of several the smallest, unless the client likes one more."""
    for url in both(built):
        assert brotli.decompress(coded(built, url, "gzip, br", "br")) == TEXT.encode()
        zstd = coded(built, url, "gzip;q=0.5, zstd;q=0.8", "zstd")
        assert zstandard.ZstdDecompressor().decompress(zstd) == TEXT.encode()
        coded(built, url, "gzip, br;q=0.5", "gzip")
        coded(built, url, "GZIP", "gzip")
        coded(built, url, "identity, br;q=0.5", None)


def coded(site: Site, url: str, accepted: str, coding: str | None) -> bytes:
    """The body for an ``Accept-Encoding``, which has to have a coding."""
    response = site.get(url, Accept_Encoding=accepted)
    assert response.headers.get("Content-Encoding") == coding, accepted
    assert response.headers["Vary"] == "Accept-Encoding"
    return response.data


@pytest.mark.parametrize("accepted", [None, "", "*", "gzip;q=0", "br;q=0, gzip;q=0.000", ",;=,,"])
def test_wn05_wn06_who_does_not_ask_for_a_coding_gets_none(
    built: Site, accepted: str | None
) -> None:
    """Missing, empty, ``*``, and refused by ``q=0``; still with ``Vary``."""
    for url in both(built):
        headers = {} if accepted is None else {"Accept_Encoding": accepted}
        response = built.get(url, **headers)
        assert response.text == TEXT
        assert "Content-Encoding" not in response.headers
        assert response.headers["Vary"] == "Accept-Encoding"


def test_wn07_a_compressed_file_has_no_url_of_its_own(built: Site) -> None:
    """Neither beside the hashed name nor beside the plain one."""
    for url in both(built):
        for ending in (".gz", ".br", ".zst"):
            assert list(built.built.rglob(f"*{ending}"))
            assert built.get(url + ending).status_code == 404


def date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


def modified(response: TestResponse) -> datetime:
    assert response.last_modified is not None
    return response.last_modified


def test_wn08_wn09_a_date_is_compared(site: Site) -> None:
    """The same or a later one: 304. An earlier one, or none at all: 200."""
    for url in both(site):
        then = modified(site.get(url))
        for since in (then, then + timedelta(days=1)):
            assert site.get(url, If_Modified_Since=date(since)).status_code == 304
        for garbled in (date(then - timedelta(seconds=1)), "yesterday", ""):
            assert site.get(url, If_Modified_Since=garbled).status_code == 200


def test_wn10_wn11_a_tag_is_compared_and_goes_before_a_date(built: Site) -> None:
    """Or a deploy that was rolled back would show old files. Each coding has its own tag."""
    for url in both(built):
        tags = set()
        for accepted in ("", "gzip", "br", "zstd"):
            tag = built.get(url, Accept_Encoding=accepted).headers["ETag"]
            tags.add(tag)
            for given in (tag, f"W/{tag}", f'"x", {tag}', "*"):
                again = built.get(url, Accept_Encoding=accepted, If_None_Match=given)
                assert again.status_code == 304, given
        assert len(tags) == 4
        later = date(datetime.now(UTC) + timedelta(days=1))
        for other in ('"other"', ""):
            answer = built.get(url, If_None_Match=other, If_Modified_Since=later)
            assert answer.status_code == 200
        # What was stored for another coding is not what would be sent.
        tag = built.get(url, Accept_Encoding="br").headers["ETag"]
        assert built.get(url, If_None_Match=tag).status_code == 200


def test_wn10_another_content_has_another_tag(site: Site) -> None:
    """Also with the same size and the same times."""
    before = site.get("/static/app.css")
    site.settle(site.write("app.css", TEXT.replace("red", "tan")))
    site.start()
    after = site.get("/static/app.css", If_None_Match=before.headers["ETag"])
    assert after.status_code == 200
    assert after.headers["ETag"] != before.headers["ETag"]


def test_wn12_a_304_has_the_headers_and_no_body(built: Site) -> None:
    """Those that a cache needs, as they are in the 200; no type, no length, no coding."""
    for url in both(built):
        full = built.get(url, Accept_Encoding="br")
        short = built.get(url, Accept_Encoding="br", If_None_Match=full.headers["ETag"])
        assert (short.status_code, short.data) == (304, b"")
        kept = ("Cache-Control", "ETag", "Last-Modified", "Vary", "Access-Control-Allow-Origin")
        assert dict(short.headers) == {name: full.headers[name] for name in kept}


def test_wn13_head_has_the_headers_of_get(built: Site) -> None:
    """And no body, whatever is asked for."""
    for url in [*both(built), *both(built, "large.bin")]:
        for coding in ("", "br"):
            get = built.get(url, Accept_Encoding=coding)
            head = built.get(url, method="HEAD", Accept_Encoding=coding)
            assert (head.status_code, head.data) == (200, b"")
            assert dict(head.headers) == dict(get.headers)
        assert built.get(url, method="HEAD", Range="bytes=0-1").status_code == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_wn14_other_methods_are_405(site: Site, method: str) -> None:
    """Answered by the application, with what is allowed."""
    for url in both(site):
        response = site.get(url, method=method)
        assert response.status_code == 405
        assert {"GET", "HEAD"} <= set(response.headers["Allow"].split(", "))


@pytest.mark.parametrize("name", ["dot.png", "large.bin"])
def test_wn15_a_range_is_exactly_those_bytes(site: Site, name: str) -> None:
    """At the start, in the middle, the last ones, a single one."""
    content = (site.static / name).read_bytes()
    size = len(content)
    for url in both(site, name):
        for wanted, start, stop in [
            ("0-9", 0, 10),
            ("100-299", 100, 300),
            ("-10", size - 10, size),
            ("500-", 500, size),
            ("7-7", 7, 8),
            ("0-0", 0, 1),
            (f"{size - 1}-", size - 1, size),
        ]:
            response = site.get(url, Range=f"bytes={wanted}")
            assert response.status_code == 206
            assert response.data == content[start:stop]
            assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{size}"
            assert int(response.headers["Content-Length"]) == stop - start


def test_wn15_a_file_can_be_read_one_byte_after_the_other(site: Site) -> None:
    """And put together again."""
    url, size = site.url("dot.png"), 300
    parts = [site.get(url, Range=f"bytes={at}-{at}").data for at in range(size)]
    assert b"".join(parts) == BYTES[:size]


def test_wn15_a_range_is_of_what_would_be_sent_whole(built: Site) -> None:
    """A part of the compressed file for who accepts it (RFC 9110, 14.2)."""
    url = built.url("app.css")
    whole = built.get(url, Accept_Encoding="br").data
    part = built.get(url, Accept_Encoding="br", Range="bytes=3-7")
    assert (part.data, part.headers["Content-Encoding"]) == (whole[3:8], "br")


def test_wn15_a_range_of_another_content_is_refused(site: Site) -> None:
    """``If-Range`` with another tag or date gets the whole file."""
    for url in both(site, "dot.png"):
        first = site.get(url)
        same = (first.headers["ETag"], first.headers["Last-Modified"])
        for validator in same:
            response = site.get(url, Range="bytes=0-1", If_Range=validator)
            assert response.status_code == 206
        later = date(modified(first) + timedelta(days=1))
        for validator in ('"other"', f"W/{same[0]}", later, "x"):
            response = site.get(url, Range="bytes=0-1", If_Range=validator)
            assert (response.status_code, response.data) == (200, BYTES)


def test_wn16_a_range_is_cut_at_the_end(site: Site) -> None:
    """And a suffix longer than the file is all of it."""
    for url in both(site, "dot.png"):
        assert site.get(url, Range="bytes=1000-9999999").data == BYTES[1000:]
        assert site.get(url, Range="bytes=-9999999").data == BYTES


def test_wn17_a_range_past_the_end_is_416(site: Site) -> None:
    """With the length, and no body."""
    for name, size in (("dot.png", len(BYTES)), ("large.bin", LARGE)):
        for url in both(site, name):
            response = site.get(url, Range=f"bytes={size}-")
            assert (response.status_code, response.data) == (416, b"")
            assert response.headers["Content-Range"] == f"bytes */{size}"
            assert "immutable" not in response.headers.get("Cache-Control", "")


@pytest.mark.parametrize(
    "wanted", ["bytes=5-2", "bytes=x-y", "lines=0-1", "bytes", "bytes=0-1,5-6", "bytes=\xb2-3", ""]
)
def test_wn17_what_is_no_single_range_gets_the_whole(site: Site, wanted: str) -> None:
    """As RFC 9110, 14.2, allows."""
    response = site.get(site.url("dot.png"), Range=wanted)
    assert (response.status_code, response.data) == (200, BYTES)


def test_wn18_the_length_is_the_files(site: Site) -> None:
    """Also of one that is sent in pieces."""
    for name in ("app.css", "dot.png", "large.bin"):
        for url in both(site, name):
            response = site.get(url)
            assert int(response.headers["Content-Length"]) == len(response.data)
            assert response.data == (site.static / name).read_bytes()


def test_wn19_types_do_not_depend_on_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text is UTF-8; what is unknown is bytes; the application can say more."""
    monkeypatch.setitem(mimetypes.types_map, ".js", "text/x-machine")
    site = Site(tmp_path, SIDEARM_ASSETS_TYPES={".Odd": "text/x-odd", "notice": "text/plain"})
    for name, type_ in {
        "a.js": "text/javascript; charset=utf-8",
        "a.mjs": "text/javascript; charset=utf-8",
        "a.css": "text/css; charset=utf-8",
        "a.svg": "image/svg+xml",
        "a.woff2": "font/woff2",
        "a.wasm": "application/wasm",
        "a.unknown": "application/octet-stream",
        "nothing": "application/octet-stream",
        "a.odd": "text/x-odd; charset=utf-8",
        "notice": "text/plain; charset=utf-8",
    }.items():
        site.write(name, "x")
        for url in both(site, name):
            assert site.get(url).headers["Content-Type"] == type_


def test_wn20_wn21_other_hosts_pages_may_use_it_and_nobody_saves_it(built: Site) -> None:
    """Fonts and integrity checks of a page on another host need the first."""
    for url in both(built):
        for accepted in ("", "br"):
            headers = built.get(url, Accept_Encoding=accepted).headers
            assert headers["Access-Control-Allow-Origin"] == "*"
            assert "Content-Disposition" not in headers
            assert "Set-Cookie" not in headers


def test_wn22_names_may_have_any_letters(built: Site) -> None:
    """The URL is percent-encoded, and leads to the file; so does a stylesheet's reference."""
    name = "sm\u00f6r g\u00e5s.txt"
    url = built.url(name)
    assert re.fullmatch(r"/static/sm%C3%B6r%20g%C3%A5s\.\w{16}\.txt", url)
    assert (
        built.get(url).text == built.get("/static/sm%C3%B6r%20g%C3%A5s.txt").text == "\u00e4" * 200
    )
    built.write("ref.css", f'a {{ b: url("{name}"); c: url(sm%C3%B6r%20g%C3%A5s.txt) }}')
    css = built.get(built.url("ref.css")).text
    targets = re.findall(r"(sm%C3%B6r%20g%C3%A5s\.\w{16}\.txt)", css)
    assert len(targets) == 2
    assert {f"/static/{target}" for target in targets} == {url}


@pytest.mark.parametrize(
    "path",
    ["%C3%BC.css", "", "folder", "folder/", "x" * 5000, "x" * 300 + ".0123456789abcdef.css", "%00"],
)
def test_wn23_what_is_no_file_is_404(site: Site, path: str) -> None:
    """Never 500, and never a listing."""
    (site.static / "folder").mkdir()
    assert site.get(f"/static/{path}").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        *("C:/secret.txt", "C:%5Csecret.txt", "..%5Csecret.txt", "%2e%2e/secret.txt"),
        *("../secret.txt", "../static-too/secret.txt", "/secret.txt", "./../secret.txt"),
        *("app.css/../../secret.txt", "%2Fetc/passwd", "..%2fsecret.txt", "%252e%252e/secret.txt"),
    ],
)
def test_wn24_nothing_outside_of_the_folder_is_served(site: Site, path: str) -> None:
    """Neither as it is nor with a hash."""
    site.write("secret.txt", "secret", site.root)
    site.write("secret.txt", "secret", site.root / "static-too")
    for each in (path, path.replace(".txt", ".0123456789abcdef.txt")):
        response = site.get(f"/static/{each}")
        assert response.status_code in {301, 308, 404}
        assert response.text != "secret"


def test_wn25_an_environment_may_have_no_path(site: Site) -> None:
    """The application answers."""
    environ = create_environ("/")
    del environ["PATH_INFO"]
    statuses: list[str] = []
    body = site.app(environ, lambda status, headers, exc_info=None: statuses.append(status))  # type: ignore[arg-type,func-returns-value]
    body.close()  # type: ignore[attr-defined]
    assert statuses[0].startswith("404")


def test_wn26_urls_carry_the_prefix_of_the_mount(site: Site) -> None:
    """And what they name is there, and nowhere else."""
    client = Client(
        DispatcherMiddleware(lambda e, s: (s("404 NOT FOUND", []), [])[1], {"/shop": site.app})
    )
    url = client.get("/shop/page/static/app.css").text
    assert url.startswith("/shop/static/app.")
    assert client.get(url).text == TEXT
    assert client.get(url.removeprefix("/shop")).status_code == 404


def test_wn27_a_blueprints_files_are_served(site: Site) -> None:
    """Under their own prefix, hashed and plain."""
    site.write("x.css", TEXT, site.root / "files")
    blueprint = Blueprint(
        "bp", "bp", root_path=str(site.root), static_folder="files", url_prefix="/bp"
    )
    site.start(blueprint)
    url = site.url("x.css", "bp.static")
    assert url.startswith("/bp/files/x.")
    assert site.get(url).headers["Cache-Control"] == IMMUTABLE
    assert site.get("/bp/files/x.css").text == TEXT


def test_wn28_other_urls_are_the_applications(site: Site) -> None:
    """Also where the static files are at the root."""
    site.write("page/x", "a file")
    site.app.add_url_rule("/about", "about", lambda: "a view")
    assert site.get("/about").text == "a view"

    site.static_url_path = ""
    site.start().add_url_rule("/about", "about", lambda: "a view")
    site.write("about", "a file")
    assert site.get("/about").text == "a view"
    assert site.get(site.url("app.css")).headers["Cache-Control"] == IMMUTABLE
    assert site.get("/app.css").text == TEXT


def test_wn29_in_debug_a_file_is_there_at_once(site: Site) -> None:
    """One that was made after the start, and then one that was changed, whatever its times say."""
    site.start(DEBUG=True)
    assert site.get("/static/new.txt").status_code == 404
    for content in ("one", "two", "six"):
        path = site.write("new.txt", content)
        url = site.url("new.txt")
        assert site.get(url).text == content
        assert site.get("/static/new.txt").text == content
    path.unlink()
    assert site.url("new.txt") == "/static/new.txt"
    assert site.get(url).status_code == 404


@pytest.mark.parametrize("debug", [False, True])
def test_wn30_a_static_folder_may_be_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, debug: bool
) -> None:
    """A warning at the start, and no crash; in debug no warning, for it may come."""
    site = Site(tmp_path)
    shutil.rmtree(site.static)
    with caplog.at_level(logging.WARNING):
        site.start(DEBUG=debug)
    assert len([each for each in caplog.records if str(site.static) in each.getMessage()]) == (
        0 if debug else 1
    )
    assert site.get("/static/x.css").status_code == 404
    site.write("x.css", TEXT)
    assert site.get(site.url("x.css")).headers["Cache-Control"] == IMMUTABLE


def test_wn31_what_does_not_shrink_is_not_compressed(site: Site) -> None:
    """What is compressed already, an empty file, and one that is too short."""
    site.write("empty.css", "")
    site.write("short.css", "a{}")
    site.write("white.png", b"\0" * 1000)  # would shrink, but is an image
    assert site.build().exit_code == 0
    copied = {
        path.name.split(".")[0]
        for ending in ("gz", "br", "zst")
        for path in site.built.rglob(f"*.{ending}")
    }
    assert copied == {"app", "refers", "sm\u00f6r g\u00e5s"}
    for name, content in {"empty.css": b"", "white.png": b"\0" * 1000}.items():
        response = site.get(site.url(name), Accept_Encoding="gzip, br, zstd")
        assert response.data == content
        assert "Content-Encoding" not in response.headers
    assert site.get(site.url("empty.css"), Range="bytes=0-").status_code == 416


def test_wn32_a_copy_has_the_content_and_the_time_of_its_original(built: Site) -> None:
    """And so another server that sends it says the same ``Last-Modified``."""
    original = (built.static / "app.css").stat().st_mtime
    copies = {path.suffix: path for path in (built.built / "static").glob("app.*.css.*")}
    assert gzip.decompress(copies[".gz"].read_bytes()) == TEXT.encode()
    assert brotli.decompress(copies[".br"].read_bytes()) == TEXT.encode()
    assert zstandard.ZstdDecompressor().decompress(copies[".zst"].read_bytes()) == TEXT.encode()
    for path in copies.values():
        assert path.stat().st_mtime == pytest.approx(original, abs=0.001)
    seen = {
        built.get(built.url("app.css"), Accept_Encoding=coding).headers["Last-Modified"]
        for coding in ("", "gzip", "br", "zstd")
    }
    assert len(seen) == 1


def test_wn35_a_file_without_a_time_has_a_tag(site: Site) -> None:
    """The hash is of the content, so nothing is lost."""
    os.utime(site.static / "app.css", (0, 0))
    for url in both(site):
        response = site.get(url)
        assert "Last-Modified" not in response.headers
        tag = response.headers["ETag"]
        assert site.get(url, If_None_Match=tag).status_code == 304
        assert site.get(url, If_Modified_Since=date(datetime.now(UTC))).status_code == 200


@pytest.mark.parametrize("wanted", [{}, {"Range": "bytes=0-9"}])
def test_wn36_a_sent_file_is_closed_once(site: Site, wanted: dict[str, str]) -> None:
    """By the server, when the client has it or has gone; nothing is left to be collected."""
    url = site.url("large.bin")
    before = descriptors()
    environ = EnvironBuilder(url, headers=wanted).get_environ()
    body = site.app(environ, lambda status, headers, exc_info=None: lambda data: None)
    next(iter(body))
    assert len(descriptors()) == len(before) + 1
    body.close()  # type: ignore[attr-defined]
    assert descriptors() == before
    body.close()  # type: ignore[attr-defined]


def descriptors() -> set[str]:
    """Those of the large file."""
    found = set[str]()
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of this very listing
            if path.readlink().name == "large.bin":
                found.add(path.name)
    return found


# Where the path alone does not tell


def test_a1_a_path_of_one_host_is_not_answered_by_the_file_of_another(
    site: Site, tmp_path: Path
) -> None:
    """Whichever was asked first; and a view of the application stays a view."""
    blueprints = []
    for name in ("a", "b"):
        site.settle(site.write("app.txt", f"of {name}", tmp_path / name))
        blueprints.append(
            Blueprint(
                name,
                "site",
                static_folder=str(tmp_path / name),
                static_url_path="/st",
                subdomain=name,
            )
        )
    app = site.start(SERVER_NAME="shop.test")
    app.subdomain_matching = True
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    app.add_url_rule("/st/app.txt", "view", lambda: "the view")
    texts = {"a.shop.test": "of a", "b.shop.test": "of b", "shop.test": "the view"}
    client = app.test_client()
    for _ in range(2):
        for host, text in texts.items():
            with client.get("/st/app.txt", base_url=f"http://{host}") as answer:
                assert answer.text == text
    for name in ("a", "b"):
        with app.test_request_context(base_url=f"http://{name}.shop.test"):
            url = app.url_for(f"{name}.static", filename="app.txt", _external=True)
        with client.get(url) as answer:
            assert (answer.text, answer.headers["Cache-Control"]) == (f"of {name}", IMMUTABLE)


def test_a1_paths_that_clients_invent_take_no_memory(site: Site, tmp_path: Path) -> None:
    """Under a prefix that differs, the file is the same for each."""
    folder = tmp_path / "themes"
    site.settle(site.write("theme.css", TEXT, folder))
    app = site.start(
        Blueprint(
            "theme", "site", static_folder=str(folder), static_url_path="/t", url_prefix="/<lang>"
        )
    )
    url = site.url("theme.css", "theme.static", lang="en")
    server: Any = app.wsgi_app
    assert isinstance(server, AssetServer)
    for number in range(50):
        assert site.get(url.replace("/en/", f"/x{number}/")).text == TEXT
    assert len(server._ready) < 50

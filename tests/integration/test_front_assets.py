"""Contracts A1 and W3: a front sends built static files by the rules that the application has.

With what case C15 says of ``sidearm.js`` (contract E6).
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import brotli
import pytest
import urllib3
from browser_tabs import CHROMIUM, open_browser
from fronts import APPS, PATIENCE, Caddy, Nginx, sidearm

from sidearm.testing import Server, UpServer, free_port

APP = "fronted_assets:app"
STYLE = "".join(f".row-{number} {{ color: red }}\n" for number in range(200))
FILES: dict[str, str | bytes] = {
    "static/shop.css": "@import 'img/deep.css';\nbody { background: url(img/dot.png) }\n" + STYLE,
    "static/img/deep.css": STYLE,
    "static/img/dot.png": bytes(range(256)) * 40,
    "static/shop.js": "import { add } from './cart.mjs';\nadd();\n" + "// a line\n" * 100,
    "static/cart.mjs": "export const add = () => 1;\n" * 50,
    "static/täst & 100%.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>" + " " * 500,
    "static/changed.css": "/* as it was built */" + STYLE,
    "static/LICENSE": "Words of a lawyer. " * 100,
    "static/data.gz": b"\x1f\x8b" + bytes(200),
    "static/x.shop": "of a type of its own",
    "static/robots.txt": "User-agent: *\n" * 50,
    "static/font.woff2": bytes(300),
    "static/vendor.0123456789abcdef.js": "other = 'hash';\n" * 100,
    "static/.secret": "nobody's business",
    "static/.git/config": "nobody's business",
    "admin/admin.css": "p { background: url(dot.png) }\n" + STYLE,
    "admin/dot.png": b"another",
}
FORMER = "static/shop.js", "import { add } from './cart.mjs';\nadd(1);\n" + "// before\n" * 100

#: What is asked of each URL: the method, and headers.
REQUESTS: dict[str, tuple[str, dict[str, str]]] = {
    "as it is": ("GET", {}),
    "gzip": ("GET", {"Accept-Encoding": "gzip"}),
    "no gzip": ("GET", {"Accept-Encoding": "gzip;q=0"}),
    "brotli": ("GET", {"Accept-Encoding": "gzip, br"}),
    "identity": ("GET", {"Accept-Encoding": "identity"}),
    "through a proxy": ("GET", {"Accept-Encoding": "gzip", "Via": "1.1 cdn"}),
    "head": ("HEAD", {"Accept-Encoding": "gzip"}),
    "post": ("POST", {}),
    "first bytes": ("GET", {"Range": "bytes=0-9"}),
    "last bytes": ("GET", {"Range": "bytes=-5"}),
    "two ranges": ("GET", {"Range": "bytes=0-1,4-5"}),
    "past the end": ("GET", {"Range": "bytes=999999-"}),
    "later": ("GET", {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}),
    "earlier": ("GET", {"If-Modified-Since": "Thu, 01 Jan 1980 00:00:00 GMT"}),
    "another tag": (
        "GET",
        {"If-None-Match": '"x"', "If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"},
    ),
}
COMPARED = (
    "Cache-Control", "Content-Type", "Vary", "Content-Encoding", "Access-Control-Allow-Origin",
    "Content-Range",
)  # fmt: skip


@dataclass
class Stack:
    """An application with a build, and its front."""

    front: Server
    up: UpServer
    prefix: str
    env: dict[str, str]
    folder: Path
    urls: dict[str, str]
    former: str

    def ask(
        self, server: Server, path: str, method: str = "GET", **headers: str
    ) -> urllib3.BaseHTTPResponse:
        """Ask the front, or the application itself as the front would."""
        inner = path.removeprefix(self.prefix) if server is self.up else path
        return urllib3.request(
            method,
            f"{server.url}{inner}",
            headers=headers,
            decode_content=False,
            redirect=False,
            retries=False,
            timeout=PATIENCE,
        )


def write(folder: Path, files: dict[str, str | bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def urls_of(up: UpServer) -> dict[str, str]:
    found: dict[str, str] = urllib3.request("GET", f"{up.url}/urls", timeout=PATIENCE).json()
    return found


def text_of(folder: Path, path: str) -> str:
    return (folder / "instance/assets" / path).read_text()


@contextlib.contextmanager
def running(
    folder: Path,
    front: type[Nginx | Caddy],
    prefix: str = "",
    config: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Stack]:
    """An application that was built, changed, and built again, behind a front."""
    env = {"FRONTED_FOLDER": str(folder), "PYTHONPATH": str(APPS), **config}
    name, content = FORMER
    write(folder, {**FILES, name: content})
    sidearm(APP, "assets", "build", env=env)
    manifest = json.loads((folder / "instance/assets/manifest.json").read_text())
    former = "/" + next(
        path
        for path, entry in manifest["generations"][0].items()
        if entry["filename"] == "shop.js" and "cart.mjs" not in text_of(folder, path)
    )
    write(folder, {name: FILES[name]})
    sidearm(APP, "assets", "build", env=env)
    with UpServer(APP, env=env, cwd=APPS, start_timeout=PATIENCE) as up:
        words = ("--port", str(up.port), *(("--prefix", prefix) if prefix else ()))
        with front(APP, *words, env=env) as server:
            urls = {name: prefix + url for name, url in urls_of(up).items()}
            yield Stack(server, up, prefix, env, folder, urls, prefix + former)


@pytest.fixture(
    scope="module",
    params=[(Nginx, ""), (Nginx, "/a/b.c"), (Caddy, "")],
    ids=["nginx", "nginx under a prefix", "Caddy"],
)
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    front, prefix = request.param
    with running(tmp_path_factory.mktemp("built"), front, prefix) as stack:
        yield stack


def paths_of(stack: Stack) -> dict[str, str]:
    """What is asked for, with a name for each."""
    style = stack.urls["static:shop.css"]
    static, admin = f"{stack.prefix}/static", f"{stack.prefix}/admin/files"
    return {
        **stack.urls,
        "of the former build": stack.former,
        "plain, with references": f"{static}/shop.css",
        "plain, without": f"{static}/img/deep.css",
        "plain picture": f"{static}/img/dot.png",
        "plain of a blueprint": f"{admin}/admin.css",
        "plain, a type of its own": f"{static}/x.shop",
        "plain, a name of its own": f"{static}/robots.txt",
        "plain, without an ending": f"{static}/LICENSE",
        "plain, with a foreign hash": f"{static}/vendor.0123456789abcdef.js",
        "another hash": style.replace(style[-20:-4], "0123456789abcdef"),
        "the copy itself": f"{style}.gz",
        "the copy of a file without an ending": f"{stack.urls['static:LICENSE']}.gz",
        "a folder": f"{static}/img",
        "a folder with a slash": f"{static}/img/",
        "the root of all": f"{static}/",
        "not there": f"{static}/gone.css",
        "the manifest": f"{static}/manifest.json",
    }


def test_a1_a_front_answers_as_the_application_does(stack: Stack) -> None:
    """Status, caching, type, variants and bytes are the same for every kind of URL and request."""
    differences: list[str] = []
    for asked, (method, headers) in REQUESTS.items():
        if asked == "two ranges" and isinstance(stack.front, Caddy):
            answer = stack.ask(stack.front, stack.urls["static:shop.css"], **headers)
            assert answer.headers["Content-Type"].startswith("multipart/byteranges")  # as it may
            continue
        for name, path in paths_of(stack).items():
            direct = stack.ask(stack.up, path, method, **headers)
            fronted = stack.ask(stack.front, path, method, **headers)
            if direct.status == fronted.status == 416:
                continue  # whose page nobody sees
            for what, ours, theirs in (
                ("status", fronted.status, direct.status),
                ("body", fronted.data, direct.data),
                *((each, fronted.headers.get(each), direct.headers.get(each)) for each in COMPARED),
            ):
                if ours != theirs:
                    where = f"{asked}: {name} {path}: {what}"
                    differences.append(f"{where} {ours!r}, directly {theirs!r}")
    assert not differences, "\n".join(differences)


def test_a1_names_with_a_hash_ask_no_worker(stack: Stack) -> None:
    """The front answers by itself, for what is current and what was, with a version to ask for."""
    front = type(stack.front)
    words = ("--port", str(free_port()), *(("--prefix", stack.prefix) if stack.prefix else ()))
    with front(APP, *words, env=stack.env) as alone:  # nobody is there to be asked
        for path in (*stack.urls.values(), stack.former):
            if path.endswith((".gz", ".txt")):
                continue  # an archive may be a copy, and robots.txt has a type of its own
            answer = stack.ask(alone, path)
            assert answer.status == 200, path
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            again = stack.ask(alone, path, **{"If-None-Match": answer.headers["ETag"]})
            assert (again.status, again.data) == (304, b"")
            assert again.headers["Cache-Control"] == answer.headers["Cache-Control"]
            since = {"If-Range": answer.headers["ETag"], "Range": "bytes=2-4"}
            part = stack.ask(alone, path, **since)
            assert (part.status, part.data) == (206, answer.data[2:5])
        compressed = stack.ask(alone, stack.former, **{"Accept-Encoding": "gzip"})
        assert zlib.decompress(compressed.data, 31).decode() == hashed(FORMER[1], stack)
        compressed = stack.ask(alone, stack.former, **{"Accept-Encoding": "br"})
        assert brotli.decompress(compressed.data).decode() == hashed(FORMER[1], stack)
        assert stack.ask(alone, f"{stack.prefix}/static/img/dot.png").status == 200


def hashed(text: str, stack: Stack) -> str:
    return text.replace("cart.mjs", stack.urls["static:cart.mjs"].rpartition("/")[2])


def test_a1_no_front_sends_what_begins_with_a_dot_or_the_manifest(stack: Stack) -> None:
    """Nor anything outside of the folders."""
    static = f"{stack.prefix}/static"
    for path in (
        f"{static}/.secret",
        f"{static}/.git/config",
        f"{static}/%2esecret",
        f"{static}/manifest.json",
        f"{static}/../manifest.json",
        f"{static}/..%2fmanifest.json",
        f"{static}/../.lock",
        f"{static}/%2e%2e/%2e%2e/fronted_assets.py",
    ):
        answer = stack.ask(stack.front, path)
        assert answer.status in {400, 404}, path
        assert b"nobody's business" not in answer.data


def test_a1_a_file_that_is_newer_than_the_build_is_the_applications(stack: Stack) -> None:
    """Its hash is in no build; and without its hash nobody sends an old copy of it."""
    write(stack.folder, {"static/late.css": "h1 {}", "static/changed.css": "h2 {}"})
    try:
        url = stack.prefix + urls_of(stack.up)["static:late.css"]
        answer = stack.ask(stack.front, url)
        assert (answer.status, answer.data) == (200, b"h1 {}")
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        plain = f"{stack.prefix}/static/changed.css"
        answer = stack.ask(stack.front, plain, **{"Accept-Encoding": "gzip"})
        assert answer.data == b"h2 {}"
        assert answer.headers["Cache-Control"] == "public, max-age=60"
    finally:
        (stack.folder / "static/late.css").unlink()
        write(stack.folder, {"static/changed.css": FILES["static/changed.css"]})


def module_of(page: str) -> tuple[str, str]:
    """The URL of ``sidearm.js`` that a page's import map has, and its digest."""
    (text,) = re.findall(r'<script type="importmap">(.*?)</script>', page)
    said = json.loads(text)
    url = said["imports"]["sidearm"]
    return url, said.get("integrity", {}).get(url, "")


def test_c15_e6_sidearm_js_is_kept_for_a_year(stack: Stack) -> None:
    """Its URL has the front's prefix, and what the front sends is what the application sends."""
    page = stack.ask(stack.front, f"{stack.prefix}/page").data.decode()
    url, integrity = module_of(page)
    assert url.startswith(f"{stack.prefix}/_sidearm/sidearm.")
    answer = stack.ask(stack.front, url)
    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
    digest = base64.b64encode(hashlib.sha384(answer.data).digest()).decode()
    assert integrity == f"sha384-{digest}"
    small = stack.ask(stack.front, url, **{"Accept-Encoding": "gzip"})
    assert small.headers["Content-Encoding"] == "gzip"
    assert zlib.decompress(small.data, 31) == answer.data
    again = stack.ask(stack.front, url, **{"If-None-Match": answer.headers["ETag"]})
    assert again.status == 304
    assert again.headers["Cache-Control"] == answer.headers["Cache-Control"]
    former = stack.ask(stack.front, url.replace(url[-19:-3], "0123456789abcdef"))
    assert (former.data, former.headers["Cache-Control"]) == (answer.data, "no-store")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
@pytest.mark.parametrize("is_elsewhere", [False, True], ids=["here", "from a CDN"])
def test_c15_e6_a_page_behind_a_front_follows(stack: Stack, is_elsewhere: bool) -> None:
    """Also where the module comes from another host, which fetches it from the application."""
    cdn = f"?cdn=http://localhost:{stack.front.port}" if is_elsewhere else ""
    with open_browser() as browser:
        page = browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        loaded: list[str] = []
        page.on("response", lambda answer: loaded.append(f"{answer.status} {answer.url}"))
        page.goto(f"{stack.front.url}{stack.prefix}/page{cdn}")
        url, _ = module_of(page.content())
        news = f"news of {stack.front.port}{cdn}"
        answer = urllib3.request(
            "POST", f"{stack.front.url}{stack.prefix}/publish", body=news, timeout=PATIENCE
        )
        assert answer.status == 200
        page.wait_for_function("(news) => window.seen?.includes(news)", arg=news)
    host = f"http://localhost:{stack.front.port}" if is_elsewhere else stack.front.url
    assert f"200 {url if is_elsewhere else host + url}" in loaded
    assert url.removeprefix(host).startswith(f"{stack.prefix}/_sidearm/")


def test_a1_check_knows_a_front_with_built_files(stack: Stack) -> None:
    """The locations for files hide no stream from ``export --check``."""
    kind, name = (
        ("nginx", "nginx.conf") if isinstance(stack.front, Nginx) else ("caddy", "Caddyfile")
    )
    said = sidearm(
        APP,
        *("export", kind, "--check", str(stack.front.folder / name)),
        *(("--prefix", stack.prefix) if stack.prefix else ()),
        env=stack.env,
    )
    assert "covers all 1 streaming routes" in said


@pytest.mark.parametrize("kind", ["nginx", "caddy"])
def test_a1_without_a_build_a_comment_says_so(kind: str, tmp_path: Path) -> None:
    """Files without a hash come from the disk, and those with one from the application."""
    write(tmp_path, FILES)
    env = {"FRONTED_FOLDER": str(tmp_path), "PYTHONPATH": str(APPS)}
    before = sidearm(APP, "export", kind, env=env)
    assert 'Run "flask sidearm assets build" and export again' in before
    assert str(tmp_path / "static") in before
    assert "max-age=60" in before
    sidearm(APP, "assets", "build", env=env)
    after = sidearm(APP, "export", kind, env=env)
    assert 'assets build" and export' not in after
    assert str(tmp_path / "instance/assets/static") in after


def test_a1_brotli_where_nginx_has_it(tmp_path: Path) -> None:
    """The module is loaded if it is there or said to be there, and never asked for otherwise."""
    write(tmp_path, FILES)
    env = {"FRONTED_FOLDER": str(tmp_path), "PYTHONPATH": str(APPS)}
    sidearm(APP, "assets", "build", env=env)
    without = sidearm(APP, "export", "nginx", "--no-brotli", env=env)
    assert "gzip_static on" in without
    assert "brotli_static" not in without
    assert "brotli_static on" in sidearm(APP, "export", "nginx", "--brotli", env=env)
    compose = sidearm(APP, "export", "compose", env=env)
    assert "brotli_static" not in compose
    assert f"{tmp_path}/instance/assets/static/:" in compose  # the container reads it there


def test_a1_files_at_the_root_and_for_a_cdn(tmp_path: Path) -> None:
    """Hashed files come from the front where it cannot tell plain ones from pages.

    And a CDN finds them where ``SIDEARM_ASSETS_URL`` says, at the same paths.
    """
    with running(
        tmp_path,
        Nginx,
        config={
            "FLASK_SIDEARM_ASSETS_URL": "https://cdn.example",
            "FRONTED_STATIC_URL": "",
        },
    ) as stack:
        # sidearm.js is in no build, and so stays where the application is.
        module, integrity = module_of(stack.ask(stack.front, "/page").data.decode())
        assert stack.ask(stack.front, module).status == 200
        assert integrity
        urls = {url.removeprefix("https://cdn.example") for url in stack.urls.values()}
        assert len(urls) == len(stack.urls)
        plain = stack.ask(stack.front, "/shop.css")
        assert plain.headers["Cache-Control"] == "public, max-age=60"
        assert stack.ask(stack.front, "/streams/gone").data == b"the application's own page"
        assert stack.up.terminate() == 0
        for url in urls:
            if not url.endswith((".gz", ".txt")):
                answer = stack.ask(stack.front, url)
                assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"

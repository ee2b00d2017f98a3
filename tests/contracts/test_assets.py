"""Contract A1: static files have URLs with a hash of their content, and of what they refer to."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from asset_site import IMMUTABLE, Site, unhashed
from flask import Blueprint, Flask, render_template_string
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from sidearm import Sidearm, import_map, integrity_for
from sidearm.exceptions import SettingError

if TYPE_CHECKING:
    from pathlib import Path

    from werkzeug.test import TestResponse


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An application with a stylesheet, a picture and two modules."""
    site = Site(tmp_path)
    site.write("app.css", '@import "other.css"; a { color: red }')
    site.write("other.css", "b { background: url(img/dot.png) }")
    site.write("img/dot.png", b"PNG")
    site.write("app.js", 'import { b } from "./b.js"; b();')
    site.write("b.js", 'export { c as b } from "./lib/c.js";')
    site.write("lib/c.js", "export const c = () => 1;")
    site.write("left.js", 'import "./right.js"; export const left = 1;')
    site.write("right.js", 'import { left } from "./left.js"; import("./lib/c.js");')
    return site


def test_a1_a_page_gets_hashed_urls_without_a_change_to_its_template(site: Site) -> None:
    """The hash is of the content, the URL is Flask's own otherwise, and it leads to the file."""
    site.write("plain.txt", "one")
    digest = hashlib.sha384(b"one").hexdigest()[:16]

    url = site.get("/page/static/plain.txt").text

    assert url == f"/static/plain.{digest}.txt"
    assert site.text(url) == "one"
    assert site.url("plain.txt", v=1, _anchor="x") == f"{url}?v=1#x"
    assert site.url("plain.txt", _external=True) == f"http://localhost{url}"


def test_a1_a_hash_covers_what_a_file_refers_to(site: Site) -> None:
    """C22: the deepest file changes, and so does the URL of all above it, in debug at once."""
    app = site.start(DEBUG=True)
    before = {name: site.url(name) for name in ("app.css", "app.js", "left.js", "right.js")}
    assert len(set(before.values())) == 4

    site.write("img/dot.png", b"another")
    site.write("lib/c.js", "export const c = () => 2;")

    after = {name: site.url(name) for name in before}
    assert not set(before.values()) & set(after.values())
    for name, url in after.items():
        assert unhashed(url) == f"/static/{name}"
    css = site.text(after["app.css"])
    assert unhashed(css) == '@import "other.css"; a { color: red }'
    assert follow(site, after["app.css"], "img/dot") == b"another"
    assert follow(site, after["app.js"], "lib/c") == b"export const c = () => 2;"
    assert site.app is app


def test_a1_in_debug_a_file_that_was_never_asked_for_sees_what_changed(site: Site) -> None:
    """What it refers to was known before, and is something else now."""
    site.start(DEBUG=True)
    site.settle(site.static / "lib/c.js")
    inner = site.url("lib/c.js")
    site.write("lib/c.js", "export const c = () => 2;")
    assert inner.rpartition("/")[2] not in site.text(site.url("b.js"))


def follow(site: Site, url: str, last: str) -> bytes:
    """Go from file to file by the one reference of each, until a name is reached."""
    for _ in range(5):
        body = site.get(url)
        assert body.status_code == 200, url
        assert body.headers["Cache-Control"] == IMMUTABLE
        if url.removeprefix("/static/").startswith(last):
            return body.data
        (target,) = re.findall(r'["(]([^"()]*\.[0-9a-f]{16}\.\w+)', body.text)
        folder = url.rpartition("/")[0]
        url = f"{folder}/{target.removeprefix('./')}"
    raise AssertionError(f"{last} was not reached, only {url}")


def test_a1_files_that_import_one_another_end_with_stable_urls(site: Site) -> None:
    """C22: in whichever order they are asked for; and either's change is seen in both."""
    left, right = site.url("left.js"), site.url("right.js")
    site.start()
    assert (site.url("right.js"), site.url("left.js")) == (right, left)

    assert right.rpartition("/")[2] in site.text(left)
    assert left.rpartition("/")[2] in site.text(right)

    site.write("right.js", 'import { left } from "./left.js"; // changed')
    site.start()
    assert site.url("left.js") != left
    assert site.url("right.js") != right


def test_a1_a_file_that_refers_to_itself_has_a_hash(site: Site) -> None:
    """A cycle of one."""
    site.write("self.js", 'import * as me from "./self.js";')
    url = site.url("self.js")
    assert site.text(url) == f'import * as me from ".{url.removeprefix("/static")}";'


def test_a1_a_chain_of_imports_may_be_longer_than_the_stack(site: Site) -> None:
    """It is followed without recursion."""
    count = sys.getrecursionlimit() * 2
    for number in range(count):
        site.write(f"{number}.js", f'import "./{number + 1}.js";')
    site.write(f"{count}.js", "0;")
    before = site.url("0.js")
    site.write(f"{count}.js", "1;")
    site.start()
    assert site.url("0.js") != before


def test_a1_in_production_a_file_is_hashed_once(site: Site) -> None:
    """What changes under a running process does not change its URL; another process sees it."""

    def integrity() -> str:
        with site.app.test_request_context():
            return integrity_for("static", filename="plain.txt")

    path = site.write("plain.txt", "one")
    url, digest = site.url("plain.txt"), integrity()
    site.write("plain.txt", "two, and longer")
    assert (site.url("plain.txt"), integrity()) == (url, digest)
    path.unlink()
    assert site.url("plain.txt") == url

    site.write("plain.txt", "two, and longer")
    site.start()
    assert site.url("plain.txt") != url


def test_a1_a_hash_is_never_answered_with_other_bytes(site: Site) -> None:
    """A file is changed under a running process: its old URL is gone, and the page learns it."""
    site.write("plain.txt", "one")
    url = site.url("plain.txt")
    assert site.text(url) == "one"

    site.write("plain.txt", "two")  # as long as before

    assert is_gone(site.get(url))
    assert site.text(site.url("plain.txt")) == "two"


def is_gone(response: TestResponse) -> bool:
    """404, and no cache may keep that."""
    return response.status_code == 404 and response.headers["Cache-Control"] == "no-store"


def test_a1_what_was_rewritten_is_answered_from_memory(site: Site) -> None:
    """The file changes under a running process: the bytes that were hashed are there still."""
    url = site.url("other.css")
    body = site.text(url)
    site.write("other.css", "changed { }")
    assert site.text(url) == body


def test_a1_any_other_hash_is_404_with_no_long_age(site: Site) -> None:
    """Also where the application gives its static files an age of its own."""
    url = site.url("app.css")

    @site.app.after_request
    def give_age(response: Any) -> Any:
        response.headers["Cache-Control"] = "public, max-age=31536000"
        return response

    wrong = re.sub(r"[0-9a-f]{16}", "0" * 16, url)
    assert is_gone(site.get(wrong))
    assert is_gone(site.get(wrong, method="HEAD"))
    assert is_gone(site.get(url.replace("app.", "none.")))


def test_a1_another_process_knows_a_hash_that_it_never_gave_out(site: Site) -> None:
    """Two workers: one makes the page, the other is asked for its files."""
    urls = [site.url(name) for name in ("app.css", "left.js", "img/dot.png")]
    site.start()
    for url in urls:
        site.text(url)


def test_a1_a_missing_file_never_breaks_its_page(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """C23: the page is 200 with the plain URL and one warning; the URL is 404."""
    (site.root / "secret").write_text("secret")
    blueprint = Blueprint("bp", "bp", root_path=str(site.root), static_folder="static")
    site.start(blueprint)
    for endpoint in ("static", "bp.static"):
        for filename in ("gone.png", "../secret", "img", "img/", "x" * 5000, "a\0b"):
            caplog.clear()
            with site.app.test_request_context():
                for _ in range(2):
                    url = render_template_string(
                        "{{ url_for(endpoint, filename=filename) }}",
                        endpoint=endpoint,
                        filename=filename,
                    )
            with Flask("plain").test_request_context() as plain:
                assert url == plain.app.url_for("static", filename=filename)
            assert len(warnings_of(caplog)) == 1
            assert site.get(url).status_code == 404


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


def test_a1_a_reference_to_a_missing_file_stays_and_is_logged_once(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """And so does one that leaves the static files, which is nobody's mistake."""
    css = "a { b: url(gone.png); c: url(../other/x.png); d: url(/gone2.png) }"
    site.write("bad.css", css)
    for _ in range(2):
        assert site.text(site.url("bad.css")) == css
    (warning,) = warnings_of(caplog)
    assert "'bad.css'" in warning
    assert "'gone.png'" in warning


def test_a1_in_debug_a_file_that_was_missing_is_found(site: Site) -> None:
    """A picture that comes later changes its stylesheet's URL."""
    site.start(DEBUG=True)
    site.write("late.css", "a { b: url(late.png) }")
    before = site.url("late.css")
    site.write("late.png", b"late")
    assert site.url("late.css") != before
    assert ".png" in unhashed(site.text(site.url("late.css")))


def test_a1_a_file_that_cannot_be_read_keeps_its_plain_url(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not for this user; the page is whole."""
    path = site.write("locked.txt", "locked")
    if os.getuid() == 0:  # who may read everything: let the file be what cannot be opened
        path.unlink()
        os.mkfifo(path)
    else:
        path.chmod(0)
    assert site.url("locked.txt") == "/static/locked.txt"


def test_a1_a_mistake_of_a_tokenizer_costs_the_hash_and_not_the_page(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged with its traceback, once."""

    def fail(*_: object) -> None:
        raise RecursionError("too deep")

    monkeypatch.setattr("tinycss2.parse_component_value_list", fail)
    assert site.url("other.css") == site.url("other.css") == "/static/other.css"
    assert site.get("/static/other.css").status_code == 200
    assert len([each for each in caplog.records if each.exc_info]) == 1


def test_a1_a_link_out_of_the_folder_is_not_followed(site: Site) -> None:
    """Nothing outside is hashed; a link inside leads to its file, and the folder may be a link."""
    (site.root / "secret.txt").write_text("secret")
    (site.static / "out.txt").symlink_to(site.root / "secret.txt")
    (site.static / "up").symlink_to(site.root)
    (site.static / "in.txt").symlink_to("plain.txt")
    assert site.url("out.txt") == "/static/out.txt"
    assert site.url("up/secret.txt") == "/static/up/secret.txt"
    site.write("plain.txt", "plain")
    assert site.text(site.url("in.txt")) == "plain"

    (site.root / "real").mkdir()
    site.static.rename(site.root / "real/static")
    site.static.symlink_to(site.root / "real/static")
    site.start()
    assert site.text(site.url("in.txt")) == site.text(site.url("plain.txt")) == "plain"


@pytest.mark.parametrize("prefix", ["/shop", "/a/b"])
def test_a1_everything_works_under_a_prefix(site: Site, prefix: str) -> None:
    """C15: the URLs carry it, and references are found, also those by an absolute path."""
    site.write("deep/abs.css", "a { b: url(/static/img/dot.png) }")
    site.write("abs.js", 'import "/static/lib/c.js";')
    client = Client(DispatcherMiddleware(Flask("outer"), {prefix: site.app}))

    def body(url: str) -> str:
        response = client.get(url)
        assert response.headers["Cache-Control"] == IMMUTABLE, url
        return response.text

    css = client.get(f"{prefix}/page/static/deep/abs.css").text
    assert css.startswith(f"{prefix}/static/deep/abs.")
    (target,) = re.findall(r"url\(\.\.(/img/dot\.\w{16}\.png)\)", body(css))
    assert body(f"{prefix}/static{target}") == "PNG"
    js = client.get(f"{prefix}/page/static/abs.js").text
    (target,) = re.findall(r'import "\.(/lib/c\.\w{16}\.js)"', body(js))
    assert "const c" in body(f"{prefix}/static{target}")


def test_a1_outside_of_a_request_the_application_root_is_the_prefix(site: Site) -> None:
    """As Flask builds URLs there."""
    site.start(SERVER_NAME="shop.example", APPLICATION_ROOT="/shop")
    with site.app.app_context():
        url = site.app.url_for("static", filename="img/dot.png")
    assert unhashed(url) == "http://shop.example/shop/static/img/dot.png"
    assert url != unhashed(url)


def test_a1_a_prefix_for_another_host_is_one_setting(site: Site) -> None:
    """Query and anchor stay; what has no hash stays on this host."""
    plain = site.url("app.css")
    site.start(SIDEARM_ASSETS_URL="https://cdn.example/x/")
    assert site.url("app.css") == f"https://cdn.example/x{plain}"
    assert (
        site.url("app.css", v="a b", _anchor="c d") == f"https://cdn.example/x{plain}?v=a+b#c%20d"
    )
    assert site.url("app.css", _external=True, _scheme="http") == f"https://cdn.example/x{plain}"
    assert site.url("gone.css") == "/static/gone.css"
    with site.app.test_request_context(), pytest.raises(Exception, match="filename"):
        site.app.url_for("static")
    assert site.text(plain)  # where that host fetches it from


def test_a1_files_of_blueprints_have_hashes_too(site: Site) -> None:
    """With a prefix of their own, nested, registered twice, and with a part that varies."""
    folder = site.root / "files"
    site.write("x.css", "a { b: url(y.png) } c { d: url(/static/img/dot.png) }", folder)
    site.write("y.png", b"y", folder)

    def blueprint(name: str, **options: Any) -> Blueprint:
        made = {"static_folder": "files", "root_path": str(site.root), **options}
        return Blueprint(name, name, **made)

    outer = blueprint("outer", url_prefix="/outer")
    outer.register_blueprint(blueprint("inner", url_prefix="/inner"))
    languages = blueprint("languages", url_prefix="/<lang>", static_url_path="/words")
    languages.url_value_preprocessor(lambda _, values: (values or {}).pop("lang", None))
    site.start(outer, blueprint("bare"), blueprint("at", static_url_path="/at"), languages)

    for endpoint, values in {
        "outer.static": {},
        "outer.inner.static": {},
        "at.static": {},
        "bare.static": {},  # has the application's own URLs, under which Flask finds nothing
        "languages.static": {"lang": "en"},
    }.items():
        url = site.url("x.css", endpoint, **values)
        assert url != unhashed(url), endpoint
        css = site.text(url)
        (name,) = re.findall(r"url\((y\.\w{16}\.png)\)", css)
        assert site.text(f"{url.rpartition('/')[0]}/{name}") == "y"
    assert re.search(
        r"url\(\.\./static/img/dot\.\w{16}\.png\)", site.text(site.url("x.css", "at.static"))
    )
    assert is_gone(site.get("/en/words/x.0123456789abcdef.css"))


def test_a1_other_urls_and_other_endpoints_are_left_alone(site: Site) -> None:
    """Also an endpoint of the application's own whose name ends like the static one's."""
    site.app.add_url_rule("/own/<path:filename>", "own_static", lambda filename: filename)
    site.app.add_url_rule("/static/special.css", "special", lambda: "a view")
    site.write("special.css", "a file")
    assert site.url("app.css", "own_static") == "/own/app.css"
    assert site.get("/static/special.css").text == "a view"
    assert site.text(site.url("special.css")) == "a file"


def test_a1_the_slides_query_is_no_hindrance(site: Site) -> None:
    """An application's own function of ``url_defaults`` goes on working."""

    @site.app.url_defaults
    def add_version(endpoint: str, values: dict[str, Any]) -> None:
        if endpoint == "static":
            values["_v"] = "1"

    assert re.fullmatch(r"/static/app\.\w{16}\.css\?_v=1", site.url("app.css"))


def test_a1_integrity_is_that_of_the_bytes_that_leave(site: Site) -> None:
    """Also of a stylesheet whose references were rewritten; a missing file has none."""
    body = site.get(site.url("app.css")).data
    with site.app.test_request_context():
        digest = integrity_for("static", filename="app.css")
        assert integrity_for("static", filename="gone.css") == ""
        text = render_template_string("{{ integrity_for('static', filename='app.css') }}")
    assert text.replace("&#43;", "+") == digest
    assert digest == "sha384-" + base64.b64encode(hashlib.sha384(body).digest()).decode()


def test_a1_an_import_map_says_what_bare_names_mean(site: Site) -> None:
    """With the digests of all that is imported, and nothing in it can end the element."""
    with site.app.test_request_context():
        names = {"shop": "app.js", "</script>": "https://x.example/y.js"}
        text = import_map(names, nonce='"')
    assert text.startswith('<script type="importmap" nonce="&#34;">')
    assert text.count("</script>") == 1
    read = json.loads(text.partition(">")[2].removesuffix("</script>"))
    assert read["imports"] == {"shop": site.url("app.js"), "</script>": "https://x.example/y.js"}
    assert {unhashed(url) for url in read["integrity"]} == {
        *("/static/app.js", "/static/b.js", "/static/lib/c.js")
    }
    for url, digest in read["integrity"].items():
        body = site.get(url).data
        assert digest == "sha384-" + base64.b64encode(hashlib.sha384(body).digest()).decode()


def test_a1_templates_work_without_the_setting(tmp_path: Path) -> None:
    """``SIDEARM_ASSETS`` can be off in development: plain URLs, no integrity."""
    site = Site(tmp_path, SIDEARM_ASSETS=None)
    site.write("app.js", "0;")
    with site.app.test_request_context():
        text = render_template_string(
            "{{ url_for('static', filename='app.js') }} [{{ integrity_for('static',"
            " filename='app.js') }}] {{ import_map({'a': 'app.js'}) }}"
        )
    assert text == (
        '/static/app.js [] <script type="importmap">{"imports": {"a": "/static/app.js"}}</script>'
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("SIDEARM_ASSETS", 1),
        ("SIDEARM_ASSETS", ""),
        ("SIDEARM_ASSETS_URL", "cdn.example"),
        ("SIDEARM_ASSETS_URL", "https://cdn.example/?x"),
        ("SIDEARM_ASSETS_URL", "ftp://cdn.example"),
        ("SIDEARM_ASSETS_KEEP", -1),
        ("SIDEARM_ASSETS_KEEP", True),
        ("SIDEARM_ASSETS_TYPES", {".x": "nothing"}),
        ("SIDEARM_ASSETS_TYPES", {".x": "text/x\r\nX: y"}),
        ("SIDEARM_ASSETS_TYPES", ["x"]),
    ],
)
def test_a1_a_wrong_setting_stops_the_start_by_its_name(key: str, value: object) -> None:
    """Before the first request."""
    app = Flask("wrong")
    app.config.update({"SIDEARM_ASSETS": True, key: value})
    with pytest.raises(SettingError, match=key):
        Sidearm(app)


@pytest.mark.parametrize("where", ["static/built", "."])
def test_a1_builds_inside_of_static_files_are_refused(tmp_path: Path, where: str) -> None:
    """They would be static files themselves, and hashed again."""
    with pytest.raises(SettingError, match="SIDEARM_ASSETS"):
        Site(tmp_path, SIDEARM_ASSETS=tmp_path / where)


def test_a1_a_missing_package_is_told_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the command that installs it."""
    monkeypatch.setattr(
        "sidearm.assets.packages.find_spec", lambda name: name != "tinycss2" or None
    )
    app = Flask("lacking")
    app.config["SIDEARM_ASSETS"] = True
    with pytest.raises(SettingError, match=r"(?s)tinycss2.*sidearm\[assets\]"):
        Sidearm(app)


def test_a1_without_the_setting_nothing_is_imported_and_nothing_changes() -> None:
    """In a fresh process; with it, tokenizers wait for their first file."""
    code = """
import sys
from flask import Flask
from sidearm import Sidearm
def loaded():
    names = ("sidearm.assets", "whitenoise", "tinycss2", "tree_sitter", "brotli", "zstandard")
    return [name for name in names if name in sys.modules]
app = Flask("plain")
before = app.wsgi_app
Sidearm(app)
app.test_client().get("/static/x.css")
assert app.wsgi_app == before and not app.url_default_functions and loaded() == [], loaded()
app = Flask("hashed")
app.config["SIDEARM_ASSETS"] = True
Sidearm(app)
app.test_client().get("/static/x.css")
assert loaded() == ["sidearm.assets", "whitenoise"], loaded()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_a1_debug_that_is_turned_on_late_counts(site: Site) -> None:
    """``app.run(debug=True)`` says so after the first URL was built."""
    site.write("plain.txt", "one")
    before = site.url("plain.txt")
    site.app.debug = True
    site.write("plain.txt", "two")
    assert site.get("/page/static/plain.txt").text != before

"""Contract A1: ``flask sidearm assets build``, and what a page of before a deploy still finds."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from asset_site import IMMUTABLE, Site, unhashed

CSS = "a { color: red }\n" * 100
TIMEOUT = 200.0  # seconds for a command of flask
APP = """
from flask import Flask
from sidearm import Sidearm
app = Flask("site", root_path={root!r}, instance_path={instance!r})
app.config["SIDEARM_ASSETS"] = True
Sidearm(app)
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An application with two stylesheets, a picture and a module."""
    return fill(Site(tmp_path))


def fill(site: Site) -> Site:
    site.write("app.css", f'@import "other.css"; {CSS}')
    site.write("other.css", f"{CSS} b {{ c: url(dot.png) }}")
    site.write("dot.png", b"PNG")
    site.write("app.js", f"{'/* words */ ' * 50}0;")
    site.write(".hidden", "hidden")
    return site


def build(site: Site, *arguments: str) -> str:
    """Build, which has to work."""
    result = site.build(*arguments)
    assert result.exit_code == 0, result.output
    return result.output


def deploy(site: Site, name: str, content: str) -> str:
    """Change a file, start another process and build; its new URL."""
    site.write(name, content)
    site.start()
    build(site)
    return site.url(name)


def files(site: Site) -> dict[str, tuple[int, int]]:
    """Everything that was built, with what tells whether it was written again."""
    found = {path: path.stat() for path in site.built.rglob("*") if path.is_file()}
    return {
        str(path.relative_to(site.built)): (stat.st_ino, stat.st_mtime_ns)
        for path, stat in found.items()
    }


def command(site: Site, **options: object) -> subprocess.Popen[bytes]:
    """``flask sidearm assets build`` as a process of its own."""
    code = APP.format(root=str(site.root), instance=str(site.root / "instance"))
    (site.root / "made.py").write_text(code)
    words = [sys.executable, "-m", "flask", "--app", "made", "sidearm", "assets", "build"]
    return subprocess.Popen(words, cwd=site.root, **options)  # type: ignore[call-overload,no-any-return]


def test_a1_a_build_is_under_the_paths_of_the_urls(site: Site) -> None:
    """So that another server can send the same files under the same URLs."""
    output = build(site)
    assert re.search(r"\d+ written", output)
    for name in ("app.css", "other.css", "dot.png", "app.js"):
        url = site.url(name)
        assert (site.built / url.removeprefix("/")).read_bytes() == site.get(url).data
    assert not any(".hidden" in name for name in files(site))


def test_a1_a_build_writes_only_what_no_build_has_written(site: Site) -> None:
    """Again with nothing changed it writes nothing; what was damaged by hand is mended."""
    build(site)
    before = files(site)
    assert "0 written" in build(site)
    assert files(site) == before

    site.write("new.css", CSS)
    assert " 1 written" in build(site)
    after = files(site)
    del before["manifest.json"]
    assert before.items() <= after.items()

    path = next(site.built.rglob("dot.*.png"))
    path.write_bytes(b"cut off")
    assert " 1 written" in build(site)
    assert path.read_bytes() == b"PNG"


def test_a1_the_same_files_give_the_same_manifest(tmp_path: Path) -> None:
    """On another machine, at another time, in another order."""
    manifests = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        site = fill(Site(tmp_path / name))
        site.settle(site.write("app.css", f'@import "other.css"; {CSS}'))
        build(site)
        manifests.append((site.built / "manifest.json").read_bytes())
    assert manifests[0] == manifests[1]
    assert str(tmp_path).encode() not in manifests[0]


def test_a1_a_page_of_before_the_deploy_finds_its_files(site: Site) -> None:
    """Its old hashes give their old bytes, for as many builds as are kept; then they are 404."""
    site.config["SIDEARM_ASSETS_KEEP"] = 2
    site.start()
    build(site)
    seen = {name: site.url(name) for name in ("app.css", "other.css", "dot.png")}
    bodies = {url: site.text(url) for url in seen.values()}

    for number in range(2):
        deploy(site, "dot.png", f"changed {number}")
        for url, body in bodies.items():
            assert site.url(url) != url
            assert site.text(url) == body
            assert site.get(url, Range="bytes=0-0").data == body[:1].encode()
    compressed = site.get(seen["app.css"], Accept_Encoding="br")
    assert compressed.headers["Content-Encoding"] == "br"
    tag = compressed.headers["ETag"]
    assert site.get(seen["app.css"], Accept_Encoding="br", If_None_Match=tag).status_code == 304

    deploy(site, "dot.png", "changed again")
    for url in bodies:
        response = site.get(url)
        assert (response.status_code, response.headers["Cache-Control"]) == (404, "no-store")
        assert not (site.built / url.removeprefix("/")).exists()
    assert len(site.manifest()["generations"]) == 3


def test_a1_an_old_file_may_be_gone_from_the_application(site: Site) -> None:
    """A stylesheet that the next deploy does not have any more, and a folder neither."""
    site.write("deep/old.css", CSS)
    build(site)
    url = site.url("deep/old.css")
    (site.static / "deep/old.css").unlink()
    (site.static / "deep").rmdir()
    site.start()
    build(site)
    assert site.text(url) == CSS
    site.config["SIDEARM_ASSETS_KEEP"] = 0
    deploy(site, "app.css", "x { }")
    assert site.get(url).status_code == 404
    assert not (site.built / "static/deep").exists()


def test_a1_a_deploy_that_is_rolled_back_needs_no_place(site: Site) -> None:
    """The former build becomes the newest again, and what it had is written no second time."""
    build(site)
    first = site.manifest()["generations"]
    content = (site.static / "app.js").read_text()
    deploy(site, "app.js", "1;")
    site.write("app.js", content)
    site.start()
    assert " 0 written" in build(site)
    generations = site.manifest()["generations"]
    assert generations[:1] == first
    assert len(generations) == 2


def test_a1_a_running_process_learns_of_a_build(site: Site) -> None:
    """Built by the deploy while old workers run: both know the hashes of both."""
    old_app, old_url = site.app, site.url("dot.png")
    site.text(old_url)
    build(site)
    new_url = deploy(site, "dot.png", "changed")
    for app in (old_app, site.app):
        site.app = app
        assert site.text(old_url) == "PNG"
        assert site.text(new_url) == "changed"


def test_a1_what_was_built_and_deleted_by_hand_is_served_from_the_application(site: Site) -> None:
    """The copies are a gain, and nothing that a page depends on."""
    build(site)
    urls = [site.url(name) for name in ("app.css", "dot.png")]
    bodies = [site.get(url, Accept_Encoding="br").data for url in urls]
    for path in site.built.rglob("*.*.*"):
        path.unlink()
    for _ in range(2):
        assert site.get(urls[0], Accept_Encoding="br").text.startswith("@import")
        assert site.get(urls[1], Accept_Encoding="br").data == bodies[1]
        site.start()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", '{"version": 99}', "\xff", "[" * 5000),
        '{"version": 1, "generations": [{"x": 1}]}',
        (
            '{"version": 1, "generations": [{"x.0123456789abcdef.css": {"endpoint": "static",'
            ' "filename": "x.css", "integrity": "", "size": 1, "encodings": {"odd": 1}}}]}'
        ),
    ],
)
def test_a1_a_broken_manifest_breaks_no_page(
    site: Site, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    """One line in the log; a build says what to do."""
    site.built.mkdir(parents=True)
    (site.built / "manifest.json").write_bytes(text.encode("latin-1"))
    for _ in range(2):
        site.text(site.url("app.css"))
        assert site.get("/static/app.0123456789abcdef.css").status_code == 404
    assert len([each for each in caplog.records if "manifest.json" in each.getMessage()]) == 1
    result = site.build()
    assert result.exit_code == 1
    assert "manifest.json" in result.output
    assert "Delete it" in result.output


def test_wn33_a_dry_run_writes_nothing(site: Site) -> None:
    """And says what there would be."""
    output = build(site, "--dry-run")
    assert re.search(r"[1-9]\d* would be written", output)
    assert not site.built.exists()


def test_wn33_an_error_in_one_file_fails_the_command(site: Site) -> None:
    """Nothing is published, and the former build stays."""
    build(site)
    before = files(site)
    site.write("app.js", "1;")
    os.mkfifo(site.static / "pipe.txt")  # no file, and not waited for
    assert site.build().exit_code == 0
    (site.static / "pipe.txt").unlink()
    path = site.built / "static" / f"{site.url('app.css').rpartition('/')[2]}"
    path.unlink()
    path.mkdir()  # where a file has to be
    result = site.build()
    assert result.exit_code == 1
    assert path.name in result.output
    path.rmdir()
    assert {name for name in before if "app.js" not in name} - files(site).keys() == {
        str(path.relative_to(site.built))
    }


def test_wn34_a_reference_to_a_missing_file_fails_the_build(site: Site) -> None:
    """Both are named, of every such file; who needs none of them may go on."""
    build(site)
    before = (site.built / "manifest.json").read_bytes()
    site.write("bad.css", "a { b: url(gone.png) }")
    site.write("bad.js", 'import "./gone.js";')
    result = site.build()
    assert result.exit_code == 1
    for name in ("bad.css", "'gone.png'", "bad.js", "'./gone.js'", "--keep-going"):
        assert name in result.output
    assert (site.built / "manifest.json").read_bytes() == before
    assert "gone.png" in build(site, "--keep-going")
    assert site.text(site.url("bad.css")) == "a { b: url(gone.png) }"


def test_wn34_a_missing_source_map_is_only_told(site: Site) -> None:
    """Packages are often published without, and no page loads one."""
    site.write("lib.js", "0;\n//# sourceMappingURL=lib.js.map")
    assert "lib.js.map" in build(site)
    site.write("lib.js.map", "{}")
    site.start()
    assert "Warning" not in build(site)
    (name,) = re.findall(r"=(lib\.js\.\w{16}\.map)$", site.text(site.url("lib.js")))
    assert site.text(f"/static/{name}") == "{}"


@pytest.mark.parametrize("what", ["file", "manifest"])
def test_a1_a_full_disk_leaves_the_former_build(site: Site, what: str) -> None:
    """An error that names the file, status 1; no half file, the manifest as it was."""
    for number in range(40):
        site.write(f"{number}.txt", str(number))
    site.write("large.bin", os.urandom(1000))
    build(site)
    before, url = files(site), site.url("large.bin")
    manifest = (site.built / "manifest.json").read_bytes()
    assert len(manifest) > 8000
    site.write("large.bin", os.urandom(100_000 if what == "file" else 2000))

    def limit() -> None:
        # The kernel refuses what is written beyond, as it does where no room is left.
        size = 50_000 if what == "file" else 8000
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    process = command(site, stderr=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=limit)
    _, errors = process.communicate(timeout=TIMEOUT)

    assert process.returncode == 1
    assert b"Error: " in errors
    assert (b"large." if what == "file" else b"manifest.json") in errors
    assert b"Traceback" not in errors
    assert before.items() <= files(site).items()
    assert (site.built / "manifest.json").read_bytes() == manifest
    assert not list(site.built.rglob(".writing-*"))
    site.start()
    assert len(site.get(url).data) == 1000


def test_a1_a_build_that_is_killed_leaves_the_former_build(site: Site) -> None:
    """At whatever moment: the next one finishes it, and no page notices."""
    build(site)
    url, manifest = site.url("app.css"), (site.built / "manifest.json").read_bytes()
    for number in range(300):
        site.write(f"many/{number}.css", f"{CSS}{number}")
    process = command(site, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and not list(site.built.rglob("many/*.css")):
            pass
    finally:
        process.kill()
        process.wait()
    assert (site.built / "manifest.json").read_bytes() == manifest
    site.start()
    site.text(url)
    build(site)
    assert site.text(site.url("many/299.css")) == f"{CSS}299"
    assert not list(site.built.rglob(".writing-*"))


def test_a1_a_build_waits_for_another(site: Site) -> None:
    """It writes nothing before that has ended, and then all."""
    site.built.mkdir(parents=True)
    with (site.built / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        process = command(site, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            # "->" marks who waits (proc_locks(5)).
            waits = re.compile(rf"-> FLOCK\s+ADVISORY\s+WRITE\s+{process.pid}\b")
            while process.poll() is None and not waits.search(Path("/proc/locks").read_text()):
                time.sleep(0.01)
            assert [path.name for path in site.built.iterdir()] == [".lock"]
            fcntl.flock(lock, fcntl.LOCK_UN)
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()
            process.wait()
    assert len(site.manifest()["generations"]) == 1


def test_a1_the_command_shows_how_far_it_is(site: Site) -> None:
    """On a terminal; and nothing with ``--quiet``."""
    ours, theirs = pty.openpty()
    process = command(site, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"})
    os.close(theirs)
    shown = b""
    try:
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            shown += piece
    finally:
        os.close(ours)
        process.wait(TIMEOUT)
    assert process.returncode == 0
    assert re.search(rb"Static files.*#.*100%", shown)
    assert build(site, "--quiet") == ""


def test_a1_without_the_setting_the_command_says_so(tmp_path: Path) -> None:
    """It would build what nobody serves."""
    site = Site(tmp_path, SIDEARM_ASSETS=None)
    result = site.build()
    assert result.exit_code == 1
    assert "SIDEARM_ASSETS is None" in result.output


def test_a1_a_folder_for_builds_can_be_named(tmp_path: Path) -> None:
    """A path of its own, which another server may read, or one in the instance folder."""
    for where, folder in (
        (tmp_path / "srv", tmp_path / "srv"),
        ("built", tmp_path / "instance/built"),
    ):
        site = fill(Site(tmp_path, SIDEARM_ASSETS=where))
        build(site)
        path = folder / site.url("app.css").removeprefix("/")
        assert unhashed(path.read_text()) == (site.static / "app.css").read_text()
        assert path.stat().st_mode & 0o777 == 0o644
        assert site.get(site.url("app.css")).headers["Cache-Control"] == IMMUTABLE

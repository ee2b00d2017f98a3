"""Contract P4: ``flask sidearm doctor`` names what is wrong with a deployment, from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from fronts import APPS, PATIENCE, Caddy, Nginx, program, run, sidearm

from sidearm.doctor.findings import Level
from sidearm.doctor.target import Target, checked_url, headers_from
from sidearm.doctor.visit import examine
from sidearm.testing import GunicornServer, Server, UpServer, free_port

APP = "doctored:app"
STYLE = "".join(f".row-{number} {{ color: red }}\n" for number in range(200))
HEARTBEAT = "1"  # seconds
#: A stock front: what each test breaks is added to it.
HEADERS = """
proxy_set_header Host $http_host;
proxy_set_header X-Forwarded-Proto $scheme;
"""


@dataclass(frozen=True)
class Deployed:
    """An application, and how its folder and its certificate are found."""

    up: Server
    env: dict[str, str]
    folder: Path


class Front(Server):
    """nginx with hand-written directives for the whole server, streams and static files."""

    def __init__(
        self,
        port: int,
        *,
        server: str = HEADERS,
        streams: str = "",
        static: str = "",
        http: str = "",
        tls: str | None = None,
        certificates: Path | None = None,
    ) -> None:
        super().__init__(start_timeout=PATIENCE)
        self._nginx = program("nginx")
        self._parts = (port, server, streams, static, http, tls, certificates)

    @property
    def site(self) -> str:
        """Its URL, as browsers have it."""
        return f"https://localhost:{self.port}/" if self._parts[5] is not None else f"{self.url}/"

    def command(self) -> list[str]:
        port, server, streams, static, http, tls, certificates = self._parts
        listen = f"listen {self.port}{'' if tls is None else f' ssl {tls}'};"
        if certificates is not None:
            listen += f"""
                ssl_certificate {certificates}/certificate.pem;
                ssl_certificate_key {certificates}/key.pem;"""
        passed = f"proxy_pass http://127.0.0.1:{port};"
        configuration = self.folder / "nginx.conf"
        configuration.write_text(f"""
            pid {self.folder}/pid;
            events {{}}
            http {{
                access_log off;
                client_body_temp_path {self.folder}/body;
                proxy_temp_path {self.folder}/proxy;
                fastcgi_temp_path {self.folder}/fastcgi;
                uwsgi_temp_path {self.folder}/uwsgi;
                scgi_temp_path {self.folder}/scgi;
                {http}
                server {{
                    {listen}
                    {server}
                    location / {{ {passed} }}
                    location /streams/ {{ {passed} {streams} }}
                    location /static/ {{ {passed} {static} }}
                }}
            }}""")
        return [self._nginx, "-c", str(configuration), "-e", "stderr", "-g", "daemon off;"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application's folder, with a build, and a certificate for localhost."""
    folder = tmp_path_factory.mktemp("doctored")
    (folder / "static").mkdir()
    (folder / "static/shop.css").write_text(STYLE)
    sidearm(APP, "assets", "build", env=env_of(folder))
    status, said = run(
        *("openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost", "-days", "2"),
        *("-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")),
    )
    assert status == 0, said
    return folder


def env_of(folder: Path, **more: str) -> dict[str, str]:
    return {"FRONTED_FOLDER": str(folder), "PYTHONPATH": str(APPS), **more}


@pytest.fixture(scope="module")
def deployed(folder: Path) -> Iterator[Deployed]:
    """An application that is right."""
    env = env_of(folder, FLASK_SIDEARM_HEARTBEAT=HEARTBEAT)
    with UpServer(APP, env=env, cwd=APPS, start_timeout=PATIENCE) as up:
        yield Deployed(up, env, folder)


@pytest.fixture(scope="module")
def quiet(folder: Path) -> Iterator[Deployed]:
    """One without heartbeat."""
    env = env_of(folder, FLASK_SIDEARM_HEARTBEAT="0")
    with UpServer(APP, env=env, cwd=APPS, start_timeout=PATIENCE) as up:
        yield Deployed(up, env, folder)


def doctor(
    url: str,
    *words: str,
    stream: str | None = "/streams/stock",
    app: str | None = None,
    env: dict[str, str] | None = None,
) -> tuple[int, str, str]:
    """The command's status and both outputs; without the application unless one is named."""
    named = ("--app", app) if app else ()
    ended = subprocess.run(
        [
            *(sys.executable, "-m", "flask", *named, "sidearm", "doctor", url),
            *(("--stream", stream) if stream else ()),
            *(("--wait", "8", "--patience", "5") if "--wait" not in words else ()),
            *words,
        ],
        cwd=APPS if app else "/",
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 2,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def faults(
    url: str,
    *,
    stream: str | None = "/streams/stock",
    pools: tuple[str, ...] = (),
    cookies: tuple[str, ...] = (),
    patience: float = 8,
    silence: float = 8,
) -> dict[str, str]:
    """What it finds, by the name of the check."""
    place = Target(
        url=checked_url(url),
        pools=pools,
        headers=headers_from((), cookies),
        patience=patience,
        silence=silence,
    )
    report = examine(replace(place, streams=(place.below(stream),) if stream else ()))
    return {
        each.check: f"{each.message} {each.advice}"
        for each in report.findings
        if each.level is Level.FAULT
    }


@pytest.mark.parametrize("front", [Nginx, Caddy])
@pytest.mark.parametrize("prefix", ["", "/shop"])
def test_p4_an_exported_front_has_no_fault(
    front: type[Nginx | Caddy], prefix: str, deployed: Deployed
) -> None:
    """HTTP/1.1 without TLS is a note; the application is at hand, so its streams are known."""
    words = ("--port", str(deployed.up.port), *(("--prefix", prefix) if prefix else ()))
    with front(APP, *words, env=deployed.env) as server:
        status, said, errors = doctor(f"{server.url}{prefix}/", "--json", app=APP, env=deployed.env)
    report = json.loads(said)
    assert report["faults"] == status == 0, said
    assert [each["check"] for each in report["findings"]] == ["http-version", "plain-eventsource"]
    assert any("/static/shop." in line and "immutable" in line for line in report["passed"])
    assert any("/streams/stock streams" in line for line in report["passed"])
    if not prefix:
        assert any("The application sees" in line for line in report["passed"])
    assert "Looking at" in errors


def test_p4_c14_a_stock_nginx_has_nothing_wrong_with_the_stream(deployed: Deployed) -> None:
    """``proxy_pass`` alone; an event comes within silence, and one after it."""
    with Front(deployed.up.port, server="") as front:
        found = faults(front.site)
        assert not {name for name in found if name.startswith(("stream", "idle", "heartbeat"))}


#: Directives that break a front, by what has to be found.
BROKEN: dict[str, tuple[str, dict[str, str], str]] = {
    "buffering": (
        "stream-buffered",
        {"streams": "proxy_ignore_headers X-Accel-Buffering;"},
        "proxy_buffering off",
    ),
    "no host, which nginx hides in redirects": (
        "host",
        {"server": "proxy_set_header X-Forwarded-Proto $scheme;"},
        "proxy_set_header Host",
    ),
    "a wrong host": ("host", {"server": "proxy_set_header Host inner.example;"}, "inner.example"),
    "a long cache of streams": (
        "stream-cached",
        {"streams": "proxy_hide_header Cache-Control; add_header Cache-Control max-age=3600;"},
        "max-age=3600",
    ),
    "compressed streams": (
        "stream-encoded",
        {"streams": "gzip on; gzip_proxied any; gzip_min_length 0; gzip_types text/event-stream;"},
        "gzip off",
    ),
    "another type": (
        "stream-type",
        {"streams": "proxy_hide_header Content-Type; add_header Content-Type text/plain;"},
        "text/plain",
    ),
    "static files without caching": (
        "static-caching",
        {"static": "proxy_hide_header Cache-Control;"},
        "no Cache-Control",
    ),
    "a front that hides what clients accept": (
        "compression",
        {"static": 'proxy_set_header Accept-Encoding "";'},
        "uncompressed",
    ),
    "a limit of its own": ("stream-status", {"streams": "return 429;"}, "never comes back"),
    "nobody behind it": ("stream-status", {"streams": "return 502;"}, "never comes back"),
    "static files that are not there": ("static-missing", {"static": "return 404;"}, "404"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_p4_a_broken_front_is_named(name: str, deployed: Deployed) -> None:
    """The one fault that it has, with what to do."""
    check, directives, words = BROKEN[name]
    with Front(deployed.up.port, **{"server": HEADERS, **directives}) as front:
        found = faults(front.site, patience=3)
    assert list(found) == [check]
    assert words in found[check]


def test_p4_a_short_idle_timeout_is_told_in_seconds(quiet: Deployed) -> None:
    """Nginx gives a quiet stream up after 3 s."""
    with Front(quiet.up.port, streams="proxy_read_timeout 3s;") as front:
        found = faults(front.site)
    assert list(found) == ["idle-timeout"]
    assert (
        "after 3 s of silence (idle timeout of a hop on the way (nginx))" in found["idle-timeout"]
    )


def test_p4_a_missing_heartbeat(quiet: Deployed) -> None:
    """A front that is right does not help against it."""
    with Front(quiet.up.port) as front:
        found = faults(front.site, silence=3)
    assert list(found) == ["heartbeat"]
    assert "SIDEARM_HEARTBEAT" in found["heartbeat"]


def test_p4_a_stream_that_is_cut_though_it_is_not_silent(deployed: Deployed) -> None:
    """Its own longest duration, as some hops have one; told with the seconds."""
    with Front(deployed.up.port, streams="proxy_buffering off;") as front:
        found = faults(front.site, stream="/streams/timed")
    assert list(found) == ["stream-duration"]
    assert "after 2 s, though it was not silent" in found["stream-duration"]


def test_p4_no_hub_behind_the_workers(folder: Path) -> None:
    """Then a stream ends at once, and its clients poll."""
    env = env_of(folder, SIDEARM_SOCKET=str(folder / "none.sock"))
    with (
        GunicornServer(APP, env=env, cwd=APPS, start_timeout=PATIENCE) as pool,
        Front(pool.port) as front,
    ):
        found = faults(front.site)
    assert list(found) == ["stream-ends"]


def test_p4_tls_without_http_2_and_without_the_scheme(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two faults of one front; with HTTP/2 and the header, none."""
    trusted = str(deployed.folder / "certificate.pem")
    port, folder = deployed.up.port, deployed.folder
    host = "proxy_set_header Host $http_host;"
    monkeypatch.setenv("SSL_CERT_FILE", trusted)
    with Front(port, server=host, tls="", certificates=folder) as front:
        found = faults(front.site)
    assert sorted(found) == ["http-version", "scheme"]
    assert "X-Forwarded-Proto" in found["scheme"]
    assert "six" in found["http-version"]
    with Front(port, tls="http2", certificates=folder) as front:
        status, said, _ = doctor(front.site)
    assert status == 0, said
    assert "speaks HTTP/2" in said


def test_p4_a_certificate_that_nobody_trusts(deployed: Deployed) -> None:
    """It is named, and the rest is looked at all the same."""
    port, folder = deployed.up.port, deployed.folder
    with Front(port, tls="http2", certificates=folder) as front:
        found = faults(front.site)
    assert list(found) == ["certificate"]
    assert "self" in found["certificate"]  # signed by itself


def test_p4_a_pool_that_is_reachable(deployed: Deployed) -> None:
    """The one that was named; one where nobody listens is right."""
    pools = (f"http://127.0.0.1:{deployed.up.port}", f"http://127.0.0.1:{free_port()}")
    with Front(deployed.up.port) as front:
        found = faults(front.site, pools=pools)
    assert list(found) == ["pool-reachable"]
    assert "127.0.0.1" in found["pool-reachable"]


def test_p4_pools_are_looked_for_on_the_same_host(deployed: Deployed) -> None:
    """At the ports of the exported files; what listens there and is something else is no pool."""
    with Front(deployed.up.port) as front, Front(free_port()) as other:
        # By this address Linux reaches itself, and it is none that only this machine has.
        place = Target(
            url=f"http://0.0.0.0:{front.port}/", headers={}, patience=PATIENCE, silence=1
        )
        report = examine(place, ports=(front.port, deployed.up.port, other.port, free_port()))
        found = {each.where for each in report.findings if each.check == "pool-reachable"}
        assert found == {f"http://0.0.0.0:{deployed.up.port}/"}
        here = replace(place, url=front.site)
        report = examine(here, ports=(deployed.up.port,))  # which has to be reachable from here
        assert not [each for each in report.findings if each.check == "pool-reachable"]


def test_p4_an_exported_front_has_no_fault_without_hashed_files(tmp_path: Path) -> None:
    """It compresses what the application does not, and that names have no hash is a note."""
    (tmp_path / "static").mkdir()
    (tmp_path / "admin").mkdir()
    (tmp_path / "static/site.css").write_text(STYLE)
    env = env_of(tmp_path)
    with (
        UpServer("fronted:app", env=env, cwd=APPS, start_timeout=PATIENCE) as up,
        Nginx("fronted:app", "--port", str(up.port), env=env) as front,
    ):
        status, said, _ = doctor(front.url, "--json", app="fronted:app", env=env, stream=None)
    assert status == 0, said
    assert "static-unhashed" in said


def test_p4_nobody_behind_the_front() -> None:
    """The page and the stream say so, each on its own."""
    with Front(free_port()) as front:
        found = faults(front.site)
    assert sorted(found) == ["page-status", "stream-status"]


def test_p4_redirects_in_a_circle(deployed: Deployed) -> None:
    with Front(deployed.up.port) as front:
        found = faults(f"{front.site}loop", stream=None)
    assert list(found) == ["redirect-loop"]


def test_p4_the_slides_stream_behind_the_talks_own_nginx(folder: Path) -> None:
    """Without Sidearm's headers none of six small events arrives: nginx waits for 4 KiB."""
    env = env_of(folder)
    words = ("--graceful-timeout", "1")
    with (
        GunicornServer(
            APP, worker_class="gevent", args=words, env=env, cwd=APPS, start_timeout=PATIENCE
        ) as pool,
        # As on its slide: two locations, proxy_pass, and no more.
        Front(pool.port, server=f"location /slide/ {{ proxy_pass {pool.url}; }}") as front,
    ):
        # Eight seconds are longer than it takes to send the six.
        found = faults(front.site, pools=(pool.url,), stream="/slide/stock")
    assert "nginx" in found["stream-buffered"]
    assert "so is the stream past the front" in found["stream-buffered"]
    assert "host" in found  # and the slide passes no host on


def test_p4_behind_a_log_in(deployed: Deployed) -> None:
    """One clear line without a cookie, and nothing wrong with one."""
    with Front(deployed.up.port) as front:
        found = faults(front.site, stream="/streams/mine")
        assert list(found) == ["stream-login"]
        assert "302 to /login" in found["stream-login"]
        assert "--cookie" in found["stream-login"]
        found = faults(front.site, stream="/streams/forbidden")
        assert "answers 401" in found["stream-login"]
        assert not faults(front.site, cookies=("session=open",), stream="/streams/mine")


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("shop.example", "Error: 'shop.example' is no URL of a web site."),
        ("ftp://shop.example/", "Error: 'ftp://shop.example/' is no URL"),
        ("http://[::1/", "Error: 'http://[::1/' is no URL"),
        ("http://u:p@shop.example/", "Error: The URL has a user's name in it."),
        ("http://127.0.0.1:1/", "Error: http://127.0.0.1:1/ does not answer: "),
        ("http://nobody.invalid/", "Error: http://nobody.invalid/ does not answer: "),
    ],
)
def test_p4_what_cannot_be_examined_is_one_line(url: str, line: str) -> None:
    status, said, errors = doctor(url)
    assert (status, said) == (1, "")
    assert errors.startswith(line)
    assert errors.count("\n") == 1


def test_p4_a_bad_header_and_a_bad_cookie_are_one_line() -> None:
    for words in (("--header", "nothing"), ("--cookie", "nothing"), ("--cookie", "a=b; c")):
        status, _, errors = doctor("http://127.0.0.1:1/", *words)
        assert status == 1
        assert f"Error: {words[0]}" in errors


def test_p4_the_text_says_what_to_do(deployed: Deployed) -> None:
    """Each fault with its place and its cure, and what a plain EventSource cannot do (C10)."""
    with Front(deployed.up.port, streams="return 503;") as front:
        status, said, _ = doctor(front.site)
        assert status == 1
        text = " ".join(said.split())
        assert f"FAULT stream-status, {front.site}streams/stock" in text
        assert "A plain EventSource that gets this never comes back" in text
        assert "What to do: See whether the pool" in text
        assert text.endswith("1 fault, 1 note.")

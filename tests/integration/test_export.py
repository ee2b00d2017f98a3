"""Contract W3: every exported file is what its own program reads, in both layouts."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from fronts import APPS, PATIENCE, ask, program, run, sidearm, sidearm_ends

from sidearm.testing import Server, free_port

KINDS = ("nginx", "caddy", "supervisor", "systemd", "procfile", "compose")
LAYOUTS = ("sidearm", "talk")
TLS_DAYS = "2"


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("fronted")
    for name in ("static", "admin"):
        (folder / name).mkdir()
    return {"FRONTED_FOLDER": str(folder), "PYTHONPATH": str(APPS)}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def exported(
    kind: str, layout: str, folder: Path, env: dict[str, str], *words: str, app: str = "fronted:app"
) -> list[Path]:
    """The files of a kind, in a folder."""
    sidearm(app, "export", kind, "--layout", layout, "-o", str(folder), *words, env=env)
    return sorted(path for path in folder.iterdir() if path.is_file())


@pytest.mark.parametrize("words", [(), ("--prefix", "/a/b.c"), ("--no-static",)], ids=str)
def test_w3_nginx_takes_its_file(
    layout: str, words: tuple[str, ...], tmp_path: Path, env: dict[str, str]
) -> None:
    """``nginx -t`` finds nothing wrong, nor anything to warn of but the user that tests run as."""
    run_dir = ("--run-dir", str(tmp_path))
    (path,) = exported("nginx", layout, tmp_path, env, *run_dir, *words)
    status, said = run(program("nginx"), "-t", "-c", str(path), "-e", "stderr")
    assert status == 0, said
    assert "[warn]" not in re.sub(r".*the \"user\" directive.*", "", said)
    text = path.read_text()
    assert text.count("proxy_buffering off") == 1
    assert ("alias" in text) is (words != ("--no-static",))


def test_w3_nginx_with_tls(tmp_path: Path, env: dict[str, str]) -> None:
    """With a certificate it serves HTTP/2, and sends plain HTTP there."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    status, said = run(
        *("openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=shop.example"),
        *("-days", TLS_DAYS, "-keyout", str(key), "-out", str(certificate)),
    )
    assert status == 0, said
    path = tmp_path / "nginx.conf"
    sidearm(
        "fronted:app",
        *("export", "nginx", "-o", str(path), "--run-dir", str(tmp_path)),
        *("--certificate", str(certificate), "--certificate-key", str(key)),
        *("--server-name", "shop.example"),
        env=env,
    )
    status, said = run(program("nginx"), "-t", "-c", str(path), "-e", "stderr")
    assert status == 0, said
    assert "listen 443 ssl http2" in path.read_text()


@pytest.mark.parametrize("words", [(), ("--prefix", "/a/b.c"), ("--server-name", "shop.example")])
def test_w3_caddy_takes_its_file(
    layout: str, words: tuple[str, ...], tmp_path: Path, env: dict[str, str]
) -> None:
    """``caddy validate`` accepts it, and it is formatted as Caddy does it."""
    (path,) = exported("caddy", layout, tmp_path, env, *words)
    home = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")}
    caddy = program("caddy")
    status, said = run(caddy, "validate", "--adapter", "caddyfile", "--config", str(path), env=home)
    assert status == 0, said
    status, said = run(caddy, "fmt", "--diff", str(path), env=home)
    assert status == 0, said


def test_w3_supervisor_takes_its_file(layout: str, tmp_path: Path, env: dict[str, str]) -> None:
    """The programs are read as they were meant, a space among them."""
    odd = tmp_path / "an odd one"
    odd.mkdir()
    (path,) = exported("supervisor", layout, tmp_path, env, "--run-dir", str(odd))
    read = (
        "import json, sys; from supervisor.options import ServerOptions;"
        "options = ServerOptions(); options.realize(['-c', sys.argv[1]]);"
        "programs = [p for group in options.process_group_configs for p in group.process_configs];"
        "told = {p.name: [p.command, p.environment, p.stdout_logfile] for p in programs};"
        "print(json.dumps(told))"
    )
    python = str(Path(program("supervisord")).with_name("python"))
    status, said = run(python, "-W", "ignore", "-c", read, str(path))
    assert status == 0, said
    programs = json.loads(said)
    socket = {"SIDEARM_SOCKET": f"{odd}/hub.sock"}
    if layout == "sidearm":
        command, environment, log = programs.pop("web")
        assert command.endswith(
            "--app fronted:app sidearm up --host 127.0.0.1 --port 8000 --workers 4"
        )
        assert (environment, log) == (socket, f"{odd}/web.log")
        assert not programs
        return
    assert set(programs) == {"hub", "worker-blocking", "worker-nonblocking", "redis", "nginx"}
    assert "-w 4 fronted:app -b 127.0.0.1:8000" in programs["worker-blocking"][0]
    command, environment, _ = programs["worker-nonblocking"]
    assert "-w 4 -k gevent fronted:app -b 127.0.0.1:8001" in command
    assert environment == {**socket, "FLASK_SIDEARM_HANDOFF": "false"}
    assert f"'{odd}/nginx.conf'" in programs["nginx"][0]


def test_w3_systemd_takes_its_units(layout: str, tmp_path: Path, env: dict[str, str]) -> None:
    """``systemd-analyze verify`` accepts them without a word."""
    units = exported("systemd", layout, tmp_path, env, "--user", "www-data")
    assert len(units) == (2 if layout == "sidearm" else 3)
    status, said = run(program("systemd-analyze"), "verify", *map(str, units))
    assert status == 0, said
    ours = [line for line in said.splitlines() if "fronted" in line]
    assert not ours


def test_w3_a_procfile_is_one(layout: str, tmp_path: Path, env: dict[str, str]) -> None:
    """``honcho check`` finds the processes."""
    (path,) = exported("procfile", layout, tmp_path, env)
    status, said = run(program("honcho"), "-f", str(path), "check")
    assert status == 0, said
    expected = {
        "sidearm": "(web)",
        "talk": "(hub, worker-blocking, worker-nonblocking, redis, nginx)",
    }
    assert expected[layout] in said


def test_w3_a_compose_file_is_one(layout: str, tmp_path: Path, env: dict[str, str]) -> None:
    """It obeys the Compose specification, and nginx takes the configuration inside."""
    compose_spec = pytest.importorskip("compose_spec", reason="pip install compose-spec")
    (path,) = exported("compose", layout, tmp_path, env)
    compose = compose_spec.PyCompose.from_yaml(path.read_text())
    spec = compose.to_spec()
    pools = {"sidearm": {"web"}, "talk": {"hub", "blocking", "streaming", "redis"}}[layout]
    assert set(spec.services) == {*pools, "front"}
    content = compose.to_dict()["configs"]["nginx"]["content"].replace("$$", "$")
    for name in pools:  # in a container's network these are hosts
        content = content.replace(f"server {name}:", "server 127.0.0.1:")
    assert content.count("server 127.0.0.1:") == len(pools - {"hub", "redis"})
    (tmp_path / "inside.conf").write_text(content)
    status, said = run(
        program("nginx"), "-t", "-e", "stderr", "-c", str(tmp_path / "inside.conf"),
        "-g", f"pid {tmp_path}/pid;",
    )  # fmt: skip
    assert status == 0, said


def test_w3_supervisor_runs_the_deployment(tmp_path: Path, env: dict[str, str]) -> None:
    """The exported file starts web workers and hub, and its end leaves neither."""
    port = free_port()
    (path,) = exported(
        "supervisor", "sidearm", tmp_path, env, "--port", str(port), "--workers", "1"
    )
    supervisord = program("supervisord")
    # A machine of tests may allow fewer descriptors than a server does.
    path.write_text(re.sub(r"minfds = \d+", "minfds = 64", path.read_text()))
    command = [supervisord, "-n", "-c", str(path)]
    server = Server(command, env=env, start_timeout=PATIENCE, stop_timeout=PATIENCE)
    server.port = port
    with server:
        server.wait_until(lambda: "Sidearm serves" in log(tmp_path), PATIENCE, "web workers")
        assert ask(f"http://127.0.0.1:{port}/seen").status == 200
        assert server.terminate() == 0
    assert "first the web server, then the hub" in log(tmp_path)


def log(folder: Path) -> str:
    path = folder / "web.log"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("kind", KINDS)
def test_w3_printed_and_never_over_a_file(kind: str, tmp_path: Path, env: dict[str, str]) -> None:
    """Without --output it is printed, as it would be written; a file that exists is left alone."""
    path, *others = exported(kind, "sidearm", tmp_path, env)
    texts = [path.read_text()]
    if others:  # each has its name before it
        texts = [f"# ---- {each.name}\n{each.read_text()}" for each in (path, *others)]
    assert sidearm("fronted:app", "export", kind, env=env) == "".join(texts)
    path.write_text("mine")
    where = str(tmp_path if others else path)
    status, _, errors = sidearm_ends("fronted:app", "export", kind, "-o", where, env=env)
    assert status == 1
    assert f"{path} exists" in errors
    assert path.read_text() == "mine"


def test_w3_every_directive_is_explained(layout: str, tmp_path: Path, env: dict[str, str]) -> None:
    """What an operator may wonder about has a comment."""
    (path,) = exported("nginx", layout, tmp_path, env)
    text = path.read_text()
    for directive in ("client_max_body_size", "proxy_buffering", "worker_connections", "alias"):
        before, _, after = text.partition(directive)
        line = after.partition("\n")[0]
        assert "#" in line or "#" in "".join(before.splitlines(keepends=True)[-5:]), directive
    assert "MAX_CONTENT_LENGTH = 65536" in text
    assert "SIDEARM_HEARTBEAT" in text


def test_w3_check_finds_a_route_that_is_not_covered(tmp_path: Path, env: dict[str, str]) -> None:
    """A file of another application: each of its streams that is missing is named; status 1."""
    for kind in ("nginx", "caddy"):
        words = ("export", kind, "--layout", "talk")
        deployed = str(tmp_path / kind)
        sidearm("fronted:app", *words, "-o", deployed, env=env)
        assert "covers all 1" in sidearm("fronted:app", *words, "--check", deployed, env=env)
        status, _, errors = sidearm_ends("streams:app", *words, "--check", deployed)
        assert status == 1
        for rule in ("/snapshots/<channel>", "/counters/<channel>"):
            assert rule in errors
        assert "/streams/<channel>" not in errors


def test_w3_check_of_what_names_no_routes(tmp_path: Path, env: dict[str, str]) -> None:
    """An error says which kinds can be checked, and one names a file that is not there."""
    status, _, errors = sidearm_ends(
        "fronted:app", "export", "systemd", "--check", str(tmp_path / "x"), env=env
    )
    assert (status, "Check those for nginx or caddy" in errors) == (1, True)
    status, _, errors = sidearm_ends(
        "fronted:app", "export", "nginx", "--check", str(tmp_path / "x"), env=env
    )
    assert (status, f"{tmp_path}/x cannot be read" in errors) == (1, True)


def test_w3_a_prefix_needs_an_application_that_believes_it() -> None:
    """One that does not use ProxyFix would make links without it: an error that says the cure."""
    status, output, errors = sidearm_ends("streams:app", "export", "nginx", "--prefix", "/shop")
    assert (status, output) == (1, "")
    assert "ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_prefix=1)" in errors
    assert "Traceback" not in errors
    status, _, errors = sidearm_ends("streams:app", "export", "nginx", "--prefix", "/a b;")
    assert (status, "Give a path such as /shop" in errors) == (1, True)


@pytest.mark.parametrize(
    ("kind", "folder"),
    [("supervisor", "100%"), ("supervisor", "a ;b"), ("nginx", "a$b"), ("nginx", "a\nb")],
)
def test_w3_names_that_a_file_cannot_hold(
    kind: str, folder: str, tmp_path: Path, env: dict[str, str]
) -> None:
    """A value that its program would read as something else is an error that names it."""
    status, output, errors = sidearm_ends(
        "fronted:app", "export", kind, "--run-dir", str(tmp_path / folder), env=env
    )
    assert (status, output) == (1, "")
    assert "cannot be written into" in errors
    assert "Traceback" not in errors


def test_w3_what_files_cannot_mend_is_said() -> None:
    """Without ProxyFix and without a limit for bodies, in the file and on standard error."""
    status, output, errors = sidearm_ends("streams:app", "export", "nginx")
    assert status == 0
    for text in (output, errors):
        assert "does not use ProxyFix" in text
        assert "MAX_CONTENT_LENGTH is not set" in text
        assert "position" not in text  # it is annotated
        assert "moved" in text  # -> Any
    assert "client_max_body_size 0;" in output


def test_w2_topology_without_sidearm(tmp_path: Path) -> None:
    """An application without Sidearm has one, too: nothing streams, and the socket is nobody's."""
    (tmp_path / "bare.py").write_text(
        "from flask import Flask\napp = Flask(__name__)\n"
        "@app.get('/')\ndef index() -> str:\n    return 'x'\n"
    )
    shown = sidearm("bare:app", "topology", cwd=tmp_path, env={"PYTHONPATH": os.fspath(tmp_path)})
    assert shown.splitlines()[1].split()[:4] == ["/", "GET", "index", "blocks"]
    picture = sidearm("bare:app", "topology", "--svg", cwd=tmp_path)
    assert picture.startswith("<svg")
    status, _, errors = sidearm_ends("bare:app", "topology", "--svg", "--json", cwd=tmp_path)
    assert (status, "give one" in errors) == (2, True)

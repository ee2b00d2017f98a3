"""Real servers as context managers, for tests: nothing outlives the block, and no wait is endless.

Each server runs as a process of its own group, so that a signal meant for it cannot reach the
tests and what it starts can be ended with it. It writes its log to a file (a pipe that nobody
reads fills up and blocks it), in a private folder with a path short enough for a Unix socket.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..exceptions import ServerDied
from ..hub.client import ask_figures
from ..hub.config import HubConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from ..hub.messages import Figures

START_TIMEOUT = 90.0  # seconds; a busy machine is slow, and only a failure waits so long
WAIT_TIMEOUT = 20.0  # seconds
STOP_TIMEOUT = 30.0  # seconds
KILL_TIMEOUT = 30.0  # seconds; SIGKILL is sure, but a busy machine takes its time
PAUSE = 0.02  # seconds between two looks at something that cannot be waited for
HOST = "127.0.0.1"

_WORKER_READY = "sidearm.testing: a worker is ready"
# Written past gunicorn's logging, whose level a test may set.
_GUNICORN_CONFIG = f"""\
import os

def post_worker_init(worker):
    os.write(1, b"{_WORKER_READY}\\n")
"""


def free_port(host: str = HOST) -> int:
    """A TCP port of the loopback interface that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server process in a ``with`` block; the base of those that know their command.

    >>> with Server([sys.executable, "-m", "http.server", "{port}"]) as server:  # doctest: +SKIP
    ...     urlopen(server.url)

    Attributes:
        host: The address that it listens on.
        port: The port that it listens on.
        url: Its address, without a slash at the end.
        stop_timeout: Seconds from SIGTERM to SIGKILL.
    """

    stop_signal = signal.SIGTERM
    host = HOST

    def __init__(
        self,
        command: Sequence[str] = (),
        *,
        env: Mapping[str, str | None] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        start_timeout: float = START_TIMEOUT,
        stop_timeout: float = STOP_TIMEOUT,
    ) -> None:
        """Describe a server; it starts when the block is entered.

        Args:
            command: What to run; ``{port}`` and ``{folder}`` are filled in.
            env: Added to the environment, from which FLASK_*, SIDEARM_* and GUNICORN_* are
                taken away; ``{folder}`` is filled in, ``None`` takes a variable away.
            cwd: The working directory.
            start_timeout: Seconds until it must be ready.
            stop_timeout: Seconds that it has to stop before it is killed.
        """
        self._command = list(command)
        self._env = dict(env or {})
        self._cwd = cwd
        self._start_timeout = start_timeout
        self.stop_timeout = stop_timeout
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """What to run."""
        return [self._fill_in(part) for part in self._command]

    def identity(self) -> dict[str, Any]:
        """As whom it runs: ``user`` and ``group`` of :class:`subprocess.Popen`."""
        return {}

    def is_ready(self) -> bool:
        """Whether it can be used; asked again and again until it says so."""
        return _accepts((self.host, self.port))

    @property
    def folder(self) -> Path:
        """A private folder, removed at the end; a socket's path in it is short enough."""
        if self._folder is None:
            raise self._not_running()
        return self._folder

    @property
    def socket_path(self) -> str:
        """A socket for a hub of its own.

        SIDEARM_SOCKET says so in its environment, so that two servers of one application never
        share a hub by chance. To let it find another's, give
        ``env={"SIDEARM_SOCKET": hub.socket_path}``.
        """
        return str(self.folder / "hub.sock")

    def hub_figures(self) -> Figures:
        """What the hub on :attr:`socket_path` counts; its process id too, to kill it.

        Raises:
            HubError: It is away.
        """
        return ask_figures(self.socket_path, WAIT_TIMEOUT)

    @property
    def pid(self) -> int:
        """The process id of the server; of gunicorn's master, not of a worker."""
        return self._started().pid

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; ``None`` while it runs."""
        return self._started().poll()

    @property
    def log_path(self) -> Path:
        """The file to which it writes both its outputs."""
        return self.folder / "log"

    def log_text(self) -> str:
        """What it has written so far."""
        return self.log_path.read_text("utf-8", "replace")

    def start(self) -> None:
        """Start it, and wait until it is ready.

        Raises:
            ServerDied: It ended; the error shows its log.
            TimeoutError: It was not ready in time; so does this one.
        """
        self._folder = self._folder or private_folder()
        try:
            with self.log_path.open("wb") as log:
                identity: Any = self.identity()
                process: Any = subprocess.Popen(
                    self.command(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment(),
                    cwd=self._cwd,
                    start_new_session=True,
                    **identity,
                )
            self._process = process
            self.wait_ready(self._start_timeout)
        except BaseException:
            self._leave()
            raise

    def wait_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Wait until it can be used, and watch that it lives.

        Raises:
            ServerDied: It ended.
            TimeoutError: It was not ready in time.
        """
        self.wait_until(self.is_ready, timeout, "being ready")

    def wait_for_log(self, text: str, timeout: float = WAIT_TIMEOUT) -> str:
        """Wait until a text stands in the log; returns the log.

        Raises:
            ServerDied: It ended without writing it.
            TimeoutError: It did not write it in time.
        """
        self.wait_until(lambda: text in self.log_text(), timeout, f"{text!r} in its log")
        return self.log_text()

    def wait_until(
        self, condition: Callable[[], bool], timeout: float = WAIT_TIMEOUT, what: str = "it"
    ) -> None:
        """Wait until a condition holds, while the server lives.

        Raises:
            ServerDied: It ended before the condition held.
            TimeoutError: The condition did not hold in time.
        """
        process = self._started()
        deadline = time.monotonic() + timeout
        while not condition():
            try:
                # A pause that ends at once if the server does.
                status = process.wait(PAUSE)
            except subprocess.TimeoutExpired:
                status = None
            if status is not None and not condition():
                raise ServerDied(self._name(), status, self.log_text())
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"{self._name()}: waited {timeout:g} s for {what}. Its log:\n{self.log_text()}"
                )

    def wait_for_exit(self, timeout: float = WAIT_TIMEOUT) -> int:
        """Wait until it has ended by itself; returns its exit status.

        Raises:
            TimeoutError: It still runs.
        """
        try:
            return self._started().wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(
                f"{self._name()} still runs after {timeout:g} s. Its log:\n{self.log_text()}"
            ) from None

    def send_signal(self, number: int) -> None:
        """Send a signal to the server process alone."""
        self._started().send_signal(number)

    def terminate(self) -> int:
        """Stop it with SIGTERM, after ``stop_timeout`` with SIGKILL; returns its exit status."""
        process = self._started()
        if process.poll() is None:
            process.send_signal(self.stop_signal)
            try:
                process.wait(self.stop_timeout)
            except subprocess.TimeoutExpired:
                return self.kill()
        return process.returncode

    def kill(self) -> int:
        """Kill it (SIGKILL), alone, as the kernel does when memory runs out."""
        process = self._started()
        process.kill()
        return process.wait(KILL_TIMEOUT)

    def restart(self) -> None:
        """Stop it if it runs, and start it again with the same port and folder, and a new log."""
        self._end()
        self.start()

    def __enter__(self) -> Self:
        """Start it, and wait until it is ready."""
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop it and everything that it started; an error that leaves the block gets its log."""
        if isinstance(exc, Exception) and not isinstance(exc, (ServerDied, TimeoutError)):
            exc.add_note(f"The log of {self._name()} ends with:\n{self.log_text()[-4000:]}")
        self._leave()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    def _end(self) -> None:
        if self._process is not None:
            self.terminate()
            _kill_session(self._process.pid)
            self._process = None

    def _leave(self) -> None:
        try:
            self._end()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._folder = None

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise self._not_running()
        return self._process

    def _not_running(self) -> RuntimeError:
        return RuntimeError(f"{self._name()} is not running. Use it in a 'with' block.")

    def _name(self) -> str:
        return f"{type(self).__name__} on port {self.port}"

    def _environment(self) -> dict[str, str]:
        outside = ("FLASK_", "SIDEARM_", "GUNICORN_", "WERKZEUG_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(outside)}
        env["PYTHONUNBUFFERED"] = "1"
        env["SIDEARM_SOCKET"] = self.socket_path
        for name, value in self._env.items():
            env.pop(name, None)
            if value is not None:
                env[name] = self._fill_in(value)
        return env

    def _fill_in(self, text: str) -> str:
        return text.replace("{port}", str(self.port)).replace("{folder}", str(self.folder))


class PostgresServer(Server):
    """PostgreSQL with an empty database of its own; nobody but this machine reaches it.

    As root it runs as the user ``postgres``, or else ``nobody``: the server refuses root.

    Attributes:
        url: ``postgresql://...``, as psycopg and SQLAlchemy take it.
    """

    stop_signal = signal.SIGINT  # SIGTERM waits for its clients

    def __init__(
        self, *, listen: Sequence[str] = (), trusted: Sequence[str] = (), **options: Any
    ) -> None:
        """Describe the server.

        Args:
            listen: Further addresses to listen on.
            trusted: Networks that may connect, such as ``["198.18.0.0/15"]``, beside this machine.
            options: As for :class:`Server`.

        Raises:
            FileNotFoundError: There is no PostgreSQL here; the message says what to install.
        """
        super().__init__(**options)
        self._listen = [HOST, *listen]
        self._trusted = list(trusted)
        self.url = f"postgresql://postgres@{HOST}:{self.port}/postgres"
        self._programs = find_postgresql()

    def start(self) -> None:
        """Make the database on the first start, and start the server.

        Raises:
            ServerDied: It ended; the error shows its log.
            TimeoutError: It was not ready in time.
        """
        if self._folder is None:
            self._folder = private_folder()
            try:
                self._make_database()
            except BaseException:
                self._leave()
                raise
        super().start()

    def _make_database(self) -> None:
        identity = self.identity()
        if identity:
            os.chown(self.folder, identity["user"], identity["group"])
        command = [str(self._programs / "initdb"), "--no-sync", "--auth=trust"]
        made = subprocess.run(
            [*command, "--username=postgres", "--encoding=UTF8", str(self.folder / "data")],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=self._start_timeout,
            check=False,
            **identity,
        )
        if made.returncode != 0:
            raise ServerDied("initdb", made.returncode, made.stdout.decode("utf-8", "replace"))
        with (self.folder / "data" / "pg_hba.conf").open("a") as rules:
            rules.writelines(f"host all all {network} trust\n" for network in self._trusted)

    def command(self) -> list[str]:
        """The command line of the server."""
        listen = ",".join(dict.fromkeys(self._listen))
        settings = {"fsync": "off", "unix_socket_directories": "", "listen_addresses": listen}
        options = [part for pair in settings.items() for part in ("-c", "=".join(pair))]
        data = str(self.folder / "data")
        return [str(self._programs / "postgres"), "-D", data, "-p", str(self.port), *options]

    def identity(self) -> dict[str, Any]:
        """Somebody who is not root."""
        if os.geteuid() != 0:
            return {}
        import pwd

        names = {user.pw_name: user for user in pwd.getpwall()}
        user = names.get("postgres") or names["nobody"]
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}

    def is_ready(self) -> bool:
        """Whether it has said so."""
        return "ready to accept connections" in self.log_text()


def find_postgresql() -> Path:
    """The folder of PostgreSQL's programs.

    Raises:
        FileNotFoundError: There is none.
    """
    folders = [Path(found).parent] if (found := shutil.which("postgres")) else []
    for pattern in ("/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql*/bin"):
        folders += sorted(Path("/").glob(pattern[1:]), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists():
            return folder
    raise FileNotFoundError(
        "PostgreSQL is not installed: there is no initdb in PATH or /usr/lib/postgresql. Debian:"
        " apt install postgresql."
    )


class RedisServer(Server):
    """Redis, empty, for this machine only; it keeps nothing on the disk unless it is told to.

    Attributes:
        url: ``redis://...``, as :meth:`redis.Redis.from_url` takes it.
    """

    def __init__(self, *, args: Sequence[str] = (), **options: Any) -> None:
        """Describe the server.

        Args:
            args: Further arguments of ``redis-server``, such as ``["--appendonly", "yes"]``.
            options: As for :class:`Server`.

        Raises:
            FileNotFoundError: There is no Redis here; the message says what to install.
        """
        super().__init__(**options)
        self.url = f"redis://{HOST}:{self.port}/0"
        self.args = list(args)
        self._program = shutil.which("redis-server") or shutil.which("valkey-server")
        if self._program is None:
            raise FileNotFoundError(
                "Redis is not installed: there is no redis-server in PATH. Debian: apt install"
                " redis-server."
            )

    def command(self) -> list[str]:
        """The command line of the server."""
        settings = {"bind": HOST, "port": str(self.port), "dir": str(self.folder), "save": ""}
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        return [str(self._program), *options, *self.args]

    def is_ready(self) -> bool:
        """Whether it has said so."""
        return "Ready to accept connections" in self.log_text()


class GunicornServer(Server):
    """gunicorn, serving a WSGI application."""

    def __init__(
        self,
        app: str,
        *,
        workers: int = 1,
        worker_class: str = "sync",
        threads: int | None = None,
        args: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """Describe the server.

        Args:
            app: As on gunicorn's command line, such as ``"shop:create_app()"``.
            workers: How many processes.
            worker_class: ``"sync"``, ``"gthread"``, ...
            threads: Of each ``gthread`` worker.
            args: Further arguments; with a configuration of your own (``-c``) the server counts
                as ready when it listens, without one when all its workers have loaded ``app``.
            options: As for :class:`Server`.
        """
        super().__init__(**options)
        self.app = app
        self.workers = workers
        self.worker_class = worker_class
        self.threads = threads
        self.args = list(args)

    def command(self) -> list[str]:
        """The command line, with a configuration that logs when a worker is ready."""
        command = [sys.executable, "-m", "gunicorn", "--bind", f"{HOST}:{self.port}"]
        command += ["--workers", str(self.workers), "--worker-class", self.worker_class]
        command += ["--no-control-socket"] if _has_control_socket() else []
        if self.threads is not None:
            command += ["--threads", str(self.threads)]
        if not self._own_config:
            config = self.folder / "gunicorn_config.py"
            config.write_text(_GUNICORN_CONFIG)
            command += ["--config", str(config)]
        return [*command, *self.args, self.app]

    def is_ready(self) -> bool:
        """Whether every worker has loaded the application."""
        if self._own_config:
            return super().is_ready()
        return self.log_text().count(_WORKER_READY) >= self.workers

    @property
    def _own_config(self) -> bool:
        return any(arg == "-c" or arg.startswith("--config") for arg in self.args)


class FlaskRunServer(Server):
    """``flask run``, without reloader."""

    def __init__(self, app: str, *, args: Sequence[str] = (), **options: Any) -> None:
        """Describe the server.

        Args:
            app: As for ``flask --app``.
            args: Further arguments of ``flask run``, such as ``"--without-threads"``.
            options: As for :class:`Server`.
        """
        super().__init__(**options)
        self.app = app
        self.args = list(args)

    def command(self) -> list[str]:
        """The command line of ``flask run``."""
        flask = [sys.executable, "-m", "flask", "--app", self.app]
        return [*flask, "run", "--host", HOST, "--port", str(self.port), "--no-reload", *self.args]


class UpServer(Server):
    """``flask sidearm up``: web workers and the hub, each a process of its own."""

    def __init__(
        self,
        app: str,
        *,
        workers: int = 2,
        host: str = HOST,
        args: Sequence[str] = (),
        prefix: Sequence[str] = (),
        **options: Any,
    ) -> None:
        """Describe the server.

        Args:
            app: As for ``flask --app``.
            workers: How many web workers.
            host: The address that it listens on.
            args: Further arguments of ``up``; those for gunicorn after ``"--"``.
            prefix: What stands before its command, such as ``["ip", "netns", "exec", "one"]``.
            options: As for :class:`Server`.
        """
        super().__init__(**options)
        self.host = host
        self.url = f"http://{host}:{self.port}"
        self.prefix = list(prefix)
        self.app = app
        self.workers = workers
        self.args = list(args)

    def command(self) -> list[str]:
        """The command line of ``flask sidearm up``."""
        flask = [sys.executable, "-m", "flask", "--app", self.app]
        up = ["sidearm", "up", "--host", self.host, "--port", str(self.port)]
        return [*self.prefix, *flask, *up, "--workers", str(self.workers), *self.args]

    def is_ready(self) -> bool:
        """Whether it has said where it serves, which it does when all its processes are up."""
        return self.url in self.log_text() and super().is_ready()


class HubServer(Server):
    """The hub alone, as a process; it has no port, only a socket.

    >>> with HubServer() as hub:  # doctest: +SKIP
    ...     with GunicornServer("shop:app", env={"SIDEARM_SOCKET": hub.socket_path}) as server:
    ...         source = EventSource(f"{server.url}/streams/stock")
    """

    def __init__(
        self,
        make_config: Callable[[str], HubConfig] = lambda socket_path: HubConfig(socket=socket_path),
        **options: Any,
    ) -> None:
        """Describe the hub.

        Args:
            make_config: Makes its configuration, from the path of a socket in its folder.
            options: As for :class:`Server`.
        """
        super().__init__(**options)
        self._make_config = make_config

    @property
    def config(self) -> HubConfig:
        """What it is told."""
        return self._make_config(super().socket_path)

    @property
    def socket_path(self) -> str:
        """The path of its socket."""
        return self.config.socket

    def command(self) -> list[str]:
        """The command line of the hub."""
        return [sys.executable, "-m", "sidearm.hub", self.config.to_json()]

    def _environment(self) -> dict[str, str]:
        return {**super()._environment(), **self.config.environment()}

    def is_ready(self) -> bool:
        """Whether it accepts workers."""
        return _accepts(self.config.socket)


def private_folder() -> Path:
    """Make a folder that nobody else can read, short enough for a socket's path (104 bytes)."""
    # macOS's own folder for temporary files takes half of them.
    short = "/tmp" if Path("/tmp").is_dir() else None  # noqa: S108 - a private one is made in it
    return Path(tempfile.mkdtemp(prefix="sa-", dir=short))


def _accepts(address: tuple[str, int] | str) -> bool:
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as probe:
        probe.settimeout(1)
        try:
            probe.connect(address)
        except OSError:
            return False
        return True


def _has_control_socket() -> bool:
    """Whether this gunicorn (25 and later) opens a control socket, which tests have no use for."""
    from gunicorn.config import KNOWN_SETTINGS

    return any(setting.name == "control_socket_disable" for setting in KNOWN_SETTINGS)


def _kill_session(leader: int) -> None:
    """Kill what a session's leader has left behind, and wait until it is gone.

    A process group is not enough: a server may put its children into groups of their own, but they
    stay in its session unless they leave it on purpose.
    """
    deadline = time.monotonic() + KILL_TIMEOUT
    while rest := _session(leader):
        for pid in rest:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise TimeoutError(f"SIGKILL did not end the processes {rest}.")
        time.sleep(PAUSE)  # they are init's children now; nothing of ours can wait for them


def _session(leader: int) -> list[int]:
    """The processes of a session that still run; where there is no /proc, of its first group."""
    if not Path("/proc/self").is_dir():
        return [-leader] if _group_exists(leader) else []
    return [pid for pid, session in _running() if session == leader]


def _running() -> Iterator[tuple[int, int]]:
    """Process and session ids of all that run; zombies do not (proc(5), /proc/pid/stat)."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it ended meanwhile
            continue
        if state not in "ZX":
            yield int(stat.parent.name), int(session)


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True

"""Runs the talk's system with the shop, from exported files, until Ctrl-C: see ``make talk``.

supervisord runs a hub, a pool of blocking workers, a pool with gevent for streams, Redis, and nginx
in front of them. Events go from the one pool to the other through Redis, as on the slide; the hub
follows it for all streaming workers. What is written is in a folder of its own, which goes when it
ends.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHOP = ROOT / "examples" / "shop"
#: The program, and what to install for it on Debian, and on macOS.
NEEDED = {"nginx": ("nginx-light", "nginx"), "redis-server": ("redis-server", "redis")}
PATIENCE = 120.0  # seconds until all of it answers
PAUSE = 0.2  # seconds between two looks


def main() -> int:
    chosen = parse_arguments()
    # Where Debian has nginx, which only root has in PATH.
    os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])
    problems = [*missing_programs(), *taken_ports(chosen)]
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    raise_descriptor_limit()
    # Short enough for a socket's path. nginx's workers are another user's when root starts them.
    folder = Path(tempfile.mkdtemp(prefix="sidearm-talk-", dir="/tmp"))
    folder.chmod(0o711)
    try:
        export(chosen, folder)
        return serve(chosen, folder)
    except subprocess.CalledProcessError as error:
        return error.returncode  # it has said why
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make talk", description=__doc__.partition("\n")[0])
    parser.add_argument("--server", choices=["gunicorn", "uwsgi"], default="gunicorn")
    for name, port in (("listen", 8080), ("port", 8000), ("streams-port", 8001)):
        parser.add_argument(f"--{name}", type=int, default=port)
    parser.add_argument("--redis-port", type=int, default=6379)
    parser.add_argument("--workers", type=int, default=4)
    return parser.parse_args()


def missing_programs() -> list[str]:
    """What is not installed, and could not be."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if not missing:
        return []
    on_debian, on_macos = (" ".join(NEEDED[name][each] for name in missing) for each in (0, 1))
    what, install = " and ".join(missing), f"Debian: apt install {on_debian}"
    install += f"; macOS: brew install {on_macos}"
    return [f"The talk's system needs {what}. Install it ({install}), and run make talk again."]


def taken_ports(chosen: argparse.Namespace) -> list[str]:
    """Ports that something else has: supervisord would try again and again."""
    taken = []
    names = {"LISTEN": "listen", "PORT": "port", "STREAMS_PORT": "streams_port"}
    for variable, name in {**names, "REDIS_PORT": "redis_port"}.items():
        port = getattr(chosen, name)
        with socket.socket() as probe:
            # As servers do it: what is left of old connections is in nobody's way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("" if name == "listen" else "127.0.0.1", port))
            except (OSError, OverflowError) as error:
                reason = getattr(error, "strerror", None) or error
                taken.append(
                    f"Port {port} cannot be had ({reason}). Name another: make talk {variable}=PORT"
                )
    return taken


def raise_descriptor_limit() -> None:
    """Each open stream is a descriptor; supervisord wants as many as the file says."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS has limits of its own
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def export(chosen: argparse.Namespace, folder: Path) -> None:
    """Fill the shop's shelves, and write the files from its URL map."""
    flask = [sys.executable, "-m", "flask", "--app", "shop"]
    subprocess.run([*flask, "seed"], cwd=SHOP, check=True)
    words = [
        *("--layout", "talk", "--listen", str(chosen.listen), "--port", str(chosen.port)),
        *("--streams-port", str(chosen.streams_port), "--redis-port", str(chosen.redis_port)),
        *("--workers", str(chosen.workers), "--blocking-server", chosen.server),
        # The checkout may be where nginx's user cannot read; the shop serves its own files well.
        *("--no-static", "--run-dir", str(folder), "--output", str(folder)),
    ]
    for kind in ("nginx", "supervisor"):
        subprocess.run(
            [*flask, "sidearm", "export", kind, *words],
            cwd=SHOP,
            check=True,
            stderr=subprocess.DEVNULL if kind == "supervisor" else None,  # the same notes
        )


def serve(chosen: argparse.Namespace, folder: Path) -> int:
    """Run supervisord until it is told to stop; say when all of it answers."""
    supervisord = Path(sys.executable).with_name("supervisord")
    configuration = str(folder / "supervisord.conf")
    with (folder / "said").open("wb") as said:
        # In a group of its own: Ctrl-C is for this process, which then stops it in order.
        process = subprocess.Popen(
            [str(supervisord), "-n", "-c", configuration],
            stdout=said,
            stderr=said,
            env={**os.environ, "SIDEARM_BROKER": f"redis://127.0.0.1:{chosen.redis_port}/0"},
            process_group=0,
        )
        asked = False

        def stop(*_: object) -> None:
            nonlocal asked
            if not asked:
                asked = True
                print("\nStopping ...", flush=True)
                process.terminate()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        is_up = wait_until_up(chosen, process)
        if is_up and not asked:
            print(
                f"The talk's system is on http://localhost:{chosen.listen} (Ctrl-C stops it)\n"
                f"  blocking   {chosen.workers} workers ({chosen.server}), port {chosen.port}\n"
                f"  streaming  {chosen.workers} workers (gunicorn, gevent), port"
                f" {chosen.streams_port}\n"
                f"  events     Redis, port {chosen.redis_port}\n"
                f"  files and logs in {folder}",
                flush=True,
            )
        elif not asked:
            show_logs(folder)
            stop()
        status = process.wait()
    return status if is_up or asked else 1


def wait_until_up(chosen: argparse.Namespace, process: subprocess.Popen[bytes]) -> bool:
    """Whether both pools answer through their front before the time is over."""
    deadline = time.monotonic() + PATIENCE
    # /streams/ is no page, but it is the other pool that says so.
    paths = {chosen.listen: ("/", "/streams/"), chosen.streams_port: ("/",)}
    while process.poll() is None and time.monotonic() < deadline:
        if all(answers(port, path) for port, each in paths.items() for path in each):
            return True
        time.sleep(PAUSE)
    return False


def answers(port: int, path: str) -> bool:
    """Whether an application answers, and not its front for it."""
    try:
        with urllib.request.urlopen(f"http://localhost:{port}{path}", timeout=10):
            return True
    except urllib.error.HTTPError as error:
        with error:
            return error.code < 500
    except OSError:
        return False


def show_logs(folder: Path) -> None:
    """Say why something did not start."""
    print("Not all of it answers. The ends of the logs:", file=sys.stderr)
    for path in [folder / "said", *sorted(folder.glob("*.log"))]:
        if path.exists() and (text := path.read_text("utf-8", "replace").strip()):
            print(f"---- {path.name}\n{text[-2000:]}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

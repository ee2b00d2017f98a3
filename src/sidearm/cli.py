"""``flask sidearm ...``: parses, calls a room, prints."""

from __future__ import annotations

import contextlib
import select
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING

import click
from flask.cli import ScriptInfo, pass_script_info

from .exceptions import SidearmError, StartError
from .extension import AppState, Sidearm
from .settings import Settings

if TYPE_CHECKING:
    from flask import Flask

    from .hub.config import HubConfig

socket_option = click.option(
    "--socket",
    "socket_path",
    metavar="PATH",
    help="The hub's Unix socket, instead of SIDEARM_SOCKET's.",
)


@click.group()
def sidearm() -> None:
    """Run and look after what stands beside the application."""


@sidearm.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="The port to listen on; 0 takes a free one.",
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Web workers, each a process.  [default: 2]"
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads of each web worker.  [default: 1]"
)
@socket_option
@click.argument("gunicorn_arguments", metavar="[-- GUNICORN'S OPTIONS]", nargs=-1)
@pass_script_info
def up(
    info: ScriptInfo,
    *,
    host: str,
    port: int,
    workers: int | None,
    threads: int | None,
    socket_path: str | None,
    gunicorn_arguments: tuple[str, ...],
) -> None:
    """Run web workers and hub on one port, until Ctrl-C.

    What dies is started again. Everything after "--" goes to gunicorn.
    """
    with _errors_as_lines():
        app = info.load_app()
        from .workers.site import Site

        Site(
            app_import_path=info.app_import_path,
            app_name=app.name,
            hub=hub_config(app, socket_path),
            host=host,
            port=port,
            gunicorn=(
                *(("--workers", str(workers)) if workers else ()),
                *(("--threads", str(threads)) if threads else ()),
                *gunicorn_arguments,
            ),
        ).run(_say)


@sidearm.command()
@socket_option
@pass_script_info
def hub(info: ScriptInfo, *, socket_path: str | None) -> None:
    """Run the hub alone, until Ctrl-C, beside web workers that something else runs."""
    with _errors_as_lines():
        config = hub_config(info.load_app(), socket_path)
        from .hub.server import Server

        Server(config).run(
            lambda: click.echo(f"The hub listens on {config.socket} (Ctrl-C stops it)")
        )


@sidearm.command()
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    help="How many past rounds to show, the newest.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on with new rounds, until Ctrl-C.")
@click.option(
    "--failed",
    is_flag=True,
    help="Only rounds that rolled back, or dropped something, or met an error.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on each line.")
@socket_option
@pass_script_info
def tasks(
    info: ScriptInfo,
    *,
    count: int,
    follow: bool,
    failed: bool,
    as_json: bool,
    socket_path: str | None,
) -> None:
    """Show what the tasks of the running workers did: why each committed or rolled back.

    Also what each resource did and how long that took, what left after the commit, and what was
    dropped and why. The records come from the workers through the hub.
    """
    with _errors_as_lines():
        from .tasks.printing import Printer
        from .tasks.reading import TaskReader

        reader = TaskReader(
            socket_path or _socket_of(info.load_app()),
            count=count,
            failed=failed,
            notice=lambda text: click.echo(text, err=True),
            is_over=_nobody_reads,
        )
        printer = Printer.for_output()
        try:
            for line in reader.follow() if follow else reader.recent():
                for text in (line.text,) if as_json else printer.lines(line.record):
                    click.echo(text, color=True)  # what has colours is decided by the printer
        except KeyboardInterrupt:
            if not follow:
                raise


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has gone, which only writing would tell."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))
    except (AttributeError, OSError, ValueError):  # no poll here, or no descriptor
        return False


def _socket_of(app: Flask) -> str:
    """The socket of the hub from which an application's records can be had.

    Raises:
        SettingError: A setting is wrong.
        StartError: The settings keep the records in their processes.
    """
    state = _state_of(app)
    if state.settings.hub == "memory":
        raise StartError(
            "SIDEARM_HUB is 'memory', so the processes of this application speak to no hub. Set it"
            " to 'auto' or 'socket'."
        )
    for key, value in (
        ("SIDEARM_REPORT_RECORDS", state.settings.report_records),
        ("SIDEARM_RECORD_COUNT", state.settings.record_count),
    ):
        if not value:
            raise StartError(
                f"{key} is {value!r}, so the processes of this application report no records."
            )
    return state.socket_path


@sidearm.command()
@pass_script_info
def keys(info: ScriptInfo) -> None:
    """Show the keys that sign, and how long a former one has to stay.

    Keys are shown by fingerprints, which tell nothing of them.
    """
    with _errors_as_lines():
        app = info.load_app()
        from .signing.report import key_report

        if "sidearm" not in app.extensions:
            raise click.ClickException(
                f"The application {app.name!r} has no Sidearm. Call arm.init_app(app)."
            )
        for line in key_report(app):
            click.echo(line)


def hub_config(app: Flask, socket_path: str | None) -> HubConfig:
    """What an application's settings tell its hub.

    Args:
        app: The application; without Sidearm its ``SIDEARM_*`` keys are read all the same.
        socket_path: The socket, instead of the one that the settings name.

    Raises:
        SettingError: A setting is wrong.
        StartError: The settings want no hub process.
    """
    state = _state_of(app)
    if state.settings.hub == "memory":
        raise StartError(
            "SIDEARM_HUB is 'memory', so no process of this application would speak to the hub."
            " Set it to 'auto' or 'socket', or use 'flask run'."
        )
    return state.hub_config(socket_path)


def _state_of(app: Flask) -> AppState:
    state: AppState | None = app.extensions.get("sidearm")
    return state or AppState(Sidearm(), app, Settings.from_config(app.config))


def _say(line: str) -> None:
    """Print a line, unless nobody can read it any more: what is left to do is done all the same."""
    with contextlib.suppress(OSError):
        click.echo(line)


@contextlib.contextmanager
def _errors_as_lines() -> Generator[None]:
    """Print an error of ours as one line, and end with status 1."""
    try:
        yield
    except SidearmError as error:
        raise click.ClickException(str(error)) from error

"""``flask sidearm ...``: parses, calls a room, prints."""

from __future__ import annotations

import contextlib
import json
import select
import sys
from collections.abc import Callable, Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click
from flask.cli import NoAppException, ScriptInfo, pass_script_info

from . import logs
from .exceptions import DoctorError, ExportError, HubError, SidearmError, StartError
from .extension import AppState, Sidearm
from .settings import MOST_HUBS, Settings

if TYPE_CHECKING:
    from flask import Flask

    from .doctor.application import Known
    from .hub.config import HubConfig
    from .workers.export.deployment import Deployment
    from .workers.topology import Layout, Topology

socket_option = click.option(
    "--socket",
    "socket_path",
    metavar="PATH",
    help="The hub's Unix socket, instead of SIDEARM_SOCKET's.",
)


hubs_option = click.option(
    "--hubs",
    type=click.IntRange(1, MOST_HUBS),
    metavar="COUNT",
    help="Hubs that share the streams, instead of SIDEARM_HUBS's.  [default: 1]",
)


@click.group()
def sidearm() -> None:
    """Run and look after what stands beside the application."""


log_format_option = click.option(
    "--log-format",
    type=click.Choice(logs.FORMATS),
    envvar="SIDEARM_LOG_FORMAT",
    help="Of every process's lines, instead of SIDEARM_LOG_FORMAT's.  [default: text]",
)


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
@hubs_option
@click.option(
    "--drain",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Go on serving for so long before a stop, while /-/ready says no.  [default: 0]",
)
@log_format_option
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
    hubs: int | None,
    drain: float,
    log_format: str | None,
    socket_path: str | None,
    gunicorn_arguments: tuple[str, ...],
) -> None:
    """Run web workers and hub on one port, until Ctrl-C.

    What dies is started again. Everything after "--" goes to gunicorn. Sockets that systemd has
    opened are used in place of --host and --port.
    """
    if log_format is not None:
        logs.begin("up", log_format)
    with _errors_as_lines():
        app = info.load_app()
        from .workers.hubs import Row
        from .workers.site import Site

        if log_format is None:
            log_format = _state_of(app).settings.log_format
            logs.begin("up", log_format)

        Site(
            app_import_path=info.app_import_path,
            app_name=app.name,
            hubs=Row(config=hub_config(app, socket_path, hubs), log_format=log_format),
            host=host,
            port=port,
            gunicorn=(
                *(("--workers", str(workers)) if workers else ()),
                *(("--threads", str(threads)) if threads else ()),
                *gunicorn_arguments,
            ),
            drain=drain,
            log_format=log_format,
        ).run(logs.speaker("up", log_format))


layout_option = click.option(
    "--layout",
    type=click.Choice(["sidearm", "talk"]),
    default="sidearm",
    show_default=True,
    help='"sidearm": one port, and the hub. "talk": a blocking pool, and one with gevent.',
)
port_options = (
    click.option(
        "--port",
        type=click.IntRange(1, 65535),
        default=8000,
        show_default=True,
        help="Of the web workers.",
    ),
    click.option(
        "--streams-port",
        type=click.IntRange(1, 65535),
        default=8001,
        show_default=True,
        help="Of the pool for streams, in the talk's layout.",
    ),
)


def _with_ports(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(port_options):
        command = option(command)
    return command


@sidearm.command()
@layout_option
@_with_ports
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--svg", is_flag=True, help="A picture, for documentation.")
@socket_option
@pass_script_info
def topology(
    info: ScriptInfo,
    *,
    layout: Layout,
    port: int,
    streams_port: int,
    as_json: bool,
    svg: bool,
    socket_path: str | None,
) -> None:
    """Show which endpoints block and which stream, and which workers serve them.

    A view streams if its annotation says so ("-> EventStream"), or if a worker has seen it. What
    neither tells is unknown until it first streams.
    """
    if as_json and svg:
        raise click.UsageError("--json and --svg are two forms of the same; give one.")
    with _errors_as_lines():
        from .workers import picture

        found = _topology_of(info.load_app(), layout, port, streams_port, socket_path)
        if as_json:
            click.echo(json.dumps(found.to_dict(), indent=2))
        elif svg:
            click.echo(picture.svg(found), nl=False)
        else:
            for line in picture.table(found):
                click.echo(line)


def _topology_of(
    app: Flask, layout: Layout, port: int, streams_port: int, socket_path: str | None
) -> Topology:
    from .events.sightings import read_sightings
    from .workers.topology import pools_of, read_topology

    return read_topology(
        app,
        layout=layout,
        pools=pools_of(layout, port=port, streams_port=streams_port),
        seen=read_sightings(socket_path or _state_of(app).socket_path),
    )


@sidearm.command()
@click.argument(
    "kind", type=click.Choice(["nginx", "caddy", "supervisor", "systemd", "procfile", "compose"])
)
@layout_option
@click.option("-o", "--output", metavar="PATH", help="A file, or a folder; else it is printed.")
@click.option("--force", is_flag=True, help="Replace files that exist.")
@click.option(
    "--check",
    "deployed",
    metavar="FILE",
    help="Write nothing: see whether a deployed file (nginx, caddy) still covers what streams.",
)
@click.option(
    "--prefix", metavar="PATH", help="Where browsers find it, such as /shop.  [APPLICATION_ROOT]"
)
@click.option("--server-name", metavar="HOST", help="The front's.  [SIDEARM_ORIGIN, SERVER_NAME]")
@click.option(
    "--listen", type=click.IntRange(1, 65535), help="The front's port.  [80; with TLS 443]"
)
@_with_ports
@click.option(
    "--workers", type=click.IntRange(min=1), default=4, show_default=True, help="In each pool."
)
@click.option("--user", help="Who runs the processes.  [whoever starts them]")
@click.option(
    "--run-dir",
    metavar="FOLDER",
    help="For the hub's socket, logs and process ids.  [each program's own]",
)
@click.option("--static/--no-static", default=True, help="Whether the front serves static files.")
@click.option(
    "--brotli/--no-brotli",
    default=None,
    help="Whether nginx has the module for Brotli copies.  [if it is on this machine]",
)
@click.option("--certificate", metavar="FILE", help="For TLS at the front.")
@click.option("--certificate-key", metavar="FILE", help="Its private key.")
@click.option(
    "--blocking-server",
    type=click.Choice(["gunicorn", "uwsgi"]),
    default="gunicorn",
    show_default=True,
    help="What runs the blocking pool, in the talk's layout.",
)
@click.option(
    "--redis-port",
    type=click.IntRange(1, 65535),
    default=6379,
    show_default=True,
    help="Of Redis, in the talk's layout.",
)
@socket_option
@pass_script_info
def export(
    info: ScriptInfo,
    /,
    *,
    kind: str,
    layout: Layout,
    output: str | None,
    force: bool,
    deployed: str | None,
    port: int,
    streams_port: int,
    socket_path: str | None,
    **options: Any,
) -> None:
    """Write the configuration of a front, or of what starts the processes.

    It agrees with the application: what streams, how long a body may be, which forwarded headers it
    believes, where static files are.
    """
    with _errors_as_lines():
        app = info.load_app()
        from .workers.export.checking import check_file
        from .workers.export.rendering import export as render
        from .workers.export.writing import write_files

        found = _topology_of(app, layout, port, streams_port, socket_path)
        deployment = _deployment_of(app, info, found, socket_path, options)
        if deployed is not None:
            problems = check_file(kind, deployed, deployment)
            if problems:
                raise ExportError("\n".join([f"{deployed} does not cover:", *problems]))
            click.echo(f"{deployed} covers all {len(found.streaming())} streaming routes.")
            return
        files = render(kind, deployment)
        for remark in deployment.remarks():
            click.echo(f"Note: {remark}", err=True)
        if output is not None:
            for path in write_files(files, output, force=force):
                click.echo(f"Wrote {path}", err=True)
            return
        for name, text in files.items():
            if len(files) > 1:
                click.echo(f"# ---- {name}")
            click.echo(text, nl=False)


def _deployment_of(
    app: Flask,
    info: ScriptInfo,
    found: Topology,
    socket_path: str | None,
    options: Mapping[str, Any],
) -> Deployment:
    from .workers.export.deployment import (
        Choices,
        describe,
        host_of,
        prefix_of,
        server_name_of,
    )
    from .workers.export.programs import gunicorn_target
    from .workers.export.static_files import brotli_module

    state = _state_of(app)
    certificate, key = options["certificate"], options["certificate_key"]
    if (certificate is None) != (key is None):
        raise click.UsageError("--certificate and --certificate-key go together.")
    prefix = options["prefix"]
    if prefix is None:
        prefix = app.config["APPLICATION_ROOT"] or ""
    choices = Choices(
        flask_app=info.app_import_path,
        wsgi_app=gunicorn_target(app, info.app_import_path),
        prefix=prefix_of(prefix),
        server_name=server_name_of(options["server_name"] or host_of(app, state.settings)),
        listen=options["listen"] or (443 if certificate else 80),
        workers=options["workers"],
        directory=str(Path.cwd()),
        run_dir=_absolute(options["run_dir"]),
        user=options["user"],
        static=options["static"],
        brotli=brotli_module(options["brotli"]),
        certificate=_absolute(certificate),
        certificate_key=_absolute(key),
        blocking_server=options["blocking_server"],
        redis_port=options["redis_port"],
    )
    return describe(
        app,
        found,
        choices,
        state.settings,
        socket_path or state.socket_path,
        assets=state.assets,
    )


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


@sidearm.command()
@click.argument("url")
@click.option(
    "--stream",
    "streams",
    metavar="PATH",
    multiple=True,
    help="A stream to watch; may be repeated.  [those of the application, if it is at hand]",
)
@click.option(
    "--static", "files", metavar="PATH", multiple=True, help="A static file; may be repeated."
)
@click.option(
    "--pool",
    "pools",
    metavar="URL",
    multiple=True,
    help="A pool that nobody should reach past the front; may be repeated.",
)
@click.option("--header", "headers", metavar="'NAME: VALUE'", multiple=True, help="Sent along.")
@click.option("--cookie", "cookies", metavar="NAME=VALUE", multiple=True, help="Sent along.")
@click.option(
    "--patience",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="How long an answer may let wait for it.",
)
@click.option(
    "--wait",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    help="How long a stream may be silent.  [75; with the application, twice its heartbeat]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@pass_script_info
def doctor(
    info: ScriptInfo,
    /,
    *,
    url: str,
    streams: tuple[str, ...],
    files: tuple[str, ...],
    pools: tuple[str, ...],
    headers: tuple[str, ...],
    cookies: tuple[str, ...],
    patience: float,
    wait: float | None,
    as_json: bool,
) -> None:
    """Find out what is wrong with a deployment, from outside.

    URL is where browsers find the application. With the application at hand (--app) its streams,
    static files and heartbeat are known; without, name a stream by --stream. Ends with status 1 if
    there is a fault.
    """
    with _errors_as_lines():
        _require_httpx()
        from .doctor import printing
        from .doctor.application import Known
        from .doctor.target import Target, checked_url, headers_from
        from .doctor.visit import DEFAULT_PORTS, examine

        known = _known_of(info) or Known()
        place = Target(
            url=checked_url(url),
            headers=headers_from(headers, cookies),
            patience=patience,
            silence=known.silence if wait is None else wait,
            max_age=known.max_age,
        )
        target = replace(
            place,
            streams=tuple(place.below(path) for path in streams or known.streams),
            files=tuple(place.below(path) for path in files or known.files),
            pools=tuple(checked_url(pool) for pool in pools),
        )
        report = examine(
            target,
            ports=known.ports or DEFAULT_PORTS,
            slashed=[place.below(path) for path in known.slashed],
            progress=lambda what: click.echo(f"Looking at {what} ...", err=True),
        )
        click.echo(printing.as_json(report) if as_json else printing.as_text(report))
    if report.faults:
        raise SystemExit(1)


def _require_httpx() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("httpx", "h2") if find_spec(name) is None]
    if missing:
        raise DoctorError(
            f"'flask sidearm doctor' needs {' and '.join(missing)}. Install them:"
            " pip install 'sidearm[doctor]'."
        )


def _known_of(info: ScriptInfo) -> Known | None:
    """What the application says of itself; ``None``: there is none here, or one without Sidearm."""
    try:
        app = info.load_app()
    except NoAppException:
        if info.app_import_path is not None:
            raise
        return None
    if "sidearm" not in app.extensions:
        return None
    from .doctor.application import known_of

    found = _topology_of(app, "talk", 8000, 8001, None)
    return known_of(app, found, _state_of(app).settings)


@sidearm.group(invoke_without_command=True)
@click.option(
    "--replace",
    is_flag=True,
    help="Take over from the hub that runs, with every open stream; none reconnects.",
)
@hubs_option
@log_format_option
@socket_option
@pass_script_info
@click.pass_context
def hub(
    context: click.Context,
    info: ScriptInfo,
    *,
    replace: bool,
    hubs: int | None,
    log_format: str | None,
    socket_path: str | None,
) -> None:
    """Run the hub alone, until Ctrl-C, beside web workers that something else runs.

    With --replace under "flask sidearm up": let that one start the new hub, and wait until it has
    taken over.
    """
    if context.invoked_subcommand is not None:
        if replace:
            raise click.UsageError("--replace runs a hub; it goes with no other command.")
        return
    with _errors_as_lines():
        app = info.load_app()
        config = hub_config(app, socket_path, hubs)
        log_format = log_format or _state_of(app).settings.log_format
        if replace and _were_replaced_by_their_owner(config):
            return
        from .hub.server import Server
        from .workers.hubs import Row

        logs.begin("hub", log_format, level="WARNING")
        say = logs.speaker("hub", log_format)
        if config.hubs > 1:
            Row(config=config, log_format=log_format).run(say)
            return
        server = Server(config, replace=replace)

        def tell_up() -> None:
            old = server.predecessor
            taken = "" if old is None else f", in place of process {old}"
            say(f"The hub listens on {config.socket}{taken} (Ctrl-C stops it)")

        server.run(tell_up)
        if server.was_replaced:
            say("Another hub has taken over.")


def _were_replaced_by_their_owner(config: HubConfig) -> bool:
    """Let whoever looks after the hubs replace them; False: nobody does, or no hub runs."""
    from .hub.operator import ask_for_replacement, sockets_beside
    from .hub.reader import NoHub

    try:
        first, *others = sockets_beside(config.socket)
        pid = ask_for_replacement(first)
    except NoHub:
        return False
    if pid is None:
        return False
    _say_replaced(first, pid)
    for path in others:
        pid = ask_for_replacement(path)
        if pid is None:
            raise HubError(f"The hub on {path!r} was not replaced: nobody looks after it.", path)
        _say_replaced(path, pid)
    return True


def _say_replaced(socket_path: str, pid: int) -> None:
    click.echo(f"The hub on {socket_path} is now process {pid}; no stream was cut.")


@hub.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--prometheus", is_flag=True, help="Prometheus's text format, version 0.0.4.")
@socket_option
@pass_script_info
@click.pass_context
def stats(
    context: click.Context,
    info: ScriptInfo,
    *,
    as_json: bool,
    prometheus: bool,
    socket_path: str | None,
) -> None:
    """Show the hub's figures: what there is now, and what there was so far."""
    with _errors_as_lines():
        from .hub import figures as texts
        from .hub.operator import read_all_figures

        figures, problems = read_all_figures(_hub_socket(context, info, socket_path))
        for problem in problems:
            click.echo(problem, err=True)
        if as_json:
            click.echo(texts.as_json(figures))
        elif prometheus:
            click.echo(texts.exposition(figures), nl=False)
        else:
            click.echo(texts.table(figures))


@hub.command()
@click.option(
    "-n",
    "--count",
    type=click.IntRange(1, 10_000),
    default=50,
    show_default=True,
    help="How many to show, those with the most subscribers.",
)
@socket_option
@pass_script_info
@click.pass_context
def channels(
    context: click.Context, info: ScriptInfo, *, count: int, socket_path: str | None
) -> None:
    """Show the channels that somebody listens to, and how many streams each has."""
    with _errors_as_lines():
        from .hub.operator import list_all_channels
        from .terminal import make_harmless

        listed, problems = list_all_channels(_hub_socket(context, info, socket_path), count)
        for name, subscribers in listed.channels:
            click.echo(f"{subscribers:>9,}  {make_harmless(name)}")
        rest = listed.total - len(listed.channels)
        if rest > 0:
            click.echo(f"and {rest:,} more (--count shows more)", err=True)
        elif not listed.total:
            click.echo("Nobody listens to any channel.", err=True)
        for problem in problems:
            click.echo(problem, err=True)


@hub.command()
@click.argument("names", metavar="CHANNEL...", nargs=-1, required=True)
@socket_option
@pass_script_info
@click.pass_context
def watch(
    context: click.Context, info: ScriptInfo, *, names: tuple[str, ...], socket_path: str | None
) -> None:
    """Show the events of channels as they come, until Ctrl-C.

    Goes on when the hub is replaced or restarted.
    """
    with _errors_as_lines(), contextlib.suppress(KeyboardInterrupt):
        from .hub.watching import Watcher, format_event
        from .tasks.printing import wants_colour

        watcher = Watcher(
            _hub_socket(context, info, socket_path),
            names,
            notice=lambda text: click.echo(text, err=True),
            is_over=_nobody_reads,
        )
        colour = wants_colour()
        for seen in watcher.events():
            click.echo(format_event(seen, colour=colour), color=True)


def _hub_socket(context: click.Context, info: ScriptInfo, socket_path: str | None) -> str:
    """The socket that a command was given, or the one before its name, or the application's."""
    parent = context.parent.params.get("socket_path") if context.parent is not None else None
    return socket_path or parent or hub_config(info.load_app(), None).socket


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


@sidearm.command()
@click.option("--id", "id_", help="The delivery's id, to send one again.  [default: a new one]")
@click.argument("source")
@click.argument("url")
@click.argument("body", type=click.File("rb"), default="-")
@pass_script_info
def deliver(info: ScriptInfo, *, source: str, url: str, body: BinaryIO, id_: str | None) -> None:
    """Send a webhook as its sender would, to try a view: signed, with the settings' first secret.

    SOURCE is a name in SIDEARM_WEBHOOKS, URL is the view's, BODY a file, or standard input. The
    exit status is 1 if nobody answers.
    """
    with _errors_as_lines():
        app = info.load_app()
        from .bodies.sending import deliver as send

        click.echo(send(app, source, url, body.read(), id_))


@sidearm.group()
def assets() -> None:
    """Static files under names that carry a hash of their content."""


@assets.command()
@click.option("--dry-run", is_flag=True, help="Look at everything, and write nothing.")
@click.option(
    "--keep-going",
    is_flag=True,
    help="Build also if a file refers to one that is not there.",
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing unless something is wrong.")
@pass_script_info
def build(info: ScriptInfo, *, dry_run: bool, keep_going: bool, quiet: bool) -> None:
    """Write every static file under its hashed name, with compressed copies, and the manifest.

    What an earlier build has written is not written again. The files of earlier builds, as many as
    SIDEARM_ASSETS_KEEP says, stay.
    """
    with _errors_as_lines():
        state = _state_of(info.load_app())
        if state.assets is None:
            raise StartError(
                f"SIDEARM_ASSETS is {state.settings.assets!r}, so nothing would serve what is"
                " built. Set it to True or to a folder."
                if state.settings.assets is None
                else "The application has no Sidearm. Call arm.init_app(app)."
            )
        from .assets import packages

        packages.require(state.settings.assets, packages.BUILDING)
        from .assets.build import Builder

        bar = click.progressbar(length=0, label="Static files", file=sys.stderr, hidden=quiet)
        builder = Builder.of(state.assets)
        with bar:

            def show(done: int, total: int) -> None:
                bar.length = total
                bar.update(done - bar.pos)

            report = builder.build(dry_run=dry_run, keep_going=keep_going, progress=show)
        for warning in report.warnings:
            click.echo(f"Warning: {warning}", err=True)
        if not quiet:
            click.echo(report.sentence(dry_run=dry_run))


def hub_config(app: Flask, socket_path: str | None, hubs: int | None = None) -> HubConfig:
    """What an application's settings tell its hub; the first, if there are several.

    Args:
        app: The application; without Sidearm its ``SIDEARM_*`` keys are read all the same.
        socket_path: The socket, instead of the one that the settings name.
        hubs: How many there are, instead of what the settings say.

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
    return state.hub_config(socket_path, hubs)


def _state_of(app: Flask) -> AppState:
    state: AppState | None = app.extensions.get("sidearm")
    return state or AppState(Sidearm(), app, Settings.from_config(app.config))


@contextlib.contextmanager
def _errors_as_lines() -> Generator[None]:
    """Print an error of ours as one line, and end with status 1."""
    try:
        yield
    except SidearmError as error:
        raise click.ClickException(str(error)) from error

"""What the documentation takes from the code, so that it cannot say anything else.

Directives: ``settings-table`` (every ``SIDEARM_*`` key), ``cli-help`` (a command's own help),
``task-states`` (the picture of a round, drawn from the table that rounds obey) and ``topology``
(what ``flask sidearm topology --svg`` draws of a small application).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

import click
from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from flask import Flask

from sidearm import EventStream, event_stream
from sidearm.cli import sidearm
from sidearm.settings import PREFIX, Settings
from sidearm.tasks.task import STATES
from sidearm.workers.picture import svg
from sidearm.workers.topology import pools_of, read_topology

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sphinx.application import Sphinx

BOX_WIDTH, BOX_HEIGHT = 128, 40  # pixels
GAP_X, GAP_Y = 48, 28  # pixels
TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8"'
    ' orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
)


def describe_default(value: Any, unit: str) -> str:
    """A default as a reader wants it: ``1 MiB`` and not 1048576."""
    if isinstance(value, range):
        return f"{value.start} to {value.stop - 1}"
    if unit == "bytes" and value % (1 << 20) == 0:
        return f"{value >> 20} MiB"
    if isinstance(value, float):
        return f"{value:g} {unit}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,} {unit}"
    return f"`{value!r}`"


def settings_table() -> list[str]:
    """The lines of a Markdown table of all settings."""
    rows = ["| Key | Default | Meaning |", "| --- | --- | --- |"]
    for setting in fields(Settings):
        default = describe_default(setting.default, setting.metadata["unit"])
        key = PREFIX + setting.name.upper()
        rows.append(f"| `{key}` | {default} | {setting.metadata['meaning']} |")
    return rows


def cli_help(path: Sequence[str]) -> str:
    """What ``flask sidearm ... --help`` prints."""
    command: click.Command = sidearm
    context = click.Context(command, info_name="flask sidearm", terminal_width=88)
    for name in path:
        command = cast("click.Group", command).commands[name]
        context = click.Context(command, info_name=name, parent=context, terminal_width=88)
    return command.get_help(context)


def states_picture(states: Mapping[str, Sequence[str]]) -> str:
    """An SVG of a table of states, each state to the right of all that lead to it.

    Colours are the page's own, so it is readable in light and in dark.
    """
    places = dict(_places(states))
    width = max(x for x, _ in places.values()) + BOX_WIDTH + 1
    height = max(y for _, y in places.values()) + BOX_HEIGHT + 1
    size = f'viewBox="-1 -1 {width + 1:g} {height + 1:g}" width="{width:g}"'
    parts = [
        f'<svg class="states" role="img" {size} xmlns="http://www.w3.org/2000/svg">',
        f"<title>{'; '.join(_sentences(states))}.</title>",
        TIP,
    ]
    for state, following in states.items():
        parts += [_arrow(places[state], places[after]) for after in following]
    parts += [_box(state, *place) for state, place in places.items()]
    return "\n".join([*parts, "</svg>"])


def _places(states: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, tuple[float, float]]]:
    """Where each state's box begins: columns by the longest way that leads there."""
    columns: dict[str, int] = dict.fromkeys(states, 0)
    for _ in states:
        for state, following in states.items():
            for after in following:
                columns[after] = max(columns[after], columns[state] + 1)
    rows = max(Counter(columns.values()).values())
    for column in range(max(columns.values()) + 1):
        here = [state for state in states if columns[state] == column]
        top = (rows - len(here)) / 2
        for row, state in enumerate(here):
            yield state, (column * (BOX_WIDTH + GAP_X), (top + row) * (BOX_HEIGHT + GAP_Y))


def _sentences(states: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for state, following in states.items():
        if following:
            yield f"{state} is followed by {' or '.join(following)}"


def _box(state: str, x: float, y: float) -> str:
    middle = f'x="{x + BOX_WIDTH / 2:g}" y="{y + BOX_HEIGHT / 2 + 5:g}"'
    box = f'x="{x:g}" y="{y:g}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8"'
    return f"<rect {box}/><text {middle}>{state}</text>"


def _arrow(here: tuple[float, float], there: tuple[float, float]) -> str:
    x, y = here[0] + BOX_WIDTH, here[1] + BOX_HEIGHT / 2
    to_x, to_y = there[0] - 2, there[1] + BOX_HEIGHT / 2
    bend = (x + to_x) / 2
    return f'<path d="M{x:g} {y:g} C{bend:g} {y:g} {bend:g} {to_y:g} {to_x:g} {to_y:g}"/>'


class SettingsTable(Directive):
    """``{settings-table}``."""

    def run(self) -> list[nodes.Node]:
        container = nodes.container()
        self.state.nested_parse(StringList(settings_table(), "settings.py"), 0, container)
        return container.children


class CliHelp(Directive):
    """``{cli-help} up``."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        text = cli_help(self.arguments[0].split() if self.arguments else ())
        return [nodes.literal_block(text, text, language="text")]


class TaskStates(Directive):
    """``{task-states}``."""

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", f"<figure>{states_picture(STATES)}</figure>", format="html")]


class TopologyPicture(Directive):
    """``{topology}``."""

    def run(self) -> list[nodes.Node]:
        site = Flask("site")
        site.add_url_rule("/", "index", _page)
        site.add_url_rule("/streams/<channel>", "stream", _stream)
        drawn = svg(read_topology(site, pools=pools_of("sidearm"), layout="sidearm"))
        return [nodes.raw("", f"<figure>{drawn}</figure>", format="html")]


def _page():  # noqa: ANN202 (so that it says nothing)
    return "a page"


def _stream(channel: str) -> EventStream:
    return event_stream(channel)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directives."""
    app.add_directive("settings-table", SettingsTable)
    app.add_directive("cli-help", CliHelp)
    app.add_directive("task-states", TaskStates)
    app.add_directive("topology", TopologyPicture)
    return {"parallel_read_safe": True}

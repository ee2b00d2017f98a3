"""A topology as a table for terminals, and as a picture (SVG) for documentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

from ..terminal import make_harmless
from .topology import Kind, Pool, Route, Topology

HEADINGS = ("RULE", "METHODS", "ENDPOINT", "KIND", "KNOWN BY", "POOL")

ROW = 20  # pixels from one line of text to the next
COLUMN = 7.3  # pixels of a character, at most
LEFT, GAP, PADDING = 120, 90, 14  # pixels
STYLE = 'font-family="sans-serif" font-size="13" fill="currentColor"'
TIP = (
    '<defs><marker id="topology-tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8"'
    ' markerHeight="8" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
)


def table(topology: Topology) -> Iterator[str]:
    """The lines of a table, and what they cannot tell.

    Args:
        topology: What to show.
    """
    rows = [HEADINGS, *(_row(route) for route in topology.routes)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()
    yield ""
    for pool in topology.pools.values():
        yield f"{pool.name}: {pool.meaning}, port {pool.port}"
    unknown = topology.unknown()
    if unknown:
        count = "1 route is" if len(unknown) == 1 else f"{len(unknown)} routes are"
        yield (
            f"{count} unknown: no annotation tells, and no worker has seen a stream. Annotate the"
            ' view ("-> EventStream", "-> str"), or let it stream once.'
        )


def _row(route: Route) -> tuple[str, ...]:
    cells = (
        route.rule,
        ",".join(route.methods),
        route.endpoint,
        route.kind.value,
        route.known_by,
        route.pool,
    )
    return tuple(map(make_harmless, cells))


def svg(topology: Topology) -> str:
    """A picture: browsers, the front's paths, the pools, and in our own layout the hub.

    Colours are the page's own (``currentColor``), so it is readable in light and in dark.

    Args:
        topology: What to draw.
    """
    boxes = [(pool, _lines_of(topology, pool)) for pool in topology.pools.values()]
    width = max(_width(lines) for _, lines in boxes)
    parts: list[str] = []
    top = 1.0
    middles: list[float] = []
    for pool, lines in boxes:
        height = len(lines) * ROW + 2 * PADDING
        parts += _box(LEFT + GAP, top, width, lines)
        middles.append(top + height / 2)
        if topology.layout == "sidearm" and any(route.streams for route in topology.routes):
            parts += _hub(LEFT + GAP + width, middles[-1])
        elif topology.layout == "talk":
            paths = "streams" if pool.name == "streaming" else "/"
            parts.append(_label(LEFT + GAP / 2, middles[-1] - 8, paths))
        top += height + ROW
    total = top - ROW + 1
    centre = total / 2
    hub = LEFT + GAP if topology.layout == "sidearm" else 0
    size = f'viewBox="0 0 {LEFT + GAP + width + hub + 1:g} {total:g}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" role="img" class="topology" {size} {STYLE}>',
            f"<title>{escape(_sentence(topology))}</title>",
            TIP,
            *_box(1, centre - PADDING - ROW / 2, LEFT - 1, ["browsers"]),
            *(_arrow(LEFT, centre, LEFT + GAP, middle) for middle in middles),
            *parts,
            "</svg>\n",
        ]
    )


def _lines_of(topology: Topology, pool: Pool) -> list[str]:
    marks = {Kind.STREAMS: "~", Kind.BLOCKS: "·", Kind.UNKNOWN: "?"}
    return [
        f"{pool.name}: {pool.meaning} (port {pool.port})",
        *(
            f"{marks[route.kind]} {','.join(route.methods)} {make_harmless(route.rule)}"
            for route in topology.routes
            if route.pool == pool.name
        ),
    ]


def _sentence(topology: Topology) -> str:
    pieces = [f"{pool.name} serves {_listed(topology, pool)}" for pool in topology.pools.values()]
    return f"{topology.app_name}: {'; '.join(pieces)}."


def _listed(topology: Topology, pool: Pool) -> str:
    return ", ".join(
        f"{make_harmless(route.rule)} ({route.kind.value})"
        for route in topology.routes
        if route.pool == pool.name
    )


def _width(lines: Sequence[str]) -> float:
    return max(map(len, lines)) * COLUMN + 2 * PADDING


def _box(x: float, y: float, width: float, lines: Sequence[str]) -> Iterator[str]:
    height = len(lines) * ROW + 2 * PADDING
    yield (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" fill="none"'
        ' stroke="currentColor"/>'
    )
    for number, line in enumerate(lines):
        baseline = y + PADDING + number * ROW + ROW * 0.7
        weight = ' font-weight="bold"' if number == 0 else ""
        yield f'<text x="{x + PADDING:g}" y="{baseline:g}"{weight}>{escape(line)}</text>'


def _hub(x: float, y: float) -> Iterator[str]:
    yield _arrow(x, y, x + GAP, y)
    yield _label(x + GAP / 2, y - 8, "sockets")
    yield from _box(x + GAP, y - PADDING - ROW / 2, LEFT - 1, ["hub: streams"])


def _label(x: float, y: float, text: str) -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="middle">{escape(text)}</text>'


def _arrow(x: float, y: float, to_x: float, to_y: float) -> str:
    bend = (x + to_x) / 2
    return (
        f'<path d="M{x:g} {y:g} C{bend:g} {y:g} {bend:g} {to_y:g} {to_x - 2:g} {to_y:g}"'
        ' fill="none" stroke="currentColor" marker-end="url(#topology-tip)"/>'
    )

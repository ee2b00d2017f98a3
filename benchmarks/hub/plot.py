"""The plot: a bar for each system in each of a few panels, as an SVG that is written by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

from ..measure import KIB
from .phases import Figures
from .report import AGAIN, SIDEARM, middle

WIDTH, LABELS, MARGIN = 960, 236, 24
BAR, STEP, TITLE, GAP = 14, 22, 40, 18
PANEL_WIDTH = (WIDTH - 3 * MARGIN) / 2

Panel = tuple[str, Callable[[Figures], float], str]

PANELS: tuple[Panel, ...] = (
    ("Memory of an idle connection, KiB", lambda f: middle(f.memory) / KIB, ".1f"),
    ("CPU of a delivery, 10 events a second, µs", lambda f: middle(f.paced), ".1f"),
    ("CPU of a delivery, bursts of 100, µs", lambda f: middle(f.burst), ".2f"),
    ("99th percentile of the latency, 10 a second, ms", lambda f: middle(f.p99), ".0f"),
)
STYLE = """
    .panel { fill: #fbfaf8; } text { fill: #1c1917; } .value { fill: #57534e; }
    .bar { fill: #a8a29e; } .ours { fill: #0f766e; } .bold { font-weight: 600; }
    @media (prefers-color-scheme: dark) {
      .panel { fill: #1c1917; } text { fill: #f5f5f4; } .value { fill: #c7c2bd; }
      .bar { fill: #78716c; } .ours { fill: #2dd4bf; }
    }
"""


def draw(figures: dict[str, Figures]) -> str:
    """The picture of a run; bars are on a logarithmic scale, and shorter is better."""
    shown = {name: each for name, each in figures.items() if name != AGAIN and each.paced}
    panel_height = TITLE + STEP * len(shown) + GAP
    height = 2 * panel_height + 3 * MARGIN
    title = "Sidearm's hub beside what the field uses"
    description = "; ".join(
        f"{name}: {', '.join(format(read(each), form) for _, read, form in PANELS)}"
        for name, each in shown.items()
    )
    heads = ", ".join(head for head, _, _ in PANELS)
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
            f' width="{WIDTH}" height="{height}" role="img" font-size="13"'
            ' aria-labelledby="title desc"'
            " font-family=\"system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif\">"
        ),
        f'  <title id="title">{title}</title>',
        f'  <desc id="desc">{escape(heads)}. {escape(description)}</desc>',
        f"  <style>{STYLE}  </style>",
        f'  <rect class="panel" width="{WIDTH}" height="{height}" rx="14"/>',
    ]
    for place, panel in enumerate(PANELS):
        x = MARGIN + place % 2 * (PANEL_WIDTH + MARGIN)
        y = MARGIN + place // 2 * (panel_height + MARGIN)
        lines += draw_panel(panel, shown, x, y)
    return "\n".join([*lines, "</svg>", ""])


def draw_panel(panel: Panel, shown: dict[str, Figures], x: float, y: float) -> list[str]:
    """One quantity."""
    head, read, form = panel
    values = {name: max(0.0, read(each)) for name, each in shown.items()}
    sizes = lengths(values, PANEL_WIDTH - LABELS - 60)
    lines = [f'  <text class="bold" x="{x:.0f}" y="{y + 18:.0f}" font-size="15">{head}</text>']
    for row, (name, value) in enumerate(values.items()):
        top = y + TITLE + row * STEP
        kind = "ours" if name == SIDEARM else "bar"
        weight = ' class="bold"' if name == SIDEARM else ""
        start, base = x + LABELS, top + BAR - 3
        lines += [
            (
                f'  <text{weight} x="{start - 8:.0f}" y="{base:.0f}" text-anchor="end">'
                f"{escape(name)}</text>"
            ),
            (
                f'  <rect class="{kind}" x="{start:.0f}" y="{top:.0f}" width="{sizes[name]:.1f}"'
                f' height="{BAR}" rx="3"/>'
            ),
            (
                f'  <text class="value" x="{start + sizes[name] + 6:.1f}" y="{base:.0f}">'
                f"{format(value, form)}</text>"
            ),
        ]
    return lines


def lengths(values: dict[str, float], width: float) -> dict[str, float]:
    """How long each bar is: the logarithm, from a tenth of a unit or half the smallest value on."""
    most = max(values.values())
    least = min((value for value in values.values() if value >= 0.01), default=0.01) / 2
    span = math.log(most / least) if most > least else 1.0
    return {
        name: max(2.0, width * math.log(value / least) / span) if value > least else 2.0
        for name, value in values.items()
    }

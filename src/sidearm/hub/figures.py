"""The hub's figures as text: for people, and for Prometheus.

Prometheus reads a text format (0.0.4) of three kinds of lines, and all values here are numbers,
with one label where there are several hubs. That is written by hand: a client library would add
megabytes to a process that holds ten thousand streams in a few.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import msgspec

from .messages import Figures

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        field: Of :class:`~sidearm.hub.messages.Figures`.
        name: For Prometheus, with its unit; that of a counter ends with ``_total``.
        meaning: One sentence, for people.
    """

    field: str
    name: str
    meaning: str

    @property
    def is_counter(self) -> bool:
        """Whether it only ever grows."""
        return self.name.endswith("_total")


FIGURES = (
    Figure("uptime", "sidearm_hub_uptime_seconds", "Seconds since the log began."),
    Figure("subscribers", "sidearm_hub_streams", "Open streams."),
    Figure("channels", "sidearm_hub_channels", "Channels with at least one stream."),
    Figure("connections", "sidearm_hub_worker_connections", "Connections of workers."),
    Figure("descriptors", "sidearm_hub_descriptors", "Descriptors in use."),
    Figure("descriptor_limit", "sidearm_hub_descriptor_limit", "Descriptors that may be used."),
    Figure("history_events", "sidearm_hub_history_events", "Events kept for resuming."),
    Figure("history_bytes", "sidearm_hub_history_bytes", "Bytes kept for resuming."),
    Figure("pending_bytes", "sidearm_hub_pending_bytes", "Bytes that wait for slow clients."),
    Figure(
        "buffer_bytes",
        "sidearm_hub_buffer_bytes",
        "Memory for what waits: what several wait for counts once.",
    ),
    Figure("opened", "sidearm_hub_streams_opened_total", "Streams taken over from workers."),
    Figure("published", "sidearm_hub_events_published_total", "Events accepted."),
    Figure("delivered", "sidearm_hub_events_delivered_total", "Events sent, each stream counted."),
    Figure("sends", "sidearm_hub_sends_total", "System calls that sent them."),
    Figure(
        "disconnected_slow",
        "sidearm_hub_streams_disconnected_slow_total",
        "Streams ended because their client read too slowly.",
    ),
    Figure(
        "ended",
        "sidearm_hub_streams_ended_total",
        "Streams ended because their channels had their last event.",
    ),
    Figure("closed", "sidearm_hub_streams_closed_total", "Streams ended by their tag."),
    Figure("aged", "sidearm_hub_streams_aged_total", "Streams ended at their maximum age."),
    Figure(
        "refused_streams",
        "sidearm_hub_streams_refused_total",
        "Streams that got what was due and were ended, because of a limit.",
    ),
    Figure(
        "refused_descriptors",
        "sidearm_hub_descriptors_refused_total",
        "Descriptors that were no client's connection.",
    ),
    Figure(
        "lost_descriptors",
        "sidearm_hub_descriptors_lost_total",
        "Descriptors that the kernel could not deliver.",
    ),
    Figure("refused_events", "sidearm_hub_events_refused_total", "Events above the size limit."),
    Figure(
        "refused_connections",
        "sidearm_hub_connections_refused_total",
        "Connections of workers refused, or closed for breaking the protocol.",
    ),
    Figure("gaps", "sidearm_hub_gaps_total", "Gap events sent."),
    Figure("takeovers", "sidearm_hub_takeovers_total", "Hubs that took over from another."),
    Figure(
        "failed_takeovers",
        "sidearm_hub_takeovers_failed_total",
        "Replacements of a hub that failed.",
    ),
)


def exposition(hubs: Sequence[Figures]) -> str:
    """The figures in Prometheus's text format, version 0.0.4; of several hubs with labels.

    Args:
        hubs: The figures of each hub.
    """
    lines: list[str] = []
    several = hubs[0].hubs > 1
    for figure in FIGURES:
        lines += (
            f"# HELP {figure.name} {figure.meaning}",
            f"# TYPE {figure.name} {'counter' if figure.is_counter else 'gauge'}",
        )
        for figures in hubs:
            label = f'{{hub="{figures.number}"}}' if several else ""
            lines.append(f"{figure.name}{label} {getattr(figures, figure.field)!r}")
    return "\n".join(lines) + "\n"


def as_json(hubs: Sequence[Figures]) -> str:
    """The figures as one JSON object, by the names of their fields; of several hubs, a list."""
    told = [msgspec.structs.asdict(figures) for figures in hubs]
    return msgspec.json.encode({"hubs": told} if hubs[0].hubs > 1 else told[0]).decode()


def table(hubs: Sequence[Figures]) -> str:
    """The figures for people: what there is, then what there was so far; a column for each hub."""
    pids = [str(figures.pid) for figures in hubs]
    epoch = hubs[0].epoch
    lines = [f"The hub is process {pids[0]}; its log is {epoch}."]
    if hubs[0].hubs > 1:
        lines = [f"The hubs are processes {', '.join(pids)}; their log is {epoch}."]
        lines += ["", "".join(f"{f'hub {figures.number}':>16}" for figures in hubs)]
    for wanted, heading in ((False, "Now"), (True, "So far")):
        lines += ["", heading]
        for figure in FIGURES:
            if figure.is_counter is wanted:
                values = [getattr(figures, figure.field) for figures in hubs]
                cells = "".join(f"{value:>16,.0f}" for value in values)
                lines.append(f"{cells}  {figure.field:<20}  {figure.meaning}")
    return "\n".join(lines)

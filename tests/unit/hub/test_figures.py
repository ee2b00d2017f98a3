"""The hub's figures as text."""

from __future__ import annotations

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from sidearm.hub.figures import FIGURES, as_json, exposition, table
from sidearm.hub.messages import Figures
from sidearm.hub.metrics import Metrics

FIGURES_NOW = Figures("0123456789", 42, 1.5, subscribers=12_345, opened=20_000, gaps=3)


def test_h10_every_figure_is_told() -> None:
    """A number that the hub counts, and does not show, helps nobody."""
    told = {figure.field for figure in FIGURES}
    assert told == set(Figures.__struct_fields__) - {"epoch", "pid", "hubs", "number"}
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)


def test_h10_text_format_of_prometheus() -> None:
    """For each: HELP, TYPE and a value without labels; the last line ends (text format 0.0.4)."""
    text = exposition([FIGURES_NOW])
    assert text.endswith("\n")
    lines = text.splitlines()
    assert len(lines) == 3 * len(FIGURES)
    for figure, about, kind, value in zip(
        FIGURES, lines[0::3], lines[1::3], lines[2::3], strict=True
    ):
        assert about == f"# HELP {figure.name} {figure.meaning}"
        assert kind == f"# TYPE {figure.name} {'counter' if figure.is_counter else 'gauge'}"
        name, number = value.split(" ")
        assert name == figure.name
        assert float(number) == getattr(FIGURES_NOW, figure.field)
    assert "sidearm_hub_streams 12345\n" in text
    assert "sidearm_hub_streams_opened_total 20000\n" in text


def test_h10_prometheus_reads_every_figure() -> None:
    """Its own client's parser finds each name with its kind, its meaning and its value."""
    found = {
        family.name: family for family in text_string_to_metric_families(exposition([FIGURES_NOW]))
    }
    assert len(found) == len(FIGURES)
    for figure in FIGURES:
        # The parser gives a counter's family without the end of its name.
        family = found[figure.name.removesuffix("_total")]
        assert family.type == ("counter" if figure.is_counter else "gauge")
        assert family.documentation == figure.meaning
        (sample,) = family.samples
        assert (sample.name, sample.labels) == (figure.name, {})
        assert sample.value == getattr(FIGURES_NOW, figure.field)


def test_h10_prometheus_reads_large_numbers_and_small_ones() -> None:
    """As exactly as it can: its values are floating-point numbers."""
    figures = Figures("0", 1, 1e-7, delivered=2**53 - 1, history_bytes=10**15)
    found = {
        family.name: family for family in text_string_to_metric_families(exposition([figures]))
    }
    assert found["sidearm_hub_uptime_seconds"].samples[0].value == 1e-7
    assert found["sidearm_hub_events_delivered"].samples[0].value == 2**53 - 1
    assert found["sidearm_hub_history_bytes"].samples[0].value == 10**15


def test_h10_figures_for_people_and_programs() -> None:
    """A table with the meanings, or one JSON object."""
    text = table([FIGURES_NOW])
    assert "process 42" in text
    assert "12,345  subscribers" in text
    assert msgspec.json.decode(as_json([FIGURES_NOW])) == msgspec.structs.asdict(FIGURES_NOW)


def test_h10_figures_of_several_hubs() -> None:
    """A column, an object and a label for each; what they are is said once."""
    hubs = [
        msgspec.structs.replace(FIGURES_NOW, hubs=3, number=number, pid=40 + number, gaps=number)
        for number in (0, 2)  # one of them does not answer
    ]
    text = table(hubs)
    assert "processes 40, 42" in text
    assert "hub 0           hub 2" in text
    assert f"{0:>16}{2:>16}  gaps" in text
    assert msgspec.json.decode(as_json(hubs))["hubs"] == [
        msgspec.structs.asdict(each) for each in hubs
    ]
    families = {each.name: each for each in text_string_to_metric_families(exposition(hubs))}
    assert [(each.labels, each.value) for each in families["sidearm_hub_gaps"].samples] == [
        ({"hub": "0"}, 0.0),
        ({"hub": "2"}, 2.0),
    ]


def test_h10_other_requests_are_refused() -> None:
    """The port knows GET and HEAD of /metrics, and nothing else."""
    respond = Metrics(lambda: FIGURES_NOW).respond
    got = respond(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
    head, _, body = got.partition(b"\r\n\r\n")
    assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert body.decode() == exposition([FIGURES_NOW])
    assert respond(b"HEAD /metrics?a=b HTTP/1.0\r\n\r\n") == head + b"\r\n\r\n"
    assert respond(b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 404 ")
    assert respond(b"POST /metrics HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 405 ")
    assert respond(b"\x16\x03\x01\r\n\r\n").startswith(b"HTTP/1.1 400 ")

"""Each round as a span of OpenTelemetry, where the application has a tracer provider.

OpenTelemetry is never imported here before the application has done so. Where no provider is set,
all that happens is a look for one, at most once a second.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

from .records import Entry, Record, Records

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

#: The name of the instrumenting library, as tracer providers know it.
LIBRARY = "sidearm"

logger = logging.getLogger("sidearm.tasks")


def look_for_provider(records: Records) -> None:
    """Let each record become a span from now on, if a tracer provider has been set.

    Args:
        records: Whose records.
    """
    if records.export is not None or "opentelemetry.trace" not in sys.modules:
        return
    from opentelemetry import trace

    provider = trace.get_tracer_provider()
    if not isinstance(provider, (trace.ProxyTracerProvider, trace.NoOpTracerProvider)):
        records.export = SpanExport(provider.get_tracer(LIBRARY)).export


class SpanExport:
    """Makes spans of records.

    Args:
        tracer: Of the application's provider.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def export(self, entry: Entry) -> None:
        """Make a span of a round that has just settled; its parent is the span that is current.

        It never raises: whatever happens here must not make an error of what is decided.
        """
        try:
            self._export(entry)
        except Exception:
            logger.exception("The span of a round could not be made.")

    def _export(self, entry: Entry) -> None:
        record = Record(*entry)
        name = f"task {record.task}" if record.round == "work" else f"{record.round} {record.task}"
        span = self._tracer.start_span(name, start_time=_nanoseconds(record.started))
        if span.is_recording():
            span.set_attributes(attributes(record))
            if has_error(record):
                from opentelemetry.trace import Status, StatusCode

                span.set_status(Status(StatusCode.ERROR, record.decided_by))
        span.end(_nanoseconds(record.started + record.seconds))


def attributes(record: Record) -> dict[str, Any]:
    """The attributes of a record's span; those of HTTP have the names of its conventions.

    Args:
        record: The record. Lists are lists of texts, since attributes hold no more.
    """
    known = {
        "sidearm.task": record.task,
        "sidearm.kind": record.kind,
        "sidearm.round": record.round,
        "sidearm.committed": record.committed,
        "sidearm.decided_by": record.decided_by,
        "sidearm.resources": [f"{name}: {outcome}" for name, outcome, _ in record.resources],
        "sidearm.resource_seconds": [seconds for _, _, seconds in record.resources],
        "sidearm.left": record.left,
        "sidearm.dropped": [f"{call}: {reason}" for call, reason in record.dropped],
        "sidearm.errors": record.errors,
        "sidearm.endpoint": record.endpoint,
        "http.route": record.url_rule,
        "http.request.method": record.method,
        "http.response.status_code": record.status,
    }
    return {key: value for key, value in known.items() if value not in (None, (), [])}


def has_error(record: Record) -> bool:
    """Whether a span says that something went wrong.

    A request that was refused (a status from 400 to 499) did not, as in OpenTelemetry's conventions
    for servers.

    Args:
        record: The record.
    """
    # An exception such as that of abort(404) decides before its response is there.
    by_status = record.decided_by.startswith("status 4")
    refused = by_status or (record.status is not None and 400 <= record.status < 500)
    return bool(record.errors) or not (record.committed or refused)


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)

"""How a stream begins: what a client is sent before the first live event.

A newcomer gets a bare id (so that it can resume even if the connection ends before an event comes),
the snapshot, and what was published since the view looked. A client that resumes gets what it
missed and nothing else. Where the log cannot tell what was missed, the event ``sidearm:gap`` says
so first, and the client then starts like a newcomer.
"""

from __future__ import annotations

from typing import NamedTuple

from . import eventstream, position
from .log import NANOSECONDS, Log
from .messages import Opening

GAP_EVENT = "sidearm:gap"


class Start(NamedTuple):
    """The first bytes of a stream.

    Attributes:
        parts: Whole frames, in order; the history's own objects, so that many streams share them.
        gap: Why events may be missing (``"unknown"``, ``"old"`` or ``"epoch"``), or None.
    """

    parts: list[bytes]
    gap: str | None


def gap(reason: str, place: str) -> bytes:
    """The frame that tells a client that it may have missed events before a position."""
    data = {"reason": reason, "position": place}
    return eventstream.encode(data, event=GAP_EVENT, id=place)


def begin(log: Log, request: Opening) -> Start:
    """Collect what a stream that opens now has to be sent before the live events."""
    parts = [] if request.retry is None else [eventstream.retry_field(request.retry)]
    reason = None
    if request.last_event_id is not None:
        missed = _missed(log, request, request.last_event_id)
        if not isinstance(missed, str):
            return Start(parts + missed, None)
        reason = missed
    return _join(log, request, parts, reason)


def all_due(log: Log, request: Opening) -> Start:
    """Like :func:`begin`, for a body that ends here: its last id is the place to go on from.

    Without that id, a client that polls a quiet channel would ask from an ever older place.
    """
    parts, gap = begin(log, request)
    return Start([*parts, eventstream.frame(b"", log.clock.text(log.mark()))], gap)


def _missed(log: Log, request: Opening, last_event_id: str) -> list[bytes] | str:
    """The frames after an id, or why they cannot be told."""
    place = position.parse(last_event_id)
    if place is None:
        return "unknown"
    if place.epoch != log.clock.epoch:
        return "epoch"
    if place.time > log.mark():
        return "unknown"
    if log.too_old(place.time) or (
        request.replay is not None and place.time < _seconds_ago(log, request.replay)
    ):
        return "old"
    frames = log.since(request.channels, place.time)
    return "old" if frames is None else frames


def _join(log: Log, request: Opening, parts: list[bytes], reason: str | None) -> Start:
    """Start from the position that the view saw."""
    seen = None if request.position is None else position.parse(request.position)
    time = log.mark()
    if seen is not None and seen.epoch == log.clock.epoch:
        time = min(seen.time, time)
    elif seen is not None:
        # The view looked before this log began: all that it holds follows, and more may be missing.
        time = log.first
        reason = reason or "epoch"
    frames = log.since(request.channels, time)
    if frames is None:
        frames = log.newest(request.channels, time)
        reason = reason or "old"
    if reason is None and request.replay is not None:
        frames = log.newest(request.channels, min(time, _seconds_ago(log, request.replay)))
    place = log.clock.text(time)
    if reason is None:
        parts.append(eventstream.frame(b"", place))
    else:
        parts.append(gap(reason, place))
    if request.snapshot is not None:
        parts.append(request.snapshot)
    return Start(parts + frames, reason)


def _seconds_ago(log: Log, seconds: float) -> int:
    return log.clock.now() - int(seconds * NANOSECONDS)

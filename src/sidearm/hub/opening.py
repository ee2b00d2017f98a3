"""How a stream begins: what a client is sent before the first live event.

A newcomer gets the snapshot, a bare id (so that it can resume even if the connection ends before an
event comes), and what was published since the view looked. A client that resumes gets what it
missed and nothing else. Where the log cannot tell what was missed, the event ``sidearm:gap`` says
so first, and the client then starts like a newcomer.

No id comes before what only a newcomer gets: whoever has one gets no snapshot any more. So a client
that is cut off has its place after the whole snapshot, or comes back as it came.

Where every channel has had its last event, or the stream was closed by its tag while it was on its
way, the beginning is all there is: it ends with a marked id, by which its client is known when it
comes back. A newcomer gets the last events of channels that have ended already.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from . import eventstream, position
from .closing import Closings
from .log import NANOSECONDS, Log
from .messages import Fetch, Handoff, Opening

GAP_EVENT = "sidearm:gap"


class Start(NamedTuple):
    """The first bytes of a stream.

    Attributes:
        parts: Whole frames, in order; the history's own objects, so that many streams share them.
        gap: Why events may be missing (``"unknown"``, ``"old"`` or ``"epoch"``), or None.
        channels: Those that the stream goes on with. Empty: it was closed.
        seen: When the view ran; 0 for one that knew another log.
        ended: Whether the stream ends here, for good.
    """

    parts: list[bytes]
    gap: str | None
    channels: tuple[str, ...]
    seen: int
    ended: bool = False


def gap(reason: str, place: str, *, tells_id: bool = True) -> bytes:
    """The frame that tells a client that it may have missed events before a position.

    Args:
        reason: Why.
        place: The position.
        tells_id: Whether the client goes on from there if nothing more comes.
    """
    data = {"reason": reason, "position": place}
    return eventstream.encode(data, event=GAP_EVENT, id=place if tells_id else None)


def end(log: Log, channels: tuple[str, ...]) -> bytes:
    """The frame after which a stream of these channels ends for good."""
    return eventstream.bare_id(log.clock.end(log.mark(), channels))


def begin(log: Log, closings: Closings, request: Handoff | Fetch) -> Start:
    """Collect what a stream that opens now has to be sent before the live events."""
    seen = _seen(log, request)
    left = request.channels
    if seen and _has_its_beginning(request) and log.is_quiet_since(left, seen):
        return Start([], None, left, seen)  # most streams; the rest would come to the same
    if request.tags:
        resumed = min(seen, _resumed(log, request))
        # One that is polled lives from answer to answer, so for it the last one's place counts.
        since = resumed if isinstance(request, Fetch) and not request.held else seen
        left = closings.left_of(left, request.tags, seen)
        closed = closings.closed_at(request.tags, since)
        if closed is not None or not left:
            words = log.newest(left, resumed, until=closed)
            parts = [*_retry(request), *words, end(log, request.channels)]
            return Start(parts, None, (), seen, ended=True)
        if len(left) < len(request.channels):
            request = msgspec.structs.replace(request, channels=left)
    parts, gap = _first(log, request, seen)
    if log.has_ended(left):
        return Start([*parts, end(log, left)], gap, left, seen, ended=True)
    return Start(parts, gap, left, seen)


def all_due(log: Log, closings: Closings, request: Handoff | Fetch) -> Start:
    """Like :func:`begin`, for a body that ends here: its last id is the place to go on from.

    Without that id, a client that polls a quiet channel would ask from an ever older place.
    """
    start = begin(log, closings, request)
    if start.ended:
        return start
    place = eventstream.bare_id(log.clock.text(log.mark()))
    return start._replace(parts=[*start.parts, place])


def _has_its_beginning(request: Handoff | Fetch) -> bool:
    """Whether the worker has told a newcomer all that there is but what happened since."""
    return (
        isinstance(request, Handoff)
        and request.knows_place
        and request.last_event_id is None
        and request.snapshot is None
        and request.replay is None
        and request.retry is None
        and not request.tags
    )


def _retry(request: Opening) -> list[bytes]:
    return [] if request.retry is None else [eventstream.retry_field(request.retry)]


def _seen(log: Log, request: Opening) -> int:
    """When the view ran; before this log began, if the log is another than the view knew."""
    if request.position is None:
        return log.mark()
    place = position.parse(request.position)
    # It is the monotonic clock's, so it is not later than now.
    return place.time if place is not None and place.epoch == log.clock.epoch else 0


def _resumed(log: Log, request: Opening) -> int:
    """Up to when the client has heard; for a newcomer, now."""
    place = position.parse(request.last_event_id or "")
    known = place is not None and place.epoch == log.clock.epoch
    return place.time if place is not None and known else log.mark()


def _first(log: Log, request: Handoff | Fetch, seen: int) -> tuple[list[bytes], str | None]:
    """The first frames, and why there is a gap."""
    parts = _retry(request)
    reason = None
    if request.last_event_id is not None:
        missed = _missed(log, request, request.last_event_id)
        if not isinstance(missed, str):
            return parts + missed, None
        reason = missed
    return _join(log, request, parts, reason, seen)


def _missed(log: Log, request: Opening, last_event_id: str) -> list[bytes] | str:
    """The frames after an id, or why they cannot be told."""
    place = position.parse(last_event_id)
    if place is None:
        return "unknown"
    if place.epoch != log.clock.epoch:
        return "epoch"
    if place.time > log.mark():
        return "unknown"
    if place.time == log.mark():
        return []  # however old that is: a broker may be away
    if log.too_old(place.time) or (
        request.replay is not None and place.time < _seconds_ago(log, request.replay)
    ):
        return "old"
    frames = log.since(request.channels, place.time)
    return "old" if frames is None else frames


def _join(
    log: Log, request: Handoff | Fetch, parts: list[bytes], reason: str | None, seen: int
) -> tuple[list[bytes], str | None]:
    """Start from the position that the view saw."""
    time = min(seen, log.mark())
    if not seen:
        # The view looked before this log began: all that it holds follows, and more may be missing.
        time = log.first
        reason = reason or "epoch"
    frames = log.since(request.channels, time)
    if frames is None:
        # The place that the gap tells is one after which nothing is missing.
        time = log.reach(request.channels)
        frames = log.newest(request.channels, time)
        reason = reason or "old"
    start = time
    if reason is None and request.replay is not None:
        start = min(time, _seconds_ago(log, request.replay))
    place = log.clock.text(time)
    for_newcomers = [] if request.snapshot is None else [request.snapshot]
    for_newcomers += log.last_words(request.channels, start)
    if start < time:
        for_newcomers += log.newest(request.channels, start, until=time)
    if reason is not None:
        parts.append(gap(reason, place, tells_id=not for_newcomers))
    parts += for_newcomers
    # The ids in it, if there are any, lie before the place from which this client would resume.
    knows_place = isinstance(request, Handoff) and request.knows_place
    if for_newcomers or not (knows_place or reason is not None):
        parts.append(eventstream.bare_id(place))
    return parts + frames, reason


def _seconds_ago(log: Log, seconds: float) -> int:
    return log.clock.now() - int(seconds * NANOSECONDS)

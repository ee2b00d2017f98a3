"""What must be true of every run, whatever failed in it."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .trace import (
    BASE_EXCEPTION,
    LEAVES,
    NO_RESPONSE,
    ClaimTrack,
    HeldTrack,
    RoundTrack,
    Trace,
    Work,
)

if TYPE_CHECKING:
    from collections.abc import Container

#: What may be called to settle a claim in one round.
SETTLED = (["commit"], ["commit failed", "rollback"], ["rollback"])
FAILS = 400  # a status from here on tells the client that it did not work


def main_rounds(trace: Trace) -> list[RoundTrack]:
    """The rounds that are what the run is about: not inner tasks, callbacks and error pages."""
    rounds = [
        each
        for each in trace.rounds.values()
        if each.kind in ("work", "body") and not each.task_name.startswith("after_response(")
    ]
    requests = [each for each in rounds if each.task_kind == "request"]
    return requests or [each for each in rounds if not each.nested]


def was_committed(trace: Trace) -> bool:
    """Whether the work of the run was committed, as far as the task decided it."""
    main = [each for each in main_rounds(trace) if each.commits is not None]
    if main:
        return all(each.kept for each in main)
    return bool(trace.records) and all(record.committed for record in trace.records)


def was_saved(trace: Trace, response: int) -> bool:
    """Whether anything of a response's own work is in a database, or may be."""
    by_task = any(
        track.committed_in(each)
        for track in trace.claims
        for each in main_rounds(trace)
        if each.response == response
        and not track.explicit
        and (not track.seen or _wrote(trace, track, response))
    )
    return by_task or any(work.by_hand[response] for work in trace.works)


def _wrote(trace: Trace, track: ClaimTrack, response: int) -> bool:
    return any(work.by_task[response] for work in trace.works if work.claim is track)


def problems(
    trace: Trace,
    *,
    raised: bool,
    may_keep: bool,
    unconditional: Container[str],
) -> list[str]:
    """What is wrong with a run; nothing if all is well.

    Args:
        trace: What happened.
        raised: Whether an exception left the call that was tried.
        may_keep: Whether work may be kept although the client was told that it failed.
        unconditional: Channels whose events need no commit.
    """
    return [
        *_one_outcome(trace),
        *_answers(trace, raised=raised, may_keep=may_keep),
        *_what_left(trace, unconditional),
        *_leaks(trace),
    ]


# -- one outcome for each resource


def _one_outcome(trace: Trace) -> Iterator[str]:
    for track in trace.claims:
        yield from _of_claim(trace, track)
    for work in trace.works:
        yield from _of_connection(trace, work)


def _of_claim(trace: Trace, track: ClaimTrack) -> Iterator[str]:
    for _, calls in track.settled:
        if calls not in SETTLED:
            yield f"{track.name} was settled by {', then '.join(calls)}, not once"
    written = _statements(track.unsettled)
    if not track.explicit:
        if not track.settled and track.released:
            yield f"{track.name} was released without commit or rollback"
        if track.unsettled:
            yield f"{track.name} was released with {written} that nobody committed, past its commit"
    elif track.unsettled and trace.fault is None and was_committed(trace):
        yield f"{written} on {track.name} never committed by hand: lost"


def _of_connection(trace: Trace, work: Work) -> Iterator[str]:
    claim = work.claim
    name = claim.name if claim is not None else work.name
    if claim is None and work.opened and trace.fault is None and was_committed(trace):
        yield (
            f"{_statements(work.opened)} on {name}, past every claim, never committed: lost,"
            " though nothing failed"
        )
    if work.by_hand and claim is not None and not claim.explicit:
        kept = all(of is not None and "commit" in calls for of, calls in claim.settled)
        if not kept:
            yield (
                f"{name} has two outcomes: {_statements(work.by_hand.total())} committed by hand,"
                " and the task rolled back the rest"
            )
    if work.lost:
        yield (
            f"{name} was told to commit a transaction that had failed: the database rolled it back,"
            " and nobody was told"
        )


def _statements(count: int) -> str:
    return f"{count} writing statement{'s' if count > 1 else ''}"


# -- what the client was told


def _answers(trace: Trace, *, raised: bool, may_keep: bool) -> Iterator[str]:
    """What each response told, and what had become of its work."""
    fault = trace.fault
    if fault is not None and fault.kind == LEAVES:
        return  # the client hears nothing
    for response in range(len(trace.answers)) or (NO_RESPONSE,):
        status = trace.answers[response] if response != NO_RESPONSE else None
        met = trace.injected_response == response
        failed = status >= FAILS if status is not None else raised
        failed = failed or (raised and met)
        told = "an exception" if response == NO_RESPONSE else str(status or "no answer")
        if failed and not may_keep:
            yield from _told_of_failure(trace, response, told)
        elif met and response != NO_RESPONSE and not failed:
            yield from _told_of_success(trace, response, told)


def _told_of_failure(trace: Trace, response: int, told: str) -> Iterator[str]:
    fault = trace.fault
    if trace.injected_in == "body":
        # The view's work was committed before the body began.
        bodies = [each for each in main_rounds(trace) if each.kind == "body"]
        if any(each.kept and each.over for each in bodies if each.response == response):
            yield "an exception left the body, and what the body did was committed"
        return
    # A process that is ended after a commit answers nobody; of several commits one may fail.
    ended = fault is not None and fault.kind == BASE_EXCEPTION and trace.saved_before
    half = fault is not None and fault.step.key[0].startswith("commit") and trace.saved_before
    if was_saved(trace, response) and not ended and not half:
        yield f"the client was told of a failure ({told}), and the work was committed"


def _told_of_success(trace: Trace, response: int, told: str) -> Iterator[str]:
    lost = [
        each
        for each in main_rounds(trace)
        if each.response == response and each.record is not None and not each.kept
    ]
    if any(each.kind != "body" for each in lost):  # its status had left before the body
        yield f"the client was told of a success ({told}), and the work was rolled back"


# -- what left is what was committed


def _what_left(trace: Trace, unconditional: Container[str]) -> Iterator[str]:
    for track in trace.held:
        if track.on == "commit":
            yield from _held(trace, track)
    for _, channel, early in trace.unheld:
        if channel in unconditional or not early:
            continue
        if main_rounds(trace) and not was_committed(trace):
            yield (
                f"an event on {channel!r} left by publish_now(), and the work was rolled back; use"
                " publish(), or name the channel in unconditional="
            )


def _held(trace: Trace, track: HeldTrack) -> Iterator[str]:
    round_ = track.round
    if track.left:
        if track.by_hand:
            return
        if not round_.kept:
            yield f"{track.call} left, and the work that it belongs to was rolled back"
        elif not round_.over or (track.left < round_.over and round_.kind == "work"):
            yield f"{track.call} left before the commit of the work that it belongs to"
    elif round_.kept and round_.commits is not None and track.call not in _accounted(trace):
        yield f"{track.call} never left, and the work that it belongs to was committed"


def _accounted(trace: Trace) -> set[str]:
    """Calls of which a record or a signal tells why they did not leave."""
    dropped = {call for record in trace.records for call, _ in record.dropped}
    late = {record.task for record in trace.records}
    return dropped | set(trace.failed) | late


# -- nothing is lost


def _leaks(trace: Trace) -> Iterator[str]:
    for track in trace.claims:
        if track.released != 1:
            yield (
                f"{track.name} was claimed and never released"
                if not track.released
                else f"{track.name} was released {track.released} times"
            )
    for name, count in _out(trace):
        yield f"{name} misses {count} connection{'s' if count > 1 else ''} after the run"
    open_ = [connection for each in trace.opened if (connection := each()) is not None]
    left = sum(1 for connection in open_ if _is_open(connection))
    del open_
    if left:
        yield f"{left} sqlite3 connection{'s' if left > 1 else ''} opened in the run still open"


def _out(trace: Trace) -> list[tuple[str, int]]:
    def look() -> list[tuple[str, int]]:
        found = []
        for name, before, pool in trace.pools.values():
            count = before + (pool.checkedout() if pool is not None else 0)
            if count > 0:
                found.append((name, count))
        return found

    if look():
        gc.collect()  # what is in a cycle comes back by itself
    return look()


def _is_open(connection: sqlite3.Connection) -> bool:
    try:
        connection.in_transaction  # noqa: B018 - asked for its error
    except sqlite3.ProgrammingError:
        return False
    return True

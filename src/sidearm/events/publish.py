"""``publish`` waits for the commit, ``publish_now`` does not; both check everything at the call."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ..exceptions import EventTooLarge
from ..hub.eventstream import check_channel, encode_body
from ..signals import events_published
from ..tasks.callbacks import Held
from ..tasks.context import require_task
from ..tasks.state import state_of, the_app

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flask import Flask

    from ..hub.messages import PublishedEvent


def publish(
    channel: str,
    data: Any = None,
    *,
    event: str | None = None,
    keep: bool = True,
    end: bool = False,
) -> None:
    """Send an event to every open stream of a channel, once the current work has committed.

    After a rollback nobody hears of it. Events of one task leave in the order of these calls.

    Args:
        channel: Who hears it: all streams that ``event_stream`` opened on this name.
        data: str and bytes go as they are, everything else as JSON, in the form in which a view
            would return it (``arm.represent``, ``to_json()``). Give the new value, not a
            difference: a client may have seen the change in a snapshot already.
        event: The type that a page listens to; ``message`` if there is none.
        keep: False makes it live only: it gets no id, and who is not connected never sees it.
        end: This is the channel's last event. A stream of this channel alone ends after it, one of
            several when each has ended; its client stops, and does not come back. Who joins later
            gets the last event, as long as the history keeps it, and stops, too. An event that is
            published after the last one opens the channel again, for who joins then.

    Raises:
        ValueError: ``end`` is set and ``keep`` is not: the client has to be told of the end.
        InvalidChannel: ``channel`` is not a non-empty str of printable characters up to 200 bytes.
        OutsideTask: There is no task, so nothing will ever commit.
        TaskSettled: The task's outcome is decided already.
        InvalidField: ``event`` or ``data`` cannot be written as its field (HTML 9.2).
        FieldTypeError: JSON cannot hold ``data``.
        NoRepresentation: There is a mapped object (SQLAlchemy) in ``data`` without a form of its
            own; its columns never leave by accident.
        EventTooLarge: It is above ``SIDEARM_MAX_EVENT_SIZE``.
    """
    call = f"publish({check_channel(channel)!r})"
    task = require_task(call, _WAITS.format(call=call))
    _check_end(end, keep)
    body = _body(task.app, channel, data, event)
    item = (task.app, (channel, body, keep), end)
    task.hold(Held.to_send(call, _leave, item, sys._getframe(1)))  # noqa: SLF001


def publish_now(
    channel: str,
    data: Any = None,
    *,
    event: str | None = None,
    keep: bool = True,
    end: bool = False,
) -> None:
    """Send an event at once, whatever becomes of the current work, or where there is none.

    It works in a plain thread too, if the process has one application with Sidearm. It never
    waits for the hub: where that is away, the event waits in this process for a while.

    Args:
        channel: As in :func:`publish`.
        data: As in :func:`publish`.
        event: As in :func:`publish`.
        keep: As in :func:`publish`.
        end: As in :func:`publish`.

    Raises:
        ValueError: As in :func:`publish`.
        RuntimeError: There is no application context, and not exactly one application.
        InvalidChannel: As in :func:`publish`.
        InvalidField: As in :func:`publish`.
        FieldTypeError: As in :func:`publish`.
        EventTooLarge: As in :func:`publish`.
    """
    app = the_app(f"publish_now({check_channel(channel)!r})")
    _check_end(end, keep)
    _give(app, [(channel, _body(app, channel, data, event), keep)], (0,) if end else ())


_WAITS = (
    "{call} waits for a commit, and there is none to wait for. Use 'with arm.task(\"import\"):', or"
    " publish_now(...) to send it without waiting."
)


def _body(app: Flask, channel: str, data: Any, event: str | None) -> bytes:
    state = state_of(app)
    body = encode_body(state.plain(data), event)
    limit = state.settings.max_event_size
    if len(body) > limit:
        raise EventTooLarge(channel, len(body), limit)
    return body


def _check_end(end: bool, keep: bool) -> None:  # noqa: FBT001 - one for each option
    if end and not keep:
        raise ValueError(
            "end=True and keep=False contradict each other: who comes back has to be told of the"
            " end. Leave keep out."
        )


def _leave(held: Sequence[tuple[Flask, PublishedEvent, bool]]) -> None:
    """Send what one task held, together; the tasks room compares this function to see what is."""
    ends = tuple(number for number, (_, _, end) in enumerate(held) if end)
    _give(held[0][0], [event for _, event, _ in held], ends)


def _give(app: Flask, events: list[PublishedEvent], ends: tuple[int, ...]) -> None:
    state_of(app).hub.publish(events, ends)
    events_published.send(app, events=events, ends=ends)

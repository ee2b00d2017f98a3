"""Streams closed by their tag: ``close_streams`` waits for the commit, ``close_streams_now`` not.

Both order with what is published, so that a last event that is published before reaches them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..hub.eventstream import check_channel
from ..tasks.callbacks import Held
from ..tasks.context import require_task
from ..tasks.state import state_of, the_app

if TYPE_CHECKING:
    from flask import Flask


def close_streams(tag: str, *, channels: Sequence[str] = ()) -> None:
    """Close every open stream that carries a tag, once the current work has committed.

    ``close_streams(f"user:{user.id}")`` logs a user out everywhere. It reaches every stream whose
    view ran before the commit: those that are open, that are on their way to the hub, and that are
    polled. Their clients stop, and do not come back. A stream whose view runs later is a new one:
    it is for the view to say no.

    Args:
        tag: As in ``event_stream(..., tags=[...])``.
        channels: Take only these channels from the streams: one that has others goes on with them,
            one that has none left ends. None named: the streams end.

    Raises:
        ValueError: ``channels`` is a text and no list of names.
        InvalidChannel: A name is not a non-empty str of printable characters up to 200 bytes.
        OutsideTask: There is no task, so nothing will ever commit.
        TaskSettled: The task's outcome is decided already.
    """
    call = f"close_streams({check_channel(tag)!r})"
    names = _names("channels", channels)
    task = require_task(call, _WAITS.format(call=call))
    task.hold(Held.to_send(call, _leave, (task.app, tag, names), sys._getframe(1)))  # noqa: SLF001


def close_streams_now(tag: str, *, channels: Sequence[str] = ()) -> None:
    """Close every open stream that carries a tag at once, whatever becomes of the current work.

    It works in a plain thread too, if the process has one application with Sidearm.

    Args:
        tag: As in :func:`close_streams`.
        channels: As in :func:`close_streams`.

    Raises:
        RuntimeError: There is no application context, and not exactly one application.
        ValueError: As in :func:`close_streams`.
        InvalidChannel: As in :func:`close_streams`.
    """
    names = _names("channels", channels)
    app = the_app(f"close_streams_now({check_channel(tag)!r})")
    _leave([(app, tag, names)])


_WAITS = (
    "{call} waits for a commit, and there is none to wait for. Use 'with arm.task(\"logout\"):', or"
    " close_streams_now(...) to close them without waiting."
)


def check_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Return a stream's tags, each once.

    Raises:
        ValueError: It is one text and no list.
        InvalidChannel: A tag is not what a channel's name has to be.
    """
    return _names("tags", tags)


def _names(what: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str):
        raise ValueError(f"{what} is {names!r}. Give a list of names: {what}=[{names!r}].")  # noqa: TRY004 - as every wrong name
    return tuple(dict.fromkeys(check_channel(name) for name in names))


def _leave(held: Sequence[tuple[Flask, str, tuple[str, ...]]]) -> None:
    for app, tag, names in held:
        state_of(app).hub.close_streams(tag, names)

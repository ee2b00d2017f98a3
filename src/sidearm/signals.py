"""Blinker signals, names only. The sender is always the application object."""

from __future__ import annotations

from blinker import Namespace

_signals = Namespace()

#: A round settled; ``record`` is its :class:`~sidearm.tasks.records.Record`.
round_settled = _signals.signal("sidearm-round-settled")

#: A callback raised after the outcome was decided; ``callback`` and ``exception`` tell.
callback_failed = _signals.signal("sidearm-callback-failed")

#: A resource could not be released after a complete commit; ``resource`` (its name), ``exception``.
release_failed = _signals.signal("sidearm-release-failed")

#: What was held for a commit was dropped because its work was never committed; ``calls`` names them.
held_dropped = _signals.signal("sidearm-held-dropped")

#: Events were given to the hub; ``events`` holds a ``(channel, body, keep)`` tuple for each, in order.
events_published = _signals.signal("sidearm-events-published")

#: Published events were dropped because the hub was away for too long; ``count`` and ``reason``.
events_dropped = _signals.signal("sidearm-events-dropped")

#: A callback ran to its end and its round settled; ``call`` names it.
callback_ran = _signals.signal("sidearm-callback-ran")

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

#: What was held was dropped because its work was never committed; ``calls`` names the calls.
held_dropped = _signals.signal("sidearm-held-dropped")

#: Events were given to the hub, in order; ``events``: a ``(channel, body, keep)`` tuple for each;
#: ``ends``: which of them, by index, are the last of their channel.
events_published = _signals.signal("sidearm-events-published")

#: Published events were dropped: the hub was away too long; ``count`` and ``reason`` tell.
events_dropped = _signals.signal("sidearm-events-dropped")

#: A callback ran to its end and its round settled; ``call`` names it.
callback_ran = _signals.signal("sidearm-callback-ran")

#: A response redirects away from the application's origin; ``error`` is the
#: :class:`~sidearm.exceptions.UnsafeRedirect`, ``refused`` whether it was answered in its place.
redirect_leaving = _signals.signal("sidearm-redirect-leaving")

"""What a hub holds, told to the hub that replaces it, and taken in there.

:mod:`~sidearm.hub.replacement` decides whether, :mod:`~sidearm.hub.takeover` says how it passes
from one process to the other, and :mod:`~sidearm.hub.state` in which form.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
from collections.abc import Iterator

from ..exceptions import HubError
from . import platform, state
from .config import HubConfig
from .connection import Connection
from .core import Hub
from .followed import FollowedLog
from .listener import Listener
from .log import Log
from .subscribers import Subscriber
from .takeover import NotReplaceable, Successor, Token

FANOUT_COUNTS = ("delivered", "sends", "disconnected_slow")
STREAM_COUNTS = ("ended", "closed", "aged")

logger = logging.getLogger("sidearm.hub")


def hand_over(hub: Hub, connection: Connection) -> None:
    """Let a successor have everything; go on with everything if that fails.

    Args:
        hub: The hub that is replaced.
        connection: Where its successor is.
    """
    hub.let_go(connection)
    hub.admit_all()
    if hub.lead is not None:
        hub.lead.release()
    hub.was_replaced = hub.replacement.hand_over(connection, functools.partial(_tell, hub))


def take_over(config: HubConfig) -> Hub:
    """Take over from the hub that runs.

    Args:
        config: What the new hub is told at its start.

    Raises:
        NoHub: None runs.
        HubError: It could not be replaced, and goes on.
    """
    successor = Successor(config.socket, platform.raise_descriptor_limit())
    collected = successor.collect()
    try:
        hub, token = _build(config, collected)
    except Exception as error:
        successor.give_up(f"the new hub failed: {error!r}")
        raise
    # Nothing that may fail stands behind this line.
    if not token.take():
        raise NotReplaceable(
            f"The hub on {config.socket!r} was not replaced: this process was too slow for it.",
            config.socket,
        )
    token.close()
    hub.predecessor = successor.old_pid
    hub.listener.sign()
    successor.tell_serving()
    logger.info(
        "This hub has taken over from process %d: %d streams.",
        successor.old_pid,
        len(collected.clients),
    )
    return hub


def _tell(hub: Hub, token: Token) -> Iterator[tuple[state.AnyPiece, list[int]]]:
    connections = list(hub.connections.values())
    counts = {name: getattr(hub.fanout, name) for name in FANOUT_COUNTS}
    counts |= {name: getattr(hub.streams, name) for name in STREAM_COUNTS}
    counts |= hub.tally.counts
    counts["failed_takeovers"] = hub.replacement.failed
    outline = state.Outline(
        state.STATE_VERSION,
        os.getpid(),
        hub.began,
        hub.log.state(),
        hub.relay.state(connections),
        counts,
        hub.metrics_listener is not None,
        hub.log_kind,
    )
    descriptors = [hub.listener.fileno(), hub.listener.lock, token.fileno()]
    if hub.metrics_listener is not None:
        descriptors.append(hub.metrics_listener.fileno())
    yield from state.pieces(
        outline,
        descriptors,
        hub.log.kept(),
        (connection.state() for connection in connections),
        (subscriber.state() for subscriber in hub.fanout.subscribers()),
        closings=hub.streams.closings.state(),
        fed=() if hub.lead is None else hub.lead.kept(),
    )


def _build(config: HubConfig, collected: state.Collected) -> tuple[Hub, Token]:
    """A hub with all that its predecessor held, and the right to serve, which is still to take."""
    outline = collected.outline
    assert outline is not None  # noqa: S101  # it is whole
    is_copy = outline.log.moments is not None
    if config.follows != is_copy or outline.log_kind not in ("", config.log_kind):
        raise HubError(
            "SIDEARM_BROKER has changed between the hub's own log and a broker's, or SIDEARM_HUBS"
            " between one hub and several, and a hub cannot go on in another log. Stop it, and"
            " start it anew.",
            config.socket,
        )
    listener, lock, token, *metrics = collected.descriptors
    kind = FollowedLog if config.follows else Log
    hub = Hub(
        config,
        Listener.inherit(config.socket, listener, lock),
        kind.restore(config, outline.log, collected.history),
    )
    _restore(hub, collected, outline)
    hub.listen_for_metrics(socket.socket(fileno=metrics[0]) if metrics else None)
    return hub, Token(token)


def _restore(hub: Hub, collected: state.Collected, outline: state.Outline) -> None:
    """Take in what a predecessor held, without reading or sending anything."""
    hub.began = outline.began
    counts = outline.counts
    for name in FANOUT_COUNTS:
        setattr(hub.fanout, name, counts.get(name, 0))
    for name in STREAM_COUNTS:
        setattr(hub.streams, name, counts.get(name, 0))
    hub.tally.restore(counts)
    hub.tally.counts["takeovers"] += 1
    hub.replacement.failed = counts.get("failed_takeovers", 0)
    hub.relay.restore(outline.relay, [hub.restore_connection(each) for each in collected.workers])
    hub.streams.closings.restore(collected.closings)
    if hub.lead is not None:
        hub.lead.restore(collected.fed)
    for client in collected.clients:
        subscriber = Subscriber.restore(client)
        hub.fanout.restore(subscriber, client.state.channels)
        hub.streams.watch_age(subscriber)

"""What other programs publish by the broker's own means, passed on to streams (contract E5).

It is in no log: it has no id, and who is not connected, or whose hub is cut off, never hears it.
But any program can say it, in any language, with one command, as the talk does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence

from ..brokers import Bridge, Broker
from ..exceptions import BrokerError
from .core import Hub

WAIT = 1.0  # seconds
STOP_PATIENCE = 0.5  # seconds
DELAYS = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds before it is tried again; the last repeats

logger = logging.getLogger("sidearm.hub")


@contextlib.asynccontextmanager
async def passed_on(
    hub: Hub, broker: Broker | None, patterns: Sequence[str]
) -> AsyncGenerator[None]:
    """Pass on what is said on channels with such names, inside the block.

    Args:
        hub: Whose streams hear it.
        broker: Where it is said.
        patterns: Which channels.
    """
    if broker is None or not patterns:
        yield
        return
    over = asyncio.Event()
    task = asyncio.get_running_loop().create_task(_pass_on(hub, broker, patterns, over))
    try:
        yield
    finally:
        over.set()
        while not task.done():
            # The broker's library may take it for a wait of its own that has ended.
            task.cancel()
            await asyncio.wait([task], timeout=STOP_PATIENCE)


async def _pass_on(hub: Hub, broker: Broker, patterns: Sequence[str], over: asyncio.Event) -> None:
    failures = 0
    while not over.is_set():
        bridge: Bridge | None = None
        try:
            bridge = broker.bridge(patterns)
            while not over.is_set():
                messages = await bridge.receive(WAIT)
                failures = 0
                hub.pass_on(messages)
        except BrokerError as error:
            if not failures:
                logger.warning("%s. What is published there meanwhile is not heard.", error)
        except Exception:
            # Nobody waits for this task: without this it would end in silence.
            logger.exception("The hub stumbled over what was published at %s.", broker.name)
        finally:
            if bridge is not None:
                await _hang_up(bridge)
        await asyncio.sleep(DELAYS[min(failures, len(DELAYS) - 1)])
        failures += 1


async def _hang_up(bridge: Bridge) -> None:
    try:
        await bridge.close()
    except Exception as error:  # noqa: BLE001  # it is gone either way
        logger.debug("The connection could not be closed: %r", error)

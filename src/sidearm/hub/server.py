"""The hub's process: an asyncio loop in which one poller watches everything.

The loop itself has the timers, the signals, the port for Prometheus and the broker, if there is
one: its library's client is one of asyncio. What a hub does, :mod:`~sidearm.hub.core` tells.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable

from ..brokers import HUB, Broker, open_broker
from ..exceptions import HubError
from . import handover
from .bridging import passed_on
from .config import HubConfig
from .core import Hub
from .following import followed
from .leader import Leader
from .lulls import LULL
from .metrics import Metrics
from .reader import NoHub

AGING_INTERVAL = 1.0  # seconds
START_PATIENCE = 10.0  # seconds

logger = logging.getLogger("sidearm.hub")


class Server:
    """A hub.

    Args:
        config: What it is told at its start.
        lifeline: A descriptor at whose end the hub stops: the other end is held by a process
            without which it is of no use.
        replace: Whether to take over from the hub that runs, if one does.
        on_replace: Tells whoever started this hub to start one that replaces it (True), or that the
            one that was started is of no use any more (False).
    """

    def __init__(
        self,
        config: HubConfig,
        *,
        lifeline: int | None = None,
        replace: bool = False,
        on_replace: Callable[[bool], None] | None = None,
    ) -> None:
        self.config = config
        self._lifeline = lifeline
        self._replace = replace
        self._on_replace = on_replace
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = asyncio.Event()
        self._predecessor: int | None = None
        self._was_replaced = False
        self._waits_for_lull = False

    @property
    def predecessor(self) -> int | None:
        """The process that this hub has taken over from, once it is up."""
        return self._predecessor

    @property
    def was_replaced(self) -> bool:
        """Whether another process serves by now what this hub held."""
        return self._was_replaced

    def run(self, on_up: Callable[[], None] | None = None) -> None:
        """Serve until SIGTERM, SIGINT, the end of the lifeline, or a hub that replaces this one.

        Args:
            on_up: Called when the socket is served.

        Raises:
            HubError: The socket cannot be served, or the running hub could not be replaced.
        """
        asyncio.run(self._serve(signals=True, on_up=on_up))

    def start_in_thread(self) -> None:
        """Serve in a thread of this process, without touching its signals; return when it is up.

        Raises:
            HubError: The socket cannot be served, or it does not come up in time.
        """
        up = threading.Event()
        failures: list[BaseException] = []

        def serve() -> None:
            try:
                asyncio.run(self._serve(signals=False, on_up=up.set))
            except BaseException as error:  # noqa: BLE001  # it belongs to the caller
                failures.append(error)
            finally:
                up.set()

        self._thread = threading.Thread(target=serve, name="sidearm-hub", daemon=True)
        self._thread.start()
        if not up.wait(START_PATIENCE):
            raise HubError(
                f"The hub on {self.config.socket!r} was not up after {START_PATIENCE:g} seconds.",
                self.config.socket,
            )
        if failures:
            raise failures[0]

    def stop(self) -> None:
        """Stop serving; may be called from any thread. Waits for the thread, if there is one."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(START_PATIENCE)

    async def _serve(self, *, signals: bool, on_up: Callable[[], None] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        # First, for its library takes a while to load: who finds the socket is served at once.
        broker = self._open_broker()
        hub = self._open_hub()
        self._predecessor = hub.predecessor
        # A hub in a thread belongs to its process: another one cannot have it.
        hub.replacement.is_possible = signals
        hub.replacement.want = self._on_replace
        try:
            for number in (signal.SIGTERM, signal.SIGINT) if signals else ():
                self._loop.add_signal_handler(number, self._stopping.set)
            async with followed(hub, broker), passed_on(hub, broker, self.config.bridge):
                await self._serve_hub(self._loop, hub, on_up)
        finally:
            self._loop.remove_reader(hub.fileno())
            if hub.was_replaced:
                hub.release()
                logger.info("The hub on %r was replaced.", self.config.socket)
            else:
                hub.close()
                logger.info("The hub on %r has stopped.", self.config.socket)

    async def _serve_hub(
        self, loop: asyncio.AbstractEventLoop, hub: Hub, on_up: Callable[[], None] | None
    ) -> None:
        metrics: asyncio.Server | None = None
        loop.add_reader(hub.fileno(), self._wake, hub)
        self._beat(loop, hub)
        self._age(loop, hub)
        try:
            if hub.metrics_listener is not None:
                metrics = await Metrics(hub.figures).serve(hub.metrics_listener)
            if self._lifeline is not None:
                os.set_blocking(self._lifeline, False)
                loop.add_reader(self._lifeline, self._feel_lifeline, loop, self._lifeline)
            logger.info("The hub listens on %r (process %d).", self.config.socket, os.getpid())
            if on_up is not None:
                on_up()
            await self._stopping.wait()
        finally:
            if metrics is not None:
                metrics.close()

    def _open_broker(self) -> Broker | None:
        config = self.config
        if config.broker.startswith(HUB):
            leader = config.broker.removeprefix(HUB)
            return Leader(leader) if leader else None
        return open_broker(config.broker, config.broker_key, config.broker_limits())

    def _open_hub(self) -> Hub:
        if self._replace:
            try:
                return handover.take_over(self.config)
            except NoHub as error:
                logger.info("There is nothing to replace: %s", error)
        hub = Hub(self.config)
        try:
            hub.listen_for_metrics()
        except HubError:
            hub.close()
            raise
        return hub

    def _wake(self, hub: Hub) -> None:
        hub.wake()
        self._after_round(hub)

    def _end_lulls(self, hub: Hub) -> None:
        self._waits_for_lull = False
        if not self._stopping.is_set():
            hub.end_lulls()
            self._after_round(hub)

    def _after_round(self, hub: Hub) -> None:
        if hub.lulls and not self._waits_for_lull and self._loop is not None:
            self._waits_for_lull = True
            self._loop.call_later(LULL, self._end_lulls, hub)
        successor = hub.replacement.successor
        if successor is not None:
            handover.hand_over(hub, successor)
        if hub.was_replaced:
            self._was_replaced = True
            self._stopping.set()

    def _beat(self, loop: asyncio.AbstractEventLoop, hub: Hub) -> None:
        """One timer for the heartbeats of all streams.

        A hub that has taken over begins with one: nobody knows when the last was.
        """
        if not self.config.heartbeat:
            return

        def beat() -> None:
            loop.call_later(self.config.heartbeat, beat)
            hub.heartbeat()

        loop.call_later(0 if hub.predecessor else self.config.heartbeat, beat)

    def _age(self, loop: asyncio.AbstractEventLoop, hub: Hub) -> None:
        """One timer for the maximum ages of all streams."""

        def age() -> None:
            loop.call_later(AGING_INTERVAL, age)
            hub.end_aged()

        loop.call_later(AGING_INTERVAL, age)

    def _feel_lifeline(self, loop: asyncio.AbstractEventLoop, lifeline: int) -> None:
        try:
            alive = os.read(lifeline, 1024) != b""
        except BlockingIOError:
            alive = True
        except OSError:
            alive = False
        if not alive:
            loop.remove_reader(lifeline)
            self._stopping.set()

"""Events as they come, for somebody at a terminal: a client of the hub without a browser.

Each channel has a stream of its own, one end of a socket pair, so that each event can be shown
with its channel. Events come from anywhere, so what a terminal would obey is never passed on.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..exceptions import HubError, ProtocolError
from ..terminal import make_harmless
from .eventstream import Event, Parser
from .messages import Handoff, encode
from .opening import GAP_EVENT
from .operator import connect
from .position import is_end

RECEIVE_SIZE = 1 << 16  # bytes
PAUSE = 0.5  # seconds between two looks for a hub that is away, or a reader that has gone
SEND_PATIENCE = 5.0  # seconds


class Seen(NamedTuple):
    """An event that was seen.

    Attributes:
        channel: Where.
        event: What.
        time: When it came, as a Unix time in seconds.
    """

    channel: str
    event: Event
    time: float


class Watcher:
    """Watches channels, also when the hub is restarted.

    Args:
        socket_path: The hub's socket.
        channels: At least one.
        notice: Called with a line about the hub.
        is_over: Whether nobody wants to see any more.
    """

    def __init__(
        self,
        socket_path: str,
        channels: tuple[str, ...],
        *,
        notice: Callable[[str], None],
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._path = socket_path
        self._parsers = {channel: Parser() for channel in dict.fromkeys(channels)}
        self._notice = notice
        self._is_over = is_over

    def events(self) -> Iterator[Seen]:
        """Yield each event once, until nobody wants to see any more, or each channel has ended.

        Raises:
            HubError: There is no hub at the beginning, or it cannot be understood.
        """
        with selectors.DefaultSelector() as selector:
            self._open_all(selector)
            try:
                while not self._is_over():
                    yield from self._read_to_end(selector)
                    if not self._parsers:
                        return
                    self._come_back(selector)
            finally:
                self._close_all(selector)

    def _read_to_end(self, selector: selectors.BaseSelector) -> Iterator[Seen]:
        """Until a stream has ended, and what the others hold was read."""
        has_ended = False
        while selector.get_map() and not self._is_over():
            ready = selector.select(0 if has_ended else PAUSE)
            if has_ended and not ready:
                return
            for key, _ in ready:
                end, channel = key.fileobj, key.data
                assert isinstance(end, socket.socket)  # noqa: S101  # only these are registered
                data = end.recv(RECEIVE_SIZE)
                if not data:
                    selector.unregister(end)
                    end.close()
                    if is_end(self._parsers[channel].last_event_id, (channel,)):
                        del self._parsers[channel]
                        self._notice(f"Channel {channel!r} has had its last event.")
                    else:
                        has_ended = True
                    continue
                for event in self._parsers[channel].feed(data):
                    yield Seen(channel, event, time.time())

    def _come_back(self, selector: selectors.BaseSelector) -> None:
        self._close_all(selector)
        if not self._is_over():
            self._notice("The stream has ended. Waiting for the hub ...")
            time.sleep(PAUSE)  # a hub that has no room for a stream is there, and ends it
        while not self._is_over():
            try:
                pid = self._open_all(selector)
            except HubError:
                time.sleep(PAUSE)
                continue
            self._notice(f"The hub is back (process {pid}).")
            return

    def _open_all(self, selector: selectors.BaseSelector) -> int:
        """Open a stream for each channel, which goes on where the last one ended."""
        link = connect(self._path, "handoff")
        try:
            for channel, parser in self._parsers.items():
                last = parser.last_event_id
                self._parsers[channel] = Parser(last)
                ours, theirs = socket.socketpair()
                selector.register(ours, selectors.EVENT_READ, channel)
                with theirs:
                    message = Handoff((channel,), last_event_id=last or None)
                    link.send(encode(message), SEND_PATIENCE, theirs.fileno())
        except (OSError, ProtocolError) as error:
            self._close_all(selector)
            raise HubError(f"The hub on {self._path!r} hung up ({error}).", self._path) from error
        finally:
            link.close()
        return link.welcome.pid

    def _close_all(self, selector: selectors.BaseSelector) -> None:
        for key in list(selector.get_map().values()):
            selector.unregister(key.fileobj)
            assert isinstance(key.fileobj, socket.socket)  # noqa: S101  # only these are registered
            key.fileobj.close()


def format_event(seen: Seen, *, colour: bool = False) -> str:
    """An event in a line, or in several if its data has them.

    Args:
        seen: What was seen.
        colour: Whether to use colours.
    """
    at = time.strftime("%H:%M:%S", time.localtime(seen.time))
    channel, kind = make_harmless(seen.channel), make_harmless(seen.event.event)
    data = [make_harmless(line) for line in seen.event.data.split("\n")]
    if seen.event.event == GAP_EVENT:
        data = [f"events may be missing before this one {data[0]}"]
    start = f"{at}  {channel}  {kind}  "
    painted = f"\x1b[2m{at}\x1b[0m  \x1b[1m{channel}\x1b[0m  {kind}  " if colour else start
    return painted + ("\n" + " " * len(start)).join(data)

"""What a hub process is told at its start."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ..exceptions import HubError

MIB = 1 << 20  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class HubConfig:
    """A hub's configuration; :class:`~sidearm.settings.Settings` tells more about each value.

    Attributes:
        socket: The path of the Unix socket on which workers find the hub.
        heartbeat: Seconds between the comments that keep quiet streams alive; 0: none.
        peer_timeout: Seconds without an acknowledgement after which a client is gone.
        max_event_size: The largest frame, in bytes.
        subscriber_buffer: Bytes that may wait for one client.
        history_count: Events kept for each channel.
        history_age: Seconds for which events are kept.
        history_bytes: Bytes kept in all.
        waiting_bytes: Bytes that may wait for all clients together.
        max_streams: How many streams there may be; 0: as many as there are descriptors.
        max_streams_per_address: How many of one client's address; 0: any number.
        limit_loopback: Whether clients on this machine are counted by address, too.
        retry_spread: Each client's wait before it comes back is longer by a random part of this
            (seconds), or more where there are many.
        reconnect_rate: Clients that are to come back in a second, about; 0: any number.
        metrics_port: Where Prometheus finds the figures, on 127.0.0.1; None: nowhere.
    """

    socket: str
    heartbeat: float = 15.0
    peer_timeout: float = 30.0
    max_event_size: int = MIB
    subscriber_buffer: int = MIB
    history_count: int = 1000
    history_age: float = 300.0
    history_bytes: int = 16 * MIB
    waiting_bytes: int = 128 * MIB
    max_streams: int = 0
    max_streams_per_address: int = 256
    limit_loopback: bool = False
    metrics_port: int | None = None
    retry_spread: float = 3.0
    reconnect_rate: float = 200.0

    def to_json(self) -> str:
        """The configuration as the argument of ``python -m sidearm.hub``."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> HubConfig:
        """Read what :meth:`to_json` wrote.

        Raises:
            HubError: It is no configuration; the message names the field.
        """
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise HubError(
                f"The hub's configuration cannot be read: {error}. Give a JSON object, such as"
                ' {"socket": "/run/shop/hub.sock"}.'
            ) from error

"""What a hub process is told at its start."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace

import msgspec

from ..brokers import HUB, Limits, without_password
from ..exceptions import HubError

MIB = 1 << 20  # bytes
#: A hub's process finds a broker's URL with its password here.
BROKER_VARIABLE = "SIDEARM_HUB_BROKER"


def socket_of(socket_path: str, number: int) -> str:
    """Where a hub listens, beside the first of its machine.

    Args:
        socket_path: The first one's socket.
        number: Which hub; 0 is the first.
    """
    return f"{socket_path}.{number}" if number else socket_path


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
        broker: Where the log is: a URL, which may hold a password; ``hub:`` for the hub's own;
            ``hub:PATH`` for that of the hub with this socket.
        broker_key: What the broker's own names begin with.
        bridge: Which channels of the broker's own are passed on, as its patterns.
        metrics_port: Where Prometheus finds the figures, on 127.0.0.1; None: nowhere.
        hubs: How many hubs of this machine share its streams.
        number: Which of them this one is, from 0: the first has the log, unless a broker has it.
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
    broker: str = field(default=HUB, repr=False)
    broker_key: str = "sidearm"
    bridge: tuple[str, ...] = ()
    hubs: int = 1
    number: int = 0

    @property
    def leads(self) -> bool:
        """Whether other hubs follow this one's log."""
        return self.hubs > 1 and self.broker == HUB

    @property
    def follows(self) -> bool:
        """Whether the hub's log is a copy of another: a broker's, or what all hubs here follow."""
        return self.hubs > 1 or self.broker != HUB

    @property
    def log_kind(self) -> str:
        """Whose the log is: the hub's ``"own"``, that of all ``"hubs"`` here, or a ``"broker"``'s.

        A hub may go on where one with a log of the same kind stopped, and nowhere else.
        """
        if not self.follows:
            return "own"
        return "hubs" if self.broker.startswith(HUB) else "broker"

    def of(self, number: int) -> HubConfig:
        """What another hub beside the first is told.

        Args:
            number: Which; this is the configuration of the first.
        """
        if not number:
            return self
        return replace(
            self,
            socket=socket_of(self.socket, number),
            number=number,
            broker=HUB + self.socket if self.broker == HUB else self.broker,
            metrics_port=None if self.metrics_port is None else self.metrics_port + number,
        )

    def to_json(self) -> str:
        """The configuration as the argument of ``python -m sidearm.hub``.

        Everybody on the machine can read arguments, so a broker's password is not in it: that is
        for :meth:`environment`.
        """
        shown = replace(self, broker=without_password(self.broker))
        return msgspec.json.encode(shown).decode()

    def environment(self) -> dict[str, str]:
        """What ``python -m sidearm.hub`` is told beside its argument."""
        if without_password(self.broker) == self.broker:
            return {}
        return {BROKER_VARIABLE: self.broker}

    def broker_limits(self) -> Limits:
        """How much of its log a broker keeps."""
        return Limits(self.history_age, self.history_bytes)

    @classmethod
    def from_json(cls, text: str) -> HubConfig:
        """Read what :meth:`to_json` wrote.

        Raises:
            HubError: It is no configuration; the message names the field.
        """
        try:
            config = msgspec.json.decode(text, type=cls)
        except msgspec.DecodeError as error:
            raise HubError(
                f"The hub's configuration cannot be read: {error}. Give a JSON object, such as"
                ' {"socket": "/run/shop/hub.sock"}.'
            ) from error
        return replace(config, broker=os.environ.get(BROKER_VARIABLE, config.broker))

"""How many streams there may be, in all and for each client's address: bytes only, no socket.

An address is counted as whoever owns it: IPv4 by address, IPv6 by its first 64 bits, of which
every home has all (RFC 6177). Clients on this machine are not counted, unless so set: where a
proxy is in front and the application does not know of it, every client has the proxy's address.
"""

from __future__ import annotations

import functools
import socket

from .config import HubConfig

_MAPPED = b"\0" * 10 + b"\xff\xff"  # IPv4 inside IPv6 (RFC 4291, 2.5.5.2)
_LOOPBACK6 = b"\0" * 15 + b"\1"


class Limits:
    """The limits of one hub.

    Args:
        config: What it was told.
    """

    __slots__ = ("_loopback", "in_all", "per_address")

    def __init__(self, config: HubConfig) -> None:
        self.in_all = config.max_streams
        self.per_address = config.max_streams_per_address
        self._loopback = config.limit_loopback

    def key_of(self, address: str | None) -> bytes:
        """What an address is counted as; empty for one that is not counted.

        Args:
            address: As the application sees it; it may be anything.
        """
        if not self.per_address or not address:
            return b""
        key, is_loopback = _owner(address)
        return b"" if is_loopback and not self._loopback else key

    def reached(self, in_all: int, of_address: int) -> str | None:
        """The setting that allows no further stream, or None.

        Args:
            in_all: How many there are.
            of_address: How many of them have the same address; 0 where it is not counted.
        """
        if self.in_all and in_all >= self.in_all:
            return "SIDEARM_MAX_STREAMS"
        if self.per_address and of_address >= self.per_address:
            return "SIDEARM_MAX_STREAMS_PER_ADDRESS"
        return None


@functools.lru_cache(maxsize=256)  # many are a proxy's, and each is asked for again at the end
def _owner(address: str) -> tuple[bytes, bool]:
    """Whose an address is, and whether that is this machine."""
    packed = _packed(address)
    if len(packed) == 4:
        return packed, packed[0] == 127
    return packed[:8], packed == _LOOPBACK6


def _packed(address: str) -> bytes:
    """Four bytes, or sixteen; none for what is no IP address, such as a Unix socket's."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            packed = socket.inet_pton(family, address.partition("%")[0])
        except (OSError, ValueError):
            continue
        return packed.removeprefix(_MAPPED)
    return b""

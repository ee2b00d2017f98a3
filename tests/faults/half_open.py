"""Run in a network namespace of its own: a client's network goes away without a word.

The loopback interface is taken down while two hubs hold a stream each. Nobody says good-bye, and
nothing that is sent is acknowledged any more. Prints how many streams each hub holds when the one
with the short time limit has none, or after a while.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import time
from contextlib import ExitStack

from hub_streams import PATIENCE, PAUSE, Stream, figures_of, wait_for

from sidearm.hub.client import HubClient
from sidearm.hub.config import HubConfig
from sidearm.testing import HubServer

SIOCSIFFLAGS = 0x8914  # netdevice(7)
IFF_UP = 1


def set_loopback(flags: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags))


def main() -> None:
    heartbeat = float(sys.argv[1])
    set_loopback(IFF_UP)
    with ExitStack() as stack:
        paths = []
        for peer_timeout in (1.0, 3600.0):
            make = lambda path, limit=peer_timeout: HubConfig(  # noqa: E731
                socket=path, heartbeat=heartbeat, peer_timeout=limit
            )
            server = stack.enter_context(HubServer(make))
            client = HubClient(server.socket_path)
            stack.callback(client.close)
            stack.enter_context(Stream(client, "a")).read()
            wait_for(server.socket_path, lambda figures: figures.subscribers == 1)
            paths.append(server.socket_path)
        set_loopback(0)
        deadline = time.monotonic() + PATIENCE
        while figures_of(paths[0]).subscribers and time.monotonic() < deadline:
            time.sleep(PAUSE)
        sys.stdout.write(" ".join(str(figures_of(path).subscribers) for path in paths))


if __name__ == "__main__":
    main()

"""The simplest server of events that can be written: one ``send`` per delivery, and nothing else.

The hub's benchmark runs it as ``python -m benchmarks.plain_send SOCKET``. It takes clients' sockets
and events over one Unix socket, like the hub, so that only the work differs: no history, no ids, no
buffers, no check of who is gone.
"""

from __future__ import annotations

import array
import socket
import sys

DESCRIPTORS = 64  # at once
HEADER = 4  # bytes: how long an event is; 0 comes with descriptors


def main() -> None:
    """Serve until the other side hangs up."""
    control = socket.socket(socket.AF_UNIX)
    control.connect(sys.argv[1])
    clients: list[socket.socket] = []
    while True:
        header, descriptors, _, _ = socket.recv_fds(control, HEADER, DESCRIPTORS)
        if not header:
            return
        clients += [socket.socket(fileno=each) for each in array.array("i", descriptors)]
        size = int.from_bytes(header, "big")
        if size:
            event = control.recv(size, socket.MSG_WAITALL)
            for client in clients:
                client.send(event)
        else:
            control.sendall(b"\0")


if __name__ == "__main__":
    main()

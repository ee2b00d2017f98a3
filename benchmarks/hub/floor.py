"""The least that a server of events in Python must do: ``floor.c``, word for word.

``python -m benchmarks.hub.floor PORT``
"""

from __future__ import annotations

import re
import select
import socket
import sys

from ..measure import allow_descriptors

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
DONE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
TIMES = re.compile(rb"\?n=(\d+)")


def publish(clients: list[socket.socket], times: int, frame: bytes) -> None:
    """Send a frame to all, so many times."""
    for _ in range(times):
        for client in clients:
            try:
                client.send(frame, socket.MSG_DONTWAIT)
            except OSError:  # it reads slowly, or has gone
                continue


def main() -> None:
    """Serve until the process is ended."""
    allow_descriptors(20_000)
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=2048)
    poller = select.epoll()
    poller.register(listener, select.EPOLLIN)
    sockets: dict[int, socket.socket] = {}
    clients: list[socket.socket] = []
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == listener.fileno():
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sockets[connection.fileno()] = connection
                poller.register(connection, select.EPOLLIN)
                continue
            connection = sockets[descriptor]
            try:
                data = connection.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if data.startswith(b"GET"):
                connection.send(HEAD)
                clients.append(connection)
                continue
            if data:
                times = TIMES.search(data)
                publish(clients, int(times[1]) if times else 1, data.partition(b"\r\n\r\n")[2])
                connection.send(DONE)
            elif connection in clients:
                clients.remove(connection)
            del sockets[descriptor]
            connection.close()


if __name__ == "__main__":
    main()

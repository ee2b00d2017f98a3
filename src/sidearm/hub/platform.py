"""What platforms have and lack, asked for in this one place.

Linux has everything. macOS lacks ``SO_PEERCRED`` (it has ``LOCAL_PEERCRED``), ``MSG_CMSG_CLOEXEC``,
``TCP_USER_TIMEOUT`` and epoll (it has kqueue), and its socket paths are shorter. Windows has no
Unix sockets in Python: this module imports there, and :func:`can_hand_off` says no.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _socket import socket as RawSocket  # noqa: N812

AF_UNIX = int(getattr(socket, "AF_UNIX", -1))
READ = 1
WRITE = 4

# A path's room in sockaddr_un, without the NUL at its end.
SOCKET_PATH_LIMIT = 107 if sys.platform == "linux" else 103  # bytes
# Plain numbers: arithmetic with Python's enumerations costs ten times as much.
DONTWAIT = int(getattr(socket, "MSG_DONTWAIT", 0))
PEEK = int(getattr(socket, "MSG_PEEK", 0))
CTRUNC = int(getattr(socket, "MSG_CTRUNC", 0))
CMSG_CLOEXEC = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
# For os.open() of a file that somebody else may have put there: no link is followed, and a FIFO
# without another end does not block.
PLAIN_FILE: int = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

_TCP = int(socket.IPPROTO_TCP)
_TCP_NODELAY = int(socket.TCP_NODELAY)
_TCP_LISTEN = 10  # <netinet/tcp.h> of Linux; Python does not name it
_TCP_INFO: int | None = getattr(socket, "TCP_INFO", None) if sys.platform == "linux" else None
_TCP_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
# macOS calls the idle time before the first probe TCP_KEEPALIVE.
_TCP_KEEPIDLE: int | None = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_TCP_KEEPINTVL: int | None = getattr(socket, "TCP_KEEPINTVL", None)
_TCP_KEEPCNT: int | None = getattr(socket, "TCP_KEEPCNT", None)
_TCP_DEFER_ACCEPT: int | None = getattr(socket, "TCP_DEFER_ACCEPT", None)
_LOCAL_PEERCRED = 1  # <sys/un.h> of macOS and the BSDs; Python does not name it
_OPEN_MAX = 10_240  # what macOS allows where it says "unlimited"


def can_hand_off() -> bool:
    """Whether a client's socket can be passed to another process here."""
    return all(hasattr(socket, name) for name in ("AF_UNIX", "SCM_RIGHTS", "MSG_DONTWAIT"))


def effective_uid() -> int:
    """The user that this process acts as; -1 where there are none."""
    return os.geteuid() if hasattr(os, "geteuid") else -1


def peer_uid(connection: RawSocket) -> int | None:
    """The user at the other end of a Unix socket; None where the platform does not tell."""
    if hasattr(socket, "SO_PEERCRED"):
        layout = struct.Struct("3i")  # pid, uid, gid
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, layout.size)
        return int(layout.unpack(raw)[1])
    if sys.platform == "darwin" or "bsd" in sys.platform:
        layout = struct.Struct("2I")  # version, uid: the beginning of struct xucred
        raw = connection.getsockopt(0, _LOCAL_PEERCRED, 76)
        return int(layout.unpack(raw[: layout.size])[1])
    return None


def is_tcp_connection(client: RawSocket) -> bool:
    """Whether a socket is TCP's and does not listen. False also where that cannot be told."""
    if _TCP_INFO is None:
        return False
    try:
        return client.getsockopt(_TCP, _TCP_INFO, 1)[0] != _TCP_LISTEN  # its first byte: the state
    except OSError:  # of another protocol
        return False


def tune_client(client: RawSocket, peer_timeout: float, *, probe: bool) -> None:
    """Make a client's TCP connection fit for events.

    Args:
        client: Its socket.
        peer_timeout: Seconds without an acknowledgement after which it is gone.
        probe: Whether the kernel must look by itself, because no heartbeat makes it send.
    """
    client.setsockopt(_TCP, _TCP_NODELAY, 1)
    if _TCP_USER_TIMEOUT is not None:
        client.setsockopt(_TCP, _TCP_USER_TIMEOUT, int(peer_timeout * 1000))
    if probe or _TCP_USER_TIMEOUT is None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Together they make the time; by default only the first probe comes soon, the second 75
        # seconds later.
        for option, value in (
            (_TCP_KEEPIDLE, peer_timeout / 2),
            (_TCP_KEEPINTVL, peer_timeout / 4),
            (_TCP_KEEPCNT, 2),
        ):
            if option is not None:
                client.setsockopt(_TCP, option, max(1, int(value)))


def defer_accept(listener: socket.socket, seconds: int) -> None:
    """Let the kernel keep connections until their first bytes have come, where it can (Linux).

    Args:
        listener: A listening socket, or one that is about to listen.
        seconds: After so long a silent connection is given out all the same; the kernel rounds
            it up to a number of repeated answers (tcp(7)).
    """
    if _TCP_DEFER_ACCEPT is not None:
        listener.setsockopt(socket.IPPROTO_TCP, _TCP_DEFER_ACCEPT, seconds)


def raise_descriptor_limit() -> int:
    """Raise the limit of open descriptors to what the system allows, and return it."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, _OPEN_MAX)
    if soft not in (wanted, resource.RLIM_INFINITY):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):  # macOS refuses what kern.maxfilesperproc does not allow
            return soft
    return wanted


def wait_ready(descriptor: int, condition: int, seconds: float) -> bool:
    """Wait until a descriptor can be read (``READ``) or written (``WRITE``).

    Returns:
        Whether it can be before the time is over; a closed or broken one counts as ready.
    """
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN if condition == READ else select.POLLOUT)
        return bool(poll.poll(max(0.0, seconds) * 1000))
    # eventlet takes poll out of the module.
    read, write = ([descriptor], []) if condition == READ else ([], [descriptor])
    return any(select.select(read, write, [], max(0.0, seconds)))


if sys.platform == "linux":

    class Poller:
        """Watches many descriptors; is itself one descriptor, for an event loop to watch."""

        __slots__ = ("_epoll",)

        _WATCHED = select.EPOLLIN | select.EPOLLRDHUP

        def __init__(self) -> None:
            self._epoll = select.epoll()

        def fileno(self) -> int:
            """The descriptor that is readable when one of the watched is ready."""
            return self._epoll.fileno()

        def watch(self, descriptor: int) -> None:
            """Begin to watch a descriptor for what can be read, and for its end."""
            self._epoll.register(descriptor, self._WATCHED)

        def watch_writing(self, descriptor: int, *, wanted: bool) -> None:
            """Watch, or no longer watch, for room to write."""
            self._epoll.modify(descriptor, self._WATCHED | (select.EPOLLOUT if wanted else 0))

        def watch_reading(self, descriptor: int, *, wanted: bool) -> None:
            """Watch again, or for now only for its end, a descriptor that is not written to."""
            self._epoll.modify(descriptor, self._WATCHED if wanted else 0)

        def forget(self, descriptor: int) -> None:
            """Stop watching a descriptor, before it is closed."""
            # Closing would not do: epoll watches the open socket, which another process may hold.
            self._epoll.unregister(descriptor)

        def ready(self) -> list[tuple[int, bool, bool]]:
            """What is ready now: descriptor, whether to read, whether to write."""
            return [
                (descriptor, bool(events & ~select.EPOLLOUT), bool(events & select.EPOLLOUT))
                for descriptor, events in self._epoll.poll(0)
            ]

        def close(self) -> None:
            """Give the descriptor back."""
            self._epoll.close()

else:

    class Poller:
        """Watches many descriptors; is itself one descriptor, for an event loop to watch."""

        __slots__ = ("_kqueue",)

        def __init__(self) -> None:
            self._kqueue = select.kqueue()

        def fileno(self) -> int:
            return self._kqueue.fileno()

        def watch(self, descriptor: int) -> None:
            self._change(descriptor, select.KQ_FILTER_READ, select.KQ_EV_ADD)

        def watch_writing(self, descriptor: int, *, wanted: bool) -> None:
            change = select.KQ_EV_ADD if wanted else select.KQ_EV_DELETE
            self._change(descriptor, select.KQ_FILTER_WRITE, change)

        def watch_reading(self, descriptor: int, *, wanted: bool) -> None:
            change = select.KQ_EV_ENABLE if wanted else select.KQ_EV_DISABLE
            self._change(descriptor, select.KQ_FILTER_READ, change)

        def forget(self, descriptor: int) -> None:
            for condition in (select.KQ_FILTER_READ, select.KQ_FILTER_WRITE):
                try:
                    self._change(descriptor, condition, select.KQ_EV_DELETE)
                except OSError:  # it was not watched for this
                    continue

        def ready(self) -> list[tuple[int, bool, bool]]:
            return [
                (
                    event.ident,
                    event.filter == select.KQ_FILTER_READ,
                    event.filter == select.KQ_FILTER_WRITE,
                )
                for event in self._kqueue.control(None, 1024, 0)
            ]

        def close(self) -> None:
            self._kqueue.close()

        def _change(self, descriptor: int, condition: int, change: int) -> None:
            self._kqueue.control([select.kevent(descriptor, condition, change)], 0, 0)

"""The hub's door: a Unix socket that is private to one user, and one hub behind it.

Who serves a path holds a lock on the file ``<path>.lock`` for as long as it lives, and the kernel
takes the lock away from a process that is killed. So a second hub knows the first without asking
it, and a socket whose lock is free was left behind, and can go.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import weakref
from _socket import socket as RawSocket  # noqa: N812
from pathlib import Path

from ..exceptions import HubError
from . import platform

BACKLOG = 1024

logger = logging.getLogger("sidearm.hub")

_open: weakref.WeakSet[Listener] = weakref.WeakSet()


class Listener:
    """An open door.

    Args:
        path: The socket's path. Its folder is made, for this user only, if it is not there.
        inherited: What listens there already, and the locked file; see :meth:`inherit`.

    Raises:
        HubError: The path is too long, not writable, in use, or something else is there.

    Attributes:
        path: The socket's path.
        socket: What listens.
    """

    def __init__(self, path: str, inherited: tuple[RawSocket, int] | None = None) -> None:
        self.path = path
        self.socket, self._lock = inherited or _open_door(path)
        try:
            self._identity = _identity(os.lstat(path))
        except OSError as error:
            raise _cannot_listen(path, error) from error
        _open.add(self)

    @classmethod
    def inherit(cls, path: str, descriptor: int, lock: int) -> Listener:
        """The open door of a hub that is being replaced; owns both descriptors from now on.

        Args:
            path: The socket's path.
            descriptor: What listens there.
            lock: The locked file.

        Raises:
            HubError: Nothing is at the path any more.
        """
        return cls(path, (RawSocket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor), lock))

    @property
    def lock(self) -> int:
        """The descriptor of the locked file."""
        return self._lock

    def sign(self) -> None:
        """Write down which process serves the path, for people and messages."""
        try:
            _sign(self._lock)
        except OSError as error:  # such as a full disk; the lock itself holds
            logger.warning("%s.lock names the wrong process: %s.", self.path, error.strerror)

    def release(self) -> None:
        """Leave the socket and the lock to the process that has inherited them."""
        _open.discard(self)
        self.socket.close()
        os.close(self._lock)

    def fileno(self) -> int:
        """The descriptor that is readable when somebody knocks."""
        return self.socket.fileno()

    def accept(self) -> RawSocket:
        """Let the next one in.

        Raises:
            BlockingIOError: Nobody waits.
            OSError: Among others EMFILE: no descriptor is left.
        """
        descriptor, _ = self.socket._accept()  # type: ignore[attr-defined]  # noqa: SLF001
        return RawSocket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)

    def close(self) -> None:
        """Remove the socket and the lock."""
        _open.discard(self)
        for path, identity in (
            (self.path, self._identity),
            (self.path + ".lock", _identity(os.fstat(self._lock))),
        ):
            try:
                # Somebody may have tidied up, and another hub may have begun since.
                if _identity(os.lstat(path)) == identity:
                    Path(path).unlink()
            except FileNotFoundError:
                continue
        self.socket.close()
        os.close(self._lock)

    def leave_to_parent(self) -> None:
        """Close what a fork copied, so that the lock and the socket end with the hub's process."""
        self.socket.close()
        os.close(self._lock)


def _open_door(path: str) -> tuple[RawSocket, int]:
    _check_length(path)
    try:
        _prepare_folder(path)
        lock = _lock(path)
    except OSError as error:
        raise _cannot_listen(path, error) from error
    try:
        _remove_stale(path)
        return _listen(path), lock
    except BaseException as error:
        Path(path + ".lock").unlink(missing_ok=True)
        os.close(lock)
        if isinstance(error, OSError):
            raise _cannot_listen(path, error) from error
        raise


def _check_length(path: str) -> None:
    size, limit = len(os.fsencode(path)), platform.SOCKET_PATH_LIMIT
    if size > limit:
        raise HubError(
            f"The socket path {path!r} has {size} bytes; the system allows {limit}. Set"
            " SIDEARM_SOCKET to a shorter path.",
            path,
        )


def _prepare_folder(path: str) -> None:
    folder = Path(path).parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    owner = folder.stat().st_uid
    if owner not in (0, platform.effective_uid()):
        raise HubError(
            f"The folder of the socket path {path!r} belongs to user {owner}, who could replace"
            " the socket. Set SIDEARM_SOCKET to a path in a folder of your own.",
            path,
        )


def _lock(path: str) -> int:
    """Lock the path for this process, and write down which one it is."""
    import fcntl

    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        descriptor = os.open(path + ".lock", flags, 0o600)
        try:
            # flock and not lockf: it also tells two hubs of one process from each other.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise HubError(
                f"A hub already serves {path!r}: process {pid}. Stop it first, or set"
                " SIDEARM_SOCKET to another path.",
                path,
            ) from error
        if _is_current(descriptor, path + ".lock"):
            _sign(descriptor)
            return descriptor
        # Its owner ended, and removed the file, between our opening and our locking.
        os.close(descriptor)


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)


def _is_current(descriptor: int, path: str) -> bool:
    try:
        return _identity(os.fstat(descriptor)) == _identity(os.lstat(path))
    except FileNotFoundError:
        return False


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _remove_stale(path: str) -> None:
    """Remove a socket that nobody listens on; the lock is ours."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise HubError(
            f"The socket path {path!r} is taken by something that is no socket. Move it away, or"
            " set SIDEARM_SOCKET to another path.",
            path,
        )
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            Path(path).unlink()
            return
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EPROTOTYPE):
                raise
    raise HubError(
        f"The socket path {path!r} is served by a program that is no hub. Stop it, or set"
        " SIDEARM_SOCKET to another path.",
        path,
    )


def _listen(path: str) -> RawSocket:
    listener = RawSocket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        # Nobody can connect before listen(), so there is no moment at which others could.
        Path(path).chmod(0o600)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def _cannot_listen(path: str, error: OSError) -> HubError:
    return HubError(
        f"The hub cannot listen on {path!r}: {error.strerror or error}. Set SIDEARM_SOCKET to a"
        " path in a folder that this user may write.",
        path,
    )


def _leave_all_to_parent() -> None:
    for listener in list(_open):
        listener.leave_to_parent()
        _open.discard(listener)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)

"""The end of the hub's socket that reads the records of all processes."""

from __future__ import annotations

from ..exceptions import HubError, ProtocolError
from .link import Link
from .messages import ReadRecords, RecordsOf, Refused, ReporterLeft, Reporters, encode

PATIENCE = 2.0  # seconds


class RecordReader:
    """A connection on which the hub passes records on.

    Args:
        socket_path: The hub's socket.
        seconds: How long to wait for the hub.

    Attributes:
        hub_pid: The hub's process.

    Raises:
        HubError: There is no hub, or it cannot be understood; the message says what to do.
    """

    def __init__(self, socket_path: str, seconds: float = PATIENCE) -> None:
        self.socket_path = socket_path
        try:
            self._link = Link(socket_path, "tasks", seconds)
        except (OSError, ProtocolError) as error:
            raise NoHub(
                f"No hub answers on {socket_path!r} ({error}). Start one with 'flask sidearm up',"
                " or give the socket of the one that runs: --socket PATH, or SIDEARM_SOCKET.",
                socket_path,
            ) from error
        welcome = self._link.welcome
        self.hub_pid = welcome.pid
        if not welcome.records:
            self.close()
            raise HubError(
                f"The hub on {socket_path!r} (process {welcome.pid}) is of an older version, which"
                " passes no records on. Restart it.",
                socket_path,
            )

    def ask(self, *, count: int, failed: bool, follow: bool) -> None:
        """Ask for records, once.

        Args:
            count: How many of each process, the newest.
            failed: Only of rounds that failed or dropped something.
            follow: Whether new ones are wanted, too.

        Raises:
            OSError: The hub is gone.
        """
        self._link.send(encode(ReadRecords(count, failed, follow)), PATIENCE)

    def receive(self, seconds: float) -> list[Reporters | RecordsOf | ReporterLeft]:
        """What has come, or what comes next; empty if that takes longer than ``seconds``.

        Raises:
            OSError: The hub is gone.
            HubError: It said something else.
        """
        try:
            messages = self._link.receive(seconds)
        except ProtocolError as error:
            raise self._misunderstood(str(error)) from error
        known: list[Reporters | RecordsOf | ReporterLeft] = []
        for message in messages:
            if not isinstance(message, (Reporters, RecordsOf, ReporterLeft)):
                reason = message.reason if isinstance(message, Refused) else f"It said {message!r}."
                raise self._misunderstood(reason)
            known.append(message)
        return known

    def close(self) -> None:
        """Hang up."""
        self._link.close()

    def _misunderstood(self, reason: str) -> HubError:
        return HubError(
            f"The hub on {self.socket_path!r} and this command do not understand each other:"
            f" {reason} Restart the hub, or use the command of its version.",
            self.socket_path,
        )


class NoHub(HubError):
    """Nobody answers on the socket; a hub may come."""

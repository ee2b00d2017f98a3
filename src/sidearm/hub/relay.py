"""Passes records of tasks from the processes that made them to those who read them.

The hub keeps none of a process that runs: it asks when somebody reads, and while somebody follows,
processes send what is new. Only what a process leaves when it ends is kept, bounded, so that a
command and a recycled worker can still be asked about. Records are never decoded here.

Whoever follows gets each record once: what a process sends by itself is passed on to a reader only
after that process has answered the reader's question, and both are in the order of the process.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..exceptions import ProtocolError
from .connection import Connection
from .messages import (
    EncodedRecord,
    Leave,
    Message,
    ReadRecords,
    Records,
    RecordsOf,
    Report,
    ReporterLeft,
    Reporters,
    SendRecords,
)
from .state import ReaderState, RelayState, ReporterState

KEPT_RECORDS = 1000  # of processes that have ended
KEPT_BYTES = 1 << 20
UNREAD_LIMIT = 1 << 23  # bytes; a reader that does not read misses what comes beyond it
QUESTIONS_LIMIT = 1 << 16  # bytes; a process that does not read is asked nothing more
EVERY_RECORD = 1 << 31

Send = Callable[[Connection, Message], None]


@dataclass(slots=True, eq=False)
class Reporter:
    """A process that has records.

    Attributes:
        number: Its name in messages; process ids may come again.
        pid: The process.
        app: Its application.
        follow: What it was last told to send by itself.
    """

    number: int
    pid: int
    app: str
    follow: str = ""


@dataclass(slots=True, eq=False)
class Reader:
    """Somebody who reads.

    Attributes:
        request: Names this reader's question.
        wants: What it asked for.
        answered: The processes that have answered.
        missed: Whether something was not passed on, of which the reader has not been told.
    """

    request: int
    wants: ReadRecords
    answered: set[int] = field(default_factory=set)
    missed: bool = False


class Relay:
    """The records' part of a hub.

    Args:
        send: Sends a message on a connection, without waiting.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._reporters: dict[Connection, Reporter] = {}
        self._readers: dict[Connection, Reader] = {}
        self._left: deque[EncodedRecord] = deque()
        self._left_bytes = 0
        self._numbers = 0  # of processes
        self._requests = 0

    def take(self, connection: Connection, message: Report | Records | Leave | ReadRecords) -> None:
        """Handle a message.

        Raises:
            ProtocolError: It does not fit what the connection has said before.
        """
        match message:
            case Report():
                self._admit(connection, message)
            case ReadRecords():
                self._ask_for(connection, message)
            case Records():
                self._pass_on(self._reporter(connection), message)
            case Leave():
                self._inherit(self._reporter(connection), message)

    def state(self, connections: Sequence[Connection]) -> RelayState:
        """What a successor has to know.

        Args:
            connections: All of them, in the order in which the successor gets them.
        """
        places = {connection: place for place, connection in enumerate(connections)}
        return RelayState(
            self._numbers,
            self._requests,
            [
                ReporterState(places[each], r.number, r.pid, r.app, r.follow)
                for each, r in self._reporters.items()
            ],
            [
                ReaderState(
                    places[each], r.request, *_fields(r.wants), sorted(r.answered), r.missed
                )
                for each, r in self._readers.items()
            ],
            list(self._left),
        )

    def restore(self, state: RelayState, connections: Sequence[Connection]) -> None:
        """Go on where a predecessor stopped."""
        self._numbers, self._requests = state.numbers, state.requests
        for r in state.reporters:
            self._reporters[connections[r.worker]] = Reporter(r.number, r.pid, r.app, r.follow)
        for each in state.readers:
            wants = ReadRecords(each.count, each.failed, each.follow)
            self._readers[connections[each.worker]] = Reader(
                each.request, wants, set(each.answered), each.missed
            )
        self._left.extend(state.left)
        self._left_bytes = sum(len(record[1]) for record in self._left)

    def forget(self, connection: Connection) -> None:
        """Note that a connection is gone."""
        if self._readers.pop(connection, None) is not None:
            self._tell_what_to_follow()
        reporter = self._reporters.pop(connection, None)
        if reporter is not None:
            for reader in self._readers:
                self._send(reader, ReporterLeft(reporter.number))

    # Processes

    def _reporter(self, connection: Connection) -> Reporter:
        try:
            return self._reporters[connection]
        except KeyError:
            raise ProtocolError("Records came, and no report of who sends them.") from None

    def _admit(self, connection: Connection, message: Report) -> None:
        if connection in self._reporters:
            raise ProtocolError("It reported twice.")
        self._numbers += 1
        reporter = Reporter(self._numbers, message.pid, message.app)
        self._reporters[connection] = reporter
        for reader_connection, reader in self._readers.items():
            if reader.wants.follow:
                self._send(reader_connection, _introduce([reporter]))
                # It may have come back after this hub was restarted: all it has may be new.
                self._question(connection, reporter, reader, EVERY_RECORD)

    def _pass_on(self, reporter: Reporter, message: Records) -> None:
        for connection, reader in self._readers.items():
            if message.request == reader.request:
                self._answer(connection, reader, reporter, message.records, more=message.more)
            elif not message.request and reader.wants.follow and reporter.number in reader.answered:
                self._tell(connection, reader, reporter, message.records, missed=message.missed)

    def _inherit(self, reporter: Reporter, message: Leave) -> None:
        for connection, reader in self._readers.items():
            if reporter.number not in reader.answered:
                self._answer(connection, reader, reporter, message.records, more=message.more)
            elif reader.wants.follow:
                self._tell(connection, reader, reporter, message.records[message.seen :])
        for record in message.records:
            self._left.append(record)
            self._left_bytes += len(record[1])
        while self._left_bytes > KEPT_BYTES or len(self._left) > KEPT_RECORDS:
            self._left_bytes -= len(self._left.popleft()[1])

    # Readers

    def _ask_for(self, connection: Connection, message: ReadRecords) -> None:
        if connection in self._readers:
            raise ProtocolError("It asked for records twice.")
        self._requests += 1
        reader = self._readers[connection] = Reader(self._requests, message)
        self._send(connection, _introduce(self._reporters.values()))
        left = _chosen(self._left, message)[-message.count :]
        self._send(connection, RecordsOf(0, [data for _, data in left]))
        follow = self._what_to_follow()
        for reporter_connection, reporter in self._reporters.items():
            reporter.follow = follow
            self._question(reporter_connection, reporter, reader, message.count)

    def _answer(
        self,
        connection: Connection,
        reader: Reader,
        reporter: Reporter,
        records: Sequence[EncodedRecord],
        *,
        more: bool,
    ) -> None:
        """Pass an answer on; its end always, for the reader waits for it."""
        if connection.unread > UNREAD_LIMIT:
            reader.missed = True
            records = []
        chosen = [data for _, data in _chosen(records, reader.wants)]
        self._send(connection, RecordsOf(reporter.number, chosen, more, reader.missed))
        reader.missed = False
        if not more:
            reader.answered.add(reporter.number)

    def _tell(
        self,
        connection: Connection,
        reader: Reader,
        reporter: Reporter,
        records: Sequence[EncodedRecord],
        *,
        missed: bool = False,
    ) -> None:
        """Pass news on, unless the reader is too slow for them."""
        reader.missed = reader.missed or missed
        chosen = [data for _, data in _chosen(records, reader.wants)]
        if connection.unread > UNREAD_LIMIT:
            reader.missed = reader.missed or bool(chosen)
        elif chosen or reader.missed:
            self._send(connection, RecordsOf(reporter.number, chosen, False, reader.missed))
            reader.missed = False

    def _question(
        self, connection: Connection, reporter: Reporter, reader: Reader, count: int
    ) -> None:
        reporter.follow = self._what_to_follow()
        if connection.unread <= QUESTIONS_LIMIT:
            self._send(
                connection, SendRecords(reader.request, count, reader.wants.failed, reporter.follow)
            )

    def _what_to_follow(self) -> str:
        wanted = [reader.wants for reader in self._readers.values() if reader.wants.follow]
        if not wanted:
            return ""
        return "failed" if all(each.failed for each in wanted) else "all"

    def _tell_what_to_follow(self) -> None:
        follow = self._what_to_follow()
        for connection, reporter in self._reporters.items():
            if reporter.follow != follow and connection.unread <= QUESTIONS_LIMIT:
                reporter.follow = follow
                self._send(connection, SendRecords(0, 0, False, follow))


def _fields(wants: ReadRecords) -> tuple[int, bool, bool]:
    return wants.count, wants.failed, wants.follow


def _introduce(reporters: Iterable[Reporter]) -> Reporters:
    return Reporters([(each.number, each.pid, each.app) for each in reporters])


def _chosen(records: Iterable[EncodedRecord], wants: ReadRecords) -> list[EncodedRecord]:
    return [record for record in records if record[0] or not wants.failed]

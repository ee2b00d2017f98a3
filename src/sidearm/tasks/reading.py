"""Reads the records of all processes, through the hub: once, or on and on.

Records are merged by the time at which their rounds ended. While somebody follows, they come from
each process a few times a second; so each waits a moment for what another process has to say of the
same time.
"""

from __future__ import annotations

import heapq
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from ..exceptions import HubError
from ..hub.messages import RecordsOf, ReporterLeft, Reporters
from ..hub.reader import NoHub, RecordReader

ANSWER_PATIENCE = 2.0  # seconds for all processes to answer
WINDOW = 0.3  # seconds for which a record waits for earlier ones
RECONNECT_DELAY = 0.25  # seconds
OVER_INTERVAL = 1.0  # seconds
EVERY_RECORD = 1 << 31
REMEMBERED = 100_000  # records that are known again after a restart of the hub

#: The hub's number for what processes have left that have ended.
ENDED = 0


class Line(NamedTuple):
    """One record.

    Attributes:
        ended: When its round ended, as a Unix time in seconds.
        text: It as JSON.
        record: It as :meth:`Record.as_dict` gives it, with ``pid`` and ``app``.
    """

    ended: float
    text: str
    record: dict[str, Any]


class TaskReader:
    """Reads records.

    Args:
        socket_path: The hub's socket.
        count: How many past ones, the newest.
        failed: Only of rounds that failed or dropped something.
        notice: Called with a sentence about what is not as it should be.
        is_over: Asked once a second while there is nothing new; a true answer ends following.
    """

    def __init__(
        self,
        socket_path: str,
        *,
        count: int,
        failed: bool = False,
        notice: Callable[[str], None],
        is_over: Callable[[], bool] = bool,
    ) -> None:
        self._socket_path = socket_path
        self._count = count
        self._failed = failed
        self._notice = notice
        self._is_over = is_over
        self._processes: dict[int, str] = {}
        self._seen: set[int] = set()
        self._order: deque[int] = deque()

    def recent(self) -> list[Line]:
        """The newest records, oldest first.

        Raises:
            HubError: There is no hub, it cannot be understood, or it ended meanwhile.
        """
        reader = RecordReader(self._socket_path)
        try:
            lines = self._first(reader, self._count, follow=False)
        except OSError as error:
            raise HubError(
                f"The hub on {self._socket_path!r} ended while it was asked ({error}). Ask again.",
                self._socket_path,
            ) from error
        finally:
            reader.close()
        return lines[-self._count :]

    def follow(self) -> Iterator[Line]:
        """The newest records, oldest first, and then each new one, until it is over.

        Raises:
            HubError: There is no hub at the beginning, or one that cannot be understood.
        """
        began = time.time()
        reader = RecordReader(self._socket_path)
        count = self._count
        while True:
            try:
                lines = self._first(reader, count, follow=True)
                yield from lines[-count:] if count != EVERY_RECORD else self._since(began, lines)
                yield from self._news(reader, began)
            except OSError as error:
                self._notice(f"The hub on {self._socket_path!r} is away ({error}). Waiting for it.")
            else:
                return
            finally:
                reader.close()
            # What was settled meanwhile is still in the workers.
            again, count = self._reconnect(), EVERY_RECORD
            if again is None:
                return
            reader = again

    def _since(self, began: float, lines: Iterable[Line]) -> list[Line]:
        """What has come since this began: a process that comes back brings all that it has."""
        return [line for line in lines if line.ended >= began]

    def _reconnect(self) -> RecordReader | None:
        while not self._is_over():
            time.sleep(RECONNECT_DELAY)
            try:
                reader = RecordReader(self._socket_path)
            except NoHub:
                continue
            self._notice(f"The hub is back (process {reader.hub_pid}).")
            return reader
        return None

    def _first(self, reader: RecordReader, count: int, *, follow: bool) -> list[Line]:
        """What all processes answer that there are."""
        self._processes = {}
        reader.ask(count=count, failed=self._failed, follow=follow)
        deadline = time.monotonic() + ANSWER_PATIENCE
        waiting: set[int] | None = None
        lines: list[Line] = []
        while waiting is None or waiting:
            messages = reader.receive(max(0.0, deadline - time.monotonic()))
            if not messages and time.monotonic() >= deadline:
                break
            for message in messages:
                match message:
                    case Reporters():
                        self._introduce(message)
                        if waiting is None:
                            waiting = {ENDED, *self._processes}
                    case RecordsOf():
                        lines += self._lines(message)
                        if waiting is not None and not message.more:
                            waiting.discard(message.number)
                    case ReporterLeft():
                        if waiting is not None:
                            waiting.discard(message.number)
        self._explain(waiting)
        return sorted(lines, key=_by_end)

    def _explain(self, waiting: set[int] | None) -> None:
        if waiting is None:
            self._notice(f"The hub did not answer within {ANSWER_PATIENCE:g} seconds.")
        elif waiting:
            silent = ", ".join(self._processes.get(each, "the hub") for each in sorted(waiting))
            self._notice(
                f"No answer within {ANSWER_PATIENCE:g} seconds from: {silent}. It is stopped, or"
                " busy in code that lets no other thread run."
            )
        if waiting is not None and not self._processes:
            self._notice(
                "No running process has told this hub of its records. A worker does that with its"
                " first request."
            )

    def _news(self, reader: RecordReader, began: float) -> Iterator[Line]:
        heap: list[Line] = []
        try:
            while heap or not self._is_over():
                now = time.time()
                while heap and not now - WINDOW < heap[0].ended <= now:
                    yield heapq.heappop(heap)
                for message in reader.receive(WINDOW / 3 if heap else OVER_INTERVAL):
                    if isinstance(message, Reporters):
                        self._introduce(message)
                    elif isinstance(message, RecordsOf):
                        for line in self._since(began, self._lines(message)):
                            heapq.heappush(heap, line)
        except OSError:
            yield from sorted(heap, key=_by_end)
            raise

    def _introduce(self, message: Reporters) -> None:
        for number, pid, app in message.processes:
            self._processes[number] = f"process {pid} ({app})"

    def _lines(self, message: RecordsOf) -> Iterator[Line]:
        if message.missed:
            process = self._processes.get(message.number, "a process")
            self._notice(
                f"Some records of {process} are missing here: rounds were settled faster than they"
                " could be shown. A larger SIDEARM_RECORD_COUNT helps."
            )
        for data in message.records:
            if self._is_new(data):
                record = json.loads(data)
                yield Line(record["started"] + record["seconds"], data.decode(), record)

    def _is_new(self, data: bytes) -> bool:
        digest = hash(data)
        if digest in self._seen:
            return False
        self._seen.add(digest)
        self._order.append(digest)
        if len(self._order) > REMEMBERED:
            self._seen.discard(self._order.popleft())
        return True


def _by_end(line: Line) -> float:
    return line.ended

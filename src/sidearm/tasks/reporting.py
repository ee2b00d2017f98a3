"""Lets whoever asks the hub read this process's records.

Nothing is done for it while a request runs: records stay in their ring. A thread waits on a
connection to the hub, asleep, and reads the ring when somebody wants to see it: once, or, while
somebody follows, a few times a second. So it works for a blocking worker that is idle, too.

There is such a thread only where there is a hub: a record looks for one, at most once a second, and
when the hub is away for long the thread ends. At its end the process leaves its records to the hub,
so that commands and recycled workers can still be asked about.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..exceptions import HubError, ProtocolError
from ..hub.link import Link
from ..hub.messages import EncodedRecord, Leave, Report, SendRecords, encode
from ..hub.messages import Records as RecordsMessage
from .records import Entry, Record, Records

PATIENCE = 0.25  # seconds; the longest that the end of a process waits for the hub
HUB_PATIENCE = 1.0  # seconds; the thread may wait longer
TICK = 0.1  # seconds between two looks at the ring while somebody follows
UNFINISHED = 1.0  # seconds for which a record waits for the status of its request's response
IDLE = 3600.0  # seconds; any length will do
RECONNECT_DELAYS = (0.05, 0.1, 0.25, 0.5, 1.0)  # seconds; the last one repeats
RECONNECTS = 60  # attempts, one after the other; then the next record has to begin again
BATCH = 1 << 18  # bytes
LONGEST_LIST = 500  # calls of one record that left, or were dropped

logger = logging.getLogger("sidearm.tasks")
_reporters: weakref.WeakSet[Reporter] = weakref.WeakSet()


class Reporter:
    """Sends the records of one application in this process when the hub asks for them.

    Args:
        records: Where they are kept.
        app: The application's name.
        socket_path: The hub's socket.
    """

    def __init__(self, records: Records, app: str, socket_path: str) -> None:
        self._records = records
        self._app = app
        self._socket_path = socket_path
        # The newest record that is another process's: a fork copies them.
        self._inherited: Entry | None = None
        self._start()
        _reporters.add(self)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._link: Link | None = None
        self._may_report = False
        # The newest record that was sent as news, while somebody follows.
        self._newest: Entry | None = None

    def ensure(self, start_hub: Callable[[], None] | None = None) -> None:
        """See to it that the hub can ask, if there is one; does not wait.

        Args:
            start_hub: Starts a hub if there is none; called by the thread. Without it there has to
                be a socket.
        """
        self._may_report = True
        if self._thread is not None or self._closing.is_set():
            return
        if start_hub is None and not Path(self._socket_path).exists():
            return
        with self._lock:
            if self._thread is not None:
                return
            thread = threading.Thread(
                target=self._run, args=(start_hub,), name="sidearm-records", daemon=True
            )
            try:
                thread.start()
            except RuntimeError as error:  # the interpreter is about to end
                logger.debug("No thread could be started: %s", error)
                return
            self._thread = thread

    def close(self) -> None:
        """Leave the records to the hub, and hang up; waits for a quarter of a second at most."""
        self._closing.set()
        if not self._may_report:
            return
        link = self._link
        if link is None and self._snapshot() and Path(self._socket_path).exists():
            with contextlib.suppress(OSError, HubError, ProtocolError):
                link = self._connect(PATIENCE)
        if link is None:
            return
        # The thread may be in the middle of an answer.
        if link.welcome.records and self._sending.acquire(timeout=PATIENCE):
            try:
                self._leave(link)
            except OSError as error:
                logger.debug("The hub on %r was not told of records: %s", self._socket_path, error)
            finally:
                self._sending.release()
        link.end()
        if self._link is None:  # else the thread closes it
            link.close()

    # The thread

    def _run(self, start_hub: Callable[[], None] | None) -> None:
        try:
            self._stay_connected(start_hub)
        except Exception:
            logger.exception(
                "'flask sidearm tasks' cannot see the records of process %d for now.", os.getpid()
            )
        finally:
            self._thread = None

    def _stay_connected(self, start_hub: Callable[[], None] | None) -> None:
        failures = 0
        while failures < RECONNECTS and not self._closing.is_set():
            try:
                if start_hub is not None:
                    start_hub()
                link = self._connect(HUB_PATIENCE)
            except (OSError, HubError, ProtocolError) as error:
                logger.debug("The hub on %r is away: %s", self._socket_path, error)
                delay = RECONNECT_DELAYS[min(failures, len(RECONNECT_DELAYS) - 1)]
                failures += 1
                self._closing.wait(delay)
                continue
            failures = 0
            self._link = link
            try:
                self._serve(link)
            except (OSError, ProtocolError) as error:
                logger.debug("The hub on %r is gone: %s", self._socket_path, error)
            finally:
                self._link = None
                link.close()

    def _connect(self, seconds: float) -> Link:
        link = Link(self._socket_path, "records", seconds)
        if link.welcome.records:
            try:
                link.send(encode(Report(os.getpid(), self._app)), seconds)
            except BaseException:
                link.close()
                raise
        return link

    def _serve(self, link: Link) -> None:
        """Answer until the hub hangs up, or until this process does."""
        follow = ""
        while not self._closing.is_set():
            messages = link.receive(TICK if follow else IDLE)
            # Who closes the reporter goes on where this has come to.
            with self._sending:
                if self._closing.is_set():
                    return
                for message in messages:
                    if not isinstance(message, SendRecords):
                        raise ProtocolError(f"The hub said {message!r} and asked for no records.")
                    if follow:
                        self._send_news(link, follow)
                    if message.request:
                        self._answer(link, message, begins=not follow)
                    follow = message.follow
                if follow:
                    self._send_news(link, follow)

    def _answer(self, link: Link, message: SendRecords, *, begins: bool) -> None:
        snapshot = self._snapshot()
        if begins:
            self._newest = snapshot[-1] if snapshot else None
        else:  # what was sent as news is what the others have: the answer ends there
            known = _after(snapshot, self._newest)
            snapshot = snapshot[: len(snapshot) - len(known)] if known is not None else snapshot
        chosen = [each for each in snapshot if not message.failed or has_failed(each)]
        batches = list(self._batches(chosen[-message.count :])) or [[]]
        for position, batch in enumerate(batches, 1):
            more = position < len(batches)
            link.send(encode(RecordsMessage(message.request, batch, more)), HUB_PATIENCE)

    def _send_news(self, link: Link, follow: str) -> None:
        snapshot = self._snapshot()
        if not snapshot or snapshot[-1] is self._newest:
            return
        news = _after(snapshot, self._newest)
        missed = news is None
        news = snapshot if news is None else news
        chosen = [each for each in news if follow == "all" or has_failed(each)]
        for batch in self._batches(chosen) if chosen or not missed else [[]]:
            link.send(encode(RecordsMessage(0, batch, missed=missed)), HUB_PATIENCE)
            missed = False
        self._newest = snapshot[-1]

    def _leave(self, link: Link) -> None:
        snapshot = self._snapshot()
        unseen = _after(snapshot, self._newest)
        seen = 0 if unseen is None else len(snapshot) - len(unseen)
        batches = list(self._batches(snapshot))
        for position, batch in enumerate(batches, 1):
            more = position < len(batches)
            link.send(encode(Leave(batch, min(seen, len(batch)), more)), PATIENCE)
            seen = max(0, seen - len(batch))

    def _snapshot(self) -> Sequence[Entry]:
        """This process's own records, without the newest ones that are not finished."""
        entries: Sequence[Entry] = list(self._records.entries)
        own = _after(entries, self._inherited)
        entries = entries if own is None else own
        now = time.time()
        for position, entry in enumerate(entries):
            if not self._closing.is_set() and _is_unfinished(entry, now):
                return entries[:position]
        return entries

    def _batches(self, entries: Sequence[Entry]) -> Iterator[list[EncodedRecord]]:
        pid = os.getpid()
        batch: list[EncodedRecord] = []
        size = 0
        for entry in entries:
            data = encode_record(entry, pid, self._app)
            if batch and size + len(data) > BATCH:
                yield batch
                batch, size = [], 0
            batch.append((has_failed(entry), data))
            size += len(data)
        if batch:
            yield batch

    # Forks

    def _start_after_fork(self) -> None:
        """Leave the connection to the parent, and its records too."""
        if self._link is not None:
            self._link.close()
        self._inherited = self._records.entries[-1] if self._records.entries else None
        self._start()
        self._records.look_again()


def has_failed(entry: Entry) -> bool:
    """Whether a round was rolled back, dropped something, or met an error when it settled."""
    decision, dropped, errors = entry[2], entry[5], entry[6]
    return not decision.commit or bool(dropped) or bool(errors)


def encode_record(entry: Entry, pid: int, app: str) -> bytes:
    """One record as a line of JSON, without the end of the line.

    Args:
        entry: What the record is made of.
        pid: The process.
        app: The application's name.
    """
    record: dict[str, Any] = {"pid": pid, "app": app, **Record(*entry).as_dict()}
    for name in ("left", "dropped", "errors"):
        record[name] = _shortened(name, record[name])
    try:
        return msgspec.json.encode(record)
    except UnicodeEncodeError:  # a lone surrogate in a name or reason
        return json.dumps(record).encode()


def _shortened(name: str, calls: list[object]) -> list[object]:
    """A list that one line can hold; what is cut off is counted in its last item."""
    if len(calls) <= LONGEST_LIST:
        return calls
    rest = f"and {len(calls) - LONGEST_LIST} more"
    last = {"call": rest, "reason": "not shown"} if name == "dropped" else rest
    return [*calls[:LONGEST_LIST], last]


def _after(entries: Sequence[Entry], known: Entry | None) -> Sequence[Entry] | None:
    """The entries after a known one, all if it is ``None``; ``None`` if it is no longer there."""
    if known is None:
        return entries
    for position in range(len(entries) - 1, -1, -1):
        if entries[position] is known:
            return entries[position + 1 :]
    return None


def _is_unfinished(entry: Entry, now: float) -> bool:
    """Whether a request's round settled, and its response is still being made (an error page)."""
    status, _, kind, _, _ = entry[0]
    return status is None and kind == "request" and 0 <= now - entry[9] < UNFINISHED


def _start_all_after_fork() -> None:
    for reporter in list(_reporters):
        reporter._start_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_after_fork)

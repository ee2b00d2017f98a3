"""The leading hub's part in a row of hubs: it makes their log, and tells it to those that follow.

Several hubs of one machine share its streams. The first has the log: workers publish to it, and
it is a follower of its own log like all others, so that an id that one of them gives out is known
to each. The others ask it over the socket on which workers find it::

    follower                       leading hub
    AskHead  ------------------>
             <------------------   Head
    ReadLog  ------------------>
             <------------------   LogPart   (at once, or when something happens)

A follower asks again for what comes next, so one that is slow gets more at a time, and no answers
pile up.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from ..brokers import Entry, Item
from ..brokers.items import item_of, words_of
from ..exceptions import ProtocolError
from .connection import Connection
from .feed import Feed
from .followed import FollowedLog
from .messages import AskHead, EntryWords, Head, LogPart, Message, ReadLog

logger = logging.getLogger("sidearm.hub")

Send = Callable[[Connection, Message], None]


class Lead:
    """Answers the hubs that follow.

    Args:
        log: This hub's, which follows the feed.
        feed: What happened.
        send: Sends a message on a connection, without waiting.
    """

    __slots__ = ("_feed", "_log", "_read", "_send", "_waiting")

    def __init__(self, log: FollowedLog, feed: Feed, send: Send) -> None:
        self._log = log
        self._feed = feed
        self._send = send
        self._waiting: dict[Connection, int] = {}
        self._read: dict[Connection, int] = {}  # up to where each follower has

    def append(self, items: Iterable[Item]) -> list[Entry]:
        """Put items into the log; the followers hear of them by the next :meth:`tell`."""
        read = min(self._read.values(), default=None)
        return self._feed.append(items, self._log.clock.now(), read)

    def take(self, connection: Connection, message: AskHead | ReadLog) -> None:
        """Answer a follower, or let it wait."""
        clock = self._log.clock
        match message:
            case AskHead():
                self._send(connection, Head(clock.epoch, self._feed.last, clock.offset))
            case ReadLog(after, wait):
                self._read[connection] = after
                if wait and after >= self._feed.last:
                    self._waiting[connection] = after
                else:
                    self._answer(connection, after)

    def tell(self) -> None:
        """Answer those who wait, if there is something for them."""
        for connection, after in list(self._waiting.items()):
            if after < self._feed.last:
                self._answer(connection, after)

    def release(self) -> None:
        """Answer all who wait, for another process goes on: they ask again."""
        for connection, after in list(self._waiting.items()):
            self._answer(connection, after)

    def forget(self, connection: Connection) -> None:
        """Note that a connection is gone."""
        self._waiting.pop(connection, None)
        self._read.pop(connection, None)

    def kept(self) -> Iterable[EntryWords]:
        """What a successor has to know of the feed, oldest first."""
        return map(_words, self._feed.kept())

    def restore(self, entries: Iterable[EntryWords]) -> None:
        """Go on where a predecessor stopped."""
        self._feed.restore([entry_of(each) for each in entries])

    def _answer(self, connection: Connection, after: int) -> None:
        self._waiting.pop(connection, None)
        part = LogPart(after, [_words(entry) for entry in self._feed.after(after)])
        try:
            self._send(connection, part)
        except (ProtocolError, OSError) as error:
            logger.debug("A hub that follows was not told: %s", error)
            connection.hang_up()


def _words(entry: Entry) -> EntryWords:
    kind, name, body = ("", "", b"") if entry.item is None else words_of(entry.item)
    return entry.position, entry.before, kind, name, body


def entry_of(words: EntryWords) -> Entry:
    """An entry as the leading hub tells it."""
    position, before, kind, name, body = words
    return Entry(position, before, item_of(kind, name, body))

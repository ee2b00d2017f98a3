"""The hub follows a broker's log: one connection, one wait for all its subscribers.

What is read is taken in at once, in order, so the hub's log is always a copy of the broker's up to
one place. When the broker is away the hub goes on with what it has: streams open and resume, only
nothing happens in them. When it is back, the hub reads on from its place.

Whether it may read on is never guessed. Each entry names the one before it, and the log has an
epoch. If either is not what it should be, entries are gone that clients have not seen, or have seen
and nobody else will: then the hub begins again with the log as it is now, and tells every client of
the gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Sequence

from ..brokers import Broker, Entry, Event, Reader
from ..brokers.pace import READ_COUNT
from ..exceptions import BrokerError
from .core import Hub
from .followed import FollowedLog

WAIT = 1.0  # seconds for one question, after which the hub asks for the log's epoch
DELAYS = (0.05, 0.1, 0.2, 0.5, 1.0)  # seconds before the broker is tried again; the last repeats
GATHER = 0.01  # seconds in which entries that come densely are gathered into one answer
GATHER_COUNT = READ_COUNT  # entries of an answer behind which more may wait
GATHER_SIZE = 1 << 18  # bytes of one
NEWS_SIZE = 1 << 18  # bytes of events that clients are told after the gap
STOP_PATIENCE = 0.5  # seconds
FIRST_PATIENCE = 2.0  # seconds; a hub that begins waits so long for its log

logger = logging.getLogger("sidearm.hub")


@contextlib.asynccontextmanager
async def followed(hub: Hub, broker: Broker | None) -> AsyncGenerator[None]:
    """Follow a broker's log inside the block; a hub that begins waits a moment for it.

    Args:
        hub: Whose log is a copy of it.
        broker: Where it is; None: the hub's log is its own.
    """
    if broker is None or hub.followed is None:
        yield
        return
    follower = Follower(hub, hub.followed, broker)
    follower.start()
    try:
        if hub.predecessor is None:
            await follower.wait()
        yield
    finally:
        await follower.stop()


class Follower:
    """Keeps a hub's log up with its broker's.

    Args:
        hub: The hub.
        log: Its log.
        broker: Where the log is.
    """

    def __init__(self, hub: Hub, log: FollowedLog, broker: Broker) -> None:
        self._hub = hub
        self._log = log
        self._broker = broker
        self._failures = 0
        self._has_tried = asyncio.Event()
        self._read = 0  # answers
        self._met = 0.0  # by the loop's clock
        self._arrived = 0.0  # the last entries, by the loop's clock
        self._task: asyncio.Task[None] | None = None
        self._is_over = False
        self._has_followed = hub.predecessor is not None

    def start(self) -> None:
        """Follow from now on, in the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Follow no more, and hang up."""
        self._is_over = True
        while self._task is not None and not self._task.done():
            # The broker's library may take it for a wait of its own that has ended.
            self._task.cancel()
            await asyncio.wait([self._task], timeout=STOP_PATIENCE)

    async def wait(self) -> None:
        """Wait until the log was read, or could not be, or nothing more comes of it.

        A hub that began in the middle of a long log would know no id of its clients.
        """
        while not self._has_tried.is_set():
            read = self._read
            try:
                await asyncio.wait_for(self._has_tried.wait(), FIRST_PATIENCE)
            except TimeoutError:
                if self._read == read:
                    break
        else:
            return
        logger.warning("The broker %s does not answer. The hub begins.", self._broker.name)

    async def _run(self) -> None:
        """Follow for ever; a broker that is away is tried again and again."""
        while not self._is_over:
            reader: Reader | None = None
            try:
                reader = self._broker.reader()
                await self._follow(reader)
            except BrokerError as error:
                if not self._failures:
                    logger.warning("%s. Streams stay open, and wait for it.", error)
            except Exception:
                # Nobody waits for this task: without this it would end in silence.
                logger.exception("The hub stumbled over what %s said.", self._broker.name)
            finally:
                if reader is not None:
                    await _hang_up(reader)
            self._has_tried.set()
            delay = DELAYS[min(self._failures, len(DELAYS) - 1)]
            self._failures += 1
            # A broker that is back is not to meet all its hubs in one moment.
            await asyncio.sleep(delay * (0.5 + random.random()))  # noqa: S311 - no secret

    async def _follow(self, reader: Reader) -> None:
        await self._meet(reader)
        self._has_tried.set()
        if self._failures:
            logger.warning("The broker %s is back.", self._broker.name)
        self._failures = 0
        while not self._is_over:
            entries = await reader.read(self._log.last, WAIT)
            # It may have been emptied, and say nothing more; or have another epoch, because entries
            # were lost that this hub had not read.
            is_due = not entries or asyncio.get_running_loop().time() - self._met > WAIT
            if is_due and await self._meet(reader):
                continue
            if not _are_joined(self._log.last, entries):
                await self._mend(reader)
            elif entries:
                self._hub.follow(entries)
                await self._rest(entries)

    async def _rest(self, entries: Sequence[Entry]) -> None:
        """Wait a moment before more is asked for, where entries come one upon the other.

        Each question costs the broker as much as many entries do, and it is asked by every hub. An
        entry that comes alone, or the second of two, waits for nobody; nor does a hub that is
        behind.
        """
        now = asyncio.get_running_loop().time()
        is_full = len(entries) >= GATHER_COUNT or _size(entries) >= GATHER_SIZE
        is_dense = now - self._arrived < 2 * GATHER and not is_full
        self._arrived = now
        # Whatever there is to read, the hub has other things to do.
        await asyncio.sleep(GATHER if is_dense else 0)

    async def _meet(self, reader: Reader) -> bool:
        """See whether the log is still the one that the hub has a copy of; True: it was not."""
        self._met = asyncio.get_running_loop().time()
        head = await reader.head()
        if head.epoch != self._log.clock.epoch:
            await self._begin_again(reader)
            return True
        if head.last < self._log.last:
            await self._mend(reader)
            return True
        return False

    async def _mend(self, reader: Reader) -> None:
        """Begin again, because entries are missing between the hub's place and what follows."""
        head = await reader.head()
        entries = await self._all(reader)
        was_trimmed = bool(entries) and entries[0].before >= self._log.last
        if head.epoch == self._log.clock.epoch and not was_trimmed:
            # Entries that were read are gone: positions were given to clients that will be given
            # again, or never. No id of this epoch can be trusted any more.
            logger.warning(
                "The broker %s has lost entries of its log that it had accepted. Every client is"
                " told of the gap.",
                self._broker.name,
            )
            await reader.renew(head.epoch)
        await self._begin_again(reader)

    async def _begin_again(self, reader: Reader) -> None:
        while True:
            head = await reader.head()
            entries = await self._all(reader)
            is_whole = not entries or _are_joined(entries[0].before, entries)
            if is_whole and (await reader.head()).epoch == head.epoch:
                break
        known = len(entries)
        if self._has_followed:
            known = _count_known(entries, self._log.last)
        self._has_followed = True
        floor = entries[0].before if entries else head.last
        # What nobody has heard yet is read again, and heard.
        self._hub.begin_again(head, floor, entries[:known])

    async def _all(self, reader: Reader) -> list[Entry]:
        """All that is left of a log."""
        entries: list[Entry] = []
        while more := await reader.read(entries[-1].position if entries else 0, 0):
            entries += more
            self._read += 1
        return entries


def _count_known(entries: list[Entry], last: int) -> int:
    """How many entries of a log were seen already; all, if the others are too much to tell.

    Positions tell the time, also those of a log that begins anew. Its first entry says only that.
    """
    known = sum(entry.position <= last or not entry.before for entry in entries)
    return known if _size(entries[known:]) <= NEWS_SIZE else len(entries)


def _size(entries: Sequence[Entry]) -> int:
    """The bytes of the events among entries."""
    return sum(len(entry.item.body) for entry in entries if isinstance(entry.item, Event))


def _are_joined(place: int, entries: list[Entry]) -> bool:
    """Whether entries follow a place, and one another, with none missing between."""
    for entry in entries:
        if entry.before != place:
            return False
        place = entry.position
    return True


async def _hang_up(reader: Reader) -> None:
    try:
        await reader.close()
    except Exception as error:  # noqa: BLE001  # it is gone either way
        logger.debug("The broker's connection could not be closed: %r", error)

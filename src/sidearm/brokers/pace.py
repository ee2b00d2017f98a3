"""How long a broker is waited for, and how much is asked of it at once."""

from __future__ import annotations

CONNECT_PATIENCE = 2.0  # seconds
PATIENCE = 3.0  # seconds for an answer
SENDER_AGE = 3600  # seconds; no call is repeated after so long
QUIET = 10.0  # seconds without an entry, after which the time is marked
READ_COUNT = 500  # entries


class ReadPace:
    """How many entries are asked for at once: fewer, where an answer takes too long.

    All of one answer has to come in one patience, and entries may be large and a line slow.

    Attributes:
        count: Entries.
    """

    def __init__(self) -> None:
        self.count = READ_COUNT

    def timed_out(self) -> None:
        """Ask for fewer."""
        self.count = max(1, self.count // 4)

    def went_well(self) -> None:
        """Ask for more again."""
        self.count = min(READ_COUNT, self.count * 2)

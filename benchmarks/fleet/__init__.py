"""What fifty hubs with a million subscribers would carry, and where it ends first.

Nobody has a million subscribers on one machine. So what one step costs is measured, for real, on
Redis and one hub; a simulation (:mod:`.simulation`) takes those steps for as many hubs as asked;
and what it says of 1, 2 and 4 hubs is held against as many real ones, under loads that it was not
measured by.
"""

from .driver import main

__all__ = ["main"]

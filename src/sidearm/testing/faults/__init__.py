"""Faults for applications: one view, run again and again, failing once at each of its steps.

``points`` stands where the task core and Flask pass by, ``drivers`` where statements do, and all
report to the :class:`~sidearm.testing.faults.trace.Trace` of the run. Nothing of it is there while
no run is under way: methods are replaced when a run begins and put back when it ends.
"""

from __future__ import annotations

from .report import FaultReport as FaultReport
from .report import FaultRun as FaultRun
from .runner import Faults as Faults

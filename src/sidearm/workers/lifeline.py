"""No process outlives the one that started it, not even after a SIGKILL.

A *lifeline* is a pipe whose write end only the parent holds: when the parent is gone, however it
went, the read end reports end of file. On Linux the kernel says so with a signal; elsewhere a
thread waits for it. What a platform lacks is asked for here.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import threading

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent(lifeline: int) -> None:
    """Have this process sent SIGTERM when its parent is gone, or end at once if it is already.

    Args:
        lifeline: The read end of the parent's pipe.

    Raises:
        SystemExit: The parent has gone.
    """
    if not _signal_at_parents_death(signal.SIGTERM):
        threading.Thread(
            target=_wait_for_end, args=(lifeline,), name="sidearm-lifeline", daemon=True
        ).start()
    # The parent may have gone before the kernel was asked.
    if select.select([lifeline], [], [], 0)[0]:
        sys.exit(1)


def _signal_at_parents_death(number: signal.Signals) -> bool:
    """Whether the kernel promised the signal. The promise is not inherited by forked children."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return bool(libc.prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0)


def _wait_for_end(lifeline: int) -> None:
    while os.read(lifeline, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)

"""Is that process still the one we started, and how does ours learn that its parent is gone?"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # prctl(2)


def start_time(pid: int) -> int | None:
    """
    Clock ticks after boot at which the process started, None if there is none (or only its zombie). A pid and its
    start time together name a process for good; a pid alone is reused.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def die_with_parent(parent: int, by: signal.Signals = signal.SIGTERM) -> None:
    """
    Get this signal when the parent, whose pid is `parent`, ends. Sandboxes and the proxy aren't our children, so they
    stay: a killed supervisor takes only the processes down that the next one starts again.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:  # It ended before the line above.
        os.kill(os.getpid(), by)

"""What does every process of a cloud do first?"""

from __future__ import annotations

import gc
import os
from pathlib import Path

from shellwego.kit.processes import die_with_parent
from shellwego.observability.logs import set_up_logging
from shellwego.processes.supervisor import SUPERVISOR_VARIABLE

_COLLECTOR_THRESHOLDS = (700, 10, 10)
"""CPython's own; `processes.main` raises the first one for the imports."""


def begin(process: str, logs: Path) -> None:
    """
    Log into the cloud's directory `logs`, and end with the supervisor if there is one. What was imported is here to
    stay: the collector need not look at it again, so it can come as often as Python means it to.
    """
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)
    set_up_logging(process, logs)
    supervisor = os.environ.get(SUPERVISOR_VARIABLE)
    if supervisor is not None:
        die_with_parent(int(supervisor))

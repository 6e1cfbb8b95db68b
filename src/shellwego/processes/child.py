"""What does every process of a cloud do first?"""

from __future__ import annotations

import os
from pathlib import Path

from shellwego.kit.processes import die_with_parent
from shellwego.observability.logs import set_up_logging
from shellwego.processes.supervisor import SUPERVISOR_VARIABLE


def begin(process: str, logs: Path) -> None:
    """Log into the cloud's directory `logs`, and end with the supervisor if there is one."""
    set_up_logging(process, logs)
    supervisor = os.environ.get(SUPERVISOR_VARIABLE)
    if supervisor is not None:
        die_with_parent(int(supervisor))

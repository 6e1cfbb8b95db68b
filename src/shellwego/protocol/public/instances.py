"""An instance, and how a command inside it is spoken with."""

from __future__ import annotations

import datetime as dt

from shellwego.core.instances import InstanceGoal, InstanceState
from shellwego.protocol.public.bodies import Answer

# `GET /v1/instances/{id}/exec?command=...&command=...&tty=true&columns=80&rows=24` upgrades to a WebSocket with the
# subprotocol `shellwego.exec.v1`. Binary messages start with a channel byte: 0 stdin (empty: end of it), 1 stdout,
# 2 stderr. Text messages are JSON: {"resize": {"columns": 80, "rows": 24}} or {"signal": 2} to the server,
# {"exit": 0} or {"problem": Problem} from it, as the last message.


class Instance(Answer):
    """`state` and what follows were seen by the node at `observed_at`; `stale` says it is silent since."""

    id: str
    app: str
    app_name: str
    release: str
    process: str
    goal: InstanceGoal
    state: InstanceState
    reason: str = ""
    node: str | None = None
    node_name: str | None = None
    address: str | None = None
    port: int | None = None
    restarts: int = 0
    exit_reason: str | None = None
    exit_code: int | None = None
    started_at: dt.datetime | None = None
    created_at: dt.datetime
    observed_at: dt.datetime | None = None
    stale: bool = False

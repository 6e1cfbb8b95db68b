"""How far is a deployment?

A deployment brings one app from whatever runs now to one release. At most one deployment of an app is under way; a
newer one supersedes it. Every allowed move stands in ALLOWED.
"""

from __future__ import annotations

from enum import StrEnum


class DeploymentState(StrEnum):
    QUEUED = "queued"  # accepted; nothing done
    BUILDING = "building"  # source to image
    RESOLVING = "resolving"  # image reference to digest
    ROLLING = "rolling"  # instances are being replaced
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # the release before it goes on serving
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"  # a newer deployment took over

    @property
    def is_terminal(self) -> bool:
        return not ALLOWED[self]


class DeploymentKind(StrEnum):
    """What asked for it, as people see it in the list of releases."""

    DEPLOY = "deploy"
    CONFIG = "config"
    ROLLBACK = "rollback"
    RESTART = "restart"


_S = DeploymentState
_ENDS = frozenset({_S.FAILED, _S.CANCELLED, _S.SUPERSEDED})

ALLOWED: dict[DeploymentState, frozenset[DeploymentState]] = {
    _S.QUEUED: frozenset({_S.BUILDING, _S.RESOLVING, _S.ROLLING}) | _ENDS,
    _S.BUILDING: frozenset({_S.ROLLING, _S.QUEUED}) | _ENDS,  # back to the queue when the server died meanwhile
    _S.RESOLVING: frozenset({_S.ROLLING, _S.QUEUED}) | _ENDS,
    _S.ROLLING: frozenset({_S.SUCCEEDED}) | _ENDS,
    _S.SUCCEEDED: frozenset(),
    _S.FAILED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.SUPERSEDED: frozenset(),
}


def may_move(now: DeploymentState, then: DeploymentState) -> bool:
    """Whether a deployment may change so. Staying is always allowed."""
    return now is then or then in ALLOWED[now]

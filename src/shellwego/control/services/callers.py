"""On whose behalf is something done, and what may they do?"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from shellwego.core.errors import Forbidden
from shellwego.core.ids import OrganisationId, TokenId, UserId


@dataclass(frozen=True, slots=True)
class Caller:
    """A signed-in user. `token` or `session` is what they came with, and `expires_at` when that ends by itself."""

    user: UserId
    email: str
    organisation: OrganisationId
    organisation_name: str
    operator: bool = False
    token: TokenId | None = None
    session: str | None = None
    expires_at: dt.datetime | None = None


def ensure_operator(caller: Caller) -> None:
    """Raises Forbidden."""
    if not caller.operator:
        raise Forbidden("an operator of this cloud")

"""Of a user's tokens that stand, no two have one name.

Revision: v0003, after v0002. Two that were made at the same moment may have one: the later gets its id into its name,
so that both go on opening what they open.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0003"
down_revision = "v0002"
branch_labels = None
depends_on = None

_tokens = sa.table("api_tokens", *map(sa.column, ("id", "user", "name", "created_at", "revoked_at")))


def upgrade() -> None:
    earlier = _tokens.alias()
    stand = _tokens.c.revoked_at.is_(None)
    twin = sa.exists().where(
        earlier.c.user == _tokens.c.user,
        earlier.c.name == _tokens.c.name,
        earlier.c.revoked_at.is_(None),
        sa.tuple_(earlier.c.created_at, earlier.c.id) < sa.tuple_(_tokens.c.created_at, _tokens.c.id),
    )
    name = sa.func.substr(_tokens.c.name, 1, 75).concat(" ").concat(_tokens.c.id)
    op.execute(sa.update(_tokens).where(stand, twin).values(name=name))
    op.create_index(
        "uq_api_tokens_user_name_standing",
        "api_tokens",
        ["user", "name"],
        unique=True,
        sqlite_where=sa.text("revoked_at IS NULL"),
        postgresql_where=sa.text("revoked_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_index("uq_api_tokens_user_name_standing", "api_tokens")

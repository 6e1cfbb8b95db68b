"""A node says whether anything can start there; nobody asks any more when a drain began by the wall clock.

Revision: v0002, after v0001.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "v0002"
down_revision = "v0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("nodes", sa.Column("unfit", sa.Text(), nullable=False, server_default=""))
    op.drop_column("instances", "drain_started_at")


def downgrade() -> None:
    op.add_column("instances", sa.Column("drain_started_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_column("nodes", "unfit")

"""The first tables.

Revision: v0001, after nothing. What is written here stays as it is; later changes are later revisions.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "v0001"
down_revision = None
branch_labels = None
depends_on = None


def _json() -> sa.types.TypeEngine[Any]:
    return sa.JSON().with_variant(postgresql.JSONB(), "postgresql")


def _sequence() -> sa.types.TypeEngine[Any]:
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "cloud",
        sa.Column("singleton", sa.Integer(), nullable=False),
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("domain", sa.String(length=253), nullable=False),
        sa.Column("assignment_epoch", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("singleton", name="pk_cloud"),
        sa.CheckConstraint("singleton = 1", name="ck_cloud_one_cloud"),
    )
    op.create_table(
        "dead_letters",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("consumer", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("payload", _json(), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_dead_letters"),
    )
    op.create_table(
        "edges",
        sa.Column("id", sa.String(length=253), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("problems", sa.JSON(), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_edges"),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("organisation", sa.String(length=24), nullable=False),
        sa.Column("user", sa.String(length=24), nullable=False),
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("method", sa.String(length=8), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("request_hash", sa.String(length=64), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("organisation", "user", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)
    op.create_table(
        "image_mappings",
        sa.Column("pattern", sa.String(length=256), nullable=False),
        sa.Column("image", sa.String(length=512), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("pattern", name="pk_image_mappings"),
    )
    op.create_table(
        "nodes",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("name", sa.String(length=253), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("runtimes", sa.JSON(), nullable=False),
        sa.Column("memory_mib", sa.Integer(), nullable=False),
        sa.Column("cpu_millis", sa.Integer(), nullable=False),
        sa.Column("disk_free_mib", sa.Integer(), nullable=False),
        sa.Column("disk_total_mib", sa.Integer(), nullable=False),
        sa.Column("assignment_generation", sa.BigInteger(), nullable=False),
        sa.Column("unclaimed", sa.JSON(), nullable=False),
        sa.Column("warnings", sa.JSON(), nullable=False),
        sa.Column("last_seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_nodes"),
    )
    op.create_table(
        "organisations",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_organisations"),
        sa.UniqueConstraint("name", name="uq_organisations_name"),
    )
    op.create_table(
        "outbox",
        sa.Column("seq", _sequence(), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("organisation", sa.String(length=24), nullable=True),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=64), nullable=False),
        sa.Column("payload", _json(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("published_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("seq", name="pk_outbox"),
        sa.UniqueConstraint("id", name="uq_outbox_id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_subject", "outbox", ["subject", "seq"], unique=False)
    op.create_index(
        "ix_outbox_unpublished",
        "outbox",
        ["seq"],
        unique=False,
        sqlite_where=sa.text("published_at IS NULL"),
        postgresql_where=sa.text("published_at IS NULL"),
    )
    op.create_table(
        "apps",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("organisation", sa.String(length=24), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("stopped", sa.Boolean(), nullable=False),
        sa.Column("deleting_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("current_release", sa.String(length=24), nullable=True),
        sa.Column("next_release_number", sa.Integer(), nullable=False),
        sa.Column("pending_config_ciphertext", sa.LargeBinary(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["organisation"], ["organisations.id"], name="fk_apps_organisation"),
        sa.PrimaryKeyConstraint("id", name="pk_apps"),
    )
    op.create_index(
        "ix_apps_organisation_living",
        "apps",
        ["organisation", "name"],
        unique=False,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_index(
        "uq_apps_name_living",
        "apps",
        ["name"],
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "users",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("organisation", sa.String(length=24), nullable=False),
        sa.Column("email", sa.String(length=254), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=False),
        sa.Column("operator", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("disabled_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["organisation"], ["organisations.id"], name="fk_users_organisation"),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("email", name="uq_users_email"),
    )
    op.create_table(
        "api_tokens",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("organisation", sa.String(length=24), nullable=False),
        sa.Column("user", sa.String(length=24), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("secret_hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["organisation"], ["organisations.id"], name="fk_api_tokens_organisation"),
        sa.ForeignKeyConstraint(["user"], ["users.id"], name="fk_api_tokens_user"),
        sa.PrimaryKeyConstraint("id", name="pk_api_tokens"),
        sa.UniqueConstraint("secret_hash", name="uq_api_tokens_secret_hash"),
    )
    op.create_index("ix_api_tokens_user", "api_tokens", ["user"], unique=False)
    op.create_table(
        "app_processes",
        sa.Column("organisation", sa.String(length=24), nullable=False),
        sa.Column("app", sa.String(length=24), nullable=False),
        sa.Column("process", sa.String(length=40), nullable=False),
        sa.Column("replicas", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["app"], ["apps.id"], name="fk_app_processes_app"),
        sa.ForeignKeyConstraint(["organisation"], ["organisations.id"], name="fk_app_processes_organisation"),
        sa.PrimaryKeyConstraint("app", "process", name="pk_app_processes"),
    )
    op.create_table(
        "releases",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("organisation", sa.String(length=24), nullable=False),
        sa.Column("app", sa.String(length=24), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("image", sa.Text(), nullable=False),
        sa.Column("spec", _json(), nullable=False),
        sa.Column("config_ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("config_keys", sa.JSON(), nullable=False),
        sa.Column("deployment", sa.String(length=24), nullable=True),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["app"], ["apps.id"], name="fk_releases_app"),
        sa.ForeignKeyConstraint(["organisation"], ["organisations.id"], name="fk_releases_organisation"),
        sa.PrimaryKeyConstraint("id", name="pk_releases"),
        sa.UniqueConstraint("app", "number", name="uq_releases_app_number"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("user", sa.String(length=24), nullable=False),
        sa.Column("refresh_hash", sa.String(length=64), nullable=False),
        sa.Column("previous_refresh_hash", sa.String(length=64), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["user"], ["users.id"], name="fk_sessions_user"),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.UniqueConstraint("refresh_hash", name="uq_sessions_refresh_hash"),
    )
    op.create_index("ix_sessions_previous_refresh_hash", "sessions", ["previous_refresh_hash"], unique=False)
    op.create_index("ix_sessions_user", "sessions", ["user"], unique=False)
    op.create_table(
        "sources",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("organisation", sa.String(length=24), nullable=False),
        sa.Column("app", sa.String(length=24), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["app"], ["apps.id"], name="fk_sources_app"),
        sa.ForeignKeyConstraint(["organisation"], ["organisations.id"], name="fk_sources_organisation"),
        sa.PrimaryKeyConstraint("id", name="pk_sources"),
    )
    op.create_index("ix_sources_app", "sources", ["app"], unique=False)
    op.create_table(
        "deployments",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("organisation", sa.String(length=24), nullable=False),
        sa.Column("app", sa.String(length=24), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("last_lines", sa.JSON(), nullable=False),
        sa.Column("image_reference", sa.Text(), nullable=True),
        sa.Column("source", sa.String(length=24), nullable=True),
        sa.Column("release", sa.String(length=24), nullable=True),
        sa.Column("base_release", sa.String(length=24), nullable=True),
        sa.Column("previous_release", sa.String(length=24), nullable=True),
        sa.Column("options_ciphertext", sa.LargeBinary(), nullable=True),
        sa.Column("request", _json(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_by", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["app"], ["apps.id"], name="fk_deployments_app"),
        sa.ForeignKeyConstraint(["base_release"], ["releases.id"], name="fk_deployments_base_release"),
        sa.ForeignKeyConstraint(["organisation"], ["organisations.id"], name="fk_deployments_organisation"),
        sa.ForeignKeyConstraint(["previous_release"], ["releases.id"], name="fk_deployments_previous_release"),
        sa.ForeignKeyConstraint(["release"], ["releases.id"], name="fk_deployments_release"),
        sa.ForeignKeyConstraint(["source"], ["sources.id"], name="fk_deployments_source"),
        sa.PrimaryKeyConstraint("id", name="pk_deployments"),
    )
    op.create_index("ix_deployments_app_created", "deployments", ["app", "created_at", "id"], unique=False)
    op.create_index(
        "ix_deployments_unfinished",
        "deployments",
        ["created_at"],
        unique=False,
        sqlite_where=sa.text("finished_at IS NULL"),
        postgresql_where=sa.text("finished_at IS NULL"),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.String(length=24), nullable=False),
        sa.Column("organisation", sa.String(length=24), nullable=False),
        sa.Column("app", sa.String(length=24), nullable=False),
        sa.Column("release", sa.String(length=24), nullable=False),
        sa.Column("deployment", sa.String(length=24), nullable=True),
        sa.Column("process", sa.String(length=40), nullable=False),
        sa.Column("node", sa.String(length=24), nullable=True),
        sa.Column("goal", sa.String(32), nullable=False),
        sa.Column("state", sa.String(32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("address", sa.String(length=45), nullable=True),
        sa.Column("port", sa.Integer(), nullable=True),
        sa.Column("restarts", sa.Integer(), nullable=False),
        sa.Column("exit_reason", sa.String(32), nullable=True),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("drain_started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("drained_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("last_lines", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("observed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["app"], ["apps.id"], name="fk_instances_app"),
        sa.ForeignKeyConstraint(["node"], ["nodes.id"], name="fk_instances_node"),
        sa.ForeignKeyConstraint(["organisation"], ["organisations.id"], name="fk_instances_organisation"),
        sa.ForeignKeyConstraint(["release"], ["releases.id"], name="fk_instances_release"),
        sa.PrimaryKeyConstraint("id", name="pk_instances"),
    )
    op.create_index(
        "ix_instances_app_living",
        "instances",
        ["app"],
        unique=False,
        sqlite_where=sa.text("removed_at IS NULL"),
        postgresql_where=sa.text("removed_at IS NULL"),
    )
    op.create_index(
        "ix_instances_node_living",
        "instances",
        ["node"],
        unique=False,
        sqlite_where=sa.text("removed_at IS NULL"),
        postgresql_where=sa.text("removed_at IS NULL"),
    )
    op.create_index("ix_instances_release", "instances", ["release"], unique=False)


def downgrade() -> None:
    op.drop_table("instances")
    op.drop_table("deployments")
    op.drop_table("sources")
    op.drop_table("sessions")
    op.drop_table("releases")
    op.drop_table("app_processes")
    op.drop_table("api_tokens")
    op.drop_table("users")
    op.drop_table("apps")
    op.drop_table("outbox")
    op.drop_table("organisations")
    op.drop_table("nodes")
    op.drop_table("image_mappings")
    op.drop_table("idempotency_keys")
    op.drop_table("edges")
    op.drop_table("dead_letters")
    op.drop_table("cloud")

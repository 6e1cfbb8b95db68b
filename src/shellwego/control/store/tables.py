"""What does the database hold?

The one place that names tables and columns; `migrations/` says how a database came to look so, and a test compares
the two. Durations are seconds; `column_types.py` says how other values lie in a column. Every table that belongs to a
tenant has the column `organisation`, which `repository.py` filters by.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa

from shellwego.control.store.column_types import EnumText, Id, Json, Strings, UtcTime
from shellwego.core.deployments import DeploymentKind, DeploymentState
from shellwego.core.instances import ExitReason, InstanceGoal, InstanceState

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _id() -> sa.Column[str]:
    return sa.Column("id", Id, primary_key=True)


def _organisation() -> sa.Column[str]:
    return sa.Column("organisation", Id, sa.ForeignKey("organisations.id"), nullable=False)


def _app() -> sa.Column[str]:
    return sa.Column("app", Id, sa.ForeignKey("apps.id"), nullable=False)


def _time(name: str, *, nullable: bool = True) -> sa.Column[dt.datetime]:
    return sa.Column(name, UtcTime, nullable=nullable)


def _created() -> sa.Column[dt.datetime]:
    return _time("created_at", nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, default="")


def _count(name: str, default: int = 0) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False, default=default)


def _generation(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, default=0)


def _index_where(where: sa.ColumnElement[bool], name: str, *columns: sa.Column[Any], unique: bool = False) -> None:
    """An index of the rows for which that is so, on either database."""
    sa.Index(name, *columns, unique=unique, sqlite_where=where, postgresql_where=where)


cloud = sa.Table(
    "cloud",
    metadata,
    sa.Column("singleton", sa.Integer, sa.CheckConstraint("singleton = 1", name="one_cloud"), primary_key=True),
    sa.Column("id", Id, nullable=False),
    sa.Column("domain", sa.String(253), nullable=False),
    _generation("assignment_epoch"),
    _created(),
)

organisations = sa.Table(
    "organisations",
    metadata,
    _id(),
    sa.Column("name", sa.String(63), nullable=False, unique=True),
    _created(),
)

users = sa.Table(
    "users",
    metadata,
    _id(),
    _organisation(),
    sa.Column("email", sa.String(254), nullable=False, unique=True),
    sa.Column("password_hash", sa.Text, nullable=False),
    sa.Column("operator", sa.Boolean, nullable=False, default=False),
    _created(),
    _time("disabled_at"),
)

sessions = sa.Table(
    "sessions",
    metadata,
    _id(),
    sa.Column("user", Id, sa.ForeignKey("users.id"), nullable=False, index=True),
    sa.Column("refresh_hash", sa.String(64), nullable=False, unique=True),
    sa.Column("previous_refresh_hash", sa.String(64), index=True),
    _created(),
    _time("expires_at", nullable=False),
    _time("revoked_at"),
)

api_tokens = sa.Table(
    "api_tokens",
    metadata,
    _id(),
    _organisation(),
    sa.Column("user", Id, sa.ForeignKey("users.id"), nullable=False, index=True),
    sa.Column("name", sa.String(100), nullable=False),
    sa.Column("secret_hash", sa.String(64), nullable=False, unique=True),
    _created(),
    _time("expires_at"),
    _time("last_used_at"),
    _time("revoked_at"),
)
# `tokens revoke ci` must mean one of them.
_index_where(
    api_tokens.c.revoked_at.is_(None),
    "uq_api_tokens_user_name_standing",
    api_tokens.c.user,
    api_tokens.c.name,
    unique=True,
)

apps = sa.Table(
    "apps",
    metadata,
    _id(),
    _organisation(),
    sa.Column("name", sa.String(63), nullable=False),
    sa.Column("stopped", sa.Boolean, nullable=False, default=False),
    _time("deleting_at"),
    _time("deleted_at"),
    # Not a foreign key: releases point at their app, and a circle would need deferred constraints on both databases.
    sa.Column("current_release", Id),
    _count("next_release_number", 1),
    sa.Column("pending_config_ciphertext", sa.LargeBinary),
    _created(),
    _time("updated_at", nullable=False),
)
_index_where(apps.c.deleted_at.is_(None), "ix_apps_organisation_living", apps.c.organisation, apps.c.name)
# A deleted app frees its name, which is a host name of the whole cloud.
_index_where(apps.c.deleted_at.is_(None), "uq_apps_name_living", apps.c.name, unique=True)

app_processes = sa.Table(
    "app_processes",
    metadata,
    _organisation(),
    sa.Column("app", Id, sa.ForeignKey("apps.id"), primary_key=True),
    sa.Column("process", sa.String(40), primary_key=True),
    _count("replicas"),
)

sources = sa.Table(
    "sources",
    metadata,
    _id(),
    _organisation(),
    _app(),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
    _created(),
    sa.Index("ix_sources_app", "app"),
)

releases = sa.Table(
    "releases",
    metadata,
    _id(),
    _organisation(),
    _app(),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("image", sa.Text, nullable=False),
    sa.Column("spec", Json, nullable=False),
    sa.Column("config_ciphertext", sa.LargeBinary, nullable=False),
    sa.Column("config_keys", Strings, nullable=False),
    sa.Column("deployment", Id),
    _text("note"),
    _text("created_by"),
    _created(),
    sa.UniqueConstraint("app", "number"),
)

deployments = sa.Table(
    "deployments",
    metadata,
    _id(),
    _organisation(),
    _app(),
    sa.Column("kind", EnumText(DeploymentKind), nullable=False),
    sa.Column("state", EnumText(DeploymentState), nullable=False),
    _text("step"),
    _text("reason"),
    _text("code"),
    sa.Column("last_lines", Strings, nullable=False),
    sa.Column("image_reference", sa.Text),
    sa.Column("source", Id, sa.ForeignKey("sources.id")),
    sa.Column("release", Id, sa.ForeignKey("releases.id")),
    sa.Column("base_release", Id, sa.ForeignKey("releases.id")),
    sa.Column("previous_release", Id, sa.ForeignKey("releases.id")),
    sa.Column("options_ciphertext", sa.LargeBinary),
    sa.Column("request", Json, nullable=False),
    _text("note"),
    _text("created_by"),
    _count("attempt"),
    _created(),
    _time("started_at"),
    _time("finished_at"),
    sa.Index("ix_deployments_app_created", "app", "created_at", "id"),
)
_index_where(deployments.c.finished_at.is_(None), "ix_deployments_unfinished", deployments.c.created_at)

instances = sa.Table(
    "instances",
    metadata,
    _id(),
    _organisation(),
    _app(),
    sa.Column("release", Id, sa.ForeignKey("releases.id"), nullable=False),
    sa.Column("deployment", Id),
    sa.Column("process", sa.String(40), nullable=False),
    sa.Column("node", Id, sa.ForeignKey("nodes.id")),
    sa.Column("goal", EnumText(InstanceGoal), nullable=False),
    sa.Column("state", EnumText(InstanceState), nullable=False),
    _text("reason"),
    sa.Column("address", sa.String(45)),
    sa.Column("port", sa.Integer),
    _count("restarts"),
    sa.Column("exit_reason", EnumText(ExitReason)),
    sa.Column("exit_code", sa.Integer),
    _time("started_at"),
    _time("drained_at"),
    sa.Column("last_lines", Strings, nullable=False),
    _created(),
    _time("observed_at"),
    _generation("generation"),
    _time("removed_at"),
)
_index_where(instances.c.removed_at.is_(None), "ix_instances_app_living", instances.c.app)
_index_where(instances.c.removed_at.is_(None), "ix_instances_node_living", instances.c.node)
sa.Index("ix_instances_release", instances.c.release)

nodes = sa.Table(
    "nodes",
    metadata,
    _id(),
    sa.Column("name", sa.String(253), nullable=False),
    _text("version"),
    sa.Column("runtimes", Strings, nullable=False),
    _count("memory_mib"),
    _count("cpu_millis"),
    _count("disk_free_mib"),
    _count("disk_total_mib"),
    _generation("assignment_generation"),
    sa.Column("unclaimed", Strings, nullable=False),
    sa.Column("warnings", Strings, nullable=False),
    _text("unfit"),
    _time("last_seen_at"),
    _created(),
)

edges = sa.Table(
    "edges",
    metadata,
    sa.Column("id", sa.String(253), primary_key=True),
    _text("version"),
    _generation("generation"),
    sa.Column("problems", Strings, nullable=False),
    _time("last_seen_at"),
)

outbox = sa.Table(
    "outbox",
    metadata,
    # SQLite's rowid alias must be INTEGER; without AUTOINCREMENT it would hand out the numbers of deleted rows again.
    sa.Column(
        "seq",
        sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
        primary_key=True,
        autoincrement=True,
        nullable=False,
    ),
    sa.Column("id", Id, nullable=False, unique=True),
    sa.Column("organisation", Id),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(64), nullable=False),
    sa.Column("payload", Json, nullable=False),
    _created(),
    _time("published_at"),
    sa.Index("ix_outbox_subject", "subject", "seq"),
    sqlite_autoincrement=True,
)
_index_where(outbox.c.published_at.is_(None), "ix_outbox_unpublished", outbox.c.seq)

dead_letters = sa.Table(
    "dead_letters",
    metadata,
    _id(),
    sa.Column("consumer", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("subject", sa.String(64), nullable=False),
    sa.Column("payload", Json, nullable=False),
    _text("problem"),
    _count("attempts"),
    _created(),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("organisation", Id, primary_key=True),
    sa.Column("user", Id, primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("method", sa.String(8), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("request_hash", sa.String(64), nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    _created(),
)
sa.Index("ix_idempotency_keys_created_at", idempotency_keys.c.created_at)

image_mappings = sa.Table(
    "image_mappings",
    metadata,
    sa.Column("pattern", sa.String(256), primary_key=True),
    sa.Column("image", sa.String(512), nullable=False),
    _created(),
)

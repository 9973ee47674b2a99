"""Who may do what: projects, users, service accounts, keys, their policies, and the log of every change."""

import sqlalchemy as sa

from headgate.storage.sql.tables import JSON, TIME, metadata

organization = sa.Table(
    "organization",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("policy", JSON),
)
"""The one organization of a deployment; its row is there once it has a policy."""

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("created_at", TIME, nullable=False),
    sa.Column("archived_at", TIME),
    sa.Column("policy", JSON),
)
"""A project's id is the `tenant` of its keys and of the ledger. Archived ones stay."""

_present = sa.text("removed_at IS NULL")
users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("email", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("added_at", TIME, nullable=False),
    sa.Column("removed_at", TIME),
    sa.Column("policy", JSON),
    sa.Index("users_by_email", "email", unique=True, sqlite_where=_present, postgresql_where=_present),
)
"""People. Whoever was removed and comes back is a new user: the old keys stay dead."""

members = sa.Table(
    "project_members",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("added_at", TIME, nullable=False),
    sa.Index("project_members_by_user", "user_id"),
)

accounts = sa.Table(
    "service_accounts",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("project", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("created_at", TIME, nullable=False),
    sa.Column("removed_at", TIME),
    sa.Index("service_accounts_by_project", "project"),
)

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("hash", sa.Text, nullable=False, unique=True),
    sa.Column("prefix", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("scopes", JSON, nullable=False),
    sa.Column("models", JSON),
    sa.Column("limits", JSON),
    sa.Column("created_at", TIME, nullable=False),
    sa.Column("expires_at", TIME),
    sa.Column("revoked_at", TIME),
    sa.Column("kind", sa.Text, nullable=False, server_default="project"),
    sa.Column("user_id", sa.Text),
    sa.Column("account_id", sa.Text),
    sa.Column("policy", JSON),
    sa.Column("version", sa.BigInteger, nullable=False, server_default="0"),
    sa.Index("keys_by_tenant", "tenant"),
    sa.Index("keys_by_version", "version"),
)
"""API keys; never the key itself, only its keyed hash and its visible prefix. `kind`: project, user, account, admin.

`version` is that of the change that wrote the row last, so that replicas load no more than they lack.
"""

stops = sa.Table(
    "spend_stops",
    metadata,
    sa.Column("project", sa.Text, primary_key=True),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("since", TIME, nullable=False),
    sa.Column("until", TIME, nullable=False),
)
"""Projects whose calls are refused for now. A release deletes the row; the audit log keeps the history."""

alerts = sa.Table(
    "spend_alerts",
    metadata,
    sa.Column("owner", sa.Text, primary_key=True),
    sa.Column("recipients", JSON, nullable=False),
    sa.Column("subject_prefix", sa.Text),
    sa.Column("created_at", TIME, nullable=False),
)
"""For whom a monthly budget's soft threshold is; `owner` is `organization:default` or `project:ID`."""

audit = sa.Table(
    "audit_log",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("at", TIME, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("actor_user", sa.Text),
    sa.Column("address", sa.Text),
    sa.Column("project", sa.Text),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("before", JSON),
    sa.Column("after", JSON),
    sa.Index("audit_log_by_time", "at"),
    sa.Index("audit_log_by_project", "project", "at"),
)
"""Every change, in the transaction that made it. Triggers refuse to change or remove a row."""

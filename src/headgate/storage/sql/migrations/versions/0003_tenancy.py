"""Projects, users, policies and the log of every change."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"

_JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


def upgrade() -> None:
    _projects()
    _people()
    with op.batch_alter_table("keys") as keys:
        keys.add_column(sa.Column("kind", sa.Text, nullable=False, server_default="project"))
        keys.add_column(sa.Column("user_id", sa.Text))
        keys.add_column(sa.Column("account_id", sa.Text))
        keys.add_column(sa.Column("policy", _JSON))
        keys.add_column(sa.Column("version", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index("keys_by_tenant", "keys", ["tenant"])
    op.create_index("keys_by_version", "keys", ["version"])
    # Whatever has keys is a project from now on, and the one that keys without a tenant belong to always is.
    op.execute(
        "INSERT INTO projects (id, name, created_at) SELECT tenant, tenant, MIN(created_at) FROM keys "
        "WHERE tenant <> 'default' GROUP BY tenant"
    )
    op.execute("INSERT INTO projects (id, name, created_at) VALUES ('default', 'default', 0)")
    op.create_table(
        "spend_stops",
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("since", sa.Double, nullable=False),
        sa.Column("until", sa.Double, nullable=False),
    )
    op.create_table(
        "spend_alerts",
        sa.Column("owner", sa.Text, primary_key=True),
        sa.Column("recipients", _JSON, nullable=False),
        sa.Column("subject_prefix", sa.Text),
        sa.Column("created_at", sa.Double, nullable=False),
    )
    _audit_log()


def _projects() -> None:
    op.create_table("organization", sa.Column("id", sa.Text, primary_key=True), sa.Column("policy", _JSON))
    op.create_table(
        "projects",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("archived_at", sa.Double),
        sa.Column("policy", _JSON),
    )


def _people() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("email", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("added_at", sa.Double, nullable=False),
        sa.Column("removed_at", sa.Double),
        sa.Column("policy", _JSON),
    )
    present = sa.text("removed_at IS NULL")
    op.create_index("users_by_email", "users", ["email"], unique=True, sqlite_where=present, postgresql_where=present)
    op.create_table(
        "project_members",
        sa.Column("project", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("added_at", sa.Double, nullable=False),
    )
    op.create_index("project_members_by_user", "project_members", ["user_id"])
    op.create_table(
        "service_accounts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("removed_at", sa.Double),
    )
    op.create_index("service_accounts_by_project", "service_accounts", ["project"])


def _audit_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("actor_user", sa.Text),
        sa.Column("address", sa.Text),
        sa.Column("project", sa.Text),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("before", _JSON),
        sa.Column("after", _JSON),
    )
    op.create_index("audit_log_by_time", "audit_log", ["at"])
    op.create_index("audit_log_by_project", "audit_log", ["project", "at"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION audit_log_refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$"
        )
        op.execute(
            "CREATE TRIGGER audit_log_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse()"
        )
        return
    refusal = "BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
    op.execute(f"CREATE TRIGGER audit_log_unchanged BEFORE UPDATE ON audit_log {refusal}")
    op.execute(f"CREATE TRIGGER audit_log_undeleted BEFORE DELETE ON audit_log {refusal}")
    # INSERT OR REPLACE deletes without the trigger of deletions.
    op.execute(
        "CREATE TRIGGER audit_log_unreplaced BEFORE INSERT ON audit_log "
        f"WHEN EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id) {refusal}"
    )

"""Kill switches, and which replica has which version of them in force."""

import sqlalchemy as sa

from headgate.storage.sql.tables import TIME, metadata

switches = sa.Table(
    "kill_switches",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("fallback_model", sa.Text),
    sa.Column("message", sa.Text),
    sa.Column("created_at", TIME, nullable=False),
    sa.Column("expires_at", TIME),
    sa.Column("created_by", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.UniqueConstraint("kind", "name", name="kill_switches_once"),
)
"""What is off. Turning it on again deletes the row; the audit log keeps the history."""

replicas = sa.Table(
    "kill_switch_replicas",
    metadata,
    sa.Column("instance", sa.Text, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("seen_at", TIME, nullable=False),
)
"""The version of the switches that each process has in force. `seen_at` is by the database's clock."""

"""Who may do what: keys, and what they belong to."""

import sqlalchemy as sa

from headgate.storage.sql.tables import JSON, TIME, metadata

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
)
"""API keys; never the key itself, only its keyed hash and its visible prefix."""

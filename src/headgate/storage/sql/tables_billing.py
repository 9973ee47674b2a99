"""Invoices that were issued, and comparisons with providers' files that corrected something."""

import sqlalchemy as sa

from headgate.storage.sql.tables import TIME, metadata

invoices = sa.Table(
    "invoices",
    metadata,
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("number", sa.Text, nullable=False, unique=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("month", sa.Text, nullable=False),
    sa.Column("issued_at", TIME, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.UniqueConstraint("tenant", "month", name="invoices_once"),
)
"""Rows are added and never changed. `body` is the invoice's JSON, byte for byte what `hash` was taken of."""

reconciliations = sa.Table(
    "reconciliations",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("applied_at", TIME, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("backend", sa.Text, nullable=False),
    sa.Column("corrections", sa.BigInteger, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
)
"""One row per application; its corrections carry its id as their `call_id`. `body` is the report's JSON."""

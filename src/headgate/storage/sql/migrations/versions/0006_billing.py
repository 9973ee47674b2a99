"""Invoices, and comparisons with providers' files."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "invoices",
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("number", sa.Text, nullable=False, unique=True),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("month", sa.Text, nullable=False),
        sa.Column("issued_at", sa.Double, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.UniqueConstraint("tenant", "month", name="invoices_once"),
    )
    op.create_table(
        "reconciliations",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("applied_at", sa.Double, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("backend", sa.Text, nullable=False),
        sa.Column("corrections", sa.BigInteger, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
    )

"""Answers kept for Idempotency-Key."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "idempotency",
        sa.Column("slot", sa.Text, primary_key=True),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("lease", sa.Double, nullable=False),
        sa.Column("expires", sa.Double, nullable=False),
        sa.Column("headers", sa.JSON().with_variant(JSONB(), "postgresql")),
        sa.Column("content", sa.LargeBinary),
    )
    op.create_index("idempotency_by_expiry", "idempotency", ["expires"])

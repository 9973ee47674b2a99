"""Why each attempt was made, where, and how long its call had waited: null for entries from before."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column("ledger", sa.Column("replica", sa.Text))
    op.add_column("ledger", sa.Column("reason", sa.Text))
    op.add_column("ledger", sa.Column("begun_ms", sa.Double))
    op.add_column("ledger", sa.Column("queue_ms", sa.Double))
    op.add_column("ledger", sa.Column("overhead_ms", sa.Double))
    op.add_column("ledger", sa.Column("passed_over", sa.Text))

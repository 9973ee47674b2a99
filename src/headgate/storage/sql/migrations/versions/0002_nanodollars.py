"""Money in whole nanodollars, sessions, and entries that correct others."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("ledger", sa.Column("cost_nanos", sa.BigInteger))
    op.add_column("ledger", sa.Column("session", sa.Text))
    op.add_column("ledger", sa.Column("corrects", sa.Text))
    op.execute("UPDATE ledger SET cost_nanos = CAST(ROUND(cost_usd * 1000000000) AS BIGINT) WHERE cost_usd IS NOT NULL")
    with op.batch_alter_table("ledger") as ledger:
        ledger.drop_column("cost_usd")
    op.create_index("ledger_by_user", "ledger", ["user_id", "started_at"])
    op.create_index("ledger_by_session", "ledger", ["session"])
    op.create_index("ledger_by_correction", "ledger", ["corrects"])

"""What was used and what it cost."""

import sqlalchemy as sa

from headgate.storage.sql.tables import JSON, TIME, metadata

ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("call_id", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("user_id", sa.Text),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("backend", sa.Text, nullable=False),
    sa.Column("upstream_model", sa.Text, nullable=False),
    sa.Column("started_at", TIME, nullable=False),
    sa.Column("duration_ms", TIME, nullable=False),
    sa.Column("ttft_ms", TIME),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("code", sa.Text),
    sa.Column("stream", sa.Boolean, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
    sa.Column("estimated", sa.Boolean, nullable=False),
    sa.Column("cost_nanos", sa.BigInteger),
    sa.Column("price_version", sa.Text),
    sa.Column("tags", JSON, nullable=False),
    sa.Column("session", sa.Text),
    sa.Column("corrects", sa.Text),
    sa.Column("replica", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("begun_ms", TIME),
    sa.Column("queue_ms", TIME),
    sa.Column("overhead_ms", TIME),
    sa.Column("passed_over", sa.Text),
    sa.Index("ledger_by_time", "started_at"),
    sa.Index("ledger_by_tenant", "tenant", "started_at"),
    sa.Index("ledger_by_key", "key_id", "started_at"),
    sa.Index("ledger_by_model", "model", "started_at"),
    sa.Index("ledger_by_call", "call_id"),
    sa.Index("ledger_by_user", "user_id", "started_at"),
    sa.Index("ledger_by_session", "session"),
    sa.Index("ledger_by_correction", "corrects"),
)
"""`core.usage.Receipt`s, one row per attempt. `cost_nanos` (nanodollars) is null where no price was known."""

ledger_offsets = sa.Table(
    "ledger_offsets",
    metadata,
    sa.Column("log", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
)
"""How many bytes of each local log are in `ledger`; moved in the transaction that adds the rows."""

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("sink", sa.Text, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("at", TIME, nullable=False),
    sa.Column("claimed_by", sa.Text),
    sa.Column("claimed_until", TIME),
    sa.UniqueConstraint("sink", "event_id", name="outbox_once"),
    sa.Index("outbox_by_sink", "sink", "seq"),
    sqlite_autoincrement=True,  # else numbers of rows that are gone come again, and removing them twice removes others
)
"""Events that a broker has not acknowledged yet, a row per sink; added in the transaction that adds their receipts."""

"""The tables as the stores query them. What makes them is `migrations/`; a test keeps both the same.

Times are Unix seconds. The stores own the queries; nothing else reads these tables.
"""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

metadata = sa.MetaData()

_JSON = sa.JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
_TIME = sa.Double
_MONEY = sa.Numeric(24, 12, asdecimal=False)
"""US dollars; twelve digits hold one token of the cheapest model. SQLite keeps a double instead."""

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("hash", sa.Text, nullable=False, unique=True),
    sa.Column("prefix", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("scopes", _JSON, nullable=False),
    sa.Column("models", _JSON),
    sa.Column("limits", _JSON),
    sa.Column("created_at", _TIME, nullable=False),
    sa.Column("expires_at", _TIME),
    sa.Column("revoked_at", _TIME),
)
"""API keys; never the key itself, only its keyed hash and its visible prefix."""

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
    sa.Column("started_at", _TIME, nullable=False),
    sa.Column("duration_ms", _TIME, nullable=False),
    sa.Column("ttft_ms", _TIME),
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
    sa.Column("cost_usd", _MONEY),
    sa.Column("price_version", sa.Text),
    sa.Column("tags", _JSON, nullable=False),
    sa.Index("ledger_by_time", "started_at"),
    sa.Index("ledger_by_tenant", "tenant", "started_at"),
    sa.Index("ledger_by_key", "key_id", "started_at"),
    sa.Index("ledger_by_model", "model", "started_at"),
    sa.Index("ledger_by_call", "call_id"),
)
"""`core.usage.Receipt`s, one row per attempt. `cost_usd` is null where no price was known."""

ledger_offsets = sa.Table(
    "ledger_offsets",
    metadata,
    sa.Column("log", sa.Text, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
)
"""How many bytes of each local log are in `ledger`; moved in the transaction that adds the rows."""

versions = sa.Table(
    "versions",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
)
"""Grows with each change of what it names, so that replicas can poll for it."""

settings = sa.Table(
    "settings",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
"""Small state of the server itself."""

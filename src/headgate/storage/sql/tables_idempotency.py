"""Calls with an `Idempotency-Key`, and the answers kept for them."""

import sqlalchemy as sa

from headgate.storage.sql.tables import JSON, TIME, metadata

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("slot", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("lease", TIME, nullable=False),
    sa.Column("expires", TIME, nullable=False),
    sa.Column("headers", JSON),
    sa.Column("content", sa.LargeBinary),
    sa.Index("idempotency_by_expiry", "expires"),
)
"""One row per key in use. `state` is `sent` from before the call can reach an upstream, then `done`.

`lease`: until when the owner of a `sent` row counts as alive; `expires`: until when the row counts. Only the second is
indexed, so that PostgreSQL extends leases without touching an index. `content` is null until `done`, and stays null
where the answer was too large.
"""

"""The ledger's tables as the shipper fills them: receipts, and how far each journal is in them."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from headgate.core.usage import Receipt
from headgate.storage.sql import tables_ledger as tables
from headgate.storage.sql.port import Sql
from headgate.storage.sql.statements import insert

_INT_MAX = 2**63 - 1


class Store:
    """Every method is one transaction. Raises `Overloaded` where the database cannot be reached."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql

    async def position(self, log: str) -> int:
        """How far a journal segment has been shipped, in bytes."""

        def work(db: Connection) -> int:
            query = sa.select(tables.ledger_offsets.c.position).where(tables.ledger_offsets.c.log == log)
            return int(db.execute(query).scalar() or 0)

        return await self._sql.read(work)

    async def add_receipts(self, receipts: Sequence[Receipt], log: str, position: int) -> None:
        """Adds receipts not yet there and moves the position, in one transaction."""

        def work(db: Connection) -> None:
            rows = [receipt_row(receipt) for receipt in receipts]  # here: it would hold up the event loop
            if rows:
                db.execute(insert(db, tables.ledger).on_conflict_do_nothing(index_elements=["id"]), rows)
            moved = insert(db, tables.ledger_offsets).values(log=log, position=position)
            db.execute(moved.on_conflict_do_update(index_elements=["log"], set_={"position": position}))

        await self._sql.run(work)

    async def forget_position(self, log: str) -> None:
        def work(db: Connection) -> None:
            db.execute(sa.delete(tables.ledger_offsets).where(tables.ledger_offsets.c.log == log))

        await self._sql.run(work)


def receipt_row(receipt: Receipt) -> dict[str, Any]:
    """A row that every database takes: one receipt it refused would hold up all that follow."""
    usage = receipt.usage
    row = {
        "id": receipt.id,
        "call_id": receipt.call_id,
        "attempt": receipt.attempt,
        "tenant": receipt.tenant,
        "key_id": receipt.key_id,
        "user_id": receipt.user,
        "operation": receipt.operation,
        "model": receipt.model,
        "backend": receipt.backend,
        "upstream_model": receipt.upstream_model,
        "started_at": receipt.started_at,
        "duration_ms": receipt.duration_ms,
        "ttft_ms": receipt.ttft_ms,
        "outcome": receipt.outcome,
        "status": receipt.status,
        "code": receipt.code,
        "stream": receipt.stream,
        "input_tokens": usage.input,
        "cached_tokens": usage.cached,
        "cache_write_tokens": usage.cache_write,
        "output_tokens": usage.output,
        "reasoning_tokens": usage.reasoning,
        "estimated": usage.estimated,
        "cost_nanos": receipt.cost_nanos,
        "price_version": receipt.price_version,
        "session": receipt.session,
        "corrects": receipt.corrects,
        "tags": {_text(name): _text(value) for name, value in receipt.tags.items()},
    }
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return max(-_INT_MAX, min(value, _INT_MAX))
    return value


def _text(value: str) -> str:
    """PostgreSQL has no NUL in texts."""
    return value.replace("\x00", "\ufffd")

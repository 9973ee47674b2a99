"""The ledger's tables as the shipper fills them: receipts, how far each journal is in them, and the outbox of events.

The outbox is the pattern of that name (Richardson, "Microservices Patterns", 2018, 3.3.7): an event is a row of the
same transaction as what it tells of, and is removed once a broker has acknowledged it.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy import Connection

from headgate.core.bus import Message
from headgate.core.usage import Receipt
from headgate.ledger.events import Event, usage_event
from headgate.storage.sql import tables_ledger as tables
from headgate.storage.sql.port import Sql
from headgate.storage.sql.statements import insert, plain

_INT_MAX = 2**63 - 1
COUNTED_MAX = 100_000


class Waiting(Struct, frozen=True):
    """An event that one publisher has claimed, and its row."""

    seq: int
    message: Message


class Store:
    """Every method is one transaction. Raises `Overloaded` where the database cannot be reached.

    `sinks` are the names of the brokers that are told of each receipt, `source` is who tells them (a URI reference).
    """

    def __init__(self, sql: Sql, sinks: Sequence[str] = (), source: str = "/headgate") -> None:
        self._sql = sql
        self._sinks = tuple(sinks)
        self.source = source

    async def position(self, log: str) -> int:
        """How far a journal segment has been shipped, in bytes."""

        def work(db: Connection) -> int:
            query = sa.select(tables.ledger_offsets.c.position).where(tables.ledger_offsets.c.log == log)
            return int(db.execute(query).scalar() or 0)

        return await self._sql.read(work)

    async def add_receipts(self, receipts: Sequence[Receipt], log: str, position: int) -> None:
        """Adds receipts not yet there, the events about them, and moves the position, in one transaction."""

        def work(db: Connection) -> None:
            add_entries(db, receipts, self._sinks, self.source)  # here: it would hold up the event loop
            moved = insert(db, tables.ledger_offsets).values(log=log, position=position)
            db.execute(moved.on_conflict_do_update(index_elements=["log"], set_={"position": position}))

        await self._sql.run(work)

    async def forget_position(self, log: str) -> None:
        def work(db: Connection) -> None:
            db.execute(sa.delete(tables.ledger_offsets).where(tables.ledger_offsets.c.log == log))

        await self._sql.run(work)

    async def enqueue(self, events: Sequence[Event]) -> None:
        """Events about something else than receipts; one that waits already is not added again."""
        await self._sql.run(lambda db: _enqueue(db, events, self._sinks))

    async def claim(self, sink: str, who: str, now: float, lease_s: float, limit: int) -> list[Waiting]:
        """The oldest events that wait for `sink` and nobody else has claimed; `who`'s until `now + lease_s`.

        Two that ask at once get different ones and do not wait for each other (SKIP LOCKED on PostgreSQL). A claim that
        lasts much longer than any does is of a clock that was wrong, and counts for nothing.
        """
        outbox = tables.outbox

        def work(db: Connection) -> list[Waiting]:
            until = outbox.c.claimed_until
            free = sa.or_(until.is_(None), until <= now, until > now + 2 * lease_s, outbox.c.claimed_by == who)
            query = (
                sa.select(outbox.c.seq, outbox.c.event_id, outbox.c.key, outbox.c.body)
                .where(outbox.c.sink == sink, free)
                .order_by(outbox.c.seq)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
            found = [Waiting(row.seq, Message(row.event_id, row.key, row.body)) for row in db.execute(query)]
            if found:
                mine = sa.update(outbox).where(outbox.c.seq.in_([waiting.seq for waiting in found]))
                db.execute(mine.values(claimed_by=who, claimed_until=now + lease_s))
            return found

        return await self._sql.run(work)

    async def release(self, sink: str, who: str) -> None:
        """Gives back what `who` has claimed, for anyone to claim."""
        claimed = sa.update(tables.outbox).where(tables.outbox.c.sink == sink, tables.outbox.c.claimed_by == who)
        await self._sql.run(lambda db: db.execute(claimed.values(claimed_by=None, claimed_until=None)).close())

    async def published(self, sequence: Sequence[int]) -> None:
        """Removes events that the broker has acknowledged. Idempotent."""
        gone = sa.delete(tables.outbox).where(tables.outbox.c.seq.in_(sequence))
        await self._sql.run(lambda db: db.execute(gone).close())

    async def backlog(self, sink: str) -> tuple[int, float | None]:
        """How many events wait for `sink`, at most `COUNTED_MAX` are counted; and when the oldest happened."""
        some = sa.select(tables.outbox.c.at).where(tables.outbox.c.sink == sink)
        some = some.order_by(tables.outbox.c.seq).limit(COUNTED_MAX)
        rows = some.subquery()

        def work(db: Connection) -> tuple[int, float | None]:
            count, oldest = db.execute(sa.select(sa.func.count(), sa.func.min(rows.c.at)).select_from(rows)).one()
            return int(count), oldest

        return await self._sql.read(work)


def add_entries(db: Connection, receipts: Sequence[Receipt], sinks: Sequence[str], source: str) -> None:
    """Inside the caller's transaction: receipts not yet there, and an event for each of `sinks` about each of them."""
    rows = [receipt_row(receipt) for receipt in receipts]
    if not rows:
        return
    adding = insert(db, tables.ledger).on_conflict_do_nothing(index_elements=["id"])
    if not sinks:
        db.execute(adding, rows)
        return
    # Only of those that are new: events of the others may have been published and be gone.
    new = set(db.execute(adding.returning(tables.ledger.c.id), rows).scalars())
    events = {receipt.id: usage_event(receipt, source) for receipt in receipts if receipt.id in new}
    _enqueue(db, list(events.values()), sinks)


def _enqueue(db: Connection, events: Sequence[Event], sinks: Sequence[str]) -> None:
    rows = [
        {
            "sink": sink,
            "event_id": event.message.id,
            "key": plain(event.message.key),
            "body": event.message.body,
            "at": event.at,
        }
        for event in events
        for sink in sinks
    ]
    if rows:
        db.execute(insert(db, tables.outbox).on_conflict_do_nothing(index_elements=["sink", "event_id"]), rows)


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
        "replica": receipt.replica,
        "reason": receipt.reason,
        "begun_ms": receipt.begun_ms,
        "queue_ms": receipt.queue_ms,
        "overhead_ms": receipt.overhead_ms,
        "passed_over": receipt.passed_over,
        "tags": {plain(name): plain(value) for name, value in receipt.tags.items()},
    }
    return {name: _bounded(value) for name, value in row.items()}


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, int):
        return max(-_INT_MAX, min(value, _INT_MAX))
    return value

"""The rows of keys in use. Nothing else knows this table."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from headgate.core.reply import Header
from headgate.ledger.idempotency.ask import Ask, Found, Kept, outcome_unknown, reused, too_large
from headgate.storage.sql.port import Sql
from headgate.storage.sql.statements import insert
from headgate.storage.sql.tables_idempotency import idempotency

SENT, DONE = "sent", "done"
SWEEP_ROWS = 100
"""Rows removed in one transaction: each may hold megabytes."""
_c = idempotency.c


class Store:
    """Every method is one transaction. Raises `Overloaded` where the database cannot be reached.

    The owner of claims is this start (`boot`) of this `instance`. A claim of its own that it does not run (it was
    committed, and the answer to that was lost) it may take again; another's it never takes before it expires.
    """

    def __init__(self, sql: Sql, instance: str, boot: str) -> None:
        self._sql = sql
        self._instance = instance + "/"
        self._owner = f"{instance}/{boot}"

    async def take(self, ask: Ask, now: float, lease: float, expires: float) -> Found:
        """Claims the slot where it is free. Raises as `find` does."""

        def work(db: Connection) -> Found:
            row = {
                "fingerprint": ask.fingerprint,
                "state": SENT,
                "owner": self._owner,
                "lease": lease,
                "expires": expires,
                "headers": None,
                "content": None,
            }
            free = sa.or_(_c.expires <= now, sa.and_(_c.owner == self._owner, _c.state == SENT))
            claim = insert(db, idempotency).values(slot=ask.slot, **row)
            claim = claim.on_conflict_do_update(index_elements=["slot"], set_=row, where=free).returning(_c.slot)
            return self._find(db, ask, now) if db.execute(claim).one_or_none() is None else "mine"

        return await self._sql.run(work)

    async def find(self, ask: Ask, now: float) -> Found:
        """Never `mine`. Raises `Conflict` where the key stands for something else, or for what nobody knows."""
        return await self._sql.read(lambda db: self._find(db, ask, now))

    async def finish(self, ask: Ask, kept: Kept, expires: float, timeout_s: float) -> None:
        """Keeps the answer of a claim that is this process's."""
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in kept.headers]

        def work(db: Connection) -> None:
            done = {"state": DONE, "headers": headers, "content": kept.content, "expires": expires}
            db.execute(sa.update(idempotency).where(self._is_mine(ask)).values(done))

        await self._sql.run(work, timeout_s=timeout_s)

    async def release(self, ask: Ask, timeout_s: float) -> None:
        """Frees the slot of a claim that is this process's."""
        free = sa.delete(idempotency).where(self._is_mine(ask))
        await self._sql.run(lambda db: db.execute(free), timeout_s=timeout_s)

    async def extend(self, slots: Sequence[str], lease: float) -> None:
        """Says that the owner of these claims is alive."""
        alive = sa.update(idempotency).where(_c.slot.in_(slots), _c.owner == self._owner, _c.state == SENT)
        await self._sql.run(lambda db: db.execute(alive.values(lease=lease)))

    async def sweep(self, now: float) -> int:
        """Removes some rows that have expired; says how many. Those that another replica removes now are left to it."""
        old = sa.select(_c.slot).where(_c.expires <= now).order_by(_c.expires).limit(SWEEP_ROWS)
        old = old.with_for_update(skip_locked=True)
        gone = sa.delete(idempotency).where(_c.slot.in_(old), _c.expires <= now)
        return await self._sql.run(lambda db: db.execute(gone).rowcount)

    def _is_mine(self, ask: Ask) -> sa.ColumnElement[bool]:
        return sa.and_(_c.slot == ask.slot, _c.owner == self._owner, _c.state == SENT)

    def _find(self, db: Connection, ask: Ask, now: float) -> Found:
        """The content is read only by whom it belongs to."""
        about = sa.select(_c.fingerprint, _c.state, _c.owner, _c.lease).where(_c.slot == ask.slot, _c.expires > now)
        row = db.execute(about).one_or_none()
        if row is None:
            return "gone"
        if row.fingerprint != ask.fingerprint:
            raise reused()
        if row.state == SENT:
            # An instance runs once: its earlier starts are dead, whatever their lease says.
            earlier = row.owner.startswith(self._instance) and row.owner != self._owner
            if row.lease <= now or earlier:
                raise outcome_unknown()
            return "elsewhere"
        kept = db.execute(sa.select(_c.headers, _c.content).where(_c.slot == ask.slot)).one_or_none()
        if kept is None:
            return "gone"
        if kept.content is None:
            raise too_large()
        return Kept(tuple(_header(*pair) for pair in kept.headers or ()), bytes(kept.content))


def _header(name: str, value: str) -> Header:
    return (name.encode("latin-1"), value.encode("latin-1"))

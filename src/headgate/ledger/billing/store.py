"""The SQL of invoices."""

from collections.abc import Callable, Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy import Connection

from headgate.ledger.accounts.store import column, exact, whole
from headgate.ledger.billing.invoices import Adjustment, Invoice, MonthSum, month_span
from headgate.storage.sql import tables_billing as tables
from headgate.storage.sql.port import Sql
from headgate.storage.sql.tables_ledger import ledger

LIST_MAX = 1_000
Draw = Callable[[Sequence[MonthSum], Sequence[Adjustment]], Invoice]
Seal = Callable[[Invoice, str, str | None], Invoice]

_LEDGER = ledger.c
_TOKENS = {
    "input": _LEDGER.input_tokens,
    "cached": _LEDGER.cached_tokens,
    "cache_write": _LEDGER.cache_write_tokens,
    "output": _LEDGER.output_tokens,
    "reasoning": _LEDGER.reasoning_tokens,
}
_decoder = msgspec.json.Decoder(Invoice)


class Store:
    """Every method is one transaction. Raises `Overloaded` where the database cannot be reached."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql

    async def draft(self, tenant: str, month: str, draw: Draw) -> Invoice:
        """The issued invoice where there is one, else what `draw` makes of the month."""

        def work(db: Connection) -> Invoice:
            found = _issued(db, tenant)
            return next((each for each in found if each.month == month), None) or _drawn(db, tenant, month, found, draw)

        return await self._sql.read(work)

    async def issue(self, tenant: str, month: str, draw: Draw, seal: Seal) -> Invoice | None:
        """Adds the invoice under the next number. None where the month has one, or another was issued just then."""

        def work(db: Connection) -> Invoice | None:
            found = _issued(db, tenant)
            if any(each.month == month for each in found):
                return None
            table = tables.invoices
            last = db.execute(sa.select(table).order_by(table.c.sequence.desc()).limit(1)).mappings().first()
            sequence = int(last["sequence"]) + 1 if last else 1
            previous = str(last["hash"]) if last else None
            issued = seal(_drawn(db, tenant, month, found, draw), f"HG-{sequence:06d}", previous)
            row = {
                "sequence": sequence,
                "number": issued.number,
                "tenant": tenant,
                "month": month,
                "issued_at": issued.drawn_at,
                "hash": issued.hash,
                "body": msgspec.json.encode(issued).decode(),
            }
            db.execute(sa.insert(table), row)
            return issued

        try:
            return await self._sql.run(work)
        except sa.exc.IntegrityError:
            return None

    async def issued(self, tenant: str | None) -> list[Invoice]:
        """The newest first, `LIST_MAX` at most."""
        return await self._sql.read(lambda db: _issued(db, tenant)[:LIST_MAX])


def _issued(db: Connection, tenant: str | None) -> list[Invoice]:
    query = sa.select(tables.invoices.c.body).order_by(tables.invoices.c.sequence.desc())
    if tenant is None:
        query = query.limit(LIST_MAX)
    else:
        query = query.where(tables.invoices.c.tenant == tenant)
    return [_decoder.decode(body) for body in db.execute(query).scalars()]


def _drawn(db: Connection, tenant: str, month: str, issued: Sequence[Invoice], draw: Draw) -> Invoice:
    start, end = month_span(month)
    return draw(_month_sums(db, tenant, start, end), _adjustments(db, tenant, issued))


def _adjustments(db: Connection, tenant: str, issued: Sequence[Invoice]) -> list[Adjustment]:
    """For every month that has an invoice: what the ledger holds now, less what all invoices billed for it."""
    billed: dict[str, int] = {invoice.month: invoice.month_nanos for invoice in issued}
    for invoice in issued:
        for adjustment in invoice.adjustments:
            billed[adjustment.month] += adjustment.amount_nanos
    found = []
    for invoice in sorted(issued, key=lambda each: each.month):
        start, end = month_span(invoice.month)
        statement = sa.select(*exact("cost", _LEDGER.cost_nanos)).where(
            _LEDGER.tenant == tenant, _LEDGER.started_at >= start, _LEDGER.started_at < end
        )
        amount = whole(db.execute(statement).mappings().one(), "cost") - billed[invoice.month]
        if amount:
            number = invoice.number or ""
            found.append(Adjustment(month=invoice.month, number=number, amount_nanos=amount))
    return found


def _month_sums(db: Connection, tenant: str, start: float, end: float) -> list[MonthSum]:
    day, correction = column(db, "day"), _LEDGER.outcome == "correction"
    groups = {
        "model": _LEDGER.model,
        "backend": _LEDGER.backend,
        "upstream_model": _LEDGER.upstream_model,
        "day": day,
        "correction": sa.case((correction, 1), else_=0),
        "priced": sa.case((_LEDGER.cost_nanos.is_(None), 0), else_=1),
    }
    statement = (
        sa.select(
            *(group.label(f"group_{name}") for name, group in groups.items()),
            sa.func.count().label("entries"),
            *exact("cost", _LEDGER.cost_nanos),
            *(half for name, number in _TOKENS.items() for half in exact(name, number)),
        )
        .where(_LEDGER.tenant == tenant, _LEDGER.started_at >= start, _LEDGER.started_at < end)
        # What was refused upstream used nothing; callers may name any model there, and each would be a group.
        .where((_LEDGER.input_tokens != 0) | (_LEDGER.output_tokens != 0) | (_LEDGER.cost_nanos != 0))
        .group_by(*groups.values())
    )
    return [
        MonthSum(
            model=row["group_model"],
            backend=row["group_backend"],
            upstream_model=row["group_upstream_model"],
            day=row["group_day"],
            correction=bool(row["group_correction"]),
            priced=bool(row["group_priced"]),
            entries=int(row["entries"]),
            cost_nanos=whole(row, "cost"),
            **{name: whole(row, name) for name in _TOKENS},
        )
        for row in db.execute(statement).mappings()
    ]

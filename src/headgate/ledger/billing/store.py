"""The SQL of invoices, and of comparisons with providers' files."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa
from msgspec import Struct
from sqlalchemy import Connection, RowMapping

from headgate.core.usage import Receipt
from headgate.ledger.accounts.store import column, count_if, exact, whole
from headgate.ledger.billing.corrections import ESTIMATES_MAX, Amounts, Payer
from headgate.ledger.billing.invoices import Adjustment, Invoice, MonthSum, month_span
from headgate.ledger.billing.provider_files import DAY_S
from headgate.ledger.billing.reconcile import Ours, Scope, canonical
from headgate.ledger.store import add_entries
from headgate.storage.sql import tables_billing as tables
from headgate.storage.sql.port import Sql
from headgate.storage.sql.statements import plain
from headgate.storage.sql.tables_ledger import ledger

LIST_MAX = 1_000
Draw = Callable[[Sequence[MonthSum], Sequence[Adjustment]], Invoice]
Seal = Callable[[Invoice, str, str | None], Invoice]
Estimates = Callable[[int], dict[str, list[Payer]]]
"""From a day to its estimated entries that nobody has corrected, by canonical model."""
RECONCILE_S = 120.0

_LEDGER = ledger.c
_TOKENS = {
    "input": _LEDGER.input_tokens,
    "cached": _LEDGER.cached_tokens,
    "cache_write": _LEDGER.cache_write_tokens,
    "output": _LEDGER.output_tokens,
    "reasoning": _LEDGER.reasoning_tokens,
}
_USED = sa.or_(
    _LEDGER.outcome == "correction", _LEDGER.input_tokens != 0, _LEDGER.output_tokens != 0, _LEDGER.cost_nanos != 0
)
"""What was refused upstream used nothing; callers may name any model there, and each would be a group."""
_decoder = msgspec.json.Decoder(Invoice)


T = TypeVar("T")


class Judged(Struct, frozen=True, kw_only=True):
    """What a comparison comes to: entries to add, and the row that tells of them."""

    corrections: tuple[Receipt, ...]
    row: dict[str, Any]


class Store:
    """Every method is one transaction. Raises `Overloaded` where the database cannot be reached.

    `sinks` and `source`: who is told of corrections, and by whom, as of all receipts.
    """

    def __init__(self, sql: Sql, sinks: Sequence[str] = (), source: str = "/headgate") -> None:
        self._sql = sql
        self._sinks = tuple(sinks)
        self._source = source

    async def draft(self, tenant: str, month: str, draw: Draw) -> Invoice:
        """The issued invoice where there is one, else what `draw` makes of the month."""

        def work(db: Connection) -> Invoice:
            found = _issued(db, plain(tenant))
            return next((each for each in found if each.month == month), None) or _drawn(
                db, plain(tenant), month, found, draw
            )

        return await self._sql.read(work)

    async def issue(self, tenant: str, month: str, draw: Draw, seal: Seal) -> Invoice | None:
        """Adds the invoice under the next number, one at a time. None where the month has one."""

        def work(db: Connection) -> Invoice | None:
            _alone(db, tables.invoices)
            found = _issued(db, plain(tenant))
            if any(each.month == month for each in found):
                return None
            table = tables.invoices
            last = db.execute(sa.select(table).order_by(table.c.sequence.desc()).limit(1)).mappings().first()
            sequence = int(last["sequence"]) + 1 if last else 1
            previous = str(last["hash"]) if last else None
            issued = seal(_drawn(db, plain(tenant), month, found, draw), f"HG-{sequence:06d}", previous)
            row = {
                "sequence": sequence,
                "number": issued.number,
                "tenant": plain(tenant),
                "month": month,
                "issued_at": issued.drawn_at,
                "hash": issued.hash,
                "body": msgspec.json.encode(issued).decode(),
            }
            db.execute(sa.insert(table), row)
            return issued

        return await self._sql.run(work)

    async def drifts(self, backend: str, covered: Scope, judge: "Callable[[list[Ours], Estimates], T]") -> T:
        """What `judge` makes of what the backend's entries say, on one snapshot."""
        return await self._sql.read(lambda db: _judged(db, backend, covered, judge), timeout_s=RECONCILE_S)

    async def correct(self, backend: str, covered: Scope, judge: "Callable[[list[Ours], Estimates], Judged]") -> Judged:
        """The same, and adds the corrections it gives with a row about them; nobody else corrects meanwhile."""

        def work(db: Connection) -> Judged:
            _alone(db, tables.reconciliations)
            judged = _judged(db, backend, covered, judge)
            if judged.corrections:
                add_entries(db, judged.corrections, self._sinks, self._source)
                db.execute(sa.insert(tables.reconciliations), judged.row)
            return judged

        return await self._sql.run(work, timeout_s=RECONCILE_S)

    async def issued(self, tenant: str | None) -> list[Invoice]:
        """The newest first, `LIST_MAX` at most."""
        return await self._sql.read(lambda db: _issued(db, tenant and plain(tenant))[:LIST_MAX])


def _alone(db: Connection, table: sa.Table) -> None:
    """Until the transaction ends, nobody else writes to the table. A writing transaction of SQLite is alone anyway."""
    if db.dialect.name == "postgresql":
        db.execute(sa.text(f"LOCK TABLE {table.name} IN EXCLUSIVE MODE"))


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
        .where(_USED)
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


def _judged(db: Connection, backend: str, covered: Scope, judge: Callable[[list[Ours], Estimates], T]) -> T:
    return judge(_ours(db, backend, covered), lambda day: _estimates(db, backend, covered, day))


def _covered(backend: str, first: int, end: int, operations: Sequence[str]) -> list[sa.ColumnElement[bool]]:
    start, stop = float(first * DAY_S), float(end * DAY_S)
    found = [_LEDGER.backend == backend, _LEDGER.started_at >= start, _LEDGER.started_at < stop]
    return [*found, _LEDGER.operation.in_(operations)] if operations else found


def _ours(db: Connection, backend: str, covered: Scope) -> list[Ours]:
    groups = (column(db, "day"), _LEDGER.tenant, _LEDGER.model, _LEDGER.upstream_model, _LEDGER.operation)
    correction = _LEDGER.outcome == "correction"
    statement = (
        sa.select(
            *(group.label(f"group_{place}") for place, group in enumerate(groups)),
            count_if(~correction, "requests"),
            count_if(_LEDGER.cost_nanos.is_(None) & ~correction, "unpriced"),
            *exact("nanos", _LEDGER.cost_nanos),
            *(half for name, number in _TOKENS.items() for half in exact(name, number)),
        )
        .where(*_covered(backend, covered.first, covered.end, covered.operations))
        .where(_USED)
        .group_by(*groups)
    )
    return [
        Ours(
            day=row["group_0"],
            tenant=row["group_1"],
            model=row["group_2"],
            upstream_model=row["group_3"],
            operation=row["group_4"],
            requests=int(row["requests"]),
            unpriced=int(row["unpriced"]),
            reasoning=whole(row, "reasoning"),
            used=_amounts(partial(whole, row)),
        )
        for row in db.execute(statement).mappings()
    ]


def _estimates(db: Connection, backend: str, covered: Scope, day: int) -> dict[str, list[Payer]]:
    """At most one more per model than would get a correction each."""
    other = ledger.alias("other")
    statement = (
        sa.select(ledger)
        .where(*_covered(backend, day, day + 1, covered.operations), _LEDGER.estimated)
        .where(_LEDGER.outcome != "correction", ~sa.exists().where(other.c.corrects == _LEDGER.id))
        .order_by(_LEDGER.started_at, _LEDGER.id)
    )
    found: dict[str, list[Payer]] = {}
    for row in db.execute(statement.execution_options(yield_per=ESTIMATES_MAX)).mappings():
        same = found.setdefault(canonical(row["upstream_model"]), [])
        if len(same) <= ESTIMATES_MAX:
            same.append(_payer(row))
    return found


def _payer(row: RowMapping) -> Payer:
    return Payer(
        tenant=row["tenant"],
        used=_amounts(lambda name: row["cost_nanos"] or 0 if name == "nanos" else row[f"{name}_tokens"]),
        entry=row["id"],
        key_id=row["key_id"],
        user=row["user_id"],
        session=row["session"],
        operation=row["operation"],
        model=row["model"],
        upstream_model=row["upstream_model"],
        started_at=row["started_at"],
    )


def _amounts(number: Callable[[str], int]) -> Amounts:
    return Amounts(
        input=number("input"),
        cached=number("cached"),
        cache_write=number("cache_write"),
        output=number("output"),
        nanos=number("nanos"),
    )

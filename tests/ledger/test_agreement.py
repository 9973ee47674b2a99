"""Whatever is in the ledger, its sums, its invoices and its exports say the same, to the nanodollar and the token."""

import asyncio
import csv
import io
import tempfile
from datetime import date

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headgate.core.usage import Receipt, Usage
from headgate.ledger.accounts.export import export_entries
from headgate.ledger.accounts.questions import Accounts, SpendQuestion, UsageQuery
from headgate.ledger.accounts.store import Store as Reader
from headgate.ledger.billing.cashier import Cashier
from headgate.ledger.billing.store import Store as Bills
from headgate.ledger.prices import Price, PriceBook, PriceTable
from headgate.ledger.store import Store
from headgate.storage.sql.open import open_sql
from tests.clock import VirtualClock
from tests.ledger.test_invoices import at
from tests.ledger.test_journal import receipt

SINCE = date(2020, 1, 1)
PRICES = PriceTable(
    PriceBook(
        "v",
        (
            Price("a", SINCE, 0.0333, 0.0777, cached=0.0111),
            Price("a", date(2026, 10, 15), 2.5, 10.0, cached=1.25, cache_write=3.1),
            Price("b", SINCE, 1.1, 4.4, reasoning=6.6),
        ),
    )
)
OCTOBER = (at("2026-10-01"), at("2026-11-01"))


@st.composite
def entries(draw: st.DrawFn) -> Receipt:
    """A call of October, charged by the book, at some other price, or at none; or a correction."""
    number, model = draw(st.integers(0, 10**9)), draw(st.sampled_from(["a", "b", "unlisted"]))
    when = draw(st.floats(OCTOBER[0], OCTOBER[1] - 1))
    taken = draw(st.integers(0, 10**6))
    cached = draw(st.integers(0, taken))
    written = draw(st.integers(0, taken - cached))
    given_ = draw(st.integers(0, 10**5))
    usage = Usage(taken, cached, written, given_, draw(st.integers(0, given_)), draw(st.booleans()))
    price = PRICES.find("b", model, when)
    book = price.cost_nanos(usage) if price else None
    cost = draw(st.sampled_from([book, book, book, None]) | st.integers(0, 10**12))
    outcome = draw(st.sampled_from(["ok", "ok", "failed", "correction"]))
    if outcome == "correction":
        usage = Usage(draw(st.integers(-99, 99)), 0, draw(st.integers(-9, 9)), draw(st.integers(-99, 99)))
        cost = draw(st.none() | st.integers(-(10**9), 10**9))
    return msgspec.structs.replace(
        receipt(number),
        tenant=draw(st.sampled_from(["t1", "t2"])),
        model=model,
        upstream_model=model,
        started_at=when,
        usage=usage,
        cost_nanos=cost,
        outcome=outcome,
        corrects="x" if outcome == "correction" else None,
    )


async def agree(receipts: list[Receipt]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        sql = await open_sql(f"sqlite:///{folder}/x.db")
        try:
            store = Store(sql)

            async def flush() -> None:
                await store.add_receipts(receipts, "log", 1)

            accounts = Accounts(Reader(sql), flush)
            cashier = Cashier(Bills(sql), lambda: PRICES, flush, VirtualClock(at("2026-12-01")))
            for tenant in ("t1", "t2"):
                await _agree(tenant, [r for r in receipts if r.tenant == tenant], accounts, cashier)
        finally:
            await sql.aclose()


async def _agree(tenant: str, receipts: list[Receipt], accounts: Accounts, cashier: Cashier) -> None:
    money = sum(r.cost_nanos or 0 for r in receipts)
    tokens = sum(r.usage.total for r in receipts)
    rows = await accounts.usage(UsageQuery(*OCTOBER, ("tenant", "model", "day")))
    mine = [row for row in rows if row.group["tenant"] == tenant]
    assert sum(row.cost_nanos or 0 for row in mine) == money
    assert sum(row.input + row.output for row in mine) == tokens
    assert sum(row.requests + row.corrections for row in mine) == len(receipts)
    assert await accounts.spent([SpendQuestion(*OCTOBER, tenant=tenant)]) == [(money, tokens)]

    invoice = await cashier.issue(tenant, "2026-10")
    assert invoice.total_nanos == money
    assert sum(line.amount_nanos or 0 for line in invoice.lines) == money
    unpriced = [r for r in receipts if r.cost_nanos is None and r.outcome != "correction" and r.usage.total]
    assert sum(gap.requests for gap in invoice.unpriced) == len(unpriced)

    text = b"".join([piece async for piece in export_entries(accounts, UsageQuery(*OCTOBER), "csv")]).decode()
    found = [row for row in csv.DictReader(io.StringIO(text, newline="")) if row["tenant"] == tenant]
    assert sum(int(row["cost_nanos"] or 0) for row in found) == money
    assert sum(int(row["input_tokens"]) + int(row["output_tokens"]) for row in found) == tokens


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(entries(), max_size=30, unique_by=lambda each: each.id))
def test_any_calls_and_corrections_come_to_the_same_in_sums_invoices_and_exports(receipts: list[Receipt]) -> None:
    asyncio.run(agree(receipts))

"""Invoices: equal to the ledger to the nanodollar, immutable once issued, and honest about what has no price."""

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from headgate.core.errors import BadCall, Conflict
from headgate.core.usage import Receipt, Usage
from headgate.ledger.billing.cashier import Cashier
from headgate.ledger.billing.invoices import Invoice, dollars, invoice_hash, month_span
from headgate.ledger.billing.store import Store as Bills
from headgate.ledger.billing.text import WIDTH, invoice_csv, invoice_text
from headgate.ledger.prices import Price, PriceBook, PriceTable
from headgate.ledger.store import Store
from headgate.storage.sql.open import open_sql
from headgate.storage.sql.port import Sql
from headgate.storage.sql.tables_billing import invoices as table
from tests.clock import VirtualClock
from tests.ledger.test_journal import receipt

SINCE = date(2020, 1, 1)
BOOK = PriceBook(
    "book-1",
    (
        Price("gpt", SINCE, 2.5, 10.0, cached=1.25, cache_write=3.0),
        Price("gpt", date(2026, 10, 16), 2.0, 8.0, cached=1.0),
        Price("deep", SINCE, 1.0, 4.0, reasoning=6.0),
        Price("tiny", SINCE, 0.0333, 0.0777),
    ),
)


NONE = Usage()


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def entry(number: int, when: str, model: str = "gpt", usage: Usage = NONE, **more: Any) -> Receipt:
    """Charged by the book, as calls are, unless a cost is given."""
    price = PriceTable(BOOK).find("b", model, at(when))
    fields = {"cost_nanos": price.cost_nanos(usage) if price else None, "tenant": "acme", **more}
    base = receipt(number)
    return msgspec.structs.replace(base, started_at=at(when), model=model, upstream_model=model, usage=usage, **fields)


OCTOBER = [
    entry(1, "2026-10-01", usage=Usage(input=1000, cached=400, cache_write=100, output=50, reasoning=20)),
    entry(2, "2026-10-15T23:59:59", usage=Usage(input=10, output=1)),
    entry(3, "2026-10-16", usage=Usage(input=1000, cached=500, output=100)),
    entry(4, "2026-10-20", "deep", Usage(input=100, output=30, reasoning=20)),
    entry(5, "2026-10-20", "nobody-knows", Usage(input=7, output=3)),
    entry(6, "2026-10-31T23:59:59", "tiny", Usage(input=3, output=1)),
    entry(7, "2026-10-31", usage=Usage(input=99), tenant="other"),
    entry(8, "2026-11-01", usage=Usage(input=500)),
]


async def nothing() -> None:
    return


class Office:
    def __init__(self, sql: Sql) -> None:
        self.sql = sql
        self.clock = VirtualClock(at("2026-12-05"))
        self.prices = PriceTable(BOOK)
        self.cashier = Cashier(Bills(sql), lambda: self.prices, nothing, self.clock)

    async def book(self, *entries: Receipt) -> None:
        await Store(self.sql).add_receipts(entries, "log", 1)


@asynccontextmanager
async def office(url: str) -> AsyncIterator[Office]:
    sql = await open_sql(url)
    try:
        yield Office(sql)
    finally:
        await sql.aclose()


def run(url: str, work: Callable[[Office], Awaitable[None]]) -> None:
    async def main() -> None:
        async with office(url) as house:
            await house.book(*OCTOBER)
            await work(house)

    asyncio.run(main())


def lines(invoice: Invoice) -> list[tuple[str, str, int, float | None, int | None]]:
    return [(each.model, each.kind, each.tokens, each.usd_per_million, each.amount_nanos) for each in invoice.lines]


def test_lines_are_quantities_by_kind_at_the_price_of_their_day(sql_url: str) -> None:
    async def work(house: Office) -> None:
        invoice = await house.cashier.get("acme", "2026-10")
        assert lines(invoice) == [
            ("deep", "input", 100, 1.0, 100_000),
            ("deep", "output", 10, 4.0, 40_000),
            ("deep", "reasoning", 20, 6.0, 120_000),
            ("gpt", "input", 510, 2.5, 1_275_000),
            ("gpt", "cached", 400, 1.25, 500_000),
            ("gpt", "cache_write", 100, 3.0, 300_000),
            ("gpt", "output", 51, 10.0, 510_000),
            ("gpt", "reasoning", 20, None, None),
            ("gpt", "input", 500, 2.0, 1_000_000),
            ("gpt", "cached", 500, 1.0, 500_000),
            ("gpt", "output", 100, 8.0, 800_000),
            ("tiny", "input", 3, 0.0333, 100),
            ("tiny", "output", 1, 0.0777, 78),
        ]
        charged = sum(each.cost_nanos or 0 for each in OCTOBER[:6])
        assert (invoice.month_nanos, invoice.total_nanos, invoice.total_usd) == (charged, charged, dollars(charged))
        assert (invoice.number, invoice.hash, invoice.requests) == (None, None, 5)
        assert [(gap.model, gap.requests, gap.input_tokens, gap.output_tokens) for gap in invoice.unpriced] == [
            ("nobody-knows", 1, 7, 3)
        ]

    run(sql_url, work)


def test_what_was_charged_at_other_prices_or_corrected_has_lines_of_its_own(sql_url: str) -> None:
    async def work(house: Office) -> None:
        await house.book(
            entry(20, "2026-10-02", usage=Usage(input=100), cost_nanos=999_999),
            entry(
                21, "2026-10-02", outcome="correction", corrects="att_000001", usage=Usage(input=-5), cost_nanos=-12_500
            ),
            entry(22, "2026-10-03", "gone", Usage(input=1, output=1), cost_nanos=77),
        )
        invoice = await house.cashier.get("acme", "2026-10")
        found = {(each.model, each.kind): (each.tokens, each.amount_nanos, each.note) for each in invoice.lines}
        assert found["gpt", "difference"][1] == 999_999 - 250_000
        assert "prices of the day" in found["gpt", "difference"][2]
        assert found["gpt", "corrections"] == (-5, -12_500, "1 entries that mend others")
        assert found["gone", "unlisted"][:2] == (2, 77)
        assert sum(each.amount_nanos or 0 for each in invoice.lines) == invoice.total_nanos

    run(sql_url, work)


def test_an_issued_invoice_never_changes_and_what_comes_later_is_on_the_next(sql_url: str) -> None:
    async def work(house: Office) -> None:
        october = await house.cashier.issue("acme", "2026-10")
        assert (october.number, october.previous_hash) == ("HG-000001", None)
        assert october.hash == invoice_hash(october)
        other = await house.cashier.issue("other", "2026-10")
        assert (other.number, other.previous_hash) == ("HG-000002", october.hash)

        await house.book(
            entry(30, "2026-10-05", outcome="correction", corrects="att_000001", usage=Usage(), cost_nanos=-300),
            entry(31, "2026-10-06", usage=Usage(input=2), cost_nanos=100),
        )
        house.prices = PriceTable(PriceBook("book-2"))
        assert await house.cashier.get("acme", "2026-10") == october
        november = await house.cashier.issue("acme", "2026-11")
        assert [(each.month, each.number, each.amount_nanos) for each in november.adjustments] == [
            ("2026-10", "HG-000001", -200)
        ]
        assert november.total_nanos == november.month_nanos - 200 == 1_000_000 - 200

        await house.book(entry(32, "2026-10-07", usage=Usage(input=1), cost_nanos=5))
        await house.book(entry(33, "2026-11-07", usage=Usage(input=1), cost_nanos=7))
        house.clock.jump(40 * 86_400)
        december = await house.cashier.issue("acme", "2026-12")
        assert [(each.month, each.amount_nanos) for each in december.adjustments] == [("2026-10", 5), ("2026-11", 7)]
        assert await house.cashier.issued("acme") == [december, november, october]
        assert [each.number for each in await house.cashier.issued(None)] == [
            "HG-000004", "HG-000003", "HG-000002", "HG-000001",
        ]  # fmt: skip

    run(sql_url, work)


def test_a_month_is_issued_once_and_only_when_it_is_over(sql_url: str) -> None:
    async def work(house: Office) -> None:
        with pytest.raises(BadCall, match="not over yet"):
            await house.cashier.issue("acme", "2026-12")
        found = await asyncio.gather(
            *(house.cashier.issue(tenant, "2026-10") for tenant in ("acme", "acme", "acme", "other")),
            return_exceptions=True,
        )
        issued = [each for each in found if isinstance(each, Invoice)]
        assert sorted(each.tenant for each in issued) == ["acme", "other"]
        assert sorted(each.number or "" for each in issued) == ["HG-000001", "HG-000002"]
        assert all(isinstance(each, Conflict) for each in found if not isinstance(each, Invoice))
        with pytest.raises(Conflict, match="has an invoice for 2026-10"):
            await house.cashier.issue("acme", "2026-10")

    run(sql_url, work)


def test_the_stored_invoice_is_what_its_hash_was_taken_of(sql_url: str) -> None:
    async def work(house: Office) -> None:
        await house.book(entry(40, "2026-10-05", "mødel ✓", Usage(input=1), cost_nanos=1, tenant="ünï"))
        issued = await house.cashier.issue("ünï", "2026-10")
        body = await house.sql.read(lambda db: db.execute(sa.select(table.c.body)).scalar_one())
        stored = msgspec.json.decode(body, type=Invoice)
        assert stored == issued
        assert invoice_hash(stored) == issued.hash
        assert invoice_hash(msgspec.structs.replace(stored, total_nanos=0)) != issued.hash

    run(sql_url, work)


@pytest.mark.parametrize("month", ["", "2026", "2026-13", "2026-00", "26-01", "2026-1", "٢٠٢٦-١٠", "9999-12", "'; --"])
def test_what_is_no_month_is_refused(month: str) -> None:
    with pytest.raises(BadCall, match="write it as 2026-11"):
        month_span(month)


def test_months_end_where_the_next_begin() -> None:
    assert month_span("2026-12") == (at("2026-12-01"), at("2027-01-01"))
    assert month_span("2024-02") == (at("2024-02-01"), at("2024-03-01"))


def test_dollars_are_exact() -> None:
    assert [dollars(n) for n in (0, 12_500_000_000, 9, -3_000_000_000, -1)] == [
        "0.00", "12.50", "0.000000009", "-3.00", "-0.000000001",
    ]  # fmt: skip


def test_the_text_is_a_page_that_people_can_read(sql_url: str) -> None:
    async def work(house: Office) -> None:
        await house.book(entry(50, "2026-10-05", "evil\x1b[2J", Usage(input=1), cost_nanos=1))
        text = invoice_text(await house.cashier.get("acme", "2026-10"))
        assert "\x1b" not in text
        assert max(len(line) for line in text.splitlines()) <= WIDTH
        assert "Draft of an invoice" in text
        (cached,) = [line for line in text.splitlines() if "x $1.25 per million" in line]
        assert cached.split() == ["input,", "cached", "400", "x", "$1.25", "per", "million", "$0.0005"]
        assert "Not in the total" in text
        issued = await house.cashier.issue("acme", "2026-10")
        await house.book(entry(51, "2026-10-05", usage=Usage(input=1), cost_nanos=1))
        assert "Invoice HG-000001" in invoice_text(issued)
        assert f"SHA-256 {issued.hash}" in invoice_text(issued)
        assert "Changes to 2026-10 since HG-000001" in invoice_text(await house.cashier.get("acme", "2026-11"))

    run(sql_url, work)


def test_the_csv_adds_up_to_its_total(sql_url: str) -> None:
    async def work(house: Office) -> None:
        await house.cashier.issue("acme", "2026-10")
        await house.book(entry(60, "2026-10-05", usage=Usage(input=1), cost_nanos=-9))
        invoice = await house.cashier.get("acme", "2026-11")
        rows = list(csv.DictReader(io.StringIO(invoice_csv(invoice).decode(), newline="")))
        amounts = [int(row["amount_nanos"]) for row in rows if row["amount_nanos"]]
        assert amounts[-1] == sum(amounts[:-1]) == invoice.total_nanos
        assert [row["part"] for row in rows] == ["input", "adjustment", "total"]

    run(sql_url, work)


def test_a_tenant_of_any_name_can_be_asked_for_and_billed(sql_url: str) -> None:
    async def work(house: Office) -> None:
        for number, name in enumerate(("größe", "100%_*[a]", "a' --", "a\x00b")):
            await house.book(entry(100 + number, "2026-10-09", usage=Usage(input=10), tenant=name))
            assert (await house.cashier.get(name, "2026-10")).total_nanos == 25_000
            issued = await house.cashier.issue(name, "2026-10")
            assert issued.total_nanos == 25_000
            assert await house.cashier.issued(name) == [issued]
            assert await house.cashier.get(name, "2026-10") == issued

    run(sql_url, work)

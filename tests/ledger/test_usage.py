"""Questions to the ledger, the same on SQLite and PostgreSQL."""

import asyncio
from typing import Any

import msgspec
import pytest

from headgate.core.usage import Receipt, Usage
from headgate.ledger.store import Store
from headgate.ledger.usage import UsageQuery, UsageRow
from headgate.storage.sql.open import open_sql
from tests.ledger.test_journal import receipt

DAY = 86_400
START = 20_000 * DAY  # 2024-10-04


def entry(number: int, **more: Any) -> Receipt:
    return msgspec.structs.replace(receipt(number), started_at=START + number * 3600.0, **more)


RECEIPTS = [
    entry(0, tenant="a", model="m1", cost_nanos=100_000_000, usage=Usage(input=10, cached=4, output=1)),
    entry(23, tenant="a", model="m2", cost_nanos=None, usage=Usage(input=20, output=2)),
    entry(24, tenant="b", model="m1", cost_nanos=200_000_000, usage=Usage(input=30, output=3), outcome="failed"),
    entry(47, tenant="b", model="m1", cost_nanos=1, usage=Usage(input=40, output=4), key_id="k2"),
]


def ask(url: str, **query: Any) -> list[UsageRow]:
    async def main() -> list[UsageRow]:
        sql = await open_sql(url)
        try:
            store = Store(sql)
            await store.add_receipts(RECEIPTS, "log", 1)
            await store.add_receipts(RECEIPTS, "log", 1)
            return await store.usage(UsageQuery(query.pop("start", START), query.pop("end", START + 2 * DAY), **query))
        finally:
            await sql.aclose()

    return asyncio.run(main())


def test_sums_cover_everything_once_and_say_how_much_has_no_price(sql_url: str) -> None:
    (row,) = ask(sql_url)
    assert (row.requests, row.input, row.cached, row.output, row.unpriced) == (4, 100, 4, 10, 1)
    assert row.cost_usd == 0.300000001
    assert row.group == {}


def test_days_are_dates_in_utc_and_cut_at_midnight(sql_url: str) -> None:
    rows = ask(sql_url, group_by=("day",))
    assert [(row.group["day"], row.requests) for row in rows] == [("2024-10-04", 2), ("2024-10-05", 2)]


def test_groups_are_summed_apart_and_ordered(sql_url: str) -> None:
    rows = ask(sql_url, group_by=("tenant", "model"))
    assert [(tuple(row.group.values()), row.input, row.cost_usd) for row in rows] == [
        (("a", "m1"), 10, pytest.approx(0.1)),
        (("a", "m2"), 20, None),
        (("b", "m1"), 70, pytest.approx(0.2)),
    ]
    assert {row.group["outcome"]: row.requests for row in ask(sql_url, group_by=("outcome",))} == {"ok": 3, "failed": 1}


def test_filters_and_times_leave_out_the_rest(sql_url: str) -> None:
    assert ask(sql_url, tenant="a")[0].requests == 2
    assert ask(sql_url, key="k2")[0].input == 40
    assert ask(sql_url, model="m1", tenant="b")[0].requests == 2
    assert ask(sql_url, start=START + 23 * 3600, end=START + 24 * 3600)[0].requests == 1
    assert ask(sql_url, tenant="'; drop table ledger; --")[0].requests == 0


def test_an_empty_ledger_costs_nothing_known(tmp_path: Any) -> None:
    (row,) = ask(f"sqlite:///{tmp_path}/x.db", start=0, end=1)
    assert (row.requests, row.cost_usd, row.unpriced) == (0, None, 0)


def test_the_smallest_price_is_kept_exactly_enough(sql_url: str) -> None:
    (row,) = ask(sql_url, key="k2")
    assert row.cost_usd == 1e-9

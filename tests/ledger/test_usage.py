"""Questions to the ledger, the same on SQLite and PostgreSQL."""

import asyncio
from typing import Any

import msgspec
import pytest

from headgate.core.usage import Receipt, Usage
from headgate.ledger.accounts.questions import Filter, SpendQuestion, UsageQuery, UsageRow
from headgate.ledger.accounts.store import Store as Accounts
from headgate.ledger.store import Store
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
            await Store(sql).add_receipts(RECEIPTS, "log", 1)
            await Store(sql).add_receipts(RECEIPTS, "log", 1)
            filters = tuple(Filter(name, (query.pop(name),)) for name in ("tenant", "key", "model") if name in query)
            start, end = query.pop("start", START), query.pop("end", START + 2 * DAY)
            return await Accounts(sql).usage(UsageQuery(start, end, filters=filters, **query))
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


def test_every_field_can_be_grouped_by_and_filtered_on(sql_url: str) -> None:
    wanted = [
        entry(0, user="u", session="s", operation="chat", tags={"team": "red", "a b": "é"}),
        entry(1, operation="embedding", tags={"team": "blue"}),
        entry(1, call_id="x", id="x"),
    ]

    async def main() -> None:
        sql = await open_sql(sql_url)
        try:
            await Store(sql).add_receipts(wanted, "log", 1)
            accounts = Accounts(sql)

            async def counts(field: str, *filters: Filter) -> dict[str, int]:
                rows = await accounts.usage(UsageQuery(START, START + DAY, (field,), filters))
                return {row.group[field]: row.requests for row in rows}

            assert await counts("user") == {"": 2, "u": 1}
            assert await counts("session") == {"": 2, "s": 1}
            assert await counts("operation") == {"chat": 2, "embedding": 1}
            assert await counts("tag:team") == {"": 1, "blue": 1, "red": 1}
            assert await counts("tag:a b") == {"": 2, "é": 1}
            assert await counts("hour") == {"2024-10-04T00": 1, "2024-10-04T01": 2}
            assert await counts("minute") == {"2024-10-04T00:00": 1, "2024-10-04T01:00": 2}
            assert await counts("backend", Filter("user", ("u",))) == {"b": 1}
            assert await counts("backend", Filter("user", ("u", ""))) == {"b": 3}
            assert await counts("backend", Filter("session", ("",))) == {"b": 2}
            assert await counts("backend", Filter("tag:team", ("red", "blue"))) == {"b": 2}
            assert await counts("backend", Filter("tag:'); drop table ledger", ("",))) == {"b": 3}
        finally:
            await sql.aclose()

    asyncio.run(main())


NAMES = ["größe", "日本", "😀", "a/b", "a.b", "a[0]", "$", "%_", "a'b", "a\tb", "a\x7fb", "a\x00b", "a: b"]


def test_a_tag_of_any_name_is_found_under_it(sql_url: str) -> None:
    async def main() -> None:
        sql = await open_sql(sql_url)
        try:
            await Store(sql).add_receipts([entry(n, tags={name: "v"}) for n, name in enumerate(NAMES)], "log", 1)
            for name in NAMES:
                query = UsageQuery(START, START + DAY, ("tag:" + name,), (Filter("tag:" + name, ("v",)),))
                assert [row.requests for row in await Accounts(sql).usage(query)] == [1], name
        finally:
            await sql.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("groups", [("day", "model"), ("tenant", "user", "hour"), ("tag:team",)])
def test_pages_give_every_row_once_in_order(sql_url: str, groups: tuple[str, ...]) -> None:
    async def main() -> None:
        sql = await open_sql(sql_url)
        try:
            tags: tuple[dict[str, str], ...] = ({}, {"team": "é"}, {"team": "Z"}, {"team": "a"})
            receipts = [
                entry(n, model=f"m{n % 3}", user=None if n % 2 else f"U{n % 5}", tags=tags[n % 4]) for n in range(40)
            ]
            await Store(sql).add_receipts(receipts, "log", 1)
            query = UsageQuery(START, START + 9 * DAY, groups)
            whole = await Accounts(sql).usage(query)
            rows: list[UsageRow] = []
            while True:
                after = rows[-1].place if rows else ()
                page = await Accounts(sql).usage(msgspec.structs.replace(query, limit=3, after=after))
                if not page:
                    break
                rows += page
            assert rows == whole
        finally:
            await sql.aclose()

    asyncio.run(main())


def test_sums_beyond_64_bits_stay_exact(sql_url: str) -> None:
    async def main() -> None:
        sql = await open_sql(sql_url)
        try:
            most = 2**63 - 1
            huge = [entry(n, cost_nanos=most, usage=Usage(input=10**30, output=n)) for n in range(3)]
            taken = entry(9, cost_nanos=-5, outcome="correction", usage=Usage(input=-7, output=-1))
            await Store(sql).add_receipts([*huge, taken], "log", 1)
            (row,) = await Accounts(sql).usage(UsageQuery(START, START + DAY))
            assert (row.input, row.output, row.cost_nanos) == (3 * most - 7, 2, 3 * most - 5)
            assert (row.requests, row.corrections) == (3, 1)
            assert await Accounts(sql).spent([SpendQuestion(START, START + DAY)]) == [(3 * most - 5, 3 * most - 5)]
        finally:
            await sql.aclose()

    asyncio.run(main())

"""Corrections: exact, put down to the likely culprits, once; nothing that was there is ever changed."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.core.errors import BadCall
from headgate.core.ids import Ids
from headgate.core.usage import Receipt, Usage
from headgate.ledger.accounts.questions import UsageQuery
from headgate.ledger.accounts.store import Store as Accounts
from headgate.ledger.billing.auditor import Auditor, Order, Report
from headgate.ledger.billing.corrections import KINDS, Amounts, Payer, share, spread
from headgate.ledger.billing.reconcile import canonical
from headgate.ledger.billing.store import Store as Bills
from headgate.ledger.prices import Price, PriceBook, PriceTable
from headgate.ledger.store import Store
from headgate.storage.sql.open import open_sql
from headgate.storage.sql.port import Sql
from tests.clock import VirtualClock
from tests.ledger.test_provider_files import FILES
from tests.ledger.test_usage import DAY, START, entry

BOOK = PriceBook(
    "v",
    (
        Price("gpt-4o*", date(2020, 1, 1), 2.5, 10.0, cached=1.25),
        Price("deep", date(2020, 1, 1), 1.0, 4.0, reasoning=6.0),
        Price("claude*", date(2020, 1, 1), 3.0, 15.0, cached=0.3, cache_write=3.75, cache_write_1h=6.0),
    ),
)


def used(number: int, model: str, usage: Usage, backend: str = "openai", **more: Any) -> Receipt:
    price = PriceTable(BOOK).find(backend, model, START)
    cost = price.cost_nanos(usage) if price else None
    fields = {"cost_nanos": cost, "tenant": "acme", "model": model, "upstream_model": model, "backend": backend, **more}
    return entry(number, usage=usage, **fields)


class Desk:
    def __init__(self, sql: Sql) -> None:
        self.sql = sql
        clock = VirtualClock(START + 30 * DAY)
        self.auditor = Auditor(Bills(sql), lambda: PriceTable(BOOK), self._nothing, clock, Ids(clock, random.Random(1)))

    async def _nothing(self) -> None:
        return

    async def book(self, *entries: Receipt) -> None:
        await Store(self.sql).add_receipts(entries, "log", 1)

    async def compare(self, name: str | Path, **more: Any) -> Report:
        path = FILES / name
        return await self.auditor.reconcile(
            Order(**{"provider": "openai", "backend": "openai", "files": (path,), **more})
        )

    async def entries(self) -> list[Receipt]:
        return await Accounts(self.sql).entries(UsageQuery(0, 1e11), None, 10_000)


def run(url: str, work: Callable[[Desk], Awaitable[None]]) -> None:
    async def main() -> None:
        sql = await open_sql(url)
        try:
            await work(Desk(sql))
        finally:
            await sql.aclose()

    asyncio.run(main())


def differences(report: Report) -> dict[tuple[str | None, str], tuple[int, ...]]:
    return {
        (drift.day, drift.model): tuple(getattr(drift.difference, kind) for kind in KINDS) for drift in report.drifts
    }


OURS = [
    used(0, "gpt-4o", Usage(input=700, cached=400, output=40)),
    used(1, "gpt-4o", Usage(input=300, output=30, estimated=True), tenant="bolt", key_id="k9", user="ann"),
    used(2, "gpt-4o-mini", Usage(input=500, output=50)),
    used(25, "gpt-4o", Usage(input=100, output=12), tenant="bolt"),
    used(3, "gpt-4o", Usage(input=9, output=9), backend="elsewhere"),
    used(80, "gpt-4o", Usage(input=9, output=9)),
]


def test_drift_is_by_day_and_model_and_a_dry_run_writes_nothing(sql_url: str) -> None:
    async def work(desk: Desk) -> None:
        await desk.book(*OURS)
        before = await desk.entries()
        report = await desk.compare("openai_completions.json")
        assert (report.first_day, report.last_day, report.applied, report.id) == (
            "2024-10-04", "2024-10-06", False, None,
        )  # fmt: skip
        assert differences(report) == {
            ("2024-10-04", "gpt-4o-2024-08-06"): (200, 0, 0, 20, 700_000),
            ("2024-10-04", "gpt-4o-mini-2024-07-18"): (0, 0, 0, 0, 0),
            ("2024-10-05", "gpt-4o-2024-08-06"): (0, 0, 0, -2, -20_000),
        }
        assert report.corrections == 2
        assert await desk.entries() == before

    run(sql_url, work)


def test_corrections_go_to_what_was_estimated_then_to_tenants_and_the_same_file_again_adds_none(sql_url: str) -> None:
    async def work(desk: Desk) -> None:
        await desk.book(*OURS)
        report = await desk.compare("openai_completions.json", apply=True)
        found = [each for each in await desk.entries() if each.outcome == "correction"]
        assert [
            (e.tenant, e.key_id, e.user, e.corrects, e.usage.input, e.usage.output, e.cost_nanos) for e in found
        ] == [
            ("bolt", "k9", "ann", "att_000001", 200, 20, 700_000),
            ("bolt", "", None, report.id, 0, -2, -20_000),
        ]
        assert {each.call_id for each in found} == {report.id}
        for again in range(3):
            same = await desk.compare("openai_completions.json", apply=bool(again))
            assert (same.corrections, same.applied) == (0, False)
        assert [each for each in await desk.entries() if each.outcome != "correction"] == sorted(
            OURS, key=lambda each: each.started_at
        )

    run(sql_url, work)


def test_a_tenant_is_corrected_under_the_name_it_asked_for(sql_url: str) -> None:
    """Budgets and usage go by that."""

    async def work(desk: Desk) -> None:
        await desk.book(
            msgspec.structs.replace(used(0, "gpt-4o", Usage(input=900, cached=400, output=80)), model="fast")
        )
        await desk.compare("openai_completions.json", apply=True)
        corrections = [each for each in await desk.entries() if each.outcome == "correction"]
        assert [(each.model, each.upstream_model, each.usage.input) for each in corrections] == [
            ("fast", "gpt-4o", 300)
        ]

    run(sql_url, work)


def test_two_that_apply_at_once_correct_once(sql_url: str) -> None:
    async def work(desk: Desk) -> None:
        await desk.book(*OURS)
        reports = await asyncio.gather(*(desk.compare("openai_completions.json", apply=True) for _ in range(4)))
        assert sorted(report.corrections for report in reports) == [0, 0, 0, 2]

    run(sql_url, work)


def test_costs_correct_money_alone_and_what_is_no_model_is_named(sql_url: str) -> None:
    async def work(desk: Desk) -> None:
        await desk.book(*OURS)
        files = (FILES / "openai_completions.json", FILES / "openai_costs.json")
        report = await desk.compare("", files=files, apply=True)
        assert (report.first_day, report.last_day) == ("2024-10-04", "2024-10-04")
        ours = sum(each.cost_nanos or 0 for each in OURS[:2])
        assert differences(report)["2024-10-04", "gpt-4o-2024-08-06"] == (200, 0, 0, 20, 3_400_000 - ours)
        assert any("$0.01 are billed for what is no model" in note for note in report.notes)
        rows = await Accounts(desk.sql).usage(UsageQuery(START, START + DAY, ("backend",)))
        assert {row.group["backend"]: row.cost_nanos for row in rows}["openai"] == 3_400_000 + 75_000

    run(sql_url, work)


def test_an_hours_cache_is_paid_once(sql_url: str) -> None:
    async def work(desk: Desk) -> None:
        usage = Usage(input=1250, cached=300, cache_write=150, output=90)
        await desk.book(
            used(0, "claude-sonnet-4-0", usage, "anthropic"), used(1, "claude-sonnet-4", usage, "anthropic")
        )
        order = {"provider": "anthropic", "backend": "anthropic", "apply": True}
        report = await desk.compare("anthropic_messages.json", **order)
        assert differences(report)["2024-10-04", "claude-sonnet-4-20250514"] == (0, 0, 0, 0, 50 * 2_250)
        assert (await desk.compare("anthropic_messages.json", **order)).corrections == 0

    run(sql_url, work)


def test_what_nobody_of_ours_used_is_named_and_paid_by_whom_one_says(sql_url: str) -> None:
    async def work(desk: Desk) -> None:
        report = await desk.compare("openai_completions.csv", apply=True)
        assert [drift.model for drift in report.unclaimed] == ["gpt-4o-2024-08-06", "gpt-4o-mini-2024-07-18"]
        assert (report.corrections, report.applied) == (0, False)
        report = await desk.compare("openai_completions.csv", apply=True, assign="ops")
        assert (report.corrections, report.unclaimed) == (2, ())
        assert {each.tenant for each in await desk.entries()} == {"ops"}
        assert (await desk.compare("openai_completions.csv", apply=True)).corrections == 0

    run(sql_url, work)


def test_reasoning_with_a_price_of_its_own_is_no_drift(sql_url: str, tmp_path: Path) -> None:
    path = tmp_path / "deep.json"
    result = {"object": "organization.usage.completions.result", "model": "deep", "input_tokens": 100}
    rows = [{**result, "output_tokens": 20, "project_id": "a"}, {**result, "output_tokens": 40, "project_id": "b"}]
    path.write_text(json.dumps({"data": [{"start_time": START, "end_time": START + DAY, "results": rows}]}))

    async def work(desk: Desk) -> None:
        await desk.book(used(0, "deep", Usage(input=200, output=60, reasoning=50)))
        report = await desk.compare(path, apply=True)
        assert differences(report) == {("2024-10-04", "deep"): (0, 0, 0, 0, 0)}
        await desk.book(used(1, "deep", Usage(input=7, output=3, reasoning=2)))
        report = await desk.compare(path, apply=True)
        assert differences(report) == {("2024-10-04", "deep"): (-7, 0, 0, -3, -19_000)}
        assert (await desk.compare(path, apply=True)).corrections == 0

    run(sql_url, work)


def test_what_passed_through_counts_where_the_file_knows_its_model(sql_url: str) -> None:
    async def work(desk: Desk) -> None:
        more = {"operation": "passthrough"}
        image = used(6, "gpt-image-1", Usage(input=9, output=900), **more)
        await desk.book(*OURS[:2], used(5, "gpt-4o", Usage(input=200, output=20), **more), image)
        files = (FILES / "openai_completions.json", FILES / "openai_costs.json")
        for chosen in (files[:1], files):
            report = await desk.compare("", files=chosen)
            found = differences(report)["2024-10-04", "gpt-4o-2024-08-06"]
            assert found[:4] == (0, 0, 0, 0), "not twice: the provider counts Responses among completions"
            assert "gpt-image-1" not in {drift.model for drift in report.drifts}

    run(sql_url, work)


@pytest.mark.parametrize("apply", [False, True])
def test_a_file_of_another_backend_takes_nothing_away(sql_url: str, apply: bool) -> None:
    async def work(desk: Desk) -> None:
        await desk.book(*OURS)
        with pytest.raises(BadCall, match="no model that was used on this backend"):
            await desk.compare("anthropic_messages.json", provider="anthropic", apply=apply)
        assert len(await desk.entries()) == len(OURS)

    run(sql_url, work)


def test_only_days_that_are_over_and_whole_are_compared(tmp_path: Path) -> None:
    async def work(desk: Desk) -> None:
        path = tmp_path / "part.json"
        bucket = {"start_time": START + 3_600, "end_time": START + 7_200, "results": []}
        path.write_text(json.dumps({"data": [bucket]}))
        with pytest.raises(BadCall, match=r"part.json: no day that is over.*export whole days"):
            await desk.compare(path)
        with pytest.raises(BadCall, match=r"two files of the same kind"):
            await desk.compare("", files=(FILES / "openai_costs.json", FILES / "openai_costs.csv"))
        with pytest.raises(BadCall, match=r"no row is of that project"):
            await desk.compare("openai_completions.json", project="proj_other")

    run(f"sqlite:///{tmp_path}/x.db", work)


def test_models_are_the_same_without_date_and_punctuation() -> None:
    names = ["gpt-4.1-2025-04-14", "GPT 4.1", "gpt-4.1", "gpt-4-1-latest"]
    assert {canonical(name) for name in names} == {"gpt-4-1"}
    assert canonical("Claude Haiku 4.5") == canonical("claude-haiku-4-5-20251001")
    assert canonical("gpt-4o") != canonical("gpt-4o-mini")


@given(st.integers(-(10**15), 10**15), st.lists(st.integers(-5, 10**12), min_size=1, max_size=9))
def test_shares_add_up_exactly_and_keep_to_their_weights(total: int, weights: list[int]) -> None:
    parts = share(total, weights)
    assert sum(parts) == total
    heavy = [max(0, weight) for weight in weights]
    if any(heavy):
        for part, weight in zip(parts, heavy, strict=True):
            assert abs(part * sum(heavy) - total * weight) <= sum(heavy)


SMALL = st.builds(
    Amounts, input=st.integers(0, 99), cached=st.integers(0, 9), output=st.integers(0, 99), nanos=st.integers(0, 999)
)
DELTA = st.builds(
    Amounts,
    input=st.integers(-300, 300),
    cached=st.integers(-30, 30),
    cache_write=st.integers(-9, 9),
    output=st.integers(-300, 300),
    nanos=st.integers(-3000, 3000),
)


def payer(name: str, amounts: Amounts) -> Payer:
    return Payer(tenant=name, used=amounts, operation="chat", model="m", upstream_model="m", started_at=0.0)


@given(DELTA, st.lists(SMALL, max_size=4), st.lists(SMALL, min_size=1, max_size=4))
def test_any_difference_is_spread_exactly_and_no_estimate_gives_more_than_it_had(
    difference: Amounts, estimates: list[Amounts], tenants: list[Amounts]
) -> None:
    guessed = [msgspec.structs.replace(payer("e", each), entry=f"e{n}") for n, each in enumerate(estimates)]
    parts = spread(difference, guessed, [payer(f"t{n}", each) for n, each in enumerate(tenants)])
    for kind in KINDS:
        assert sum(getattr(amounts, kind) for _, amounts in parts) == getattr(difference, kind)
        for who, amounts in parts:
            if who.entry is not None:
                assert getattr(who.used, kind) + getattr(amounts, kind) >= 0
    if guessed and all(getattr(difference, kind) >= 0 for kind in KINDS):
        assert all(who.entry is not None for who, _ in parts)


def test_dates_are_those_of_utc() -> None:
    assert datetime.fromtimestamp(START, UTC).date().isoformat() == "2024-10-04"

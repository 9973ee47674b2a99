"""Sums for budgets: exact, by the same patterns as policies, in one snapshot."""

import asyncio
from collections.abc import Awaitable, Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from headgate.core.policy import Budget, Each, Governed, Policy
from headgate.core.usage import Receipt, Usage
from headgate.ledger.accounts.questions import Spending, SpendQuestion
from headgate.ledger.accounts.store import Store as Accounts
from headgate.ledger.accounts.store import _spent
from headgate.ledger.store import Store
from headgate.pipeline.plans import Charge
from headgate.pipeline.seeds import _question
from headgate.storage.sql.open import open_sql
from tests.ledger.test_usage import DAY, START, entry

RECEIPTS = [
    entry(0, tenant="a", key_id="k1", model="gpt-4o", cost_nanos=7, usage=Usage(input=10, output=1)),
    entry(1, tenant="a", user="u", model="gpt-4o-mini", cost_nanos=None, usage=Usage(input=20, output=2)),
    entry(2, tenant="b", session="s", model="GPT-4o", cost_nanos=100, usage=Usage(input=40, output=4)),
    entry(24, tenant="a", session="s1", model="100%_x", cost_nanos=1_000, usage=Usage(input=80, output=8)),
    entry(3, tenant="a", model="gpt-4o", cost_nanos=-2, outcome="correction", usage=Usage(input=-5)),
]
LATEST = START + 9 * DAY


def ask(url: str, *questions: SpendQuestion) -> list[tuple[int, int]]:
    async def main() -> list[tuple[int, int]]:
        sql = await open_sql(url)
        try:
            await Store(sql).add_receipts(RECEIPTS, "log", 1)
            return await Accounts(sql).spent(questions)
        finally:
            await sql.aclose()

    return asyncio.run(main())


def test_each_question_is_answered_by_itself_and_in_order(sql_url: str) -> None:
    assert ask(
        sql_url,
        SpendQuestion(START, LATEST),
        SpendQuestion(START, START + DAY),
        SpendQuestion(START, LATEST, tenant="a"),
        SpendQuestion(START, LATEST, tenant="a", key="k1"),
        SpendQuestion(START, LATEST, user="u"),
        SpendQuestion(START, LATEST, session="s"),
        SpendQuestion(START, LATEST, tenant="nobody"),
        SpendQuestion(START, LATEST, tenant="a\x00' or 1=1 --"),
        SpendQuestion(START, LATEST, ended_by=START + 2 * 3_600),
        SpendQuestion(START, LATEST, ended_by=START + 2 * 3_600 + 60),
    ) == [(1_105, 160), (105, 72), (1_005, 116), (7, 11), (0, 22), (100, 44), (0, 0), (0, 0), (7, 33), (107, 77)]


def test_calls_without_a_user_or_a_session_are_summed_by_themselves(sql_url: str) -> None:
    assert ask(
        sql_url,
        SpendQuestion(START, LATEST, tenant="a", user=""),
        SpendQuestion(START, LATEST, tenant="b", session=""),
        SpendQuestion(START, LATEST, user="", model="gpt*"),
    ) == [(1_005, 94), (0, 0), (5, 6)]


@pytest.mark.parametrize("each", ["", "user", "session"])
def test_a_budget_of_each_is_filled_with_what_its_own_calls_spent(sql_url: str, each: Each) -> None:
    """Those without a user or a session share one account: it holds what they spent, not nothing, and not all."""
    project = Governed("project", "a", Policy())
    theirs = [r for r in RECEIPTS if r.tenant == "a" and not (each and getattr(r, each))]
    charge = Charge(project, Budget(1.0, each=each), "", START, LATEST)
    assert ask(sql_url, _question(charge)) == [
        (sum(r.cost_nanos or 0 for r in theirs), sum(r.usage.total for r in theirs))
    ]


def test_patterns_of_models_mean_what_they_mean_in_policies(sql_url: str) -> None:
    patterns = ["gpt-4o", "gpt-*", "GPT*", "*-mini", "gpt-4[op]", "gpt-?o", "100%_*", "100%%*", "*", "[!g]*", "gpt\\*"]
    answers = ask(sql_url, *(SpendQuestion(START, LATEST, model=pattern) for pattern in patterns))
    assert answers == [
        (
            sum(r.cost_nanos or 0 for r in RECEIPTS if fnmatchcase(r.model, pattern)),
            sum(r.usage.total for r in RECEIPTS if fnmatchcase(r.model, pattern)),
        )
        for pattern in patterns
    ]


ENTRIES = st.builds(
    lambda number, tenant, model, cost, tokens: entry(
        number % 48, id=f"e{number}", tenant=tenant, model=model, cost_nanos=cost, usage=Usage(input=tokens)
    ),
    st.integers(0, 10**6),
    st.sampled_from(["a", "A", "b"]),
    st.text("gp*?[]-%_\\", min_size=1, max_size=3),
    st.none() | st.integers(-(10**9), 10**12),
    st.integers(-100, 10**9),
)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(ENTRIES, max_size=20, unique_by=lambda r: r.id), st.text("gp*?[]-%_\\", min_size=1, max_size=3))
def test_any_entries_and_any_pattern_give_the_sum_of_those_that_fit(
    tmp_path_factory: pytest.TempPathFactory, receipts: list[Receipt], pattern: str
) -> None:
    async def main() -> None:
        sql = await open_sql(f"sqlite:///{tmp_path_factory.mktemp('s')}/x.db")
        try:
            await Store(sql).add_receipts(receipts, "log", 1)
            (answer,) = await Accounts(sql).spent([SpendQuestion(START, START + DAY, tenant="a", model=pattern)])
            fitting = [
                r for r in receipts if r.tenant == "a" and r.started_at < START + DAY and fnmatchcase(r.model, pattern)
            ]
            assert answer == (sum(r.cost_nanos or 0 for r in fitting), sum(r.usage.total for r in fitting))
        finally:
            await sql.aclose()

    asyncio.run(main())


def test_what_the_journal_still_holds_is_shipped_before_the_question_is_asked(sql_url: str) -> None:
    async def main() -> None:
        sql = await open_sql(sql_url)
        try:
            flush: Callable[[], Awaitable[None]] = lambda: Store(sql).add_receipts(RECEIPTS, "log", 1)  # noqa: E731
            assert await Spending(Accounts(sql), flush).spent([SpendQuestion(START, LATEST)]) == [(1_105, 160)]
        finally:
            await sql.aclose()

    asyncio.run(main())


INDEXES = [
    (SpendQuestion(START, LATEST), "ledger_by_time (started_at>? AND started_at<?)"),
    (SpendQuestion(START, LATEST, tenant="a"), "ledger_by_tenant (tenant=? AND started_at>? AND started_at<?)"),
    (SpendQuestion(0, LATEST, tenant="a", model="g*"), "ledger_by_tenant (tenant=? AND started_at>? AND started_at<?)"),
    (
        SpendQuestion(START, LATEST, tenant="a", user="u"),
        "ledger_by_user (user_id=? AND started_at>? AND started_at<?)",
    ),
    (SpendQuestion(START, LATEST, key="k"), "ledger_by_key (key_id=? AND started_at>? AND started_at<?)"),
    (SpendQuestion(0, LATEST, tenant="a", session="s"), "ledger_by_session (session=?)"),
    (SpendQuestion(0, LATEST, tenant="a", session=""), "ledger_by_tenant (tenant=? AND started_at>? AND started_at<?)"),
    (SpendQuestion(0, LATEST, tenant="a", user=""), "ledger_by_tenant (tenant=? AND started_at>? AND started_at<?)"),
]


@pytest.mark.parametrize(("question", "index"), INDEXES)
def test_every_question_is_answered_from_an_index(tmp_path: Path, question: SpendQuestion, index: str) -> None:
    async def main() -> None:
        sql = await open_sql(f"sqlite:///{tmp_path}/x.db")

        def plans(db: Connection) -> list[str]:
            asked: list[tuple[str, Any]] = []
            sa.event.listen(db, "before_cursor_execute", lambda *a: asked.append((a[2], a[3])))
            _spent(db, [question])
            (statement, values) = asked[0]
            return [row[3] for row in db.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]

        try:
            assert (await sql.read(plans))[0] == f"SEARCH ledger USING INDEX {index}"
        finally:
            await sql.aclose()

    asyncio.run(main())

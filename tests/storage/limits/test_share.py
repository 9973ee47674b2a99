"""What one replica judges by itself while the store is away."""

import asyncio
from collections.abc import Mapping

from headgate.core.limiter import Account, Cost, Place, Plan, Rate
from headgate.core.policy import OnLoss
from headgate.storage.limits.memory import MemoryLimiter
from headgate.storage.limits.share import Share, closed_by, share_of
from tests.clock import VirtualClock


def rate(amount: float, on_loss: OnLoss = "local_share") -> Rate:
    return Rate(key=f"{amount}-{on_loss}", amount=amount, window_s=60.0, burst=2 * amount, on_loss=on_loss)


def account(limit: int, *, hard: bool = True) -> Account:
    return Account(key="a", limit=limit, hard=hard, keep_s=60.0)


def share(plan: Plan, replicas: int, spent: Mapping[str, int], local: MemoryLimiter | None = None) -> Share:
    return asyncio.run(share_of(plan, replicas, spent, {}, local or MemoryLimiter(VirtualClock())))


def test_every_number_is_divided_by_the_replicas_and_is_at_least_one() -> None:
    plan = Plan(rates=(rate(100), rate(2)), places=(Place(key="p", limit=10), Place(key="q", limit=3)))
    found = share(plan, 4, {}).plan
    assert [(each.amount, each.burst) for each in found.rates] == [(25.0, 50.0), (1.0, 1.0)]
    assert [place.limit for place in found.places] == [2, 1]
    assert share(plan, 0, {}).plan.rates[0].amount == 100.0


def test_a_place_that_was_closed_stays_closed() -> None:
    assert share(Plan(places=(Place(key="p", limit=0),)), 4, {}).plan.places[0].limit == 0


def test_what_is_left_of_a_budget_is_divided_and_never_more_than_it_is() -> None:
    for spent, limit in ((200, 400), (1000, 1000), (5000, 1000)):
        assert share(Plan(accounts=(account(1000),)), 4, {"a": spent}).plan.accounts[0].limit == limit


def test_a_budget_is_judged_from_what_was_spent_everywhere_and_here() -> None:
    async def main() -> None:
        local = MemoryLimiter(VirtualClock())
        plan = Plan(accounts=(account(1000),))
        first = (await share_of(plan, 4, {"a": 200}, {}, local)).plan
        assert (await local.reserve("one", first, Cost(nanos=150), 60.0)).allowed
        assert not (await local.reserve("two", first, Cost(nanos=51), 60.0)).allowed
        again = (await share_of(plan, 4, {"a": 390}, {}, local)).plan  # a later time, the ledger having told of it
        state = (await local.balances(["a"]))[0]
        assert state is not None
        assert state.spent + state.held >= 390
        assert not (await local.reserve("three", again, Cost(nanos=153), 60.0)).allowed

    asyncio.run(main())


def test_limits_that_fail_open_are_not_judged_and_say_that_all_is_free() -> None:
    async def main() -> None:
        local = MemoryLimiter(VirtualClock())
        plan = Plan(rates=(rate(5), rate(5, "fail_open")), places=(Place(key="p", limit=1, on_loss="fail_open"),))
        found = await share_of(plan, 1, {}, {}, local)
        verdicts = [found.as_asked(await local.reserve(str(n), found.plan, Cost(), 60.0)) for n in range(11)]
        assert [verdict.allowed for verdict in verdicts] == [True] * 10 + [False]
        assert verdicts[-1].refused_rate == 0
        assert verdicts[0].rates[1].remaining == 10.0
        assert found.rules == ("fail_open", "local_share")

    asyncio.run(main())


def test_one_limit_that_fails_closed_or_one_unknown_hard_budget_refuses() -> None:
    assert closed_by(Plan(rates=(rate(5), rate(6, "fail_closed"))), {}) == "fail_closed"
    assert closed_by(Plan(places=(Place(key="p", limit=1, on_loss="fail_closed"),)), {}) == "fail_closed"
    assert closed_by(Plan(accounts=(account(5),)), {}) == "budget"
    assert closed_by(Plan(accounts=(account(5),)), {"a": 0}) is None
    assert closed_by(Plan(accounts=(account(5, hard=False),)), {}) is None

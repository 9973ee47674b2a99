"""Budgets: held before a call leaves, settled by what it used, and clear about what happens at their end."""

import asyncio
from pathlib import Path

import pytest
from msgspec import structs

from headgate.core.errors import OverBudget, OverLimit, Upstream
from headgate.core.events import Finish, Text
from headgate.core.policy import NANOS, Budget, Governed, Level, Policy
from headgate.core.principal import Principal
from headgate.core.usage import Usage
from tests.pipeline.door import Door, MakeDoor
from tests.pipeline.spine import Bodied, Spine, Telling, completion_call, fails, make_call, read, says

DOLLAR = NANOS


def governed(*budgets: Budget, level: Level = "project", id: str = "acme") -> tuple[Governed, ...]:
    return (Governed(level, id, Policy(budgets=budgets)),)


def paying(*budgets: Budget) -> Principal:
    return Principal("key_1", "acme", frozenset({"inference"}), policies=governed(*budgets))


async def balance(house: Door, key: str) -> tuple[int, int]:
    (state,) = await house.limiter.balances([key])
    assert state is not None
    return state.spent, state.held


def test_what_a_call_may_cost_is_held_until_it_is_known_and_then_paid(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(policies=governed(Budget(1.0, per="total")))
        lease = await house.enter(max_completion_tokens=1000)
        cost = lease.booked.cost.nanos
        assert cost >= 1000 * 2_000  # 2 dollars per million
        assert await balance(house, "project:acme:usd/total/all/*::all") == (0, cost)
        house.leave(lease, nanos=1234)
        assert await balance(house, "project:acme:usd/total/all/*::all") == (1234, 0)

    asyncio.run(main())


def test_a_call_that_fits_no_more_is_refused_for_good_with_the_facts(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(policies=governed(Budget(0.001, per="month")))
        house.spent = (990_000, 0)
        with pytest.raises(OverBudget, match="the project 'acme' per month is spent") as refused:
            await house.enter(max_completion_tokens=1000)
        assert "0.00099 of $0.001 spent" in refused.value.message
        assert (refused.value.status, refused.value.code) == (429, "insufficient_quota")
        assert not refused.value.retryable
        assert refused.value.retry_after is None
        assert house.empty()

    asyncio.run(main())


def test_a_call_refused_only_because_others_are_in_progress_may_come_again(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(policies=governed(Budget(0.003, per="month")))
        first = await house.enter(max_completion_tokens=1000)
        with pytest.raises(OverLimit) as refused:
            await house.enter(max_completion_tokens=1000)
        assert refused.value.code == "budget_reserved"
        assert refused.value.retryable
        assert refused.value.retry_after
        house.leave(first, nanos=10)
        house.leave(await house.enter(max_completion_tokens=1000))

    asyncio.run(main())


def test_all_levels_hold_and_the_tightest_refuses_for_all(door: MakeDoor) -> None:
    levels: list[tuple[Level, str]] = [
        ("organization", "default"),
        ("project", "acme"),
        ("user", "u"),
        ("key", "key_1"),
    ]

    async def main() -> None:
        for tight in range(4):
            house = door(
                policies=tuple(
                    Governed(level, name, Policy(budgets=(Budget(0.0001 if place == tight else 5.0, per="total"),)))
                    for place, (level, name) in enumerate(levels)
                )
            )
            with pytest.raises(OverBudget):
                await house.enter(max_completion_tokens=1000)
            for level, name in levels:
                assert await balance(house, f"{level}:{name}:usd/total/all/*::all") == (0, 0)

    asyncio.run(main())


def test_a_budget_of_one_request_refuses_what_alone_could_cost_more(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(policies=governed(Budget(0.001, per="request")))
        house.leave(await house.enter(max_completion_tokens=100))
        with pytest.raises(OverBudget, match="for one request") as refused:
            await house.enter(max_completion_tokens=1000)
        assert not refused.value.retryable

    asyncio.run(main())


def test_at_its_limit_a_budget_may_choose_a_cheaper_model_and_says_so(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(policies=governed(Budget(0.0021, model="m", at_limit="downgrade", downgrade_to="free")))
        lease = await house.enter(max_completion_tokens=100_000)
        assert lease.call.model == "free"
        assert lease.call.body.model == "free"
        assert b'"free"' in lease.call.raw
        assert dict(lease.headers)[b"x-headgate-downgraded-from"] == b"m"
        house.leave(lease)
        kept = await house.enter(max_completion_tokens=1000)
        assert kept.call.model == "m"
        house.leave(kept)

    asyncio.run(main())


def test_from_its_soft_amount_on_a_budget_may_choose_a_cheaper_model(door: MakeDoor) -> None:
    async def main() -> None:
        soft = Budget(1.0, model="m", soft=0.5, at_soft="downgrade", downgrade_to="free")
        house = door(policies=governed(soft))
        house.spent = (DOLLAR // 2, 0)
        lease = await house.enter(max_completion_tokens=10)
        assert lease.call.model == "free"
        house.leave(lease)
        assert sum('"budget.alert"' in line for line in house.lines) == 1

    asyncio.run(main())


def test_a_budget_that_only_tells_lets_every_call_through_and_tells_once(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(policies=governed(Budget(0.0001, per="total", at_limit="notify")))
        for _ in range(5):
            house.leave(await house.enter(max_completion_tokens=1000))
        assert sum('"budget.alert"' in line for line in house.lines) == 1
        spent, open_holds = await balance(house, "project:acme:usd/total/all/*::all")
        assert (spent > 100_000, open_holds) == (True, 0)

    asyncio.run(main())


def test_a_model_without_a_price_cannot_be_paid_from_a_budget_in_dollars(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(policies=governed(Budget(1.0)))
        with pytest.raises(OverBudget, match="no price") as refused:
            await house.enter(model="unpriced")
        assert refused.value.code == "price_unknown"
        tokens = door(policies=governed(Budget(100_000, unit="tokens")))
        tokens.leave(await tokens.enter(model="unpriced"))

    asyncio.run(main())


def test_an_answer_without_a_maximum_gets_one_where_a_budget_pays(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(policies=governed(Budget(1.0)), budget_output_tokens=50)
        lease = await house.enter()
        assert lease.call.output_cap == 50
        asked = await house.enter(max_completion_tokens=70)
        assert asked.call.output_cap is None
        free = door()
        loose = await free.enter()
        assert loose.call.output_cap is None
        for one in (lease, asked):
            house.leave(one)
        free.leave(loose)

    asyncio.run(main())


def test_a_bound_makes_no_completion_longer_than_it_would_be(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(policies=governed(Budget(1.0)))
        lease = await house.admit(completion_call(house.clock, prompt=["a", "b"], best_of=3))
        assert lease.call.output_cap == 16
        assert lease.booked.cost.tokens >= 2 * 3 * 16
        house.leave(lease)

    asyncio.run(main())


def test_an_account_nobody_knows_is_made_from_the_ledger_with_the_right_question(door: MakeDoor) -> None:
    async def main() -> None:
        budget = Budget(10.0, per="day", each="user", model="m*")
        house = door(policies=governed(budget))
        call = make_call(house.clock, user="ann")
        house.leave(await house.admit(call))
        (question,) = house.asked
        assert (question.tenant, question.user, question.model) == ("acme", "ann", "m*")
        assert question.start <= house.clock.now() < question.end
        assert question.end - question.start == 86_400
        house.leave(await house.admit(make_call(house.clock, user="ann")))
        assert len(house.asked) == 1

    asyncio.run(main())


def test_a_budget_in_dollars_reserves_no_more_of_a_token_limit_than_is_likely(door: MakeDoor) -> None:
    async def main() -> None:
        plain, dollars = await door().enter(), await door(policies=governed(Budget(1.0))).enter()
        assert dollars.booked.cost.tokens == plain.booked.cost.tokens
        assert dollars.booked.cost.nanos > 0
        tokens = await door(policies=governed(Budget(100_000, unit="tokens"))).enter()
        assert tokens.booked.cost.tokens > 4_096

    asyncio.run(main())


def test_a_session_has_its_own_budget_and_calls_without_one_have_none(door: MakeDoor) -> None:
    async def main() -> None:
        house = door(policies=governed(Budget(0.0025, per="session")))
        one = structs.replace(make_call(house.clock, max_completion_tokens=1000), session="s1")
        lease = await house.admit(one)
        with pytest.raises(OverLimit):
            await house.admit(structs.replace(one, id="req_again"))
        other = await house.admit(structs.replace(one, id="req_other", session="s2"))
        none = await house.admit(structs.replace(one, id="req_none", session=None))
        for each in (lease, other, none):
            house.leave(each)

    asyncio.run(main())


def test_a_raise_counts_until_its_end(door: MakeDoor) -> None:
    async def main() -> None:
        end = door().clock.now() + 60
        house = door(policies=governed(Budget(0.0001, per="total", raised_by=1.0, raised_until=end)))
        house.leave(await house.enter(max_completion_tokens=1000))
        house.clock.jump(61)
        with pytest.raises(OverBudget):
            await house.enter(max_completion_tokens=1000)

    asyncio.run(main())


# Attempts: each for itself


def test_each_attempt_is_held_and_paid_by_itself(tmp_path: Path) -> None:
    async def main() -> None:
        first = Telling("a", fails(Upstream("down")))
        second = Bodied("b", b"{}", Usage(input=10, output=5))
        house = Spine(tmp_path, [first, second], principal=paying(Budget(1.0, per="total")))
        reply = await house.handle(stream=False)
        assert await read(reply) == [b"{}"]
        await reply.aclose()
        receipts = house.receipts()
        assert [receipt.outcome for receipt in receipts] == ["failed", "ok"]
        (state,) = await house.limiter.balances(["project:acme:usd/total/all/*::all"])
        assert state is not None
        assert state.held == 0
        assert state.spent == sum(receipt.cost_nanos or 0 for receipt in receipts)
        house.at_rest()

    asyncio.run(main())


def test_a_fallback_that_the_budget_cannot_hold_is_not_tried_and_the_first_failure_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        first = Telling("a", says(*[Text("x")] * 90, Upstream("cut")))
        second = Telling("b", says(Text("y"), Finish("stop")))
        house = Spine(tmp_path, [first, second], principal=paying(Budget(0.0003, per="total")))
        reply = await house.handle(max_completion_tokens=100)
        with pytest.raises(Upstream):
            await read(reply)
        await reply.aclose()
        assert (first.opened, second.opened) == (1, 0), "what was left holds no other attempt, here or there"
        house.at_rest()

    asyncio.run(main())

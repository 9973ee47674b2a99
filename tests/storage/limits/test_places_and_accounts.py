"""What every driver promises of places and of budget accounts."""

import asyncio

import pytest

from headgate.core.limiter import Account, AccountState, Cost, Limiter, Place, Plan
from headgate.storage.limits.numbers import ORPHANS_MAX, WHOLE_MAX
from tests.storage.limits.driver import Driver, account, end, opened, rate, take


async def balance(limiter: Limiter, key: str = "a") -> AccountState | None:
    return (await limiter.balances([key]))[0]


async def seeded(limiter: Limiter, *accounts: Account) -> None:
    await limiter.seed([(each, 0) for each in accounts])


def test_a_place_is_taken_until_its_claim_ends(driver: Driver) -> None:
    plan = Plan(places=(Place(key="wide", limit=9), Place(key="p", limit=2)))

    async def main() -> None:
        async with opened(driver) as limiter:
            assert (await take(limiter, plan, claim="one")).allowed
            assert (await take(limiter, plan, claim="two")).allowed
            verdict = await take(limiter, plan, claim="three")
            assert (verdict.allowed, verdict.refused_place, verdict.retry_after) == (False, 1, 0)
            await end(limiter, plan, 1, 1, "one")
            assert (await take(limiter, plan, claim="three")).allowed
            assert not (await take(limiter, plan, claim="four")).allowed

    asyncio.run(main())


def test_a_place_whose_holder_died_frees_itself(driver: Driver) -> None:
    plan = Plan(places=(Place(key="p", limit=2),))

    async def main() -> None:
        async with opened(driver) as limiter:
            assert (await take(limiter, plan, claim="dead", ttl_s=5)).allowed
            assert (await take(limiter, plan, claim="alive", ttl_s=60)).allowed
            driver.step(4_999_999)
            assert not (await take(limiter, plan, claim="new")).allowed
            driver.step(1)
            assert (await take(limiter, plan, claim="new")).allowed
            await end(limiter, plan, 1, 1, "dead")  # late: the place is another's by now
            assert not (await take(limiter, plan, claim="more")).allowed

    asyncio.run(main())


def test_a_place_for_nobody_lets_nobody_in(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as limiter:
            assert (await take(limiter, Plan(places=(Place(key="p", limit=0),)))).refused_place == 0
            with pytest.raises(ValueError, match="place 'q': a limit of -1"):
                await take(limiter, Plan(places=(Place(key="q", limit=-1),)))

    asyncio.run(main())


def test_an_account_that_is_not_known_is_named_and_nothing_is_taken(driver: Driver) -> None:
    known, new, other = account("known"), account("new"), account("other", tokens=True)
    plan = Plan(rates=(rate(),), places=(Place(key="p", limit=1),), accounts=(known, new, other))

    async def main() -> None:
        async with opened(driver) as limiter:
            await seeded(limiter, known)
            verdict = await take(limiter, plan, 4, "first")
            assert (verdict.allowed, verdict.missing, verdict.accounts) == (False, (1, 2), ())
            assert verdict.rates[0].remaining == 10
            assert await balance(limiter, "known") == AccountState(0, 0)
            await limiter.seed([(known, 77), (new, 90), (other, 0)])
            verdict = await take(limiter, plan, 4, "second")  # the place is still free
            assert verdict.allowed
            assert verdict.accounts == (AccountState(0, 4), AccountState(90, 4), AccountState(0, 4))

    asyncio.run(main())


def test_what_refuses_first_is_judged_first(driver: Driver) -> None:
    plan = Plan(
        rates=(rate("r", 5),), places=(Place(key="p", limit=0),), accounts=(account("unknown"), account("a", 3))
    )

    async def main() -> None:
        async with opened(driver) as limiter:
            assert (await take(limiter, Plan(rates=(rate("r", 5),)), 5)).allowed
            verdict = await take(limiter, plan, 5)
            assert (verdict.refused_rate, verdict.refused_place, verdict.missing) == (0, None, ())
            driver.step(60_000_000)
            verdict = await take(limiter, plan, 5)
            assert (verdict.refused_rate, verdict.refused_place, verdict.missing) == (None, 0, ())
            assert verdict.rates[0].remaining == 5

    asyncio.run(main())


def test_spent_and_held_stay_within_the_limit(driver: Driver) -> None:
    wide, narrow = account("wide", 1000), account("narrow", 100)
    plan = Plan(accounts=(wide, narrow))

    async def main() -> None:
        async with opened(driver) as limiter:
            await seeded(limiter, wide, narrow)
            assert (await take(limiter, plan, 60, "one")).allowed
            verdict = await take(limiter, plan, 41, "two")
            assert (verdict.allowed, verdict.refused_account) == (False, 1)
            assert verdict.accounts == (AccountState(0, 60), AccountState(0, 60))
            assert (await take(limiter, plan, 40, "two")).allowed
            await end(limiter, plan, 60, 10, "one")
            assert await limiter.balances(["narrow", "wide", "none"]) == [AccountState(10, 40)] * 2 + [None]
            assert (await take(limiter, plan, 50, "three")).allowed
            assert (await take(limiter, plan, 0, "free")).allowed
            assert not (await take(limiter, plan, 1, "over")).allowed

    asyncio.run(main())


def test_a_soft_account_counts_and_never_refuses(driver: Driver) -> None:
    soft = account(limit=10, hard=False)

    async def main() -> None:
        async with opened(driver) as limiter:
            await seeded(limiter, soft)
            assert (await take(limiter, Plan(accounts=(soft,)), 60)).accounts == (AccountState(0, 60),)
            await end(limiter, Plan(accounts=(soft,)), 60, 70)
            assert await balance(limiter) == AccountState(70, 0)

    asyncio.run(main())


def test_money_and_tokens_are_counted_apart_and_exactly(driver: Driver) -> None:
    money, tokens = account("money", WHOLE_MAX), account("tokens", 10, tokens=True)
    plan = Plan(accounts=(money, tokens))

    async def main() -> None:
        async with opened(driver) as limiter:
            await limiter.seed([(money, WHOLE_MAX - 5), (tokens, 1)])
            verdict = await limiter.reserve("c", plan, Cost(3, 5), 60)
            assert verdict.accounts == (AccountState(WHOLE_MAX - 5, 5), AccountState(1, 3))
            assert (await limiter.reserve("d", plan, Cost(1, 1), 60)).refused_account == 0
            limiter.settle("c", plan, Cost(3, 5), Cost(2, 4))
            await limiter.flush()
            assert await limiter.balances(["money", "tokens"]) == [AccountState(WHOLE_MAX - 1, 0), AccountState(3, 0)]

    asyncio.run(main())


def test_what_cannot_be_counted_exactly_is_refused_and_changes_nothing(driver: Driver) -> None:
    soft = account("soft", 10, hard=False)
    plan = Plan(rates=(rate(tokens=False),), accounts=(soft,))

    async def main() -> None:
        async with opened(driver) as limiter:
            await limiter.seed([(soft, WHOLE_MAX - 1)])
            with pytest.raises(ValueError, match="account 'soft' would exceed 2"):
                await take(limiter, plan, 2)
            for spent in (-1, WHOLE_MAX + 1):
                with pytest.raises(ValueError, match="check the ledger's sum"):
                    await limiter.seed([(soft, spent)])
                with pytest.raises(ValueError, match="check the ledger's sum"):
                    await limiter.raise_to([(soft, spent)])
            with pytest.raises(ValueError, match="a limit of -1"):
                await take(limiter, Plan(accounts=(account(limit=-1),)))
            assert (await take(limiter, plan, 0)).rates[0].remaining == 9
            await end(limiter, plan, 0, WHOLE_MAX)  # ending a claim never fails: the sum stops at the largest number
            assert await balance(limiter, "soft") == AccountState(WHOLE_MAX, 0)

    asyncio.run(main())


def test_a_hold_past_its_end_is_spent_until_its_settlement_comes(driver: Driver) -> None:
    plan = Plan(accounts=(account(),))

    async def main() -> None:
        async with opened(driver) as limiter:
            await seeded(limiter, account())
            assert (await take(limiter, plan, 60, "late", ttl_s=5)).allowed
            assert (await take(limiter, plan, 30, "never", ttl_s=6)).allowed
            driver.step(7_000_000)
            assert await balance(limiter) == AccountState(90, 0)
            assert (await take(limiter, plan, 11, "over")).accounts == (AccountState(90, 0),)
            for _ in range(2):
                await end(limiter, plan, 60, 20, "late")
                assert await balance(limiter) == AccountState(50, 0)

    asyncio.run(main())


def test_settling_what_is_not_held_changes_nothing(driver: Driver) -> None:
    plan = Plan(accounts=(account(), account("unknown")))

    async def main() -> None:
        async with opened(driver) as limiter:
            await seeded(limiter, account())
            await end(limiter, plan, 60, 20, "nobody")
            assert await limiter.balances(["a", "unknown"]) == [AccountState(0, 0), None]

    asyncio.run(main())


def test_a_claim_may_end_in_parts_and_be_used_again(driver: Driver) -> None:
    place, budget = Place(key="p", limit=1), account()
    plan, rest, holds = Plan(places=(place,), accounts=(budget,)), Plan(places=(place,)), Plan(accounts=(budget,))

    async def main() -> None:
        async with opened(driver) as limiter:
            await seeded(limiter, budget)
            for spent in (30, 60):
                assert (await take(limiter, plan, 40)).allowed
                limiter.settle("c", holds, Cost(40, 40), Cost(30, 30))
                assert not (await take(limiter, rest, claim="other")).allowed
                limiter.settle("c", rest, Cost(40, 40), Cost(30, 30))
                assert (await take(limiter, plan, 1)).allowed  # at once: the ends come first
                limiter.settle("c", plan, Cost(1, 1), Cost())
                await limiter.flush()
                assert await balance(limiter) == AccountState(spent, 0)

    asyncio.run(main())


def test_the_ledger_raises_accounts_and_never_lowers_or_makes_one(driver: Driver) -> None:
    a, b, unknown = account("a"), account("b"), account("unknown")

    async def main() -> None:
        async with opened(driver) as limiter:
            await limiter.seed([(a, 10), (b, 20)])
            assert (await take(limiter, Plan(accounts=(a,)), 5)).allowed
            await limiter.raise_to([(a, 15), (b, 15), (unknown, 5)])
            assert await limiter.balances(["a", "b", "unknown"]) == [AccountState(15, 5), AccountState(20, 0), None]
            await limiter.seed([(a, 99)])
            await limiter.raise_to([(a, WHOLE_MAX)])
            assert await limiter.balances(["a"]) == [AccountState(WHOLE_MAX - 5, 5)]

    asyncio.run(main())


def test_the_claims_remembered_after_their_end_are_bounded(driver: Driver) -> None:
    soft = account(limit=1, hard=False)
    plan = Plan(accounts=(soft,))

    async def main() -> None:
        async with opened(driver) as limiter:
            await seeded(limiter, soft)
            for first in range(0, ORPHANS_MAX + 50, 50):
                driver.step(1)
                await asyncio.gather(*(take(limiter, plan, 1, f"c{first + i}", ttl_s=1) for i in range(50)))
            for number in range(30):  # Redis moves some at a time
                driver.step(1_000_000)
                await take(limiter, plan, 0, f"look{number}")
            await end(limiter, plan, 1, 0, "c0")  # forgotten
            await end(limiter, plan, 1, 0, f"c{ORPHANS_MAX}")
            state = await balance(limiter)
            assert state is not None
            assert state.spent == ORPHANS_MAX + 49

    asyncio.run(main())


def test_nothing_to_ask_for_is_allowed(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as limiter:
            assert (await take(limiter, Plan())).allowed
            await end(limiter, Plan(), 1, 1)
            assert await limiter.balances([]) == []
            await limiter.seed([])

    asyncio.run(main())


def test_names_may_hold_anything(driver: Driver) -> None:
    names = ["ключ 🔑", "a:e", "' OR 1=1 --", "x" * 300, "{tag}*\n"]

    async def main() -> None:
        async with opened(driver) as limiter:
            for name in names:
                plan = Plan(rates=(rate(name),), places=(Place(key=name, limit=1),), accounts=(account(name),))
                await seeded(limiter, account(name))
                assert (await take(limiter, plan, 3, name)).allowed
                await end(limiter, plan, 3, 2, name)
            assert await limiter.balances(names) == [AccountState(2, 0)] * len(names)

    asyncio.run(main())

"""What only the limits in memory promise: they stay small, whatever comes."""

import asyncio

import pytest

from headgate.core.errors import Overloaded
from headgate.core.limiter import Account, AccountState, Cost, Place, Plan
from headgate.core.policy import Algorithm
from headgate.storage.limits.memory import MemoryLimiter
from tests.storage.limits.driver import ALGORITHMS, StepClock, account, rate, take


def whole(name: str, algorithm: Algorithm = "token_bucket") -> Plan:
    return Plan(rates=(rate(name, algorithm=algorithm),), places=(Place(key=name, limit=1),))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_means_nothing_any_more_is_forgotten(algorithm: Algorithm) -> None:
    async def main() -> None:
        clock = StepClock()
        limiter = MemoryLimiter(clock, keys_max=1_000)
        for number in range(20_000):
            assert (await take(limiter, whole(f"r{number}", algorithm), 5, ttl_s=10)).allowed
            clock.us += 100_000
            assert len(limiter) <= 1_000

    asyncio.run(main())


def test_when_full_it_refuses_and_takes_nothing() -> None:
    async def main() -> None:
        clock = StepClock()
        limiter = MemoryLimiter(clock, keys_max=10)
        for number in range(10):
            assert (await take(limiter, whole(f"r{number}"), 5)).allowed
        with pytest.raises(Overloaded, match="10 limits of one kind") as caught:
            await take(limiter, Plan(rates=(rate("r0"), rate("new")), places=(Place(key="r0", limit=9),)))
        assert caught.value.code == "limits_full"
        assert (await take(limiter, Plan(rates=(rate("r0"),)), 0)).rates[0].remaining == 5
        limiter.settle("c", Plan(rates=(rate("unknown"),)), Cost(), Cost(5))  # never fails
        await limiter.seed([(account(f"a{number}"), 0) for number in range(10)])
        with pytest.raises(Overloaded, match="10 limits of one kind"):
            await limiter.seed([(account("new"), 0)])
        clock.us += 61_000_000
        assert (await take(limiter, whole("new"), 5)).allowed

    asyncio.run(main())


def test_making_room_never_forgets_what_the_call_itself_takes() -> None:
    async def main() -> None:
        clock = StepClock()
        limiter = MemoryLimiter(clock)
        old = Plan(rates=(rate("old"),), places=(Place(key="old", limit=1),))
        assert (await take(limiter, old, 10, ttl_s=1)).allowed
        clock.us += 100_000_000
        new = Plan(rates=(rate("old"), rate("new")), places=(Place(key="old", limit=1), Place(key="new", limit=1)))
        assert (await take(limiter, new, 7)).allowed
        verdict = await take(limiter, old, 0, "other")
        assert (verdict.rates[0].remaining, verdict.refused_place) == (3, 0)

    asyncio.run(main())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("settled", [True, False])
def test_one_rate_stays_small_whatever_becomes_of_its_claims(algorithm: Algorithm, settled: bool) -> None:
    plan = Plan(rates=(rate("r", 50, 1, algorithm),))

    async def main() -> None:
        clock = StepClock()
        limiter = MemoryLimiter(clock)
        for number in range(20_000):
            clock.us += 20
            verdict = await take(limiter, plan, 5, f"c{number}")
            if verdict.allowed and settled:
                limiter.settle(f"c{number}", plan, Cost(5), Cost())  # given back at once: none of it may pile up
        meter = limiter._meters.entries[f"{algorithm}:r"]
        sizes = [len(getattr(meter, name)) for name in ("entries", "open") if hasattr(meter, name)]
        assert all(size < 500 for size in sizes)

    asyncio.run(main())


def test_an_account_goes_a_while_after_its_last_use_and_never_while_something_is_held() -> None:
    brief = Account(key="a", limit=100, keep_s=5.0)
    plan = Plan(accounts=(brief,))

    async def main() -> None:
        clock = StepClock()
        limiter = MemoryLimiter(clock)
        await limiter.seed([(brief, 0)])
        clock.us += 4_999_999
        assert (await take(limiter, plan, 10, ttl_s=60)).allowed
        clock.us += 59_000_000
        limiter.settle("c", plan, Cost(10, 10), Cost(4, 4))
        clock.us += 4_999_999
        assert await limiter.balances(["a"]) == [AccountState(4, 0)]
        clock.us += 1
        assert await limiter.balances(["a"]) == [None]
        assert (await take(limiter, plan, 10)).missing == (0,)
        await limiter.seed([(brief, 7)])
        assert await limiter.balances(["a"]) == [AccountState(7, 0)]

    asyncio.run(main())

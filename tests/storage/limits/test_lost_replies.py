"""Redis, with its answers lost: before it heard, after it ran, and when it hears too late."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis

from headgate.core.clock import SystemClock
from headgate.core.errors import Overloaded
from headgate.core.limiter import AccountState, Cost, Place, Plan
from headgate.storage.limits.redis import RedisLimiter
from tests.storage.limits.driver import account, rate, take
from tests.storage.limits.proxy import Fate, Proxy

BUDGET = account(limit=100)
PLAN = Plan(rates=(rate(amount=100, window_s=1e6),), places=(Place(key="p", limit=1),), accounts=(BUDGET,))
BARE = Plan(rates=(rate("bare", amount=100, window_s=1e6),))


@asynccontextmanager
async def limiter_behind(
    redis_url: str, prefix: str, timeout_s: float = 20.0
) -> AsyncIterator[tuple[RedisLimiter, Proxy]]:
    async with Proxy(redis_url).listening() as proxy:
        limiter = RedisLimiter.at(proxy.url, SystemClock(), timeout_s, prefix)
        try:
            await limiter.seed([(BUDGET, 0)])
            assert not (await take(limiter, Plan(places=(Place(key="q", limit=0),)))).allowed  # scripts are known now
            limiter.settle("nobody", PLAN, Cost(), Cost())
            await limiter.flush()
            yield limiter, proxy
        finally:
            await limiter.aclose()


def test_a_connection_that_stands_still_fails_nobody_who_waits_for_another(redis_url: str, prefix: str) -> None:
    async def main() -> None:
        async with limiter_behind(redis_url, prefix, timeout_s=1.0) as (limiter, proxy):
            seen = proxy.scripts
            proxy.stands_still = True
            stuck = asyncio.ensure_future(take(limiter, BARE, 0, "stuck"))
            while proxy.scripts == seen:
                await asyncio.sleep(0)

            async def calls(name: str) -> None:
                while not stuck.done():
                    await take(limiter, BARE, 0, name)

            await asyncio.gather(*[calls(f"call-{number}") for number in range(200)])  # none of them is told anything
            with pytest.raises(Overloaded):
                await stuck

    asyncio.run(main())


@pytest.mark.parametrize("fate", ["before", "after", "late"])
def test_a_claim_whose_answer_was_lost_holds_nothing(redis_url: str, prefix: str, fate: Fate) -> None:
    async def main() -> None:
        async with limiter_behind(redis_url, prefix) as (limiter, proxy):
            for _ in range(3):
                proxy.fates.append(fate)
                with pytest.raises(Overloaded, match="The limit store cannot be used") as caught:
                    await take(limiter, PLAN, 60)
                assert caught.value.code == "limits_unavailable"
                await limiter.flush()
                await proxy.deliver()
                assert await limiter.balances(["a"]) == [AccountState(0, 0)]
            verdict = await take(limiter, PLAN, 60)
            assert verdict.allowed  # the place and the tokens are free as well
            assert verdict.rates[0].remaining == pytest.approx(40, abs=0.1)

    asyncio.run(main())


def test_a_claim_that_waits_in_vain_or_is_cancelled_holds_nothing(redis_url: str, prefix: str) -> None:
    async def main() -> None:
        async with limiter_behind(redis_url, prefix) as (limiter, proxy):
            claim = asyncio.ensure_future(take(limiter, PLAN, 60))
            seen = proxy.scripts
            while proxy.scripts == seen:
                await asyncio.sleep(0)
            claim.cancel()
            with pytest.raises(asyncio.CancelledError):
                await claim
            await limiter.flush()
            assert await limiter.balances(["a"]) == [AccountState(0, 0)]
            assert (await take(limiter, PLAN, 100)).allowed

    asyncio.run(main())


@pytest.mark.parametrize("fates", [["before"], ["after"], ["after", "before", "after"]])
def test_an_end_whose_answer_was_lost_is_told_again_and_counts_once(
    redis_url: str, prefix: str, fates: list[Fate]
) -> None:
    async def main() -> None:
        async with limiter_behind(redis_url, prefix) as (limiter, proxy):
            assert (await take(limiter, PLAN, 60)).allowed
            proxy.fates.extend(fates)
            limiter.settle("c", PLAN, Cost(60, 60), Cost(10, 10))
            await limiter.flush()
            assert not proxy.fates
            assert limiter.lost_settlements == 0
            verdict = await take(limiter, PLAN, 0)
            assert verdict.accounts == (AccountState(10, 0),)
            assert verdict.rates[0].remaining == pytest.approx(90, abs=0.1)

    asyncio.run(main())


@pytest.mark.parametrize("fate", ["before", "after"])
def test_a_rate_that_nothing_tells_apart_is_trued_up_at_most_once(redis_url: str, prefix: str, fate: Fate) -> None:
    async def main() -> None:
        async with limiter_behind(redis_url, prefix) as (limiter, proxy):
            assert (await take(limiter, BARE, 60)).allowed
            proxy.fates.append(fate)
            limiter.settle("c", BARE, Cost(60), Cost(10))
            await limiter.flush()
            remaining = (await take(limiter, BARE, 0)).rates[0].remaining
            assert remaining == pytest.approx(40 if fate == "before" else 90, abs=0.1)

    asyncio.run(main())


def test_a_server_that_forgot_the_scripts_is_told_them_again(redis_url: str, prefix: str) -> None:
    async def main() -> None:
        async with limiter_behind(redis_url, prefix) as (limiter, _):
            with redis.Redis.from_url(redis_url) as admin:
                for number in range(3):
                    admin.script_flush()
                    assert (await take(limiter, PLAN, 10)).allowed
                    admin.script_flush()
                    limiter.settle("c", PLAN, Cost(10, 10), Cost(5, 5))
                    await limiter.flush()
                    admin.script_flush()
                    assert await limiter.balances(["a"]) == [AccountState(5 * (number + 1), 0)]
                    admin.script_flush()
                    await limiter.raise_to([(BUDGET, 1)])

    asyncio.run(main())

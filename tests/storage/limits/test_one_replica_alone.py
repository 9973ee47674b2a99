"""A replica that loses its way to the store, while the others still have theirs."""

import asyncio
import contextlib

import pytest

from headgate.core.clock import SystemClock
from headgate.core.errors import Overloaded
from headgate.core.limiter import Cost, Place, Plan
from headgate.storage.limits.redis import RedisLimiter
from tests.storage.limits.troubled import NOTHING, REPLICAS, TTL_S, WIDE, House, budget, house, plan


async def spend(house: House, money: Plan) -> int:
    """As much as can be, 5 at a time: until the replica cannot tell whether there is more."""
    spent, cost = 0, Cost(nanos=5)
    with contextlib.suppress(Overloaded):
        while True:
            claim = await house.ask(money, cost)
            assert claim is not None
            house.limiter.settle(claim, money, cost, cost)
            spent += 5
    return spent


def test_a_budget_is_overspent_by_no_more_than_the_share_of_what_was_left() -> None:
    async def main() -> None:
        async with house() as h:
            money, account = budget(1_000)
            await h.limiter.seed([(account, 0)])
            assert await h.ask(money, Cost(nanos=100))  # 900 are left when this replica last hears of it
            h.proxy.set("drop")
            await h.degraded()
            other = RedisLimiter.at(f"redis://127.0.0.1:{h.port}/0", SystemClock())
            try:
                claims = [f"other-{number}" for number in range(200)]
                elsewhere = [(await other.reserve(claim, money, Cost(nanos=5), TTL_S)).allowed for claim in claims]
            finally:
                await other.aclose()
            assert 5 * sum(elsewhere) == 900
            here = await spend(h, money)
            assert here == 900 // REPLICAS
            for heard in (400, 600):  # the ledger hears of it, and another key's calls draw on the budget too
                await h.limiter.raise_to([(account, heard)])
                here += await spend(h, budget(1_000)[0])
            assert here == 900 // REPLICAS

    asyncio.run(main())


def test_connections_that_end_under_load_do_not_mean_that_the_store_is_away() -> None:
    async def main() -> None:
        async with house() as h:
            wide = plan(1e9)
            await asyncio.gather(*[h.ask(wide) for _ in range(100)])  # connections are made
            h.proxy.set("none", 0.01)
            calls = [asyncio.ensure_future(h.ask(wide)) for _ in range(100)]
            await asyncio.sleep(0.005)
            h.proxy.set("drop")
            h.proxy.set("none")
            assert None not in await asyncio.gather(*calls)
            assert h.rules  # some of them were judged here
            assert not h.changes
            assert not h.limiter.degraded

    asyncio.run(main())


def test_a_claim_asked_for_again_is_not_given_back_with_its_first_try() -> None:
    async def main() -> None:
        async with house() as h:
            place = Place(key="place", limit=10)
            first, second = Plan(rates=plan(10, on_loss="fail_closed").rates, places=(place,)), Plan(places=(place,))
            await h.ask(WIDE)
            await h.ask(second)
            h.proxy.set("none", 0.35)
            with pytest.raises(Overloaded):
                await h.limiter.reserve("again", first, NOTHING, TTL_S)  # nobody waits for its answer any more
            h.proxy.set("none")
            h.rules.clear()
            assert (await h.limiter.reserve("again", second, NOTHING, TTL_S)).allowed
            await asyncio.sleep(0.9)  # the answer to the first try comes, and what it took goes back
            await h.limiter.flush()
            kept = h.direct.zscore("headgate:p:place", "again") is not None
            assert kept or h.rules == ["local_share"]

    asyncio.run(main())

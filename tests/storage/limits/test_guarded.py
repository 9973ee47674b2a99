"""The store of limits in trouble: a real Redis killed, stopped, flushed, made a replica, paused, or far away."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from headgate.core.clock import SystemClock
from headgate.core.errors import Overloaded
from headgate.core.limiter import Cost, Plan
from headgate.storage.limits.leased import LeasedLimiter
from tests import servers
from tests.storage.limits.troubled import (
    NOTHING,
    REPLICAS,
    TROUBLES,
    TTL_S,
    WIDE,
    House,
    budget,
    house,
    plan,
    start,
)
from tests.storage.proxy import Fault


@pytest.mark.parametrize("trouble", TROUBLES)
def test_whatever_is_wrong_with_the_store_it_is_left_alone_soon_and_limits_hold_by_their_share(
    trouble: Callable[[House], "asyncio.Future[None]"],
) -> None:
    async def main() -> None:
        async with house() as h:
            half, opened, closed = plan(100), plan(10, on_loss="fail_open"), plan(10, on_loss="fail_closed")
            await h.ask(WIDE)
            assert await h.passed(half, 20) == 20
            await trouble(h)
            await h.until(lambda: h.limiter.degraded, 5.0, WIDE)
            began = time.monotonic()
            assert await h.passed(half, 200) == 100 // REPLICAS
            assert await h.passed(opened, 200) == 200
            with pytest.raises(Overloaded) as told:
                await h.ask(closed)
            assert time.monotonic() - began < 2.0  # none of 401 calls waited for the store
            assert (told.value.code, told.value.status) == ("limits_unavailable", 503)
            assert told.value.retry_after
            assert {"local_share", "fail_open", "fail_closed"} <= set(h.rules)
            assert [change.degraded for change in h.changes] == [True]
            with contextlib.suppress(ProcessLookupError):
                await start(h)

    asyncio.run(main())


@pytest.mark.parametrize("fault", ["stall", "drop", "cut", "corrupt"])
def test_once_the_store_is_well_again_limits_are_exact_and_nothing_is_held(fault: Fault) -> None:
    async def main() -> None:
        async with house() as h:
            exact = plan(50, places=40)
            before = [await h.ask(exact) for _ in range(20)]
            h.proxy.set(fault)
            await h.degraded()
            meanwhile = [await h.ask(exact) for _ in range(15)]
            for claim in before[:10]:
                h.limiter.settle(claim or "", exact, Cost(), Cost())
            h.proxy.set("none")
            await h.well()
            for claim in before[10:] + [claim for claim in meanwhile if claim]:
                h.limiter.settle(claim or "", exact, Cost(), Cost())
            await h.limiter.flush()
            assert await h.passed(exact, 200) == 30  # of 50, of which 20 were taken before
            assert h.direct.zcard("headgate:p:place") == 30  # and nothing else is held
            assert sum(claim is not None for claim in meanwhile) in range(40 // REPLICAS + 1)
            assert [change.degraded for change in h.changes] == [True, False]
            assert h.changes[-1].away_s > 0

    asyncio.run(main())


def test_a_store_that_comes_back_empty_counts_anew_and_asks_for_its_accounts() -> None:
    async def main() -> None:
        async with house() as h:
            exact, (money, account) = plan(50, places=40), budget(1000)
            await h.limiter.seed([(account, 100)])
            assert await h.passed(exact, 60) == 40
            h.direct.flushall()
            assert await h.passed(exact, 60) == 40
            verdict = await h.limiter.reserve("a", money, Cost(nanos=100), TTL_S)
            assert (verdict.allowed, verdict.missing) == (False, (0,))
            await h.limiter.seed([(account, 100)])
            assert await h.ask(money, Cost(nanos=900)) is not None
            assert await h.ask(money, Cost(nanos=1)) is None
            assert not h.changes

    asyncio.run(main())


async def until_refused(h: House, money: Plan) -> list[str | None]:
    """Its share used up, a replica says that it cannot tell, not that the budget is spent."""
    claims: list[str | None] = []
    with contextlib.suppress(Overloaded):
        while len(claims) < 20:
            claims.append(await h.ask(money, Cost(nanos=50)))
    return claims


def test_a_budget_spends_its_share_of_what_was_left_and_no_more_however_often_the_store_goes() -> None:
    async def main() -> None:
        async with house() as h:
            money, account = budget(1000)
            await h.limiter.seed([(account, 100)])
            first = await h.ask(money, Cost(nanos=100))  # 800 are left, of which this replica may spend 200
            for _ in range(3):
                h.proxy.set("drop")
                await h.degraded()
                claims = await until_refused(h, money)
                assert len(claims) <= 4
                for claim in filter(None, claims):
                    h.limiter.settle(claim, money, Cost(nanos=50), Cost(nanos=50))
                h.proxy.set("none")
                await h.well()
            assert account in h.limiter.touched_accounts()
            assert account in h.recovered[0]
            state = (await h.limiter.balances(["budget"]))[0]
            assert state is not None
            assert (state.spent, state.held) == (100, 100)
            await h.limiter.raise_to([(account, 300)])  # what the ledger knows by now
            h.limiter.settle(first or "", money, Cost(nanos=100), Cost(nanos=10))
            await h.limiter.flush()
            state = (await h.limiter.balances(["budget"]))[0]
            assert state is not None
            assert (state.spent, state.held) == (310, 0)

    asyncio.run(main())


def test_no_budget_is_spent_here_while_others_spend_it_in_the_store() -> None:
    """One call without an answer proves nothing of the store: it is refused, a limit of rates goes by its share."""

    async def main() -> None:
        async with house() as h:
            money, account = budget(1000)
            await h.limiter.seed([(account, 0)])
            assert await h.ask(money, Cost(nanos=1)) is not None
            h.proxy.set("stall")
            with pytest.raises(Overloaded, match="A budget") as told:
                await h.ask(money, Cost(nanos=1))
            assert told.value.retry_after
            assert not h.limiter.degraded

    asyncio.run(main())


def test_a_budget_that_was_never_seen_is_refused_until_the_store_is_back() -> None:
    async def main() -> None:
        async with house() as h:
            money, account = budget(1000, "new")
            h.proxy.set("drop")
            await h.degraded()
            with pytest.raises(Overloaded) as told:
                await h.ask(money, Cost(nanos=1))
            assert told.value.code == "limits_unavailable"
            assert h.rules[-1] == "budget"
            h.proxy.set("none")
            await h.well()
            await h.limiter.seed([(account, 0)])
            assert await h.ask(money, Cost(nanos=1)) is not None

    asyncio.run(main())


def test_a_claim_of_the_outage_that_ends_after_it_is_told_to_whoever_keeps_the_ledger() -> None:
    async def main() -> None:
        async with house() as h:
            money, account = budget(1000)
            await h.limiter.seed([(account, 0)])
            h.proxy.set("drop")
            await h.degraded()
            claim = await h.ask(money, Cost(nanos=50))
            h.proxy.set("none")
            await h.well()
            told = len(h.recovered)
            h.limiter.settle(claim or "", money, Cost(nanos=50), Cost(nanos=50))
            assert h.recovered[told:] == [(account,)]
            state = (await h.limiter.balances(["budget"]))[0]
            assert state is not None
            assert state.spent == 0  # the ledger brings it there

    asyncio.run(main())


def test_a_store_fifty_milliseconds_away_is_used() -> None:
    async def main() -> None:
        async with house() as h:
            exact = plan(10)
            h.proxy.set("none", 0.025)
            assert await h.passed(exact, 15) == 10
            assert not h.changes

    asyncio.run(main())


def test_one_lost_answer_is_judged_here_and_leaves_nothing_behind_in_the_store() -> None:
    async def main() -> None:
        async with house() as h:
            exact = plan(50, places=10)
            assert await h.passed(exact, 1) == 1
            h.proxy.set("cut")
            claim = await h.ask(exact)
            h.proxy.set("none")
            assert claim is not None
            h.limiter.settle(claim, exact, Cost(), Cost())
            await h.until(lambda: h.direct.zcard("headgate:p:place") == 1, 5.0)
            assert not h.limiter.degraded

    asyncio.run(main())


def test_a_caller_that_leaves_while_the_store_is_asked_leaves_nothing_behind() -> None:
    async def main() -> None:
        async with house() as h:
            exact = plan(1_000, places=100)
            await h.ask(exact)
            h.proxy.set("none", 0.02)
            for pause_s in (0.0, 0.01, 0.03, 0.05):
                calls = [asyncio.ensure_future(h.ask(exact)) for _ in range(10)]
                await asyncio.sleep(pause_s)
                for call in calls:
                    call.cancel()
                await asyncio.wait(calls)
                for claim in [call.result() for call in calls if not call.cancelled()]:
                    h.limiter.settle(claim or "", exact, NOTHING, NOTHING)
            await h.until(lambda: h.direct.zcard("headgate:p:place") == 1, 5.0)
            assert not h.changes

    asyncio.run(main())


def test_a_restart_of_the_store_is_survived() -> None:
    async def main() -> None:
        async with house() as h:
            exact = plan(50)
            await h.passed(exact, 10)
            h.server.kill()
            await h.degraded()
            server, _ = servers.start_redis(h.port)
            try:
                await h.well()
                assert await h.passed(exact, 60) == 50
            finally:
                server.kill()
                server.stop()

    asyncio.run(main())


def test_leased_limits_too_follow_their_policy_while_the_store_is_away() -> None:
    async def main() -> None:
        async with house() as h:
            leased = LeasedLimiter(h.limiter, SystemClock(), random.Random(1), lambda: REPLICAS, "a")
            shared, closed = (
                Plan(rates=(replace(plan(100_000, on_loss=on_loss).rates[0], leased=True),))
                for on_loss in ("local_share", "fail_closed")
            )
            for each in (shared, closed):
                assert (await leased.reserve("before", each, NOTHING, TTL_S)).allowed
            h.proxy.set("drop")
            await h.degraded()
            passed = 0
            while (await leased.reserve("call", shared, NOTHING, TTL_S)).allowed:
                passed += 1
            assert 100_000 // REPLICAS <= passed + 1 <= 1.1 * 100_000 // REPLICAS
            with pytest.raises(Overloaded, match="away"):
                await asyncio.gather(*[leased.reserve("call", closed, NOTHING, TTL_S) for _ in range(1_000)])
            h.proxy.set("none")
            await h.well()

            def asks_again() -> bool:
                try:
                    return leased.at_once("call", closed, NOTHING) is None
                except Overloaded:  # it was asked a moment ago, when the store was still away
                    return False

            await h.until(asks_again, 5.0)
            assert (await leased.reserve("call", closed, NOTHING, TTL_S)).allowed

    asyncio.run(main())

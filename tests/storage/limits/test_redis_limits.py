"""What only the limits on Redis promise: a server that dies, forgets or goes back in time."""

import asyncio
import os
import signal
import socket

import pytest
import redis

from headgate.core.clock import SystemClock
from headgate.core.errors import Overloaded
from headgate.core.limiter import Account, AccountState, Cost, Place, Plan
from headgate.core.policy import Algorithm
from headgate.storage.errors import StorageError
from headgate.storage.limits.memory import MemoryLimiter
from headgate.storage.limits.open import open_limiter
from headgate.storage.limits.redis import RedisLimiter
from headgate.storage.limits.settlements import QUEUE_MAX
from tests import servers
from tests.clock import VirtualClock
from tests.storage.limits.driver import ALGORITHMS, RedisDriver, account, end, rate, take

BUDGET = account(limit=100)
PLAN = Plan(rates=(rate(amount=100, window_s=1e6),), places=(Place(key="p", limit=1),), accounts=(BUDGET,))


def test_a_killed_server_is_overloaded_and_its_return_is_noticed() -> None:
    async def main() -> None:
        server, url = servers.start_redis()
        limiter = RedisLimiter.at(url, SystemClock())
        try:
            await limiter.seed([(BUDGET, 0)])
            assert (await take(limiter, PLAN, 10)).allowed
            server.kill()
            for _ in range(3):
                with pytest.raises(Overloaded, match="limit store") as caught:
                    await asyncio.wait_for(take(limiter, PLAN, 10, "other"), 5.0)
                assert caught.value.retry_after
            limiter.settle("c", PLAN, Cost(10, 10), Cost(5, 5))
            again, _ = servers.start_redis(int(url.rpartition(":")[2].partition("/")[0]))
            server.stop()
            await limiter.flush()
            assert limiter.lost_settlements == 0
            assert (await take(limiter, PLAN, 10)).missing == (0,)
            await limiter.seed([(BUDGET, 50)])
            assert (await take(limiter, PLAN, 10)).accounts == (AccountState(50, 10),)
            await limiter.aclose()
            again.stop()
        finally:
            await limiter.aclose()
            server.stop()

    asyncio.run(main())


def test_an_end_that_the_server_will_not_take_holds_up_no_others(redis_url: str, prefix: str) -> None:
    async def main() -> None:
        limiter = RedisLimiter.at(redis_url, SystemClock(), 20.0, prefix)
        bad, good = (Plan(places=(Place(key=key, limit=10_000),)) for key in ("bad", "good"))
        with redis.Redis.from_url(redis_url) as admin:
            admin.set(f"{prefix}p:bad", "no set")
            try:
                limiter.settle("bad", bad, Cost(), Cost())
                for first in range(0, 2_000, 500):
                    claims = [f"good-{number}" for number in range(first, first + 500)]
                    await asyncio.gather(*[limiter.reserve(claim, good, Cost(), 600.0) for claim in claims])
                for number in range(2_000):
                    limiter.settle(f"good-{number}", good, Cost(), Cost())
                async with asyncio.timeout(5.0):
                    while admin.zcard(f"{prefix}p:good"):
                        await asyncio.sleep(0.02)
            finally:
                admin.delete(f"{prefix}p:bad")
                await limiter.aclose()
        assert limiter.lost_settlements == 0

    asyncio.run(main())


def test_a_server_that_says_nothing_is_given_up_in_time_and_what_it_hears_late_takes_nothing() -> None:
    async def main() -> None:
        server, url = servers.start_redis()
        limiter = RedisLimiter.at(url, SystemClock(), 0.3)
        try:
            await limiter.seed([(BUDGET, 0)])
            with redis.Redis.from_url(url) as admin:
                pid = admin.info()["process_id"]
            os.kill(pid, signal.SIGSTOP)
            try:
                for number in range(5):
                    with pytest.raises(Overloaded, match="limit store"):
                        await take(limiter, PLAN, 10, f"c{number}")
            finally:
                os.kill(pid, signal.SIGCONT)
            await limiter.flush()
            assert await limiter.balances(["a"]) == [AccountState(0, 0)]
            assert (await take(limiter, PLAN, 100, "all")).allowed
        finally:
            await limiter.aclose()
            server.stop()

    asyncio.run(main())


def test_an_account_is_missing_after_the_server_was_flushed() -> None:
    async def main() -> None:
        server, url = servers.start_redis()
        limiter = RedisLimiter.at(url, SystemClock(), 20.0)
        try:
            await limiter.seed([(BUDGET, 0)])
            assert (await take(limiter, PLAN, 10)).allowed
            with redis.Redis.from_url(url) as admin:
                admin.flushall()
            await end(limiter, PLAN, 10, 5)
            assert await limiter.balances(["a"]) == [None]
            assert (await take(limiter, PLAN, 10)).missing == (0,)
            verdict = await take(limiter, Plan(rates=PLAN.rates), 0)
            assert verdict.rates[0].remaining == 100  # what was flushed is not given back once more
        finally:
            await limiter.aclose()
            server.stop()

    asyncio.run(main())


def test_nothing_stays_on_the_server_longer_than_it_means_something(redis_url: str, prefix: str) -> None:
    rates = tuple(rate(algorithm, 10, 10, algorithm, max_delay_s=10) for algorithm in ALGORITHMS)
    budget = Account(key="a", limit=100, keep_s=30.0)
    plan = Plan(rates=rates, places=(Place(key="p", limit=3),), accounts=(budget,))

    async def main() -> None:
        limiter = RedisLimiter.at(redis_url, SystemClock(), 20.0, prefix)
        try:
            await limiter.seed([(budget, 0)])
            assert (await take(limiter, plan, 4, "one", ttl_s=40)).allowed
            assert (await take(limiter, plan, 4, "two", ttl_s=10)).allowed
            with redis.Redis.from_url(redis_url) as admin:
                left = {key: admin.pttl(key) for key in admin.scan_iter(match=prefix + "*")}
                assert len(left) == 9
                assert all(0 < milliseconds <= 45_100 for milliseconds in left.values()), left
                assert left[f"{prefix}a:a".encode()] > 30_000
                await end(limiter, plan, 4, 0, "one")
                await end(limiter, plan, 4, 0, "two")
                left = {key: admin.pttl(key) for key in admin.scan_iter(match=prefix + "*")}
                assert all(0 < milliseconds <= 45_100 for milliseconds in left.values()), left
        finally:
            await limiter.aclose()

    asyncio.run(main())


def test_an_account_goes_a_while_after_its_last_use_and_never_while_something_is_held(
    redis_url: str, prefix: str
) -> None:
    brief = Account(key="a", limit=100, keep_s=0.2)
    plan = Plan(accounts=(brief,))

    async def gone(limiter: RedisLimiter) -> None:
        async with asyncio.timeout(20):
            while await limiter.balances(["a"]) != [None]:
                await asyncio.sleep(0.02)

    async def main() -> None:
        limiter = RedisLimiter.at(redis_url, SystemClock(), 20.0, prefix)
        try:
            await limiter.seed([(brief, 0)])
            await gone(limiter)
            await limiter.seed([(brief, 0)])
            assert (await take(limiter, plan, 10, ttl_s=600)).allowed
            await asyncio.sleep(0.4)
            await end(limiter, plan, 10, 5)
            assert await limiter.balances(["a"]) == [AccountState(5, 0)]
        finally:
            await limiter.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_clock_that_goes_back_mints_no_credit_and_stops_nobody_for_long(
    redis_driver: RedisDriver, algorithm: Algorithm
) -> None:
    plan = Plan(rates=(rate("r", 10, 10, algorithm, max_delay_s=0),))

    async def main() -> None:
        limiter = redis_driver.replica()
        try:
            for back_us in (3_000_000, 12_000_000, 86_400_000_000):
                redis_driver.step(40_000_000)
                assert (await take(limiter, plan, 10, f"all{back_us}")).allowed
                redis_driver.step(-back_us)
                assert not (await take(limiter, plan, 5, "early")).allowed
                redis_driver.step(20_000_000)
                assert (await take(limiter, plan, 5, f"later{back_us}")).allowed
        finally:
            await limiter.aclose()

    asyncio.run(main())


def test_a_clock_that_goes_back_frees_no_hold_early(redis_driver: RedisDriver) -> None:
    async def main() -> None:
        limiter = redis_driver.replica()
        try:
            await limiter.seed([(BUDGET, 0)])
            assert (await take(limiter, PLAN, 10, "one", ttl_s=5)).allowed
            redis_driver.step(-100_000_000)
            assert (await take(limiter, PLAN, 10, "two")).refused_place == 0
            await end(limiter, PLAN, 10, 4, "one")
            assert await limiter.balances(["a"]) == [AccountState(4, 0)]
            assert (await take(limiter, PLAN, 10, "two")).allowed
        finally:
            await limiter.aclose()

    asyncio.run(main())


def test_ends_that_wait_for_the_server_are_bounded_and_those_lost_are_counted() -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        limiter = RedisLimiter.at(f"redis://127.0.0.1:{port}/0", SystemClock(), 0.2)
        for number in range(QUEUE_MAX + 1_000):
            limiter.settle(f"c{number}", PLAN, Cost(1, 1), Cost(1, 1))
        assert limiter.lost_settlements == 1_000
        for number in range(50):  # claims in vain do not push out what was used
            with pytest.raises(Overloaded, match="limit store"):
                await take(limiter, PLAN, 1, f"n{number}")
        assert limiter.lost_settlements == 1_000
        await limiter.aclose()
        assert limiter.lost_settlements == QUEUE_MAX + 1_000
        limiter.settle("late", PLAN, Cost(1, 1), Cost(1, 1))
        assert limiter.lost_settlements == QUEUE_MAX + 1_001

    asyncio.run(main())


def test_closing_writes_what_has_ended(redis_url: str, prefix: str) -> None:
    async def main() -> None:
        limiter = RedisLimiter.at(redis_url, SystemClock(), 20.0, prefix)
        await limiter.seed([(BUDGET, 0)])
        assert (await take(limiter, PLAN, 10)).allowed
        limiter.settle("c", PLAN, Cost(10, 10), Cost(5, 5))
        await limiter.aclose()
        other = RedisLimiter.at(redis_url, SystemClock(), 20.0, prefix)
        assert await other.balances(["a"]) == [AccountState(5, 0)]
        await other.aclose()

    asyncio.run(main())


def test_the_setting_chooses_the_driver(redis_url: str) -> None:
    async def main() -> None:
        clock = VirtualClock()
        assert isinstance(open_limiter("memory", clock), MemoryLimiter)
        limiter = open_limiter(redis_url, clock)
        assert isinstance(limiter, RedisLimiter)
        assert await limiter.balances(["none"]) == [None]
        await limiter.aclose()
        for wrong in ("etcd://secret@host", "redis://user:secret@host:port/0", ""):
            with pytest.raises(StorageError, match=r"storage\.counters: .*redis://host:port/0") as caught:
                open_limiter(wrong, clock)
            assert "secret" not in str(caught.value)

    asyncio.run(main())

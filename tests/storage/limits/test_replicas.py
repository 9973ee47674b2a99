"""How many replicas share a store, as each of them knows it."""

import asyncio
import random
import secrets

import redis

from headgate.core.counters import Counters
from headgate.storage.counters.memory import MemoryCounters
from headgate.storage.counters.redis import RedisCounters
from headgate.storage.limits.replicas import EVERY_S, TTL_S, Replicas
from tests import servers
from tests.clock import VirtualClock


def replica(counters: Counters, clock: VirtualClock, name: str) -> Replicas:
    return Replicas(counters, clock, random.Random(name), name)


def test_in_memory_there_is_one() -> None:
    async def main() -> None:
        clock = VirtualClock()
        alone = replica(MemoryCounters(clock), clock, "a")
        assert alone() == 1
        await alone.start()
        await clock.advance(60.0)
        assert alone() == 1
        await alone.aclose()

    asyncio.run(main())


def test_all_see_one_that_comes_at_once_and_one_that_goes_after_a_while() -> None:
    async def main() -> None:
        clock = VirtualClock()
        counters = MemoryCounters(clock)
        first, second, third = (replica(counters, clock, name) for name in "abc")
        await first.start()
        await second.start()
        assert (first(), second()) == (1, 2)
        await clock.advance(EVERY_S * 1.3)
        assert (first(), second()) == (2, 2)
        await third.start()
        await clock.advance(EVERY_S * 1.3)
        assert (first(), second(), third()) == (3, 3, 3)
        await third.aclose()
        await clock.advance(TTL_S - EVERY_S)
        assert first() == 3  # not believed yet
        await clock.advance(2 * EVERY_S + TTL_S)
        assert (first(), second()) == (2, 2)
        await first.aclose()
        await second.aclose()

    asyncio.run(main())


def test_one_that_dies_without_a_word_is_forgotten() -> None:
    async def main() -> None:
        clock = VirtualClock()
        counters = MemoryCounters(clock)
        first, second = replica(counters, clock, "a"), replica(counters, clock, "b")
        await second.announce()  # once, and never again
        await first.start()
        assert first() == 2
        await clock.advance(3 * TTL_S)
        assert first() == 1
        await first.aclose()

    asyncio.run(main())


def test_while_a_real_store_is_away_or_was_just_flushed_the_last_count_stands() -> None:
    async def main() -> None:
        server, url = servers.start_redis()
        clock, prefix = VirtualClock(), f"test-{secrets.token_hex(6)}:"
        counters = [RedisCounters.at(url, prefix=prefix) for _ in range(3)]
        first, second, third = (replica(each, clock, name) for each, name in zip(counters, "abc", strict=True))
        for one in (first, second, third, first, second):
            await one.announce()
        assert (first(), second(), third()) == (3, 3, 3)
        with redis.Redis.from_url(url) as direct:
            direct.flushall()
        await first.announce()
        assert first() == 3
        server.kill()
        await first.announce()
        assert first() == 3
        await first.aclose()
        for each in counters:
            await each.aclose()
        server.stop()

    asyncio.run(main())

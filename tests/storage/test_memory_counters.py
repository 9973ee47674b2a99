"""What only the counters in memory promise: bounded memory."""

import asyncio

import pytest

from headgate.core.errors import Overloaded
from headgate.storage.counters.memory import MemoryCounters
from tests.clock import VirtualClock


def test_memory_stays_bounded_while_keys_come_and_go() -> None:
    async def main() -> None:
        clock = VirtualClock()
        counters = MemoryCounters(clock)
        for number in range(5_000):
            clock.jump(0.01)
            await counters.acquire(f"lease-{number}", "a", 1, 1.0)
            await counters.set(f"value-{number}", b"v", 1.0)
            assert len(counters) <= 2 * 110

    asyncio.run(main())


def test_a_key_that_is_written_over_and_over_stays_one_key() -> None:
    async def main() -> None:
        clock = VirtualClock()
        counters = MemoryCounters(clock)
        for _ in range(2_000):
            clock.jump(0.001)
            await counters.set("a", b"v", 600)
            assert await counters.delete("a")
        await counters.set("a", b"v", 600)
        assert len(counters) == 1
        clock.jump(599)
        assert await counters.get("a") == b"v"
        clock.jump(1)
        assert await counters.get("a") is None

    asyncio.run(main())


def test_full_counters_refuse_new_keys_and_go_on_serving_the_old() -> None:
    async def main() -> None:
        clock = VirtualClock()
        counters = MemoryCounters(clock, keys_max=3)
        for key in "abc":
            await counters.set(key, b"v", 5.0)
        with pytest.raises(Overloaded, match="3 keys") as caught:
            await counters.set("new", b"v", 5.0)
        assert caught.value.code == "counters_full"
        await counters.set("a", b"w", 5.0)
        clock.jump(5)
        await counters.set("new", b"v", 5.0)

    asyncio.run(main())

"""What every driver of the counters promises."""

import asyncio

import pytest

from headgate.core.counters import VALUE_BYTES_MAX
from tests.storage.driver import CountersDriver


def test_fifty_racing_for_ten_places_get_exactly_ten(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as one, driver.open() as other:

            async def race(number: int) -> bool:
                return await (one, other)[number % 2].acquire("places", f"holder-{number}", 10, 60)

            assert sum(await asyncio.gather(*(race(number) for number in range(50)))) == 10
            assert await one.count("places") == 10

    asyncio.run(main())


def test_a_place_that_is_released_is_free_at_once(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            assert await counters.acquire("p", "a", 1, 60)
            assert not await counters.acquire("p", "b", 1, 60)
            assert not await counters.release("p", "b")
            assert await counters.release("p", "a")
            assert not await counters.release("p", "a")
            assert await counters.count("p") == 0
            assert await counters.acquire("p", "b", 1, 60)
            assert not await counters.acquire("none", "b", 0, 60)

    asyncio.run(main())


def test_the_same_holder_keeps_its_place_and_extends_it(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            assert await counters.acquire("p", "a", 1, 0.05)
            assert await counters.acquire("p", "a", 1, 600)
            await driver.pass_time(0.1)
            assert await counters.count("p") == 1
            assert not await counters.acquire("p", "b", 1, 60)

    asyncio.run(main())


def test_the_place_of_a_holder_that_died_frees_itself(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            assert await counters.acquire("p", "long", 2, 600)
            assert await counters.acquire("p", "dies", 2, 0.03)
            await driver.pass_time(0.06)
            assert await counters.count("p") == 1
            assert not await counters.release("p", "dies")
            assert await counters.acquire("p", "next", 2, 600)
            assert not await counters.acquire("p", "dies", 2, 600)

    asyncio.run(main())


def test_values_are_kept_replaced_deleted_and_expire(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            assert await counters.get("v") is None
            await counters.set("v", b"\x00one\xff", 600)
            assert await counters.get("v") == b"\x00one\xff"
            await counters.set("v", b"two", 600)
            assert await counters.get("v") == b"two"
            await counters.set("v", b"three", 0.03)
            await driver.pass_time(0.06)
            assert await counters.get("v") is None
            assert not await counters.delete("v")
            await counters.set("v", b"", 600)
            assert await counters.get("v") == b""
            assert await counters.delete("v")
            with pytest.raises(ValueError, match="over the counters' limit"):
                await counters.set("v", b"x" * (VALUE_BYTES_MAX + 1), 600)
            with pytest.raises(ValueError, match="time to live"):
                await counters.set("v", b"x", 0)

    asyncio.run(main())


def test_a_count_adds_up_and_lives_from_its_first(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            assert await counters.incr("n", 5, 1.0) == 5
            assert await counters.incr("n", -7, 600) == -2
            assert await counters.get("n") == b"-2"
            await driver.pass_time(1.1)
            assert await counters.incr("n", 2**62, 600) == 2**62
            with pytest.raises(ValueError, match="64 bits"):
                await counters.incr("n", 2**62, 600)
            await counters.set("text", b"text", 600)
            with pytest.raises(ValueError, match="whole number"):
                await counters.incr("text", 1, 600)

    asyncio.run(main())


def test_a_thousand_counts_at_once_lose_none(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            sums = await asyncio.gather(*(counters.incr("n", 1, 600) for _ in range(1000)))
            assert sorted(sums) == list(range(1, 1001))

    asyncio.run(main())


def test_places_and_values_of_one_name_are_two_things(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            assert await counters.acquire("x", "a", 1, 60)
            await counters.set("x", b"v", 60)
            assert await counters.delete("x")
            assert await counters.count("x") == 1

    asyncio.run(main())


def test_a_caller_who_leaves_does_not_disturb_the_others(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:

            async def echo(number: int) -> None:
                await counters.set(f"k{number}", b"%d" % number, 600)
                assert await counters.get(f"k{number}") == b"%d" % number

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(echo(number)) for number in range(200)]
                for turn in range(40):
                    await asyncio.sleep(0)
                    tasks[turn * 5].cancel()
            await asyncio.gather(*(echo(number) for number in range(100)))
            await counters.ping()

    asyncio.run(main())

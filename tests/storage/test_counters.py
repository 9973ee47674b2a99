"""What every driver of the counters promises."""

import asyncio
import math

import pytest

from headgate.core.counters import VALUE_BYTES_MAX, Counters, Take
from tests.storage.driver import CountersDriver

SLOW = 1e-6
"""A refill that adds nothing worth naming while a test runs."""


def bucket(key: str, cost: float, capacity: float = 10, refill_per_s: float = SLOW) -> Take:
    return Take(key, cost, capacity, refill_per_s)


async def remaining(counters: Counters, key: str, capacity: float = 10, refill_per_s: float = SLOW) -> float:
    decision = await counters.take([bucket(key, 0, capacity, refill_per_s)])
    return decision.states[0].remaining


def test_a_new_bucket_is_full_and_empties_by_what_is_taken(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            assert await remaining(counters, "a") == pytest.approx(10)
            first = await counters.take([bucket("a", 4)])
            assert first.allowed
            assert first.refused is None
            assert first.retry_after == 0
            assert first.states[0].remaining == pytest.approx(6, abs=1e-3)
            assert first.states[0].reset_s == pytest.approx(4 / SLOW, rel=1e-3)
            assert (await counters.take([bucket("a", 6)])).allowed
            over = await counters.take([bucket("a", 1)])
            assert not over.allowed
            assert over.refused == 0
            assert over.retry_after == pytest.approx(1 / SLOW, rel=1e-3)
            assert over.states[0].remaining == pytest.approx(0, abs=1e-3)

    asyncio.run(main())


def test_one_bucket_that_lacks_the_cost_refuses_all_and_takes_from_none(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            decision = await counters.take([bucket("a", 1), bucket("b", 11, 10.5), bucket("c", 1)])
            assert not decision.allowed
            assert decision.refused == 1
            assert decision.retry_after == math.inf
            for key, capacity in (("a", 10), ("b", 10.5), ("c", 10)):
                assert await remaining(counters, key, capacity) == pytest.approx(capacity)

    asyncio.run(main())


def test_the_bucket_to_wait_for_longest_is_the_one_named(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            empty = [Take("soon", 10, 10, 0.5), Take("late", 10, 10, 0.01), Take("free", 1, 10, 1)]
            assert (await counters.take(empty)).allowed
            decision = await counters.take(
                [Take("soon", 1, 10, 0.5), Take("late", 1, 10, 0.01), Take("free", 1, 10, 1)]
            )
            assert decision.refused == 1
            assert 50 < decision.retry_after <= 100

    asyncio.run(main())


def test_a_bucket_refills_with_time_and_never_above_its_capacity(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            assert (await counters.take([bucket("a", 10, 10, 50)])).allowed
            await driver.pass_time(0.1)
            assert await remaining(counters, "a", 10, 50) >= 4.99
            await driver.pass_time(0.5)
            assert await remaining(counters, "a", 10, 50) == 10

    asyncio.run(main())


def test_whoever_waits_as_long_as_told_gets_through(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            for capacity, refill in ((3, 7.0), (10, 1e3 / 3), (1_000_003, 1e7 / 3)):
                name = f"b{capacity}"
                assert (await counters.take([Take(name, capacity, capacity, refill)])).allowed
                refused = await counters.take([Take(name, capacity / 3, capacity, refill)])
                await driver.pass_time(refused.retry_after)
                assert (await counters.take([Take(name, capacity / 3, capacity, refill)])).allowed

    asyncio.run(main())


def test_giving_back_never_fills_above_capacity(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            await counters.take([bucket("a", 8)])
            back = await counters.take([bucket("a", -3)])
            assert back.allowed
            assert back.states[0].remaining == pytest.approx(5, abs=1e-3)
            assert (await counters.take([bucket("a", -100)])).states[0].remaining == 10
            assert (await counters.take([bucket("never seen", -5)])).states[0].remaining == 10

    asyncio.run(main())


def test_forcing_takes_below_zero_and_the_debt_is_worked_off(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            forced = await counters.take([bucket("a", 25)], force=True)
            assert forced.allowed
            assert forced.states[0].remaining == pytest.approx(-15, abs=1e-3)
            probe = await counters.take([bucket("a", 0)])
            assert probe.allowed
            assert probe.states[0].remaining == pytest.approx(-15, abs=1e-3)
            refused = await counters.take([bucket("a", 1)])
            assert not refused.allowed
            assert refused.retry_after == pytest.approx(16 / SLOW, rel=1e-3)

    asyncio.run(main())


def test_what_was_used_stays_used_when_the_limit_changes(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            await counters.take([bucket("a", 8, 10)])
            assert await remaining(counters, "a", 100) == pytest.approx(92, abs=1e-3)
            assert not (await counters.take([bucket("a", 1, 5)])).allowed

    asyncio.run(main())


def test_taking_nothing_is_allowed(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            decision = await counters.take([])
            assert decision.allowed
            assert decision.states == ()

    asyncio.run(main())


def test_a_bucket_named_twice_is_a_mistake(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            with pytest.raises(ValueError, match="twice"):
                await counters.take([bucket("a", 1), bucket("a", 1)])

    asyncio.run(main())


@pytest.mark.parametrize(
    "wrong", [(math.nan, 1, 1), (1, 0, 1), (1, math.inf, 1), (1, 1, 0), (1, 1, -1), (math.inf, 1, 1)]
)
def test_a_take_of_senseless_numbers_cannot_be_made(wrong: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="bucket 'a'"):
        Take("a", *wrong)


def test_fifty_racing_for_ten_places_get_exactly_ten(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as one, driver.open() as other:

            async def race(number: int) -> tuple[bool, bool]:
                counters = (one, other)[number % 2]
                taken = await counters.take([bucket("rate", 1), bucket("wide", 1, 1000)])
                return taken.allowed, await counters.acquire("places", f"holder-{number}", 10, 60)

            results = await asyncio.gather(*(race(number) for number in range(50)))
            assert sum(taken for taken, _ in results) == 10
            assert sum(acquired for _, acquired in results) == 10
            assert await one.count("places") == 10
            assert await remaining(other, "wide", 1000) == pytest.approx(990, abs=1e-2)

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


def test_buckets_places_and_values_of_one_name_are_three_things(driver: CountersDriver) -> None:
    async def main() -> None:
        async with driver.open() as counters:
            await counters.take([bucket("x", 1)])
            assert await counters.acquire("x", "a", 1, 60)
            await counters.set("x", b"v", 60)
            assert await counters.delete("x")
            assert await counters.count("x") == 1
            assert await remaining(counters, "x") == pytest.approx(9, abs=1e-3)

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

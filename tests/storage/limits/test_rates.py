"""What every driver promises of rates, whatever their algorithm."""

import asyncio

import msgspec
import pytest

from headgate.core.limiter import Cost, Place, Plan
from headgate.core.policy import Algorithm
from tests.storage.limits.driver import ALGORITHMS, Driver, end, opened, rate, take


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_whoever_waits_as_long_as_told_passes(driver: Driver, algorithm: Algorithm) -> None:
    plan = Plan(rates=(rate(algorithm=algorithm, tokens=False, max_delay_s=1.5),))

    async def main() -> None:
        async with opened(driver) as limiter:
            refused = 0
            driver.step(3_300_000)
            for number in range(60):
                verdict = await take(limiter, plan, claim=f"c{number}")
                if not verdict.allowed:
                    refused += 1
                    assert verdict.refused_rate == 0
                    wait_us = -int(-verdict.retry_after * 1e6 // 1)
                    driver.step(wait_us - 1_000)
                    if wait_us > 1_000:
                        assert not (await take(limiter, plan, claim=f"early{number}")).allowed
                    driver.step(1_000)
                    assert (await take(limiter, plan, claim=f"late{number}")).allowed
            assert refused > 3

    asyncio.run(main())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_cost_above_the_whole_limit_takes_the_whole_limit(driver: Driver, algorithm: Algorithm) -> None:
    plan = Plan(rates=(rate(algorithm=algorithm, max_delay_s=0),))

    async def main() -> None:
        async with opened(driver) as limiter:
            assert (await take(limiter, plan, 1, "small")).allowed
            verdict = await take(limiter, plan, 1_000, "large")
            assert not verdict.allowed
            assert verdict.retry_after < 20.001
            driver.step(-int(-verdict.retry_after * 1e6 // 1))
            assert (await take(limiter, plan, 1_000, "large")).allowed
            assert not (await take(limiter, plan, 1, "other")).allowed

    asyncio.run(main())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_call_without_tokens_always_passes_a_rate_of_tokens(driver: Driver, algorithm: Algorithm) -> None:
    plan = Plan(rates=(rate(algorithm=algorithm, max_delay_s=0),))

    async def main() -> None:
        async with opened(driver) as limiter:
            assert (await take(limiter, plan, 10, "first")).allowed
            assert (await take(limiter, plan, 0, "none")).allowed
            assert not (await take(limiter, plan, 1, "one")).allowed

    asyncio.run(main())


@pytest.mark.parametrize("algorithm", ["token_bucket", "sliding_log", "sliding_counter"])
def test_token_rates_are_trued_up_when_the_call_ends(driver: Driver, algorithm: Algorithm) -> None:
    plan = Plan(rates=(rate(algorithm=algorithm),))

    async def main() -> None:
        async with opened(driver) as limiter:
            assert (await take(limiter, plan, 8, "less")).rates[0].remaining == pytest.approx(2)
            await end(limiter, plan, 8, 3, "less")
            assert (await take(limiter, plan, 0, "look")).rates[0].remaining == pytest.approx(7)
            assert (await take(limiter, plan, 4, "more")).rates[0].remaining == pytest.approx(3)
            await end(limiter, plan, 4, 9, "more")
            assert (await take(limiter, plan, 0, "look2")).rates[0].remaining == pytest.approx(-2)
            await end(limiter, plan, 0, 1, "look2")  # what held nothing counts when it ends
            assert (await take(limiter, plan, 0, "look3")).rates[0].remaining in (
                pytest.approx(-3),
                pytest.approx(-2 if algorithm == "sliding_log" else -3),  # a log that is full needs no more entries
            )

    asyncio.run(main())


@pytest.mark.parametrize("algorithm", ["sliding_log", "sliding_counter"])
def test_what_left_the_window_is_not_given_back(driver: Driver, algorithm: Algorithm) -> None:
    plan = Plan(rates=(rate(algorithm=algorithm),))

    async def main() -> None:
        async with opened(driver) as limiter:
            assert (await take(limiter, plan, 8, "long")).allowed
            driver.step(21_000_000)
            assert (await take(limiter, plan, 5, "other")).allowed
            await end(limiter, plan, 8, 0, "long")
            assert (await take(limiter, plan, 0, "look")).rates[0].remaining == pytest.approx(5)

    asyncio.run(main())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_end_told_twice_changes_the_rates_once(driver: Driver, algorithm: Algorithm) -> None:
    plan = Plan(rates=(rate(algorithm=algorithm, max_delay_s=5),), places=(Place(key="p", limit=5),))

    async def main() -> None:
        async with opened(driver) as limiter:
            assert (await take(limiter, plan, 3, "other")).allowed
            before = (await take(limiter, plan, 0, "look")).rates[0].remaining
            assert (await take(limiter, plan, 4, "c")).allowed
            for _ in range(3):
                await end(limiter, plan, 4, 0, "c")
            assert (await take(limiter, plan, 0, "look")).rates[0].remaining == pytest.approx(before)

    asyncio.run(main())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("tokens", [False, True])
def test_a_name_that_is_used_again_counts_again(driver: Driver, algorithm: Algorithm, tokens: bool) -> None:
    plan = Plan(rates=(rate(algorithm=algorithm, tokens=tokens, max_delay_s=3.5),))

    async def main() -> None:
        async with opened(driver) as limiter:
            for _ in range(4):
                driver.step(1)
                assert (await take(limiter, plan)).allowed
            verdict = await take(limiter, plan)
            whole = 4.5 if algorithm == "leaky_bucket" else 10
            assert verdict.rates[0].remaining == pytest.approx(whole - 4 - verdict.allowed, abs=1e-3)

    asyncio.run(main())


def test_the_rate_to_wait_for_longest_is_named_and_nothing_is_taken(driver: Driver) -> None:
    rates = tuple(rate(f"r{i}", 10, 10.0 * (i + 1), algorithm) for i, algorithm in enumerate(ALGORITHMS[:3]))
    plan = Plan(rates=(rate("free", 1000, 1), *rates))

    async def main() -> None:
        async with opened(driver) as limiter:
            assert (await take(limiter, plan, 10, "all")).allowed
            driver.step(1_000_000)
            verdict = await take(limiter, plan, 2, "more")
            assert not verdict.allowed
            assert verdict.refused_rate == 3
            assert verdict.rates[0].remaining == pytest.approx(1000)
            assert verdict.rates[1].remaining == pytest.approx(1)
            assert verdict.rates[2].remaining == pytest.approx(0)
            assert verdict.rates[2].reset_s == pytest.approx(19)
            assert verdict.rates[3].remaining == pytest.approx(0)

    asyncio.run(main())


def test_a_paced_call_is_told_how_long_to_wait_for_its_turn(driver: Driver) -> None:
    plan = Plan(rates=(rate(algorithm="leaky_bucket", tokens=False, max_delay_s=2.0),))

    async def main() -> None:
        async with opened(driver) as limiter:
            delays = [(await take(limiter, plan, claim=f"c{i}")).delay_s for i in range(3)]
            assert delays == pytest.approx([0, 1, 2])
            verdict = await take(limiter, plan, claim="c3")
            assert not verdict.allowed
            assert verdict.retry_after == pytest.approx(1)
            driver.step(1_500_000)
            assert (await take(limiter, plan, claim="c4")).delay_s == pytest.approx(1.5)

    asyncio.run(main())


def test_a_changed_limit_keeps_what_was_used(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as limiter:
            for algorithm in ALGORITHMS[:3]:
                assert (await take(limiter, Plan(rates=(rate(algorithm, 10, 10, algorithm),)), 6)).allowed
                more = await take(limiter, Plan(rates=(rate(algorithm, 20, 10, algorithm),)), 0, "more")
                assert more.rates[0].remaining == pytest.approx(14)
                less = await take(limiter, Plan(rates=(rate(algorithm, 5, 10, algorithm),)), 1, "less")
                assert not less.allowed
                assert less.rates[0].remaining == pytest.approx(-1)

    asyncio.run(main())


def test_a_changed_window_frees_nothing_early(driver: Driver) -> None:
    async def main() -> None:
        async with opened(driver) as limiter:
            for window_s in (10, 60, 1):
                plan = Plan(rates=(rate("w", 10, window_s, "sliding_counter"),))
                assert (await take(limiter, plan, 3, f"c{window_s}")).allowed
            assert not (await take(limiter, plan, 2, "over")).allowed
            driver.step(2_000_000)
            assert (await take(limiter, plan, 10, "again")).allowed

    asyncio.run(main())


@pytest.mark.parametrize(
    "changes",
    [{"amount": 0}, {"amount": -1}, {"amount": float("nan")}, {"window_s": 0}, {"burst": -5}, {"max_delay_s": -1}],
)
def test_numbers_that_are_no_limit_are_refused_by_name(driver: Driver, changes: dict[str, float]) -> None:
    async def main() -> None:
        async with opened(driver) as limiter:
            with pytest.raises(ValueError, match=r"rate 'r': \w+ is .*; give"):
                await take(limiter, Plan(rates=(msgspec.structs.replace(rate(), **changes),)))
            with pytest.raises(ValueError, match="stands twice"):
                await take(limiter, Plan(rates=(rate(), rate())))
            with pytest.raises(ValueError, match="a cost of -1 tokens"):
                await limiter.reserve("c", Plan(rates=(rate(),)), Cost(-1), 60)
            with pytest.raises(ValueError, match="ttl_s"):
                await limiter.reserve("c", Plan(rates=(rate(),)), Cost(1), 0)

    asyncio.run(main())

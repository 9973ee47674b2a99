"""Every decision, remainder, reset and wait of the four algorithms, next to the same in exact arithmetic (R8, C.3)."""

import asyncio
import random
from fractions import Fraction
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headgate.core.limiter import Cost, Limiter, Plan, Verdict
from headgate.core.policy import Algorithm
from headgate.storage.limits.memory import MemoryLimiter
from tests.storage.limits.driver import ALGORITHMS, Driver, MemoryDriver, RedisDriver, StepClock, rate
from tests.storage.limits.oracle import Oracle

MS = 1_000
WINDOWS_S = {"a": 1, "b": 10, "c": 60}
AMOUNTS = (1, 3, 10, 97, 1_000)
ENOUGH = Fraction(1, 10**6)
"""Part of a limit by which the two may differ: at that, rounding decides."""


class Walk:
    """Does the same to a driver and to the oracle, step by step."""

    def __init__(self, driver: Driver, limiter: Limiter, algorithm: Algorithm) -> None:
        self.driver = driver
        self.limiter = limiter
        self.oracles = {key: Oracle() for key in WINDOWS_S}
        self.plans = {
            (key, amount, large): Plan(
                rates=(
                    rate(
                        key,
                        amount,
                        window_s,
                        algorithm,
                        burst=amount * 2 if large else amount,
                        max_delay_s=window_s / 4,
                    ),
                )
            )
            for key, window_s in WINDOWS_S.items()
            for amount in AMOUNTS
            for large in (False, True)
        }
        self.wait_us = 0
        """What the last refusal said."""
        self.open: dict[int, tuple[str, int]] = {}
        self.decided = self.allowed = 0

    def step(self, us: int) -> None:
        self.driver.step(us)

    async def take(self, key: str, amount: int, large: bool, cost: int) -> None:
        plan = self.plans[key, amount, large]
        oracle, now, one = self.oracles[key], self.driver.us, plan.rates[0]
        verdict = await self.limiter.reserve(f"c{self.decided}", plan, Cost(cost), 60)
        whole = oracle.whole(one)
        if oracle.may_be_forgotten(one, now) and _as_if_new(verdict, whole, oracle.cost(one, cost)):
            oracle.level = Fraction(0)
        overs = [oracle.over(one, moment, cost) for moment in (now - 1, now, now + 1)]  # floats round at a border
        if all(over > whole * ENOUGH for over in overs) or all(over <= -whole * ENOUGH for over in overs):
            assert verdict.allowed == (overs[1] <= 0), (key, amount, cost, float(overs[1]))
        if verdict.allowed:
            if one.algorithm == "leaky_bucket" and cost:
                assert verdict.delay_s == pytest.approx(float(oracle.delay_s(one, now)), abs=1e-3)
            oracle.take(one, now, cost, self.decided)
            self.open[self.decided] = key, oracle.cost(one, cost)
            if len(self.open) > 50:
                del self.open[next(iter(self.open))]
            self.allowed += 1
        else:
            self._check_wait(oracle, plan, now, cost, verdict)
        self._check_state(oracle, plan, now, verdict)
        self.decided += 1

    def _check_wait(self, oracle: Oracle, plan: Plan, now: int, cost: int, verdict: Verdict) -> None:
        one = plan.rates[0]
        self.wait_us = -int(-Fraction(verdict.retry_after) * 1_000_000 // 1)
        assert oracle.over(one, now + self.wait_us, cost) <= oracle.whole(one) * ENOUGH
        if self.wait_us > MS:
            assert oracle.over(one, now + self.wait_us - MS, cost) > 0

    def _check_state(self, oracle: Oracle, plan: Plan, now: int, verdict: Verdict) -> None:
        one, state = plan.rates[0], verdict.rates[0]
        whole = oracle.whole(one)
        lefts = [whole - oracle.used(one, moment) for moment in (now - 1, now, now + 1)]
        assert any(abs(Fraction(state.remaining) - left) <= whole * ENOUGH for left in lefts)
        reset = now + -int(-Fraction(state.reset_s) * 1_000_000 // 1)
        assert oracle.used(one, reset + 1) <= whole * ENOUGH
        if reset - now > MS:
            assert oracle.used(one, reset - MS) > 0

    async def end(self, which: int, amount: int, large: bool, used: int) -> None:
        if not self.open:
            return
        claim = list(self.open)[which % len(self.open)]
        key, held = self.open.pop(claim)
        if held == 0:
            return
        plan = self.plans[key, amount, large]
        oracle, now, one = self.oracles[key], self.driver.us, plan.rates[0]
        if oracle.cost(one, held) != held:  # a claim ends under the plan it began with
            return
        self.limiter.settle(f"c{claim}", plan, Cost(held), Cost(used))
        await self.limiter.flush()
        oracle.end(one, now, claim, held, used)


def _as_if_new(verdict: Verdict, whole: Fraction, cost: int) -> bool:
    left = whole - (max(0, cost) if verdict.allowed else 0)
    return abs(Fraction(verdict.rates[0].remaining) - left) <= whole * ENOUGH


async def wander(walk: Walk, rng: random.Random, steps: int) -> None:
    amounts = dict.fromkeys(WINDOWS_S, (10, False))
    for _ in range(steps):
        key = rng.choice("aaabbc")
        amount, large = amounts[key]
        what = rng.random()
        if what < 0.6:
            cost = rng.choice((1, 1, 1, 2, 0, rng.randint(1, 2 * amount), amount, 2 * amount))
            await walk.take(key, amount, large, cost)
        elif what < 0.7:
            await walk.end(
                rng.randrange(50), amount, large, rng.choice((0, 1, amount // 2, amount, rng.randint(0, 50)))
            )
        elif what < 0.71:
            amounts[key] = rng.choice(AMOUNTS), rng.random() < 0.5
        else:
            steps_us = (1, MS, 50 * MS, 999_999, 1_000_000, rng.randrange(3_000_000), rng.randrange(30_000_000))
            walk.step(rng.choice((*steps_us[:3], *steps_us, walk.wait_us, walk.wait_us)))
    assert walk.decided > walk.allowed > steps / 100


def memory_walk(algorithm: Algorithm) -> Walk:
    clock = StepClock()
    limiter = MemoryLimiter(clock)
    return Walk(MemoryDriver(clock, limiter), limiter, algorithm)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_long_walk_in_memory(algorithm: Algorithm) -> None:
    asyncio.run(wander(memory_walk(algorithm), random.Random(algorithm), 3_000))


@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_million_steps_in_memory(algorithm: Algorithm) -> None:
    for seed in range(25):
        asyncio.run(wander(memory_walk(algorithm), random.Random(seed), 10_000))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_walk_on_redis(redis_driver: RedisDriver, algorithm: Algorithm) -> None:
    asyncio.run(_on_redis(redis_driver, algorithm, 0, 500))


@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_long_walk_on_redis(redis_driver: RedisDriver, algorithm: Algorithm) -> None:
    asyncio.run(_on_redis(redis_driver, algorithm, 1, 25_000))


async def _on_redis(driver: RedisDriver, algorithm: Algorithm, seed: int, steps: int) -> None:
    limiter = driver.replica()
    try:
        await wander(Walk(driver, limiter, algorithm), random.Random(seed), steps)
    finally:
        await limiter.aclose()


class Take(NamedTuple):
    key: str
    amount: int
    large: bool
    cost: int


class End(NamedTuple):
    which: int
    amount: int
    large: bool
    used: int


_AMOUNT = st.sampled_from(AMOUNTS)
_US = st.sampled_from((0, 1, MS, 499_999, 1_000_000, 10_000_000)) | st.integers(0, 10**8)
_STEP = st.one_of(
    st.builds(Take, st.sampled_from("ab"), _AMOUNT, st.booleans(), st.integers(0, 30)),
    st.builds(End, st.integers(0, 50), _AMOUNT, st.booleans(), st.integers(0, 30)),
    _US,
    st.none(),
)
"""A number is a time to pass; nothing, the wait that the last refusal named."""


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(_STEP, max_size=40))
def test_any_walk_in_memory(algorithm: Algorithm, steps: list[Take | End | int | None]) -> None:
    async def main() -> None:
        walk = memory_walk(algorithm)
        for step in steps:
            if isinstance(step, Take):
                await walk.take(*step)
            elif isinstance(step, End):
                await walk.end(*step)
            else:
                walk.step(walk.wait_us if step is None else step)

    asyncio.run(main())

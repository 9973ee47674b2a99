"""Budgets and places under crashes, lost answers, and late and double ends, next to a simple model after every step."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import get_args

import pytest

from headgate.core.clock import SystemClock
from headgate.core.errors import Overloaded
from headgate.core.limiter import Account, Cost, Limiter, Place, Plan
from headgate.storage.limits.memory import MemoryLimiter
from headgate.storage.limits.redis import RedisLimiter, connect
from headgate.storage.limits.scripts import Scripts
from tests.storage.limits.driver import Driver, MemoryDriver, RedisDriver, StepClock, account, lua_clock
from tests.storage.limits.model import Budget, Model
from tests.storage.limits.proxy import Fate, Proxy

FATES: tuple[Fate, ...] = get_args(Fate)


def accounts(generation: int) -> dict[str, Account]:
    """Of one period: an organization, its two projects and their keys."""
    limits = {"org": 900, "project0": 500, "project1": 700}
    limits |= {f"key{number}": 150 + 60 * number for number in range(6)}
    return {name: account(f"{name}:{generation}", limit, hard=name != "key5") for name, limit in limits.items()}


@dataclass
class Walk:
    driver: Driver
    limiters: list[Limiter]
    rng: random.Random
    proxy: Proxy | None = None
    model: Model = field(default_factory=Model)
    open: dict[str, tuple[Plan, int]] = field(default_factory=dict)
    dead: dict[str, tuple[Plan, int]] = field(default_factory=dict)
    """Claims whose process crashed."""
    done: dict[str, tuple[Plan, int]] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    """What each account paid, by those who used it."""
    steps: int = 0
    refused: int = 0
    lost: int = 0

    async def period(self, generation: int, steps: int) -> None:
        """One budget period from its first call to its last."""
        named = accounts(generation)
        keys = [each.key for each in named.values()]
        for key in keys:
            self.model.budgets[key], self.used[key] = Budget(), 0
        await self.limiters[0].seed([(each, 0) for each in named.values()])
        plans = [
            Plan(
                places=(Place(key=f"place{number % 2}", limit=12),),
                accounts=(named["org"], named[f"project{number % 2}"], named[f"key{number}"]),
            )
            for number in range(6)
        ]
        for _ in range(steps):
            await self._step(plans)
            await self._compare(named)
        for claims in (self.open, self.dead):
            for claim, (plan, held) in list(claims.items()):
                await self._end(claim, plan, held, self.rng.randint(0, held))
            claims.clear()
        await self._compare(named)
        for key, state in zip(keys, await self.limiters[0].balances(keys), strict=True):
            assert state is not None
            assert (state.spent, state.held) == (self.used[key], 0)

    async def _step(self, plans: list[Plan]) -> None:
        self.steps += 1
        what = self.rng.random()
        if what < 0.45:
            await self._reserve(self.rng.choice(plans))
        elif what < 0.80 and self.open:
            claim = self.rng.choice(list(self.open))
            plan, held = self.open.pop(claim)
            await self._end(claim, plan, held, self._used(held))
        elif what < 0.84 and self.open:
            claim = self.rng.choice(list(self.open))
            self.dead[claim] = self.open.pop(claim)
        elif what < 0.86 and self.dead:  # another process found it in the journal
            claim = self.rng.choice(list(self.dead))
            await self._end(claim, *self.dead.pop(claim), 0)
        elif what < 0.90 and self.done:
            claim = self.rng.choice(list(self.done))
            await self._end(claim, *self.done[claim], 7, again=True)
        elif what < 0.92 and self.proxy is not None:
            await self.proxy.deliver()
        else:
            self.driver.step(self.rng.choice((0, 1, 1_000_000, self.rng.randrange(8_000_000))))
            self.model.pass_time(self.driver.us)

    def _used(self, held: int) -> int:
        return self.rng.randint(0, 2 * held) if self.rng.random() < 0.05 else self.rng.randint(0, held)

    async def _reserve(self, plan: Plan) -> None:
        claim, cost = f"c{self.steps}", self.rng.choice((0, 1, 5, self.rng.randint(0, 40)))
        ttl_s = self.rng.choice((5, 20, 60))
        if self._loses():
            with pytest.raises(Overloaded, match="limit store"):
                await self.rng.choice(self.limiters).reserve(claim, plan, Cost(0, cost), ttl_s)
            return
        verdict = await self.rng.choice(self.limiters).reserve(claim, plan, Cost(0, cost), ttl_s)
        expected = self.model.reserve(claim, plan, cost, self.driver.us + ttl_s * 1_000_000)
        assert (verdict.allowed, verdict.refused_place, verdict.refused_account) == expected
        assert verdict.accounts == tuple(self.model.state(each.key) for each in plan.accounts)
        if verdict.allowed:
            self.open[claim] = plan, cost
        else:
            self.refused += 1

    async def _end(self, claim: str, plan: Plan, held: int, used: int, again: bool = False) -> None:
        self._loses()
        limiter = self.rng.choice(self.limiters)
        limiter.settle(claim, plan, Cost(0, held), Cost(0, used))
        if self.rng.random() < 0.1:
            limiter.settle(claim, plan, Cost(0, held), Cost(0, used))
        self.model.settle(claim, plan, used)
        if not again:
            self.done[claim] = plan, held
            if len(self.done) > 100:
                del self.done[next(iter(self.done))]
            for each in plan.accounts:
                self.used[each.key] += used

    def _loses(self) -> bool:
        if self.proxy is None or self.rng.random() > 0.04:
            return False
        self.proxy.fates.append(self.rng.choice(FATES))
        self.lost += 1
        return True

    async def _compare(self, named: dict[str, Account]) -> None:
        for limiter in self.limiters:
            await limiter.flush()
        keys = [each.key for each in named.values()]
        states = await self.limiters[0].balances(keys)
        for each, state in zip(named.values(), states, strict=True):
            assert state == self.model.state(each.key)
            assert state is not None
            assert state.spent >= 0
            assert state.held == self.model.budgets[each.key].held >= 0
            if each.hard:
                assert state.spent + state.held <= each.limit + self.model.budgets[each.key].above


async def in_memory(seed: int, steps: int) -> Walk:
    clock = StepClock()
    limiter = MemoryLimiter(clock)
    walk = Walk(MemoryDriver(clock, limiter), [limiter], random.Random(seed))
    for generation in range(steps // 250):
        await walk.period(generation, 250)
    return walk


async def over_redis(url: str, prefix: str, seed: int, steps: int) -> Walk:
    async with Proxy(url).listening() as proxy:
        driver = RedisDriver(url, prefix, lambda: limiters[0])
        scripts = Scripts(lua_clock(prefix))
        limiters: list[Limiter] = [
            RedisLimiter(connect(proxy.url, 20.0), SystemClock(), 20.0, prefix, scripts) for _ in range(2)
        ]
        try:
            walk = Walk(driver, limiters, random.Random(seed), proxy)
            for generation in range(steps // 250):
                await walk.period(generation, 250)
            return walk
        finally:
            for limiter in limiters:
                await limiter.aclose()
            driver.close()


def test_budgets_in_memory_stay_as_the_model_says() -> None:
    walk = asyncio.run(in_memory(1, 5_000))
    assert walk.refused > 100


@pytest.mark.prove
@pytest.mark.timeout(1800)
def test_budgets_in_memory_stay_as_the_model_says_for_long() -> None:
    for seed in range(10):
        asyncio.run(in_memory(seed, 20_000))


def test_budgets_over_redis_stay_as_the_model_says(redis_url: str, prefix: str) -> None:
    walk = asyncio.run(over_redis(redis_url, prefix, 2, 500))
    assert walk.lost > 5
    assert walk.refused > 5


@pytest.mark.prove
@pytest.mark.timeout(3600)
def test_budgets_over_redis_stay_as_the_model_says_for_long(redis_url: str, prefix: str) -> None:
    walk = asyncio.run(over_redis(redis_url, prefix, 3, 100_000))
    assert walk.lost > 1_000

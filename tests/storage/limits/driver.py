"""How the tests handle any driver of the limits: with time in their own hand, on real Redis too."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import redis

from headgate.core.limiter import Account, Cost, Limiter, Plan, Rate, Verdict
from headgate.core.policy import Algorithm

START_US = 86_400_000_000 * 19_675
"""The start of a window of any length there is."""
ALGORITHMS: tuple[Algorithm, ...] = ("token_bucket", "sliding_log", "sliding_counter", "leaky_bucket")


class StepClock:
    """Whole microseconds, moved by the test."""

    def __init__(self) -> None:
        self.us = START_US

    def now(self) -> float:
        return self.us / 1e6

    def monotonic(self) -> float:
        return (self.us - START_US) / 1e6

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Driver(Protocol):
    """`replica` gives what one process of a fleet would use; all of a test share their state."""

    def replica(self) -> Limiter: ...

    def step(self, us: int) -> None:
        """So many microseconds go by; below zero, where the driver's clock may do so."""
        ...

    @property
    def us(self) -> int: ...


class MemoryDriver:
    def __init__(self, clock: StepClock, limiter: Limiter) -> None:
        self.clock = clock
        self._limiter = limiter

    def replica(self) -> Limiter:
        return self._limiter

    def step(self, us: int) -> None:
        self.clock.us += us

    @property
    def us(self) -> int:
        return self.clock.us


def lua_clock(prefix: str) -> str:
    """A clock for the scripts that stands in a key. Keys do not end by themselves under it."""
    return f"""
local function clock() return tonumber(redis.call('GET', '{prefix}clock')) end
local function expire(key, ms) end
local function store(key, value, ms) redis.call('SET', key, value) end
"""


class RedisDriver:
    """`make` opens one replica, with scripts on the `lua_clock` of the prefix."""

    def __init__(self, url: str, prefix: str, make: Callable[[], Limiter]) -> None:
        self._admin = redis.Redis.from_url(url)
        self._key = f"{prefix}clock"
        self._make = make
        self._us = START_US
        self.step(0)

    def replica(self) -> Limiter:
        return self._make()

    def step(self, us: int) -> None:
        self._us += us
        self._admin.set(self._key, self._us)

    @property
    def us(self) -> int:
        return self._us

    def close(self) -> None:
        self._admin.close()


@asynccontextmanager
async def opened(driver: Driver) -> AsyncIterator[Limiter]:
    limiter = driver.replica()
    try:
        yield limiter
    finally:
        await limiter.aclose()


def rate(
    key: str = "r",
    amount: float = 10,
    window_s: float = 10,
    algorithm: Algorithm = "token_bucket",
    *,
    tokens: bool = True,
    burst: float | None = None,
    max_delay_s: float = 2.0,
) -> Rate:
    return Rate(
        key=key,
        amount=amount,
        window_s=window_s,
        tokens=tokens,
        algorithm=algorithm,
        burst=amount if burst is None else burst,
        max_delay_s=max_delay_s,
    )


def account(key: str = "a", limit: int = 100, *, tokens: bool = False, hard: bool = True) -> Account:
    return Account(key=key, limit=limit, tokens=tokens, hard=hard, keep_s=1e6)


async def take(limiter: Limiter, plan: Plan, cost: int = 1, claim: str = "c", ttl_s: float = 60) -> Verdict:
    """As many tokens as nanodollars."""
    return await limiter.reserve(claim, plan, Cost(cost, cost), ttl_s)


async def end(limiter: Limiter, plan: Plan, held: int, used: int, claim: str = "c") -> None:
    limiter.settle(claim, plan, Cost(held, held), Cost(used, used))
    await limiter.flush()

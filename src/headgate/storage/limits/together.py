"""The limits of one process, put together: alone in memory, or shared, leased where asked for, and guarded."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from msgspec import Struct

from headgate.core.clock import Clock
from headgate.core.errors import Overloaded
from headgate.core.limiter import Account, Cost, Limiter, Plan, Rate
from headgate.storage.counters.open import open_counters
from headgate.storage.limits.guarded import GuardedLimiter, Hears
from headgate.storage.limits.leased import LeasedLimiter
from headgate.storage.limits.memory import MemoryLimiter
from headgate.storage.limits.open import open_limiter
from headgate.storage.limits.replicas import Replicas

_FIRST = Plan(rates=(Rate(key="start", amount=1e6, window_s=1.0, burst=1e6),))


class Limits(Struct, frozen=True):
    """The limiter that the request path asks, and how many processes share what is behind it."""

    limiter: Limiter
    replicas: Callable[[], int]
    touched: Callable[[], Sequence[Account]]
    """Accounts of which the store may not know all, since they were used without it."""
    last_known: Callable[[str], int]
    """What was spent and held of an account when the store last told."""


async def _warm_up(shared: Limiter) -> None:
    """The first burst finds connections made and scripts known, as far as the store is there."""
    with suppress(Overloaded):
        await asyncio.gather(*(shared.reserve(f"start {number}", _FIRST, Cost(), 1.0) for number in range(2)))


@asynccontextmanager
async def open_limits(url: str, clock: Clock, rng: random.Random, instance: str, hears: Hears) -> AsyncIterator[Limits]:
    """For a setting as `open_limiter` takes it, and raises as that does. What was opened is closed at the end."""
    shared = open_limiter(url, clock)
    if url == "memory":
        try:
            yield Limits(shared, lambda: 1, lambda: (), lambda key: 0)
        finally:
            await shared.aclose()
        return
    counters = open_counters(url, clock)
    replicas = Replicas(counters, clock, rng, instance)
    guarded = GuardedLimiter(shared, MemoryLimiter(clock), replicas, clock, rng, hears)
    limiter = LeasedLimiter(guarded, clock, rng, replicas, instance)
    try:
        await replicas.start()
        await _warm_up(shared)
        yield Limits(limiter, replicas, guarded.touched_accounts, guarded.last_known)
    finally:
        await limiter.aclose()
        await replicas.aclose()
        await counters.aclose()

"""Limits, holds and the ledger together, on the real request path, next to a simple model: crashes and lost answers at
every step, and in the end every attempt has one entry, and every account knows what the ledger does.

A history is made of its seed alone, but for those over Redis; a failure names the seed, and the same happens again.
"""

import asyncio
import secrets
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
import sqlalchemy as sa

from headgate.core.clock import SystemClock
from headgate.storage.limits.memory import MemoryLimiter
from headgate.storage.limits.redis import RedisLimiter, connect
from headgate.storage.limits.scripts import Scripts
from headgate.storage.sql.open import open_sql
from tests import servers
from tests.books.inline import Inline
from tests.books.relay import Relay
from tests.books.walk import START, Walk
from tests.clock import VirtualClock
from tests.storage.limits.driver import lua_clock

STEPS = 1_000
"""Of one history."""


async def history(url: str, seed: int, steps: int, shared: bool, redis_url: str | None = None) -> Walk:
    asyncio.get_running_loop().set_default_executor(Inline(1))
    await (await open_sql(url)).aclose()  # its tables
    engine = sa.create_engine(url)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", lambda driver, _: driver.execute("PRAGMA synchronous = OFF").close())
    try:
        with tempfile.TemporaryDirectory() as folder:
            if redis_url is not None:
                return await over_redis(redis_url, Path(folder), engine, seed, steps)
            clock = VirtualClock(START)
            walk = Walk(Path(folder), engine, seed, clock, MemoryLimiter(clock) if shared else None)
            await walk.run(steps)
            return walk
    finally:
        engine.dispose()


async def over_redis(url: str, folder: Path, engine: sa.Engine, seed: int, steps: int) -> Walk:
    prefix = f"books-{secrets.token_hex(6)}:"
    proxy = Relay(url)
    async with proxy.listening():
        with redis.Redis.from_url(url) as admin:
            clock, scripts = RedisClock(admin, f"{prefix}clock"), Scripts(lua_clock(prefix))
            limiter = RedisLimiter(connect(proxy.url, 20.0), SystemClock(), 20.0, prefix, scripts)
            try:
                walk = Walk(folder, engine, seed, clock, limiter, proxy)
                await walk.run(steps)
                return walk
            finally:
                await limiter.aclose()


class RedisClock(VirtualClock):
    """The scripts' clock moves with it."""

    def __init__(self, admin: "redis.Redis", key: str) -> None:
        super().__init__(START)
        self._admin, self._key = admin, key
        self.jump(0)

    def jump(self, seconds: float) -> None:
        super().jump(seconds)
        self._admin.set(self._key, int(self.now() * 1e6))


def histories(
    seeds: range, steps: int, url: Callable[[Path], str], *, shared: bool, redis_url: str | None = None
) -> Counter[str]:
    did: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            walk = asyncio.run(history(url(Path(folder)), seed, steps, shared, redis_url))
        did += walk.did
        outcomes += walk.truth.outcomes
        refused += walk.seen.refused
        did["(ledger failed)"] += walk.failed
        did["(limiter's answers lost)"] += walk.seen.replies_lost
        did["(found by recovery)"] += walk.recovered
    print(f"{len(seeds) * steps} steps: {dict(did.most_common())}")
    print(f"{outcomes.total()} attempts: {dict(outcomes)}; calls refused: {dict(refused)}")
    assert min(outcomes[each] for each in ("ok", "failed", "cancelled", "lost")) > 0
    return did


def in_sqlite(folder: Path) -> str:
    return f"sqlite:///{folder}/books.db"


@pytest.mark.parametrize("shared", [False, True], ids=["own limits", "shared limits"])
def test_the_books_agree_after_anything(shared: bool) -> None:
    histories(range(1, 2), STEPS, in_sqlite, shared=shared)


def test_a_history_is_made_of_its_seed_alone() -> None:
    once, again = (histories(range(7, 8), 300, in_sqlite, shared=True) for _ in range(2))
    assert once == again


@pytest.mark.prove
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shared", [False, True], ids=["own limits", "shared limits"])
def test_the_books_agree_after_a_hundred_thousand_operations(shared: bool) -> None:
    histories(range(1_000, 1_055), STEPS, in_sqlite, shared=shared)


@pytest.mark.prove
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("shared", [False, True], ids=["own limits", "shared limits"])
def test_the_books_agree_on_postgresql(postgres_url: str, shared: bool) -> None:
    url = postgres_url.replace("postgresql:", "postgresql+psycopg:", 1)
    histories(range(2_000, 2_001), 5 * STEPS, lambda _: url, shared=shared)


def test_the_books_agree_with_limits_in_redis() -> None:
    histories(range(3_000, 3_001), STEPS // 5, in_sqlite, shared=True, redis_url=servers.redis_url())


@pytest.mark.prove
@pytest.mark.timeout(1800)
def test_the_books_agree_with_limits_in_redis_for_long() -> None:
    histories(range(3_001, 3_011), STEPS, in_sqlite, shared=True, redis_url=servers.redis_url())

"""A guarded limiter over a real Redis, and what can be wrong with that."""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import redis

from headgate.core.clock import SystemClock
from headgate.core.limiter import Account, Cost, Place, Plan, Rate
from headgate.core.policy import OnLoss
from headgate.storage.limits.breaker import BreakerSettings
from headgate.storage.limits.guarded import Change, GuardedLimiter, GuardSettings, Hears
from headgate.storage.limits.memory import MemoryLimiter
from headgate.storage.limits.redis import RedisLimiter
from headgate.storage.limits.share import Decided
from tests import servers
from tests.storage.proxy import Proxy

REPLICAS = 4
TTL_S = 60.0
NOTHING = Cost()


@dataclass
class House:
    """A guarded limiter, its real store, and a way between that can be disturbed."""

    limiter: GuardedLimiter
    proxy: Proxy
    server: servers.Process
    port: int
    direct: redis.Redis
    pid: int
    changes: list[Change]
    rules: list[Decided]
    recovered: list[tuple[Account, ...]] = field(default_factory=list)
    claims: int = 0

    async def ask(self, plan: Plan, cost: Cost = NOTHING) -> str | None:
        """The claim where it was let through."""
        self.claims += 1
        claim = f"claim-{self.claims}"
        verdict = await self.limiter.reserve(claim, plan, cost, TTL_S)
        return claim if verdict.allowed else None

    async def passed(self, plan: Plan, calls: int, cost: Cost = NOTHING) -> int:
        return sum([await self.ask(plan, cost) is not None for _ in range(calls)])

    async def until(self, reached: Callable[[], bool], within_s: float, plan: Plan | None = None) -> None:
        """Asks on meanwhile, as callers do."""
        end = time.monotonic() + within_s
        while not reached():
            assert time.monotonic() < end, f"not within {within_s} s; {self.changes}"
            if plan is not None:
                await self.ask(plan)
            await asyncio.sleep(0.01)

    async def degraded(self) -> None:
        await self.until(lambda: self.limiter.degraded, 10.0, WIDE)

    async def well(self) -> None:
        await self.until(lambda: not self.limiter.degraded, 10.0)


@contextlib.asynccontextmanager
async def house() -> AsyncIterator[House]:
    server, url = servers.start_redis()
    port = int(url.rpartition(":")[2].partition("/")[0])
    clock = SystemClock()
    direct = redis.Redis(port=port, socket_timeout=2.0)
    pid = int(direct.info("server")["process_id"])
    async with Proxy(port) as proxy:
        shared = RedisLimiter.at(f"redis://127.0.0.1:{proxy.port}/0", clock)
        changes: list[Change] = []
        rules: list[Decided] = []
        recovered: list[tuple[Account, ...]] = []
        hears = Hears(changes.append, recovered.append, rules.append)
        settings = GuardSettings(breaker=BreakerSettings(slow_s=0.25, calls_min=5))
        local = MemoryLimiter(clock)
        limiter = GuardedLimiter(shared, local, lambda: REPLICAS, clock, random.Random(1), hears, settings)
        try:
            yield House(limiter, proxy, server, port, direct, pid, changes, rules, recovered)
        finally:
            proxy.set("none")
            await limiter.aclose()
            direct.close()
            server.kill()
            server.stop()


def plan(amount: float = 100, window_s: float = 3600.0, on_loss: OnLoss = "local_share", places: int = 0) -> Plan:
    rate = Rate(key=f"rate-{amount}-{on_loss}", amount=amount, window_s=window_s, burst=amount, on_loss=on_loss)
    return Plan(rates=(rate,), places=(Place(key="place", limit=places, on_loss=on_loss),) if places else ())


WIDE = plan(1e9)


def budget(limit: int, key: str = "budget") -> tuple[Plan, Account]:
    account = Account(key=key, limit=limit, keep_s=3600.0)
    return Plan(accounts=(account,)), account


async def kill(house: House) -> None:
    house.server.kill()


async def stop(house: House) -> None:
    os.kill(house.pid, signal.SIGSTOP)


async def start(house: House) -> None:
    os.kill(house.pid, signal.SIGCONT)


async def pause(house: House) -> None:
    house.direct.client_pause(60_000)


async def read_only(house: House) -> None:
    house.direct.replicaof("127.0.0.1", str(servers.free_port()))


async def stall(house: House) -> None:
    house.proxy.set("stall")


async def drop(house: House) -> None:
    house.proxy.set("drop")


async def cut(house: House) -> None:
    house.proxy.set("cut")


async def corrupt(house: House) -> None:
    house.proxy.set("corrupt")


async def far(house: House) -> None:
    house.proxy.set("none", 0.15)


TROUBLES = [kill, stop, pause, read_only, stall, drop, cut, corrupt, far]

"""Replicas that share one database, in one process: each with its own snapshot of the switches, and its own verbs."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from headgate.core.clock import Clock
from headgate.core.ids import Ids
from headgate.core.switches import Kind, Switch, Switches
from headgate.release.store import Store
from headgate.release.switches import Force, KillSwitches, Spec
from headgate.release.watch import Watch
from headgate.storage.sql.open import open_sql
from headgate.storage.sql.port import Sql
from headgate.telemetry.log import Log
from headgate.tenancy.records import Actor
from tests.clock import VirtualClock

ADMIN = Actor("key_admin", "user_boss", "192.0.2.7")
SEEDS = itertools.count(1)
"""No two processes make the same ids, even on clocks that stand still."""


def spec(kind: Kind = "model", name: str = "gpt-4o", **fields: Any) -> Spec:
    return Spec(kind=kind, name=name, **{"reason": "It answers nonsense.", **fields})


def switch(kind: Kind = "model", name: str = "gpt-4o", **fields: Any) -> Switch:
    given = {"id": f"switch_{name}", "created_at": 1.0, "created_by": "cli", "reason": "INC-1", **fields}
    return Switch(kind=kind, name=name, **given)


class Replica:
    """One process: what it has in force, and its administrators' door."""

    def __init__(self, sql: Sql, name: str, clock: Clock) -> None:
        self.lines: list[dict[str, Any]] = []
        self.name = name
        self.sql = sql
        log = Log(clock, "info", lambda line: self.lines.append(msgspec.json.decode(line)))
        self.watch = Watch(Store(sql), name, f"{name}:4000", clock, log)
        self.verbs = KillSwitches(Store(sql), clock, Ids(clock, random.Random(next(SEEDS))), self.watch.follow)

    async def on(self, wait_s: float = 0.0, **fields: Any) -> tuple[Switch, Force]:
        return await self.verbs.turn_on(spec(**fields), ADMIN, wait_s)

    @property
    def snapshot(self) -> Switches:
        return self.watch.snapshot

    def names(self) -> list[str]:
        """What is off here."""
        return [one.name for one in self.snapshot.in_force]

    def said(self) -> list[tuple[str, str]]:
        """Its log: events and what they are about."""
        return [(line["event"], line.get("target", "")) for line in self.lines]


def states(force: Force) -> dict[str, str]:
    return {standing.instance: standing.state for standing in force.replicas}


@asynccontextmanager
async def replicas(url: str, clock: Clock | None = None) -> AsyncIterator[tuple[Replica, Replica]]:
    """Two that have started; nothing runs by itself."""
    sql, clock = await open_sql(url), clock or VirtualClock()
    try:
        one, two = Replica(sql, "one", clock), Replica(sql, "two", clock)
        await one.watch.start()
        await two.watch.start()
        yield one, two
    finally:
        await sql.aclose()


def run(url: str, main: Callable[[Replica, Replica, VirtualClock], Awaitable[None]]) -> None:
    async def inside() -> None:
        clock = VirtualClock()
        async with replicas(url, clock) as (one, two):
            await main(one, two, clock)

    asyncio.run(inside())

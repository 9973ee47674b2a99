"""Processes that share one database, in one: each with its own services and its own door."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from headgate.core.errors import Unauthorized
from headgate.core.ids import Ids
from headgate.core.principal import KeyTable, Principal, hash_key
from headgate.pipeline.auth import Auth
from headgate.storage.sql.open import open_sql
from headgate.storage.sql.port import Sql
from headgate.telemetry.log import Log
from headgate.tenancy.keys import Keys
from headgate.tenancy.store import Store
from headgate.tenancy.tenancy import Tenancy
from tests.clock import VirtualClock

SECRET = b"s" * 32
SEEDS = itertools.count(1)
"""No two processes make the same ids, even on clocks that stand still."""


class Office:
    """One process: its keys service and its door."""

    def __init__(self, sql: Sql, clock: VirtualClock) -> None:
        self.lines: list[str] = []
        self.clock = clock
        self.auth = Auth(clock, SECRET)
        self.store = Store(sql)
        self.keys = Keys(
            self.store,
            SECRET,
            clock,
            Ids(clock, random.Random(next(SEEDS))),
            self.publish,
            Log(clock, "debug", self.lines.append),
        )
        self.tenancy = Tenancy(self.keys)

    def publish(self, table: KeyTable) -> None:
        self.auth.table = table

    def principal(self, key: str) -> Principal:
        """As the newest snapshot has it."""
        return self.auth.table.by_hash[hash_key(SECRET, key)]

    def opens(self, key: str) -> bool:
        try:
            self.auth.check(key, "inference")
        except Unauthorized:
            return False
        return True


@asynccontextmanager
async def offices(url: str) -> AsyncIterator[tuple[Office, Office]]:
    sql, clock = await open_sql(url), VirtualClock()
    try:
        yield Office(sql, clock), Office(sql, clock)
    finally:
        await sql.aclose()


def run(url: str, main: Any) -> None:
    async def inside() -> None:
        async with offices(url) as (one, other):
            await main(one, other)

    asyncio.run(inside())

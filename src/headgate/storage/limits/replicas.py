"""How many replicas share the store: each announces itself there and counts the others."""

import asyncio
import random

from headgate.core.clock import Clock
from headgate.core.counters import Counters
from headgate.core.errors import Overloaded
from headgate.core.tasks import Tasks

KEY = "replicas"
REPLICAS_MAX = 10_000
EVERY_S = 3.0
TTL_S = 10.0
"""A replica that died is counted for so long."""


class Replicas:
    """Counts the replicas that share `counters`, itself included; 1 where they are memory.

    More are believed at once, fewer only when there were fewer for a whole time to live: a store that was flushed
    counts nobody until everybody has announced himself again. While the store is away the last count stands.
    """

    def __init__(self, counters: Counters, clock: Clock, rng: random.Random, instance: str) -> None:
        self._counters = counters
        self._clock = clock
        self._rng = rng
        self._instance = instance
        self._tasks = Tasks(1)
        self._count = 1
        self._fewer_since: float | None = None
        self._most_lately = 1
        """The highest count since there were fewer."""

    def __call__(self) -> int:
        return self._count

    async def start(self) -> None:
        """Announces this replica and counts once, as far as the store is there, then goes on doing so."""
        await self.announce()
        self._tasks.spawn(self._keep_announcing(), name="replicas")

    async def announce(self) -> None:
        """Once, now. A store that is away changes nothing."""
        try:
            await self._counters.acquire(KEY, self._instance, REPLICAS_MAX, TTL_S)
            found = await self._counters.count(KEY)
        except Overloaded:
            return
        self._believe(max(1, found), self._clock.monotonic())

    def _believe(self, found: int, now: float) -> None:
        if found >= self._count:
            self._count, self._fewer_since = found, None
        elif self._fewer_since is None:
            self._fewer_since, self._most_lately = now, found
        else:
            self._most_lately = max(self._most_lately, found)
            if now - self._fewer_since >= TTL_S:
                self._count, self._fewer_since = self._most_lately, None

    async def _keep_announcing(self) -> None:
        while True:
            # Spread, so that replicas started together do not ask together.
            await self._clock.sleep(EVERY_S * self._rng.uniform(0.8, 1.2))
            await self.announce()

    async def aclose(self) -> None:
        """Takes itself off the count, as far as the store is there."""
        await self._tasks.aclose()
        try:
            async with asyncio.timeout(2.0):
                await self._counters.release(KEY, self._instance)
        except (Overloaded, TimeoutError):
            return  # its time to live ends it

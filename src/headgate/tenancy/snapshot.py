"""What the request path knows of keys: a table in memory, replaced whole whenever SQL has another version."""

import asyncio
import random
from collections.abc import Callable

from msgspec import structs

from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.principal import KeyTable
from headgate.telemetry import names
from headgate.telemetry.log import Log
from headgate.tenancy.store import Rows, Store
from headgate.tenancy.table import Maker

POLL_SECONDS = 0.25
"""How often a replica looks whether another process changed something."""
LOOK_SECONDS = 2.0
"""How long that look may take before SQL counts as away."""
LOAD_SECONDS = 10.0


class Snapshots:
    """Makes tables and hands them to `publish`. While SQL is away the last one serves on, marked stale."""

    def __init__(self, store: Store, clock: Clock, publish: Callable[[KeyTable], None], log: Log) -> None:
        self._store = store
        self._clock = clock
        self._publish = publish
        self._log = log
        self._turn = asyncio.Lock()
        self._maker = Maker()
        self._due = float("inf")
        """When the first stop in force ends."""
        self.table = KeyTable(-1, {})

    async def refresh(self) -> None:
        """Publishes a new table if SQL has another version than the one published last, or a stop has ended.

        One at a time: a slow one could otherwise publish last what it read first, and a revoked key would live again.
        """
        async with self._turn:
            now = self._clock.now()
            version = await self._store.version(LOOK_SECONDS)
            if version == self.table.version and now < self._due:
                if self.table.stale:
                    self._swap(structs.replace(self.table, stale=False))
                return
            since = self._maker.version if version >= self._maker.version else -1  # older: a backup came back
            self._swap(await self._store.rows(now, since, self._made))
        self._log.event(names.KEYS_CHANGED, "debug", version=self.table.version, valid=len(self.table.by_hash))

    async def follow(self) -> None:
        """After a change of our own, which is committed: should SQL be away now, `watch` brings it later."""
        try:
            await self.refresh()
        except HeadgateError as error:
            self._away(str(error))

    async def watch(self, rng: random.Random) -> None:
        """Until cancelled: follows changes made by other processes."""
        while True:
            await self._clock.sleep(POLL_SECONDS * rng.uniform(0.8, 1.2))
            try:
                async with asyncio.timeout(LOAD_SECONDS):
                    await self.refresh()
            except (HeadgateError, TimeoutError) as error:
                self._away(str(error) or "no answer in time")

    def _away(self, error: str) -> None:
        if not self.table.stale:
            self._swap(structs.replace(self.table, stale=True))
            self._log.event(names.KEYS_STALE, "warning", error=error)

    def _swap(self, table: KeyTable) -> None:
        self.table = table
        self._publish(table)

    def _made(self, rows: Rows) -> KeyTable:
        """Off the event loop, and one at a time."""
        self._due = min((stop.until for stop in rows.stops), default=float("inf"))
        return self._maker.table(rows)

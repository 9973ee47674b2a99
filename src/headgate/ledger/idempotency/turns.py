"""Who runs the call of a key, over all replicas: claims with a lease, kept alive while their calls run.

     (free) ──take──► sent ──finish──► done ──keep_s──► (free)
        ▲              │ └─ lease over: outcome unknown, for keep_s
        └───release────┘

One write at the claim, not two: a claim counts as sent at once, since whether its call reached an upstream cannot be
known after a crash in any case, only guessed less often. So a lease that is over never frees a slot: a clock that is
wrong, or a process that stood still, may show a caller a 409 too early, and never run a call twice.
"""

from collections.abc import Awaitable

from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError, Overloaded
from headgate.ledger.idempotency.ask import Ask, Found, IdempotencySettings, Kept
from headgate.ledger.idempotency.store import SWEEP_ROWS, Store
from headgate.telemetry import names
from headgate.telemetry.log import Log

LEASE_S = 15.0
BEAT_S = 4.0
BEAT_SLOTS = 500
SWEEP_S = 60.0
SWEEPS_MAX = 50
"""Transactions between two beats."""
WRITE_S = 2.0
"""How long an answer waits to be kept before its last bytes leave all the same."""


class Turns:
    """One per process. Without calls that have a key it costs one small statement a minute."""

    def __init__(self, store: Store, settings: IdempotencySettings, clock: Clock, log: Log) -> None:
        self._store = store
        self._settings = settings
        self._clock = clock
        self._log = log
        self._mine: set[str] = set()
        """Slots whose calls this process runs."""

    async def take(self, ask: Ask) -> Found:
        """Where it gives `mine`, `finish` or `release` must follow.

        Raises `Conflict` where the key was used with another body, or where nobody knows what became of its call.
        """
        now = self._clock.now()
        expires = now + ask.run_s + self._settings.keep_s  # never while it runs, even where a lease was not extended
        found = await self._store.take(ask, now, now + LEASE_S, expires)
        if found == "mine":
            self._mine.add(ask.slot)
        return found

    async def look(self, ask: Ask) -> Found:
        """As `take`, without taking."""
        return await self._store.find(ask, self._clock.now())

    async def finish(self, ask: Ask, kept: Kept) -> None:
        """The answer is complete. After an `Overloaded` it may be asked again; the lease is extended until it works."""
        await self._give_back(ask, self._store.finish(ask, kept, self._clock.now() + self._settings.keep_s, WRITE_S))

    async def release(self, ask: Ask) -> None:
        """There is no answer worth keeping: the next call with this key runs anew. Raises as `finish` does."""
        await self._give_back(ask, self._store.release(ask, WRITE_S))

    async def _give_back(self, ask: Ask, write: Awaitable[None]) -> None:
        again = False
        try:
            await write
        except Overloaded:
            again = True
            raise
        finally:
            if not again:
                self._mine.discard(ask.slot)

    async def run(self) -> None:
        """Until cancelled: extends leases, and removes what has expired."""
        swept = self._clock.monotonic()
        while True:
            await self._clock.sleep(BEAT_S)
            try:
                await self._beat()
                if self._clock.monotonic() - swept >= SWEEP_S and await self._sweep():
                    swept = self._clock.monotonic()
            except HeadgateError as error:
                self._log.event(names.IDEMPOTENCY_LAGGING, "warning", error=error.message, running=len(self._mine))

    async def _beat(self) -> None:
        slots = list(self._mine)
        for place in range(0, len(slots), BEAT_SLOTS):
            await self._store.extend(slots[place : place + BEAT_SLOTS], self._clock.now() + LEASE_S)

    async def _sweep(self) -> bool:
        """Whether that was all; what is left goes after the next beat, or rows could come faster than they go."""
        for _ in range(SWEEPS_MAX):
            if await self._store.sweep(self._clock.now()) < SWEEP_ROWS:
                return True
            await self._beat()
        return False

"""Carries events from the outbox to brokers: each at least once, in the order in which they were added.

A batch is claimed, published, and removed once the broker has acknowledged it. A process that dies in between leaves
its claims; they run out, and whoever takes them over publishes again under the same ids.
"""

import asyncio
from collections import deque
from itertools import islice
from random import Random

from msgspec import Struct

from headgate.core.bus import Bus
from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.tasks import finish
from headgate.ledger.events import Event
from headgate.ledger.store import Store
from headgate.telemetry import names
from headgate.telemetry.log import Log
from headgate.telemetry.metrics import Metrics

BATCH = 500
TURN_S = 40.0
"""What a turn takes at most: its transactions and one publication."""
LEASE_S = 60.0
"""How long a claim holds: longer than a turn."""
POLL_S = 1.0
PAUSE_S_MAX = 30.0
LOOK_S = 10.0
"""How often the backlog is measured."""
TOLD_MAX = 1_000


class Sink(Struct, frozen=True):
    """A broker, and the name under which events wait for it."""

    name: str
    bus: Bus


class Publisher:
    """One sink's task in this process. `instance` names the process among those on the same database."""

    def __init__(
        self, sink: Sink, store: Store, instance: str, clock: Clock, rng: Random, log: Log, metrics: Metrics
    ) -> None:
        self.sink = sink.name
        self._bus = sink.bus
        self._store = store
        self._instance = instance
        self._clock = clock
        self._rng = rng
        self._log = log
        self._metrics = metrics
        self._unremoved: list[int] = []
        """Acknowledged, and not yet removed from the outbox."""
        self._more = False
        self._trouble: str | None = None
        self._behind_since: float | None = None
        self._looked: float | None = None
        self.waiting = 0
        self.oldest: float | None = None
        """When the oldest event that waits happened (Unix seconds)."""

    def age_s(self) -> float:
        return max(0.0, self._clock.now() - self.oldest) if self.oldest is not None else 0.0

    async def run(self) -> None:
        """Until cancelled. Trouble with the broker or SQL is retried with growing pauses; events wait in SQL."""
        pause = POLL_S
        while True:
            # To its end even when the server stops: else the broker's answer is lost, and the batch goes out again.
            await finish(self._turn(), TURN_S)
            if self._more:
                continue
            pause = min(pause * 2, PAUSE_S_MAX) if self._trouble is not None else POLL_S
            await self._clock.sleep(pause * self._rng.uniform(0.5, 1.0))

    async def finish(self, seconds: float) -> None:
        """At shutdown: publishes what waits, within `seconds`, and leaves the rest free for other processes."""
        try:
            async with asyncio.timeout(seconds):
                self._more = True
                while self._more:
                    await self._turn()
                await self._store.release(self.sink, self._instance)
        except (HeadgateError, TimeoutError):
            return  # the claims run out

    async def _turn(self) -> None:
        """One batch. Afterwards `_more` says whether the next may follow at once, `_trouble` what went wrong."""
        self._more = False
        try:
            self._trouble = await self._carry()
        except HeadgateError as error:
            self._trouble = error.message
        await self._look()
        self._report()

    async def _carry(self) -> str | None:
        """Raises what SQL raises. What the broker acknowledged is then removed first the next time."""
        await self._remove()
        batch = await self._store.claim(self.sink, self._instance, self._clock.now(), LEASE_S, BATCH)
        if not batch:
            return None
        delivery = await self._bus.publish([waiting.message for waiting in batch])
        self._unremoved = [waiting.seq for waiting in batch if waiting.message.id in delivery.acknowledged]
        self._metrics.events_published(self.sink, len(self._unremoved))
        await self._remove()
        if len(delivery.acknowledged) < len(batch):
            self._metrics.events_failed(self.sink)
            await self._store.release(self.sink, self._instance)  # a process that reaches the broker may go on
            return delivery.trouble or "not all were acknowledged"
        self._more = len(batch) == BATCH
        return None

    async def _remove(self) -> None:
        if self._unremoved:
            await self._store.published(self._unremoved)
            self._unremoved = []

    async def _look(self) -> None:
        now = self._clock.monotonic()
        if self._looked is not None and now - self._looked < LOOK_S:
            return
        self._looked = now
        try:
            self.waiting, self.oldest = await self._store.backlog(self.sink)
        except HeadgateError as error:
            self._trouble = self._trouble or error.message

    def _report(self) -> None:
        """Once when it falls behind and once when it has recovered."""
        if self._trouble is not None and self._behind_since is None:
            self._behind_since = self._clock.monotonic()
            self._log.event(
                names.EVENTS_BEHIND, "warning", sink=self.sink, error=self._trouble, waiting=self.waiting,
                remedy="nothing is lost: events wait in the database until the broker takes them",
            )  # fmt: skip
        elif self._trouble is None and self._behind_since is not None:
            seconds = round(self._clock.monotonic() - self._behind_since, 3)
            self._behind_since = None
            self._log.event(names.EVENTS_RECOVERED, sink=self.sink, seconds=seconds)


class Outbox:
    """Takes events that belong to no receipt, such as budget alerts, from those who cannot wait.

    Kept in memory until SQL has them: a crash loses those of its last moment, and more than `TOLD_MAX` at once the
    oldest. Whoever tells of a state that lasts tells again.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._told: deque[Event] = deque(maxlen=TOLD_MAX)
        self._wake = asyncio.Event()

    def tell(self, event: Event) -> None:
        """Never waits and never raises."""
        self._told.append(event)
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. Trouble with SQL is retried with growing pauses."""
        pause = 1.0
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self.flush()
                pause = 1.0
            except HeadgateError:
                self._wake.set()
                await self._clock.sleep(pause)
                pause = min(pause * 2, PAUSE_S_MAX)

    async def flush(self) -> None:
        """Puts everything told so far into SQL. Raises `Overloaded` where SQL is away; then it is kept."""
        while self._told:
            batch = list(islice(self._told, BATCH))
            await self._store.enqueue(batch)
            for event in batch:
                if self._told and self._told[0] is event:  # not so where newer ones have pushed it out meanwhile
                    self._told.popleft()

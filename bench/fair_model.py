"""A modelled backend and its callers in virtual time, around the real gate."""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from statistics import fmean

import msgspec

from bench.fair_time import LoopClock
from headgate.core.deadline import Deadline
from headgate.core.errors import Overloaded
from headgate.core.policy import Priority
from headgate.pipeline.capacity import Capacity
from headgate.pipeline.gate import Gate, GateSettings, Ticket
from headgate.pipeline.latency_signal import STREAM

TOKENS = 1_000
"""What an average call costs; its service takes its share of `Pool.service_s`."""
BEGIN = 0.1
"""The part of the service before the first piece."""


class Pool:
    """So many calls at once, the others in line, first come first served; as a model server without fairness does."""

    def __init__(self, slots: int, service_s: float) -> None:
        self.slots = slots
        self.service_s = service_s
        self._busy = 0
        self._line: deque[asyncio.Future[None]] = deque()

    async def begin(self) -> None:
        if self._busy >= self.slots:
            turn = asyncio.get_running_loop().create_future()
            self._line.append(turn)
            await turn
        else:
            self._busy += 1

    def end(self) -> None:
        self._busy -= 1
        while self._line and self._busy < self.slots:
            turn = self._line.popleft()
            if not turn.done():
                self._busy += 1
                turn.set_result(None)


class Tenant(msgspec.Struct, frozen=True):
    """Who calls, and how: `rate` calls per second, or `window` callers with one call each at a time."""

    name: str
    weight: float = 1.0
    priority: Priority = "interactive"
    rate: float = 0.0
    window: int = 0
    deadline_s: float = 30.0


class Seen(msgspec.Struct):
    """What became of one tenant's calls after the warm-up."""

    waits: list[float] = msgspec.field(default_factory=list)
    """Seconds before the gate, of those that entered."""
    work: float = 0.0
    """Tokens served within their deadline."""
    good: int = 0
    """Calls that ended so."""
    late: int = 0
    refused: int = 0


class World:
    """A gate, the pool behind it, and tenants. `fair=False` gives all one name, which is first come first served."""

    def __init__(
        self, pool: Pool, capacity: Capacity, seed: int, fair: bool = True, settings: GateSettings | None = None
    ):
        self.clock = LoopClock()
        self.pool = pool
        self.gate = Gate("pool", capacity, settings or GateSettings(), self.clock)
        self.seen: dict[str, Seen] = {}
        self._rng = random.Random(seed)
        self._fair = fair
        self._warm = 0.0
        self._end = 0.0

    async def run(self, tenants: Iterable[Tenant], seconds: float, warm_s: float) -> dict[str, Seen]:
        """Load for so long; what is still under way then is left to end."""
        self._warm, self._end = warm_s, seconds
        async with asyncio.TaskGroup() as group:
            for tenant in tenants:
                self.seen[tenant.name] = Seen()
                if tenant.rate:
                    group.create_task(self._arrivals(tenant, group))
                for _ in range(tenant.window):
                    group.create_task(self._caller(tenant))
        assert (self.gate.active, self.gate.waiting) == (0, 0), "the gate kept something"
        return self.seen

    async def _arrivals(self, tenant: Tenant, group: asyncio.TaskGroup) -> None:
        while self.clock.monotonic() < self._end:
            await asyncio.sleep(self._rng.expovariate(tenant.rate))
            group.create_task(self._call(tenant))

    async def _caller(self, tenant: Tenant) -> None:
        while self.clock.monotonic() < self._end:
            if not await self._call(tenant):
                await asyncio.sleep(self._rng.uniform(0.5, 1.5) * self.pool.service_s)

    async def _call(self, tenant: Tenant) -> bool:
        seen, began = self.seen[tenant.name], self.clock.monotonic()
        counts = self._warm <= began < self._end
        cost = self._rng.randint(TOKENS // 5, 2 * TOKENS - TOKENS // 5)
        name, weight = (tenant.name, tenant.weight) if self._fair else ("all", 1.0)
        ticket = Ticket(name, weight, tenant.priority, cost, Deadline(began + tenant.deadline_s))
        try:
            slot = await self.gate.enter(ticket)
        except Overloaded:
            seen.refused += counts
            return False
        good = False
        try:
            async with asyncio.timeout_at(ticket.deadline.at):
                good = await self._serve(slot.observe, cost)
        except TimeoutError:
            seen.late += counts
        slot.leave()  # its own deadline is over: that says nothing about the pool
        if counts:
            seen.waits.append(slot.waited_s)
        if good and self._warm <= self.clock.monotonic() < self._end:
            seen.good += 1
            seen.work += cost
        return good

    async def _serve(self, observe: Callable[[float, str], None], cost: int) -> bool:
        began, service = self.clock.monotonic(), self.pool.service_s * cost / TOKENS
        await self.pool.begin()
        try:
            await asyncio.sleep(BEGIN * self.pool.service_s)
            observe(self.clock.monotonic() - began, STREAM)
            await asyncio.sleep(max(0.0, service - BEGIN * self.pool.service_s))
            return True
        finally:
            self.pool.end()


def quantile(values: Sequence[float], share: float) -> float:
    """0 where there are none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def jain(values: Sequence[float]) -> float:
    """Jain, Chiu, Hawe 1984: 1 where all have the same, 1/n where one has all."""
    return fmean(values) ** 2 / fmean([value * value for value in values]) if any(values) else 0.0

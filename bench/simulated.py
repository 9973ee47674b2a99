"""A hundred nodes and one store under virtual time: the real `LeasedLimiter`, request by request.

Only time and the network are modelled. Time stands still while code runs and moves on when every task waits; a round
trip takes between half a millisecond and five, drawn anew each time; a cut-off node waits for its timeout.
"""

import asyncio
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from headgate.core.errors import Overloaded
from headgate.core.limiter import Account, AccountState, Cost, Plan, Rate, Verdict
from headgate.storage.limits.leased import LeasedLimiter
from headgate.storage.limits.memory import MemoryLimiter

TURNS = 8
"""Of the event loop, until every task woken by an event waits again."""
TIMEOUT_S = 0.15
ONE = Cost()


class SimulatedClock:
    """A `core.clock.Clock` whose time is set by whoever runs the simulation."""

    def __init__(self) -> None:
        self.time = 0.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = 0

    def now(self) -> float:
        return 1_700_000_000.0 + self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        waker = asyncio.get_running_loop().create_future()
        self._order += 1
        heapq.heappush(self._sleepers, (self.time + seconds, self._order, waker))
        await waker

    async def move(self, to: float) -> None:
        """Lets each sleeper wake at its own moment, up to `to`."""
        while self._sleepers and self._sleepers[0][0] <= to:
            due, _, waker = heapq.heappop(self._sleepers)
            self.time = max(self.time, due)
            if not waker.done():
                waker.set_result(None)
                await settle()
        self.time = to


async def settle() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


class Link:
    """One node's way to the store."""

    def __init__(self, store: MemoryLimiter, clock: SimulatedClock, rng: random.Random) -> None:
        self._store = store
        self._clock = clock
        self._rng = rng
        self.cut = False
        self.trips = 0

    async def reserve(self, claim: str, plan: Plan, cost: Cost, ttl_s: float) -> Verdict:
        self.trips += 1
        if self.cut:
            await self._clock.sleep(TIMEOUT_S)
            raise Overloaded("cut off", code="limits_unavailable", retry_after=1.0)
        way_s = self._rng.uniform(0.00025, 0.0025)
        await self._clock.sleep(way_s)
        verdict = await self._store.reserve(claim, plan, cost, ttl_s)
        await self._clock.sleep(way_s)
        return verdict

    def settle(self, claim: str, plan: Plan, held: Cost, used: Cost) -> None:
        if not self.cut:
            self._store.settle(claim, plan, held, used)

    async def flush(self) -> None:
        return

    async def seed(self, spent: Sequence[tuple[Account, int]]) -> None:
        await self._store.seed(spent)

    async def raise_to(self, spent: Sequence[tuple[Account, int]]) -> None:
        await self._store.raise_to(spent)

    async def balances(self, keys: Sequence[str]) -> list[AccountState | None]:
        return await self._store.balances(keys)

    async def aclose(self) -> None:
        return


@dataclass
class Scene:
    """What is simulated. Rates are per second."""

    nodes: int = 100
    limit: float = 5e6
    offered: float = 10e6
    seconds: float = 2.0
    tick_s: float = 0.0001
    cut_nodes: int = 10
    cut_from: float = 0.4
    cut_until: float = 0.8
    shift_at: float = 1.2
    """When demand moves to other nodes."""
    seed: int = 1


@dataclass
class Outcome:
    scene: Scene
    accepted: list[int] = field(default_factory=list)
    """By tick."""
    requests: int = 0
    waited: int = 0
    failed: int = 0
    """Asked at a node that was cut off and had no credit."""
    trips: int = 0

    def windows(self, length_s: float = 1.0) -> list[float]:
        """What every sliding window accepted, as a part of its limit; one for each tick at which one ends."""
        size = round(length_s / self.scene.tick_s)
        sums = [0, *accumulate(self.accepted)]
        limit = self.scene.limit * length_s
        return [(sums[end] - sums[end - size]) / limit for end in range(size, len(sums))]


class Simulation:
    """Each request is one call of the limiter; those that must wait for the store are tasks."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.clock = SimulatedClock()
        rng = random.Random(scene.seed)
        self.store = MemoryLimiter(self.clock)
        self.links = [Link(self.store, self.clock, random.Random(rng.random())) for _ in range(scene.nodes)]
        self.limiters = [
            LeasedLimiter(link, self.clock, random.Random(rng.random()), lambda: scene.nodes, str(number))
            for number, link in enumerate(self.links)
        ]
        rate = Rate(key="all", amount=scene.limit, window_s=1.0, burst=scene.limit, leased=True)
        self.plan = Plan(rates=(rate,))
        # A few nodes have most of the demand, as behind a balancer with sticky sessions.
        weights = [1 / (place + 1) ** 0.7 for place in range(scene.nodes)]
        self._demand = [scene.offered * scene.tick_s * weight / sum(weights) for weight in weights]
        self._due = [rng.random() for _ in range(scene.nodes)]
        self._waiting: set[asyncio.Task[None]] = set()
        self.outcome = Outcome(scene)
        self._now_accepted = 0

    async def run(self) -> Outcome:
        scene, outcome = self.scene, self.outcome
        # As after a first second of overload: from an empty bucket every window's limit is the same.
        taken = Rate(key="all", amount=scene.limit, window_s=1.0, burst=scene.limit, tokens=True)
        await self.store.reserve("before", Plan(rates=(taken,)), Cost(int(scene.limit)), 60.0)
        for tick in range(round(scene.seconds / scene.tick_s)):
            await self.clock.move((tick + 1) * scene.tick_s)
            self._events()
            for node in range(scene.nodes):
                self._due[node] += self._demand[node]
                arriving = int(self._due[node])
                self._due[node] -= arriving
                self._arrive(self.limiters[node], arriving)
            if self._waiting:
                await settle()
            outcome.accepted.append(self._now_accepted)
            self._now_accepted = 0
        await self._end()
        return outcome

    def _events(self) -> None:
        scene, time = self.scene, self.clock.time
        cut = scene.cut_from <= time < scene.cut_until
        for link in self.links[: scene.cut_nodes]:
            link.cut = cut
        if scene.shift_at <= time < scene.shift_at + scene.tick_s:
            half = scene.nodes // 2
            self._demand = self._demand[half:] + self._demand[:half]

    def _arrive(self, limiter: LeasedLimiter, number: int) -> None:
        outcome, plan = self.outcome, self.plan
        outcome.requests += number
        for _ in range(number):
            try:
                verdict = limiter.at_once("call", plan, ONE)
            except Overloaded:
                outcome.failed += 1
                continue
            if verdict is None:
                outcome.waited += 1
                task = asyncio.create_task(self._wait(limiter))
                self._waiting.add(task)
                task.add_done_callback(self._waiting.discard)
            elif verdict.allowed:
                self._now_accepted += 1

    async def _wait(self, limiter: LeasedLimiter) -> None:
        try:
            verdict = await limiter.reserve("call", self.plan, ONE, 60.0)
        except Overloaded:
            self.outcome.failed += 1
            return
        self._now_accepted += verdict.allowed

    async def _end(self) -> None:
        for task in list(self._waiting):
            task.cancel()
        await settle()
        self.outcome.trips = sum(link.trips for link in self.links)
        for limiter in self.limiters:
            await limiter.aclose()

"""Leased limits: what replicas accept together, at what cost in round trips, whatever the network does."""

import asyncio
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.core.errors import Overloaded
from headgate.core.limiter import Account, AccountState, Cost, Place, Plan, Rate, Verdict
from headgate.storage.limits.leased import LeasedLimiter
from headgate.storage.limits.memory import MemoryLimiter
from tests.clock import VirtualClock


@dataclass
class Wire:
    """One replica's way to a store: as slow and as lossy as a test wants."""

    store: MemoryLimiter
    clock: VirtualClock
    delay_s: float = 0.0
    lose_answers: bool = False
    cut: bool = False
    trips: int = 0
    claims: list[str] = field(default_factory=list)

    async def reserve(self, claim: str, plan: Plan, cost: Cost, ttl_s: float) -> Verdict:
        self.trips += 1
        self.claims.append(claim)
        await self.clock.sleep(self.delay_s / 2)
        if self.cut:
            raise Overloaded("cut off", code="limits_unavailable", retry_after=1.0)
        verdict = await self.store.reserve(claim, plan, cost, ttl_s)
        await self.clock.sleep(self.delay_s / 2)
        if self.lose_answers:
            raise Overloaded("answer lost", code="limits_unavailable", retry_after=1.0)
        return verdict

    def settle(self, claim: str, plan: Plan, held: Cost, used: Cost) -> None:
        if not self.cut:
            self.store.settle(claim, plan, held, used)

    async def flush(self) -> None:
        return

    async def seed(self, spent: Sequence[tuple[Account, int]]) -> None:
        await self.store.seed(spent)

    async def raise_to(self, spent: Sequence[tuple[Account, int]]) -> None:
        await self.store.raise_to(spent)

    async def balances(self, keys: Sequence[str]) -> list[AccountState | None]:
        return await self.store.balances(keys)

    async def aclose(self) -> None:
        return


class Fleet:
    """Replicas that share one store, under one clock."""

    def __init__(self, number: int, rate: Rate, seed: int = 1) -> None:
        self.clock = VirtualClock()
        self.store = MemoryLimiter(self.clock)
        self.wires = [Wire(self.store, self.clock) for _ in range(number)]
        self.limiters = [
            LeasedLimiter(wire, self.clock, random.Random(seed + place), lambda: number, str(place))
            for place, wire in enumerate(self.wires)
        ]
        self.rate = rate
        self.plan = Plan(rates=(rate,))
        self.taken: list[tuple[float, float]] = []
        """When, and how much; what was given back is below zero."""
        self.calls: set[asyncio.Task[None]] = set()
        self.troubles = 0

    def call(self, place: int, held: int, used: int) -> None:
        task = asyncio.get_running_loop().create_task(self._call(place, held, used))
        self.calls.add(task)
        task.add_done_callback(self.calls.discard)

    async def _call(self, place: int, held: int, used: int) -> None:
        limiter, cost = self.limiters[place], Cost(held)
        try:
            verdict = await limiter.reserve("call", self.plan, cost, 60.0)
        except Overloaded:
            self.troubles += 1
            return
        if verdict.allowed:
            self.taken.append((self.clock.monotonic(), held if self.rate.tokens else 1))
            if self.rate.tokens and used < held:
                limiter.settle("call", self.plan, cost, Cost(used))
                self.taken.append((self.clock.monotonic(), used - held))
        else:
            assert 0 < verdict.retry_after < math.inf
            assert verdict.refused_rate == 0

    def excess(self) -> float:
        """By how much an exact bucket would have had to be larger to let all of that through."""
        level, at, most = 0.0, 0.0, 0.0
        for time, amount in self.taken:
            level = max(0.0, level - (time - at) * self.rate.amount / self.rate.window_s)
            level, at = max(0.0, level + amount), time
            most = max(most, level)
        return most - self.rate.burst

    async def aclose(self) -> None:
        for wire in self.wires:
            wire.cut = wire.lose_answers = False
        await self.clock.advance(3.0)
        assert not self.calls
        for limiter in self.limiters:
            await limiter.aclose()


def rate(amount: float = 1000, window_s: float = 1.0, burst: float | None = None, *, tokens: bool = False) -> Rate:
    return Rate(key="r", amount=amount, window_s=window_s, burst=burst or amount, tokens=tokens, leased=True)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["calls", "calls", "calls", "wait", "delay", "lose", "cut", "mend"]),
        st.integers(0, 4),
        st.integers(1, 100),
        st.floats(0.0, 1.0),
    ),
    min_size=1,
    max_size=25,
)


SCENES = {
    "number": st.integers(1, 5),
    "amount": st.sampled_from([50, 1_000, 20_000]),
    "window_s": st.sampled_from([1.0, 60.0]),
    "burst": st.sampled_from([0.1, 1.0]),
    "tokens": st.booleans(),
    "steps": STEPS,
}


async def excess_of(fleet: Fleet, steps: list[tuple[str, int, int, float]]) -> float:
    """Random demand on a random network; what was accepted beyond the exact limit."""
    for kind, place, count, part in steps:
        replica = place % len(fleet.wires)
        wire = fleet.wires[replica]
        if kind == "calls":
            held = min(max(1, int(part * 20)), int(fleet.rate.burst)) if fleet.rate.tokens else 1
            for _ in range(count):
                fleet.call(replica, held, int(held * part))
            await fleet.clock.advance(0.01)
        elif kind == "wait":
            await fleet.clock.advance(part * 2)
        elif kind == "delay":
            wire.delay_s = part / 10
        else:
            wire.lose_answers = kind == "lose"
            wire.cut = kind == "cut"
    await fleet.aclose()
    return fleet.excess()


def check_scene(
    number: int, amount: int, window_s: float, burst: float, tokens: bool, steps: list[tuple[str, int, int, float]]
) -> None:
    async def main() -> None:
        fleet = Fleet(number, rate(amount, window_s, amount * burst, tokens=tokens))
        assert await excess_of(fleet, steps) <= 0.05 * amount + 1e-6 * amount

    asyncio.run(main())


@settings(max_examples=30, deadline=None)
@given(**SCENES)
def test_replicas_accept_no_more_than_the_limit_and_a_twentieth(**scene: Any) -> None:
    check_scene(**scene)


@pytest.mark.prove
@pytest.mark.timeout(1_800)
@settings(max_examples=5_000, deadline=None)
@given(**SCENES)
def test_replicas_accept_no_more_than_the_limit_and_a_twentieth_at_length(**scene: Any) -> None:
    check_scene(**scene)


def test_when_all_credit_is_used_in_one_moment_that_is_within_a_twentieth_too() -> None:
    async def main() -> None:
        fleet = Fleet(4, rate(10_000, 1.0, 1_000))
        for wire in fleet.wires:
            wire.delay_s = 0.004
        for _ in range(60):  # within the limit, until credit is as large as it gets
            for place in range(4):
                for _ in range(22):
                    fleet.call(place, 0, 0)
            await fleet.clock.advance(0.01)
        for place in range(4):
            for _ in range(1_000):
                fleet.call(place, 0, 0)
        await fleet.clock.advance(0.1)
        await fleet.aclose()
        assert 0 < fleet.excess() <= 500

    asyncio.run(main())


def test_under_overload_replicas_with_uneven_demand_use_the_whole_limit() -> None:
    async def main() -> None:
        fleet = Fleet(4, rate(10_000))
        for wire, delay_s in zip(fleet.wires, (0.0, 0.002, 0.005, 0.02), strict=True):
            wire.delay_s = delay_s
        for _ in range(300):  # three seconds
            for place, count in enumerate((170, 20, 8, 2)):
                for _ in range(count):
                    fleet.call(place, 0, 0)
            await fleet.clock.advance(0.01)
        counts = [sum(amount for at, amount in fleet.taken if start <= at < start + 1) for start in (1.0, 1.5, 2.0)]
        await fleet.aclose()
        assert all(9_500 <= count <= 10_500 for count in counts), counts
        assert fleet.excess() <= 500

    asyncio.run(main())


def test_in_the_steady_state_calls_need_no_round_trips() -> None:
    async def main() -> None:
        fleet = Fleet(2, rate(100_000))
        wire = fleet.wires[0]
        wire.delay_s = 0.005
        waited = 0
        for turn in range(400):
            for _ in range(20):
                if fleet.limiters[0].at_once("call", fleet.plan, Cost()) is None:
                    waited += turn > 100
                    fleet.call(0, 0, 0)
            await fleet.clock.advance(0.01)
        trips = wire.trips
        await fleet.aclose()
        assert waited == 0
        assert trips < 60  # for 8,000 calls

    asyncio.run(main())


def test_credit_that_nobody_uses_goes_back() -> None:
    async def main() -> None:
        fleet = Fleet(2, rate(1_000_000, 60.0, tokens=True))
        for _ in range(50):
            fleet.call(0, 100, 100)
            await fleet.clock.advance(0.01)
        await fleet.clock.advance(2.0)
        ask = Rate(key="r", amount=1_000_000, window_s=60.0, burst=1_000_000, tokens=True)
        verdict = await fleet.store.reserve("look", Plan(rates=(ask,)), Cost(), 1.0)
        used = 50 * 100 - 2.5 * 1_000_000 / 60
        assert verdict.rates[0].remaining >= 1_000_000 - max(0.0, used) - 1
        await fleet.aclose()

    asyncio.run(main())


def test_a_call_too_large_for_credit_is_judged_by_the_store() -> None:
    async def main() -> None:
        fleet = Fleet(10, rate(1_000, 60.0, tokens=True))
        verdict = await fleet.limiters[0].reserve("large", fleet.plan, Cost(900), 60.0)
        again = await fleet.limiters[1].reserve("second", fleet.plan, Cost(900), 60.0)
        assert (verdict.allowed, again.allowed) == (True, False)
        assert fleet.wires[0].claims == ["large"]
        fleet.limiters[0].settle("large", fleet.plan, Cost(900), Cost(100))
        fleet.limiters[0].settle("large", fleet.plan, Cost(900), Cost(100))
        last = await fleet.limiters[1].reserve("third", fleet.plan, Cost(900), 60.0)
        assert last.allowed
        assert last.rates[0].remaining == pytest.approx(0.0, abs=1.0)
        await fleet.aclose()

    asyncio.run(main())


def test_a_call_with_a_place_or_an_exact_rate_asks_the_store_for_everything_at_once() -> None:
    async def main() -> None:
        fleet = Fleet(2, rate())
        plan = Plan(rates=(fleet.rate,), places=(Place(key="p", limit=1),))
        first = await fleet.limiters[0].reserve("one", plan, Cost(), 60.0)
        second = await fleet.limiters[1].reserve("two", plan, Cost(), 60.0)
        assert (first.allowed, second.allowed, second.refused_place) == (True, False, 0)
        assert fleet.wires[0].trips == fleet.wires[1].trips == 1
        fleet.limiters[0].settle("one", plan, Cost(), Cost())
        assert (await fleet.limiters[1].reserve("three", plan, Cost(), 60.0)).allowed
        await fleet.aclose()

    asyncio.run(main())


def test_whoever_waits_as_long_as_told_is_not_refused_again() -> None:
    async def main() -> None:
        fleet = Fleet(1, rate(600, 60.0, 40))
        limiter = fleet.limiters[0]
        again = 0
        for _ in range(60):
            verdict = await limiter.reserve("call", fleet.plan, Cost(), 60.0)
            if not verdict.allowed:
                await fleet.clock.advance(verdict.retry_after)
                again += not (await limiter.reserve("call", fleet.plan, Cost(), 60.0)).allowed
        assert again == 0
        await fleet.aclose()

    asyncio.run(main())


def test_tokens_used_beyond_what_was_held_are_owed_and_paid() -> None:
    async def main() -> None:
        fleet = Fleet(1, rate(60_000, 60.0, tokens=True))
        limiter = fleet.limiters[0]
        assert (await limiter.reserve("call", fleet.plan, Cost(100), 60.0)).allowed
        limiter.settle("call", fleet.plan, Cost(100), Cost(20_000))
        await fleet.clock.advance(1.0)
        look = Rate(key="r", amount=60_000, window_s=60.0, burst=60_000, tokens=True)
        verdict = await fleet.store.reserve("look", Plan(rates=(look,)), Cost(), 1.0)
        assert verdict.rates[0].remaining == pytest.approx(60_000 - 20_000 + 1_000, abs=200)
        await fleet.aclose()

    asyncio.run(main())


def test_while_the_store_is_away_credit_lasts_and_then_calls_are_told_so() -> None:
    async def main() -> None:
        fleet = Fleet(1, rate(100_000))
        for _ in range(100):
            fleet.call(0, 0, 0)
            await fleet.clock.advance(0.001)
        fleet.wires[0].cut = True
        before = len(fleet.taken)
        for _ in range(200):
            fleet.call(0, 0, 0)
            await fleet.clock.advance(0.001)
        assert len(fleet.taken) > before
        assert fleet.troubles > 0
        with pytest.raises(Overloaded) as told:
            await fleet.limiters[0].reserve("call", fleet.plan, Cost(), 60.0)
        assert told.value.code == "limits_unavailable"
        fleet.wires[0].cut = False
        await fleet.clock.advance(1.0)
        assert (await fleet.limiters[0].reserve("call", fleet.plan, Cost(), 60.0)).allowed
        await fleet.aclose()

    asyncio.run(main())


def test_a_caller_that_leaves_while_it_waits_takes_nothing_and_stops_nobody() -> None:
    async def main() -> None:
        fleet = Fleet(1, rate(100))
        fleet.wires[0].delay_s = 1.0
        leaving = asyncio.ensure_future(fleet.limiters[0].reserve("a", fleet.plan, Cost(), 60.0))
        staying = asyncio.ensure_future(fleet.limiters[0].reserve("b", fleet.plan, Cost(), 60.0))
        await fleet.clock.advance(0.5)
        leaving.cancel()
        await fleet.clock.advance(1.0)
        assert (await staying).allowed
        assert leaving.cancelled()
        await fleet.aclose()

    asyncio.run(main())

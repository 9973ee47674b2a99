"""What only the counters in memory promise: exact sums, and bounded memory."""

import asyncio
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from headgate.core.counters import Take
from headgate.core.errors import Overloaded
from headgate.storage.counters.bucket import SLACK
from headgate.storage.counters.memory import MemoryCounters
from tests.clock import VirtualClock

KEYS = ("a", "b", "c")


class Oracle:
    """Token buckets in exact fractions, by the definition: a level that fills with time up to its capacity."""

    def __init__(self) -> None:
        self.tokens: dict[str, Fraction] = {}
        self.seen: dict[str, Fraction] = {}

    def level(self, take: Take, now: Fraction) -> Fraction:
        capacity = Fraction(take.capacity)
        if take.key not in self.tokens:
            return capacity
        filled = self.tokens[take.key] + (now - self.seen[take.key]) * Fraction(take.refill_per_s)
        return min(capacity, filled)

    def lacking(self, take: Take, now: Fraction) -> Fraction:
        """By how much the bucket misses the cost: above zero means refused."""
        return Fraction(take.cost) - self.level(take, now) if take.cost > 0 else Fraction(-1)

    def apply(self, take: Take, now: Fraction) -> None:
        self.tokens[take.key] = min(Fraction(take.capacity), self.level(take, now) - Fraction(take.cost))
        self.seen[take.key] = now


Step = tuple[float, list[tuple[str, float]], bool]
"""Seconds that pass, what is then taken from which buckets, and whether by force."""


def steps(seconds: st.SearchStrategy[float], costs: st.SearchStrategy[float]) -> st.SearchStrategy[list[Step]]:
    takes = st.lists(st.tuples(st.sampled_from(KEYS), costs), min_size=1, max_size=3, unique_by=lambda take: take[0])
    return st.lists(st.tuples(seconds, takes, st.booleans()), max_size=30)


def limits(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[dict[str, tuple[float, float]]]:
    return st.fixed_dictionaries({key: st.tuples(numbers, numbers) for key in KEYS})


def follow(limit: dict[str, tuple[float, float]], moves: list[Step], slack: float) -> None:
    """Both take the same steps. Decisions are equal, but where the exact shortfall is within `slack` of capacity."""

    async def main() -> None:
        clock = VirtualClock()
        counters = MemoryCounters(clock)
        oracle = Oracle()
        for seconds, wanted, force in moves:
            clock.jump(seconds)
            now = Fraction(clock.monotonic())
            takes = [Take(key, cost, *limit[key]) for key, cost in wanted]
            lacks = [oracle.lacking(take, now) / Fraction(take.capacity) for take in takes]
            decision = await counters.take(takes, force=force)
            if all(abs(lack) > slack for lack in lacks):
                assert decision.allowed == (force or max(lacks) <= 0)
            if decision.allowed:
                for take in takes:
                    oracle.apply(take, now)
            for take, state in zip(takes, decision.states, strict=True):
                exact = float(oracle.level(take, now))
                assert state.remaining == pytest.approx(exact, rel=1e-9, abs=1e-6 * take.capacity)
                assert state.reset_s == pytest.approx(
                    (take.capacity - exact) / take.refill_per_s, rel=1e-9, abs=1e-6 * take.capacity / take.refill_per_s
                )

    asyncio.run(main())


GRID = st.integers(1, 2**14).map(lambda whole: whole / 64)
"""Sums and products of these are exact in doubles, and apart by far more than the slack."""


@settings(max_examples=300, deadline=None)
@given(limits(GRID), steps(GRID, st.integers(-(2**13), 2**13).map(lambda whole: whole / 64)))
def test_every_decision_is_that_of_exact_arithmetic(limit: dict[str, tuple[float, float]], moves: list[Step]) -> None:
    follow(limit, moves, slack=-1.0)


@settings(max_examples=300, deadline=None)
@given(
    limits(st.floats(1e-3, 1e8)),
    steps(st.floats(0, 1e5), st.floats(-1e8, 1e8)),
)
@example(
    {**dict.fromkeys("ab", (1.0, 1.0)), "c": (1.0, 43980466.0)},
    [(2048.0, [("c", 1e-05)], False), (0.0, [("c", 1.0)], False)],
)
def test_no_numbers_lead_further_from_exact_arithmetic_than_rounding(
    limit: dict[str, tuple[float, float]], moves: list[Step]
) -> None:
    follow(limit, moves, slack=10 * SLACK)


def test_memory_stays_bounded_while_keys_come_and_go() -> None:
    async def main() -> None:
        clock = VirtualClock()
        counters = MemoryCounters(clock)
        for number in range(5_000):
            clock.jump(0.01)
            await counters.take([Take(f"bucket-{number}", 1, 10, 1)])  # full again after 1 s
            await counters.acquire(f"lease-{number}", "a", 1, 1.0)
            await counters.set(f"value-{number}", b"v", 1.0)
            assert len(counters) <= 3 * 110

    asyncio.run(main())


def test_a_key_that_is_written_over_and_over_stays_one_key() -> None:
    async def main() -> None:
        clock = VirtualClock()
        counters = MemoryCounters(clock)
        for _ in range(2_000):
            clock.jump(0.001)
            await counters.take([Take("a", 0.001, 10, 1)])
            await counters.set("a", b"v", 600)
            assert await counters.delete("a")
        await counters.set("a", b"v", 600)
        assert len(counters) == 2
        clock.jump(599)
        assert await counters.get("a") == b"v"
        clock.jump(1)
        assert await counters.get("a") is None

    asyncio.run(main())


def test_full_counters_refuse_new_keys_and_go_on_serving_the_old() -> None:
    async def main() -> None:
        clock = VirtualClock()
        counters = MemoryCounters(clock, keys_max=3)
        assert (await counters.take([Take(key, 5, 10, 1) for key in KEYS])).allowed
        with pytest.raises(Overloaded, match="3 keys") as caught:
            await counters.take([Take("a", 1, 10, 1), Take("new", 1, 10, 1)])
        assert caught.value.code == "counters_full"
        assert (await counters.take([Take("a", 5, 10, 1)])).allowed
        clock.jump(5)
        assert (await counters.take([Take("new", 1, 10, 1)])).allowed

    asyncio.run(main())

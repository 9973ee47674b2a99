"""Ejection: who is far worse than the others of its pool is out for a while, and never more than half of them."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.backends.breaker import BreakerSettings
from headgate.backends.outliers import OutlierSettings
from headgate.backends.replicas import FIRST_SHARE, Replicas
from headgate.core.errors import Upstream
from tests.clock import VirtualClock

NEVER = BreakerSettings(failures=10_000, min_calls=1_000_000)
"""Breakers that stay closed, so that only the others are the measure."""
EJECTED = 3


class Pool:
    """Replicas of one pool, each with its share of failures and its latency."""

    def __init__(self, count: int, outliers: OutlierSettings | None = None) -> None:
        self.clock = VirtualClock()
        self.rng = random.Random(7)
        self.told: list[tuple[str, str, str]] = []
        self.replicas = Replicas(
            self.clock, self.rng, lambda *words: self.told.append(words), breaker=NEVER, outliers=outliers
        )
        self.names = [f"r{place}" for place in range(count)]
        self.replicas.use(dict.fromkeys(self.names, "pool"))
        self.faults = dict.fromkeys(self.names, 0.0)
        self.latency = dict.fromkeys(self.names, 0.2)

    def serve(self, seconds: float, rate: float = 50.0) -> dict[str, int]:
        """Calls at this rate, each to one of those that are usable; how many each got."""
        got = dict.fromkeys(self.names, 0)
        for _ in range(int(seconds * rate)):
            self.clock.jump(1 / rate)
            usable = [name for name in self.names if self.replicas.usable(name)]
            name = self.rng.choice(usable) if usable else self.replicas.least_bad(self.names)
            one = self.replicas.enter(name, anyway=True)
            assert one is not None
            got[name] += 1
            bad = self.rng.random() < self.faults[name]
            one.ended(Upstream("x") if bad else None, self.latency[name])
        return got

    def ejected(self) -> list[str]:
        return [name for name, number in self.replicas.states().items() if number == EJECTED]


def test_one_bad_among_good_ones_is_ejected_and_no_other() -> None:
    pool = Pool(3)
    pool.faults["r1"] = 0.3
    pool.serve(6.0)
    assert pool.ejected() == ["r1"]
    at, state, why = pool.told[0]
    assert (at, state) == ("r1", "ejected")
    assert "of its calls fail" in why
    assert pool.replicas.why_not("r1") == why
    assert not pool.replicas.usable("r1")
    assert pool.serve(2.0)["r1"] == 0


def test_one_that_has_mended_comes_back_slowly_and_stays() -> None:
    pool = Pool(3)
    pool.faults["r1"] = 0.5
    pool.serve(4.0)
    assert pool.ejected() == ["r1"]
    pool.faults["r1"] = 0.0
    pool.clock.jump(10.0)
    assert pool.ejected() == []
    first = pool.serve(2.0, rate=300.0)
    assert 0 < first["r1"] < 0.6 * first["r0"]
    pool.clock.jump(10.0)
    later = pool.serve(4.0, rate=300.0)
    assert later["r1"] > 0.7 * later["r0"]
    assert [state for at, state, _ in pool.told if at == "r1"] == ["ejected", "closed"]


def test_a_returning_one_is_usable_for_a_growing_part_of_the_asks() -> None:
    pool = Pool(3)
    pool.faults["r1"] = 1.0
    pool.serve(4.0)
    until = pool.replicas.again_in("r1")
    pool.clock.jump(until)
    shares = []
    for _ in range(5):
        shares.append(sum(pool.replicas.usable("r1") for _ in range(2000)) / 2000)
        pool.clock.jump(2.5)
    assert shares[0] == pytest.approx(FIRST_SHARE, abs=0.03)
    assert shares[1:4] == pytest.approx([0.25, 0.5, 0.75], abs=0.05)
    assert shares[4] == 1.0


def test_each_further_ejection_is_longer_up_to_the_cap() -> None:
    pool = Pool(3, OutlierSettings(eject_s=10.0, eject_max_s=25.0, return_s=0.0))
    pool.faults["r1"] = 1.0
    spans = []
    for _ in range(4):
        while not pool.ejected():
            pool.serve(0.5)
        spans.append(pool.replicas.again_in("r1"))
        pool.clock.jump(25.0)
    assert spans == pytest.approx([10.0, 20.0, 25.0, 25.0], abs=0.6)


def test_a_slow_one_is_the_balancer_s_unless_it_is_extreme() -> None:
    pool = Pool(3)
    pool.latency["r1"] = 0.9  # 4.5 times as slow
    pool.serve(10.0)
    assert pool.ejected() == []
    pool.latency["r1"] = 8.0
    pool.serve(10.0)
    assert pool.ejected() == ["r1"]
    assert "the others after 0.2 s" in (pool.replicas.why_not("r1") or "")


def test_where_all_are_as_bad_none_is_ejected() -> None:
    pool = Pool(4)
    pool.faults = dict.fromkeys(pool.names, 0.4)
    pool.serve(30.0)
    assert pool.ejected() == []


def test_a_pool_of_one_and_ejection_switched_off_eject_nobody() -> None:
    for pool in Pool(1), Pool(3, OutlierSettings(max_share=0.0)):
        pool.faults["r0"] = 1.0
        pool.serve(20.0)
        assert pool.ejected() == []


def test_the_last_one_that_takes_calls_is_not_ejected() -> None:
    pool = Pool(2)
    pool.serve(3.0)
    pool.replicas.failing("r0", "no answer")
    pool.faults["r1"] = 1.0
    pool.serve(20.0)
    assert pool.ejected() == []


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from([0.1, 2.0, 30.0])), min_size=1, max_size=9),
    st.integers(0, 2**32),
)
def test_never_more_than_half_are_ejected(kinds: list[tuple[float, float]], seed: int) -> None:
    pool = Pool(len(kinds))
    pool.rng.seed(seed)
    for name, (faults, latency) in zip(pool.names, kinds, strict=True):
        pool.faults[name], pool.latency[name] = faults, latency
    for _ in range(10):
        pool.serve(2.0)
        assert len(pool.ejected()) <= len(kinds) / 2


def test_times_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="Raise it"):
        OutlierSettings(eject_s=9.0, eject_max_s=3.0)

"""Keys stay where they are: over processes, and while other replicas come and go."""

import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.backends.balance.demand import Demand
from headgate.backends.balance.keys import Ring, fingerprint, rendezvous
from tests.backends.balance.parts import balancer, targets

NAMES = st.lists(st.text("abcdef-0123", min_size=1, max_size=8), min_size=2, max_size=8, unique=True)
KEYS = [fingerprint(f"session {number}") for number in range(4_000)]


def _seeds(names: list[str]) -> list[int]:
    return [fingerprint(name) for name in names]


@settings(max_examples=50, deadline=None)
@given(names=NAMES, weights=st.lists(st.sampled_from([0.5, 1.0, 4.0]), min_size=8, max_size=8))
def test_who_leaves_moves_only_its_own_keys(names: list[str], weights: list[float]) -> None:
    seeds, rest = _seeds(names), _seeds(names[:-1])
    for key in KEYS[:100]:
        before = rendezvous(key, seeds, weights[: len(names)])
        after = rendezvous(key, rest, weights[: len(rest)])
        if len(set(weights[: len(names)])) == len(set(weights[: len(rest)])):
            assert [place for place in before if place != len(rest)] == after


@settings(max_examples=30, deadline=None)
@given(names=NAMES)
def test_the_ring_loses_nobody_and_moves_only_keys_of_the_one_that_left(names: list[str]) -> None:
    seeds = _seeds(names)
    whole, without = Ring(seeds, [1.0] * len(seeds)), Ring(seeds[:-1], [1.0] * (len(seeds) - 1))
    for key in KEYS[:60]:
        around = list(whole.walk(key))
        assert sorted(around) == list(range(len(names)))
        assert [place for place in around if place != len(names) - 1] == list(without.walk(key))


def test_rendezvous_shares_the_keys_by_weight() -> None:
    found = Counter(rendezvous(key, _seeds(["a", "b", "c"]), [6.0, 3.0, 1.0])[0] for key in KEYS)
    assert [found[place] / len(KEYS) for place in range(3)] == pytest.approx([0.6, 0.3, 0.1], abs=0.03)
    found = Counter(rendezvous(key, _seeds([f"r{place}" for place in range(64)]), [1.0] * 64)[0] for key in KEYS)
    assert all(30 <= found[place] <= 100 for place in range(64)), found
    seconds = Counter(tuple(rendezvous(key, _seeds(["a", "b", "c"]), [1.0] * 3)) for key in KEYS)
    assert len(seconds) == 6, "who comes second is as much by chance as who comes first"
    assert all(500 <= found <= 850 for found in seconds.values()), seconds


def test_the_ring_shares_the_keys_by_weight() -> None:
    ring = Ring(_seeds(["a", "b", "c"]), [6.0, 3.0, 1.0])
    found = Counter(next(ring.walk(key)) for key in KEYS)
    assert [found[place] / len(KEYS) for place in range(3)] == pytest.approx([0.6, 0.3, 0.1], abs=0.08)


def test_a_session_keeps_to_its_replica_and_has_the_same_second_choice() -> None:
    under, _ = balancer()
    among = targets(6)
    for number in range(100):
        demand = Demand(1_000, 100, (number,), f"session {number}")
        first, second, *_ = under.order("sticky", among, demand)
        under.begin(first, demand)
        assert under.order("sticky", among, demand)[0] == first
        assert under.order("sticky", list(reversed(among)), demand)[0] == first
        others = [target for target in among if target != first]
        assert under.order("sticky", others, demand)[0] == second
        assert under.order("sticky", [*among, *targets(8)[6:]], demand)[0] in {first, *targets(8)[6:]}


def test_two_processes_send_the_same_prompt_to_the_same_replica() -> None:
    """Neither knows of the other; hash seeds differ."""
    code = (
        "import random\n"
        "from headgate.backends.balance.balancer import Balancer\n"
        "from headgate.backends.balance.demand import Demand\n"
        "from headgate.core.clock import SystemClock\n"
        "from headgate.core.target import Target\n"
        "under = Balancer(SystemClock(), random.Random())\n"
        "among = [Target('p', 'm', 1.0, f'p-{n}') for n in range(8)]\n"
        "for n in range(50):\n"
        "    demand = Demand(5000, 100, (1, n, 70 + n), f's{n}')\n"
        "    print(under.order('prefix', among, demand)[0].at, under.order('sticky', among, demand)[0].at)\n"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, timeout=60, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(told) == 1
    assert len(set(told.pop().splitlines())) > 20

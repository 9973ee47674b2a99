"""What holds for every balance, whatever comes: nobody lost, nothing below zero, shares as the weights say."""

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.backends.balance.balancer import BOUND
from headgate.backends.balance.demand import Demand
from headgate.backends.balance.loads import OUTPUT_WEIGHT, Load
from headgate.backends.balance.server_metrics import ServerLoad
from headgate.core.rules import Balance
from headgate.core.target import Target
from tests.backends.balance.parts import balancer, first_choices, targets

BALANCES: tuple[Balance, ...] = get_args(Balance)
DEMANDS = st.builds(
    Demand,
    prompt_tokens=st.integers(0, 50_000),
    output_tokens=st.integers(0, 5_000),
    blocks=st.lists(st.integers(0, 12), max_size=6).map(tuple),
    session=st.none() | st.text(max_size=5),
)
STEPS = st.lists(
    st.tuples(st.sampled_from(["call", "call", "call", "first", "end", "hear", "forget", "renew"]), st.integers(0, 9)),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(
    balance=st.sampled_from(BALANCES),
    weights=st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.0, 3.0]), max_size=6),
    steps=STEPS,
    demands=st.lists(DEMANDS, min_size=1, max_size=5),
)
def test_no_target_is_lost_and_nothing_is_ever_below_zero(
    balance: Balance, weights: list[float], steps: list[tuple[str, int]], demands: list[Demand]
) -> None:
    under, clock = balancer()
    among = targets(len(weights), *weights)
    loads: list[Load] = []
    for number, (what, which) in enumerate(steps):
        clock.jump(which)
        demand = demands[number % len(demands)]
        if what == "call":
            ordered = under.order(balance, among, demand)
            assert sorted(target.at for target in ordered) == sorted(target.at for target in among)
            out = [target.weight <= 0 for target in ordered]
            assert out == sorted(out), "those of weight 0 come last"
            loads += [under.begin(target, demand) for target in ordered[:1]]
        elif what == "hear" and among:
            under.hear(among[which % len(among)].at, ServerLoad(which, which))
        elif what == "forget":
            under.forget({target.at for target in among[which % 3 :]})
        elif what == "renew":
            under.renew(f"pool-{which}")
        elif loads:
            load = loads[which % len(loads)]
            load.first_piece() if what == "first" else load.end(which)
        for held in under.loads().values():
            assert min(held.requests, held.prompt_tokens, held.output_tokens) >= 0
    for load in loads:
        load.end()
        load.end()
        load.first_piece()
    assert all(held.requests == held.prompt_tokens == held.output_tokens == 0 for held in under.loads().values())


@pytest.mark.parametrize("balance", BALANCES)
def test_of_none_comes_none_and_of_one_that_one(balance: Balance) -> None:
    under, _ = balancer()
    only = targets(1)
    assert under.order(balance, [], Demand(10, 10)) == []
    assert under.order(balance, only, Demand(10, 10)) == only
    off = Target("pool", "m", 0.0)
    assert under.order(balance, [off, *only], Demand(10, 10)) == [*only, off]


@pytest.mark.parametrize("balance", BALANCES)
@pytest.mark.parametrize("open_calls", [0, 40])
def test_equal_replicas_get_equal_shares(balance: Balance, open_calls: int) -> None:
    found = first_choices(balance, targets(8), 4_000, open_calls=open_calls)
    off = 0.4 if balance == "prefix" and not open_calls else 0.2  # a ring of 64 points each is that uneven
    assert all(500 * (1 - off) <= found[f"pool-{place}"] <= 500 * (1 + off) for place in range(8)), found


@pytest.mark.parametrize("balance", ["tokens_in_flight", "weighted", "sticky"])
@pytest.mark.parametrize("open_calls", [0, 2, 60])
def test_weights_are_kept_to_idle_or_busy(balance: Balance, open_calls: int) -> None:
    found = first_choices(balance, targets(3, 6, 3, 1), 5_000, open_calls=open_calls)
    parts = [found[f"pool-{place}"] / 5_000 for place in range(3)]
    assert parts == pytest.approx([0.6, 0.3, 0.1], abs=0.09 if balance == "tokens_in_flight" else 0.02)


@pytest.mark.parametrize("balance", ["least_requests", "predicted_cost", "queue_depth", "prefix"])
def test_weights_are_kept_to_by_the_load_while_there_is_some(balance: Balance) -> None:
    found = first_choices(balance, targets(3, 6, 3, 1), 5_000, open_calls=100)
    parts = [found[f"pool-{place}"] / 5_000 for place in range(3)]
    assert parts == pytest.approx([0.6, 0.3, 0.1], abs=0.06)


def test_round_robin_takes_turns_whatever_each_route_does() -> None:
    under, _ = balancer()
    one, other = targets(3), targets(5)[3:]
    turns = []
    for _ in range(6):
        turns.append(under.order("round_robin", one, Demand(1, 1))[0].at)
        under.order("round_robin", other, Demand(1, 1))
    assert turns == ["pool-0", "pool-1", "pool-2"] * 2


def test_the_less_busy_comes_first_by_requests_and_by_tokens() -> None:
    under, clock = balancer()
    many, few = targets(2)
    under.order("least_requests", [many, few], Demand(1, 1))
    clock.jump(20.0)
    for _ in range(3):
        under.begin(few, Demand(100, 10))
    under.begin(many, Demand(50_000, 10))
    assert under.order("least_requests", [many, few], Demand(100, 10))[0] == many
    assert under.order("tokens_in_flight", [many, few], Demand(100, 10))[0] == few
    assert under.order("predicted_cost", [many, few], Demand(100, 10))[0] == few


@settings(max_examples=50, deadline=None)
@given(
    calls=st.lists(st.tuples(st.integers(1, 30), st.integers(1, 20_000)), min_size=1, max_size=60),
    count=st.integers(2, 12),
)
def test_the_bound_of_prefix_holds(calls: list[tuple[int, int]], count: int) -> None:
    """Nobody gets a call while it has more than the bound allows: so nobody ever has more than that and one call."""
    under, clock = balancer()
    among = targets(count)
    under.order("prefix", among, Demand(1, 1))
    clock.jump(20.0)
    for family, tokens in calls:
        demand = Demand(tokens, 100, (1, 1_000 + family, clock.monotonic().__hash__() + tokens))
        clock.jump(0.1)
        works = {target.at: 0.0 for target in among}
        works |= {at: held.prompt_tokens + OUTPUT_WEIGHT * held.output_tokens for at, held in under.loads().items()}
        chosen = under.order("prefix", among, demand)[0]
        assert works[chosen.at] <= BOUND * sum(works.values()) / count + 1e-6
        under.begin(chosen, demand)

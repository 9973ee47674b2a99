"""A balancer under a clock that stands still, and targets to choose from."""

import random
from collections import Counter

from headgate.backends.balance.balancer import Balancer
from headgate.backends.balance.demand import Demand
from headgate.core.rules import Balance
from headgate.core.target import Target
from tests.clock import VirtualClock


def targets(count: int, *weights: float) -> list[Target]:
    """`weights` of the first ones; the others have 1."""
    return [
        Target("pool", "m", weights[place] if place < len(weights) else 1.0, f"pool-{place}") for place in range(count)
    ]


def balancer(seed: int = 1) -> tuple[Balancer, VirtualClock]:
    clock = VirtualClock()
    return Balancer(clock, random.Random(seed)), clock


def first_choices(
    balance: Balance, among: list[Target], calls: int, *, open_calls: int = 0, demand: Demand | None = None
) -> Counter[str]:
    """How many of so many calls each replica gets, `open_calls` of them being under way at any time.

    They begin when no replica is new any more.
    """
    under, clock = balancer()
    under.order(balance, among, demand or Demand(100, 100))
    clock.jump(20.0)
    found: Counter[str] = Counter()
    loads = []
    rng = random.Random(3)
    for number in range(calls):
        asked = demand or Demand(rng.randint(1, 2_000), 100, session=f"s{number}")
        target = under.order(balance, among, asked)[0]
        found[target.at] += 1
        loads.append(under.begin(target, asked))
        if len(loads) > open_calls:
            loads.pop(rng.randrange(len(loads))).end()
    for load in loads:
        load.end()
    assert all(not (held.requests or held.prompt_tokens or held.output_tokens) for held in under.loads().values())
    return found

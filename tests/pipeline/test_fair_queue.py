"""Who goes next: shares by weight, first come first served within a tenant, classes with ageing, nobody for ever."""

import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.core.policy import PRIORITIES, Priority
from headgate.pipeline.fair_queue import REMEMBERED_TENANTS, FairQueue

NO_AGEING = 1e9
TENANTS = ["a", "b", "c"]
calls = st.tuples(
    st.sampled_from(TENANTS), st.integers(1, 1_000), st.sampled_from(PRIORITIES), st.floats(0, 5, allow_subnormal=False)
)


def drain(queue: FairQueue[int], now: float = 0.0) -> list[int]:
    order = []
    while (item := queue.pop(now)) is not None:
        order.append(item)
    return order


@given(st.lists(st.one_of(calls, st.none(), st.integers(0, 50)), max_size=120))
def test_every_call_comes_out_once_and_equal_input_gives_equal_order(
    told: list[tuple[str, int, Priority, float] | int | None],
) -> None:
    """A tuple pushes, None pops, a number removes that call."""

    def play() -> list[int | None]:
        queue: FairQueue[int] = FairQueue(3.0)
        out: list[int | None] = []
        now, pushed, inside = 0.0, 0, set[int]()
        for each in told:
            if each is None:
                popped = queue.pop(now)
                assert (popped is not None) == bool(inside)  # work conserving
                inside.discard(-1 if popped is None else popped)
                out.append(popped)
            elif isinstance(each, int):
                assert queue.remove(each) == (each in inside)
                inside.discard(each)
            else:
                tenant, cost, priority, later = each
                now += later
                queue.push(tenant, 1.0, cost, priority, now, pushed)
                inside.add(pushed)
                pushed += 1
            assert len(queue) == len(inside)
        rest = drain(queue, now)
        assert set(rest) == inside
        assert len(rest) == len(inside)
        return out + list(rest)

    assert play() == play()


@given(st.lists(calls, max_size=80))
def test_a_tenants_calls_of_one_class_keep_their_order(told: list[tuple[str, int, Priority, float]]) -> None:
    queue: FairQueue[int] = FairQueue(NO_AGEING)
    for item, (tenant, cost, priority, _) in enumerate(told):
        queue.push(tenant, 1.0, cost, priority, 0.0, item)
    seen: dict[tuple[str, Priority], list[int]] = defaultdict(list)
    for item in drain(queue):
        seen[told[item][0], told[item][2]].append(item)
    assert all(items == sorted(items) for items in seen.values())
    # And the classes are strict where nobody is old.
    queue = FairQueue(NO_AGEING)
    for item, (tenant, cost, priority, _) in enumerate(told):
        queue.push(tenant, 1.0, cost, priority, 0.0, item)
    ranks = [PRIORITIES.index(told[item][2]) for item in drain(queue)]
    assert ranks == sorted(ranks)


@settings(max_examples=60)
@given(
    st.lists(st.floats(0.1, 20), min_size=2, max_size=6),
    st.integers(0, 10_000),
    st.integers(0, 400),
    st.integers(1, 400),
)
def test_over_any_interval_the_served_share_is_by_weight_within_a_maximum_cost(
    weights: list[float], seed: int, start: int, span: int
) -> None:
    """Goyal, Vin, Cheng 1996, theorem 1: |W_f/w_f - W_g/w_g| <= max_f/w_f + max_g/w_g while both are backlogged."""
    rng = random.Random(seed)
    queue: FairQueue[int] = FairQueue(NO_AGEING)
    most, costs, pushed = 500, list[int](), 0
    owner: list[int] = []

    def push(tenant: int) -> None:
        nonlocal pushed
        cost = rng.randint(1, most)
        queue.push(str(tenant), weights[tenant], cost, "normal", 0.0, pushed)
        owner.append(tenant)
        costs.append(cost)
        pushed += 1

    for tenant in range(len(weights)):
        for _ in range(3):
            push(tenant)
    served = [0.0] * len(weights)
    for turn in range(start + span):
        item = queue.pop(0.0)
        assert item is not None
        push(owner[item])
        if turn >= start:
            served[owner[item]] += costs[item]
    for f, w_f in enumerate(weights):
        for g, w_g in enumerate(weights):
            assert abs(served[f] / w_f - served[g] / w_g) <= most / w_f + most / w_g + 1e-6


def test_a_tenant_that_was_away_has_no_credit_and_owes_nothing() -> None:
    queue: FairQueue[str] = FairQueue(NO_AGEING)
    for place in range(50):
        queue.push("busy", 1.0, 10, "normal", 0.0, f"busy{place}")
    for _ in range(40):
        queue.pop(0.0)
    for place in range(20):
        queue.push("back", 1.0, 10, "normal", 0.0, f"back{place}")
    first = [str(queue.pop(0.0))[:4] for _ in range(20)]
    assert 9 <= first.count("busy") <= 11
    while queue.pop(0.0) is not None:
        pass
    # After an empty queue nobody owes for what it had alone.
    for place in range(4):
        queue.push("busy", 1.0, 10, "normal", 0.0, f"again{place}")
        queue.push("new", 1.0, 10, "normal", 0.0, f"new{place}")
    assert str(queue.pop(0.0)) == "again0"


def test_a_call_that_leaves_costs_its_tenant_nothing() -> None:
    queue: FairQueue[str] = FairQueue(NO_AGEING)
    for place in range(100):
        queue.push("a", 1.0, 1_000, "normal", 0.0, f"gone{place}")
    queue.push("a", 1.0, 10, "normal", 0.0, "stays")
    queue.push("b", 1.0, 10, "normal", 0.0, "b")
    for place in range(100):
        assert queue.remove(f"gone{place}")
    assert not queue.remove("gone0")
    assert queue.pop(0.0) == "stays"
    assert queue.pop(0.0) == "b"
    assert queue.pop(0.0) is None


def test_ageing_lifts_a_class_per_span_and_no_further_than_the_top() -> None:
    queue: FairQueue[str] = FairQueue(10.0)
    queue.push("a", 1.0, 1, "batch", 0.0, "batch")
    queue.push("b", 1.0, 1, "normal", 5.0, "normal")
    queue.push("b", 1.0, 1, "normal", 5.0, "normal2")
    assert queue.pop(9.9) == "normal"
    queue.push("c", 1.0, 1, "interactive", 12.0, "interactive")
    assert queue.pop(12.0) == "interactive"
    # Normal since 12 s at the latest; interactive 10 s after that.
    for turn in range(100):
        queue.push(f"new{turn}", 1.0, 1, "interactive", 22.0, f"new{turn}")
    assert {queue.pop(22.0) for _ in range(102)} >= {"batch", "normal2"}


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(PRIORITIES), st.integers(1, 3))
def test_nothing_waits_longer_than_a_bound(seed: int, priority: Priority, own_ahead: int) -> None:
    """Against endless calls of a higher class: two spans of ageing, its own tenant's work before it, by its share."""
    rng = random.Random(seed)
    ageing, most, others = 20.0, 5, ["x", "y", "z"]
    queue: FairQueue[str] = FairQueue(ageing)
    pushed = 0
    for place in range(own_ahead):
        queue.push("me", 1.0, most, priority, 0.0, f"me{place}")
    queue.push("me", 1.0, most, priority, 0.0, "mine")
    owners = {}
    for other in others * 4:
        queue.push(other, 1.0, rng.randint(1, most), "interactive", 0.0, f"{other}{pushed}")
        owners[f"{other}{pushed}"] = other
        pushed += 1
    now = 0.0
    while (item := queue.pop(now)) != "mine":
        assert item is not None
        now += most  # served at one unit of work per second, at worst
        if item in owners:
            queue.push(owners[item], 1.0, rng.randint(1, most), "interactive", now, f"again{pushed}")
            owners[f"again{pushed}"] = owners[item]
            pushed += 1
    classes = PRIORITIES.index(priority)
    calls_before = (own_ahead + 2) * most * (len(others) + 1) + len(others)  # costs of 1 at least: calls, not work
    assert now <= classes * (ageing + most) + calls_before * most


def test_ahead_says_what_really_comes_first() -> None:
    rng = random.Random(4)
    for _ in range(200):
        queue: FairQueue[int] = FairQueue(NO_AGEING)
        costs = {}
        for item in range(rng.randrange(2, 60)):
            costs[item] = rng.randint(90, 110)
            tenant = rng.choice("aaaabc")
            queue.push(tenant, 1.0, costs[item], rng.choice(PRIORITIES), 0.0, item)
        for _ in range(rng.randrange(len(costs) - 1)):
            queue.pop(0.0)
        last = max(item for item in costs if item in queue)
        told = queue.ahead(last)
        order = drain(queue)
        before = order[: order.index(last)]
        assert abs(told.work - sum(costs[item] for item in before)) <= 3 * 110
        assert abs(told.calls - len(before)) <= 3


def test_of_a_full_queue_the_newest_call_of_whoever_has_most_gives_way() -> None:
    queue: FairQueue[str] = FairQueue(NO_AGEING)
    for place in range(8):
        queue.push("flood", 1.0, 1, "interactive", 0.0, f"flood{place}")
    queue.push("modest", 1.0, 10_000, "batch", 0.0, "modest")
    queue.push("heavy", 10.0, 1, "normal", 0.0, "heavy")
    assert queue.gives_way("flood", 1.0, "interactive") is None
    assert queue.gives_way("modest", 1.0, "interactive") == "flood7"
    assert queue.gives_way("new", 1.0, "batch") == "flood7"
    assert "flood7" in queue
    # A tenant's own lower class makes room for its higher one; a heavier tenant may have more waiting.
    assert waiting_calls("a", ["batch", "batch"]).gives_way("a", 1.0, "interactive") == "a1"
    assert waiting_calls("a", ["batch", "interactive"]).gives_way("a", 1.0, "batch") is None
    assert waiting_calls("a", ["batch"] * 5).gives_way("b", 0.1, "interactive") is None


def waiting_calls(tenant: str, priorities: list[Priority]) -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue(NO_AGEING)
    for place, priority in enumerate(priorities):
        queue.push(tenant, 1.0, 1, priority, 0.0, f"{tenant}{place}")
    return queue


def test_what_it_remembers_of_tenants_is_bounded() -> None:
    queue: FairQueue[int] = FairQueue(NO_AGEING)
    queue.push("first", 1.0, 1_000_000, "normal", 0.0, -1)
    queue.push("first", 1.0, 1_000_000, "normal", 0.0, -2)
    queue.pop(0.0)
    for item in range(3 * REMEMBERED_TENANTS):
        queue.push(f"tenant{item}", 1.0, 1, "normal", 0.0, item)
        if item % 2:
            queue.remove(item)
        else:
            assert queue.pop(0.0) == item
    held = queue._classes[1]
    assert len(held.lanes) <= REMEMBERED_TENANTS + 2
    assert len(held._heap) <= REMEMBERED_TENANTS + 2


def test_what_makes_no_sense_is_refused() -> None:
    queue: FairQueue[str] = FairQueue(1.0)
    queue.push("a", 1.0, 1, "normal", 0.0, "x")
    for tenant, weight, cost, item in (("a", 1.0, 1, "x"), ("a", 0.0, 1, "y"), ("a", 1.0, 0, "y"), ("a", -1.0, 1, "y")):
        with pytest.raises(ValueError, match="item"):
            queue.push(tenant, weight, cost, "normal", 0.0, item)
    assert len(queue) == 1

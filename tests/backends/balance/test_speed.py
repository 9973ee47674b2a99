"""Slow replicas are found by the clock and get little; new ones begin slowly; what servers say counts while fresh."""

from collections import Counter

import pytest

from bench.routing import Maker
from bench.routing_model import Replay
from bench.routing_trace import compressed, conversations, singles
from headgate.backends.balance.demand import Demand
from headgate.backends.balance.loads import SLOW_START_S
from headgate.backends.balance.server_metrics import ServerLoad
from headgate.core.rules import Balance
from tests.backends.balance.parts import balancer, targets

ASKED, SHORT = Demand(1_000, 100), Demand(10, 20)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("maker", [conversations, singles])
def test_a_replica_that_is_five_times_slower_gets_a_fifth_of_its_fair_share_or_less(maker: Maker, load: float) -> None:
    speed = 7.2 * 20_000
    trace = compressed(maker(5, 2.0, 600.0), load * speed)
    balances: tuple[Balance, ...] = ("tokens_in_flight", "predicted_cost")
    for balance in balances:
        found = Replay(balance, (5.0, *(1.0,) * 7)).run(trace, settle_s=30.0)
        assert found.share[0] <= 0.2 / 8


def test_a_replica_that_recovers_is_found_out_and_gets_its_share_again() -> None:
    under, clock = balancer()
    among = targets(4)
    counts: Counter[str] = Counter()

    def serve(calls: int, slow: float) -> None:
        counts.clear()
        for _ in range(calls):
            target = under.order("tokens_in_flight", among, ASKED)[0]
            counts[target.at] += 1
            load = under.begin(target, ASKED)
            factor = slow if target.at == "pool-0" else 1.0
            clock.jump(0.1 * factor)
            load.first_piece()
            clock.jump(0.4 * factor)
            load.end(100)

    serve(400, 5.0)
    serve(400, 5.0)
    assert counts["pool-0"] <= 0.2 * 100
    assert under.loads()["pool-0"].slowness > 1.2
    serve(600, 1.0)
    serve(400, 1.0)
    assert counts["pool-0"] >= 50
    assert under.loads()["pool-0"].slowness == pytest.approx(1.0, abs=0.3)


@pytest.mark.parametrize(("slow_again", "least", "most"), [(False, 200, 320), (True, 0, 20)])
def test_a_pause_costs_a_replica_its_calls_for_seconds_and_being_slow_for_good(
    slow_again: bool, least: int, most: int
) -> None:
    under, clock = balancer()
    pool = targets(4)
    counts: Counter[str] = Counter()

    def serve(number: int, factor: float) -> None:
        """So many calls, one each 25 ms: as many in flight as there are."""
        counts.clear()
        for _ in range(number):
            target = under.order("tokens_in_flight", pool, SHORT)[0]
            counts[target.at] += 1
            load = under.begin(target, SHORT)
            clock.jump(0.025 * (factor if target.at == "pool-0" else 1.0))
            load.first_piece()
            clock.jump(0.025 * (factor if target.at == "pool-0" else 1.0))
            load.end(20)

    serve(400, 1.0)
    held = [under.begin(pool[0], SHORT) for _ in range(6)]
    clock.jump(0.6)
    for load in held:
        load.first_piece()
        serve(5, 1.0)
        load.end(20)
    assert under.loads()["pool-0"].slowness > 2
    serve(400, 5.0 if slow_again else 1.0)
    serve(1_000, 5.0 if slow_again else 1.0)
    assert least <= counts["pool-0"] <= most


def test_a_slow_replica_is_found_by_whole_answers_too() -> None:
    under, clock = balancer()
    slow, other = targets(2)
    for _ in range(20):
        for target, seconds in ((slow, 5.0), (other, 1.0)):
            load = under.begin(target, ASKED)
            clock.jump(seconds)
            load.end(100)
    assert under.loads()[slow.at].slowness > 3 * under.loads()[other.at].slowness
    assert under.order("tokens_in_flight", [slow, other], ASKED)[0] == other


def test_what_fails_says_nothing_of_speed() -> None:
    under, clock = balancer()
    broken, other = targets(2)
    for _ in range(20):
        load = under.begin(other, ASKED)
        clock.jump(1.0)
        load.end(100)
        under.begin(broken, ASKED).end()
    assert under.loads()[broken.at].slowness == 1.0


def test_what_is_known_of_a_busy_replica_does_not_fade() -> None:
    """No news of it is no good news: it may be too slow to give any."""
    under, clock = balancer()
    slow, other = targets(2)
    for _ in range(20):
        for target, seconds in ((slow, 1.0), (other, 0.1)):
            load = under.begin(target, ASKED)
            clock.jump(seconds)
            load.first_piece()
            load.end(100)
    held = under.begin(slow, ASKED)
    before = under.loads()[slow.at].slowness
    clock.jump(600.0)
    assert under.loads()[slow.at].slowness == before > 1.5
    held.end()
    assert under.loads()[slow.at].slowness < before


@pytest.mark.parametrize("balance", ["tokens_in_flight", "predicted_cost", "least_requests", "queue_depth", "prefix"])
@pytest.mark.parametrize("way", ["new", "renewed", "absent"])
def test_a_replica_that_is_new_or_back_gets_little_at_first(balance: Balance, way: str) -> None:
    under, clock = balancer()
    among = targets(4)
    old, newcomer = among[:3], among[3]
    under.order(balance, old if way == "new" else among, ASKED)
    for _ in range(10):
        clock.jump(4.0)
        under.order(balance, old if way in {"new", "absent"} else among, ASKED)
    loads = [under.begin(target, ASKED) for target in old * 8]
    if way == "renewed":
        under.renew(newcomer.at)

    def share() -> int:
        found = 0
        for number in range(32):
            demand = Demand(1_000, 100, (1, 5_000 + number))
            chosen = under.order(balance, among, demand)[0]
            found += chosen == newcomer
            loads.append(under.begin(chosen, demand))
        return found

    at_once = share()
    assert at_once <= 6, "no herd runs to it"
    clock.jump(SLOW_START_S + 1)
    assert share() > at_once
    for load in loads:
        load.end()


def test_what_servers_say_of_themselves_counts_while_it_is_fresh() -> None:
    under, clock = balancer()
    one, two = targets(2)
    under.order("queue_depth", [one, two], ASKED)
    clock.jump(20.0)
    under.hear(one.at, ServerLoad(waiting=6, running=20))
    under.hear(two.at, ServerLoad(waiting=0, running=30))
    assert under.order("queue_depth", [one, two], ASKED)[0] == two
    ours = [under.begin(two, ASKED) for _ in range(60)]
    assert under.order("queue_depth", [one, two], ASKED)[0] == one, "what we sent since is added"
    for load in ours[3:]:
        load.end()
    assert under.order("queue_depth", [one, two], ASKED)[0] == two, "and what ended is taken off"
    clock.jump(120.0)
    assert under.order("queue_depth", [one, two], ASKED)[0] == one, "old news is none: two has our three calls"


def test_what_is_forgotten_leaves_nothing_and_its_calls_end_quietly() -> None:
    under, _ = balancer()
    among = targets(3)
    loads = [under.begin(target, Demand(1_000, 100, (1, 2))) for target in among]
    under.hear(among[0].at, ServerLoad(1, 1))
    under.forget({among[2].at})
    assert set(under.loads()) == {among[2].at}
    fresh = under.begin(among[0], ASKED)
    for load in loads:
        load.first_piece()
        load.end(50)
    assert under.loads()[among[0].at].requests == 1
    fresh.end()
    assert all(held.requests == 0 for held in under.loads().values())

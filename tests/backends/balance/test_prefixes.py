"""What is remembered of prompts: bounded, right about who holds what, and quick to learn what all share."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.backends.balance.demand import Demand
from headgate.backends.balance.prefixes import LOOK_AHEAD, SURE, WINDOW, Preamble, Prefixes
from headgate.core.rules import Balance
from tests.backends.balance.parts import balancer, targets

CHAINS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=1, max_size=30)


def _chain(steps: list[int]) -> list[int]:
    """Blocks that say all that came before them, as real ones do."""
    return [hash(tuple(steps[: depth + 1])) for depth in range(len(steps))]


@settings(max_examples=100, deadline=None)
@given(chains=CHAINS, most=st.integers(1, 20))
def test_no_replica_is_remembered_beyond_its_bound_and_the_index_agrees(chains: list[list[int]], most: int) -> None:
    prefixes = Prefixes(most)
    slots = [prefixes.slot() for _ in range(3)]
    for number, steps in enumerate(chains):
        blocks = _chain(steps)
        prefixes.remember(slots[number % 3], blocks)
        assert len(prefixes) <= 3 * most
        for probe in (blocks, _chain(steps[::-1])):
            found = prefixes.matches(probe)
            assert found == {slot: depth for slot in slots if (depth := prefixes.match(slot, probe))}
    for slot in slots:
        prefixes.drop(slot)
    assert len(prefixes) == 0
    assert prefixes.matches(_chain(chains[0])) == {}


def test_an_end_is_forgotten_before_its_beginning() -> None:
    prefixes = Prefixes(4)
    slot = prefixes.slot()
    prefixes.remember(slot, [1, 2, 3, 4])
    prefixes.remember(slot, [9])
    assert prefixes.match(slot, [1, 2, 3, 4]) == 3


def test_slots_are_given_again_and_what_was_dropped_is_not_remembered() -> None:
    prefixes = Prefixes()
    first, second = prefixes.slot(), prefixes.slot()
    prefixes.remember(first, [1, 2])
    prefixes.drop(first)
    prefixes.remember(first, [1, 2])
    assert prefixes.matches([1, 2]) == {}
    assert prefixes.slot() == first != second
    assert prefixes.match(first, [1, 2]) == 0


def test_a_shared_beginning_is_learned_however_long_and_forgotten_when_it_is_gone() -> None:
    preamble = Preamble()
    shared = list(range(-30, 0))

    def learn(blocks: list[int]) -> None:
        preamble.learn(blocks, preamble.shared(blocks, 1 / 8))

    for number in range(4 * SURE * (1 + len(shared) // LOOK_AHEAD)):
        learn([*shared, 1_000 + number, 5_000 + number])
    assert preamble.shared([*shared, 1, 2], 1 / 8) == len(shared)
    assert preamble.shared([7, *shared], 1 / 8) == 0
    for number in range(2 * WINDOW + 1):
        learn([100_000 + number])
    assert preamble.shared([*shared, 1, 2], 1 / 8) == 0
    assert len(preamble._now) + len(preamble._before) <= 2 * WINDOW * (LOOK_AHEAD + 1)


def test_few_prompts_say_nothing_of_what_is_shared() -> None:
    preamble = Preamble()
    for _ in range(SURE):
        preamble.learn([1, 2], 0)
    assert preamble.shared([1, 2], 1 / 8) == 0


def test_a_conversation_goes_where_its_prompt_is_and_leaves_when_that_is_too_busy() -> None:
    under, clock = balancer()
    among = targets(16)
    under.order("tokens_in_flight", among, Demand(1, 1))
    clock.jump(20.0)
    for number in range(200):
        blocks = (0, *range(10_000 * (number + 1), 10_000 * (number + 1) + 19))
        turn = Demand(5_000, 100, blocks)
        first = under.order("tokens_in_flight", among, turn)[0]
        under.begin(first, turn).end()
        more = Demand(6_000, 100, (*blocks, *range(-number - 5, -number)))
        assert under.order("tokens_in_flight", among, more)[0] == first
        assert under.order("predicted_cost", among, more)[0] == first
        busy = [under.begin(first, Demand(4_000, 100)) for _ in range(3)]
        assert under.order("tokens_in_flight", among, more)[0] != first
        for load in busy:
            load.end()


def test_only_what_is_not_in_the_cache_counts_as_work() -> None:
    under, _ = balancer()
    (only,) = targets(1)
    first = under.begin(only, Demand(1_000, 50, (1, 2, 3, 4)))
    assert under.loads()[only.at].prompt_tokens == 1_000
    again = under.begin(only, Demand(1_250, 50, (1, 2, 3, 4, 5)))
    assert under.loads()[only.at].prompt_tokens == 1_000 + 250
    first.first_piece()
    assert under.loads()[only.at].prompt_tokens == 250
    again.end()
    assert (under.loads()[only.at].prompt_tokens, under.loads()[only.at].output_tokens) == (0, 50)
    first.end()


def test_the_preamble_that_all_share_draws_nobody_to_one_replica() -> None:
    """The trap of a hash of the first bytes: every prompt begins alike."""
    rng = random.Random(1)
    balances: tuple[Balance, ...] = ("prefix", "tokens_in_flight")
    for balance in balances:
        under, clock = balancer()
        among = targets(8)
        counts = dict.fromkeys((target.at for target in among), 0)
        loads = []
        for number in range(2_000):
            clock.jump(0.1)
            demand = Demand(8_000, 100, (1, 2, 3, 4, 5, 6, 7, 8, 9, 10_000 + number, 20_000 + number))
            chosen = under.order(balance, among, demand)[0]
            counts[chosen.at] += number >= 500
            loads.append(under.begin(chosen, demand))
            if len(loads) > 16:
                loads.pop(rng.randrange(16)).end()
        assert max(counts.values()) <= 1.4 * 1_500 / 8, (balance, counts)

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.core.ids import Ids
from tests.clock import VirtualClock

CROCKFORD = set("0123456789abcdefghjkmnpqrstvwxyz")


def test_an_id_is_its_prefix_and_26_characters_that_are_hard_to_misread() -> None:
    made = Ids(VirtualClock(), random.Random(1)).new("req")
    prefix, _, rest = made.partition("_")
    assert prefix == "req"
    assert len(rest) == 26
    assert set(rest) <= CROCKFORD


@settings(deadline=None)
@given(st.lists(st.floats(min_value=0.001, max_value=1e7), min_size=1, max_size=20), st.integers())
def test_ids_sort_by_the_millisecond_they_were_made(steps: list[float], seed: int) -> None:
    clock = VirtualClock(start=0.0)
    ids = Ids(clock, random.Random(seed))
    made = [ids.new("a")]
    for step in steps:
        clock.jump(step + 0.001)
        made.append(ids.new("a"))
    assert made == sorted(made)


def test_ids_of_one_millisecond_differ_and_sort_as_they_were_made() -> None:
    ids = Ids(VirtualClock(), random.Random(2))
    made = [ids.new("a") for _ in range(10_000)]
    assert len(set(made)) == 10_000
    assert made == sorted(made)


def test_the_same_seed_and_time_make_the_same_ids() -> None:
    first, second = (Ids(VirtualClock(), random.Random(3)) for _ in range(2))
    assert [first.new("x") for _ in range(5)] == [second.new("x") for _ in range(5)]


def test_the_time_can_be_read_back_from_an_id() -> None:
    clock = VirtualClock(start=1_234_567_890.123)
    text = Ids(clock, random.Random(4)).new("a").removeprefix("a_")[:10]
    value = 0
    for character in text:
        value = value * 32 + sorted(CROCKFORD).index(character)
    assert value == int(clock.now() * 1000)

import math

import pytest

from headgate.core.counters import VALUE_BYTES_MAX, Take, check_takes, check_ttl, check_value


@pytest.mark.parametrize(
    ("cost", "capacity", "refill"),
    [(math.inf, 1, 1), (math.nan, 1, 1), (1, 0, 1), (1, -1, 1), (1, math.inf, 1), (1, 1, 0), (1, 1, math.nan)],
)
def test_a_bucket_of_impossible_numbers_is_refused(cost: float, capacity: float, refill: float) -> None:
    with pytest.raises(ValueError, match="bucket 'b'"):
        Take("b", cost, capacity, refill)


def test_a_take_may_give_back() -> None:
    assert Take("b", -5, 10, 1).cost == -5


def test_one_take_names_each_bucket_once() -> None:
    first, second = Take("a", 1, 10, 1), Take("b", 1, 10, 1)
    check_takes([first, second])
    with pytest.raises(ValueError, match="names a bucket twice"):
        check_takes([first, second, first])


def test_values_are_small() -> None:
    check_value(b"x" * VALUE_BYTES_MAX)
    with pytest.raises(ValueError, match="limit"):
        check_value(b"x" * (VALUE_BYTES_MAX + 1))


@pytest.mark.parametrize("seconds", [0, -1, 0.0005, 1e9, math.inf, math.nan])
def test_a_time_to_live_is_a_millisecond_at_least_and_finite(seconds: float) -> None:
    check_ttl(0.001)
    with pytest.raises(ValueError, match="time to live"):
        check_ttl(seconds)

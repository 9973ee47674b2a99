import math

import pytest

from headgate.core.counters import VALUE_BYTES_MAX, check_ttl, check_value


def test_values_are_small() -> None:
    check_value(b"x" * VALUE_BYTES_MAX)
    with pytest.raises(ValueError, match="limit"):
        check_value(b"x" * (VALUE_BYTES_MAX + 1))


@pytest.mark.parametrize("seconds", [0, -1, 0.0005, 1e9, math.inf, math.nan])
def test_a_time_to_live_is_a_millisecond_at_least_and_finite(seconds: float) -> None:
    check_ttl(0.001)
    with pytest.raises(ValueError, match="time to live"):
        check_ttl(seconds)

"""Counts over the last seconds agree with a list of all that happened."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.backends.window import SLOTS, Window

SECONDS = 30.0


@given(
    st.floats(0, 1e7),
    st.lists(st.tuples(st.floats(0, 40), st.booleans(), st.floats(0, 10)), max_size=60),
    st.floats(0, 40),
)
def test_a_window_holds_what_is_young_and_nothing_that_is_old(
    start: float, happened: list[tuple[float, bool, float]], wait: float
) -> None:
    window, now, kept = Window(SECONDS), start, []
    for pause, failed, latency in happened:
        now += pause
        window.ended(now, failed=failed)
        window.took(now, latency)
        kept.append((now, failed, latency))
    now += wait
    slot = SECONDS / SLOTS
    young = [entry for entry in kept if int(entry[0] / slot) > int(now / slot) - SLOTS]
    assert all(entry in young for entry in kept if now - entry[0] < SECONDS - slot)
    assert window.counts(now) == (len(young), sum(failed for _, failed, _ in young))
    timed, mean = window.latency(now)
    assert timed == len(young)
    assert mean * timed == pytest.approx(sum(latency for _, _, latency in young))
    window.clear()
    assert window.counts(now) == (0, 0)
    assert window.latency(now) == (0, 0.0)

"""The floor of a stream's rate: over a window of waiting, exact at both sides, in bounded memory."""

from hypothesis import given
from hypothesis import strategies as st

from headgate.backends.http.pace import STEPS, Pace


def told(pace: Pace, seconds: float, per_s: float, start: float = 0.0) -> float | None:
    """When it says that the stream is slow, looked at ten times a window, if it does within `seconds`."""
    looks = round(seconds / pace.step_s)
    for look in range(1, looks + 1):
        pace.tokens += per_s * pace.step_s
        waited = start + look * pace.step_s
        if pace.slow(waited):
            return waited
    return None


def test_nothing_is_slow_before_a_window_is_over() -> None:
    assert told(Pace(100.0, 10.0), 9.0, 0.0) is None
    assert told(Pace(100.0, 10.0), 20.0, 0.0) == 10.0


def test_a_stream_that_becomes_slow_is_found_within_a_window() -> None:
    pace = Pace(5.0, 10.0)
    assert told(pace, 60.0, 20.0) is None
    found = told(pace, 60.0, 1.0, start=60.0)
    assert found is not None
    assert 60.0 < found <= 71.0


@given(st.floats(0.1, 1000), st.floats(1.05, 10), st.floats(0.5, 60))
def test_a_stream_above_the_floor_is_never_slow_and_one_below_is(floor: float, ratio: float, window: float) -> None:
    assert told(Pace(floor, window), window * 5, floor * ratio) is None
    assert told(Pace(floor, window), window * 5, floor / ratio) is not None


@given(st.lists(st.floats(0, 3), max_size=300))
def test_what_is_remembered_is_bounded_however_it_is_asked(gaps: list[float]) -> None:
    pace, waited = Pace(0.001), 0.0
    for gap in gaps:
        waited += gap
        pace.tokens += 10
        pace.slow(waited)
        assert len(pace._marks) <= 2 * STEPS + 2

"""Durations as OpenAI's clients read them, never too early."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headgate.pipeline.limit_headers import duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (-1, "0s"), (0.0001, "1ms"), (0.012, "12ms"), (0.9991, "1s"), (0.999, "999ms"), (1, "1s"),
        (1.0001, "2s"), (59.5, "1m0s"), (60, "1m0s"), (359.2, "6m0s"), (3600, "1h0m0s"), (3661, "1h1m1s"),
        (90_061.5, "25h1m2s"),
    ],
)  # fmt: skip
def test_a_duration_is_written_as_openai_writes_it(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 1e7))
def test_whoever_waits_as_told_does_not_come_too_early(seconds: float) -> None:
    text, total = duration(seconds), 0.0
    if text.endswith("ms"):
        total = int(text[:-2]) / 1000
    else:
        for sign, unit in (("h", 3600), ("m", 60), ("s", 1)):
            number, found, rest = text.partition(sign)
            if found:
                total, text = total + int(number) * unit, rest
    assert seconds <= total + 1e-9
    assert total - seconds <= 1.0

"""Four processes that share one Redis, each asking for more than all of them may have: never above the limit."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
Span = tuple[float, float]
"""When a call that was let in asked, and when it heard: it was let in between."""


def overload(
    url: str, prefix: str, algorithm: str, amount: float, window_s: float, burst: float, seconds: float
) -> list[Span]:
    numbers = [str(number) for number in (amount, window_s, burst, seconds)]
    command = [sys.executable, "-m", "tests.storage.limits.replica", url, prefix, algorithm, *numbers]
    replicas = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    spans: list[Span] = []
    try:
        for replica in replicas:
            out, _ = replica.communicate(timeout=seconds + 60)
            assert replica.returncode == 0
            spans += [(float(asked), float(heard)) for asked, heard in map(str.split, out.splitlines())]
    finally:
        for replica in replicas:
            replica.kill()
            replica.wait()
    return sorted(spans)


def most_within(spans: list[Span], seconds: float) -> int:
    """The most calls that surely were let in within any window of so many seconds."""
    return max(sum(start <= asked and heard < start + seconds for asked, heard in spans) for start, _ in spans)


def excess(spans: list[Span], burst: float, per_s: float) -> float:
    """By how much any window of any length holds more than a token bucket lets through."""
    worst = 0.0
    for start, _ in spans:
        inside = sorted(heard for asked, heard in spans if asked >= start)
        worst = max(worst, *(count - burst - per_s * (heard - start) for count, heard in enumerate(inside, 1)))
    return worst


def test_a_token_bucket_never_lets_more_through_than_its_burst_and_rate(redis_url: str, prefix: str) -> None:
    spans = overload(redis_url, prefix, "token_bucket", 60, 1, 60, 2)
    assert excess(spans, 60, 60) <= 0


def test_a_sliding_log_never_lets_more_through_than_its_amount(redis_url: str, prefix: str) -> None:
    spans = overload(redis_url, prefix, "sliding_log", 50, 1, 50, 2.5)
    assert most_within(spans, 1) <= 50
    assert len(spans) > 50


@pytest.mark.prove
@pytest.mark.timeout(600)
@pytest.mark.parametrize("algorithm", ["token_bucket", "sliding_log", "sliding_counter", "leaky_bucket"])
def test_what_is_let_through_is_within_one_percent_of_the_limit(redis_url: str, prefix: str, algorithm: str) -> None:
    amount, window_s, seconds = 100, 2.0, 21.0
    spans = overload(redis_url, prefix, algorithm, amount, window_s, amount, seconds)
    first, last = spans[0][0], spans[-1][1]
    per_s = amount / window_s
    if algorithm == "token_bucket":
        assert excess(spans, amount, per_s) <= 0
        assert len(spans) >= 0.99 * (amount + per_s * (last - first))
    elif algorithm == "leaky_bucket":  # the burst is what may wait half a second for its turn
        assert excess(spans, 0.5 * per_s + 1, per_s) <= 0
        assert len(spans) >= 0.99 * (0.5 * per_s + per_s * (last - first))
    elif algorithm == "sliding_log":
        assert most_within(spans, window_s) <= amount
        whole = int((last - first) / window_s)
        assert len(spans) >= 0.99 * amount * whole
    else:  # an approximation: what it lets through over a long time is exact, a single window is not
        assert len(spans) <= amount * (1 + (last - first) / window_s)
        assert most_within(spans, window_s) <= 1.5 * amount
        assert len(spans) >= 0.9 * amount * (last - first) / window_s

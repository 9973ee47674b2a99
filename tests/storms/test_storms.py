"""The storms at their full size (`python -m tests.storms` gives the same figures as JSON).

What is counted must hold exactly. Times are what the issue promises, with room for a machine that has other work: where
the promise is 2 s for leaving the rotation, 3 s are allowed here; where latency must be back at its baseline, twice
that and 0.1 s. What a quieter machine shows stands in docs/performance.md.
"""

from pathlib import Path

import pytest

from tests.storms.figures import Figures, line
from tests.storms.full import STORMS, Wish
from tests.storms.stand import FIRST_TOKEN_S, MAX_EXTRA

pytestmark = [pytest.mark.prove, pytest.mark.timeout(1800)]


def shown(name: str, folder: Path) -> Figures:
    figures, _ = STORMS[name](folder, Wish())
    print(line(name, figures))
    return figures


def test_random_faults_of_one_replica_in_three_at_200_calls_a_second_are_hardly_seen(tmp_path: Path) -> None:
    found = shown("faults", tmp_path)
    assert found["right_pct"] >= 99.9
    assert found["extra_pct"] <= 10
    assert found["ttft_p99_ms"] <= found["calm_ttft_p99_ms"] + 1000 * FIRST_TOKEN_S


def test_a_stopped_replica_is_out_soon_and_no_call_is_lost(tmp_path: Path) -> None:
    found = shown("frozen", tmp_path)
    assert found["right"] == found["calls"]
    assert found["out_after_s"] <= 3.0
    assert found["ten_seconds_on_ttft_p99_ms"] <= 2 * found["calm_ttft_p99_ms"] + 100
    assert found["share_after_pct"] >= 10


def test_a_slow_replica_gets_at_most_a_fifth_of_its_fair_share(tmp_path: Path) -> None:
    assert shown("slow", tmp_path)["of_its_fair_share"] <= 0.2


@pytest.mark.parametrize("name", ["retried", "retried-without-breakers"])
def test_a_retry_storm_ends_at_the_gateway(name: str, tmp_path: Path) -> None:
    found = shown(name, tmp_path)
    assert found["attempts_at_upstreams"] <= found["allowed"]


def test_hedges_cut_the_tail_for_few_attempts(tmp_path: Path) -> None:
    found = shown("hedged", tmp_path)
    assert found["with_extra_pct"] <= 100 * MAX_EXTRA
    assert found["with_ttft_p99_ms"] <= found["without_ttft_p99_ms"] / 2


def test_a_backend_that_is_switched_off_gets_no_call_from_then_on(tmp_path: Path) -> None:
    found = shown("switched", tmp_path)
    assert (found["of_them_at_the_backend"], found["right"]) == (0, found["calls"])


def test_ten_minutes_of_mixed_chaos_lose_no_call_in_a_thousand(tmp_path: Path) -> None:
    found = shown("chaos", tmp_path)
    assert found["right_pct"] >= 99.9
    assert (found["wrong"], found["unshaped"]) == (0, 0)

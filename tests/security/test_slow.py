"""Clients that hold connections without using them are cut, while honest ones are served."""

import json
from pathlib import Path

import pytest

from tests.live import Live
from tests.security.siege import besieged, siege


def test_forty_slow_connections_are_cut_and_honest_calls_served(gate: Live) -> None:
    longest, served = besieged(gate, 40)
    print(f"cut after {longest:.1f} s at most; {len(served)} honest calls served")
    assert len(served) > 3


@pytest.mark.prove
@pytest.mark.parametrize("count", [100, 2_500])
def test_slow_connections_are_cut_within_thirty_seconds(tmp_path: Path, count: int) -> None:
    line = siege(tmp_path, count)
    print(json.dumps(line))
    assert line["cut_after_most_s"] < 30
    assert line["honest_calls"] > 100

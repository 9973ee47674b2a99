"""A small slice of `python -m bench.leased`."""

from pathlib import Path

import pytest

from bench.leased import OVERLOAD, measure, plot, simulate, summary
from bench.simulated import Scene

SMALL = Scene(
    nodes=20, limit=20_000, offered=40_000, seconds=1.6, cut_nodes=3, cut_from=0.3, cut_until=0.6, shift_at=0.9
)


def test_simulated_nodes_stay_within_a_twentieth_of_the_limit_in_every_window() -> None:
    found = summary(simulate(SMALL))
    assert found["requests"] == pytest.approx(SMALL.offered * SMALL.seconds, rel=0.01)
    assert found["failed_while_cut_off"] > 0
    assert found["error"] <= 0.05
    assert found["round_trips_per_request"] < 0.25


def test_a_simulation_happens_the_same_way_twice() -> None:
    scene = Scene(nodes=5, limit=2_000, offered=4_000, seconds=0.5, cut_nodes=0, shift_at=9.0)
    assert simulate(scene).accepted == simulate(scene).accepted


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    scene = Scene(nodes=5, limit=2_000, offered=4_000, seconds=1.2, cut_nodes=1, shift_at=0.9)
    plot(simulate(scene), tmp_path / "leased.svg")
    assert (tmp_path / "leased.svg").read_text().startswith("<?xml")


def test_processes_that_share_a_redis_are_exact_or_within_a_twentieth() -> None:
    exact, leased = measure(None, 1.5)
    assert exact["accepted"] > 0
    # The seconds are those of the asking processes, not of the store: they may cut through one call.
    assert exact["of_the_limit"] <= 1.0 + 1 / (1.5 * exact["limit_per_s"])
    assert leased["of_the_limit"] <= 1.05
    assert min(exact["asked"], leased["asked"]) > OVERLOAD * exact["limit_per_s"]

"""The fairness figures, in virtual time: a slice of `python -m bench.fairness`, whose figures it asserts."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import fair_http, fair_sim, fairness
from bench.fair_model import Tenant, jain
from bench.fair_plot import plot

ROOT = Path(__file__).parents[2]


def test_a_tenant_at_fifty_times_its_share_hardly_touches_the_others() -> None:
    row = fair_sim.noisy(1, 15.0, busy=True)
    assert row["ratio"] <= 1.5
    assert row["refused"] == 0
    assert row["unfair_p99_s"] > 5 * row["flood_p99_s"]
    calm = fair_sim.noisy(1, 15.0, busy=False)
    assert calm["flood_p99_s"] <= calm["slice_p99_s"]


def test_backlogged_tenants_are_served_by_weight() -> None:
    row = fair_sim.shares(1, 20.0)
    assert row["jain"] >= 0.95
    assert row["unfair_jain"] < 0.8


def test_at_twice_the_capacity_what_is_served_in_time_stays_near_the_best() -> None:
    assert fair_sim.goodput(1, 16.0, gated=True)["at_2x"] >= 0.9
    assert fair_sim.goodput(1, 16.0, gated=False)["at_2x"] < 0.7


@pytest.mark.parametrize("seed", range(2))
def test_the_limit_follows_a_pool_that_loses_half_its_slots(seed: int) -> None:
    assert all(0.8 <= ratio <= 1.5 for ratio in fair_sim.tracking(seed, 25.0)["limit_by_true"])


def test_the_same_seed_gives_the_same_figures() -> None:
    assert fair_sim.shares(3, 5.0) == fair_sim.shares(3, 5.0)


def test_the_index_is_one_where_all_have_the_same() -> None:
    assert jain([2.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert jain([5.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([0.0, 0.0]) == 0.0


def test_real_processes_serve_every_tenant(tmp_path: Path) -> None:
    """No figures here, as time is real: only that all come through, and that the flood is what is refused."""
    with fair_http.rig(tmp_path / "run", 4) as at:
        others = [Tenant(f"other{place}", window=1) for place in range(3)]
        flood = Tenant("flood", rate=40.0, deadline_s=3.0)
        for tenant in (*others, flood):
            at.tenant(tenant)
        seen = fair_http.play(at, [*others, flood], 4.0)
        assert all(seen[tenant.name].good > 0 for tenant in (*others, flood))
        assert all(seen[tenant.name].refused == 0 for tenant in others)


def test_the_command_prints_its_table_and_draws_its_plot(tmp_path: Path) -> None:
    rows = [fair_sim.noisy(1, 5.0, busy=True), fair_sim.shares(1, 5.0), fair_sim.tracking(1, 10.0)]
    rows += [fair_sim.goodput(1, 5.0, gated) for gated in (True, False)]
    shown = fairness.table(fairness.lines(rows))
    assert shown.count("\n") >= 5
    plot(rows, tmp_path / "plot.svg")
    assert 5_000 < (tmp_path / "plot.svg").stat().st_size < 200_000
    told = subprocess.run(
        [sys.executable, "-m", "bench.fairness", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "noisy tenant" in told.stdout

"""What each balance does to the wait for the first token: a slice of `python -m bench.routing`, in virtual time."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from statistics import fmean

import pytest

from bench import routing
from bench.routing_trace import BLOCK_TOKENS, PREAMBLE, compressed, conversations, reuse, singles
from headgate.core.rules import Balance

ROOT = Path(__file__).parents[2]
SHARED = "shared prefixes, load 1.2"


def test_the_trace_looks_like_the_one_it_stands_for() -> None:
    trace = conversations(1, 2.0, 2_000.0)
    assert all(request.blocks[0] == PREAMBLE for request in trace)
    assert fmean(request.prompt_tokens for request in trace) == pytest.approx(12_500, rel=0.12)
    assert fmean(request.output_tokens for request in trace) == pytest.approx(343, rel=0.1)
    assert reuse(trace) == pytest.approx(0.4, abs=0.04)
    lengths = sorted(len(request.blocks) * BLOCK_TOKENS for request in trace)
    assert lengths[len(lengths) * 95 // 100] > 3 * lengths[len(lengths) // 2]
    assert trace == conversations(1, 2.0, 2_000.0) != conversations(2, 2.0, 2_000.0)
    assert reuse(singles(1, 2.0, 500.0)) == 0
    faster = compressed(trace, 80_000.0)
    assert sum(request.prompt_tokens for request in faster) / faster[-1].at == pytest.approx(80_000.0)


def test_shared_prefixes_near_saturation_a_tenth_of_round_robins_wait() -> None:
    ways: list[Balance] = ["tokens_in_flight", "prefix", "round_robin"]
    plays = [(SHARED, seed, 3_000.0, [way]) for way in ways for seed in range(3)]
    # Each is a simulation of its own.
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        rows = [row for played in pool.starmap(routing.play, plays, chunksize=1) for row in played]
    waits = {way: fmean(float(row["mean_s"]) for row in rows if row["balance"] == way) for way in ways}
    assert waits["tokens_in_flight"] <= 0.1 * waits["round_robin"], (
        "over seeds, as it is promised: one trace is no mean"
    )
    assert waits["prefix"] <= 0.2 * waits["round_robin"]
    assert all(row["max_share"] <= 1.4 for row in rows), "nobody is run over"


@pytest.mark.parametrize("scenario", ["nothing shared, load 0.7", "nothing shared, load 0.9"])
def test_where_nothing_is_shared_the_default_is_no_worse_than_least_requests(scenario: str) -> None:
    rows = routing.play(scenario, 2, 1_000.0, ["tokens_in_flight", "least_requests"])
    waits = {row["balance"]: row["mean_s"] for row in rows}
    assert waits["tokens_in_flight"] <= waits["least_requests"]


def test_a_decision_is_timed_for_every_balance() -> None:
    """No figures: they belong to the bench, on a quiet machine."""
    for balance in routing.BALANCES:
        row = routing.decide(balance, decisions=60)
        assert 0 < row["order_p50_us"] <= row["order_p99_us"]
        assert 0 < row["begin_p50_us"] <= row["begin_p99_us"]


def test_the_command_prints_tables_and_what_is_not_kept() -> None:
    rows = [row for scenario in routing.SCENARIOS for row in routing.play(scenario, 1, 250.0)]
    rows += [routing.decide(balance, decisions=60) for balance in routing.BALANCES]
    shown = routing.tables(rows)
    assert all(f"**{scenario}**" in shown for scenario in routing.SCENARIOS)
    assert len(routing.promises(rows)) == 6
    told = subprocess.run(
        [sys.executable, "-m", "bench.routing", "--help"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert "first token" in told.stdout


@pytest.mark.prove
@pytest.mark.timeout(900)
def test_the_whole_bench_keeps_its_promises() -> None:
    """Over the seeds' mean, in virtual time; without the timing of decisions."""
    rows = [row for scenario in routing.SCENARIOS for seed in range(3) for row in routing.play(scenario, seed, 3_000.0)]
    assert [told for told in routing.promises(rows) if not told[2]] == []

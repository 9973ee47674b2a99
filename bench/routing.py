"""What does each way of balancing do to the wait for the first token, and what does a decision cost?

    python -m bench.routing [--quick] [--seeds N] [--json FILE]

Traces (`routing_trace.py`) replayed in virtual time over 8 modelled replicas (`routing_model.py`) through the real
balancer, many seeds; then decisions among 64 replicas, timed. Prints tables and says where a promise is not kept. The
time to the first token is from the request's arrival to the end of its prompt's reading; mean over all requests after
the first 30 seconds, mean over seeds; p95 likewise. Load: prompt tokens that arrive, by what 8 cold replicas can read.
"""

import argparse
import gc
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from bench import report
from bench.routing_model import READS_PER_S, Moment, Replay
from bench.routing_trace import Request, compressed, conversations, reuse, singles
from headgate.backends.balance.balancer import Balancer
from headgate.backends.balance.demand import Demand
from headgate.backends.balance.loads import Load
from headgate.core.rules import Balance
from headgate.core.target import Target

Row = dict[str, Any]
Maker = Callable[[int, float, float], list[Request]]
BALANCES: tuple[Balance, ...] = get_args(Balance)
REPLICAS = 8
SLOW = (5.0, *(1.0 for _ in range(REPLICAS - 1)))
SCENARIOS: dict[str, tuple[Maker, float, float, Sequence[float]]] = {
    "shared prefixes, load 0.75": (conversations, 2.0, 0.75, (1.0,) * REPLICAS),
    "shared prefixes, load 1.2": (conversations, 2.0, 1.2, (1.0,) * REPLICAS),
    "nothing shared, load 0.7": (singles, 3.0, 0.7, (1.0,) * REPLICAS),
    "nothing shared, load 0.9": (singles, 3.0, 0.9, (1.0,) * REPLICAS),
    "shared prefixes, load 0.6, one replica 5x slower": (conversations, 2.0, 0.6, SLOW),
    "nothing shared, load 0.8, one replica 5x slower": (singles, 3.0, 0.8, SLOW),
}
"""The trace's maker and its own rate, the load, and how slow each replica is. Near saturation a cold cache is not
enough for 1.2: only who finds prefixes keeps up."""
SETTLE_S = 30.0
DECISIONS = 2_000
DEFAULT: Balance = "tokens_in_flight"


def play(scenario: str, seed: int, seconds: float, balances: Sequence[Balance] = BALANCES) -> list[Row]:
    """One row per balance. `seconds` are those of the trace before it is compressed."""
    maker, rate, load, slowness = SCENARIOS[scenario]
    speed = sum(READS_PER_S / factor for factor in slowness)
    trace = compressed(maker(seed, rate, seconds), load * speed)
    rows = []
    for balance in balances:
        found = Replay(balance, slowness, seed).run(trace, SETTLE_S)
        rows.append({
            "scenario": scenario, "balance": balance, "seed": seed, "requests": len(trace), "reuse": reuse(trace),
            "hit": found.hit, "mean_s": found.mean, "p95_s": found.p95, "max_share": max(found.share) * REPLICAS,
            "first_share": found.share[0] * REPLICAS,
        })  # fmt: skip
    return rows


def decide(balance: Balance, replicas: int = 64, decisions: int = DECISIONS) -> Row:
    """Microseconds of this thread's CPU per `order` and `begin`, prompts and loads as in the trace of conversations.

    Each order is asked three times and the fastest counts: the machine has other things to do.
    """
    rng = random.Random(1)
    balancer = Balancer(Moment(), random.Random(2))
    targets = [Target("pool", "m", replica=f"pool-{place}") for place in range(replicas)]
    loads: list[Load] = []
    orders: list[int] = []
    begins: list[int] = []
    gc.collect()
    for request in conversations(1, 10.0, decisions / 12)[:decisions]:
        demand = Demand(request.prompt_tokens, 340, request.blocks, request.session)
        taken = []
        for _ in range(3):
            began = time.thread_time_ns()
            first = balancer.order(balance, targets, demand)[0]
            taken.append(time.thread_time_ns() - began)
        orders.append(min(taken))
        began = time.thread_time_ns()
        loads.append(balancer.begin(first, demand))
        begins.append(time.thread_time_ns() - began)
        if len(loads) > 4 * replicas:
            load = loads.pop(rng.randrange(len(loads)))
            load.first_piece()
            load.end(request.output_tokens)
    orders.sort()
    begins.sort()
    return {
        "scenario": f"decision among {replicas}", "balance": balance,
        "order_p50_us": orders[len(orders) // 2] / 1000, "order_p99_us": orders[len(orders) * 99 // 100] / 1000,
        "begin_p50_us": begins[len(begins) // 2] / 1000, "begin_p99_us": begins[len(begins) * 99 // 100] / 1000,
    }  # fmt: skip


def mean_of(rows: Sequence[Row], scenario: str, balance: Balance, field: str) -> float:
    return fmean(row[field] for row in rows if row["scenario"] == scenario and row["balance"] == balance)


def tables(rows: Sequence[Row]) -> str:
    told = []
    for scenario in SCENARIOS:
        if not any(row["scenario"] == scenario for row in rows):
            continue
        slow = "slower" in scenario
        told += [f"\n**{scenario}**\n", f"| balance | hit | mean TTFT s | p95 s | busiest{' | slow one' * slow} |"]
        told.append("|---|---|---|---|---|" + "---|" * slow)
        for balance in BALANCES:
            hit, mean, p95, most, first = (
                mean_of(rows, scenario, balance, field)
                for field in ("hit", "mean_s", "p95_s", "max_share", "first_share")
            )
            last = f" {first:.2f} |" if slow else ""
            told.append(f"| `{balance}` | {hit:.2f} | {mean:.2f} | {p95:.1f} | {most:.2f} |{last}")
    costs = [row for row in rows if "order_p50_us" in row]
    if costs:
        told += [f"\n**{costs[0]['scenario']}**, us of CPU\n", "| balance | order p50 | p99 | begin p50 | p99 |"]
        told.append("|---|---|---|---|---|")
        fields = ("order_p50_us", "order_p99_us", "begin_p50_us", "begin_p99_us")
        told += [
            f"| `{row['balance']}` | " + " | ".join(f"{row[field]:.0f}" for field in fields) + " |" for row in costs
        ]
    return "\n".join(told)


def promises(rows: Sequence[Row]) -> list[tuple[str, str, bool]]:
    """What was asked of the default, what came out, and whether it is kept."""

    def mean(scenario: str, balance: Balance, field: str = "mean_s") -> float:
        return mean_of(rows, scenario, balance, field)

    near = "shared prefixes, load 1.2"
    part = mean(near, DEFAULT) / mean(near, "round_robin")
    told = [("shared prefixes near saturation: mean TTFT by round robin's <= 0.10", f"{part:.3f}", part <= 0.1)]
    for scenario in (name for name in SCENARIOS if name.startswith("nothing shared") and "slower" not in name):
        part = mean(scenario, DEFAULT) / mean(scenario, "least_requests")
        told.append((f"{scenario}: mean TTFT by least requests' <= 1", f"{part:.2f}", part <= 1.0))
    for scenario in (name for name in SCENARIOS if "slower" in name):
        share = mean(scenario, DEFAULT, "first_share")
        told.append((f"{scenario}: its part of a fair share <= 0.2", f"{share:.2f}", share <= 0.2))
    costs = [row["order_p99_us"] for row in rows if "order_p99_us" in row]
    if costs:
        told.append(
            ("p99 of a decision among 64, the dearest balance <= 100 us", f"{max(costs):.0f}", max(costs) <= 100)
        )
    return told


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.routing", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two seeds, a third of the trace")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    seeds, seconds = (2, 1_000.0) if options.quick else (options.seeds, 3_000.0)
    rows = [row for scenario in SCENARIOS for seed in range(seeds) for row in play(scenario, seed, seconds)]
    rows += [decide(balance) for balance in BALANCES]
    print(tables(rows))
    told = promises(rows)
    print("\n| promise | found | kept |\n|---|---|---|")
    print("\n".join(f"| {title} | {found} | {'yes' if kept else 'NO'} |" for title, found, kept in told))
    if options.json:
        options.json.write_text(json.dumps({**report.facts({}), "promises": told, "rows": rows}, indent=1) + "\n")
    return 0 if all(kept for *_, kept in told) else 1


if __name__ == "__main__":
    sys.exit(main())

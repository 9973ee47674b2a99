"""The fairness scenarios in virtual time: the real gate, many seeds, hours in seconds."""

import asyncio
from statistics import fmean, median
from typing import Any

from bench.fair_model import TOKENS, Pool, Seen, Tenant, World, jain, quantile
from bench.fair_time import run
from headgate.pipeline.capacity import Adaptive, AdaptiveSettings, Fixed
from headgate.pipeline.gate import GateSettings

Row = dict[str, Any]
SLOTS, SERVICE_S = 20, 0.5
PEAK = SLOTS / SERVICE_S
"""Calls per second the pool serves."""
OTHERS = 9
FLOOD = 50.0
"""How many times its share the noisy tenant asks for."""
WEIGHTS = (1.0, 2.0, 4.0, 8.0)
LOADS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
DEADLINE_S = 5.0


def _pool() -> Pool:
    return Pool(SLOTS, SERVICE_S)


def _play(tenants: list[Tenant], seed: int, seconds: float, fair: bool = True) -> dict[str, Seen]:
    async def main() -> dict[str, Seen]:
        world = World(_pool(), Fixed(SLOTS), seed, fair, GateSettings(queue=2_000, queue_wait_s=30.0))
        return await world.run(tenants, seconds, seconds / 10)

    return run(main())


def noisy(seed: int, seconds: float, busy: bool) -> Row:
    """Nine tenants alone, then with a tenth that asks for fifty times its share.

    `busy`: the nine keep the pool full by themselves. Else they ask for 80 % of their share each. p99 of the seconds
    that the nine wait.
    """
    share = PEAK / (OTHERS + 1)
    others = [
        Tenant(f"other{place}", window=6) if busy else Tenant(f"other{place}", rate=0.8 * share)
        for place in range(OTHERS)
    ]
    flood = Tenant("flood", rate=FLOOD * share)
    alone = _play(others, seed, seconds)
    fair = _play([*others, flood], seed, seconds)
    unfair = _play([*others, flood], seed, seconds, fair=False)
    slice_ = Pool(SLOTS // (OTHERS + 1), SERVICE_S)

    async def own() -> dict[str, Seen]:
        world = World(slice_, Fixed(slice_.slots), seed)
        return await world.run(others[:1], seconds * 3, seconds / 3)

    def p99(seen: dict[str, Seen]) -> float:
        return quantile([wait for tenant in others if tenant.name in seen for wait in seen[tenant.name].waits], 0.99)

    def refused(seen: dict[str, Seen]) -> float:
        told = [seen[tenant.name] for tenant in others]
        return sum(each.refused for each in told) / max(1, sum(each.refused + len(each.waits) for each in told))

    return {
        "scenario": "noisy, pool busy" if busy else "noisy, pool calm",
        "seed": seed,
        "alone_p99_s": p99(alone),
        "slice_p99_s": p99(run(own())),
        "flood_p99_s": p99(fair),
        "unfair_p99_s": p99(unfair),
        "ratio": p99(fair) / p99(alone) if p99(alone) else 0.0,
        "refused": refused(fair),
        "unfair_refused": refused(unfair),
    }


def shares(seed: int, seconds: float) -> Row:
    """Tenants of four weights, all with more calls than they can have: what each is served, by its weight."""
    tenants = [Tenant(f"w{weight:g}", weight, rate=PEAK, deadline_s=120.0) for weight in WEIGHTS]
    seen, mixed = _play(tenants, seed, seconds), _play(tenants, seed, seconds, fair=False)
    per = [seen[tenant.name].work / tenant.weight for tenant in tenants]
    return {
        "scenario": "shares",
        "seed": seed,
        "jain": jain(per),
        "unfair_jain": jain([mixed[tenant.name].work / tenant.weight for tenant in tenants]),
        "shares": {tenant.name: seen[tenant.name].work for tenant in tenants},
    }


def goodput(seed: int, seconds: float, gated: bool) -> Row:
    """What is served within its deadline, as a share of what the pool can serve, by load: gated by latency, or not."""
    found = {}
    for load in LOADS:

        async def main(load: float = load) -> float:
            capacity = Adaptive(AdaptiveSettings()) if gated else Fixed(1_000_000)
            world = World(_pool(), capacity, seed, settings=GateSettings(queue_wait_s=DEADLINE_S))
            tenants = [Tenant(f"t{place}", rate=load * PEAK / 4, deadline_s=DEADLINE_S) for place in range(4)]
            seen = await world.run(tenants, seconds, seconds / 4)
            return sum(each.work for each in seen.values()) / TOKENS / (seconds * 3 / 4)

        found[load] = run(main())
    return {
        "scenario": "goodput" if gated else "goodput, no gate",
        "seed": seed,
        "by_load": {str(load): each / PEAK for load, each in found.items()},
        "at_2x": found[2.0] / max(found.values()),
    }


def tracking(seed: int, phase_s: float) -> Row:
    """The pool loses half its slots and gets them back: the limit found, and the calls that the pool could take."""
    points: list[tuple[float, int, int]] = []

    async def main() -> None:
        pool = Pool(SLOTS * 2, SERVICE_S)
        world = World(pool, Adaptive(AdaptiveSettings()), seed)

        async def change() -> None:
            for slots in (SLOTS * 2, SLOTS, SLOTS * 2):
                pool.slots = slots
                until = world.clock.monotonic() + phase_s
                while world.clock.monotonic() < until:
                    points.append((world.clock.monotonic(), slots, world.gate.limit))
                    await asyncio.sleep(0.25)

        tenants = [Tenant(f"t{place}", window=60) for place in range(4)]
        async with asyncio.TaskGroup() as group:
            group.create_task(change())
            group.create_task(world.run(tenants, 3 * phase_s, 0.0))

    run(main())
    ratios = []
    for phase in range(3):
        settled = [limit / slots for at, slots, limit in points if (phase + 0.4) * phase_s < at < (phase + 1) * phase_s]
        ratios.append(fmean(settled))
    return {"scenario": "tracking", "seed": seed, "limit_by_true": ratios, "points": points}


def simulate(seeds: int, seconds: float) -> list[Row]:
    """All scenarios, each with so many seeds."""
    rows: list[Row] = []
    for seed in range(seeds):
        rows += [noisy(seed, seconds, busy) for busy in (True, False)]
        rows += [shares(seed, seconds)]
        rows += [goodput(seed, seconds / 2, gated) for gated in (True, False)]
        rows += [tracking(seed, seconds / 3)]
    return rows


def worst(rows: list[Row], scenario: str, field: str, most: bool = True) -> float:
    """Over the seeds."""
    values = [float(row[field]) for row in rows if row["scenario"] == scenario]
    return max(values) if most else min(values)


def middle(rows: list[Row], scenario: str, field: str) -> float:
    return median(float(row[field]) for row in rows if row["scenario"] == scenario)

"""How far off leased limits are.

    python -m bench.leased            100 simulated nodes at 10 million requests a second; then 4 processes and a Redis
    python -m bench.leased --quick    the same at a hundredth of the rates, within a minute

The simulation runs the real code request by request; only time and the network are modelled. Ten nodes lose the store
for a while, and demand moves to other nodes. The second part is real: processes, sockets, a server, five times the
limit; exact, then leased. Prints tables, writes JSON to `bench/results` and the plot to `docs/images/leased.svg`.
"""

import argparse
import asyncio
import dataclasses
import gc
import json
import multiprocessing
import random
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.report import facts
from bench.simulated import Outcome, Scene, Simulation
from headgate.core.clock import SystemClock
from headgate.core.limiter import Cost, Limiter, Plan, Rate
from headgate.storage.limits.leased import LeasedLimiter
from headgate.storage.limits.redis import RedisLimiter

ROOT = Path(__file__).resolve().parent.parent
PROCESSES = 4
OVERLOAD = 5.0
ASKING_MAX = 500
"""Calls in progress in one process of the real part."""


def simulate(scene: Scene) -> Outcome:
    gc.disable()  # the simulation makes no cycles worth collecting, and millions of short-lived objects
    try:
        return asyncio.run(Simulation(scene).run())
    finally:
        gc.enable()


def summary(outcome: Outcome) -> dict[str, Any]:
    scene, windows = outcome.scene, outcome.windows()
    return {
        **dataclasses.asdict(scene),
        "requests": outcome.requests,
        "accepted": sum(outcome.accepted),
        "window_most": max(windows),
        "window_least": min(windows),
        "error": max(max(windows) - 1, 1 - min(windows)),
        "waited_for_the_store": outcome.waited / outcome.requests,
        "round_trips_per_request": outcome.trips / outcome.requests,
        "failed_while_cut_off": outcome.failed,
    }


def plot(outcome: Outcome, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    scene = outcome.scene
    figure, axes = pyplot.subplots(figsize=(7.5, 3.2))
    for length_s, colour, width in ((0.1, "#b8c4d6", 0.8), (1.0, "#1f5fbf", 1.8)):
        windows = outcome.windows(length_s)
        step = max(1, len(windows) // 600)
        times = [length_s + place * scene.tick_s for place in range(0, len(windows), step)]
        errors = [100 * (part - 1) for part in windows[::step]]
        axes.plot(times, errors, color=colour, linewidth=width, label=f"windows of {length_s:g} s")
    axes.axhspan(-5, 5, color="#2e8b57", alpha=0.12, label="5 %")
    axes.axvspan(scene.cut_from, scene.cut_until, color="#c0392b", alpha=0.10, label=f"{scene.cut_nodes} nodes cut off")
    axes.axvline(scene.shift_at, color="#555555", linewidth=0.8, linestyle=":", label="demand moves")
    axes.set_ylim(-12, 12)
    axes.set_xlim(0, scene.seconds)
    axes.set_xlabel("seconds")
    axes.set_ylabel("accepted against the limit, %")
    axes.set_title(
        f"{scene.nodes} nodes, {scene.offered / 1e6:g} M requests/s against a limit of {scene.limit / 1e6:g} M/s",
        fontsize=10,
    )
    axes.legend(fontsize=7, ncol=5, loc="lower center")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


# Real processes


def rate_of(limit: float, *, tokens: bool = False) -> Plan:
    return Plan(
        rates=(Rate(key="real", amount=limit, window_s=1.0, burst=limit, tokens=tokens, leased=True),),
    )


async def drained(url: str, prefix: str, limit: float) -> float:
    """Takes what the bucket holds, under load, so that from then on every window's limit is the same; since when."""
    limiter = RedisLimiter.at(url, SystemClock(), prefix=prefix)
    plan = rate_of(limit, tokens=True)
    try:
        while True:
            verdict = await limiter.reserve("before", plan, Cost(), 60.0)
            left = int(verdict.rates[0].remaining)
            if left < 2:
                return time.monotonic()
            await limiter.reserve("before", plan, Cost(left), 60.0)
    finally:
        await limiter.aclose()


@dataclasses.dataclass(frozen=True)
class Load:
    url: str
    prefix: str
    limit: float
    seconds: float
    leased: bool
    begins: float
    """On the machine's monotonic clock, which all processes share."""


def drive(load: Load, number: int) -> tuple[int, list[tuple[float, float]]]:
    """One process: how many it asked for, and when each accepted call was asked and answered."""
    return asyncio.run(_drive(load, number))


async def _drive(load: Load, number: int) -> tuple[int, list[tuple[float, float]]]:
    clock = SystemClock()
    limiter: Limiter = RedisLimiter.at(load.url, clock, timeout_s=10.0, prefix=load.prefix)
    if load.leased:
        limiter = LeasedLimiter(limiter, clock, random.Random(number), lambda: PROCESSES, str(number))
    plan, accepted, asked = rate_of(load.limit), list[tuple[float, float]](), 0
    room = asyncio.Semaphore(ASKING_MAX)

    async def ask() -> None:
        async with room:
            began = time.monotonic()
            if (await limiter.reserve("call", plan, Cost(), 60.0)).allowed:
                accepted.append((began, time.monotonic()))

    per_s = load.limit * OVERLOAD / PROCESSES
    await asyncio.sleep(load.begins - time.monotonic())
    async with asyncio.TaskGroup() as calls:
        while (passed := time.monotonic() - load.begins) < load.seconds:
            for _ in range(int(passed * per_s) - asked):
                calls.create_task(ask())
                asked += 1
            await asyncio.sleep(0.002)
    await limiter.aclose()
    return asked, accepted


def surely_within(accepted: list[tuple[float, float]], length_s: float) -> int:
    """The most calls that were asked and answered within one window: decided in it, whatever the network did."""
    most = 0
    events = sorted(accepted)
    for place, (begins, _) in enumerate(events):
        count = 0
        for began, answered in events[place:]:
            if began > begins + length_s:
                break
            count += answered <= begins + length_s
        most = max(most, count)
    return most


def real(url: str, limit: float, seconds: float, *, leased: bool) -> dict[str, Any]:
    prefix = f"bench-{time.time_ns()}:"
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(time.sleep, [0.1] * PROCESSES))  # all of them are there
        begins = time.monotonic() + 1.0
        load = Load(url, prefix, limit, seconds, leased, begins)
        running = [pool.submit(drive, load, number) for number in range(PROCESSES)]
        time.sleep(max(0.0, begins - time.monotonic() + 0.3))
        drained_at = asyncio.run(drained(url, prefix, limit))
        results = [each.result() for each in running]
    accepted = [call for _, calls in results for call in calls if call[0] >= drained_at]
    last = max(answered for _, answered in accepted)
    return {
        "mode": "leased" if leased else "exact",
        "processes": PROCESSES,
        "limit_per_s": limit,
        "asked": sum(asked for asked, _ in results),
        "seconds": last - drained_at,
        "accepted": len(accepted),
        "of_the_limit": len(accepted) / (limit * (last - drained_at)),
        "window_most": surely_within(accepted, 1.0) / limit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the rates, nothing written")
    parser.add_argument("--redis", help="redis://host:port/0; by default one is started")
    given = parser.parse_args()
    scene = Scene(limit=5e4, offered=1e5) if given.quick else Scene()
    outcome = simulate(scene)
    simulated = summary(outcome)
    print("\n".join(f"{name:>26}  {told(value)}" for name, value in simulated.items()), flush=True)
    rows = measure(given.redis, 2.0 if given.quick else 10.0)
    for row in rows:
        print(
            "  ".join(f"{name} {value if isinstance(value, str) else f'{value:,.5g}'}" for name, value in row.items())
        )
    if not given.quick:
        plot(outcome, ROOT / "docs" / "images" / "leased.svg")
        path = ROOT / "bench" / "results" / f"leased-{datetime.now(UTC):%Y-%m-%d}.json"
        path.write_text(json.dumps({"facts": facts({}), "simulated": simulated, "real": rows}, indent=1) + "\n")


def told(value: str | int | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.5f}"


def measure(url: str | None, seconds: float) -> list[dict[str, Any]]:
    from tests.servers import start_redis

    server = None
    if url is None:
        server, url = start_redis()
    try:
        return [real(url, 400.0, seconds, leased=leased) for leased in (False, True)]
    finally:
        if server is not None:
            server.kill()
            server.stop()


if __name__ == "__main__":
    main()

"""R15: a soak. 100 calls a second, a tenth of them left midway, one in twenty upstream answers faulty; nothing grows.

    python -m tests.soak.run --minutes 20       # prints progress, then one line of JSON

Resumable streams, single flight, idempotency keys, rescued streams and hedges are in the mix. After the warm-up memory
may rise by 1 MiB per 10,000 calls at most and end at 1.2 times what it was; at the end descriptors, tasks and all
gauges of work are back where they were, and the ledger says what the upstreams counted.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from tests.live import until
from tests.soak.books import accounts, check
from tests.soak.house import House, house, stamp
from tests.soak.readings import Reading, read, slope, waited_for_cpu
from tests.soak.traffic import Callers, quantile

FAULTY, LEAVING = 0.05, 0.1
READ_EVERY_S = 5.0
AT_ONCE = 256
"""Calls in progress at once, at most: on a machine that stood still the ones due wait for those before."""


@dataclass(frozen=True)
class Plan:
    """How long, how fast, and when memory is expected to have found its level."""

    seconds: float
    rate: float
    warm_s: float
    keep_s: float = 20.0
    """How long a resumable stream is kept after its end."""
    seed: int = 1


async def load(home: House, callers: Callers, plan: Plan) -> list[tuple[float, int, Reading]]:
    """Calls at their times, whatever becomes of those before. Gives (seconds, calls made, reading)."""
    loop = asyncio.get_running_loop()
    began, made, say_at = loop.time(), 0, 0.0
    readings: list[tuple[float, int, Reading]] = []
    going: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as group:
        while (now := loop.time() - began) < plan.seconds:
            while made < now * plan.rate and len(going) < AT_ONCE:
                made += 1
                task = group.create_task(callers.one(made))
                going.add(task)
                task.add_done_callback(going.discard)
            if not readings or now - readings[-1][0] >= READ_EVERY_S:
                with suppress(TimeoutError):  # a machine that stands still
                    readings.append((now, made, await asyncio.to_thread(read, home.live)))
            if now >= say_at and readings:
                say_at = now + 30
                found = readings[-1][2]
                print(f"{now:.0f} s: {made} calls, {found.rss_mb:.1f} MB, {found.descriptors} descriptors, "
                      f"{found.tasks} tasks, {dict(callers.told.count)} {dict(callers.told.codes)}",
                      file=sys.stderr, flush=True)  # fmt: skip
            await asyncio.sleep(0.005)
    callers.close()
    return readings


def soak(folder: Path, plan: Plan) -> tuple[dict[str, Any], Callers]:
    """One run, and what it showed."""
    stamped = stamp()
    with house(folder, FAULTY, plan.seed, keep_s=plan.keep_s) as home:
        keys = home.keys(8)
        first = Callers(home.live.port, keys, -1, LEAVING, keep=True)
        uvloop.run(load(home, first, Plan(3.0, min(plan.rate, 50.0), 0.0)))  # what is made once is made
        start = rest(home, None)
        callers = Callers(home.live.port, keys, plan.seed, LEAVING, keep=True)
        callers.number_from(1_000_000)
        readings = uvloop.run(load(home, callers, plan))
        end = rest(home, start)
        told = callers.told
        told.finished.update(first.told.finished)
        prompts = {**first.prompts, **callers.prompts}
        books = check(home, told, prompts)
        books["accounts"] = accounts(home.live, home, keys)
        line = {"proof": "R15 soak", **stamped, **figures(readings, plan), "start": start.plain(), "end": end.plain()}
        line |= {"outcomes": dict(told.count), "codes": dict(told.codes), "faults": sum(home.faults.values())}
        line |= {"p50_ms": round(quantile(callers.latencies, 0.5) * 1000, 1), "back": end.back_at(start)}
        line |= {"p99_ms": round(quantile(callers.latencies, 0.99) * 1000, 1), "ledger": books}
        line["waited_for_cpu_s"] = round(waited_for_cpu(home.live))
        line["bugs"] = home.live.gauge("headgate_bugs_total")
        return line, callers


def rest(home: House, start: Reading | None) -> Reading:
    """A reading once everything has come to rest: kept streams expired, idle connections closed."""
    home.settle()
    found = [read(home.live)]

    def quiet() -> bool:
        found.append(read(home.live))
        if start is None:
            return not found[-1].work and found[-1].descriptors <= min(one.descriptors for one in found)
        return found[-1].back_at(start)

    try:
        if start is None:
            time.sleep(5)  # the pool lets go of what was idle for two seconds
        until(quiet, 90.0)
    except AssertionError:
        pass  # the figures say so
    return found[-1]


def figures(readings: list[tuple[float, int, Reading]], plan: Plan) -> dict[str, Any]:
    after = [(made, found.rss_mb) for at, made, found in readings if at >= plan.warm_s] or [(0, 0.0)]
    return {
        "seconds": round(readings[-1][0]), "calls": readings[-1][1], "warm_s": plan.warm_s,
        "slope_mib_per_10k": round(slope(after) * 10_000, 3), "rss_warm_mb": round(after[0][1], 1),
        "rss_end_mb": round(after[-1][1], 1), "rss_most_mb": round(max(found.rss_mb for *_, found in readings), 1),
        "tasks_most": max(found.tasks for *_, found in readings),
        "descriptors_most": max(found.descriptors for *_, found in readings),
    }  # fmt: skip


def amiss(line: dict[str, Any], callers: Callers) -> list[str]:
    """What the proof forbids and this run showed; memory only where the run was long enough to tell."""
    found = [f"{count} {name}" for name, count in callers.told.amiss.items()]
    found += [] if line["back"] else [f"not back at the start: {line['end']} after {line['start']}"]
    found += [f"ledger: {line['ledger']['amiss']}"] if line["ledger"]["amiss"] else []
    found += [f"accounts: {line['ledger']['accounts']}"] if line["ledger"]["accounts"] else []
    found += [f"{line['bugs']} bugs"] if line["bugs"] else []
    if line["calls"] >= 30_000:
        found += ["memory rises"] if line["slope_mib_per_10k"] > 1.0 else []
        found += ["memory rose"] if line["rss_end_mb"] > 1.2 * line["rss_warm_mb"] else []
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.soak.run", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=100.0, help="calls a second")
    parser.add_argument("--warm", type=float, help="seconds after which memory is judged (default: a fourth)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    seconds = given.minutes * 60
    plan = Plan(seconds, given.rate, seconds / 4 if given.warm is None else given.warm, seed=given.seed)
    with tempfile.TemporaryDirectory() as folder:
        line, callers = soak(Path(folder), plan)
    wrong = amiss(line, callers)
    for finding in [*wrong, *callers.told.findings[:20]]:
        print(finding, file=sys.stderr)
    print(json.dumps(line))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""R21: very many marked calls, a fifth of them left at random moments: no answer with another caller's marker.

    python -m tests.soak.callers --count 1000000       # prints progress, then one line of JSON

Connections are kept on both sides; retries, rescued streams, hedges, single flight, idempotency keys, pipelining and
resumable streams are all in it, before upstreams of which 5 % of the answers are faulty.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from tests.soak.house import House, house, stamp
from tests.soak.traffic import Callers, closed_loop

FAULTY = 0.05
LEAVING = 0.2


async def ask_all(home: House, callers: Callers, count: int, width: int, seconds: float) -> int:
    loop = asyncio.get_running_loop()
    began = loop.time()
    every = max(500, count // 200)

    def say(made: int) -> None:
        if made % every == 0:
            rate, rss = made / max(0.001, loop.time() - began), home.live.rss_mb()
            line = f"{made} calls, {rate:.0f}/s, {rss:.1f} MB, {dict(callers.told.count)} {dict(callers.told.codes)}"
            print(line, file=sys.stderr, flush=True)

    return await closed_loop(callers, count, width, say, began + seconds)


def run(folder: Path, count: int, width: int, seconds: float, seed: int) -> tuple[dict[str, Any], Callers]:
    """As many of `count` calls as fit into `seconds`, and what became of them."""
    stamped = stamp()
    with house(folder, FAULTY, seed, keep_s=30.0) as home:
        callers = Callers(home.live.port, home.keys(8), seed, LEAVING)
        began = time.monotonic()
        made = uvloop.run(ask_all(home, callers, count, width, seconds))
        took = time.monotonic() - began
        home.settle()
        return {"proof": "R21 wrong caller", **stamped, **summary(home, callers, made, took)}, callers


def summary(home: House, callers: Callers, made: int, took: float) -> dict[str, Any]:
    told = callers.told
    page = home.live.get("/metrics")[1].decode()
    return {
        "calls": made, "seconds": round(took, 1),
        "foreign": told.count["foreign"], "wrong": told.count["wrong"], "cut": told.count["cut"],
        "whole": told.count["whole"], "replayed": told.count["replayed"], "left": told.count["left"],
        "errors": told.count["error"], "codes": dict(told.codes), "client_connections": callers.opened,
        "upstream_requests": home.reached, "upstream_connections": sum(up.stats()["accepted"] for up in home.ups),
        "faults": sum(home.faults.values()), "joined": _metric(page, "headgate_single_flight_total", 'result="joined"'),
        "resumed": _metric(page, "headgate_streams_resumed_total", 'result="resumed"'), **reasons(home),
        "rss_mb": round(home.live.rss_mb(), 1), "bugs": home.live.gauge("headgate_bugs_total"),
    }  # fmt: skip


def reasons(home: House) -> dict[str, int]:
    """Attempts by why they were made."""
    found: dict[str, int] = {}
    for (reason,) in home.rows("reason"):
        found[reason] = found.get(reason, 0) + 1
    return {f"attempts_{name}": count for name, count in sorted(found.items())}


def _metric(page: str, name: str, label: str) -> int:
    return int(sum(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(name + "{")
                   and label in line))  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.soak.callers", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=64, help="calls at once")
    parser.add_argument("--minutes", type=float, default=600.0, help="stop then, however many were made")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        line, callers = run(Path(folder), given.count, given.width, given.minutes * 60, given.seed)
    for finding in callers.told.findings[:20]:
        print(finding, file=sys.stderr)
    print(json.dumps(line))
    return 1 if callers.told.amiss or line["bugs"] else 0


if __name__ == "__main__":
    sys.exit(main())

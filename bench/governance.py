"""What governance costs: CPU of auth, six limits, four budget levels and metering, for one call, stage by stage.

    python -m bench.governance                    # a few seconds
    python -m bench.governance --json FILE

The real stages on real parts: the limiter in memory, the journal on disk, the metrics and the log, without HTTP and
without an upstream. CPU time of this thread, the median of many rounds; docs/performance.md explains the figures.
"""

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from headgate.app.config import Config
from headgate.app.pathway import pathway
from headgate.core.call import Call
from headgate.core.clock import SystemClock
from headgate.core.deadline import Deadline
from headgate.core.ids import Ids
from headgate.core.policy import Budget, Governed, Limit, Policy
from headgate.core.principal import KeyTable, Principal, hash_key
from headgate.core.request import ChatRequest
from headgate.core.target import Routed, Target
from headgate.core.usage import Usage
from headgate.ledger.accounts.questions import SpendQuestion
from headgate.ledger.journal import Journal
from headgate.ledger.prices import PriceBook, PriceTable, read_book
from headgate.pipeline.auth import Auth
from headgate.pipeline.course import Step
from headgate.pipeline.meter import Meter
from headgate.storage.limits.memory import MemoryLimiter
from headgate.telemetry.log import Log
from headgate.telemetry.metrics import Metrics

SECRET, KEY = b"secret of the bench", "hg-bench-key-0123456789"
HUGE = 10**12
CALLS = 500
STAGES = ("auth", "admit", "open attempt", "end attempt", "leave", "log and metrics")
LOOK_US = min(timeit.repeat(time.thread_time, number=1_000, repeat=50)) / 1_000 * 1e6
"""What looking at the clock costs, which is in every stage."""
_PRICES = """
version = "bench"
[[price]]
model = "*"
effective = 2020-01-01
input = 1.0
output = 2.0
"""


def policies() -> tuple[Governed, ...]:
    """Six limits and four budgets, too high to be reached, on all four levels."""
    pair = (Limit("requests", HUGE), Limit("tokens", HUGE))
    return (
        Governed("organization", "default", Policy(limits=pair, budgets=(Budget(8_000_000),))),
        Governed("project", "bench", Policy(limits=pair, budgets=(Budget(8_000_000),))),
        Governed("user", "ann", Policy(budgets=(Budget(8_000_000, per="day"),))),
        Governed("key", "key_1", Policy(limits=pair, budgets=(Budget(8_000_000, per="total"),))),
    )


class House:
    """The stages, and one call after the other through them."""

    def __init__(self, folder: Path, governed: tuple[Governed, ...]) -> None:
        self.clock = SystemClock()
        rng = random.Random(1)
        (folder / "prices.toml").write_text(_PRICES)
        book: PriceBook = read_book(folder / "prices.toml")
        principal = Principal("key_1", "bench", frozenset({"inference"}), user_id="ann", policies=governed)
        self.auth = Auth(self.clock, SECRET, KeyTable(1, {hash_key(SECRET, KEY): principal}))
        sink = (folder / "log").open("w")
        log = Log(self.clock, "info", sink.write)
        self.meter = Meter(self.clock, Ids(self.clock, rng), PriceTable(book), Journal(folder / "l"), Metrics(), log)
        path = pathway(Config(), self.auth, MemoryLimiter(self.clock), self._spent, self.meter, rng)
        self.admission = path.gateway.admission
        raw = msgspec.json.encode(
            {"model": "m", "messages": [{"role": "user", "content": "x" * 900}], "max_completion_tokens": 100}
        )
        self.call = Call(
            id="", operation="chat", dialect="openai", model="m", body=msgspec.json.decode(raw, type=ChatRequest),
            raw=raw, stream=False, include_usage=False, deadline=Deadline(0), received=0, credential=KEY,
        )  # fmt: skip

    async def _spent(self, questions: Sequence[SpendQuestion]) -> list[tuple[int, int]]:
        return [(0, 0) for _ in questions]

    async def one(self, number: int, spent: list[list[float]], now: Callable[[], float]) -> None:
        moment = self.clock.monotonic()
        call = msgspec.structs.replace(self.call, id=f"req_{number}", received=moment, deadline=Deadline(moment + 600))
        story = self.meter.begin(call)
        times = [now()]
        principal = self.auth.check(call.credential, "inference", call.model)
        story.principal = principal
        times.append(now())
        lease = await self.admission.admit(principal, call, lambda call: Routed((Target("a", call.model),)))
        times.append(now())
        hold = lease.first_hold()
        assert hold is not None
        attempt = story.attempt(lease.call, Step(lease.routed.targets[0], "first"), hold)
        times.append(now())
        attempt.first_piece()
        attempt.succeed(Usage(input=230, output=80))
        times.append(now())
        self.admission.leave(lease, 310)
        times.append(now())
        story.done()
        times.append(now())
        for stage, (before, after) in enumerate(itertools.pairwise(times)):
            spent[stage].append((after - before) * 1e6 - LOOK_US)


def measure(folder: Path, governed: tuple[Governed, ...], rounds: int) -> dict[str, float]:
    """Microseconds of each stage: the least of the rounds' medians, what the machine can do when it is let."""
    folder.mkdir()

    async def main() -> dict[str, float]:
        house = House(folder, governed)
        best = [float("inf")] * len(STAGES)
        for turn in range(rounds):
            spent: list[list[float]] = [[] for _ in STAGES]
            for number in range(CALLS):
                await house.one(turn * CALLS + number, spent, time.thread_time)
            best = [min(least, statistics.median(values)) for least, values in zip(best, spent, strict=True)]
        return dict(zip(STAGES, best, strict=True))

    return asyncio.run(main())


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench.governance", description="What governance costs, for one call.")
    parser.add_argument("--rounds", type=int, default=20, help=f"of {CALLS} calls each")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    except PermissionError:
        pass
    with tempfile.TemporaryDirectory() as folder:
        bare = measure(Path(folder) / "bare", (), options.rounds)
        full = measure(Path(folder) / "full", policies(), options.rounds)
    print(f"{'microseconds of CPU a call':28}{'no policies':>14}{'6 limits, 4 budgets':>22}")
    for stage in STAGES:
        print(f"{stage:28}{bare[stage]:14.1f}{full[stage]:22.1f}")
    print(f"{'together':28}{sum(bare.values()):14.1f}{sum(full.values()):22.1f}")
    if options.json:
        result = {"python": sys.version.split()[0], "no_policies": bare, "six_limits_four_budgets": full}
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()

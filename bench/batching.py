"""What do the engine's scheduler and its paged cache gain, on the bundled model or another?

    python -m bench.batching [--quick] [--rounds N] [--model FOLDER] [--json FILE]

The engine's own worker, in this process, in real time, the ways in turns:

- continuous against static batching, lengths log-normal (`batching_traces.py`): tokens a second;
- the KV cache's waste on the same lengths: places in blocks that hold no token, by places taken, mean over steps;
- conversations of several turns with and without the prefix cache: prompt tokens from the cache, time to first token;
- running streams' gaps between tokens, while prompts come of which some are ten times longer, with steps bounded in
  time and without.

Static batching waits until the longest answer of a batch is complete and computes all rows that long, as `generate` of
other libraries does; `dropping` is a kinder kind that stops computing rows that have ended.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import report
from bench.batching_traces import Asked, Told, conversations, disturbed, mixed
from headgate import engine
from headgate.core.clock import SystemClock
from headgate.engine import wire
from headgate.engine.plan import SamplingParams
from headgate.engine.settings import EngineSettings
from headgate.engine.worker.loading import load
from headgate.engine.worker.work import Worker

Row = dict[str, Any]
BUNDLED = Path(engine.__path__[0]) / "bundled" / "headgate-demo"
BATCH = 16
CLOCK = SystemClock()


class Bench:
    """One worker and what it was asked. Times are seconds since the first request was due."""

    def __init__(self, folder: Path, settings: EngineSettings) -> None:
        self.worker: Worker = load(folder, settings, CLOCK, {})[0]
        self.waste: list[float] = []
        self._told: dict[int, Told] = {}
        self._next = 0

    def play(self, asked: Sequence[Asked]) -> list[Told]:
        """Submits each when it is due and steps until all are answered."""
        waiting = sorted(asked, key=lambda one: one.at)[::-1]
        began = time.monotonic()
        played = []
        while waiting or self.worker.busy:
            while waiting and waiting[-1].at <= time.monotonic() - began:
                played.append(self.submit(waiting.pop(), began))
            if self.worker.busy:
                self.step(began)
            elif waiting:
                time.sleep(max(0.0, began + waiting[-1].at - time.monotonic()))
        return played

    def submit(self, one: Asked, began: float) -> Told:
        self._next += 1
        told = self._told[self._next] = Told(time.monotonic() - began)
        params = SamplingParams(temperature=0.0, ignore_eos=True)
        self.worker.submit(wire.Submit(self._next, (one.prompt,), params, one.tokens))
        return told

    def step(self, began: float) -> None:
        deltas = self.worker.step()
        now = time.monotonic() - began
        scheduler = self.worker.scheduler
        taken = scheduler.pool.used * scheduler.pool.block_size
        if taken:
            self.waste.append(1 - scheduler.held_tokens / taken)
        for delta in deltas:
            told = self._told[delta.request]
            told.tokens += delta.tokens
            told.times += [now] * len(delta.tokens)
            if delta.finish is not None:
                del self._told[delta.request]


def batching(folder: Path, count: int, seed: int) -> Row:
    """Tokens a second of the three ways, the same requests."""
    asked = mixed(count, seed)
    wanted = sum(one.tokens for one in asked)
    settings = EngineSettings(max_sequences=BATCH, prefix_cache=False)

    def continuous(bench: Bench) -> None:
        bench.play(asked)

    def static(bench: Bench) -> None:
        for at in range(0, count, BATCH):
            batch = asked[at : at + BATCH]
            longest = max(one.tokens for one in batch)
            bench.play([one.asking(longest) for one in batch])

    def dropping(bench: Bench) -> None:
        for at in range(0, count, BATCH):
            bench.play(asked[at : at + BATCH])

    row: Row = {"requests": count, "tokens": wanted, "mean_prompt": statistics.fmean(len(one.prompt) for one in asked)}
    ways: dict[str, Callable[[Bench], None]] = {"continuous": continuous, "static": static, "dropping": dropping}
    for name, way in ways.items():
        bench = Bench(folder, settings)
        began = time.monotonic()
        way(bench)
        row[name] = wanted / (time.monotonic() - began)
        if name == "continuous":
            row["waste"] = statistics.fmean(bench.waste)
    row["gain"] = row["continuous"] / row["static"]
    row["gain_over_dropping"] = row["continuous"] / row["dropping"]
    return row


def prefixes(folder: Path, talks: int, turns: int, seed: int) -> Row:
    """Several conversations side by side; each turn's prompt is all that was said before."""
    row: Row = {"talks": talks, "turns": turns}
    for name, cached in (("cached", True), ("uncached", False)):
        bench = Bench(folder, EngineSettings(prefix_cache=cached))
        rng = random.Random(seed)
        said = conversations(talks, rng)
        waits: list[float] = []
        later: list[float] = []
        prompts = 0
        for turn in range(turns):
            asked = [talk.next(rng) for talk in said]
            prompts += sum(len(one.prompt) for one in asked)
            told = bench.play(asked)
            for talk, answer in zip(said, told, strict=True):
                talk.heard(answer.tokens)
                waits.append(answer.times[0] - answer.asked)
            if turn:
                later += waits[-talks:]
        row[name] = {"ttft_ms": 1000 * statistics.fmean(waits), "later_ttft_ms": 1000 * statistics.fmean(later)}
        if cached:
            row["from_cache"] = bench.worker.stats().cached_tokens / prompts
    row["ttft_ratio"] = row["cached"]["ttft_ms"] / row["uncached"]["ttft_ms"]
    return row


def gaps(folder: Path, seconds: float, seed: int) -> Row:
    """p99 of the gaps between tokens of eight running streams, in milliseconds."""
    row: Row = {}
    for name, settings in (
        ("bounded", EngineSettings(prefix_cache=False, kv_cache_mib=512)),
        ("unbounded", EngineSettings(prefix_cache=False, kv_cache_mib=512, step_ms=10_000, max_batch_tokens=2048)),
    ):
        for longer in (False, True):
            bench = Bench(folder, settings)
            streams, others = disturbed(seconds, seed, longer=longer)
            told = bench.play([*streams, *others])
            found = [gap for one in told[: len(streams)] for gap in one.gaps()]
            found.sort()
            row[f"{name}_{'long' if longer else 'short'}"] = 1000 * found[int(0.99 * len(found))]
    row["bounded_ratio"] = row["bounded_long"] / row["bounded_short"]
    row["unbounded_ratio"] = row["unbounded_long"] / row["unbounded_short"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.batching", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the work: to see that it runs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", type=Path, default=BUNDLED, help="a Hugging Face folder")
    parser.add_argument("--json", type=Path, help="write rows and facts there")
    arguments = parser.parse_args()
    if "OPENBLAS_NUM_THREADS" not in os.environ:  # as the engine's process has it; NumPy reads it while it is loaded
        os.execve(sys.executable, sys.orig_argv, {**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    count, talks, turns, seconds = (32, 4, 3, 2.0) if arguments.quick else (128, 12, 8, 12.0)
    rows: dict[str, list[Row]] = {"batching": [], "prefixes": [], "gaps": []}
    for seed in range(1 if arguments.quick else arguments.rounds):
        rows["batching"].append(batching(arguments.model, count, seed))
        rows["prefixes"].append(prefixes(arguments.model, talks, turns, seed))
        rows["gaps"].append(gaps(arguments.model, seconds, seed))
        print(f"round {seed + 1} done", file=sys.stderr)
    asked = {
        "continuous by static batching, tokens/s": ("batching", "gain", 2.0, True),
        "continuous by static batching that drops ended rows": ("batching", "gain_over_dropping", None, True),
        "KV cache wasted": ("batching", "waste", 0.04, False),
        "prompt tokens from the prefix cache": ("prefixes", "from_cache", 0.8, True),
        "time to first token, with by without the cache": ("prefixes", "ttft_ratio", None, False),
        "p99 gap with prompts 10x longer, by without": ("gaps", "bounded_ratio", 2.0, False),
        "the same with steps not bounded in time": ("gaps", "unbounded_ratio", None, False),
    }
    print("| measure | median | lowest | highest | promised |\n| --- | --- | --- | --- | --- |")
    for title, (kind, field, goal, most) in asked.items():
        found = sorted(row[field] for row in rows[kind])
        promised = "-" if goal is None else f"{'at least' if most else 'at most'} {goal:g}"
        print(f"| {title} | {statistics.median(found):.3f} | {found[0]:.3f} | {found[-1]:.3f} | {promised} |")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({**report.facts({}), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

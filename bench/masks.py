"""What does holding answers to schemas cost a step?

    python -m bench.masks [--quick] [--steps N] [--json FILE]

- The bundled model, 16 sequences side by side, steps free and held to a schema in turns: the engine's own worker, in
  this process. The share of a step that masks take, and what a step and a token take longer.
- A vocabulary of 151,000 tokens, made up: masks of 16 sequences by themselves, beside the least that a model of half
  a billion parameters computes for the same step, its last matrix.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from bench import report
from headgate import engine
from headgate.core.clock import SystemClock
from headgate.engine import wire
from headgate.engine.grammars.grammar import Grammars
from headgate.engine.grammars.masks import MaskWork
from headgate.engine.plan import SamplingParams
from headgate.engine.settings import EngineSettings
from headgate.engine.worker.loading import load
from headgate.engine.worker.work import Worker

Row = dict[str, Any]
BUNDLED = Path(engine.__path__[0]) / "bundled" / "headgate-demo"
BATCH = 16
WARM_UP = 20
LARGE = 151_000
WIDTH = 896
"""Of the states that a model of half a billion parameters multiplies with its last matrix."""
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ITEM = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["one", "two", "three"]},
        "text": {"type": "string", "pattern": "^[a-z ]{5,30}$"},
    },
    "required": ["n", "kind", "text"],
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 10, "maxLength": 60},
        "items": {"type": "array", "minItems": 30, "items": ITEM},
    },
    "required": ["name", "items"],
    "additionalProperties": False,
    "x-guidance": SPACING,
}
GRAMMAR = "start: %json " + json.dumps(SCHEMA)


class Way:
    """A worker that is kept full of requests of one kind."""

    def __init__(self, grammar: str | None) -> None:
        self.worker: Worker = load(BUNDLED, EngineSettings(prefix_cache=False), SystemClock(), {})[0]
        self.seconds: list[float] = []
        self.tokens = 0
        self._grammar = grammar
        self._next = 0
        while self.worker.stats().running + self.worker.stats().waiting < BATCH:
            self._submit()

    def step(self, *, counts: bool) -> None:
        began = time.perf_counter()
        deltas = self.worker.step()
        if counts:
            self.seconds.append(time.perf_counter() - began)
            self.tokens += sum(len(delta.tokens) for delta in deltas)
        for delta in deltas:
            if delta.finish is not None:
                self._submit()

    def _submit(self) -> None:
        self._next += 1
        params = SamplingParams(temperature=1.0, seed=self._next, ignore_eos=self._grammar is None)
        prompt = tuple(range(10, 40))
        self.worker.submit(wire.Submit(self._next, (prompt,), params, 400, grammar=self._grammar))
        while self.worker.compiled is not None:
            time.sleep(0.001)
            self.worker.go_on()


def bundled(steps: int) -> Row:
    ways = {"free": Way(None), "held": Way(GRAMMAR)}
    before = {}
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            before = {name: way.worker.stats() for name, way in ways.items()}
        for way in ways.values():
            way.step(counts=step >= WARM_UP)
    row: Row = {"sequences": BATCH, "steps": steps}
    for name, way in ways.items():
        after, first = way.worker.stats(), before[name]
        row[name] = {
            "step_ms_median": 1000 * statistics.median(way.seconds),
            "step_ms_mean": 1000 * statistics.fmean(way.seconds),
            "masks_ms": 1000 * (after.mask_s - first.mask_s) / steps,
            "tokens_per_step": way.tokens / steps,
            "us_per_token": 1e6 * sum(way.seconds) / way.tokens,
        }
        way.worker.close()
    row["masks_share"] = row["held"]["masks_ms"] / row["held"]["step_ms_mean"]
    row["step_longer"] = row["held"]["step_ms_median"] / row["free"]["step_ms_median"] - 1
    return row


def large(steps: int) -> Row:
    tokenizer = made_up(LARGE)
    began = time.perf_counter()
    end = tokenizer.get_vocab()["<end>"]
    grammars = Grammars(tokenizer.to_str(), vocabulary=tokenizer.get_vocab_size(), eos_ids=(end,))
    row: Row = {"tokens": tokenizer.get_vocab_size(), "sequences": BATCH, "load_s": time.perf_counter() - began}
    began = time.perf_counter()
    matchers = [grammars.start(GRAMMAR) for _ in range(BATCH)]
    row["compile_ms"] = 1000 * (time.perf_counter() - began)
    rng, work = random.Random(1), MaskWork()
    states = np.random.default_rng(1).standard_normal((BATCH, WIDTH), dtype=np.float32)
    head = np.random.default_rng(2).standard_normal((WIDTH, LARGE), dtype=np.float32)
    masked: list[float] = []
    multiplied: list[float] = []
    for _ in range(steps):
        masks = _timed(lambda: work.start([(one, ()) for one in matchers]).result(), masked)
        _timed(lambda: states @ head, multiplied)
        for at, rows in enumerate(masks):
            allowed = np.flatnonzero(np.unpackbits(np.frombuffer(rows[0], np.uint8), bitorder="little"))
            matchers[at].consume((int(rng.choice(allowed)),))
            if matchers[at].ended or matchers[at].failed:
                matchers[at] = grammars.start(GRAMMAR)
    work.close()
    grammars.close()
    row["masks_ms_first"] = 1000 * masked[0]
    row["masks_ms_median"] = 1000 * statistics.median(masked)
    row["masks_ms_mean"] = 1000 * statistics.fmean(masked)
    row["masks_ms_p99"] = 1000 * statistics.quantiles(masked, n=100)[98]
    row["last_matrix_ms_median"] = 1000 * statistics.median(multiplied)
    return row


def _timed(work: Callable[[], Any], into: list[float]) -> Any:
    began = time.perf_counter()
    result = work()
    into.append(time.perf_counter() - began)
    return result


def made_up(size: int) -> Tokenizer:
    """A byte-level tokenizer whose tokens are random joins of others, as long as usual ones."""
    rng = random.Random(7)
    names = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {name: index for index, name in enumerate(names)}
    parts = list('etaoinshrdlucmfwypvbgkjqxzETAOINSHR0123456789.,;:"{}[]()-_\u0120') * 3
    merges: list[tuple[str, str]] = []
    while len(vocabulary) < size - 1:
        left, right = rng.choice(parts), rng.choice(parts)
        name = left + right
        if len(name) <= 14 and name not in vocabulary:
            vocabulary[name] = len(vocabulary)
            parts.append(name)
            merges.append((left, right))
    vocabulary["<end>"] = len(vocabulary)
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<end>"])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.masks")
    parser.add_argument("--quick", action="store_true", help="fewer steps")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    steps = 50 if arguments.quick else arguments.steps
    found = {"bundled": bundled(steps), "large": large(steps // 2)}
    text = json.dumps({"facts": report.facts({}), **found}, indent=2)
    print(text)
    if arguments.json is not None:
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

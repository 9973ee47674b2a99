"""What speculation gains on the bundled model, or costs: tokens per step, how many are right, and time, on and off.

    python -m bench.speculation --repeats 5 --json bench/results/speculation.json

Texts are greedy, so they are the same with and without drafts, and the same work is timed. Each workload runs off and
on in turn, in one process; of the repeats the fastest counts. Times are CPU time, so that neighbours disturb little.

The bundled model is too small to do as it is told, so `copying` shows it a text twice and begins it a third time, and
it goes on. n-gram drafts are made for that. `free` are questions, answered until the model ends.
"""

import argparse
import json
import time
from collections.abc import Sequence as Items
from functools import partial
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace
from tokenizers import Tokenizer

from bench.report import facts
from headgate.engine.limits import Limits
from headgate.engine.models.spec import ModelSpec, read_spec
from headgate.engine.models.weights import Weights, read_weights
from headgate.engine.plan import Proposer, SamplingParams
from headgate.engine.runners.numpy_runner import NumpyRunner
from headgate.engine.sampling.sampler import draft
from headgate.engine.scheduling.scheduler import Scheduler
from headgate.engine.scheduling.sequence import Sequence
from headgate.engine.speculation.draft_model import DraftModel
from headgate.engine.speculation.speculate import NGram, Pace

FOLDER = Path(__file__).parents[1] / "src/headgate/engine/bundled/headgate-demo"
PASSAGE = (
    "The harbour of the old town was built by fishermen. Every morning at six the boats come back with their catch, "
    "and the women of the quarter sell it at the wall. In winter the wind from the north closes the harbour for weeks."
)
ROWS = "\n".join(f'{{"id": {at}, "name": "item {at}", "price": {at * 10}, "stock": true}}' for at in range(1, 5))


def _again(text: str, begin: int) -> str:
    return f"{text}\n\n{text}\n\n{text[:begin]}"


COPYING, FREE = "copying", "free"
WORKLOADS: dict[str, list[str]] = {
    f"{COPYING} a passage": [_again(PASSAGE, 20), _again(PASSAGE, 60)],
    f"{COPYING} JSON": [_again(ROWS, 20), _again(ROWS, 50)],
    FREE: ["What is a gateway?", "Tell me a short story about a cat.", "Why is the sky blue?", "How do I make tea?"],
}
MOST = 64
"""The most tokens of an answer."""


class Tally:
    """A pace that also counts."""

    def __init__(self, most: int, *, adaptive: bool) -> None:
        self.pace = Pace(most)
        self._fixed = None if adaptive else most
        self.proposed = self.accepted = 0

    def length(self, key: int) -> int:
        return self.pace.length(key) if self._fixed is None else self._fixed

    def result(self, key: int, proposed: int, accepted: int) -> None:
        self.proposed += proposed
        self.accepted += accepted
        self.pace.result(key, proposed, accepted)

    def forget(self, key: int) -> None:
        self.pace.forget(key)

    def took(self, sequences: int, proposed: int, seconds: float) -> None:
        self.pace.took(sequences, proposed, seconds)


class Run(Struct, frozen=True):
    """One pass over a workload."""

    seconds: float
    tokens: int
    steps: int
    """Of each sequence, together."""
    proposed: int
    accepted: int
    texts: tuple[tuple[int, ...], ...]


class Bench:
    """The bundled model, a draft model made of its first layers, and the ways to speculate."""

    def __init__(self, most: int) -> None:
        self.spec: ModelSpec = read_spec(FOLDER)
        self.weights: Weights = read_weights(FOLDER, self.spec)
        self.tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
        self.limits = Limits(
            context_length=self.spec.context_length, vocabulary=self.spec.vocabulary, blocks=1024, block_size=8,
            max_batch_tokens=256, max_sequences=64, max_waiting=64, prefix_cache=False, draft_tokens=most,
            draft_busy=64,
        )  # fmt: skip
        self.most = most

    def runner(self, layers: int) -> NumpyRunner:
        spec = replace(self.spec, layers=layers, windows=self.spec.windows[:layers])
        weights = replace(self.weights, layers=self.weights.layers[:layers])
        return NumpyRunner(spec, weights, blocks=self.limits.blocks, block_size=self.limits.block_size)

    def proposer(self, way: str) -> Proposer | None:
        if way == "off":
            return None
        if way.startswith("ngram"):
            return NGram()
        layers = self.spec.layers if way == "draft: itself" else 2
        draw = partial(draft, vocabulary=self.spec.vocabulary)
        return DraftModel(
            self.runner(layers), draw, blocks=self.limits.blocks, block_size=self.limits.block_size, busy=64
        )

    def prompt(self, workload: str, text: str) -> tuple[int, ...]:
        if workload == FREE:
            text = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        return tuple(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def run(self, way: str, workload: str, side_by_side: int) -> Run:
        """Decodes the workload; the time of steps that read prompts is not counted."""
        tally = Tally(self.most, adaptive=not way.endswith("fixed"))
        scheduler = Scheduler(self.limits, self.proposer(way), None if way == "off" else tally)
        runner = self.runner(self.spec.layers)
        params = SamplingParams(temperature=0.0, stop_ids=self.spec.eos_ids, ignore_eos=workload != FREE)
        texts = WORKLOADS[workload]
        answers: dict[int, list[int]] = {}
        for key in range(side_by_side):
            prompt = self.prompt(workload, texts[key % len(texts)])
            scheduler.submit(Sequence(key, prompt, params, max_tokens=MOST), 0.0)
            answers[key] = []
        seconds, tokens, steps = 0.0, 0, 0
        while scheduler.busy:
            begin = time.process_time()
            plan = scheduler.plan(begin)
            assert plan is not None
            result = runner.sample(runner.forward(plan), plan.samples, (None,) * len(plan.samples))
            outputs = scheduler.apply(plan, result, time.process_time() - begin)
            took = time.process_time() - begin
            for output in outputs:
                answers[output.key].extend(output.tokens)
            if all(part.wants == len(part.tokens) for part in plan.slices):
                seconds, steps = seconds + took, steps + len(plan.slices)
                tokens += sum(len(output.tokens) for output in outputs)
        found = tuple(tuple(answer) for answer in answers.values())
        return Run(seconds, tokens, steps, tally.proposed, tally.accepted, found)


WAYS = ("off", "ngram", "ngram fixed", "draft: 2 layers", "draft: itself")


def measure(bench: Bench, repeats: int, crowds: Items[int]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for name in WORKLOADS:
        for crowd in crowds:
            best: dict[str, Run] = {}
            for _ in range(repeats):
                for way in WAYS:
                    run = bench.run(way, name, crowd)
                    if way not in best or run.seconds < best[way].seconds:
                        best[way] = run
            plain = best["off"]
            for way, run in best.items():
                rows.append(
                    {
                        "workload": name,
                        "sequences": crowd,
                        "way": way,
                        "tokens_per_step": round(run.tokens / run.steps, 2),
                        "accepted": round(run.accepted / run.proposed, 2) if run.proposed else None,
                        "tokens_per_s": round(run.tokens / run.seconds),
                        "speed_up": round(run.tokens / run.seconds / (plain.tokens / plain.seconds), 2),
                        "same_text": run.texts == plain.texts,
                    }
                )
                print(*rows[-1].values(), sep="\t", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most", type=int, default=4)
    parser.add_argument("--sequences", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    rows = measure(Bench(asked.most), asked.repeats, asked.sequences)
    if asked.json is not None:
        asked.json.write_text(json.dumps({"facts": facts({}), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

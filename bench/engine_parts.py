"""One subject of `bench.engine_speed` in a process of its own: it loads, then answers each line of JSON with another.

`python -m bench.engine_parts SUBJECT THREADS FOLDER`. Questions: {"do": "decode", "batch", "steps"}, {"do": "prefill"}
and, of the subject `memory`, {"do": "read", "bytes"}. Thread counts are set before a matrix library is loaded.
"""

import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

CONTEXT = 128
"""Tokens before the first that is timed."""
CHUNK = 512
"""Tokens of a timed prompt."""
BLOCK = 8


class Subject(Protocol):
    def decode(self, batch: int, steps: int) -> list[float]:
        """Seconds of each of `steps` steps that give every sequence a token."""

    def prefill(self) -> float:
        """Seconds for one prompt of `CHUNK` tokens."""


class Ours:
    """The NumPy runner, by plans written by hand: forward and greedy choice, as the engine's loop calls them."""

    def __init__(self, folder: Path, threads: int) -> None:
        self.plan = importlib.import_module("headgate.engine.plan")
        self.runners = importlib.import_module("headgate.engine.runners.numpy_runner")
        self.spec = importlib.import_module("headgate.engine.models.spec").read_spec(folder)
        read = importlib.import_module("headgate.engine.models.weights").read_weights
        self.weights = read(folder, self.spec, threads=threads)

    def _runner(self, sequences: int, blocks: int) -> Any:
        return self.runners.NumpyRunner(self.spec, self.weights, blocks=sequences * blocks, block_size=BLOCK)

    def decode(self, batch: int, steps: int) -> list[float]:
        plan, blocks = self.plan, -(-(CONTEXT + steps + 1) // BLOCK)
        runner = self._runner(batch, blocks)
        tables = [tuple(range(1 + index * blocks, 1 + (index + 1) * blocks)) for index in range(batch)]
        params = plan.SamplingParams(temperature=0.0)
        last: list[int] = []
        for key, table in enumerate(tables):
            prompt = plan.Slice(key, prompt_of(key, CONTEXT, self.spec.vocabulary), 0, table, 1)
            last.append(int(runner.forward(plan.StepPlan(0, (prompt,), ()))[0].argmax()))
        taken = []
        for at in range(CONTEXT, CONTEXT + steps):
            begun = time.perf_counter()
            used = at // BLOCK + 1
            slices = tuple(
                plan.Slice(key, (token,), at, table[:used], 1)
                for key, (token, table) in enumerate(zip(last, tables, strict=True))
            )
            samples = (plan.SampleSpec(params),) * batch
            step = plan.StepPlan(at, slices, samples)
            result = runner.sample(runner.forward(step), samples, (None,) * batch)
            last = [tokens[0] for tokens in result.tokens]
            taken.append(time.perf_counter() - begun)
        runner.close()
        return taken

    def prefill(self) -> float:
        blocks = CHUNK // BLOCK
        runner = self._runner(1, blocks)
        part = self.plan.Slice(0, prompt_of(0, CHUNK, self.spec.vocabulary), 0, tuple(range(1, blocks + 1)), 1)
        begun = time.perf_counter()
        runner.forward(self.plan.StepPlan(0, (part,), ()))
        taken = time.perf_counter() - begun
        runner.close()
        return taken


class Transformers:
    """A static batch with its KV cache, greedy, in a plain loop: what `generate` does, less its bookkeeping."""

    def __init__(self, folder: Path, threads: int, dtype: str) -> None:
        self.torch = importlib.import_module("torch")
        self.torch.set_num_threads(threads)
        self.torch.set_grad_enabled(False)
        models = importlib.import_module("transformers")
        self.model = models.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(self.torch, dtype)).eval()

    def _prompts(self, batch: int, length: int) -> Any:
        vocabulary = self.model.config.vocab_size
        return self.torch.tensor([prompt_of(key, length, vocabulary) for key in range(batch)])

    def decode(self, batch: int, steps: int) -> list[float]:
        out = self.model(self._prompts(batch, CONTEXT), use_cache=True, logits_to_keep=1)
        taken = []
        for _ in range(steps):
            begun = time.perf_counter()
            last = out.logits[:, -1].argmax(-1, keepdim=True)
            out = self.model(last, past_key_values=out.past_key_values, use_cache=True)
            taken.append(time.perf_counter() - begun)
        return taken

    def prefill(self) -> float:
        prompts = self._prompts(1, CHUNK)
        begun = time.perf_counter()
        self.model(prompts, use_cache=True, logits_to_keep=1)
        return time.perf_counter() - begun


def prompt_of(key: int, length: int, vocabulary: int) -> tuple[int, ...]:
    return tuple((17 * at + 101 * key + 3) % vocabulary for at in range(length))


def reading(size: int, threads: int, seconds: float = 0.5) -> float:
    """The most bytes per second at which `size` bytes were read by so many threads: sums and dot products."""
    np = importlib.import_module("numpy")
    parts = [np.ones(size // (4 * threads), dtype=np.float32) for _ in range(threads)]
    best = 0.0
    until = time.perf_counter() + seconds
    ways: tuple[Callable[[Any], Any], ...] = (np.add.reduce, lambda part: part.dot(part))
    while time.perf_counter() < until or best == 0.0:
        for way in ways:
            helpers = [threading.Thread(target=way, args=(part,)) for part in parts[1:]]
            begun = time.perf_counter()
            for helper in helpers:
                helper.start()
            way(parts[0])
            for helper in helpers:
                helper.join()
            best = max(best, size / (time.perf_counter() - begun))
    return best


def main() -> None:
    subject, threads, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    own = "1" if subject == "ours" else str(threads)  # our threads are the runner's own, not the library's
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.putenv(name, own)
    made: Subject | None = None
    if subject == "ours":
        made = Ours(folder, threads)
    elif subject != "memory":
        made = Transformers(folder, threads, subject)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        answer: Any
        match asked["do"]:
            case "read":
                answer = reading(asked["bytes"], threads)
            case "prefill" if made is not None:
                answer = made.prefill()
            case _ if made is not None:
                answer = made.decode(asked["batch"], asked["steps"])
            case _:
                raise ValueError(line)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()

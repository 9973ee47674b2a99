"""The training loop. Needs PyTorch, which only this module and those it imports need."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import msgspec
import torch
from tokenizers import Tokenizer
from torch import Tensor

from headgate.core.clock import Clock
from headgate.training import llama
from headgate.training.bpe import END
from headgate.training.evaluate import Score, score
from headgate.training.example import Example
from headgate.training.mixture import stream
from headgate.training.muon import Optimiser
from headgate.training.packing import Batch, Packer
from headgate.training.shape import Shape
from headgate.training.template import render_prompt

Report = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True):
    """How long and how to train. The run ends at `steps` steps or after `minutes`, whichever comes first.

    Learnt is what the assistant says. Early on the prompt counts a little too (`prompt_share`, down to nothing at
    the part `prompt_until` of the run): it is full of repeated names, from which the model learns to copy sooner.
    """

    steps: int = 20000
    minutes: float = 65.0
    batch_tokens: int = 1024
    batches: int = 4
    muon_rate: float = 0.005
    adam_rate: float = 0.004
    weight_decay: float = 0.02
    prompt_share: float = 0.2
    prompt_until: float = 0.5
    warm_up: float = 0.02
    cool_down: float = 0.4
    threads: int = 2
    bfloat16: bool = True
    seed: int = 1
    report_every: int = 25
    check_every: int = 300
    check_count: int = 40


class Trained(msgspec.Struct, frozen=True):
    """What a run gave: weights by name and what it took."""

    weights: dict[str, Tensor]
    steps: int
    tokens: int
    seconds: float


class _Pace:
    """What happened since the last line of progress."""

    def __init__(self, seconds: float, tokens: int) -> None:
        self._seconds, self._tokens = seconds, tokens
        self.losses: list[float] = []

    def line(self, step: int, tokens: int, seconds: float, progress: float) -> str:
        """The next line of progress, with speed and the time to go."""
        speed = (tokens - self._tokens) / max(seconds - self._seconds, 1e-9)
        left = seconds / max(progress, 1e-9) - seconds
        return (
            f"step {step}  loss {sum(self.losses) / len(self.losses):.4f}  {speed:,.0f} tokens/s  "
            f"{tokens / 1e6:.2f} M tokens  {seconds / 60:.1f} min done, {left / 60:.1f} min to go"
        )


def rate_scale(progress: float, warm_up: float, cool_down: float) -> float:
    """Warm-up, a stable stretch, then a linear way down to nothing (Hu et al. 2024, arXiv 2404.06395)."""
    if progress < warm_up:
        return max(progress, 1e-3) / warm_up
    return min(1.0, max(0.0, (1 - progress) / cool_down))


class Trainer:
    """One training run, which can stop at any step and go on from its checkpoint."""

    def __init__(self, shape: Shape, plan: Plan, tokenizer: Tokenizer, clock: Clock) -> None:
        self._shape, self._plan, self._tokenizer, self._clock = shape, plan, tokenizer, clock
        torch.set_num_threads(1)
        self.weights = llama.fresh(shape, plan.seed)
        for weight in self.weights.values():
            weight.requires_grad_()
        self._optimiser = Optimiser(
            self.weights, muon_rate=plan.muon_rate, adam_rate=plan.adam_rate, decay=plan.weight_decay
        )
        self._step, self._tokens, self._seconds = 0, 0, 0.0

    def save(self, path: Path) -> None:
        """Writes a checkpoint, replacing an older one in one move."""
        body = {
            "weights": {name: weight.detach() for name, weight in self.weights.items()},
            "optimiser": self._optimiser.state(),
            "step": self._step,
            "tokens": self._tokens,
            "seconds": self._seconds,
        }
        torch.save(body, path.with_suffix(".part"))
        path.with_suffix(".part").replace(path)

    def load(self, path: Path) -> None:
        """Goes on from a checkpoint. The text goes on under another seed, so that nothing is seen twice."""
        body = torch.load(path, weights_only=True)
        with torch.no_grad():
            for name, weight in body["weights"].items():
                self.weights[name].copy_(weight)
        self._optimiser.restore(body["optimiser"])
        self._step, self._tokens, self._seconds = body["step"], body["tokens"], body["seconds"]

    def _texts(self) -> Iterator[Example]:
        return stream(self._plan.seed * 1_000_003 + self._step)

    def _chance(self) -> random.Random:
        return random.Random(f"order/{self._plan.seed}/{self._step}")

    def _gradient(self, batch: Batch, prompt_share: float) -> tuple[float, tuple[Tensor, ...]]:
        """The summed loss of what the assistant says in one batch, and the gradients in the order of the weights."""
        ids, targets = torch.tensor(batch.ids), torch.tensor(batch.targets)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._plan.bfloat16):
            losses = llama.losses(self.weights, self._shape, ids, targets)
        said = losses[torch.tensor(batch.said)].sum()
        total = said + prompt_share * losses[torch.tensor(batch.asked)].sum() if prompt_share else said
        return float(said.detach()), torch.autograd.grad(total, list(self.weights.values()))

    def _learn(self, batches: list[Batch], progress: float, pool: Executor) -> float:
        """One step; returns the mean loss of a token the assistant says.

        Each batch is one core's work from end to end: cores shared with others then wait for each other once a step
        and not within every matrix product.
        """
        plan = self._plan
        learnt = sum(map(sum, chain.from_iterable(batch.said for batch in batches)))
        prompt_share = plan.prompt_share * max(0.0, 1 - progress / plan.prompt_until)
        total = 0.0
        for part, gradients in pool.map(lambda batch: self._gradient(batch, prompt_share), batches):
            total += part / learnt
            for weight, gradient in zip(self.weights.values(), gradients, strict=True):
                weight.grad = gradient / learnt if weight.grad is None else weight.grad.add_(gradient, alpha=1 / learnt)
        torch.nn.utils.clip_grad_norm_(list(self.weights.values()), 1.0)
        self._optimiser.step(rate_scale(progress, plan.warm_up, plan.cool_down), pool)
        return total

    def run(self, checkpoint: Path, report: Report) -> Trained:
        """Trains to the end of the plan, with a line of progress and a checkpoint now and then."""
        plan = self._plan
        began = self._clock.monotonic() - self._seconds
        steps = Packer(self._tokenizer).steps(self._texts(), self._chance(), plan.batch_tokens, plan.batches)
        pace = _Pace(self._seconds, self._tokens)
        with ThreadPoolExecutor(plan.threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            while (progress := max(self._step / plan.steps, self._seconds / (plan.minutes * 60))) < 1:
                batches = next(steps)
                pace.losses.append(self._learn(batches, progress, pool))
                self._step += 1
                self._tokens += sum(len(row) for batch in batches for row in batch.ids)
                self._seconds = self._clock.monotonic() - began
                if self._step % plan.report_every == 0:
                    report(pace.line(self._step, self._tokens, self._seconds, progress))
                    pace = _Pace(self._seconds, self._tokens)
                    self.save(checkpoint)
                if self._step % plan.check_every == 0:
                    scores = self.scores(plan.seed + 7, plan.check_count)
                    report("   ".join(f"{score.skill} {score.right}/{score.count}" for score in scores))
        self.save(checkpoint)
        return Trained({k: w.detach() for k, w in self.weights.items()}, self._step, self._tokens, self._seconds)

    def scores(self, seed: int, count: int) -> list[Score]:
        """The skill table of the weights as they are, by greedy decoding in single precision."""
        end = self._tokenizer.get_vocab()[END]

        def complete(example: Example) -> str:
            ids = self._tokenizer.encode(render_prompt(example), add_special_tokens=False).ids
            written = llama.greedy(self.weights, self._shape, [ids], end, 320)[0]
            return str(self._tokenizer.decode(written, skip_special_tokens=False))

        return score(complete, seed, count)

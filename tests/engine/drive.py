"""Runs a scheduler and a runner in this process, step by step."""

from pathlib import Path
from typing import Any

from headgate.engine.grammars.masks import MaskWork
from headgate.engine.limits import Limits
from headgate.engine.models.spec import read_spec
from headgate.engine.models.weights import read_weights
from headgate.engine.plan import Proposer, Runner, SamplingParams, StepPlan
from headgate.engine.runners.numpy_runner import NumpyRunner
from headgate.engine.scheduling.drafting import Pace
from headgate.engine.scheduling.outcome import Output
from headgate.engine.scheduling.scheduler import Scheduler
from headgate.engine.scheduling.sequence import Sequence


def limits(**changes: Any) -> Limits:
    values: dict[str, Any] = {
        "context_length": 512, "vocabulary": 97, "blocks": 64, "block_size": 8, "max_batch_tokens": 32,
        "max_sequences": 8, "max_waiting": 100,
    }  # fmt: skip
    return Limits(**{**values, **changes})


def numpy_runner(folder: Path, size: Limits) -> NumpyRunner:
    spec = read_spec(folder)
    return NumpyRunner(spec, read_weights(folder, spec), blocks=size.blocks, block_size=size.block_size)


class Engine:
    """Scheduler and runner, driven by hand; `texts` gathers what each sequence was given.

    `now` is the time handed to the scheduler: a step lasts `step_s`, as it is told, unless a runner sets `now` on.
    """

    def __init__(
        self, runner: Runner, size: Limits, proposer: Proposer | None = None, pace: Pace | None = None
    ) -> None:
        self.scheduler = Scheduler(size, proposer, pace)
        self.runner = runner
        self.masks = MaskWork()
        self.texts: dict[int, list[int]] = {}
        self.finished: dict[int, str] = {}
        self.cached: dict[int, int] = {}
        self.now = 0.0
        self.step_s = 0.0
        self._next = 0

    def submit(self, prompt: list[int], max_tokens: int, params: SamplingParams | None = None, choice: int = 0) -> int:
        params = params or SamplingParams(temperature=0.0)
        return self.add(Sequence(self._next, tuple(prompt), params, max_tokens=max_tokens, choice=choice))

    def add(self, sequence: Sequence, parent: int | None = None) -> int:
        """Submits a sequence made by hand; its key is the number of those submitted before."""
        assert sequence.key == self._next
        self._next += 1
        self.scheduler.submit(sequence, self.now, parent=parent)
        self.texts[sequence.key] = []
        return sequence.key

    @property
    def next_key(self) -> int:
        return self._next

    def step(self) -> list[Output]:
        plan = self.scheduler.plan(self.now)
        return [] if plan is None else self.compute(plan)

    def compute(self, plan: StepPlan) -> list[Output]:
        before = self.now
        logits = self.runner.forward(plan)
        result = self.runner.sample(logits, plan.samples, self.masks.start(self.scheduler.held(plan)).result())
        self.now += self.step_s
        outputs = self.scheduler.apply(plan, result, self.now - before)
        for output in outputs:
            assert output.key not in self.finished
            assert (output.cached_tokens is not None) == (not self.texts[output.key])
            self.texts[output.key].extend(output.tokens)
            if output.cached_tokens is not None:
                self.cached[output.key] = output.cached_tokens
            if output.finish is not None:
                self.finished[output.key] = output.finish
        return outputs

    def run(self) -> dict[int, list[int]]:
        while self.scheduler.busy:
            self.step()
        return self.texts

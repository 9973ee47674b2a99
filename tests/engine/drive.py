"""Runs a scheduler and a runner in this process, step by step."""

from pathlib import Path

from headgate.engine.limits import Limits
from headgate.engine.models.spec import read_spec
from headgate.engine.models.weights import read_weights
from headgate.engine.plan import Runner, SamplingParams
from headgate.engine.runners.numpy_runner import NumpyRunner
from headgate.engine.scheduler import Output, Scheduler
from headgate.engine.sequence import Sequence


def limits(**changes: int) -> Limits:
    values = {
        "context_length": 512, "vocabulary": 97, "blocks": 64, "block_size": 8, "max_batch_tokens": 32,
        "max_sequences": 8, "max_waiting": 100,
    }  # fmt: skip
    return Limits(**{**values, **changes})


def numpy_runner(folder: Path, size: Limits) -> NumpyRunner:
    spec = read_spec(folder)
    return NumpyRunner(spec, read_weights(folder, spec), blocks=size.blocks, block_size=size.block_size)


class Engine:
    """Scheduler and runner, driven by hand; `texts` gathers what each sequence was given."""

    def __init__(self, runner: Runner, size: Limits) -> None:
        self.scheduler = Scheduler(size)
        self.runner = runner
        self.texts: dict[int, list[int]] = {}
        self.finished: dict[int, str] = {}
        self._next = 0

    def submit(self, prompt: list[int], max_tokens: int, params: SamplingParams | None = None, choice: int = 0) -> int:
        key = self._next
        self._next += 1
        params = params or SamplingParams(temperature=0.0)
        self.scheduler.submit(Sequence(key, tuple(prompt), params, max_tokens=max_tokens, choice=choice))
        self.texts[key] = []
        return key

    def step(self) -> list[Output]:
        plan = self.scheduler.plan()
        if plan is None:
            return []
        outputs = self.scheduler.apply(
            plan, self.runner.sample(self.runner.forward(plan), plan.samples, self.scheduler.masks(plan))
        )
        for output in outputs:
            assert output.key not in self.finished
            self.texts[output.key].append(output.token)
            if output.finish is not None:
                self.finished[output.key] = output.finish
        return outputs

    def run(self) -> dict[int, list[int]]:
        while self.scheduler.busy:
            self.step()
        return self.texts

"""What an engine process does with its requests: their choices become sequences, each step gives their new tokens."""

from headgate.core.clock import Clock
from headgate.core.errors import BadCall, HeadgateError
from headgate.engine import wire
from headgate.engine.grammar import Grammars
from headgate.engine.metrics import EngineStats
from headgate.engine.outcome import Output
from headgate.engine.plan import Constraint, Runner
from headgate.engine.scheduler import Scheduler
from headgate.engine.sequence import Sequence


class Worker:
    """Maps requests and their choices to sequences, and runs them."""

    def __init__(self, scheduler: Scheduler, runner: Runner, clock: Clock, grammars: Grammars | None = None) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._clock = clock
        self._grammars = grammars
        self._keys: dict[tuple[int, int], int] = {}
        self._owners: dict[int, tuple[int, int]] = {}
        self._next_key = 0
        self._plan_s = self._forward_s = self._sample_s = 0.0

    @property
    def busy(self) -> bool:
        return self._scheduler.busy

    def submit(self, message: wire.Submit) -> None:
        """Raises `HeadgateError` where the scheduler refuses; then none of the choices runs."""
        now = self._clock.monotonic()
        try:
            for choice in range(len(message.prompts) * message.choices):
                prompt = message.prompts[choice // message.choices]
                first = choice - choice % message.choices  # of the same prompt
                self._scheduler.limits.refuse_tokens(prompt)
                sequence = Sequence(
                    self._next_key,
                    prompt,
                    message.params,
                    max_tokens=message.max_tokens,
                    choice=choice,
                    constraint=self._constraint(message.grammar),
                    share=message.share,
                )
                self._scheduler.submit(sequence, now, parent=self._keys.get((message.request, first)))
                self._next_key += 1
                self._keys[message.request, choice] = sequence.key
                self._owners[sequence.key] = (message.request, choice)
        except HeadgateError:
            self.cancel(wire.Cancel(message.request))
            raise

    def _constraint(self, grammar: str | None) -> Constraint | None:
        if grammar is None:
            return None
        if self._grammars is None:
            raise BadCall("This model's tokenizer cannot be used with grammars.")
        return self._grammars.start(grammar)

    def cancel(self, message: wire.Cancel) -> None:
        """What has ended meanwhile is none of its business."""
        if message.choice is not None:
            owners = [(message.request, message.choice)]
        else:
            owners = [owner for owner in self._keys if owner[0] == message.request]
        for owner in owners:
            key = self._keys.pop(owner, None)
            if key is not None:
                del self._owners[key]
                self._scheduler.cancel(key)

    def step(self) -> list[wire.Delta]:
        start = self._clock.monotonic()
        plan = self._scheduler.plan(start)
        if plan is None:
            return []
        planned = self._clock.monotonic()
        logits = self._runner.forward(plan)
        computed = self._clock.monotonic()
        result = self._runner.sample(logits, plan.samples, self._scheduler.masks(plan))
        self._plan_s += planned - start
        self._forward_s += computed - planned
        sampled = self._clock.monotonic()
        self._sample_s += sampled - computed
        return [self._delta(output) for output in self._scheduler.apply(plan, result, sampled - planned)]

    def stats(self) -> EngineStats:
        scheduler, counters = self._scheduler, self._scheduler.counters
        return EngineStats(
            scheduler.running,
            scheduler.waiting,
            scheduler.pool.used,
            scheduler.pool.total,
            counters.prompt_tokens,
            counters.generated_tokens,
            counters.computed_tokens,
            counters.preemptions,
            counters.steps,
            self._plan_s,
            self._forward_s,
            self._sample_s,
        )

    def _delta(self, output: Output) -> wire.Delta:
        owner = self._owners[output.key]
        if output.finish is not None:
            del self._owners[output.key], self._keys[owner]
        scores = None if output.scores is None else list(output.scores)
        return wire.Delta(*owner, list(output.tokens), scores, output.finish)

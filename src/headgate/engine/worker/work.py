"""What an engine process does with its requests: their choices become sequences, each step gives their new tokens."""

from collections.abc import Callable

from msgspec import Struct

from headgate.core.clock import Clock
from headgate.core.errors import BadCall, HeadgateError
from headgate.engine import wire
from headgate.engine.grammars.grammar import Grammars, Ticket
from headgate.engine.grammars.masks import MaskWork
from headgate.engine.metrics import EngineStats
from headgate.engine.plan import Constraint, Runner
from headgate.engine.scheduling.outcome import Output
from headgate.engine.scheduling.scheduler import Scheduler
from headgate.engine.scheduling.sequence import Sequence
from headgate.engine.worker.observe import Observer

NewConstraint = Callable[[], Constraint | None]


class _Seconds(Struct):
    """Where the time of all steps went."""

    plan: float = 0.0
    forward: float = 0.0
    masks: float = 0.0
    sample: float = 0.0


class Worker:
    """Maps requests and their choices to sequences, and runs them. A request whose grammar is still being compiled is
    held back meanwhile; what is said about requests beside their tokens is gathered in `answers`.
    """

    def __init__(self, scheduler: Scheduler, runner: Runner, clock: Clock, grammars: Grammars | None = None) -> None:
        self.scheduler = scheduler
        self.answers: list[wire.Refusal | wire.Accepted] = []
        """To be sent and taken out before the next message is taken in."""
        self._runner = runner
        self._clock = clock
        self._grammars = grammars
        self._masks = MaskWork()
        self._observer = Observer(clock)
        self._keys: dict[int, dict[int, int]] = {}  # request: choice: sequence
        self._owners: dict[int, tuple[int, int]] = {}
        self._held: dict[int, tuple[wire.Submit, Ticket]] = {}
        self._next_key = 0
        self._spent = _Seconds()

    @property
    def busy(self) -> bool:
        return self.scheduler.busy

    @property
    def compiled(self) -> Grammars | None:
        """Readable where a grammar has become ready that was waited for; then `go_on`."""
        return self._grammars if self._held else None

    def submit(self, message: wire.Submit) -> None:
        """Takes a request in, or refuses it, or holds it back until its grammar is compiled."""
        if message.grammar is None:
            self._begin(message, lambda: None)
            return
        try:
            if self._grammars is None:
                raise BadCall("This model's tokenizer cannot be used with grammars.")
            ticket = self._grammars.ask(message.grammar, message.share.tenant)
        except HeadgateError as error:
            self._refuse(message, error)
            return
        self._held[message.request] = (message, ticket)
        if ticket.ready:
            self.go_on()

    def go_on(self) -> None:
        """Begins what was held back and has its grammar now."""
        if self._grammars is not None and self._grammars.pending:
            self._grammars.poll()
        for request, (message, ticket) in list(self._held.items()):
            if ticket.ready:
                del self._held[request]
                self._begin(message, ticket.matcher)

    def cancel(self, message: wire.Cancel) -> None:
        """What has ended meanwhile is none of its business."""
        self._held.pop(message.request, None)
        choices = self._keys.get(message.request, {})
        leaving = list(choices) if message.choice is None else [message.choice]
        for choice in leaving:
            if choice in choices:
                key = choices[choice]
                self._forget(message.request, choice)
                self.scheduler.cancel(key)
                self._observer.cancelled(key)

    def step(self) -> list[wire.Delta]:
        """One step, where there is anything to do; its new tokens."""
        clock, spent = self._clock, self._spent
        start = clock.monotonic()
        plan = self.scheduler.plan(start)
        if plan is None:
            return []
        masks = self._masks.start(self.scheduler.held(plan))  # the rest of it beside the forward pass
        self._observer.planned(plan)
        planned = clock.monotonic()
        logits = self._runner.forward(plan)
        computed = clock.monotonic()
        allowed = masks.result()
        masked = clock.monotonic()
        result = self._runner.sample(logits, plan.samples, allowed)
        now = clock.monotonic()
        spent.plan += planned - start
        spent.forward += computed - planned
        spent.masks += masked - computed
        spent.sample += now - masked
        return [self._delta(output, now) for output in self.scheduler.apply(plan, result, now - start)]

    def stats(self) -> EngineStats:
        scheduler, counters, spent = self.scheduler, self.scheduler.counters, self._spent
        return EngineStats(
            running=scheduler.running,
            waiting=scheduler.waiting + len(self._held),
            kv_blocks_used=scheduler.pool.used,
            kv_blocks_total=scheduler.pool.total,
            prompt_tokens=counters.prompt_tokens,
            generated_tokens=counters.generated_tokens,
            computed_tokens=counters.computed_tokens,
            preemptions=counters.preemptions,
            steps=counters.steps,
            plan_s=spent.plan,
            forward_s=spent.forward,
            sample_s=spent.sample,
            mask_s=spent.masks,
            cached_tokens=counters.cached_tokens,
            prefix_queries=counters.prefix_queries,
            prefix_hits=counters.prefix_hits,
            drafts=counters.drafts,
            draft_tokens=counters.draft_tokens,
            accepted_tokens=counters.accepted_tokens,
        )

    def report(self) -> wire.Report:
        """One step, and how things stand after it."""
        deltas = self.step()
        return wire.Report(deltas, self.stats(), self._observer.report(resting=not self.busy))

    def close(self) -> None:
        """Ends its threads and the processes that compile grammars."""
        self._masks.close()
        if self._grammars is not None:
            self._grammars.close()

    def _begin(self, message: wire.Submit, constraint: NewConstraint) -> None:
        """All choices of a request, or none."""
        now = self._clock.monotonic()
        choices = self._keys[message.request] = {}
        try:
            for place, prompt in enumerate(message.prompts):
                self.scheduler.limits.refuse_tokens(prompt)
                first: int | None = None
                for choice in range(place * message.choices, (place + 1) * message.choices):
                    key = self._next_key
                    sequence = Sequence(
                        key,
                        prompt,
                        message.params,
                        max_tokens=message.max_tokens,
                        choice=choice,
                        constraint=constraint(),
                        share=message.share,
                    )
                    self.scheduler.submit(sequence, now, parent=first)
                    self._next_key += 1
                    choices[choice] = key
                    self._owners[key] = (message.request, choice)
                    self._observer.submitted(key, len(prompt))
                    first = key if first is None else first
        except HeadgateError as error:
            self.cancel(wire.Cancel(message.request))
            self._keys.pop(message.request, None)
            self._refuse(message, error)
            return
        if message.grammar is not None:
            self.answers.append(wire.Accepted(message.request))

    def _refuse(self, message: wire.Submit, error: HeadgateError) -> None:
        self.answers.append(wire.Refusal(message.request, error.message, isinstance(error, BadCall)))

    def _delta(self, output: Output, now: float) -> wire.Delta:
        request, choice = self._owners[output.key]
        self._observer.drew(output.key, len(output.tokens), now, output.finish)
        if output.finish is not None:
            self._forget(request, choice)
        scores = None if output.scores is None else list(output.scores)
        return wire.Delta(request, choice, list(output.tokens), scores, output.finish, output.cached_tokens)

    def _forget(self, request: int, choice: int) -> None:
        choices = self._keys[request]
        del self._owners[choices.pop(choice)]
        if not choices:
            del self._keys[request]

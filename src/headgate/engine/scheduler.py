"""The scheduler: each step hands out a budget of tokens to sequences that know more tokens than are computed.

One rule, no phases. Running sequences come first, single decodes before chunks of prompts; what is left of the budget
admits waiting ones, first come first served. When blocks run out, the latest arrival gives its own back and computes
again later (preemption by recompute, as in vLLM). Progress is certain: the oldest running sequence is never preempted
for another, and what could not fit alone is refused at submit.

Everything here is a synchronous function of the state; `plan` and `apply` alternate.
"""

from collections import deque

from msgspec import Struct

from headgate.core.errors import Overloaded
from headgate.engine.blocks import BlockPool
from headgate.engine.limits import Limits
from headgate.engine.plan import Masks, SampleSpec, Score, Slice, StepPlan, StepResult
from headgate.engine.sequence import Sequence, State


class Output(Struct, frozen=True):
    """One new token of one sequence; `finish` is set on its last."""

    key: int
    token: int
    score: Score | None
    finish: str | None


class Counters(Struct):
    """Totals since the start."""

    prompt_tokens: int = 0
    """Prompt tokens of admitted sequences, each counted once however often it was computed."""
    generated_tokens: int = 0
    computed_tokens: int = 0
    preemptions: int = 0
    steps: int = 0


class Scheduler:
    """Decides what runs. Owns all sequences and the block pool."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.pool = BlockPool(limits.blocks, limits.block_size)
        self.counters = Counters()
        self._sequences: dict[int, Sequence] = {}
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # by arrival, oldest first
        self._planned: frozenset[int] = frozenset()
        self._dropped: list[Sequence] = []

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        return bool(self._running or self._waiting)

    def submit(self, sequence: Sequence) -> None:
        """Raises `BadCall` for what never fits, `Overloaded` when the queue is full."""
        self.limits.refuse(sequence.prompt_length, sequence.max_tokens)
        if len(self._sequences) >= self.limits.max_sequences + self.limits.max_waiting:
            raise Overloaded("The engine's queue is full.", retry_after=1.0)
        self._sequences[sequence.key] = sequence
        self._waiting.append(sequence)

    def cancel(self, key: int) -> bool:
        """Ends a sequence; its blocks come back at once, or after the step in flight that writes to them."""
        sequence = self._sequences.pop(key, None)
        if sequence is None:
            return False
        if sequence.state is State.WAITING:
            self._waiting.remove(sequence)
        else:
            self._running.remove(sequence)
        sequence.move(State.FINISHED)
        if key in self._planned:
            self._dropped.append(sequence)
        else:
            self._free(sequence)
        return True

    def plan(self) -> StepPlan | None:
        """The next step, or None where nothing is to be done."""
        if self._planned:
            raise RuntimeError("a plan is still in flight")
        chosen: dict[int, int] = {}
        budget, preempted = self._continue_running(chosen)
        if not preempted:
            self._admit(chosen, budget)
        if not chosen:
            return None
        self.counters.steps += 1
        return self._plan_of(chosen)

    def masks(self, plan: StepPlan) -> Masks:
        """What each sample of the plan may draw."""
        wanting = (self._sequences[part.key].constraint for part in plan.slices if part.wants)
        return tuple(None if constraint is None else constraint.masks() for constraint in wanting)

    def apply(self, plan: StepPlan, result: StepResult) -> list[Output]:
        """Takes in what the runner computed; the new tokens, in the plan's order."""
        self._planned = frozenset()
        for sequence in self._dropped:
            self._free(sequence)
        self._dropped.clear()
        outputs: list[Output] = []
        drawn = iter(zip(result.tokens, result.scores, strict=True))
        for part in plan.slices:
            sample = next(drawn) if part.wants else None
            if part.key not in self._sequences:
                continue  # cancelled while the step ran
            sequence = self._sequences[part.key]
            sequence.computed += len(part.tokens)
            self.counters.computed_tokens += len(part.tokens)
            if sample is not None:
                outputs.append(self._extend(sequence, *sample))
        return outputs

    def _extend(self, sequence: Sequence, tokens: tuple[int, ...], scores: tuple[Score, ...] | None) -> Output:
        (token,), score = tokens, None if scores is None else scores[0]
        sequence.append(token)
        self.counters.generated_tokens += 1
        finish = sequence.finish_reason(token)
        if finish is not None:
            del self._sequences[sequence.key]
            self._running.remove(sequence)
            sequence.move(State.FINISHED)
            self._free(sequence)
        return Output(sequence.key, token, score, finish)

    def _continue_running(self, chosen: dict[int, int]) -> tuple[int, bool]:
        """Gives running sequences their tokens; the budget left, and whether any sequence had to go."""
        budget, preempted = self.limits.max_batch_tokens, False
        for sequence in sorted(self._running, key=lambda one: one.pending > 1):
            if budget == 0:
                break
            while sequence.state is State.RUNNING and not self._grow(sequence):
                victim = self._running[-1]
                budget += chosen.pop(victim.key, 0)
                self._preempt(victim)
                preempted = True
            if sequence.state is State.RUNNING:
                chosen[sequence.key] = min(sequence.pending, budget)
                budget -= chosen[sequence.key]
        return budget, preempted

    def _admit(self, chosen: dict[int, int], budget: int) -> None:
        """Admits waiting sequences in order while budget, places and blocks last.

        All blocks of a sequence's known tokens are taken here, so that a prompt that was begun can be finished.
        One block per running sequence stays free, so that the next decodes do not at once preempt the newcomer.
        """
        while budget and self._waiting and len(self._running) < self.limits.max_sequences:
            sequence = self._waiting[0]
            needed = self.pool.blocks_for(len(sequence.tokens))
            if self._running and needed + len(self._running) > self.pool.free:
                return
            blocks = self.pool.take(needed)
            if blocks is None:
                return
            self._waiting.popleft()
            sequence.table = blocks
            sequence.move(State.RUNNING)
            self._running.append(sequence)
            self._running.sort(key=lambda one: one.key)
            if not sequence.admitted:
                sequence.admitted = True
                self.counters.prompt_tokens += sequence.prompt_length
            chosen[sequence.key] = min(sequence.pending, budget)
            budget -= chosen[sequence.key]

    def _grow(self, sequence: Sequence) -> bool:
        """Makes sure that the table has a place for every known token."""
        missing = self.pool.blocks_for(len(sequence.tokens)) - len(sequence.table)
        if missing <= 0:
            return True
        blocks = self.pool.take(missing)
        if blocks is None:
            return False
        sequence.table.extend(blocks)
        return True

    def _preempt(self, sequence: Sequence) -> None:
        self._running.remove(sequence)
        sequence.move(State.WAITING)
        sequence.computed = 0
        self._free(sequence)
        # It arrived before everything that still waits, except what was preempted before it.
        index = next((i for i, other in enumerate(self._waiting) if other.key > sequence.key), len(self._waiting))
        self._waiting.insert(index, sequence)
        self.counters.preemptions += 1

    def _free(self, sequence: Sequence) -> None:
        self.pool.release(sequence.table)
        sequence.table = []

    def _plan_of(self, chosen: dict[int, int]) -> StepPlan:
        slices: list[Slice] = []
        samples: list[SampleSpec] = []
        for key, count in chosen.items():
            sequence = self._sequences[key]
            start, end = sequence.computed, sequence.computed + count
            wants = int(end == len(sequence.tokens))
            held = self.pool.blocks_for(end)
            slices.append(Slice(key, tuple(sequence.tokens[start:end]), start, tuple(sequence.table[:held]), wants))
            if wants:
                samples.append(sequence.sample_spec())
        self._planned = frozenset(chosen)
        return StepPlan(self.counters.steps, tuple(slices), tuple(samples))

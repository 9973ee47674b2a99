"""One sequence on its way through the scheduler.

  submit            admitted              stop, length
─────────► WAITING ─────────► RUNNING ───────────────► FINISHED
              ▲  │               │  │                     ▲
              │  └── cancelled ──┼──┼─── cancelled ───────┤
              └──── preempted ───┘
"""

from collections import Counter
from enum import Enum

from headgate.engine.plan import Constraint, SampleSpec, SamplingParams


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


MOVES: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.RUNNING, State.FINISHED}),
    State.RUNNING: frozenset({State.WAITING, State.FINISHED}),
    State.FINISHED: frozenset(),
}


class Sequence:
    """Known tokens, how many of them are computed, and the blocks that hold those. Owned by the scheduler."""

    def __init__(
        self,
        key: int,
        prompt: tuple[int, ...],
        params: SamplingParams,
        *,
        max_tokens: int,
        choice: int = 0,
        constraint: Constraint | None = None,
    ) -> None:
        self.key = key
        """Unique, and rising by arrival."""
        self.prompt_length = len(prompt)
        self.tokens = list(prompt)
        self.params = params
        self.max_tokens = max_tokens
        self.choice = choice
        self.constraint = constraint
        self.computed = 0
        self.table: list[int] = []
        self.state = State.WAITING
        self.admitted = False
        """It has run before, even if it was preempted since."""
        penalised = params.penalised
        self._counts: Counter[int] | None = Counter() if penalised else None
        self._prompt_tokens = tuple(sorted(set(prompt))) if params.repetition_penalty != 1.0 else ()

    @property
    def pending(self) -> int:
        """Known tokens not yet computed."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    def move(self, to: State) -> None:
        if to not in MOVES[self.state]:
            raise RuntimeError(f"sequence {self.key} cannot go from {self.state.value} to {to.value}")
        self.state = to

    def append(self, token: int) -> None:
        self.tokens.append(token)
        if self._counts is not None:
            self._counts[token] += 1
        if self.constraint is not None:
            self.constraint.consume((token,))

    def sample_spec(self) -> SampleSpec:
        counts = () if self._counts is None else tuple(self._counts.items())
        return SampleSpec(self.params, self.choice, self.generated, counts, self._prompt_tokens)

    def finish_reason(self, token: int) -> str | None:
        """Why the sequence ends with the token just appended, or None."""
        ended = not self.params.ignore_eos and token in self.params.stop_ids
        if self.constraint is not None:
            if self.constraint.failed:
                return "failed"
            ended = self.constraint.ended
        if ended:
            return "stop"
        return "length" if self.generated >= self.max_tokens else None

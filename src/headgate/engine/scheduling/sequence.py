"""One sequence on its way through the scheduler.

  submit            admitted              stop, length
─────────► WAITING ─────────► RUNNING ───────────────► FINISHED
              ▲  │               │  │                     ▲
              │  └── cancelled ──┼──┼─── cancelled ───────┤
              └──── preempted ───┘
"""

from collections import Counter
from enum import Enum

from headgate.engine.plan import NOBODY, Constraint, Draft, SampleSpec, SamplingParams, Share

OUTPUT_WEIGHT = 2
"""What a token that was drawn costs beside one that was read."""


class State(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


MOVES: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.RUNNING, State.FINISHED}),
    State.RUNNING: frozenset({State.WAITING, State.FINISHED}),
    State.FINISHED: frozenset(),
}


class Account:
    """What one tenant was given, weighted, and how many of its sequences there are."""

    __slots__ = ("sequences", "served", "waiting")

    def __init__(self) -> None:
        self.served = 0.0
        self.sequences = 0
        self.waiting = 0


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
        share: Share = NOBODY,
    ) -> None:
        self.key = key
        """Unique, and rising by arrival."""
        self.prompt_length = len(prompt)
        self.tokens = list(prompt)
        self.params = params
        self.max_tokens = max_tokens
        self.choice = choice
        self.constraint = constraint
        self.share = share
        self.state = State.WAITING
        self._counts: Counter[int] | None = Counter() if params.penalised else None
        self._prompt_tokens = tuple(sorted(set(prompt))) if params.repetition_penalty != 1.0 else ()

        self.computed = 0
        self.table: tuple[int, ...] = ()
        self.digests: list[bytes] = []
        """Of its full blocks, as far as they were asked for."""
        self.indexed = 0
        """So many blocks of the table need not be indexed any more."""

        self.arrived = 0.0
        self.order: tuple[float, int] = (0.0, key)
        """Who of two sequences stays when blocks are short: the lesser. It never changes."""
        self.length = 0
        """How much it asked for when it began to wait: its known tokens, and those it may yet draw, weighted."""
        self.account = Account()
        self.parent: int | None = None
        self.admitted = False
        """It has run before, even if it was preempted since."""
        self.cached_tokens = 0
        """So many tokens of the prompt were not computed for it when it was first admitted."""

    @property
    def pending(self) -> int:
        """Known tokens not yet computed."""
        return len(self.tokens) - self.computed

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_length

    def same_prompt(self, other: "Sequence") -> bool:
        """The other one may begin with this one's blocks."""
        mine, theirs = self.tokens[: self.prompt_length], other.tokens[: other.prompt_length]
        return mine == theirs and self.share.salt == other.share.salt

    def move(self, to: State) -> None:
        if to not in MOVES[self.state]:
            raise RuntimeError(f"sequence {self.key} cannot go from {self.state.value} to {to.value}")
        self.state = to

    def append(self, token: int) -> str | None:
        """One more token is known: why the sequence ends with it, or None."""
        self.tokens.append(token)
        if self._counts is not None:
            self._counts[token] += 1
        ended = token in self.params.stop_ids and not self.params.ignore_eos
        if self.constraint is not None:
            self.constraint.consume((token,))
            if self.constraint.failed:
                return "failed"
            ended = self.constraint.ended or (ended and self.generated >= self.params.min_tokens)
        if ended:
            return "stop"
        return "length" if len(self.tokens) - self.prompt_length >= self.max_tokens else None

    def sample_spec(self, draft: Draft | None = None) -> SampleSpec:
        counts = () if self._counts is None else tuple(self._counts.items())
        position = len(self.tokens) - self.prompt_length
        return SampleSpec(self.params, self.choice, position, counts, self._prompt_tokens, draft)

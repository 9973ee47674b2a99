"""The one border between deciding and computing: immutable plans go to a runner, results come back.

The scheduler above this border imports no array library and knows no model; a runner below it knows no requests.
Every sequence has tokens that are *known* and tokens whose keys and values are *computed*; a step closes the gap by
handing out a budget of tokens, so that prompts, chunks of prompts and single decoded tokens are one case
(the scheduling rule of vLLM v1).
"""

from typing import Any, Protocol

from msgspec import Struct

GREEDY_BELOW = 1e-5
"""Temperatures below this draw the most likely token."""


class SamplingParams(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is drawn. The order of the filters is written in `sampling.py`."""

    temperature: float = 1.0
    top_k: int = 0
    """Keep the k most likely tokens; 0 keeps all."""
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    seed: int = 0
    logprobs: int | None = None
    """How many alternatives to report beside the chosen token; None reports nothing."""
    stop_ids: tuple[int, ...] = ()
    """Tokens that end the sequence when drawn."""
    ignore_eos: bool = False
    """Draw on through `stop_ids`: only the length ends the sequence."""
    min_tokens: int = 0
    """`stop_ids` cannot be drawn before this many tokens."""

    @property
    def penalised(self) -> bool:
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0 or self.repetition_penalty != 1.0


class Slice(Struct, frozen=True):
    """One sequence's part of a step: `tokens` at positions `start`..., with the blocks that hold all its positions."""

    key: int
    tokens: tuple[int, ...]
    start: int
    table: tuple[int, ...]
    wants: bool
    """True where the last token's logits are needed: not in the midst of a prompt."""


class SampleSpec(Struct, frozen=True):
    """How to draw one row. Random numbers depend on (seed, choice, position) and nothing else."""

    params: SamplingParams
    choice: int = 0
    position: int = 0
    """How many tokens the sequence has generated before this one."""
    output_counts: tuple[tuple[int, int], ...] = ()
    """(token, how often) of what was generated; filled only where a penalty needs it."""
    prompt_tokens: tuple[int, ...] = ()
    """The distinct tokens of the prompt; filled only where the repetition penalty needs them."""
    mask: bytes | None = None
    """One bit per token, the lowest first: which are allowed. None: all are."""


class StepPlan(Struct, frozen=True):
    """What to compute now: decodes first, then chunks of prompts. `samples` are in the order of slices that want."""

    number: int
    slices: tuple[Slice, ...]
    samples: tuple[SampleSpec, ...]

    @property
    def tokens(self) -> int:
        return sum(len(part.tokens) for part in self.slices)


class Score(Struct, frozen=True, array_like=True):
    """Natural-log probability of a drawn token before any filter, and of the most likely ones."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class StepResult(Struct, frozen=True):
    """The drawn tokens, one per sample of the plan."""

    tokens: tuple[int, ...]
    scores: tuple[Score | None, ...]


class Constraint(Protocol):
    """What keeps a sequence's text to a form (`grammar.py`)."""

    def mask(self) -> bytes: ...

    def consume(self, token: int) -> None: ...

    @property
    def ended(self) -> bool: ...

    @property
    def failed(self) -> bool: ...


class Runner(Protocol):
    """Computes plans. Two calls, so that work between them (grammar masks) can overlap a device's.

    `forward` writes keys and values of the plan's tokens and returns logits of the wanted rows, as an array of the
    runner's own kind; `sample` draws from them.
    """

    def forward(self, plan: StepPlan) -> Any: ...

    def sample(self, logits: Any, samples: tuple[SampleSpec, ...]) -> StepResult: ...

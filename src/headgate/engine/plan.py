"""The one border between deciding and computing: immutable plans go to a runner, results come back.

The scheduler above this border imports no array library and knows no model; a runner below it knows no requests.
Every sequence has tokens that are *known* and tokens whose keys and values are *computed*; a step closes the gap by
handing out a budget of tokens, so that prompts, chunks of prompts and single decoded tokens are one case
(the scheduling rule of vLLM v1).
"""

from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

GREEDY_BELOW = 1e-5
"""Temperatures below this draw the most likely token."""


class SamplingParams(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the next token is drawn. The order of the filters is written in `sampling/sampler.py`."""

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
    seeded: bool = False
    """The caller chose the seed: the text must then not depend on whether tokens were speculated."""
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


class Share(Struct, frozen=True):
    """On whose behalf a sequence runs: how it shares the engine with others."""

    tenant: str = ""
    """Whose turn it is, is fair between tenants."""
    salt: str = ""
    """It shares computed prefixes with sequences of the same salt only."""
    priority: int = 0
    """The lower, the sooner."""


NOBODY = Share()


class Draft(Struct, frozen=True):
    """Tokens that may follow a sequence's known ones: verified in one step, kept as far as they are right."""

    tokens: tuple[int, ...]
    weights: Any = None
    """[tokens, vocabulary], normalised: the distributions they were drawn from, as an array of the runner's own kind.
    None: they were not drawn but looked up, so each is a certainty."""


class Slice(Struct, frozen=True):
    """One sequence's part of a step: `tokens` at positions `start`..., with the blocks that hold all its positions."""

    key: int
    tokens: tuple[int, ...]
    """Known tokens, then those of the draft."""
    start: int
    table: tuple[int, ...]
    wants: int
    """Of how many tokens, counted from the last, the logits are needed: none in the midst of a prompt, one for a
    decode, one more for each token of a draft."""


class SampleSpec(Struct, frozen=True):
    """How to draw what follows one slice. Random numbers depend on (seed, choice, position, purpose) only."""

    params: SamplingParams
    choice: int = 0
    position: int = 0
    """How many tokens the sequence has generated before the first row's."""
    output_counts: tuple[tuple[int, int], ...] = ()
    """(token, how often) of what was generated; filled only where a penalty needs it."""
    prompt_tokens: tuple[int, ...] = ()
    """The distinct tokens of the prompt; filled only where the repetition penalty needs them."""
    draft: Draft | None = None
    """With it, there is a row for each of its tokens, and one for what follows the last."""


Masks = tuple[tuple[bytes, ...] | None, ...]
"""For each sample, one mask per row: one bit per token, the lowest first, set where it is allowed. None: all are."""


class StepPlan(Struct, frozen=True):
    """What to compute now: decodes first, then chunks of prompts. `samples` are in the order of slices that want."""

    number: int
    slices: tuple[Slice, ...]
    samples: tuple[SampleSpec, ...]
    copies: tuple[tuple[int, int], ...] = ()
    """Blocks to copy first, (from, to): what was shared and is now written to."""

    @property
    def tokens(self) -> int:
        return sum(len(part.tokens) for part in self.slices)


class Score(Struct, frozen=True, array_like=True):
    """Natural-log probability of a drawn token before any filter, and of the most likely ones."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


class StepResult(Struct, frozen=True):
    """What was drawn, one entry per sample of the plan."""

    tokens: tuple[tuple[int, ...], ...]
    """The accepted tokens of the draft, then one more: at least one, at most one more than the draft has."""
    scores: tuple[tuple[Score, ...] | None, ...]
    """One for each of those tokens, where they were asked for."""


class Constraint(Protocol):
    """What keeps a sequence's text to a form (`grammars/grammar.py`)."""

    def fits(self, tokens: tuple[int, ...]) -> int:
        """How many of the tokens, from the first on, may come next."""

    def forced(self) -> tuple[int, ...]:
        """The tokens that must come next, where there is no choice: known without computing anything."""

    def masks(self, draft: tuple[int, ...] = ()) -> tuple[bytes, ...]:
        """What may come next, and what after each token of a draft that fits. Thread-safe beside a forward pass."""

    def consume(self, tokens: tuple[int, ...]) -> None: ...

    @property
    def ended(self) -> bool: ...

    @property
    def failed(self) -> bool: ...


class Wanted(Struct, frozen=True):
    """A sequence for which a draft is wanted: of at most `most` tokens after `tokens`."""

    key: int
    tokens: Sequence[int]
    """All that are known; to be read before anything else happens, not kept."""
    table: tuple[int, ...]
    """Blocks for all of them and for the draft."""
    most: int
    sample: SampleSpec


class Proposer(Protocol):
    """Makes drafts (`speculation/`)."""

    def propose(self, wanted: Sequence[Wanted]) -> list[Draft | None]:
        """One for each; None where there is nothing to propose."""

    def follow(self, plan: StepPlan) -> None:
        """Told of every plan before it runs: a draft model reads the prompts too."""

    def forget(self, key: int) -> None:
        """The sequence has ended, or will be computed anew."""


class Runner(Protocol):
    """Computes plans. Two calls, so that work between them (grammar masks) can overlap a device's.

    `forward` copies the plan's blocks, writes keys and values of its tokens and returns logits of the wanted rows,
    [rows, vocabulary], as an array of the runner's own kind; `sample` draws from them.
    """

    def forward(self, plan: StepPlan) -> Any: ...

    def sample(self, logits: Any, samples: tuple[SampleSpec, ...], masks: Masks) -> StepResult: ...

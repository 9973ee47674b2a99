"""What comes of a step: new tokens of sequences, and the scheduler's totals."""

from msgspec import Struct

from headgate.engine.plan import Score


class Output(Struct, frozen=True):
    """New tokens of one sequence; `finish` is set with its last."""

    key: int
    tokens: tuple[int, ...]
    scores: tuple[Score, ...] | None
    finish: str | None
    cached_tokens: int | None = None
    """With the first token: how many of the prompt's were found computed."""


class Counters(Struct):
    """Totals since the start."""

    prompt_tokens: int = 0
    """Prompt tokens of admitted sequences, each counted once however often it was computed."""
    cached_tokens: int = 0
    """So many of them were found computed, in the prefix cache or with a parent."""
    prefix_queries: int = 0
    """Prompt tokens looked up in the prefix cache, and (`prefix_hits`) found there; at first admissions only."""
    prefix_hits: int = 0
    generated_tokens: int = 0
    computed_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0

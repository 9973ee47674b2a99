"""What a model's answer is made of, as it comes. A stream is an async iterator of these."""

from collections.abc import AsyncIterator
from typing import Literal

from msgspec import Struct

from headgate.core.usage import Usage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]


class TokenLogprob(Struct, frozen=True):
    """One token's text and natural-log probability, with the most likely alternatives at its place."""

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top: tuple["TokenLogprob", ...] = ()


class Text(Struct, frozen=True):
    """A piece of the answer's text, never cut inside a code point. `index` is the choice it belongs to."""

    text: str
    index: int = 0
    logprobs: tuple[TokenLogprob, ...] | None = None


class Reasoning(Struct, frozen=True):
    """A piece of the model's reasoning, kept apart from its answer."""

    text: str
    index: int = 0


class ToolDelta(Struct, frozen=True):
    """A piece of a tool call. `id` and `name` come with the first piece of each `position` only."""

    arguments: str
    position: int = 0
    id: str | None = None
    name: str | None = None
    index: int = 0


class Finish(Struct, frozen=True):
    """A choice has ended. Exactly one per choice of a complete answer."""

    reason: FinishReason
    index: int = 0


Event = Text | Reasoning | ToolDelta | Usage | Finish
"""Failures are raised (`core.errors.Failed`), not yielded: a consumer cannot forget to look."""

Stream = AsyncIterator[Event | bytes]
"""`bytes` items are whole frames already in the caller's dialect, passed on untouched; their `Usage` and `Finish`
come as events beside them, for the meter. A stream that ends without raising is complete. Terminal markers such as
`[DONE]` are the api's to write, after the receipt is in the ledger."""

"""What a call consumed, and the receipt that the ledger keeps of every attempt."""

from typing import Literal

from msgspec import Struct


class Usage(Struct, frozen=True):
    """Tokens of one attempt. `cached` and `cache_write` are parts of `input`; `reasoning` is a part of `output`."""

    input: int = 0
    cached: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0
    estimated: bool = False
    """True where the upstream gave no figure and the count is ours."""

    @property
    def total(self) -> int:
        return self.input + self.output


Outcome = Literal["ok", "failed", "cancelled"]


class Receipt(Struct, frozen=True, omit_defaults=True):
    """One attempt at one target, finished in whatever way. The ledger holds each exactly once, by `id`."""

    id: str
    call_id: str
    attempt: int
    tenant: str
    key_id: str
    operation: str
    model: str
    """The model the caller asked for."""
    backend: str
    upstream_model: str
    started_at: float
    """Unix seconds."""
    duration_ms: float
    outcome: Outcome
    status: int
    """The HTTP status the caller saw, or would have seen."""
    code: str | None = None
    ttft_ms: float | None = None
    stream: bool = False
    usage: Usage = Usage()
    cost_usd: float | None = None
    """None where the price book has no price: never 0 for unknown."""
    price_version: str | None = None
    user: str | None = None
    tags: dict[str, str] = {}

"""What a call consumed, and the receipt that the ledger keeps of every attempt."""

from typing import Literal

from msgspec import Struct

from headgate.core.policy import NANOS


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


Outcome = Literal["ok", "failed", "cancelled", "lost", "correction"]
"""`lost`: the process died with the attempt under way. `correction`: an entry that mends another (`corrects`)."""


Reason = Literal["first", "retry", "fallback", "hedge", "continue", "replay"]
"""Why an attempt was made: `retry` is the same model again, `fallback` another; the last two went on with a stream."""


class Receipt(Struct, frozen=True, omit_defaults=True):
    """One attempt at one target, finished in whatever way. The ledger holds each exactly once, by `id`."""

    id: str
    call_id: str
    attempt: int
    tenant: str
    key_id: str
    operation: str
    model: str
    """The model the caller asked for, or the cheaper one that a budget chose instead: whose budgets pay."""
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
    cost_nanos: int | None = None
    """Whole nanodollars. None where the price book has no price: never 0 for unknown."""
    price_version: str | None = None
    user: str | None = None
    tags: dict[str, str] = {}
    session: str | None = None
    corrects: str | None = None
    """The id of the entry that this one mends; its tokens and its cost are differences, and may be negative."""
    replica: str | None = None
    """Which of the backend's replicas it was, where there are several."""
    reason: Reason = "first"
    begun_ms: float | None = None
    """From the attempt to the first piece of its answer."""
    queue_ms: float | None = None
    """How long the call had waited, for the server and for backends, until this attempt."""
    overhead_ms: float | None = None
    """Our own time until the first attempt was sent, waiting left out."""
    passed_over: str | None = None
    """Which targets were not tried before this one, and why."""

    @property
    def cost_usd(self) -> float | None:
        return None if self.cost_nanos is None else self.cost_nanos / NANOS


class Opening(Struct, frozen=True, omit_defaults=True):
    """Written to the journal before an attempt leaves: its receipt, should nobody be left to write one.

    With what budgets hold for it, so that whoever finds it can settle the hold.
    """

    opening: Receipt
    claim: str
    """The claim under which the limiter holds `nanos` and `tokens` for it."""
    nanos: int = 0
    tokens: int = 0
    money_accounts: tuple[str, ...] = ()
    """Keys of the accounts that hold `nanos`."""
    token_accounts: tuple[str, ...] = ()

"""The rules of a route: how its replicas share the calls, and what is tried when one fails."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from headgate.core.faults import ErrorClass

Balance = Literal[
    "tokens_in_flight",
    "predicted_cost",
    "prefix",
    "sticky",
    "queue_depth",
    "least_requests",
    "weighted",
    "round_robin",
]
"""How the next replica is picked; `backends/balance` says what each does."""
Way = Literal["continue", "replay"]
"""How a stream that was cut goes on at another target: the model continues what was sent, or answers again and the
answer is checked against what was sent."""
Next = Literal["fallback", "stop"]
"""Whether a failure of some class is tried elsewhere."""

_Seconds = Annotated[float, Meta(gt=0, le=86_400)]
_Share = Annotated[float, Meta(ge=0, le=1)]


class Patience(Struct, frozen=True, forbid_unknown_fields=True):
    """How long each phase of an attempt may take on this route, in seconds. None: as the backend's own timeouts say."""

    connect_s: _Seconds | None = None
    first_token_s: _Seconds | None = None
    between_tokens_s: _Seconds | None = None
    total_s: _Seconds | None = None
    min_tokens_per_s: Annotated[float, Meta(ge=0)] | None = None
    """A stream that is slower than this for ten seconds counts as stalled."""


class HoldBack(Struct, frozen=True, forbid_unknown_fields=True):
    """How much of a stream is kept back at its beginning: until then a failure is mended without the caller seeing it.

    What comes first ends it; 0 and 0 keep nothing back.
    """

    tokens: Annotated[int, Meta(ge=0, le=10_000)] = 0
    ms: Annotated[float, Meta(ge=0, le=60_000)] = 0.0


class Hedge(Struct, frozen=True, forbid_unknown_fields=True):
    """A second attempt elsewhere for a call whose first piece is late; the first to answer wins, the other is ended."""

    quantile: Annotated[float, Meta(ge=0.5, le=0.999)] = 0.95
    """Late is later than this part of the answers of late."""
    min_s: Annotated[float, Meta(ge=0)] = 0.1
    """But never earlier than this."""
    max_extra: _Share = 0.05
    """Extra attempts, as a part of the calls; what they may cost stays below this part of the money spent."""


class Degraded(Struct, frozen=True, forbid_unknown_fields=True):
    """What is served where no target answers: the newest answer to the same request, then a fixed message."""

    cached_s: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    """Serve a complete answer that is at most so old; 0: none is kept."""
    message: Annotated[str, Meta(min_length=1, max_length=10_000)] | None = None


class Rules(Struct, frozen=True, forbid_unknown_fields=True):
    """All rules of a route."""

    balance: Balance = "tokens_in_flight"
    timeouts: Patience = Patience()
    on_error: dict[ErrorClass, Next] = {}
    """What differs from `DEFAULT_NEXT`."""
    recovery: tuple[Way, ...] = ("continue", "replay")
    """Tried in this order when a stream is cut or stalls after its beginning was sent; none: it ends in an error."""
    hold_back: HoldBack = HoldBack()
    hedge: Hedge | None = None
    degraded: Degraded | None = None
    single_flight: bool = True
    """Identical calls in flight run once: embeddings, and answers at temperature 0."""

    def next(self, kind: ErrorClass) -> Next:
        return self.on_error.get(kind) or DEFAULT_NEXT[kind]


DEFAULT_NEXT: dict[ErrorClass, Next] = {
    "overload": "fallback",
    "timeout": "fallback",
    "upstream": "fallback",
    "auth": "fallback",
    "context_length": "stop",
    "content_policy": "stop",
    "bad_request": "stop",
}
"""A refusal for the content's sake is never shopped around unless a route says so. A chain of the route for a class
goes before this: what does not fit a model's context goes to a longer one, where the route names one."""

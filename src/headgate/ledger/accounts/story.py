"""The story of one call, out of its entries in the ledger: each attempt, why it was made, and the sums."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from headgate.core.errors import NotFound
from headgate.core.policy import NANOS
from headgate.core.usage import Outcome, Reason, Receipt

UNKNOWN = (
    "The ledger has no attempt of '{id}'. A call that was refused, or answered without asking a model, never gets"
    " there: "
    "look in the log for the line 'call.done' or 'request.refused' with this request_id. One that has just ended is "
    "there within a second. The id is what the answer's header x-request-id says."
)


class Step(Struct, frozen=True, kw_only=True):
    """One attempt. Times are milliseconds; `at_ms` counts from the call's beginning."""

    attempt: int
    id: str
    reason: Reason | None
    """None where it was written before reasons were, and cannot be told from the number."""
    backend: str
    replica: str | None
    upstream_model: str
    passed_over: str | None
    """Which targets were not tried before this one, and why."""
    started_at: float
    """Unix seconds."""
    at_ms: float
    waited_ms: float | None
    """For the server and for backends, since the attempt before."""
    begun_ms: float | None
    """From the attempt to the first piece of its answer; None where none came."""
    duration_ms: float
    outcome: Outcome
    status: int
    code: str | None
    input_tokens: int
    cached_tokens: int
    cache_write_tokens: int
    output_tokens: int
    reasoning_tokens: int
    estimated: bool
    cost_nanos: int | None


class Correction(Struct, frozen=True, kw_only=True):
    """An entry that mends an attempt's: its numbers are differences."""

    id: str
    corrects: str
    input_tokens: int
    output_tokens: int
    cost_nanos: int | None


class Story(Struct, frozen=True, kw_only=True):
    """What became of one call, as far as the ledger knows."""

    object: Literal["headgate.call"] = "headgate.call"
    id: str
    received_at: float
    """Unix seconds, reckoned back from the first attempt."""
    operation: str
    model: str
    stream: bool
    tenant: str
    key_id: str
    user: str | None
    session: str | None
    outcome: Outcome
    """Of the attempt that answered; where none did, of the last."""
    status: int
    code: str | None
    duration_ms: float
    """From the call's beginning to the end of its last attempt."""
    ttft_ms: float | None
    """From the caller's request to the first piece of the answer."""
    queue_ms: float | None
    overhead_ms: float | None
    """Our own time until the first attempt was sent, waiting left out."""
    input_tokens: int
    output_tokens: int
    cost_nanos: int | None
    """Attempts and corrections; None where one that used tokens has no price."""
    cost_usd: float | None
    attempts: list[Step]
    corrections: list[Correction]


def tell(call_id: str, entries: Sequence[Receipt], corrections: Sequence[Receipt] = ()) -> Story:
    """`entries` in the order of their attempts. Raises `NotFound` where there are none."""
    if not entries:
        raise NotFound(UNKNOWN.format(id=call_id[:100]), param="request_id")
    first = entries[0]
    received = min(first.started_at - ((first.queue_ms or 0.0) + (first.overhead_ms or 0.0)) / 1000, first.started_at)
    good = [entry for entry in entries if entry.outcome == "ok"]
    told = good[-1] if good else entries[-1]
    everything = [*entries, *corrections]
    cost = _cost(everything)
    return Story(
        id=first.call_id,
        received_at=received,
        operation=first.operation,
        model=first.model,
        stream=first.stream,
        tenant=first.tenant,
        key_id=first.key_id,
        user=first.user,
        session=first.session,
        outcome=told.outcome,
        status=told.status,
        code=told.code,
        duration_ms=round(max(_since(received, entry) + entry.duration_ms for entry in entries), 3),
        ttft_ms=min((entry.ttft_ms for entry in entries if entry.ttft_ms is not None), default=None),
        queue_ms=max((entry.queue_ms for entry in entries if entry.queue_ms is not None), default=None),
        overhead_ms=first.overhead_ms,
        input_tokens=sum(entry.usage.input for entry in everything),
        output_tokens=sum(entry.usage.output for entry in everything),
        cost_nanos=cost,
        cost_usd=None if cost is None else cost / NANOS,
        attempts=[_step(entry, before, received) for before, entry in zip([None, *entries], entries, strict=False)],
        corrections=[_correction(entry) for entry in corrections],
    )


def _since(received: float, entry: Receipt) -> float:
    return max(0.0, (entry.started_at - received) * 1000)


def _cost(entries: Sequence[Receipt]) -> int | None:
    if any(entry.cost_nanos is None and entry.usage.total for entry in entries):
        return None
    costs = [entry.cost_nanos for entry in entries if entry.cost_nanos is not None]
    return sum(costs) if costs else None


def _step(entry: Receipt, before: Receipt | None, received: float) -> Step:
    waited = entry.queue_ms
    if waited is not None and before is not None and before.queue_ms is not None:
        waited = round(max(0.0, waited - before.queue_ms), 3)
    usage = entry.usage
    return Step(
        attempt=entry.attempt,
        id=entry.id,
        reason=entry.reason if entry.reason != "first" or entry.attempt == 1 else None,
        backend=entry.backend,
        replica=entry.replica,
        upstream_model=entry.upstream_model,
        passed_over=entry.passed_over,
        started_at=entry.started_at,
        at_ms=round(_since(received, entry), 3),
        waited_ms=waited,
        begun_ms=entry.begun_ms,
        duration_ms=entry.duration_ms,
        outcome=entry.outcome,
        status=entry.status,
        code=entry.code,
        input_tokens=usage.input,
        cached_tokens=usage.cached,
        cache_write_tokens=usage.cache_write,
        output_tokens=usage.output,
        reasoning_tokens=usage.reasoning,
        estimated=usage.estimated,
        cost_nanos=entry.cost_nanos,
    )


def _correction(entry: Receipt) -> Correction:
    return Correction(
        id=entry.id,
        corrects=entry.corrects or "",
        input_tokens=entry.usage.input,
        output_tokens=entry.usage.output,
        cost_nanos=entry.cost_nanos,
    )

"""Entries that mend others: how a difference is spread over who may have caused it, to the last token and nanodollar.

The day's entries whose tokens we only estimated come first: they are the likely culprits. What they cannot explain, or
where there are none, goes to the tenants in proportion to what they used. Nothing is ever edited.
"""

from collections.abc import Callable, Sequence

from msgspec import Struct

from headgate.core.usage import Receipt, Usage

ESTIMATES_MAX = 2_000
"""Estimated entries of one model and day that get a correction each; where there are more, tenants get one each."""
KINDS = ("input", "cached", "cache_write", "output", "nanos")


class Amounts(Struct, frozen=True, kw_only=True):
    """Tokens by kind, and nanodollars; differences may be negative."""

    input: int = 0
    cached: int = 0
    cache_write: int = 0
    output: int = 0
    nanos: int = 0

    @property
    def tokens(self) -> int:
        return self.input + self.output

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(**{kind: getattr(self, kind) + getattr(other, kind) for kind in KINDS})

    def __sub__(self, other: "Amounts") -> "Amounts":
        return Amounts(**{kind: getattr(self, kind) - getattr(other, kind) for kind in KINDS})

    def __bool__(self) -> bool:
        return any(getattr(self, kind) for kind in KINDS)


class Payer(Struct, frozen=True, kw_only=True):
    """Who a part of a difference is put down to: an estimated entry, or a tenant's whole use of a model that day."""

    tenant: str
    used: Amounts
    entry: str | None = None
    """The id of the estimated entry; None for a tenant."""
    key_id: str = ""
    user: str | None = None
    session: str | None = None
    operation: str
    model: str
    upstream_model: str
    started_at: float


def share(total: int, weights: Sequence[int]) -> list[int]:
    """Whole parts in proportion to the weights that add up to the total exactly; equal ones where all weights are 0."""
    heavy = [max(0, weight) for weight in weights]
    if not any(heavy):
        heavy = [1] * len(heavy)
    everything, so_far, done, parts = sum(heavy), 0, 0, []
    for weight in heavy:
        so_far += weight
        reached = total * so_far // everything
        parts.append(reached - done)
        done = reached
    return parts


def spread(difference: Amounts, estimates: Sequence[Payer], tenants: Sequence[Payer]) -> list[tuple[Payer, Amounts]]:
    """Who is corrected by how much; the parts add up to the difference exactly. `tenants` may not be empty."""
    guilty = list(estimates) if len(estimates) <= ESTIMATES_MAX else []
    found: list[tuple[Payer, dict[str, int]]] = [(payer, {}) for payer in (*guilty, *tenants)]
    for kind in KINDS:
        total = getattr(difference, kind)
        first = _explained(total, kind, guilty)
        parts = share(first, [_weight(payer, kind, total) for payer in guilty]) if guilty else []
        parts += share(total - first, [_weight(payer, kind, total) for payer in tenants])
        for (_, amounts), part in zip(found, parts, strict=True):
            amounts[kind] = part
    spread_out = [(payer, Amounts(**kinds)) for payer, kinds in found]
    return [(payer, amounts) for payer, amounts in spread_out if amounts]


def _explained(total: int, kind: str, estimates: Sequence[Payer]) -> int:
    """How much of a difference estimates can account for: none of them had more than it was given."""
    if not estimates:
        return 0
    return max(total, -sum(max(0, getattr(payer.used, kind)) for payer in estimates)) if total < 0 else total


def _weight(payer: Payer, kind: str, total: int) -> int:
    """What is taken away is taken from what is there; what is added goes by the size of the work."""
    own: int = getattr(payer.used, kind)
    return own if total < 0 or (kind == "nanos" and own > 0) else max(payer.used.tokens, 0)


def correction(
    payer: Payer, amounts: Amounts, new_id: Callable[[str], str], reconciliation: str, backend: str, *, money: bool
) -> Receipt:
    """The entry. Without `money` its cost is null: the price is not known."""
    return Receipt(
        id=new_id("cor"),
        call_id=reconciliation,
        attempt=0,
        tenant=payer.tenant,
        key_id=payer.key_id,
        user=payer.user,
        session=payer.session,
        operation=payer.operation,
        model=payer.model,
        backend=backend,
        upstream_model=payer.upstream_model,
        started_at=payer.started_at,
        duration_ms=0.0,
        outcome="correction",
        status=200,
        usage=Usage(input=amounts.input, cached=amounts.cached, cache_write=amounts.cache_write, output=amounts.output),
        cost_nanos=amounts.nanos if money else None,
        price_version="reconciled",
        corrects=payer.entry or reconciliation,
    )

"""Questions to the ledger: who used how much, of what, when, for how much money."""

from typing import Literal

from msgspec import Struct

from headgate.core.policy import NANOS

GroupBy = Literal["tenant", "key", "model", "backend", "day", "outcome"]


class UsageQuery(Struct, frozen=True):
    """Receipts started in [`start`, `end`) (Unix seconds), summed by the named fields."""

    start: float
    end: float
    group_by: tuple[GroupBy, ...] = ()
    tenant: str | None = None
    key: str | None = None
    model: str | None = None


class UsageRow(Struct, frozen=True):
    """One group's sums. `cost_nanos` covers the priced attempts only; `unpriced` says how many were not."""

    group: dict[str, str]
    """A `day` is written `2026-11-21`, in UTC."""
    requests: int
    input: int
    cached: int
    output: int
    cost_nanos: int | None
    unpriced: int

    @property
    def cost_usd(self) -> float | None:
        return None if self.cost_nanos is None else self.cost_nanos / NANOS

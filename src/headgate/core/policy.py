"""What an organization, a project, a user or a key may do, and how much of it.

Policies of all four apply to a call at once: each may only narrow what the others leave.
"""

from fnmatch import fnmatchcase
from typing import Annotated, Literal

from msgspec import Meta, Struct

Level = Literal["organization", "project", "user", "key"]
Unit = Literal["requests", "tokens", "concurrency"]
Period = Literal["second", "minute", "hour", "day"]
Each = Literal["", "project", "user", "key", "model", "address", "session"]
Algorithm = Literal["token_bucket", "sliding_log", "sliding_counter", "leaky_bucket"]
OnLoss = Literal["local_share", "fail_open", "fail_closed"]
BudgetPeriod = Literal["request", "session", "day", "month", "total"]
Priority = Literal["interactive", "normal", "batch"]

SECONDS: dict[Period, int] = {"second": 1, "minute": 60, "hour": 3_600, "day": 86_400}
NANOS = 1_000_000_000
"""Nanodollars in a dollar: money is counted in whole nanodollars everywhere, so that every sum is exact."""
MONEY_MAX = 9_000_000
"""US dollars one budget may hold: its nanodollars must be whole numbers of a double, which is what Redis's Lua has."""
TIME_MAX = 253_402_300_799.0
"""The last second of the year 9999, which is the last that calendars can show."""
PRIORITIES: tuple[Priority, ...] = ("interactive", "normal", "batch")

_Amount = Annotated[int, Meta(ge=1, le=10**12)]
_Pattern = Annotated[str, Meta(min_length=1, max_length=256)]


class Limit(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """At most `amount` of `unit` per period; for `concurrency`, at once.

    Without `each` all calls under the policy count together; with it, those of each project, user, key, model, client
    address or session by themselves.
    """

    unit: Unit
    amount: _Amount
    per: Period = "minute"
    each: Each = ""
    model: _Pattern = "*"
    """Only calls that ask for a model of this pattern count."""
    algorithm: Algorithm = "token_bucket"
    burst: _Amount | None = None
    """What a token bucket holds when it is full; `amount` by default."""
    max_delay_s: Annotated[float, Meta(ge=0, le=600)] = 10.0
    """How long a leaky bucket may hold a call back to keep its pace; beyond it refuses."""
    leased: bool = False
    """Replicas take credit ahead instead of asking for every call: cheaper, and up to 5 % off."""
    on_loss: OnLoss = "local_share"
    """While the counter store is away: this replica's share of the limit, no limit, or no calls."""

    @property
    def name(self) -> str:
        """What tells it from the others of its policy; what was used under this name stays used when it changes."""
        per = "" if self.unit == "concurrency" else f"/{self.per}"
        return f"{self.unit}{per}/{self.each or 'all'}/{self.model}"


class Budget(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """At most `amount` dollars (or tokens) per period. Days and months are those of UTC."""

    amount: Annotated[float, Meta(ge=0, le=10**12)]
    unit: Literal["usd", "tokens"] = "usd"
    per: BudgetPeriod = "month"
    each: Each = ""
    model: _Pattern = "*"
    at_limit: Literal["refuse", "downgrade", "notify"] = "refuse"
    """`downgrade` asks `downgrade_to` instead, as long as that fits; `notify` lets every call through, and says so."""
    downgrade_to: str | None = None
    soft: Annotated[float, Meta(ge=0, le=10**12)] | None = None
    """From this amount on there is an alert."""
    at_soft: Literal["notify", "downgrade"] = "notify"
    raised_by: Annotated[float, Meta(ge=0, le=10**12)] = 0.0
    """Added to `amount` until `raised_until`."""
    raised_until: Annotated[float, Meta(ge=0, le=TIME_MAX)] | None = None
    """Unix seconds."""

    @property
    def name(self) -> str:
        return f"{self.unit}/{self.per}/{self.each or 'all'}/{self.model}"

    def limit(self, now: float) -> int:
        """Whole nanodollars or tokens, a raise in force included."""
        raised = self.raised_until is not None and now < self.raised_until
        amount = self.amount + (self.raised_by if raised else 0.0)
        return round(amount * NANOS) if self.unit == "usd" else int(amount)


class Velocity(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Stops a tenant that burns money `times` as fast as it usually does."""

    times: Annotated[float, Meta(gt=1, le=10_000)] = 10.0
    window_s: Annotated[int, Meta(ge=10, le=86_400)] = 300
    """What counts as now."""
    usual_s: Annotated[int, Meta(ge=600, le=90 * 86_400)] = 7 * 86_400
    """What counts as usual: the time before now."""
    floor_usd: Annotated[float, Meta(ge=0, le=MONEY_MAX)] = 1.0
    """Below this much in the window nothing is stopped."""
    stop_s: Annotated[int, Meta(ge=1, le=90 * 86_400)] = 3_600
    """How long it stays stopped, if nobody lets it go on earlier."""


class Policy(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One level's rules. An empty one allows everything."""

    models: Annotated[tuple[_Pattern, ...], Meta(max_length=100)] | None = None
    """Patterns of models that may be used; None: all."""
    denied_models: Annotated[tuple[_Pattern, ...], Meta(max_length=100)] = ()
    limits: Annotated[tuple[Limit, ...], Meta(max_length=32)] = ()
    budgets: Annotated[tuple[Budget, ...], Meta(max_length=32)] = ()
    velocity: Velocity | None = None
    weight: Annotated[float, Meta(ge=0.001, le=10_000)] = 1.0
    """A project's share where calls wait, next to the others'."""
    priority: Priority = "interactive"
    """The highest class its calls may wait in."""

    def allows(self, model: str) -> bool:
        if self.denied_models and any(fnmatchcase(model, pattern) for pattern in self.denied_models):
            return False
        return self.models is None or any(fnmatchcase(model, pattern) for pattern in self.models)


class Governed(Struct, frozen=True):
    """A policy and whose it is."""

    level: Level
    id: str
    policy: Policy

    @property
    def owner(self) -> str:
        """For keys of counters."""
        return f"{self.level}:{self.id}"


def check_policy(policy: Policy) -> None:
    """What types cannot say. Raises `ValueError` naming the field and the remedy."""
    seen: set[str] = set()
    for place, limit in enumerate(policy.limits):
        _once(f"limits[{place}]", limit.name, seen)
        _check_limit(f"limits[{place}]", limit)
    for place, budget in enumerate(policy.budgets):
        _once(f"budgets[{place}]", "budget " + budget.name, seen)
        _check_budget(f"budgets[{place}]", budget)


def _once(field: str, name: str, seen: set[str]) -> None:
    if name in seen:
        raise ValueError(f"{field}: '{name}' stands twice; keep one of them")
    seen.add(name)


def _check_limit(field: str, limit: Limit) -> None:
    if limit.algorithm == "sliding_log" and limit.amount > 100_000:
        raise ValueError(f"{field}.amount: a sliding log remembers every call; use sliding_counter above 100000")
    if limit.leased and (limit.algorithm != "token_bucket" or limit.unit == "concurrency"):
        raise ValueError(f"{field}.leased: only token buckets of requests or tokens can be leased")
    if limit.burst is not None and limit.algorithm != "token_bucket":
        raise ValueError(f"{field}.burst: only a token bucket has a burst; leave it out")


def _check_budget(field: str, budget: Budget) -> None:
    if budget.unit == "usd" and budget.amount + budget.raised_by > MONEY_MAX:
        raise ValueError(f"{field}.amount: at most {MONEY_MAX} dollars; split the budget")
    if budget.unit == "tokens" and (budget.amount % 1 or budget.raised_by % 1):
        raise ValueError(f"{field}.amount: tokens are counted whole; give a whole number")
    if "downgrade" in {budget.at_limit, budget.at_soft} and not budget.downgrade_to:
        raise ValueError(f"{field}.downgrade_to: name the cheaper model to use instead")
    if budget.at_soft == "downgrade" and budget.soft is None:
        raise ValueError(f"{field}.soft: say from which amount on to downgrade")
    if budget.per == "session" and budget.each not in {"", "session"}:
        raise ValueError(f"{field}.each: a session's budget is each session's; leave it out")
    if budget.each == "address":
        raise ValueError(f"{field}.each: the ledger knows no addresses; budget users, keys or sessions")
    if budget.raised_by and budget.raised_until is None:
        raise ValueError(f"{field}.raised_until: say until when the raise holds, in Unix seconds")

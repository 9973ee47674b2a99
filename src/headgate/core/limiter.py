"""The limits port: every rate, place and budget of a call, taken together or not at all.

Here rather than in `storage`, because the request path is handed the port and never imports a driver.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from headgate.core.policy import Algorithm, OnLoss


class Rate(Struct, frozen=True, kw_only=True):
    """At most `amount` per `window_s` seconds. Every call takes 1, or its tokens where `tokens` is true.

    A cost above the whole limit (a bucket's burst, a window's amount) takes the whole limit, so that a large call may
    pass when all is free. What was taken stays taken when the numbers change; another algorithm starts anew.
    """

    key: str
    amount: float
    window_s: float
    tokens: bool = False
    algorithm: Algorithm = "token_bucket"
    burst: float
    """What a token bucket holds when full."""
    max_delay_s: float = 0.0
    """How long a leaky bucket may hold a call back."""
    leased: bool = False
    on_loss: OnLoss = "local_share"


class Place(Struct, frozen=True, kw_only=True):
    """At most `limit` claims at once. One whose holder dies frees itself when its time to live is over."""

    key: str
    limit: int
    on_loss: OnLoss = "local_share"


class Account(Struct, frozen=True, kw_only=True):
    """A budget of one period: what was spent, plus what is held for calls in progress, stays within `limit`.

    In nanodollars, or in tokens where `tokens` is true. `hard` false: counted, never refused.
    """

    key: str
    limit: int
    tokens: bool = False
    hard: bool = True
    keep_s: float
    """How long it is kept after its last use: to the end of its period, and then some for late settlements."""


class Plan(Struct, frozen=True, kw_only=True, eq=False, weakref=True):
    """Everything that one kind of call must fit into; made once and used for many calls (identity is equality)."""

    rates: tuple[Rate, ...] = ()
    places: tuple[Place, ...] = ()
    accounts: tuple[Account, ...] = ()


class Cost(Struct, frozen=True):
    """What a call takes, or took."""

    tokens: int = 0
    nanos: int = 0
    """Nanodollars."""


class RateState(Struct, frozen=True):
    """A rate after the decision."""

    remaining: float
    """Below zero while calls that used more than they held are worked off."""
    reset_s: float
    """Seconds until all of it is free again, if nobody takes more."""


class AccountState(Struct, frozen=True):
    spent: int
    held: int


class Verdict(Struct, frozen=True, kw_only=True):
    """What `reserve` decided. The states are in the order of the plan."""

    allowed: bool
    rates: tuple[RateState, ...] = ()
    accounts: tuple[AccountState, ...] = ()
    refused_rate: int | None = None
    """The index of the rate to wait for longest."""
    refused_place: int | None = None
    refused_account: int | None = None
    """The index of the first account that cannot hold the cost."""
    retry_after: float = 0.0
    """Seconds until the same claim could pass its rates, if nobody takes more."""
    delay_s: float = 0.0
    """How long the call must wait before it goes on, to keep the pace of its leaky buckets."""
    missing: tuple[int, ...] = ()
    """Accounts that are not known here: nothing was taken; `seed` them and ask again. Then `accounts` is empty."""


class Limiter(Protocol):
    """Shared limits. Every method is atomic. Raises `core.errors.Overloaded` where the store cannot be reached."""

    async def reserve(self, claim: str, plan: Plan, cost: Cost, ttl_s: float) -> Verdict:
        """Takes all that the plan asks for, or nothing. One round trip.

        Rates are judged first, then places, then accounts; where several refuse, all refusals of the first kind
        that refuses are judged. An account whose hold is not settled within `ttl_s` counts it as spent until it is.

        Where it raises (or is cancelled), there is nothing to settle: what may have been taken is given back. A name
        that was settled may be used again. Raises `ValueError` for costs and limits that cannot be counted.
        """
        ...

    def settle(self, claim: str, plan: Plan, held: Cost, used: Cost) -> None:
        """Ends a claim: its places are free, its holds become what was `used`, its token rates are trued up.

        Parts of it may end by themselves: only what `plan` names ends. Rates of requests stay taken.

        Takes effect at once in one process, and soon where the store is shared: it never waits and never raises.
        Settling twice, or a claim whose `reserve` gave no answer, changes no account twice; nor rates, where the plan
        has accounts or places by which to tell.
        """
        ...

    async def flush(self) -> None:
        """Returns when everything settled so far is in the store; raises `Overloaded` if that takes too long."""
        ...

    async def seed(self, spent: Sequence[tuple[Account, int]]) -> None:
        """Makes accounts that are not known yet, with what the ledger says was spent. Known ones stay as they are."""
        ...

    async def raise_to(self, spent: Sequence[tuple[Account, int]]) -> None:
        """Brings accounts that know of less than the ledger does up to it; never lowers or makes one."""
        ...

    async def balances(self, keys: Sequence[str]) -> list[AccountState | None]:
        """What accounts hold now; None for one that is not known."""
        ...

    async def aclose(self) -> None: ...

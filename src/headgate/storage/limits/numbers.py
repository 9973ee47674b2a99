"""The numbers of a plan, checked once and put in the form in which the drivers count.

Both drivers do the same sums: `meters.py` in Python, `scripts.py` in Lua.
"""

import math
from collections.abc import Iterable, Sequence

from headgate.core.limiter import Account, Cost, Plan, Rate

WHOLE_MAX = 2**53 - 1
"""The largest whole number up to which every sum of whole doubles is exact: Redis's Lua has no others."""
SLACK = 1e-9
"""Part of a limit by which a cost may exceed what is left, so that rounding never refuses whoever waited exactly
`retry_after`. It adds up to nothing: what is taken is counted in full."""
ORPHANS_MAX = 10_000
"""Claims of one account that are remembered after their end, for a late settlement."""


class Numbers:
    """A rate as the drivers count it."""

    __slots__ = ("algorithm", "full", "key", "leak", "most", "one", "paced", "slack", "tokens", "window")

    def __init__(self, rate: Rate) -> None:
        _check_rate(rate)
        self.algorithm = rate.algorithm
        self.key = f"{rate.algorithm}:{rate.key}"
        """With the algorithm: one that is changed starts anew, since no two of them keep the same state."""
        self.tokens = rate.tokens
        self.window = float(rate.window_s)
        self.leak = rate.amount / self.window
        """Units that become free each second."""
        self.paced = rate.algorithm == "leaky_bucket"
        if self.paced:
            self.full = rate.max_delay_s * self.leak + 1.0
            """What is free when nothing is taken. A paced call waits behind those before it, not for its own cost:
            it may go if there is room for a first unit."""
        else:
            self.full = float(rate.burst if rate.algorithm == "token_bucket" else rate.amount)
        self.most = math.inf if self.paced else self.full
        """What one call takes at most: a larger one passes when all is free, and takes all."""
        self.one = min(1.0, self.most)
        self.slack = self.full * SLACK


def check_plan(plan: Plan) -> None:
    """Raises `ValueError`, naming what to change, for numbers that cannot be a limit or one that stands twice."""
    for place in plan.places:
        if not 0 <= place.limit <= WHOLE_MAX:
            raise ValueError(f"place {place.key!r}: a limit of {place.limit} is not between 0 and 2^53")
    for account in plan.accounts:
        check_account(account)
    _once("rate", (f"{rate.algorithm}:{rate.key}" for rate in plan.rates))
    _once("place", (place.key for place in plan.places))
    _once("account", (account.key for account in plan.accounts))


def _check_rate(rate: Rate) -> None:
    for name, value in (("amount", rate.amount), ("window_s", rate.window_s), ("burst", rate.burst)):
        if not 0 < value < 1e15:
            raise ValueError(f"rate {rate.key!r}: {name} is {value}; give a number above 0 and below 1e15")
    if not 0 <= rate.max_delay_s < 1e9:
        raise ValueError(f"rate {rate.key!r}: max_delay_s is {rate.max_delay_s}; give 0 or more, and below 1e9")


def check_account(account: Account) -> None:
    if not 0 <= account.limit <= WHOLE_MAX:
        raise ValueError(f"account {account.key!r}: a limit of {account.limit} is not between 0 and 2^53")
    if not 0.001 <= account.keep_s < 1e10:
        raise ValueError(f"account {account.key!r}: keep_s is {account.keep_s}; give 0.001 or more, and below 1e10")


def check_cost(cost: Cost) -> None:
    if not (0 <= cost.tokens <= WHOLE_MAX and 0 <= cost.nanos <= WHOLE_MAX):
        raise ValueError(f"a cost of {cost.tokens} tokens and {cost.nanos} nanodollars is not between 0 and 2^53")


def check_ttl(ttl_s: float) -> None:
    if not 0.001 <= ttl_s < 1e9:
        raise ValueError(f"ttl_s is {ttl_s}; give 0.001 or more, and below 1e9")


def check_spent(spent: Sequence[tuple[Account, int]]) -> None:
    for account, amount in spent:
        check_account(account)
        if not 0 <= amount <= WHOLE_MAX:
            raise ValueError(
                f"account {account.key!r}: {amount} spent is not between 0 and 2^53; check the ledger's sum"
            )


def overflow(key: str) -> ValueError:
    return ValueError(f"account {key!r} would exceed 2^53; end its period or split it")


def clamped(cost: Cost) -> Cost:
    """The nearest cost that can be counted: ending a claim must not fail."""
    if 0 <= cost.tokens <= WHOLE_MAX and 0 <= cost.nanos <= WHOLE_MAX:
        return cost
    return Cost(min(max(cost.tokens, 0), WHOLE_MAX), min(max(cost.nanos, 0), WHOLE_MAX))


def _once(kind: str, keys: Iterable[str]) -> None:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise ValueError(f"{kind} {key!r} stands twice in one plan; keep one of them")
        seen.add(key)

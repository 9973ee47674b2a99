"""What of a plan one replica judges by itself while the shared store is away."""

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from headgate.core.limiter import Account, Limiter, Place, Plan, Rate, RateState, Verdict
from headgate.core.policy import OnLoss
from headgate.storage.limits.numbers import WHOLE_MAX

Decided = Literal["local_share", "fail_open", "fail_closed", "budget"]
"""By which rule a call was judged without the store."""
_NO_LIMIT = 1e14


class Share(Struct, frozen=True):
    """A plan in the order of the one it stands for."""

    plan: Plan
    accounts: tuple[Account, ...]
    """As they are in the store."""
    open_rates: dict[int, RateState]
    """Those that are not judged, and what is said of them."""
    rules: tuple[Decided, ...]

    def as_asked(self, verdict: Verdict) -> Verdict:
        """The verdict about the plan that this one stands for."""
        if not self.open_rates:
            return verdict
        rates = [self.open_rates.get(index, state) for index, state in enumerate(verdict.rates)]
        return replace(verdict, rates=tuple(rates))


def closed_by(plan: Plan, spent: Mapping[str, int]) -> Decided | None:
    """The rule that refuses its calls, if one does; `spent` is what is known of accounts."""
    if "fail_closed" in _losses(plan):
        return "fail_closed"
    return "budget" if any(account.hard and account.key not in spent for account in plan.accounts) else None


async def share_of(
    plan: Plan, replicas: int, spent: Mapping[str, int], ceilings: dict[str, int], local: Limiter
) -> Share:
    """Divides a plan by the number of replicas, and tells `local` what was spent and held of its accounts.

    `ceilings` are those of accounts that were divided before; it is given those that were not.
    """
    number = max(1, replicas)
    accounts = [_account(account, number, spent.get(account.key, 0), ceilings) for account in plan.accounts]
    known = [(account, spent.get(account.key, 0)) for account in accounts]
    # Those left from the last time the store was away may be behind by now, never ahead of what was really spent.
    await local.seed(known)
    await local.raise_to(known)
    rules: set[Decided] = {*_losses(plan)}
    if accounts:
        rules.add("budget")
    return Share(
        Plan(
            rates=tuple(_rate(rate, number) for rate in plan.rates),
            places=tuple(_place(place, number) for place in plan.places),
            accounts=tuple(accounts),
        ),
        plan.accounts,
        {index: RateState(rate.burst, 0.0) for index, rate in enumerate(plan.rates) if rate.on_loss == "fail_open"},
        tuple(sorted(rules)),
    )


def _losses(plan: Plan) -> set[OnLoss]:
    return {rate.on_loss for rate in plan.rates} | {place.on_loss for place in plan.places}


def _rate(rate: Rate, replicas: int) -> Rate:
    if rate.on_loss == "fail_open":
        return replace(rate, algorithm="token_bucket", amount=_NO_LIMIT, burst=_NO_LIMIT)
    return replace(rate, amount=max(1.0, rate.amount / replicas), burst=max(1.0, rate.burst / replicas))


def _place(place: Place, replicas: int) -> Place:
    if place.on_loss == "fail_open":
        return replace(place, limit=WHOLE_MAX)
    return replace(place, limit=max(min(1, place.limit), place.limit // replicas))


def _account(account: Account, replicas: int, spent: int, ceilings: dict[str, int]) -> Account:
    ceiling = ceilings.setdefault(account.key, spent + max(0, account.limit - spent) // replicas)
    return replace(account, limit=min(account.limit, ceiling))

"""From policies to plans: which rates, places and accounts a call must fit into, worked out once and remembered."""

from collections.abc import Callable, Container
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TypeVar

from msgspec import Struct, structs

from headgate.core.call import Call
from headgate.core.limiter import Account, Place, Plan, Rate
from headgate.core.policy import PRIORITIES, SECONDS, Budget, BudgetPeriod, Each, Governed, Limit, Policy, Priority
from headgate.core.principal import Principal

PRINCIPALS_MAX = 20_000
VARIANTS_MAX = 256
"""Plans remembered for one principal: one per model, user, session and address, where its policies tell them apart."""
LATE_S = 2 * 86_400.0
"""How long accounts outlive their period: settlements of calls that began in it still find them."""
SESSION_S = 7 * 86_400.0

T = TypeVar("T", Limit, Budget)


class Rule(Struct, frozen=True):
    """A limit in force, for messages: whose policy it is of, and for whom it counts."""

    governed: Governed
    limit: Limit
    value: str
    """The user, model, address or session it counts for, where it tells them apart."""


class Charge(Struct, frozen=True):
    """A budget in force: its account's question to the ledger is made of these."""

    governed: Governed
    budget: Budget
    value: str
    start: float
    """Unix seconds from which on what was spent counts."""
    ends: float | None
    """Unix seconds at which it begins anew; None for never."""
    session: str = ""
    """The session it is of, where it is one's."""


class Terms(Struct, frozen=True, eq=False):
    """All that applies to one kind of call. The tuples of rules stand in the order of `plan`."""

    plan: Plan
    rest: Plan
    """The rates and places of `plan`: what the call as a whole holds."""
    holds: Plan
    """The accounts of `plan`: what each attempt holds."""
    rates: tuple[Rule, ...]
    places: tuple[Rule, ...]
    charges: tuple[Charge, ...]
    caps: tuple[Charge, ...]
    """Budgets of a single request."""
    paid: bool
    """Some budget applies."""
    counted: bool
    """A budget in tokens applies: what is reserved of tokens must be the most that can be used."""
    capped: bool
    """Some hard budget in dollars or tokens applies: the answer's length must be bounded."""
    weight: float
    """The project's share where calls wait."""
    priority: Priority
    """The highest class its calls may wait in."""


class _Parts(Struct, frozen=True, eq=False):
    """The values by which limits and budgets can tell calls apart, in the order of a variant's key."""

    user: str
    model: str
    address: str
    session: str
    day: int


class Plans:
    """Remembers compiled plans per principal object: a new snapshot brings new principals, and so new plans."""

    def __init__(self, defaults: Callable[[], Policy], made: Callable[[Terms], None] = lambda terms: None) -> None:
        self._defaults = defaults
        """What a key without limits of its own is given."""
        self._made = made
        """Told of every plan when it is made."""
        self._known: dict[str, tuple[Principal, Policy, _Compiled]] = {}

    def find(self, principal: Principal, call: Call, now: float) -> Terms:
        """The terms of `call`, which began at Unix second `now`."""
        known = self._known.get(principal.key_id)
        defaults = self._defaults()
        if known is None or known[0] is not principal or known[1] is not defaults:
            if len(self._known) >= PRINCIPALS_MAX:
                self._known.clear()
            known = (principal, defaults, _Compiled(principal, defaults, self._made))
            self._known[principal.key_id] = known
        return known[2].terms(principal, call, now)


class _Compiled:
    """One principal's policies, and the plans made of them so far."""

    def __init__(self, principal: Principal, defaults: Policy, made: Callable[[Terms], None]) -> None:
        self._made = made
        self._governed = _with_defaults(principal, defaults)
        budgets = [budget for governed in self._governed for budget in governed.policy.budgets]
        rules: list[Limit | Budget] = [limit for governed in self._governed for limit in governed.policy.limits]
        rules += budgets
        eaches = {rule.each for rule in rules}
        self._by_user = "user" in eaches
        self._by_model = "model" in eaches or any(rule.model != "*" for rule in rules)
        self._by_address = "address" in eaches
        self._by_session = "session" in eaches or any(budget.per == "session" for budget in budgets)
        self._by_day = any(budget.per in {"day", "month"} for budget in budgets)
        self._raises = sorted(budget.raised_until for budget in budgets if budget.raised_until is not None)
        """When temporary raises end: plans made before then hold too much."""
        self._variants: dict[tuple[str, str, str, str, int], Terms] = {}

    def terms(self, principal: Principal, call: Call, now: float) -> Terms:
        if self._raises and now >= self._raises[0]:
            self._raises = [end for end in self._raises if end > now]
            self._variants.clear()
        key = (
            (principal.user_id or call.user or "") if self._by_user else "",
            call.model if self._by_model else "",
            call.client if self._by_address else "",
            (call.session or "") if self._by_session else "",
            int(now // 86_400) if self._by_day else 0,
        )
        found = self._variants.get(key)
        if found is None:
            if len(self._variants) >= VARIANTS_MAX:
                self._variants.clear()
            found = self._variants[key] = _compile(self._governed, principal, _Parts(*key), now)
            self._made(found)
        return found


def _with_defaults(principal: Principal, defaults: Policy) -> tuple[Governed, ...]:
    """The policies of all levels; a key's own limits, or those every key has by default, are one more.

    Calls under a leased limit are to need no round trip: there the defaults are leased too, and no place is taken.
    """
    given = principal.limits
    own = {
        "requests": given.requests_per_minute,
        "tokens": given.tokens_per_minute,
        "concurrency": given.concurrency,
    }
    named = {
        limit.unit
        for governed in principal.policies
        if governed.level == "key"
        for limit in governed.policy.limits
        if limit.model == "*" and limit.each in {"", "key", "project"}  # all of the key's calls count together
    }
    leased = any(limit.leased for governed in principal.policies for limit in governed.policy.limits)
    limits = []
    for limit in defaults.limits:
        amount = own[limit.unit]
        if amount is not None:
            limits.append(Limit(limit.unit, amount, limit.per))
        elif limit.unit not in named and not (leased and limit.unit == "concurrency"):
            limits.append(Limit(limit.unit, limit.amount, limit.per, leased=leased))
    return (*principal.policies, Governed("key", principal.key_id, Policy(limits=tuple(limits))))


def _compile(governed: tuple[Governed, ...], principal: Principal, parts: _Parts, now: float) -> Terms:
    rates: dict[str, tuple[Rate, Rule]] = {}
    places: dict[str, tuple[Place, Rule]] = {}
    accounts: dict[str, tuple[Account, Charge]] = {}
    caps: list[Charge] = []
    for owner in governed:
        for limit, value in _applying(owner.policy.limits, principal, parts):
            rule = Rule(owner, limit, value)
            if limit.unit == "concurrency":
                place = _place(rule)
                if place.key not in places or place.limit < places[place.key][0].limit:
                    places[place.key] = (place, rule)
            else:
                rate = _rate(rule)
                if rate.key not in rates or rate.amount < rates[rate.key][0].amount:
                    rates[rate.key] = (rate, rule)
        for budget, value in _applying(owner.policy.budgets, principal, parts):
            of_session = parts.session if "session" in {budget.per, budget.each} else ""
            charge = Charge(owner, budget, value, *_period(budget.per, now), of_session)
            if budget.per == "request":
                caps.append(charge)
            elif budget.per != "session" or parts.session:
                account = _account(charge, parts, now)
                accounts[account.key] = (account, charge)
    plan = Plan(
        rates=tuple(rate for rate, _ in rates.values()),
        places=tuple(place for place, _ in places.values()),
        accounts=tuple(account for account, _ in accounts.values()),
    )
    hard = any(account.hard for account in plan.accounts) or any(cap.budget.at_limit != "notify" for cap in caps)
    return Terms(
        plan=plan,
        rest=Plan(rates=plan.rates, places=plan.places),
        holds=Plan(accounts=plan.accounts),
        rates=tuple(rule for _, rule in rates.values()),
        places=tuple(rule for _, rule in places.values()),
        charges=tuple(charge for _, charge in accounts.values()),
        caps=tuple(caps),
        paid=bool(accounts or caps),
        counted=any(account.tokens for account in plan.accounts) or any(cap.budget.unit == "tokens" for cap in caps),
        capped=hard,
        weight=next((owner.policy.weight for owner in governed if owner.level == "project"), 1.0),
        priority=max((owner.policy.priority for owner in governed), key=PRIORITIES.index),
    )


def without(terms: Terms, taken: Container[str]) -> Terms:
    """The terms, less the rates of these keys."""
    left = [(rate, rule) for rate, rule in zip(terms.plan.rates, terms.rates, strict=True) if rate.key not in taken]
    rates, places = tuple(rate for rate, _ in left), terms.plan.places
    return structs.replace(
        terms,
        plan=Plan(rates=rates, places=places, accounts=terms.plan.accounts),
        rest=Plan(rates=rates, places=places),
        rates=tuple(rule for _, rule in left),
    )


def _applying(rules: tuple[T, ...], principal: Principal, parts: _Parts) -> list[tuple[T, str]]:
    """The rules that this kind of call falls under, each with the value it counts for."""
    return [
        (rule, _value(rule.each, principal, parts)) for rule in rules
        if rule.model == "*" or fnmatchcase(parts.model, rule.model)
    ]  # fmt: skip


def _value(each: Each, principal: Principal, parts: _Parts) -> str:
    match each:
        case "project":
            return principal.tenant
        case "user":
            return parts.user
        case "key":
            return principal.key_id
        case "model":
            return parts.model
        case "address":
            return parts.address
        case "session":
            return parts.session
    return ""


def _place(rule: Rule) -> Place:
    key = f"{rule.governed.owner}:{rule.limit.name}:{rule.value}"
    return Place(key=key, limit=rule.limit.amount, on_loss=rule.limit.on_loss)


def _rate(rule: Rule) -> Rate:
    limit = rule.limit
    return Rate(
        key=f"{limit.algorithm}:{rule.governed.owner}:{limit.name}:{rule.value}",
        amount=limit.amount,
        window_s=SECONDS[limit.per],
        tokens=limit.unit == "tokens",
        algorithm=limit.algorithm,
        burst=limit.burst or limit.amount,
        max_delay_s=limit.max_delay_s,
        leased=limit.leased,
        on_loss=limit.on_loss,
    )


def _account(charge: Charge, parts: _Parts, now: float) -> Account:
    budget = charge.budget
    period = parts.session if budget.per == "session" else _period_name(budget.per, now)
    keep_s = SESSION_S if charge.ends is None else charge.ends - now + LATE_S
    return Account(
        key=f"{charge.governed.owner}:{budget.name}:{charge.value}:{period}",
        limit=budget.limit(now),
        tokens=budget.unit == "tokens",
        hard=budget.at_limit != "notify",
        keep_s=keep_s,
    )


def _period(per: BudgetPeriod, now: float) -> tuple[float, float | None]:
    """Unix seconds at which the period of `now` began and ends, in UTC."""
    if per not in {"day", "month"}:
        return 0.0, None
    midnight = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if per == "day":
        return midnight.timestamp(), (midnight + timedelta(days=1)).timestamp()
    first = midnight.replace(day=1)
    return first.timestamp(), (first + timedelta(days=32)).replace(day=1).timestamp()


def _period_name(per: BudgetPeriod, now: float) -> str:
    day = datetime.fromtimestamp(now, UTC).date().isoformat()
    return {"day": day, "month": day[:7]}.get(per, "all")

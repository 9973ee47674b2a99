"""What a caller is told whom a limit or a budget refuses: which one, whose, and when it frees."""

from datetime import UTC, datetime

from headgate.core.errors import OverBudget, OverLimit
from headgate.core.limiter import AccountState
from headgate.core.policy import NANOS
from headgate.pipeline.plans import Charge, Rule

RESERVED_RETRY_S = 1.0
"""When to try again where a budget is not spent, but all of it is held for calls in progress."""


def over_rate(rule: Rule, retry_after: float) -> OverLimit:
    limit = rule.limit
    return OverLimit(
        f"Rate limit reached: {_limit(rule)}. It frees continuously; try again in {retry_after:.3f} s."
        if limit.algorithm in {"token_bucket", "leaky_bucket"}
        else f"Rate limit reached: {_limit(rule)}. Try again in {retry_after:.3f} s.",
        retry_after=retry_after,
    )


def over_place(rule: Rule, retry_after: float) -> OverLimit:
    return OverLimit(
        f"Limit of calls in progress reached: {_limit(rule)}. Wait for one to end.",
        code="concurrency_limit_exceeded",
        retry_after=retry_after,
    )


def over_budget(charge: Charge, state: AccountState | None, limit: int, cost: int) -> OverBudget | OverLimit:
    """Final, unless the budget would hold the call once those in progress have ended."""
    unit = charge.budget.unit
    if state is None:
        return OverBudget(
            f"This call may cost {amount(cost, unit)}, more than {name(charge)} allows for one request "
            f"({amount(limit, unit)}). Lower max_tokens, shorten the prompt, or ask for a higher cap."
        )
    facts = f"{amount(state.spent, unit)} of {amount(limit, unit)} spent, {amount(state.held, unit)} held for calls in "
    facts += f"progress, and this call may cost {amount(cost, unit)}"
    if state.spent + cost <= limit:
        return OverLimit(
            f"All that is left of {name(charge)} is held: {facts}. Try again when some have ended.",
            code="budget_reserved",
            retry_after=RESERVED_RETRY_S,
        )
    anew = "" if charge.ends is None else f" It begins anew at {_time(charge.ends)}."
    return OverBudget(f"{name(charge)[0].upper()}{name(charge)[1:]} is spent: {facts}.{anew}")


def name(charge: Charge) -> str:
    """Such as `the budget of the project 'acme' per month`."""
    each = f" for each {charge.budget.each}" if charge.budget.each else ""
    model = f" on {charge.budget.model}" if charge.budget.model != "*" else ""
    per = "in total" if charge.budget.per == "total" else f"per {charge.budget.per}"
    return f"the budget of {_owner(charge.governed.level, charge.governed.id)} {per}{each}{model}"


def amount(value: int, unit: str) -> str:
    return f"${value / NANOS:.6f}".rstrip("0").rstrip(".") if unit == "usd" else f"{value} tokens"


def _limit(rule: Rule) -> str:
    limit = rule.limit
    per = "at once" if limit.unit == "concurrency" else f"per {limit.per}"
    unit = "calls" if limit.unit == "concurrency" else limit.unit
    each = f" for each {limit.each}" if limit.each else ""
    model = f" on {limit.model}" if limit.model != "*" else ""
    return f"{limit.amount} {unit} {per}{each}{model}, of {_owner(rule.governed.level, rule.governed.id)}"


def _owner(level: str, owner_id: str) -> str:
    if level == "organization":
        return "the organization"
    return "this API key" if level == "key" else f"the {level} '{owner_id[:100]}'"


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")

"""What an administrator changes of a policy, one thing at a time. Pure functions: a policy in, another out."""

from typing import TypeVar

from msgspec import structs

from headgate.core.policy import Budget, Limit, Period, Policy, Unit

R = TypeVar("R", Limit, Budget)

MONTH = Budget(amount=0).name
"""The name of the budget that OpenAI's spend limits and spend alerts are: all of a month's dollars."""


def with_limit(policy: Policy, limit: Limit) -> Policy:
    """Replaces the limit of the same name where there is one, in its place."""
    return structs.replace(policy, limits=_with(policy.limits, limit))


def without_limit(policy: Policy, name: str) -> Policy:
    return structs.replace(policy, limits=tuple(limit for limit in policy.limits if limit.name != name))


def limit_of(policy: Policy, unit: Unit, per: Period, model: str) -> Limit | None:
    """The limit of all calls together, if there is one."""
    name = Limit(unit=unit, amount=1, per=per, model=model).name
    return next((limit for limit in policy.limits if limit.name == name), None)


def with_amount(policy: Policy, unit: Unit, per: Period, model: str, amount: int) -> Policy:
    """That limit at `amount`; a burst larger than it goes, the rest stays as it was."""
    old = limit_of(policy, unit, per, model)
    if old is None:
        return with_limit(policy, Limit(unit=unit, amount=amount, per=per, model=model))
    burst = old.burst if old.burst is not None and old.burst <= amount else None
    return with_limit(policy, structs.replace(old, amount=amount, burst=burst))


def with_budget(policy: Policy, budget: Budget) -> Policy:
    return structs.replace(policy, budgets=_with(policy.budgets, budget))


def without_budget(policy: Policy, name: str) -> Policy:
    return structs.replace(policy, budgets=tuple(budget for budget in policy.budgets if budget.name != name))


def budget_of(policy: Policy, name: str) -> Budget | None:
    return next((budget for budget in policy.budgets if budget.name == name), None)


def raised(policy: Policy, name: str, by: float, until: float) -> Policy | None:
    """The budget of that name raised until then; None where there is none."""
    budget = budget_of(policy, name)
    if budget is None:
        return None
    return with_budget(policy, structs.replace(budget, raised_by=by, raised_until=until))


def spend_limit(policy: Policy) -> int | None:
    """Cents a month beyond which nothing more is spent."""
    budget = budget_of(policy, MONTH)
    return None if budget is None or budget.at_limit == "notify" else round(budget.amount * 100)


def with_spend_limit(policy: Policy, cents: int) -> Policy:
    old = budget_of(policy, MONTH) or Budget(amount=0)
    return with_budget(policy, structs.replace(old, amount=cents / 100, at_limit="refuse"))


def without_spend_limit(policy: Policy) -> Policy:
    """What alerts stays, as a budget that only notifies; one that did no more than that is none of these."""
    old = budget_of(policy, MONTH)
    if old is None or old.at_limit == "notify":
        return policy
    if old.soft is None:
        return without_budget(policy, MONTH)
    return with_spend_alert(without_budget(policy, MONTH), round(old.soft * 100))


def spend_alert(policy: Policy) -> int | None:
    """Cents a month from which on there is an alert."""
    budget = budget_of(policy, MONTH)
    return None if budget is None or budget.soft is None else round(budget.soft * 100)


def with_spend_alert(policy: Policy, cents: int) -> Policy:
    dollars = cents / 100
    old = budget_of(policy, MONTH)
    if old is None or old.at_limit == "notify":
        return with_budget(policy, Budget(amount=dollars, soft=dollars, at_limit="notify"))
    return with_budget(policy, structs.replace(old, soft=dollars))


def without_spend_alert(policy: Policy) -> Policy:
    old = budget_of(policy, MONTH)
    if old is None or old.at_limit == "notify":
        return without_budget(policy, MONTH)
    return with_budget(policy, structs.replace(old, soft=None, at_soft="notify"))


def _with(rules: tuple[R, ...], rule: R) -> tuple[R, ...]:
    changed = list(rules)
    names = [old.name for old in rules]
    if rule.name in names:
        changed[names.index(rule.name)] = rule
    else:
        changed.append(rule)
    return tuple(changed)

"""Budgets and places as simply as they can be written, to hold the drivers against."""

from dataclasses import dataclass, field

from headgate.core.limiter import AccountState, Plan


@dataclass
class Budget:
    spent: int = 0
    holds: dict[str, tuple[int, int]] = field(default_factory=dict)
    """The end of each, in microseconds, and its amount."""
    orphans: dict[str, int] = field(default_factory=dict)
    above: int = 0
    """What settlements took beyond what they held."""

    @property
    def held(self) -> int:
        return sum(amount for _, amount in self.holds.values())


class Model:
    def __init__(self) -> None:
        self.budgets: dict[str, Budget] = {}
        self.places: dict[str, dict[str, int]] = {}

    def pass_time(self, now: int) -> None:
        for budget in self.budgets.values():
            for claim in [claim for claim, (end, _) in budget.holds.items() if end <= now]:
                _, budget.orphans[claim] = budget.holds.pop(claim)
                budget.spent += budget.orphans[claim]
        for holders in self.places.values():
            for claim in [claim for claim, end in holders.items() if end <= now]:
                del holders[claim]

    def reserve(self, claim: str, plan: Plan, cost: int, end: int) -> tuple[bool, int | None, int | None]:
        """Whether it is allowed; the place and the account that refuse."""
        for index, place in enumerate(plan.places):
            if len(self.places.setdefault(place.key, {})) >= place.limit:
                return False, index, None
        for index, account in enumerate(plan.accounts):
            budget = self.budgets[account.key]
            if account.hard and budget.spent + budget.held + cost > account.limit:
                return False, None, index
        for place in plan.places:
            self.places[place.key][claim] = end
        for account in plan.accounts:
            self.budgets[account.key].holds[claim] = end, cost
        return True, None, None

    def settle(self, claim: str, plan: Plan, used: int) -> None:
        for place in plan.places:
            self.places[place.key].pop(claim, None)
        for account in plan.accounts:
            budget = self.budgets[account.key]
            if claim in budget.holds:
                amount = budget.holds.pop(claim)[1]
                budget.spent += used
            elif claim in budget.orphans:
                amount = budget.orphans.pop(claim)
                budget.spent += used - amount
            else:
                continue
            budget.above += max(0, used - amount)

    def state(self, key: str) -> AccountState:
        return AccountState(self.budgets[key].spent, self.budgets[key].held)

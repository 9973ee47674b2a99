"""What one process remembers of a place and of a budget account. No method waits or reads a clock."""

import math

from headgate.core.limiter import Account, AccountState
from headgate.storage.limits.numbers import ORPHANS_MAX, WHOLE_MAX


class Holders:
    """Who has a place, and until when."""

    __slots__ = ("end", "ends", "soonest")

    def __init__(self, now: float) -> None:
        self.ends: dict[str, float] = {}
        self.soonest = math.inf
        """No holder's end is before it."""
        self.end = now

    def free(self, claim: str, limit: int, now: float) -> bool:
        if self.ends.get(claim, now) > now or len(self.ends) < limit:
            return True
        if self.soonest <= now:
            self.ends = {claim: end for claim, end in self.ends.items() if end > now}
            self.soonest = min(self.ends.values(), default=math.inf)
        return len(self.ends) < limit

    def take(self, claim: str, end: float) -> None:
        self.ends[claim] = end
        self.soonest = min(self.soonest, end)
        self.end = max(self.end, end)


class Balance:
    """What was spent of a budget, and what is held for calls in progress.

    A hold past its end counts as spent, since its call may have been answered; it is remembered for a while, so that
    a late settlement can put it right.
    """

    __slots__ = ("end", "held", "holds", "orphans", "soonest", "spent")

    def __init__(self, spent: int, end: float) -> None:
        self.spent = spent
        self.held = 0
        self.holds: dict[str, tuple[float, int]] = {}
        """The end of each, and what it holds."""
        self.soonest = math.inf
        """No hold's end is before it."""
        self.orphans: dict[str, tuple[float, int]] = {}
        self.end = end

    def sweep(self, now: float) -> None:
        """Comes before everything else."""
        if self.soonest > now:
            return
        for hold, claim in sorted((hold, claim) for claim, hold in self.holds.items() if hold[0] <= now):
            self.orphans[claim] = self.holds.pop(claim)
            self.held -= hold[1]
            self.spent += hold[1]
        self.soonest = min((end for end, _ in self.holds.values()), default=math.inf)

    def after(self, claim: str, amount: int) -> int:
        """What would be spent and held together if `claim` held `amount`."""
        hold = self.holds.get(claim)
        return self.spent + self.held + amount - (hold[1] if hold is not None else 0)

    def hold(self, account: Account, claim: str, amount: int, now: float, ttl_s: float) -> None:
        end = now + ttl_s
        if (hold := self.holds.get(claim)) is not None:
            self.held -= hold[1]
        self.orphans.pop(claim, None)
        self.holds[claim] = (end, amount)
        self.held += amount
        if end < self.soonest:
            self.soonest = end
        self._used(account, now, end)

    def settle(self, account: Account, claim: str, used: int, now: float) -> bool:
        """False where the claim holds nothing here (any more): nothing changes."""
        hold = self.holds.pop(claim, None)
        if hold is not None:
            self.held -= hold[1]
            self.spent = min(self.spent + used, WHOLE_MAX - self.held)
        elif (hold := self.orphans.pop(claim, None)) is not None:
            self.spent = min(self.spent + used - hold[1], WHOLE_MAX - self.held)
        else:
            return False
        self._used(account, now, now)
        return True

    def _used(self, account: Account, now: float, end: float) -> None:
        if (kept := now + account.keep_s) > self.end:
            self.end = kept
        if end > self.end:
            self.end = end
        if not self.orphans:
            return
        for claim, (ended, _) in list(self.orphans.items()):
            if len(self.orphans) <= ORPHANS_MAX and ended + account.keep_s > now:
                break
            del self.orphans[claim]

    def state(self) -> AccountState:
        return AccountState(self.spent, self.held)

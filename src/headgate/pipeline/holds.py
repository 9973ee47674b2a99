"""What budgets hold for an attempt, and the places a call has: each given back exactly once."""

from headgate.core.limiter import Cost, Limiter
from headgate.core.usage import Opening, Receipt
from headgate.pipeline.plans import Terms

NOTHING = Cost()


class Hold:
    """What one attempt may cost, held in every budget above it."""

    __slots__ = ("_limiter", "claim", "cost", "settled", "terms")

    def __init__(self, limiter: Limiter, claim: str, terms: Terms, cost: Cost) -> None:
        self._limiter = limiter
        self.claim = claim
        self.terms = terms
        self.cost = cost
        self.settled = not terms.plan.accounts
        """There is nothing (more) to give back."""

    def exceeded_by(self, used: Cost) -> bool:
        """Whether a budget held less than was used."""
        return used.nanos > self.cost.nanos or (self.terms.counted and used.tokens > self.cost.tokens)

    def settle(self, used: Cost = NOTHING) -> None:
        """The budgets pay what was used. Idempotent."""
        if not self.settled:
            self.settled = True
            self._limiter.settle(self.claim, self.terms.holds, self.cost, used)

    def opening(self, receipt: Receipt) -> Opening:
        """What the journal keeps, so that the hold can be settled even if this process dies."""
        if self.settled:
            return Opening(receipt, self.claim)
        accounts = self.terms.plan.accounts
        return Opening(
            receipt,
            self.claim,
            self.cost.nanos,
            self.cost.tokens,
            tuple(account.key for account in accounts if not account.tokens),
            tuple(account.key for account in accounts if account.tokens),
        )

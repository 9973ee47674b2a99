"""What a call may cost at most: the basis of its reservations and of what budgets hold for it."""

from collections.abc import Callable
from typing import Annotated

from msgspec import Meta, Struct, structs

from headgate.core.call import Call
from headgate.core.errors import OverBudget
from headgate.core.limiter import Cost
from headgate.core.request import COMPLETION_TOKENS
from headgate.core.target import Target
from headgate.ledger.prices import PriceTable
from headgate.pipeline.estimator import OUTPUT_MAX, Estimator, answers, output_asked
from headgate.pipeline.plans import Charge, Terms

CountTokens = Callable[[Call, Target], int | None]
"""The prompt's exact tokens, where the target's own tokenizer is at hand."""


class CostingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What is assumed of calls that do not say how long their answers may become."""

    assumed_output_tokens: Annotated[int, Meta(ge=0, le=1_000_000)] = 256
    """Reserved against token limits where the caller sets no maximum; trued up by what was used."""
    budget_output_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 4_096
    """Where a budget applies and the caller sets no maximum, the model server is told this one, and the budget holds
    it: an answer without end cannot be paid from a budget with one. Of completions it is 16 at most, their default."""


class Costing:
    """`prices` and `count` are replaced on reload, like every snapshot."""

    def __init__(self, estimator: Estimator, prices: Callable[[], PriceTable], count: CountTokens) -> None:
        self.estimator = estimator
        self._prices = prices
        self._count = count

    def bound(self, call: Call, terms: Terms, settings: CostingSettings) -> Call:
        """The call, its answer's length bounded where a budget asks for it."""
        if terms.capped and output_asked(call) is None:
            cap = settings.budget_output_tokens
            if call.operation == "completion":
                cap = min(cap, COMPLETION_TOKENS)  # what the caller counts on: a bound makes no answer longer
            return structs.replace(call, output_cap=cap)
        return call

    def likely(self, call: Call, settings: CostingSettings) -> int:
        """The tokens it probably takes, whatever budgets want to hold."""
        asked = output_asked(call)
        each = settings.assumed_output_tokens if asked is None else min(asked, OUTPUT_MAX)
        return self.estimator.likely(call) + each * answers(call)

    def cost(self, call: Call, target: Target, terms: Terms, settings: CostingSettings, now: float) -> Cost:
        """What to reserve for one attempt at `target`. Raises `OverBudget` where a budget in dollars applies and the
        price is not known.
        """
        if not terms.paid:
            return Cost(self.likely(call, settings))
        asked = output_asked(call)
        prompt = self._count(call, target)
        if prompt is None:
            prompt = self.estimator.careful(call)
        each = asked if asked is not None else call.output_cap or settings.assumed_output_tokens
        output = each * answers(call)
        # Limits of tokens are trued up; only a budget in tokens must hold the most there can be.
        tokens = prompt + output if terms.counted else self.likely(call, settings)
        return Cost(tokens, self._nanos(call, target, terms, (prompt, output), now))

    def _nanos(self, call: Call, target: Target, terms: Terms, tokens: tuple[int, int], now: float) -> int:
        price = self._prices().find(target.backend, target.model, now)
        if price is not None:
            return price.ceiling_nanos(*tokens)
        if any(c.budget.unit == "usd" and c.budget.at_limit != "notify" for c in (*terms.charges, *terms.caps)):
            raise OverBudget(
                f"The model '{call.model[:200]}' has no price on '{target.backend}', so that the budget in dollars "
                "cannot be kept. Add a [[price]] to the price book (0 for a model of your own).",
                code="price_unknown",
                param="model",
            )
        return 0


def over_cap(terms: Terms, cost: Cost, now: float) -> Charge | None:
    """The budget of one request that `cost` does not fit into, if there is one."""
    for charge in terms.caps:
        part = cost.nanos if charge.budget.unit == "usd" else cost.tokens
        if part > charge.budget.limit(now) and charge.budget.at_limit != "notify":
            return charge
    return None

"""From a call to what it may take: one decision over all its limits and budgets, or a cheaper call that fits."""

from collections.abc import Callable, Sequence

import msgspec
from msgspec import Raw, Struct, structs

from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError, NotFound, OverBudget, Overloaded
from headgate.core.limiter import Cost, Limiter, Plan, Verdict
from headgate.core.policy import Policy
from headgate.core.principal import Principal
from headgate.core.reply import Header, printable
from headgate.core.target import Routed, Target
from headgate.pipeline.alerts import Alerts
from headgate.pipeline.auth import may_use
from headgate.pipeline.costing import Costing, CostingSettings, over_cap
from headgate.pipeline.holds import NOTHING, Hold
from headgate.pipeline.limit_headers import limit_headers
from headgate.pipeline.plans import Charge, Plans, Terms, without
from headgate.pipeline.refusals import over_budget, over_place, over_rate
from headgate.pipeline.seeds import Seeds

ORPHAN_S = 60.0
"""How long past its deadline a call's holds wait for their settlement before they count as spent."""
DOWNGRADES_MAX = 3
_members = msgspec.json.Decoder(dict[str, Raw])

FindTargets = Callable[[Call], Routed]


class Booked(Struct, frozen=True):
    """What a call got."""

    call: Call
    """As it is to be sent: a budget may have chosen a cheaper model, or bounded the answer."""
    routed: Routed
    terms: Terms
    cost: Cost
    headers: list[Header]
    delay_s: float
    work: int
    """Tokens it probably takes: what it costs where calls wait, with a budget or without."""


class _Wish(Struct, frozen=True):
    """What to book: the call as it came, or of a cheaper model that a budget wants instead."""

    call: Call
    routed: Routed
    taken: frozenset[str] = frozenset()
    """Keys of the rates of requests that were taken for a dearer model: they stay taken, and are not taken twice."""
    headers: Sequence[Header] = ()
    """What is said of those."""


class Booking:
    """Asks the limiter for everything at once; makes budget accounts known where they are not."""

    def __init__(self, limiter: Limiter, costing: Costing, seeds: Seeds, alerts: Alerts, clock: Clock) -> None:
        self.limiter = limiter
        self.costing = costing
        self._seeds = seeds
        self._alerts = alerts
        self._clock = clock
        self._settings = CostingSettings()
        self._defaults = Policy()
        self._plans = Plans(lambda: self._defaults, seeds.know)

    def use(self, settings: CostingSettings, defaults: Policy) -> None:
        """From now on. `defaults` is what keys without limits of their own are given."""
        self._settings, self._defaults = settings, defaults

    async def book(self, principal: Principal, call: Call, find: FindTargets, place_s: float) -> Booked:
        """`place_s` is how long places are kept. Raises `OverLimit`, `OverBudget`, `Overloaded`, or as `find` does."""
        _refuse_stopped(principal)
        wish = _Wish(call, find(call))
        for _ in range(DOWNGRADES_MAX + 1):
            got = await self._try(principal, wish, find, place_s)
            if isinstance(got, Booked):
                if got.call.model != call.model:
                    got.headers.append((b"x-headgate-downgraded-from", printable(call.model)))
                    got.headers.append((b"x-headgate-model", printable(got.call.model)))
                return got
            wish = got
        raise OverBudget("Every cheaper model leads to another; mend 'downgrade_to' in the budgets.")

    async def _try(self, principal: Principal, wish: _Wish, find: FindTargets, place_s: float) -> Booked | _Wish:
        """What the call got, or what a budget wants instead."""
        now = self._clock.now()
        terms = self._plans.find(principal, wish.call, now)
        if wish.taken:
            terms = without(terms, wish.taken)
        call = self.costing.bound(wish.call, terms, self._settings)
        cost = self._dearest(call, wish.routed, terms, now)
        cap = over_cap(terms, cost, now)
        if cap is not None:
            cheaper = _cheaper(principal, wish, cap, cap.budget.at_limit, find)
            if cheaper is None:
                raise over_budget(cap, None, cap.budget.limit(now), _part(cap, cost))
            return cheaper
        verdict = await self._reserve(call.id, call, terms, terms.plan, cost)
        headers = limit_headers(terms, verdict)
        if wish.headers:
            known = {name for name, _ in headers}
            headers.extend(header for header in wish.headers if header[0] not in known)
        if not verdict.allowed:
            charge, refusal = self._refusal(terms, verdict, cost, place_s)
            refusal.headers = headers
            cheaper = _cheaper(principal, wish, charge, charge.budget.at_limit, find) if charge is not None else None
            if cheaper is None:
                raise refusal
            return cheaper
        soft = self._alerts.look(terms, verdict) if terms.charges else None
        cheaper = _cheaper(principal, wish, soft, "downgrade", find) if soft is not None else None
        if cheaper is not None:
            self.limiter.settle(call.id, terms.plan, cost, NOTHING)
            taken = wish.taken.union(rate.key for rate in terms.plan.rates if not rate.tokens)
            kept = [header for header in headers if header[0].endswith(b"-requests")]
            return structs.replace(cheaper, taken=taken, headers=kept)
        work = self.costing.likely(call, self._settings) if terms.counted else cost.tokens
        return Booked(call, wish.routed, terms, cost, headers, verdict.delay_s, work)

    async def visit(self, principal: Principal, call: Call) -> Booked:
        """For an answer that is kept already, or in progress: it counts as a request, and costs nothing.

        It takes no place: the call that is answered may still have it, and its caller has come back for the answer.
        """
        _refuse_stopped(principal)
        terms = self._plans.find(principal, call, self._clock.now())
        terms = structs.replace(terms, rest=structs.replace(terms.rest, places=()))
        verdict = await self._reserve(call.id, call, terms, terms.rest, NOTHING)
        headers = limit_headers(terms, verdict)
        if not verdict.allowed:
            _, refusal = self._refusal(terms, verdict, NOTHING, 1.0)
            refusal.headers = headers
            raise refusal
        return Booked(call, Routed(()), terms, NOTHING, headers, verdict.delay_s, 0)

    async def again(self, booked: Booked, target: Target, claim: str) -> Hold:
        """Holds what one more attempt may cost. Raises `OverBudget`."""
        terms, now = booked.terms, self._clock.now()
        if not terms.paid:
            return Hold(self.limiter, claim, terms, NOTHING)
        cost = self.costing.cost(booked.call, target, terms, self._settings, now)
        cap = over_cap(terms, cost, now)
        if cap is not None:
            raise over_budget(cap, None, cap.budget.limit(now), _part(cap, cost))
        return await self._hold(booked, claim, cost)

    async def anew(self, booked: Booked, claim: str) -> Hold:
        """Holds once more what was held at the door. Raises `OverBudget`."""
        return await self._hold(booked, claim, booked.cost)

    async def _hold(self, booked: Booked, claim: str, cost: Cost) -> Hold:
        terms = booked.terms
        if not terms.plan.accounts:
            return Hold(self.limiter, claim, terms, cost)
        verdict = await self._reserve(claim, booked.call, terms, terms.holds, cost)
        if not verdict.allowed:
            raise self._refusal(terms, verdict, cost, 1.0)[1]
        return Hold(self.limiter, claim, terms, cost)

    def _dearest(self, call: Call, routed: Routed, terms: Terms, now: float) -> Cost:
        """What an attempt costs at most, whichever of the route's own targets is picked for it."""
        priced = {(target.backend, target.model): target for target in routed.targets[: max(1, routed.primary)]}
        if len(priced) == 1 or not terms.paid:
            return self.costing.cost(call, routed.targets[0], terms, self._settings, now)
        costs = [self.costing.cost(call, target, terms, self._settings, now) for target in priced.values()]
        return Cost(max(cost.tokens for cost in costs), max(cost.nanos for cost in costs))

    async def _reserve(self, claim: str, call: Call, terms: Terms, plan: Plan, cost: Cost) -> Verdict:
        ttl_s = call.deadline.remaining(self._clock) + ORPHAN_S
        verdict = await self.limiter.reserve(claim, plan, cost, ttl_s)
        if verdict.missing:
            await self._seeds.fill(terms, verdict.missing)
            verdict = await self.limiter.reserve(claim, plan, cost, ttl_s)
            if verdict.missing:
                raise Overloaded("The budgets are being read from the ledger; try again.", retry_after=1.0)
        return verdict

    def _refusal(
        self, terms: Terms, verdict: Verdict, cost: Cost, place_s: float
    ) -> tuple[Charge | None, HeadgateError]:
        """What to tell the caller, and the budget that refused if it was one."""
        if verdict.refused_rate is not None:
            return None, over_rate(terms.rates[verdict.refused_rate], verdict.retry_after)
        if verdict.refused_place is not None:
            return None, over_place(terms.places[verdict.refused_place], max(1.0, place_s))
        place = verdict.refused_account or 0
        self._alerts.refused(terms, verdict)
        charge, account = terms.charges[place], terms.plan.accounts[place]
        return charge, over_budget(charge, verdict.accounts[place], account.limit, _part(charge, cost))


def _part(charge: Charge, cost: Cost) -> int:
    return cost.nanos if charge.budget.unit == "usd" else cost.tokens


def _cheaper(principal: Principal, wish: _Wish, charge: Charge, action: str, find: FindTargets) -> _Wish | None:
    """The same of the model that the budget names, where it is another one, may be used, and is served."""
    model = charge.budget.downgrade_to
    if action != "downgrade" or not model or model == wish.call.model or not may_use(principal, model):
        return None
    call = with_model(wish.call, model)
    try:
        return structs.replace(wish, call=call, routed=find(call))
    except (NotFound, Overloaded):
        return None  # not served, or off: the caller did not ask for it, and cannot mend it


def with_model(call: Call, model: str) -> Call:
    """The same call of another model, its bytes included."""
    members = _members.decode(call.raw)
    members["model"] = Raw(msgspec.json.encode(model))
    body = structs.replace(call.body, model=model)
    return structs.replace(call, model=model, body=body, raw=msgspec.json.encode(members))


def _refuse_stopped(principal: Principal) -> None:
    if principal.blocked is not None:
        raise OverBudget(principal.blocked, code="spend_stopped")

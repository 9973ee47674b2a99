"""Tells administrators, once per budget and period, that a budget comes to its end or has."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from headgate.core.limiter import AccountState, Verdict
from headgate.core.policy import NANOS
from headgate.pipeline.plans import Charge, Terms
from headgate.pipeline.refusals import name
from headgate.telemetry import names
from headgate.telemetry.log import Log
from headgate.telemetry.metrics import Metrics

REMEMBERED_MAX = 20_000

Kind = Literal["soft", "limit"]


class Alert(Struct, frozen=True):
    """`soft`: the soft amount is reached. `limit`: a call was refused, or let through over a budget that only tells."""

    kind: Kind
    level: str
    id: str
    budget: str
    account: str
    spent: int
    held: int
    limit: int


class Alerts:
    """`tell` is handed each alert, for whoever carries it to people; it must not wait."""

    def __init__(self, metrics: Metrics, log: Log, tell: Callable[[Alert], None] = lambda alert: None) -> None:
        self._metrics = metrics
        self._log = log
        self.tell = tell
        self._told: OrderedDict[tuple[Kind, str], None] = OrderedDict()

    def look(self, terms: Terms, verdict: Verdict) -> Charge | None:
        """After a reservation. The budget whose soft amount asks for a cheaper model, if there is one."""
        cheaper = None
        for place, (charge, state) in enumerate(zip(terms.charges, verdict.accounts, strict=True)):
            budget = charge.budget
            used = state.spent + state.held
            if budget.soft is not None and used >= budget.soft * (NANOS if budget.unit == "usd" else 1):
                self._say("soft", terms, place, state)
                if budget.at_soft == "downgrade":
                    cheaper = cheaper or charge
            account = terms.plan.accounts[place]
            if not account.hard and used > account.limit:
                self._say("limit", terms, place, state)
        return cheaper

    def refused(self, terms: Terms, verdict: Verdict) -> None:
        place = verdict.refused_account
        if place is not None and verdict.accounts:
            self._say("limit", terms, place, verdict.accounts[place])

    def _say(self, kind: Kind, terms: Terms, place: int, state: AccountState) -> None:
        account, charge = terms.plan.accounts[place], terms.charges[place]
        key = (kind, account.key)
        if key in self._told:
            return
        if len(self._told) >= REMEMBERED_MAX:
            self._told.popitem(last=False)
        self._told[key] = None
        owner = charge.governed
        alert = Alert(kind, owner.level, owner.id, name(charge), account.key, state.spent, state.held, account.limit)
        self._metrics.budget_alert(kind)
        self._log.event(
            names.BUDGET_ALERT,
            "warning",
            kind=kind,
            budget=alert.budget,
            account=account.key,
            spent=state.spent,
            held=state.held,
            limit=account.limit,
            unit="tokens" if account.tokens else "nanodollars",
        )
        self.tell(alert)

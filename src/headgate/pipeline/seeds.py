"""Budget accounts that the limiter does not know are made from the ledger, and looked after until nothing can be amiss.

A limiter forgets: a process restarts, a store is flushed, a period begins. The ledger does not.
"""

import asyncio
import glob
import heapq
import math
from collections.abc import Awaitable, Callable, Sequence

from msgspec import structs

from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.limiter import Account, Cost, Limiter, Plan
from headgate.ledger.accounts.questions import SpendQuestion
from headgate.pipeline.plans import Charge, Terms
from headgate.telemetry import names
from headgate.telemetry.log import Log

Spent = Callable[[Sequence[SpendQuestion]], Awaitable[Sequence[tuple[int, int]]]]
"""Nanodollars and tokens of each question, up to the last receipt of this process."""

RECHECK_S = (8.0, 30.0, 120.0, 700.0)
"""When a new account is compared with the ledger again: calls that were under way when it was made held nothing in it,
and the longest of them may end as late as this."""
BRIDGE_S = 15.0
"""How long what a store forgot is held for the calls that were under way: until the ledger was compared again."""
SETTLED_S = 5.0
"""An entry this old is settled in the store by whatever replica made it; a newer one might be counted twice."""
RECHECKS_MAX = 100_000
TOUCHED_EVERY = 5
"""Seconds between looks at accounts that are used while the store is away."""
RECHECK_BATCH = 100
KNOWN_MAX = 100_000
FOR_EVER = 1e11


class Seeds:
    """One per process. `run` is a task of the server's."""

    def __init__(self, limiter: Limiter, spent: Spent, clock: Clock, log: Log) -> None:
        self._limiter = limiter
        self._spent = spent
        self._clock = clock
        self._log = log
        self._turn = asyncio.Lock()
        self._number = 0
        self._made: dict[str, float] = {}
        """When this process last made an account."""
        self._due: list[tuple[int, str]] = []
        """When which account is compared, the soonest first."""
        self._asked: dict[tuple[int, str], tuple[Account, Charge]] = {}
        """What stands in `_due`: each account once for one time, however many calls ask for it."""
        self._known: dict[str, tuple[Account, Charge]] = {}
        self.touched: Callable[[], Sequence[Account]] = lambda: ()
        """Accounts used while their store was away: neither side knows all of them, the ledger does."""
        self.last_known: Callable[[str], int] = lambda key: 0
        """What was spent and held of an account before its store forgot it."""
        self._bridges: list[tuple[float, str, Plan, Cost]] = []

    async def fill(self, terms: Terms, missing: Sequence[int]) -> None:
        """Makes the accounts of these places in the plan. Raises `Overloaded` where the ledger cannot be asked.

        Of calls that need the same account, as at the start of a period, one asks the ledger and the others wait.
        """
        asked_at = self._clock.monotonic()
        places = [(terms.plan.accounts[place], terms.charges[place]) for place in missing]
        async with self._turn:
            wanted = [place for place in places if self._made.get(place[0].key, float("-inf")) < asked_at]
            if not wanted:
                return
            sums = await self._sums(wanted)
            there = await self._limiter.balances([account.key for account, _ in sums])
            sums = [made for made, known in zip(sums, there, strict=True) if known is None]  # others were quicker
            await self._limiter.seed(sums)
            await self._bridge(sums)
            now = self._clock.monotonic()
            if len(self._made) >= KNOWN_MAX:
                self._made.clear()
            self._made |= {account.key: now for account, _ in wanted}
        for account, charge in wanted:
            for seconds in RECHECK_S:
                self._later(now + seconds, account, charge)

    async def _bridge(self, sums: Sequence[tuple[Account, int]]) -> None:
        """A store that came back empty: calls under way hold nothing there any more, and other replicas' last receipts
        are not in the ledger yet. What is missing is held until the ledger has it, so that nobody else spends it.
        """
        for account, total in sums:
            missing = self.last_known(account.key) - total
            if missing > 0 and len(self._bridges) < RECHECKS_MAX:
                self._number += 1
                claim, cost = f"bridge/{account.key}/{self._clock.now()!r}/{self._number}", Cost(missing, missing)
                plan = Plan(accounts=(structs.replace(account, hard=False),))
                await self._limiter.reserve(claim, plan, cost, BRIDGE_S + SETTLED_S)
                self._bridges.append((self._clock.monotonic() + BRIDGE_S, claim, plan, cost))

    def _take_down(self, now: float) -> None:
        """Bridges whose time is over, now that the ledger was compared."""
        for bridge in [bridge for bridge in self._bridges if bridge[0] <= now]:
            self._bridges.remove(bridge)
            self._limiter.settle(*bridge[1:], Cost())

    def know(self, terms: Terms) -> None:
        """Told of every plan: what is asked of the ledger for its accounts, should their store be away."""
        for account, charge in zip(terms.plan.accounts, terms.charges, strict=True):
            self._known.pop(account.key, None)
            if len(self._known) >= KNOWN_MAX:  # the one that no plan was made for longest
                del self._known[next(iter(self._known))]
            self._known[account.key] = (account, charge)

    def recheck(self, keys: Sequence[str]) -> None:
        """These accounts may know of too little: the store was away, and others settled elsewhere meanwhile."""
        self._due_now(keys)
        now = self._clock.monotonic()
        for key in keys:
            known = self._known.get(key)
            if known is not None:
                for seconds in RECHECK_S:
                    self._later(now + seconds, *known)

    async def run(self) -> None:
        """Until cancelled: brings accounts up to what the ledger knows, when their time has come."""
        turn = 0
        while True:
            await self._clock.sleep(1.0)
            turn += 1
            if turn % TOUCHED_EVERY == 0:
                self._due_now([account.key for account in self.touched()])
            try:
                await self.compare()
            except HeadgateError as error:
                self._log.event(names.BUDGETS_UNCHECKED, "warning", error=error.message, accounts=len(self._due))
                await self._clock.sleep(RECHECK_S[0])

    async def compare(self) -> None:
        """Every account that is due. Raises `Overloaded`; those not compared stay due."""
        now = self._clock.monotonic()
        due = {}
        while self._due and self._due[0][0] <= now:
            account, charge = self._asked.pop(heapq.heappop(self._due))
            due[account.key] = account, charge
        waiting = list(due.values())
        try:
            while waiting:
                sums = await self._sums(waiting[:RECHECK_BATCH], self._clock.now() - SETTLED_S)
                # After the ledger was read: a call in its sums has settled by then, and is in the store once this is
                # over. The other way round, one that ended in between would be counted twice.
                await self._limiter.flush()
                await self._limiter.raise_to(sums)
                del waiting[:RECHECK_BATCH]
        finally:
            for account, charge in waiting:
                self._later(now, account, charge)
        self._take_down(now)

    def _due_now(self, keys: Sequence[str]) -> None:
        now = self._clock.monotonic()
        for key in keys:
            known = self._known.get(key)
            if known is not None:
                self._later(now, *known)

    def _later(self, at: float, account: Account, charge: Charge) -> None:
        entry = (math.floor(at), account.key)
        if entry not in self._asked and len(self._due) < RECHECKS_MAX:
            heapq.heappush(self._due, entry)
            self._asked[entry] = account, charge

    async def _sums(
        self, wanted: Sequence[tuple[Account, Charge]], ended_by: float | None = None
    ) -> list[tuple[Account, int]]:
        sums = await self._spent([_question(charge, ended_by) for _, charge in wanted])
        return [
            (account, tokens if account.tokens else nanos)
            for (account, _), (nanos, tokens) in zip(wanted, sums, strict=True)
        ]


def _question(charge: Charge, ended_by: float | None = None) -> SpendQuestion:
    level, owner, budget = charge.governed.level, charge.governed.id, charge.budget
    value = charge.value
    by = {"project": None, "user": None, "key": None} | ({level: owner} if level != "organization" else {})
    if budget.each in by:
        by[budget.each] = value
    return SpendQuestion(
        start=charge.start,
        end=FOR_EVER if charge.ends is None else charge.ends,
        tenant=by["project"],
        user=by["user"],
        key=by["key"],
        session=charge.session or ("" if budget.each == "session" else None),
        model=glob.escape(value) if budget.each == "model" else budget.model,
        ended_by=ended_by,
    )

"""Budget accounts that the limiter does not know are made from the ledger, and looked after until nothing can be amiss.

A limiter forgets: a process restarts, a store is flushed, a period begins. The ledger does not.
"""

import asyncio
import glob
import heapq
from collections.abc import Awaitable, Callable, Sequence

from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.limiter import Account, Limiter
from headgate.ledger.accounts.questions import SpendQuestion
from headgate.pipeline.plans import Charge, Terms
from headgate.telemetry import names
from headgate.telemetry.log import Log

Spent = Callable[[Sequence[SpendQuestion]], Awaitable[Sequence[tuple[int, int]]]]
"""Nanodollars and tokens of each question, up to the last receipt of this process."""

RECHECK_S = (5.0, 30.0, 120.0, 700.0)
"""When a new account is compared with the ledger again: calls that were under way when it was made held nothing in it,
and the longest of them may end as late as this."""
RECHECKS_MAX = 20_000
TOUCHED_EVERY = 5
"""Seconds between looks at accounts that are used while the store is away."""
RECHECK_BATCH = 100
KNOWN_MAX = 20_000
FOR_EVER = 1e11


class Seeds:
    """One per process. `run` is a task of the server's."""

    def __init__(self, limiter: Limiter, spent: Spent, clock: Clock, log: Log) -> None:
        self._limiter = limiter
        self._spent = spent
        self._clock = clock
        self._log = log
        self._turn = asyncio.Lock()
        self._due: list[tuple[float, int, Account, Charge]] = []
        self._number = 0
        self._known: dict[str, tuple[Account, Charge]] = {}
        self.touched: Callable[[], Sequence[Account]] = lambda: ()
        """Accounts used while their store was away: neither side knows all of them, the ledger does."""

    async def fill(self, terms: Terms, missing: Sequence[int]) -> None:
        """Makes the accounts of these places in the plan. Raises `Overloaded` where the ledger cannot be asked."""
        wanted = [(terms.plan.accounts[place], terms.charges[place]) for place in missing]
        async with self._turn:
            await self._limiter.seed(await self._sums(wanted))
        now = self._clock.monotonic()
        for account, charge in wanted:
            for seconds in RECHECK_S:
                self._later(now + seconds, account, charge)

    def know(self, terms: Terms) -> None:
        """Told of every plan: what is asked of the ledger for its accounts, should their store be away."""
        for account, charge in zip(terms.plan.accounts, terms.charges, strict=True):
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
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
        while self._due and self._due[0][0] <= self._clock.monotonic():
            batch = [heapq.heappop(self._due) for _ in range(min(RECHECK_BATCH, len(self._due)))]
            try:
                # What is settled must be in the store before the ledger is read, or it would be counted twice.
                await self._limiter.flush()
                unique = {account.key: (account, charge) for _, _, account, charge in batch}
                await self._limiter.raise_to(await self._sums(list(unique.values())))
            except HeadgateError:
                for entry in batch:
                    heapq.heappush(self._due, entry)
                raise

    def _due_now(self, keys: Sequence[str]) -> None:
        now = self._clock.monotonic()
        for key in keys:
            known = self._known.get(key)
            if known is not None:
                self._later(now, *known)

    def _later(self, at: float, account: Account, charge: Charge) -> None:
        if len(self._due) < RECHECKS_MAX:
            self._number += 1
            heapq.heappush(self._due, (at, self._number, account, charge))

    async def _sums(self, wanted: Sequence[tuple[Account, Charge]]) -> list[tuple[Account, int]]:
        sums = await self._spent([_question(charge) for _, charge in wanted])
        return [
            (account, tokens if account.tokens else nanos)
            for (account, _), (nanos, tokens) in zip(wanted, sums, strict=True)
        ]


def _question(charge: Charge) -> SpendQuestion:
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
    )

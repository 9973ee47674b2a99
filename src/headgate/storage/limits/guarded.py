"""Limits that go on while their shared store is away: a breaker in front of it, and a share of each limit behind.

While the breaker is open no call waits for the store. Each rate and place follows its `on_loss`; a budget never opens:
this replica may spend what was known to be left of it, divided by the number of replicas. One trial at a time asks
the store whether it is well again. After that all calls go to it at once: none were kept waiting, so there is no herd
to hold back, replicas try at times of their own, and while some calls were judged here and some there a limit would
count twice.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from msgspec import Meta, Struct

from headgate.core.clock import Clock
from headgate.core.errors import Overloaded
from headgate.core.limiter import Account, AccountState, Cost, Limiter, Plan, Rate, Verdict
from headgate.core.tasks import Tasks
from headgate.storage.limits.breaker import Breaker, BreakerSettings
from headgate.storage.limits.share import Decided, Share, closed_by, share_of

OPEN_MAX = 100_000
"""Calls in progress that were judged without the store; more are refused."""
TURNS = 30
"""Of the event loop, beyond the time a call may wait: an answer that is there is read within a few."""
KNOWN_MAX = 100_000
"""Accounts of which the last state is remembered, those seen first forgotten first."""
ASKING_MAX = 10_000
"""Calls that ask the store at once, those that nobody waits for any more included; more are judged here."""
_TRIAL = Plan(rates=(Rate(key="trial", amount=1e6, window_s=1.0, burst=1e6),))
"""It writes: a store that only reads is no use."""


class GuardSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How patient to be with the store."""

    timeout_s: Annotated[float, Meta(gt=0)] = 0.5
    """How long the store may answer nobody before a call gives it up. One that answers others is waited for."""
    doubt_s: Annotated[float, Meta(gt=0)] = 0.02
    """About how long after a failed call the first trial comes, so that little traffic is enough to open in time."""
    trial_s: Annotated[float, Meta(gt=0)] = 0.25
    """About how long between trials while open."""
    reconcile_s: Annotated[float, Meta(gt=0)] = 60.0
    """How long an account is named by `touched_accounts` after it was used without the store: as long as the ledger
    may take to hear of that."""
    breaker: BreakerSettings = BreakerSettings()


class Change(Struct, frozen=True):
    """The store is away, or is back."""

    degraded: bool
    reason: str
    away_s: float = 0.0
    """How long it was, where it is back."""


@runtime_checkable
class HasPulse(Protocol):
    """A store that tells how it is, apart from how long calls wait for their turn."""

    def pulse(self) -> tuple[float, float]:
        """When it last answered (monotonic seconds), and how many seconds that took."""


class Hears(Struct, frozen=True):
    """Who is told, at once and without waiting."""

    changed: Callable[[Change], object] = lambda change: None
    recovered: Callable[[tuple[Account, ...]], object] = lambda accounts: None
    """Accounts that were used while the store was away: their sums in the ledger are to be brought to the store."""
    decided: Callable[[Decided], object] = lambda rule: None
    """One call was judged without the store by this rule."""


class GuardedLimiter:
    """`core.limiter.Limiter`: `shared` while it is well, else a share of it in `local`, which is nobody else's.

    A claim is settled where it was taken. Raises `Overloaded` (`limits_unavailable`) where a limit fails closed or
    nothing is known of a budget.
    """

    def __init__(
        self,
        shared: Limiter,
        local: Limiter,
        replicas: Callable[[], int],
        clock: Clock,
        rng: random.Random,
        hears: Hears | None = None,
        settings: GuardSettings | None = None,
    ) -> None:
        self._shared = shared
        self._pulse = shared.pulse if isinstance(shared, HasPulse) else None
        self._local = local
        self._replicas = replicas
        self._clock = clock
        self._rng = rng
        self._hears = hears or Hears()
        self._settings = settings or GuardSettings()
        self._breaker = Breaker(self._settings.breaker)
        self._late: set[str] = set()
        """Claims that the store was asked for and has not answered yet, though nobody waits any more. Asked for again
        under the same name, what the first try took would be given back in place of it."""
        self._tasks = Tasks(2)  # one, and one that has just ended
        self._asking = Tasks(ASKING_MAX)
        self._watching = False
        self._away_since = 0.0
        self._failed_at = float("-inf")
        self._back_at = float("-inf")
        self._known: dict[str, int] = {}
        """What was spent and held of an account when the store last told."""
        self._ceilings: dict[str, int] = {}
        """Up to what an account may be spent here while the store is away: found when first needed, and kept. What the
        ledger says meanwhile counts against it, and is no reason for another share of what is left."""
        self._shares: WeakKeyDictionary[Plan, Share] = WeakKeyDictionary()
        self._open: dict[str, tuple[Share, float]] = {}
        """Claims taken here, and when they end by themselves."""
        self._touched: dict[str, tuple[Account, float]] = {}
        """When an account was last used here."""

    @property
    def degraded(self) -> bool:
        return self._breaker.open

    async def reserve(self, claim: str, plan: Plan, cost: Cost, ttl_s: float) -> Verdict:
        if not self._breaker.open and claim not in self._late:
            began = self._clock.monotonic()
            try:
                verdict = await self._ask(claim, plan, cost, ttl_s)
            except TimeoutError:
                if began >= self._back_at:  # what failed before the store came back proves nothing
                    self._failed()
            except Overloaded:
                # Nor do calls that were under way when the last one failed: where a connection ends, all that travel
                # on it fail.
                if began >= max(self._back_at, self._failed_at):
                    self._failed()
            else:
                self._answered(began)
                for account, state in zip(plan.accounts, verdict.accounts, strict=False):
                    self._learn(account.key, state.spent + state.held)
                return verdict
        return await self._reserve_here(claim, plan, cost, ttl_s)

    async def _ask(self, claim: str, plan: Plan, cost: Cost, ttl_s: float) -> Verdict:
        """Asks the store. Raises `TimeoutError` where it takes too long.

        Then it is not stopped but left to end by itself: to stop it would end its connection, and a store that is far
        away would never get to have any.
        """
        if len(self._asking) >= ASKING_MAX:
            raise TimeoutError
        work = self._shared.reserve(claim, plan, cost, ttl_s)
        task: asyncio.Task[Verdict] = self._asking.spawn(work, name="limits: reserve")
        try:
            answered = await self._answer(task)
        except asyncio.CancelledError:
            task.cancel()
            self._leave(task, claim, plan, cost)
            raise
        if answered:
            return task.result()
        self._leave(task, claim, plan, cost)
        raise TimeoutError

    def _leave(self, task: "asyncio.Task[Verdict]", claim: str, plan: Plan, cost: Cost) -> None:
        self._late.add(claim)
        task.add_done_callback(partial(self._came_late, claim, plan, cost))

    async def _answer(self, task: "asyncio.Task[Verdict]") -> bool:
        """Whether it came; False only where the store has answered nobody for as long as a call may wait.

        A burst waits its turn at a store that answers: to judge it here would let it spend what others spend there.
        """
        while not task.done():
            began = self._clock.monotonic()
            await asyncio.wait((task,), timeout=self._settings.timeout_s)
            for _ in range(TURNS):  # a loop that is held up itself finds its timers long before its answers
                if task.done():
                    break
                await asyncio.sleep(0)
            if not task.done() and (self._pulse is None or self._pulse()[0] < began):
                return False
        return True

    def _came_late(self, claim: str, plan: Plan, cost: Cost, task: "asyncio.Task[Verdict]") -> None:
        """The caller has left, or was judged here meanwhile: what the store took for it goes back."""
        self._late.discard(claim)
        if not task.cancelled() and task.exception() is None and task.result().allowed:
            self._shared.settle(claim, plan, cost, Cost())

    async def _reserve_here(self, claim: str, plan: Plan, cost: Cost, ttl_s: float) -> Verdict:
        if not self._breaker.open and any(account.hard for account in plan.accounts):
            # The others go on spending in the store: to spend a share of it here as well could spend it twice.
            self._hears.decided("budget")
            raise self._refused("A budget")
        now = self._clock.monotonic()
        share = self._shares.get(plan)
        if share is None:
            rule = closed_by(plan, self._known)
            if rule is not None:
                self._hears.decided(rule)
                raise self._refused("A limit" if rule == "fail_closed" else "A budget")
            # Where the breaker is closed it is one call's mishap, and the next one's share is another.
            ceilings = self._ceilings if self._breaker.open else {}
            share = await share_of(plan, self._replicas(), self._known, ceilings, self._local)
            if self._breaker.open:
                self._shares[plan] = share
                while len(ceilings) > KNOWN_MAX:
                    del ceilings[next(iter(ceilings))]
        self._make_room(now)
        verdict = await self._local.reserve(claim, share.plan, cost, ttl_s)
        if verdict.missing:  # kept no longer than its period: a store away for so long
            self._shares.pop(plan, None)
            raise self._refused("A budget")
        if verdict.refused_account is not None:  # this replica's share is used up: the budget may well not be
            self._hears.decided("budget")
            raise self._refused("A budget")
        for rule in share.rules:
            self._hears.decided(rule)
        if verdict.allowed:
            self._open[claim] = share, now + ttl_s
            self._touch(share, now)
        return share.as_asked(verdict)

    def _make_room(self, now: float) -> None:
        """Forgets claims that have ended by themselves: more than come in, so none pile up."""
        for _ in range(4):
            first = next(iter(self._open.items()), None)
            if first is None or first[1][1] > now:
                break
            del self._open[first[0]]
        if len(self._open) >= OPEN_MAX:
            raise self._refused(f"More than {OPEN_MAX} calls in progress")

    def _refused(self, what: str) -> Overloaded:
        return Overloaded(
            f"{what} cannot be checked while the store of limits is away; try again shortly.",
            code="limits_unavailable",
            retry_after=max(1.0, self._settings.trial_s),
        )

    def _learn(self, key: str, spent: int) -> None:
        if key not in self._known and len(self._known) >= KNOWN_MAX:
            del self._known[next(iter(self._known))]
        self._known[key] = spent

    def _touch(self, share: Share, now: float) -> None:
        for account in share.accounts:
            if account.key not in self._touched and len(self._touched) >= KNOWN_MAX:
                del self._touched[next(iter(self._touched))]  # reconciliation of all accounts finds it later
            self._touched[account.key] = account, now

    def settle(self, claim: str, plan: Plan, held: Cost, used: Cost) -> None:
        entry = self._open.pop(claim, None)
        if entry is None:
            self._shared.settle(claim, plan, held, used)
            return
        share = entry[0]
        self._local.settle(claim, share.plan, held, used)
        self._touch(share, self._clock.monotonic())
        if share.accounts and not self._breaker.open:
            self._hears.recovered(share.accounts)

    def last_known(self, key: str) -> int:
        """What was spent and held of an account when the store last told; 0 where it never did."""
        return self._known.get(key, 0)

    def touched_accounts(self) -> tuple[Account, ...]:
        """Accounts of which the store may not know all, since they were used without it.

        Bring their sums from the ledger to the store (`raise_to`) every few seconds while there are any.
        """
        now = self._clock.monotonic()
        if not self._breaker.open and now - self._back_at > self._settings.reconcile_s:
            for key in [key for key, (_, at) in self._touched.items() if now - at > self._settings.reconcile_s]:
                del self._touched[key]
        return tuple(account for account, _ in self._touched.values())

    # The store's health

    def _answered(self, began: float) -> None:
        now, was_open = self._clock.monotonic(), self._breaker.open
        self._breaker.answered(now - began if self._pulse is None else self._pulse()[1], now)
        if self._breaker.open and not was_open:
            self._opened()

    def _failed(self) -> None:
        was_open = self._breaker.open
        self._failed_at = self._clock.monotonic()
        self._breaker.failed(self._failed_at)
        if self._breaker.open and not was_open:
            self._opened()
        self._watch_soon()

    def _opened(self) -> None:
        self._away_since = self._clock.monotonic()
        self._shares.clear()
        self._ceilings.clear()
        self._hears.changed(Change(True, self._breaker.reason))
        self._watch_soon()

    def _watch_soon(self) -> None:
        if not self._watching:
            self._watching = True
            self._tasks.spawn(self._watch(), name="limits: trials")

    async def _watch(self) -> None:
        """Tries the store, one trial at a time, until it is known to be well."""
        breaker, settings = self._breaker, self._settings
        try:
            while breaker.open or breaker.suspicious:
                pause_s = settings.trial_s if breaker.open else settings.doubt_s
                await self._clock.sleep(pause_s * self._rng.uniform(0.5, 1.5))
                seconds = await self._try()
                was_open = breaker.open
                if breaker.tried(seconds, self._clock.monotonic()):
                    self._recover()
                elif breaker.open and not was_open:
                    self._opened()
        finally:
            self._watching = False

    async def _try(self) -> float | None:
        """How long the store took for a write; None where it failed."""
        began = self._clock.monotonic()
        try:
            await self._ask("trial", _TRIAL, Cost(), 1.0)
        except (Overloaded, TimeoutError):
            return None
        return self._clock.monotonic() - began

    def _recover(self) -> None:
        self._back_at = self._clock.monotonic()
        self._hears.changed(Change(False, "the store answers again", self._back_at - self._away_since))
        if self._touched:
            self._hears.recovered(self.touched_accounts())

    # The rest of the port

    async def flush(self) -> None:
        if not self._breaker.open:
            await self._shared.flush()

    async def seed(self, spent: Sequence[tuple[Account, int]]) -> None:
        """While the store is away: what the ledger says is remembered where nothing else is known."""
        for account, amount in spent:
            if account.key not in self._known:
                self._learn(account.key, amount)
        if not self._breaker.open:
            await self._shared.seed(spent)

    async def raise_to(self, spent: Sequence[tuple[Account, int]]) -> None:
        """While the store is away: accounts here are brought up to the ledger; do it again once it is back."""
        if not self._breaker.open:
            await self._shared.raise_to(spent)
            return
        for account, amount in spent:
            self._learn(account.key, max(amount, self._known.get(account.key, 0)))
        await self._local.raise_to(spent)

    async def balances(self, keys: Sequence[str]) -> list[AccountState | None]:
        """While the store is away: what is known here."""
        if not self._breaker.open:
            return await self._shared.balances(keys)
        found = await self._local.balances(keys)
        return [
            state if state is not None else AccountState(self._known[key], 0) if key in self._known else None
            for key, state in zip(keys, found, strict=True)
        ]

    async def aclose(self) -> None:
        await self._tasks.aclose()
        await self._asking.aclose()
        await self._local.aclose()
        await self._shared.aclose()

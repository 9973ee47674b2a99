"""Limits of one process: exact, bounded, gone with the process.

No method waits for anything, which is what makes each atomic.
"""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

from headgate.core.clock import Clock
from headgate.core.errors import Overloaded
from headgate.core.limiter import Account, AccountState, Cost, Plan, Verdict
from headgate.core.policy import Algorithm
from headgate.storage.limits.balance import Balance, Holders
from headgate.storage.limits.expiring import Expiring
from headgate.storage.limits.meters import Level, Log, Meter, Windows
from headgate.storage.limits.numbers import (
    WHOLE_MAX,
    Numbers,
    check_cost,
    check_plan,
    check_spent,
    check_ttl,
    clamped,
    overflow,
)

KEYS_MAX = 1_000_000
"""Keys of each kind: some 300 MB at worst. A rate that is as good as new, like all that ended, is no key any more."""
_METERS: dict[Algorithm, type[Level] | type[Log] | type[Windows]] = {
    "token_bucket": Level,
    "leaky_bucket": Level,
    "sliding_log": Log,
    "sliding_counter": Windows,
}


class _Prepared:
    """A plan's numbers, made once."""

    __slots__ = ("rates", "tokens")

    def __init__(self, plan: Plan) -> None:
        check_plan(plan)
        self.rates = tuple(map(Numbers, plan.rates))
        self.tokens = tuple(numbers for numbers in self.rates if numbers.tokens)


class MemoryLimiter:
    """`core.limiter.Limiter` in this process. Time is the clock's monotonic one."""

    def __init__(self, clock: Clock, keys_max: int = KEYS_MAX) -> None:
        self._clock = clock
        self._plans: WeakKeyDictionary[Plan, _Prepared] = WeakKeyDictionary()
        self._meters: Expiring[Meter] = Expiring(keys_max)
        self._places: Expiring[Holders] = Expiring(keys_max)
        self._accounts: Expiring[Balance] = Expiring(keys_max)

    def __len__(self) -> int:
        """Keys held, ended ones not yet swept included."""
        return len(self._meters) + len(self._places) + len(self._accounts)

    async def reserve(self, claim: str, plan: Plan, cost: Cost, ttl_s: float) -> Verdict:
        check_cost(cost)
        check_ttl(ttl_s)
        numbers = self._prepared(plan).rates
        now = self._clock.monotonic()
        tokens = cost.tokens
        known = self._meters.entries
        meters, asked = [], []
        refused_rate, retry_after = None, 0.0
        for index, rate in enumerate(numbers):
            meter = known.get(rate.key) or _METERS[rate.algorithm](now)
            amount = min(rate.most, tokens) if rate.tokens else rate.one
            wait = meter.wait(rate, now, amount)
            if wait > retry_after:
                refused_rate, retry_after = index, wait
            meters.append(meter)
            asked.append(amount)
        holders = [self._places.entries.get(place.key) or Holders(now) for place in plan.places]
        balances = [self._balance(account.key, now) for account in plan.accounts]
        refused_place = refused_account = None
        missing: tuple[int, ...] = ()
        if refused_rate is None:
            refused_place = _first_full(plan, holders, claim, now)
            if refused_place is None:
                refused_account, missing = _judge(plan, balances, claim, cost)
        allowed = refused_rate is None and refused_place is None and refused_account is None and not missing
        delay_s = 0.0
        if allowed:
            self._remember(plan, numbers, meters, holders, now)  # before anything is taken: beyond, nothing fails
            for rate, meter, amount in zip(numbers, meters, asked, strict=True):
                if (pause_s := meter.take(rate, now, claim, amount)) > delay_s:
                    delay_s = pause_s
            for held in holders:
                held.take(claim, now + ttl_s)
            for account, balance in zip(plan.accounts, balances, strict=True):
                if balance is not None:
                    balance.hold(account, claim, tokens if account.tokens else cost.nanos, now, ttl_s)
        return Verdict(
            allowed=allowed,
            rates=tuple([meter.state(rate, now) for rate, meter in zip(numbers, meters, strict=True)]),
            accounts=() if None in balances else tuple([balance.state() for balance in balances if balance]),
            refused_rate=refused_rate,
            refused_place=refused_place,
            refused_account=refused_account,
            retry_after=retry_after,
            delay_s=delay_s,
            missing=missing,
        )

    def _prepared(self, plan: Plan) -> _Prepared:
        prepared = self._plans.get(plan)
        if prepared is None:
            prepared = self._plans[plan] = _Prepared(plan)
        return prepared

    def _balance(self, key: str, now: float) -> Balance | None:
        balance = self._accounts.entries.get(key)
        if balance is None or balance.end <= now:
            return None
        balance.sweep(now)
        return balance

    def _remember(
        self, plan: Plan, numbers: Sequence[Numbers], meters: Sequence[Meter], holders: Sequence[Holders], now: float
    ) -> None:
        known, places = self._meters.entries, self._places.entries
        if new := [rate for rate in numbers if rate.key not in known]:
            self._meters.room(len(new), now)
        if new_places := [place for place in plan.places if place.key not in places]:
            self._places.room(len(new_places), now)
        # All of them again, since making room may have swept one that had ended and is in use from now on.
        if new:
            for rate, meter in zip(numbers, meters, strict=True):
                if rate.key not in known:
                    self._meters.add(rate.key, meter)
        if new_places:
            for place, held in zip(plan.places, holders, strict=True):
                if place.key not in places:
                    self._places.add(place.key, held)

    def settle(self, claim: str, plan: Plan, held: Cost, used: Cost) -> None:
        now = self._clock.monotonic()
        used = clamped(used)
        known = not plan.places and not plan.accounts
        for place in plan.places:
            holders = self._places.entries.get(place.key)
            if holders is not None and holders.ends.pop(claim, now) > now:
                known = True
        for account in plan.accounts:
            balance = self._balance(account.key, now)
            if balance is not None and balance.settle(
                account, claim, used.tokens if account.tokens else used.nanos, now
            ):
                known = True
        for rate in self._prepared(plan).tokens:
            self._true_up(rate, claim, (min(held.tokens, rate.most), min(used.tokens, rate.most)), known, now)

    def _true_up(self, rate: Numbers, claim: str, took: tuple[float, float], known: bool, now: float) -> None:
        meter = self._meters.entries.get(rate.key)
        if meter is None:
            if not known:
                return
            meter = _METERS[rate.algorithm](now)
            try:
                self._meters.room(1, now)
            except Overloaded:  # what nobody can remember is not counted; the call itself is over
                return
            self._meters.add(rate.key, meter)
        meter.true_up(rate, now, claim, took, known)

    async def flush(self) -> None:
        return

    async def seed(self, spent: Sequence[tuple[Account, int]]) -> None:
        check_spent(spent)
        now = self._clock.monotonic()
        for account, amount in spent:
            if self._balance(account.key, now) is None:
                self._accounts.room(account.key not in self._accounts.entries, now)
                self._accounts.add(account.key, Balance(amount, now + account.keep_s))

    async def raise_to(self, spent: Sequence[tuple[Account, int]]) -> None:
        check_spent(spent)
        now = self._clock.monotonic()
        for account, amount in spent:
            balance = self._balance(account.key, now)
            if balance is not None:
                balance.spent = max(balance.spent, min(amount, WHOLE_MAX - balance.held))

    async def balances(self, keys: Sequence[str]) -> list[AccountState | None]:
        now = self._clock.monotonic()
        found = [self._balance(key, now) for key in keys]
        return [balance.state() if balance is not None else None for balance in found]

    async def aclose(self) -> None:
        return


def _first_full(plan: Plan, holders: Sequence[Holders], claim: str, now: float) -> int | None:
    for index, (place, held) in enumerate(zip(plan.places, holders, strict=True)):
        if not held.free(claim, place.limit, now):
            return index
    return None


def _judge(
    plan: Plan, balances: Sequence[Balance | None], claim: str, cost: Cost
) -> tuple[int | None, tuple[int, ...]]:
    """The first account that cannot hold the cost; and those that are not known. `ValueError` where sums overflow."""
    if None in balances:
        return None, tuple(index for index, balance in enumerate(balances) if balance is None)
    for index, (account, balance) in enumerate(zip(plan.accounts, balances, strict=True)):
        if balance is not None:
            after = balance.after(claim, cost.tokens if account.tokens else cost.nanos)
            if account.hard and after > account.limit:
                return index, ()
            if after > WHOLE_MAX:
                raise overflow(account.key)
    return None, ()

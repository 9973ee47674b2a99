"""Limits at very high rates: calls are served from credit that this replica took ahead, without a round trip.

After the leased quotas of large systems (Doorman; "Distributed Rate Limiting", Raghavan et al., SIGCOMM 2007), with a
stated bound: see `credit`. Only calls that need nothing but leased rates are served so. One that needs a place, a
budget or an exact rate asks the store anyway, and then asks for everything exactly, in the same round trip.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary, WeakValueDictionary

from headgate.core.clock import Clock
from headgate.core.errors import Overloaded
from headgate.core.limiter import Account, AccountState, Cost, Limiter, Plan, RateState, Verdict
from headgate.core.tasks import Tasks
from headgate.storage.limits.credit import Credit, LeaseSettings

OPEN_MAX = 100_000
"""Calls in progress whose token rates can be trued up; of more, the oldest are not."""
REFILLS_MAX = 1_000
"""Rates that may be asked for at once; calls on more are refused for a moment."""

_Lease = tuple[Credit, bool]
"""The credit, and whether a call takes its tokens from it rather than 1."""


class LeasedLimiter:
    """`core.limiter.Limiter`: leased rates from credit, all else by `inner`.

    All replicas together accept at most what `inner`'s buckets let through, plus `settings.share` of one window's
    amount in any window. What a replica took and did not use goes back after `settings.hold_s`; the credit of one
    that dies is lost until the bucket refills. `replicas` is the number of replicas; `instance` names this one.
    """

    def __init__(
        self,
        inner: Limiter,
        clock: Clock,
        rng: random.Random,
        replicas: Callable[[], int],
        instance: str,
        settings: LeaseSettings | None = None,
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._rng = rng
        self._replicas = replicas
        self._instance = instance
        self._settings = settings or LeaseSettings()
        self._tasks = Tasks(2 * REFILLS_MAX + 2)  # those just ended included, and the one that returns credit
        self._claims = 0
        self._leases: WeakKeyDictionary[Plan, tuple[_Lease, ...]] = WeakKeyDictionary()
        """Of each plan seen; empty for one that asks the store."""
        self._credits: WeakValueDictionary[str, Credit] = WeakValueDictionary()
        self._holding: dict[str, Credit] = {}
        """Those with credit or debt, which must not be forgotten."""
        self._refills: dict[str, asyncio.Future[None]] = {}
        self._open: dict[str, bool] = {}
        """Claims to true up: whether they were served from credit."""
        self._sweeping = False

    async def reserve(self, claim: str, plan: Plan, cost: Cost, ttl_s: float) -> Verdict:
        verdict = self.at_once(claim, plan, cost)
        if verdict is not None:
            return verdict
        leases = self._leases[plan]
        if not leases:
            return await self._inner.reserve(claim, plan, cost, ttl_s)
        if any(self._too_small(credit, _need(tokens, cost)) for credit, tokens in leases):
            verdict = await self._inner.reserve(claim, plan, cost, ttl_s)
            if verdict.allowed:
                self._remember(claim, leases, local=False)
            return verdict
        return await self._wait(claim, leases, cost)

    def at_once(self, claim: str, plan: Plan, cost: Cost) -> Verdict | None:
        """The decision where it needs no waiting; None where `reserve` must ask the store.

        Raises `Overloaded` where the store, asked a moment ago, gave no answer and credit is used up.
        """
        leases = self._leases.get(plan)
        if leases is None:
            leases = self._leases[plan] = self._split(plan)
        if not leases:
            return None
        lacking = False
        for credit, tokens in leases:
            need = cost.tokens if tokens else 1
            credit.asked += need
            if need > credit.level and need > 0:
                lacking = True
        return self._refusal(leases, cost) if lacking else self._take(claim, leases, cost)

    def _split(self, plan: Plan) -> tuple[_Lease, ...]:
        leasable = all(rate.leased and rate.algorithm == "token_bucket" for rate in plan.rates)
        if not leasable or plan.places or plan.accounts:
            return ()
        found = []
        for rate in plan.rates:
            credit = self._credits.get(rate.key)
            if credit is None:
                credit = self._credits[rate.key] = Credit(rate, self._settings, self._clock.monotonic())
            elif credit.rate != rate:
                credit.follow(rate)
            found.append((credit, rate.tokens))
        return tuple(found)

    def _lacking(self, leases: tuple[_Lease, ...], cost: Cost) -> Credit | None:
        for credit, tokens in leases:
            need = cost.tokens if tokens else 1
            if need > credit.level and need > 0:
                return credit
        return None

    def _take(self, claim: str, leases: tuple[_Lease, ...], cost: Cost) -> Verdict:
        for credit, tokens in leases:
            credit.level -= cost.tokens if tokens else 1
            if credit.level < credit.low and credit.rate.key not in self._refills:
                now = self._clock.monotonic()
                if now >= credit.empty_until:
                    self._refill(credit)
        self._remember(claim, leases, local=True)
        return Verdict(allowed=True, rates=_states(leases))

    def _remember(self, claim: str, leases: tuple[_Lease, ...], *, local: bool) -> None:
        if any(tokens for _, tokens in leases):
            if len(self._open) >= OPEN_MAX:
                del self._open[next(iter(self._open))]
            self._open[claim] = local

    def _refusal(self, leases: tuple[_Lease, ...], cost: Cost) -> Verdict | None:
        """None where the store might have some of every rate that lacks."""
        now = self._clock.monotonic()
        longest: int | None = None
        wait_s = 0.0
        for index, (credit, tokens) in enumerate(leases):
            need = _need(tokens, cost)
            if need <= max(0.0, credit.level) or now >= credit.empty_until:
                continue
            if credit.trouble is not None:
                raise Overloaded(credit.trouble.message, code=credit.trouble.code, retry_after=credit.empty_until - now)
            if (wait := credit.wait_s(need, now)) > wait_s:
                longest, wait_s = index, wait
        if longest is None:
            return None
        return Verdict(allowed=False, rates=_states(leases), refused_rate=longest, retry_after=wait_s)

    def _too_small(self, credit: Credit, need: float) -> bool:
        if credit.cap < self._settings.calls_min * need:
            credit.plan_ahead(self._replicas(), self._clock.monotonic())
        return credit.cap < self._settings.calls_min * need

    async def _wait(self, claim: str, leases: tuple[_Lease, ...], cost: Cost) -> Verdict:
        """Waits for the answer under way, and for one more that counts this call's need, of each rate that lacks."""
        for _ in range(2 * len(leases)):
            credit = self._lacking(leases, cost)
            if credit is None:
                return self._take(claim, leases, cost)
            refusal = self._refusal(leases, cost)
            if refusal is not None:
                return refusal
            if credit.waiters >= self._settings.waiting_max:
                break
            need = max(_need(tokens, cost) for each, tokens in leases if each is credit)
            credit.waiting += need
            credit.waiters += 1
            try:
                await asyncio.shield(self._refills.get(credit.rate.key) or self._refill(credit))
            finally:
                credit.waiting -= need
                credit.waiters -= 1
        if self._lacking(leases, cost) is None:
            return self._take(claim, leases, cost)
        return self._refusal(leases, cost) or self._later(leases, cost)

    def _later(self, leases: tuple[_Lease, ...], cost: Cost) -> Verdict:
        """Refused though the store may have some: others were faster."""
        now = self._clock.monotonic()
        waits = [
            0.0 if _need(tokens, cost) <= credit.level else credit.pause_s + credit.wait_s(_need(tokens, cost), now)
            for credit, tokens in leases
        ]
        longest = waits.index(max(waits))
        return Verdict(allowed=False, rates=_states(leases), refused_rate=longest, retry_after=waits[longest])

    # Credit from and to the store

    def _refill(self, credit: Credit) -> "asyncio.Future[None]":
        """Begins to take credit; done when the store has answered, whatever it said. One at a time for each rate."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if len(self._refills) >= REFILLS_MAX:
            done.set_result(None)
            return done
        self._refills[credit.rate.key] = done
        self._holding[credit.rate.key] = credit
        self._tasks.spawn(self._ask(credit, done), name="limits: credit")
        self._sweep_soon()
        return done

    async def _ask(self, credit: Credit, done: "asyncio.Future[None]") -> None:
        try:
            wanted = credit.plan_ahead(self._replicas(), self._clock.monotonic())
            if wanted > 0:
                await self._obtain(credit, wanted)
                credit.give_back(self._inner, self._clock.monotonic())
        except Overloaded as error:
            now = self._clock.monotonic()
            credit.trouble = error
            credit.empty_until = now + max(credit.pause_s, 0.1) * self._rng.uniform(0.75, 1.25)
        finally:
            del self._refills[credit.rate.key]
            done.set_result(None)

    async def _obtain(self, credit: Credit, wanted: int) -> None:
        """Takes what is wanted, or else what there is."""
        verdict = await self._claim(credit, wanted)
        left = int(verdict.rates[0].remaining + 1e-6)
        if not verdict.allowed and left >= 1:
            verdict = await self._claim(credit, min(left, wanted))
        elif verdict.allowed:
            return
        now = self._clock.monotonic()
        pause_s = credit.pause_s * self._rng.uniform(0.75, 1.25)
        credit.empty_until = now + max(pause_s, (1 - verdict.rates[0].remaining) / credit.per_s)

    async def _claim(self, credit: Credit, amount: int) -> Verdict:
        self._claims += 1
        claim = f"credit:{self._instance}:{self._claims}"
        verdict = await self._inner.reserve(claim, credit.plan, Cost(amount), 2 * self._settings.hold_s)
        now = self._clock.monotonic()
        if verdict.allowed:
            credit.granted(claim, amount, verdict.rates[0].remaining, now)
        else:
            credit.answered(verdict.rates[0].remaining, now)
        return verdict

    def _sweep_soon(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            self._tasks.spawn(self._sweep(), name="limits: unused credit")

    async def _sweep(self) -> None:
        """Until there is none: returns credit that nobody uses, pays debts."""
        try:
            while self._holding:
                await self._clock.sleep(self._settings.hold_s / 2)
                now = self._clock.monotonic()
                for key, credit in list(self._holding.items()):
                    credit.give_back(self._inner, now)
                    if key in self._refills:
                        continue
                    if credit.level < 0 and now >= credit.empty_until:
                        self._refill(credit)
                    elif credit.idle:
                        del self._holding[key]
        finally:
            self._sweeping = False

    # The rest of the port

    def settle(self, claim: str, plan: Plan, held: Cost, used: Cost) -> None:
        leases = self._leases.get(plan)
        if not leases:
            self._inner.settle(claim, plan, held, used)
            return
        local = self._open.pop(claim, None)
        if local is None or held.tokens == used.tokens:
            return
        if not local:
            self._inner.settle(claim, plan, held, used)
            return
        for credit, tokens in leases:
            if tokens:
                credit.level += held.tokens - used.tokens
                if credit.level > credit.cap:
                    credit.return_up_to(self._inner, credit.level - credit.cap)
                self._holding[credit.rate.key] = credit
        self._sweep_soon()

    async def flush(self) -> None:
        await self._inner.flush()

    async def seed(self, spent: Sequence[tuple[Account, int]]) -> None:
        await self._inner.seed(spent)

    async def raise_to(self, spent: Sequence[tuple[Account, int]]) -> None:
        await self._inner.raise_to(spent)

    async def balances(self, keys: Sequence[str]) -> list[AccountState | None]:
        return await self._inner.balances(keys)

    async def aclose(self) -> None:
        """Returns all credit, then closes `inner`."""
        await self._tasks.aclose()
        for credit in self._holding.values():
            credit.return_up_to(self._inner, max(0.0, credit.level))
        self._holding.clear()
        await self._inner.aclose()


def _need(tokens: bool, cost: Cost) -> int:
    return cost.tokens if tokens else 1


def _states(leases: tuple[_Lease, ...]) -> tuple[RateState, ...]:
    return tuple([credit.state() for credit, _ in leases])

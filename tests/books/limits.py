"""The limiter as one process sees it: answers get lost, what it told last dies with it; keeps count for the model."""

import asyncio
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from headgate.core.errors import Overloaded
from headgate.core.limiter import Account, AccountState, Cost, Limiter, Plan, Verdict

Fate = Literal["taken", "not taken"]


class Seen:
    """What was asked of the limits, by all processes."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        """By key, as last asked for."""
        self.over: Counter[str] = Counter()
        """By key, what settlements used beyond their holds."""
        self.lost: Counter[str] = Counter()
        """By key, what dead processes held and nobody will settle: it counts as spent for good. Where they had told
        what was used, and nobody heard, what they held beyond that.
        """
        self.paid: dict[tuple[str, str], int] = {}
        """By claim and account, what settlements told was used."""
        self.places: set[str] = set()
        self.replies_lost = 0
        self.busy = 0
        """Questions under way."""
        self.refused: Counter[str] = Counter()

    @contextmanager
    def working(self) -> Iterator[None]:
        self.busy += 1
        try:
            yield
        finally:
            self.busy -= 1


class Watched:
    """A `Limiter` in front of `inner`. Settlements reach it at the next flush or question, as over a network."""

    def __init__(self, inner: Limiter, seen: Seen, shared: bool) -> None:
        self.inner = inner
        self._seen = seen
        self._shared = shared
        self.fates: list[Fate] = []
        """Of the next claims."""
        self.dead = False
        self.holds: dict[str, tuple[Plan, Cost]] = {}
        """Of this process, by claim: not settled in the store yet."""
        self._waiting: list[tuple[str, Plan, Cost, Cost]] = []

    async def reserve(self, claim: str, plan: Plan, cost: Cost, ttl_s: float) -> Verdict:
        with self._seen.working():
            return await self._reserve(claim, plan, cost, ttl_s)

    async def _reserve(self, claim: str, plan: Plan, cost: Cost, ttl_s: float) -> Verdict:
        self._deliver()
        await self._wait()
        for account in plan.accounts:
            self._seen.accounts[account.key] = account
        self._seen.places.update(place.key for place in plan.places)
        fate = self.fates.pop(0) if self.fates else None
        if fate is not None:
            self._seen.replies_lost += 1
            if fate == "taken" and (await self.inner.reserve(claim, plan, cost, ttl_s)).allowed:
                self.inner.settle(claim, plan, cost, Cost())  # the port's promise: nothing is left to settle
            raise Overloaded("The limit store cannot be used.", code="limits_unavailable")
        verdict = await self.inner.reserve(claim, plan, cost, ttl_s)
        if verdict.allowed and plan.accounts:
            self.holds[claim] = plan, cost
        if not verdict.allowed:
            rate, place = verdict.refused_rate, verdict.refused_place
            kind = "rate" if rate is not None else "place" if place is not None else "budget"
            self._seen.refused["missing" if verdict.missing else kind] += 1
        try:
            await self._wait()
        except (asyncio.CancelledError, Overloaded):
            if verdict.allowed and not self.dead:
                self.settle(claim, plan, cost, Cost())  # the port's promise, again
            raise
        return verdict

    def settle(self, claim: str, plan: Plan, held: Cost, used: Cost) -> None:
        if self.dead:
            return
        for account in plan.accounts:
            more = used.tokens - held.tokens if account.tokens else used.nanos - held.nanos
            self._seen.over[account.key] += max(0, more)
            self._seen.paid[claim, account.key] = used.tokens if account.tokens else used.nanos
        self._waiting.append((claim, plan, held, used))
        if not self._shared:
            self._deliver()

    async def flush(self) -> None:
        await self._wait()
        self._deliver()
        await self.inner.flush()

    async def seed(self, spent: Sequence[tuple[Account, int]]) -> None:
        await self._wait()
        await self.inner.seed(spent)

    async def raise_to(self, spent: Sequence[tuple[Account, int]]) -> None:
        await self._wait()
        await self.inner.raise_to(spent)

    async def balances(self, keys: Sequence[str]) -> list[AccountState | None]:
        await self.flush()
        return await self.inner.balances(keys)

    async def aclose(self) -> None:
        return

    def die(self, found: set[str]) -> None:
        """What was told and not delivered is gone; `found` are claims that recovery will settle."""
        self.dead = True
        told = {claim: used for claim, plan, _, used in self._waiting if plan.accounts}
        self._waiting.clear()
        for claim, (plan, cost) in self.holds.items():
            if self._shared and claim not in found:
                used = told.get(claim, Cost())
                for account in plan.accounts:
                    more = cost.tokens - used.tokens if account.tokens else cost.nanos - used.nanos
                    self._seen.lost[account.key] += more
        self.holds.clear()

    def _deliver(self) -> None:
        for claim, plan, held, used in self._waiting:
            self.inner.settle(claim, plan, held, used)
            if plan.accounts:
                self.holds.pop(claim, None)
        self._waiting.clear()

    async def _wait(self) -> None:
        await asyncio.sleep(0)
        if self.dead:
            raise Overloaded("The process is dead.")

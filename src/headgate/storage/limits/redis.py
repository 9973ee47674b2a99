"""Limits that replicas share, in Redis or Valkey: one server or a primary with replicas, not a cluster.

The server should not evict (`maxmemory-policy noeviction`): a limit that is evicted is a limit forgotten.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
from msgspec import Struct
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from headgate.core.clock import Clock
from headgate.core.errors import Overloaded
from headgate.core.limiter import Account, AccountState, Cost, Plan, Verdict
from headgate.storage.limits.numbers import check_cost, check_spent, check_ttl, clamped
from headgate.storage.limits.pipelines import Pipelines
from headgate.storage.limits.scripts import Scripts
from headgate.storage.limits.settlements import Outcome, Settlements
from headgate.storage.limits.shared import Keys, Prepared, milliseconds, verdict
from headgate.storage.redis_pool import connection_pool

TIMEOUT_S = 1.0
"""For a whole method: a place in the pool, connecting, the round trip."""
CONNECTIONS = 32
PREFIX = "headgate:"
_CHUNK = 500
"""Accounts of one script: what others wait for meanwhile stays below some milliseconds."""
_REFUSED_S = 300.0
"""How long a settlement is tried that the server answers with an error: a failover, or a full server, ends sooner."""


class _Settlement(Struct):
    claim: str
    arguments: list[object]
    """Of the script; its last but one says whether this is surely the first try."""
    refused_at: float | None = None
    """When the server answered it with an error first."""


_SURE = -2


class RedisLimiter:
    """`core.limiter.Limiter` on a server. A claim whose answer was lost is not repeated but given up: whatever it took
    is given back, and should it arrive late it takes nothing.
    """

    def __init__(
        self,
        client: Redis,
        clock: Clock,
        timeout_s: float = TIMEOUT_S,
        prefix: str = PREFIX,
        scripts: Scripts | None = None,
    ) -> None:
        self._client = client
        self._clock = clock
        self._pipelines = Pipelines(client, timeout_s, clock)
        self._evaluate = self._pipelines.evaluate
        self._timeout_s = timeout_s
        self._keys = Keys(prefix)
        self._scripts = scripts or Scripts()
        self._name = secrets.token_hex(8)
        self._attempts = 0
        """With the name, tells every try of every replica from all others."""
        self._plans: WeakKeyDictionary[Plan, Prepared] = WeakKeyDictionary()
        self._settlements: Settlements[_Settlement] = Settlements(clock, self._write)

    @classmethod
    def at(cls, url: str, clock: Clock, timeout_s: float = TIMEOUT_S, prefix: str = PREFIX) -> "RedisLimiter":
        """Connects on first use. Raises `StorageError` for a URL the client does not understand."""
        return cls(connect(url, timeout_s), clock, timeout_s, prefix)

    @property
    def lost_settlements(self) -> int:
        """Claims whose end was never written: too many waited while the store was away. Their holds count as spent."""
        return self._settlements.settled.lost

    def pulse(self) -> tuple[float, float]:
        """When the server last answered (monotonic), and how many seconds that took."""
        return self._pipelines.answered_at, self._pipelines.trip_s

    async def reserve(self, claim: str, plan: Plan, cost: Cost, ttl_s: float) -> Verdict:
        check_cost(cost)
        check_ttl(ttl_s)
        prepared = self._prepared(plan)
        if self._settlements.waits(claim):  # a claim of this name ended: its end must be written first
            await self._bounded(self._settlements.flush())
        self._attempts += 1
        attempt = self._keys.given_up(f"{self._name}:{self._attempts}")
        arguments = [
            prepared.count, attempt, *prepared.keys,
            prepared.plan, claim, milliseconds(ttl_s), cost.tokens, cost.nanos,
        ]  # fmt: skip
        answered = False
        try:
            flat = await self._told(self._evaluate(self._scripts.reserve, arguments))
            answered = True
            self._settlements.reached()
        finally:
            if not answered and prepared.settles:  # cancelled while waiting, too
                self._end(claim, prepared, cost, Cost(), attempt)
        return verdict(plan, msgspec.msgpack.decode(flat))

    def settle(self, claim: str, plan: Plan, held: Cost, used: Cost) -> None:
        prepared = self._prepared(plan)
        if prepared.settles:
            self._end(claim, prepared, clamped(held), clamped(used), None)

    def _end(self, claim: str, prepared: Prepared, held: Cost, used: Cost, given_up: str | None) -> None:
        arguments = [
            prepared.end_count, given_up or self._keys.given_up(""), *prepared.end_keys,
            prepared.end_plan, claim, held.tokens, used.tokens, used.nanos,
            int(given_up is None), int(given_up is not None),
        ]  # fmt: skip
        lanes = self._settlements
        lanes.add(lanes.settled if given_up is None else lanes.cancelled, _Settlement(claim, arguments))

    async def flush(self) -> None:
        await self._settlements.flush()

    async def seed(self, spent: Sequence[tuple[Account, int]]) -> None:
        await self._spent("seed", spent)

    async def raise_to(self, spent: Sequence[tuple[Account, int]]) -> None:
        await self._spent("raise", spent)

    async def _spent(self, what: str, spent: Sequence[tuple[Account, int]]) -> None:
        check_spent(spent)
        for first in range(0, len(spent), _CHUNK):
            part = spent[first : first + _CHUNK]
            keys = [key for account, _ in part for key in self._keys.account(account.key)]
            sums = [{"sum": amount, "keep": milliseconds(account.keep_s)} for account, amount in part]
            arguments = [len(keys), *keys, what, msgspec.msgpack.encode(sums)]
            await self._told(self._evaluate(self._scripts.spent, arguments))

    async def balances(self, keys: Sequence[str]) -> list[AccountState | None]:
        found: list[AccountState | None] = []
        for first in range(0, len(keys), _CHUNK):
            names = [name for key in keys[first : first + _CHUNK] for name in self._keys.account(key)]
            packed = await self._told(self._evaluate(self._scripts.balances, [len(names), *names]))
            flat = msgspec.msgpack.decode(packed)
            found += [AccountState(s, h) if s >= 0 else None for s, h in zip(flat[::2], flat[1::2], strict=True)]
        return found

    async def aclose(self) -> None:
        try:
            await self.flush()
        except Overloaded:
            pass  # what could not be written is counted as lost
        finally:
            await self._settlements.aclose()
            await self._pipelines.aclose()
            await self._client.aclose()

    def _prepared(self, plan: Plan) -> Prepared:
        prepared = self._plans.get(plan)
        if prepared is None:
            prepared = self._plans[plan] = Prepared(plan, self._keys)
        return prepared

    async def _write(self, batch: Sequence[_Settlement]) -> list[Outcome]:
        """Raises `Overloaded` where it is not known what was written."""
        script = self._scripts.settle
        try:
            answers = await self._pipeline(["EVALSHA", script.sha], batch)
            unknown = [entry for entry, answer in zip(batch, answers, strict=True) if isinstance(answer, NoScriptError)]
            if unknown:
                texts = iter(await self._pipeline(["EVAL", script.text], unknown))
                answers = [next(texts) if isinstance(answer, NoScriptError) else answer for answer in answers]
        except Overloaded:
            for entry in batch:
                entry.arguments[_SURE] = 0
            raise
        now = self._clock.monotonic()
        return [_outcome(entry, answer, now) for entry, answer in zip(batch, answers, strict=True)]

    async def _pipeline(self, command: list[str], batch: Sequence[_Settlement]) -> list[Any]:
        pipeline = self._client.pipeline(transaction=False)
        queue: Callable[..., Any] = pipeline.execute_command
        for entry in batch:
            queue(*command, *entry.arguments)
        answers: list[Any] = await self._bounded(pipeline.execute(raise_on_error=False))
        return answers

    async def _told(self, answer: Awaitable[Any]) -> Any:
        """What a script says; a round trip is bounded by the pipeline it travels in."""
        try:
            return await answer
        except TimeoutError as error:
            raise _away(f"did not answer within {self._timeout_s:g} s") from error
        except (RedisError, OSError) as error:
            raise _away(f"cannot be used ({str(error)[:200]})") from error

    async def _bounded(self, command: Awaitable[Any]) -> Any:
        """For what does not bound itself."""

        async def bound() -> Any:
            async with asyncio.timeout(self._timeout_s):
                return await command

        return await self._told(bound())


def _outcome(entry: _Settlement, answer: object, now: float) -> Outcome:
    if not isinstance(answer, Exception):
        return "written"
    if entry.refused_at is None:
        entry.refused_at = now
    return "again" if now - entry.refused_at < _REFUSED_S else "lost"


def _away(problem: str) -> Overloaded:
    return Overloaded(f"The limit store {problem}; try again shortly.", code="limits_unavailable", retry_after=1.0)


def connect(url: str, timeout_s: float) -> Redis:
    return Redis.from_pool(connection_pool(url, CONNECTIONS, timeout_s))

"""The door: concurrency and rate limits, and a bounded queue with a wait limit. Full means refuse now, honestly."""

import asyncio
import contextlib
from collections import deque
from typing import Annotated

from msgspec import Meta, Struct

from headgate.backends.estimate import input_tokens
from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.counters import Counters, Take
from headgate.core.errors import HeadgateError, OverLimit, Overloaded
from headgate.core.principal import Principal
from headgate.core.reply import Header
from headgate.core.request import ChatRequest, CompletionRequest, prompts
from headgate.core.tasks import finish
from headgate.ledger.journal import Journal
from headgate.pipeline.limit_headers import limit_headers

OUTPUT_RESERVED_MAX = 32_768
"""A limit nobody reaches is no reservation: a caller may write max_tokens=1000000 for "no limit"."""
GIVE_BACK_SECONDS = 5.0
_Limit = Annotated[int, Meta(ge=1, le=1_000_000_000_000)]
_Size = Annotated[int, Meta(ge=0, le=1_000_000)]


class AdmissionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits of the whole process, and the defaults of a key without limits of its own."""

    concurrency: _Limit = 1_000
    """Calls in progress at once; more wait."""
    queue: _Size = 2_000
    """Calls that may wait; more are refused with 503."""
    queue_wait_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    """Seconds a call may wait; then it is refused with 503."""
    key_concurrency: _Limit = 1_000
    """Calls of one key in progress or waiting."""
    key_requests_per_minute: _Limit = 60_000
    key_tokens_per_minute: _Limit = 20_000_000
    """Prompt and answer together."""
    assumed_output_tokens: _Size = 256
    """Reserved against the token limit where the caller sets no maximum; trued up by what was used."""


class Lease:
    """Room held for one call, given back by `Admission.leave`."""

    def __init__(self, principal: Principal, reserved: int) -> None:
        self.principal = principal
        self.reserved = reserved
        self.headers: list[Header] = []
        self.waited_s = 0.0
        self.started = 0.0


class Admission:
    """State: who is in, who waits. Decisions are synchronous; only waiting and the counters' round trip await."""

    def __init__(self, settings: AdmissionSettings, counters: Counters, clock: Clock, journal: Journal) -> None:
        self.settings = settings
        self._counters = counters
        self._clock = clock
        self._journal = journal
        self._by_key: dict[str, int] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()
        self.active = 0
        self._hold_s = 1.0
        """How long a call holds its place, smoothed: the basis of an honest Retry-After."""

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def admit(self, principal: Principal, call: Call) -> Lease:
        """Raises `OverLimit` (this key's limit) or `Overloaded` (ours), each with the time after which to try again."""
        self._refuse_if_broken()
        limit = principal.limits.concurrency or self.settings.key_concurrency
        if self._by_key.get(principal.key_id, 0) >= limit:
            raise OverLimit(
                f"This API key already has {limit} calls in progress, its limit. Wait for one to end.",
                code="concurrency_limit_exceeded",
                retry_after=max(1.0, self._hold_s),
            )
        lease = Lease(principal, min(self._reserve(call), self._tokens_per_minute(principal)))
        self._by_key[principal.key_id] = self._by_key.get(principal.key_id, 0) + 1
        taken = False
        try:
            # Before the queue: a key over its rate would fill it with calls that are refused in the end.
            await self._take_rates(lease)
            taken = True
            await self._enter(lease, call)
        except BaseException:
            self._forget_key(principal.key_id)
            if taken:
                await finish(self._give_back(lease), GIVE_BACK_SECONDS)
            raise
        return lease

    def use(self, settings: AdmissionSettings) -> None:
        """New settings, from now on: who waits enters where there is more room, and those inside stay."""
        self.settings = settings
        self._let_in()

    async def leave(self, lease: Lease, used_tokens: int) -> None:
        """Gives the place back and trues the token limit up from what was reserved to what was used.

        Raises `Overloaded` where the counters cannot be reached; the place is back all the same.
        """
        held = self._clock.monotonic() - lease.started
        self._hold_s += 0.1 * (held - self._hold_s)
        self._give_place()
        self._forget_key(lease.principal.key_id)
        difference = used_tokens - lease.reserved
        if difference:
            await self._counters.take([self._token_bucket(lease.principal, difference)], force=True)

    def _refuse_if_broken(self) -> None:
        if self._journal.broken is not None:
            self._journal.probe()
            if self._journal.broken is not None:
                raise Overloaded(
                    f"The usage ledger cannot be written ({self._journal.broken}); no new work is taken until it can.",
                    code="ledger_unavailable",
                    retry_after=1.0,
                )

    def _reserve(self, call: Call) -> int:
        body = call.body
        output, answers = 0, 1
        if isinstance(body, ChatRequest):
            output = body.max_completion_tokens or body.max_tokens or self.settings.assumed_output_tokens
            answers = body.n or 1
        elif isinstance(body, CompletionRequest):
            output = body.max_tokens or self.settings.assumed_output_tokens
            answers = max(body.n or 1, body.best_of or 1) * len(prompts(body.prompt))
        return input_tokens(call) + min(output, OUTPUT_RESERVED_MAX) * answers

    async def _enter(self, lease: Lease, call: Call) -> None:
        arrived = self._clock.monotonic()
        if self._waiting or self.active >= self.settings.concurrency:
            if len(self._waiting) >= self.settings.queue:
                raise Overloaded(
                    "Too many calls are waiting already; try again shortly.",
                    code="queue_full",
                    retry_after=self._expected_wait(len(self._waiting)),
                )
            await self._wait(call)
        else:
            self.active += 1
        lease.started = self._clock.monotonic()
        lease.waited_s = lease.started - arrived

    async def _wait(self, call: Call) -> None:
        """First come, first served. Whoever leaves hands the place over, so `active` counts it already."""
        arrived = self._clock.monotonic()
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            async with call.deadline.within(self._clock, self.settings.queue_wait_s):
                await place
        except BaseException as error:
            if place.done() and not place.cancelled():
                self._give_place()
            elif place in self._waiting:
                self._waiting.remove(place)
            if isinstance(error, TimeoutError):
                raise Overloaded(
                    f"No capacity became free within {self._clock.monotonic() - arrived:.1f} s; try again shortly.",
                    code="queue_timeout",
                    retry_after=self._expected_wait(len(self._waiting)),
                ) from error
            raise

    def _give_place(self) -> None:
        self.active -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self.active < self.settings.concurrency:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                self.active += 1

    def _forget_key(self, key_id: str) -> None:
        left = self._by_key[key_id] - 1
        if left:
            self._by_key[key_id] = left
        else:
            del self._by_key[key_id]

    def _expected_wait(self, ahead: int) -> float:
        return max(1.0, (ahead + 1) * self._hold_s / self.settings.concurrency)

    async def _take_rates(self, lease: Lease) -> None:
        principal = lease.principal
        takes = [self._request_bucket(principal, 1), self._token_bucket(principal, lease.reserved)]
        decision = await self._counters.take(takes)
        lease.headers = limit_headers(takes, decision)
        if decision.allowed:
            return
        which = "requests" if decision.refused == 0 else "tokens"
        limit = takes[decision.refused or 0].capacity
        error = OverLimit(
            f"This API key's limit of {limit:g} {which} per minute is reached; it frees continuously. "
            f"Try again in {decision.retry_after:.1f} s.",
            code="rate_limit_exceeded",
            retry_after=decision.retry_after,
        )
        error.headers = lease.headers
        raise error

    async def _give_back(self, lease: Lease) -> None:
        """For a call that was not let in after all."""
        takes = [self._request_bucket(lease.principal, -1), self._token_bucket(lease.principal, -lease.reserved)]
        with contextlib.suppress(HeadgateError):  # the buckets fill again by themselves, within a minute
            await self._counters.take(takes, force=True)

    def _request_bucket(self, principal: Principal, cost: float) -> Take:
        per_minute = principal.limits.requests_per_minute or self.settings.key_requests_per_minute
        return Take(f"requests:{principal.key_id}", cost, per_minute, per_minute / 60)

    def _token_bucket(self, principal: Principal, cost: float) -> Take:
        per_minute = self._tokens_per_minute(principal)
        return Take(f"tokens:{principal.key_id}", cost, per_minute, per_minute / 60)

    def _tokens_per_minute(self, principal: Principal) -> int:
        """Also the most a call reserves: one larger than the whole bucket may pass when it is full, or never could."""
        return principal.limits.tokens_per_minute or self.settings.key_tokens_per_minute

"""From targets to an answer: try each in order until one has given its first piece; then it is the answer.

Falling back is possible only before the first byte: what comes after belongs to the caller already.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial

from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.errors import Bug, Failed, HeadgateError, OverBudget, Overloaded, Truncated, UpstreamTimeout
from headgate.core.events import Event, Stream
from headgate.core.ports import Answer, Backend, CountsTokens
from headgate.core.reply import Reply
from headgate.core.target import Target
from headgate.core.tasks import finish
from headgate.pipeline.admission import Lease
from headgate.pipeline.gate import Slot
from headgate.pipeline.gates import Gates
from headgate.pipeline.holds import Hold
from headgate.pipeline.loop_lag import LoopLag
from headgate.pipeline.meter import Attempt, Story
from headgate.pipeline.retry_budget import RetryBudget

CLOSING_SECONDS = 5.0

Again = Callable[[Lease, Target, str], Awaitable[Hold]]
"""Holds what another attempt at a target may cost, under a claim of this name. Raises `OverBudget`."""


class Dispatch:
    """Holds a snapshot of the backends by name (`use`); `gates` hold each to what it takes."""

    def __init__(self, clock: Clock, gates: Gates, retries: RetryBudget) -> None:
        self._clock = clock
        self.backends: Mapping[str, Backend] = {}
        self._counting: Mapping[str, CountsTokens] = {}
        self.gates = gates
        self.lag = LoopLag(clock)
        self.retries = retries
        self.again: Again = _no_more

    def count_input(self, call: Call, target: Target) -> int | None:
        """The prompt's exact tokens, where the target's backend has the tokenizer and the call is not too large."""
        counts = self._counting.get(target.backend)
        return counts.count_input(call) if counts is not None else None

    def use(self, backends: Mapping[str, Backend]) -> None:
        """A new snapshot."""
        self.backends = backends
        self._counting = {name: backend for name, backend in backends.items() if isinstance(backend, CountsTokens)}

    async def send(self, lease: Lease, reply: Reply, story: Story) -> None:
        """Fills `reply` from the first target that answers. Raises the last target's error where none does."""
        self.retries.came(lease.call.retry_count > 0)
        failure: HeadgateError = Bug("A call was dispatched without a target.")
        for number, target in enumerate(lease.targets):
            hold = await self._hold_again(lease, target, story) if number else lease.first_hold()
            if hold is None:
                break
            failed = await self._once(lease, target, hold, reply, story)
            if failed is None:
                reply.headers.append((b"x-headgate-backend", target.backend.encode()))
                if len(story.attempts) > 1:
                    reply.headers.append((b"x-headgate-attempts", b"%d" % len(story.attempts)))
                return
            failure = failed
            if not may_fall_back(failure) or lease.call.deadline.remaining(self._clock) <= 0:
                break
        raise failure

    async def _once(self, lease: Lease, target: Target, hold: Hold, reply: Reply, story: Story) -> HeadgateError | None:
        """One attempt: None where it answers, else why it does not. Raises where another could not help either."""
        try:
            slot = await self._enter(lease, target, hold)
        except HeadgateError as error:
            return error
        reply.own(slot.leave)
        attempt = story.attempt(lease.call, target, hold)
        reply.own(partial(_end, attempt, reply))
        try:
            await self._try(lease.call, target, reply, attempt)
        except HeadgateError as error:
            if attempt.ended:
                raise  # the answer is there and its receipt could not be kept: another attempt would cost twice
            attempt.fail(error)
            slot.leave(ok=not _too_much(error))
            return error
        slot.observe(*attempt.latency(self.lag.seconds))
        if reply.stream is None:
            slot.leave()  # the backend has done its work, however slowly the caller reads
        return None

    async def _hold_again(self, lease: Lease, target: Target, story: Story) -> Hold | None:
        """What another attempt may cost; None where the retry budget or the caller's own does not allow one.

        The first attempt is no retry, even where a full queue has sent the call on to another target.
        """
        if story.attempts and not self.retries.take():
            story.meter.metrics.retry_refused()
            return None
        try:
            return await self.again(lease, target, f"{lease.call.id}/{target.backend}/{len(story.attempts) + 1}")
        except HeadgateError:
            return None  # why the attempt before failed says more

    async def _enter(self, lease: Lease, target: Target, hold: Hold) -> Slot:
        """Waits for room at the backend; before that no attempt is on record as begun. Raises `Overloaded`."""
        try:
            slot = await self.gates.of(target.backend).enter(lease.ticket, lease.slot)
        except BaseException:
            hold.settle()
            raise
        lease.waited_s += slot.waited_s
        return slot

    async def _try(self, call: Call, target: Target, reply: Reply, attempt: Attempt) -> None:
        backend = self.backends.get(target.backend)
        if backend is None:
            raise Overloaded(f"The backend '{target.backend}' is not available.", code="backend_unavailable")
        try:
            async with call.deadline.within(self._clock):
                answer = await backend.open(call, target)
                reply.own(answer.aclose)
                attempt.progress = answer.progress
                try:
                    await self._begin(call, answer, reply, attempt)
                except HeadgateError:
                    await finish(answer.aclose(), CLOSING_SECONDS)  # not kept open while another target answers
                    raise
        except TimeoutError as error:
            raise UpstreamTimeout(
                "The call's deadline passed before the model answered. Allow more time with x-headgate-timeout-s.",
                code="deadline_exceeded",
            ) from error
        reply.headers.extend(answer.headers)

    async def _begin(self, call: Call, answer: Answer, reply: Reply, attempt: Attempt) -> None:
        if answer.stream is None:
            body = _body(answer)
            attempt.first_piece()
            attempt.succeed(answer.usage)
            reply.body = body
            return
        first = await _first(answer.stream)
        attempt.first_piece()
        alarm = _Alarm(call.deadline.remaining(self._clock))
        reply.own(alarm.stop)
        rest = _until(alarm, first, answer.stream)
        reply.own(rest.aclose)
        stream = attempt.watch(rest)
        reply.own(stream.aclose)
        reply.stream = stream


def _end(attempt: Attempt, reply: Reply) -> None:
    """For an attempt that the closing of its reply finds unfinished."""
    if reply.reason is not None:
        attempt.fail(reply.reason)
    else:
        attempt.abandon()


async def _no_more(lease: Lease, target: Target, claim: str) -> Hold:  # noqa: RUF029 stands where admission's will
    raise OverBudget("Nothing holds what another attempt may cost.")


def _too_much(error: HeadgateError) -> bool:
    """Whether the backend could not take it: it timed out, or said so. A caller's own deadline tells nothing of it."""
    if isinstance(error, Overloaded | UpstreamTimeout):
        return error.code not in {"deadline_exceeded", "backend_unavailable"}
    return error.status == 429


def may_fall_back(error: HeadgateError) -> bool:
    """Only faults that another target may not share: the caller's own mistakes would fail there too."""
    return isinstance(error, Failed) and error.retryable


def _body(answer: Answer) -> bytes:
    if answer.body is None:
        raise Truncated("The model's answer was empty.")
    return answer.body


async def _first(stream: Stream) -> Event | bytes:
    async for item in stream:
        return item
    raise Truncated("The model's answer ended before it began.")


class _Alarm:
    """Cancels whoever waits for a piece when the deadline comes.

    One timer for the whole stream, where a scope around each piece would cost more than passing it on.
    """

    def __init__(self, seconds: float) -> None:
        self.rang = False
        self.waiter: asyncio.Task[object] | None = None
        self._cancellations = 0
        self._timer = asyncio.get_running_loop().call_later(seconds, self._ring)

    def _ring(self) -> None:
        self.rang = True
        if self.waiter is not None:
            self._cancellations = self.waiter.cancelling()
            self.waiter.cancel()

    def taken_back(self) -> bool:
        """Whether a cancellation was ours alone, which ends with this, as `asyncio.timeout` does it."""
        return self.rang and self.waiter is not None and self.waiter.uncancel() <= self._cancellations

    def stop(self) -> None:
        self._timer.cancel()


async def _until(alarm: _Alarm, first: Event | bytes, rest: Stream) -> AsyncGenerator[Event | bytes]:
    """The first piece again, then the others. Raises `UpstreamTimeout` at the deadline."""
    yield first
    if alarm.rang:
        raise _too_late()
    try:
        alarm.waiter = asyncio.current_task()
        async for item in rest:
            alarm.waiter = None
            yield item
            if alarm.rang:
                raise _too_late()
            alarm.waiter = asyncio.current_task()
    except asyncio.CancelledError as error:
        if alarm.taken_back():
            raise _too_late() from error
        raise
    finally:
        alarm.waiter = None


def _too_late() -> UpstreamTimeout:
    return UpstreamTimeout(
        "The call's deadline passed before the answer was complete. Allow more time with x-headgate-timeout-s.",
        code="deadline_exceeded",
    )

"""Counts what each attempt consumed, prices it and writes its receipt; tells each call's story in one log line."""

import contextlib
from collections.abc import Sequence
from typing import Literal

from msgspec import structs

from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError, Overloaded
from headgate.core.ids import Ids
from headgate.core.limiter import Cost
from headgate.core.policy import NANOS
from headgate.core.ports import Progress
from headgate.core.principal import Principal
from headgate.core.usage import Outcome, Reason, Receipt, Usage
from headgate.ledger.journal import Journal
from headgate.ledger.prices import PriceTable
from headgate.pipeline.course import Step
from headgate.pipeline.estimator import Estimator
from headgate.pipeline.holds import Hold
from headgate.telemetry import names
from headgate.telemetry.log import Log
from headgate.telemetry.metrics import Metrics

Level = Literal["full", "fallback", "cached", "message"]
"""How good an answer was served: the route's own model's, a fallback's, a kept one, or a fixed message."""
CLIENT_CLOSED = 499
"""The status recorded for a caller that left (nginx's number for it)."""
_WORKED_ON = frozenset(
    {
        "client_closed",
        "deadline_exceeded",
        "upstream_truncated",
        "upstream_stalled",
        "upstream_timeout",
        "upstream_too_slow",
        "upstream_silent",
    }
)
"""Ends of a whole answer at which its upstream had been at work: the prompt is taken for read."""
LAPS = 4
"""Of the event loop, between a request that is ready to be sent and its answer seen."""
FLOOR_S = 0.05
"""Added to every latency: below some tens of milliseconds a change is noise, no queue of model calls is as short."""
USER_LENGTH_MAX = 256
"""Characters a receipt keeps of the caller's text: its line must stay small."""


class Meter:
    """Built once; `begin` gives the story that follows one call. `prices` is a snapshot, replaced on reload."""

    def __init__(
        self, clock: Clock, ids: Ids, prices: PriceTable, journal: Journal, metrics: Metrics, log: Log
    ) -> None:
        self.estimator = Estimator()
        self.clock = clock
        self.ids = ids
        self.prices = prices
        self.journal = journal
        self.metrics = metrics
        self.log = log

    def begin(self, call: Call) -> "Story":
        return Story(self, call)


class Story:
    """What became of one call: its principal, its attempts, how it ended. `done` is told exactly once."""

    def __init__(self, meter: Meter, call: Call) -> None:
        self.meter = meter
        self.call = call
        self.principal: Principal | None = None
        self.replayed = False
        """Answered with what an earlier call with the same idempotency key was answered with."""
        self.queue_s = 0.0
        self.overhead_s = 0.0
        self.joined = False
        """Answered by an identical call of another caller that was in flight already."""
        self.level: Level = "full"
        self.switched_from: str | None = None
        """The model asked for, where a kill switch chose another."""
        self.attempts: list[Attempt] = []
        self._error: HeadgateError | None = None
        self._completed = False

    @property
    def usage(self) -> Usage:
        """Of all attempts so far."""
        if len(self.attempts) == 1:  # nearly always
            return self.attempts[0].usage
        usages = [attempt.usage for attempt in self.attempts]
        return Usage(
            input=sum(usage.input for usage in usages),
            cached=sum(usage.cached for usage in usages),
            cache_write=sum(usage.cache_write for usage in usages),
            output=sum(usage.output for usage in usages),
            reasoning=sum(usage.reasoning for usage in usages),
            estimated=any(usage.estimated for usage in usages),
        )

    @property
    def answering(self) -> "Attempt | None":
        """The attempt that gave the answer, or its end where it was rescued; the latest where none did."""
        return max(
            self.attempts, key=lambda one: (one.won, one.error is None, not one.deserted, one.number), default=None
        )

    @property
    def cost_usd(self) -> float | None:
        """Of all attempts so far; None where one that used tokens has no price."""
        used = [attempt for attempt in self.attempts if attempt.usage.total or attempt.cost_nanos is not None]
        costs = [attempt.cost_nanos for attempt in used if attempt.cost_nanos is not None]
        return sum(costs) / NANOS if used and len(costs) == len(used) else None

    def attempt(self, call: Call, step: Step, hold: Hold) -> "Attempt":
        """Raises `Overloaded` where the journal cannot be written: then nothing may be sent. The hold is settled in
        every case.
        """
        attempt = Attempt(self, call, step, hold, len(self.attempts) + 1)
        self.attempts.append(attempt)
        self.go_on()
        return attempt

    def go_on(self) -> None:
        """What failed so far is not the end: the call may still succeed, or be left."""
        self._error = None

    def fail(self, error: HeadgateError) -> None:
        self._error = error

    def complete(self) -> None:
        self._completed = True
        self._error = None

    def done(self) -> None:
        """Writes the one `call.done` line and the call's metrics."""
        call, error, principal = self.call, self._error, self.principal
        if self._completed:
            outcome, status, code = "ok", 200, None
        elif error is not None:
            outcome, status, code = ("refused" if error.fault == "caller" else "failed"), error.status, error.code
        else:
            outcome, status, code = "cancelled", CLIENT_CLOSED, "client_closed"
        seconds = self.meter.clock.monotonic() - call.received
        tenant = principal.tenant if principal else "-"
        # A name nobody serves is the caller's text: it may not become a label.
        self.meter.metrics.call(
            operation=call.operation,
            model=call.model if self.attempts or self.joined or self.level in {"cached", "message"} else "-",
            tenant=tenant,
            status=status,
            seconds=seconds,
            queue_s=self.queue_s,
        )
        last, ttfts = self.answering, [one.ttft_ms for one in self.attempts if one.ttft_ms is not None]
        usage = self.usage
        self.meter.log.event(
            names.CALL_DONE,
            request_id=call.id,
            operation=call.operation,
            model=call.model[:256],
            stream=call.stream,
            tenant=tenant,
            key_id=principal.key_id if principal else None,
            outcome=outcome,
            status=status,
            code=code,
            attempts=len(self.attempts),
            tried=tried(self.attempts) if len(self.attempts) > 1 else None,
            served_level=self.level if self.level != "full" else None,
            replayed=self.replayed or None,
            joined=self.joined or None,
            switched_from=self.switched_from,
            backend=last.target.backend if last else None,
            replica=(last.target.replica or None) if last else None,
            upstream_model=last.target.model[:256] if last else None,
            input_tokens=usage.input,
            cached_tokens=usage.cached,
            output_tokens=usage.output,
            estimated=usage.estimated or None,
            cost_usd=self.cost_usd,
            ttft_ms=ttfts[0] if ttfts else None,
            duration_ms=_ms(seconds),
            queue_ms=_ms(self.queue_s),
            overhead_ms=_ms(self.overhead_s),
            client_retry=call.retry_count or None,
            client_request_id=call.client_request_id,
        )


class Attempt:
    """One try at one target. It ends exactly once, with a receipt in the journal."""

    def __init__(self, story: Story, call: Call, step: Step, hold: Hold, number: int) -> None:
        meter = story.meter
        self._story = story
        self._meter = meter
        self._call = call
        self._hold = hold
        self._started = meter.clock.monotonic()
        self.ended = False
        """Its receipt was written, or could not be."""
        self.target = step.target
        self.number = number
        self.error: HeadgateError | None = None
        """Why it failed, once it has."""
        self.deserted = False
        """Its answer was not wanted any more."""
        self.won = False
        """Its answer is complete."""
        self.usage = Usage()
        self.cost_nanos: int | None = None
        self.ttft_ms: float | None = None
        self.begun_s = 0.0
        """Seconds from the attempt to the first piece of its answer."""
        self.progress: Progress | None = None
        """Set once the backend answered: what to bill if the answer never ends."""
        self._receipt = self._expected(number, step)
        try:
            meter.journal.open(hold.opening(self._receipt))
        except BaseException:
            hold.settle()
            raise

    def _expected(self, number: int, step: Step) -> Receipt:
        """The receipt, should this process die before it knows better: the prompt was sent, and no more is known."""
        meter, call, principal = self._meter, self._story.call, self._story.principal
        now = meter.clock.now()
        usage = Usage(input=meter.estimator.likely(self._call), estimated=True)
        self._price = meter.prices.find(self.target.backend, self.target.model, now)
        return Receipt(
            id=f"att{call.id[3:]}-{number}",  # the call's own id is one of a kind
            call_id=call.id,
            attempt=number,
            tenant=principal.tenant if principal else "-",
            key_id=principal.key_id if principal else "-",
            operation=call.operation,
            model=self._call.model[:USER_LENGTH_MAX],
            backend=self.target.backend,
            upstream_model=self.target.model[:USER_LENGTH_MAX],
            started_at=now,
            duration_ms=0.0,
            outcome="lost",
            status=500,
            code="process_lost",
            stream=call.stream,
            usage=usage,
            cost_nanos=self._price.cost_nanos(usage) if self._price is not None else None,
            price_version=meter.prices.version if self._price is not None else None,
            user=_user(call, principal),
            tags=call.tags,
            session=call.session,
            replica=self.target.replica or None,
            reason=step.reason,
            queue_ms=_ms(self._story.queue_s),
            overhead_ms=_ms(self._story.overhead_s),
            passed_over=step.passed_over,
        )

    @property
    def reason(self) -> Reason:
        """Why it was made."""
        return self._receipt.reason

    def first_piece(self) -> None:
        """The first piece of the answer is here. TTFT counts from the caller's request, not from this attempt."""
        now = self._meter.clock.monotonic()
        self.begun_s = now - self._started
        self.ttft_ms = _ms(now - self._story.call.received)
        self._story.go_on()

    def latency(self, lag_s: float) -> tuple[float, str]:
        """How quickly the backend answers, whatever the answer's length, and what kind of answer it is (`capacity`).

        `lag_s` is how far our own loop lags behind: an answer passes it some times before it is seen.
        """
        seconds = max(0.0, self.begun_s - LAPS * lag_s) + FLOOR_S
        if self._call.stream:
            return seconds, "stream"
        return seconds / max(1, self.usage.output), self._call.operation

    def succeed(self, usage: Usage | None) -> None:
        """Raises `Overloaded` where the receipt cannot be written: then the answer must not be completed."""
        self.usage = usage or self._consumed()
        self.won = True
        try:
            self._end("ok", 200, None)
        except HeadgateError as error:
            self._story.fail(error)
            raise
        self._story.complete()

    def fail(self, error: HeadgateError) -> None:
        if not self.ended:
            self.error = error
            self._story.fail(error)
            self._end_early("failed", error.status, error.code)

    def abandon(self) -> None:
        """The caller left before this attempt ended."""
        if not self.ended:
            self._end_early("cancelled", CLIENT_CLOSED, "client_closed")

    def desert(self, code: str) -> None:
        """Its answer is not wanted any more: another attempt was quicker, or it does not go on with what was sent."""
        if self.won or not self.ended:  # a race may end in a tie: then this one is an answer too, and nobody's
            self.deserted = True
        if not self.ended:
            self._end_early("cancelled", CLIENT_CLOSED, code)

    def _end_early(self, outcome: Outcome, status: int, code: str | None) -> None:
        self.usage = self._consumed()
        if self.progress is None and (self.deserted or (not self._call.stream and code in _WORKED_ON)):
            # A whole answer begins when it is complete: the prompt was being worked on.
            self.usage = self._receipt.usage
        with contextlib.suppress(Overloaded):  # the journal keeps the receipt; the error in hand matters more
            self._end(outcome, status, code)

    def _consumed(self) -> Usage:
        """What an attempt without final usage is taken to have used: the backend's count, else an estimate."""
        progress = self.progress
        if progress is None:
            return Usage()
        if progress.exact:
            return Usage(input=progress.input_tokens, output=progress.output_tokens)
        tokens_in = self._meter.estimator.likely(self._call)
        return Usage(input=tokens_in, output=progress.output_tokens, estimated=True)

    def _end(self, outcome: Outcome, status: int, code: str | None) -> None:
        self.ended = True
        meter, usage = self._meter, self.usage
        if self._price is not None:
            self.cost_nanos = self._price.cost_nanos(usage)
        receipt = structs.replace(
            self._receipt,
            duration_ms=_ms(meter.clock.monotonic() - self._started),
            outcome=outcome,
            status=status,
            code=code,
            ttft_ms=self.ttft_ms,
            begun_ms=_ms(self.begun_s) if self.ttft_ms is not None else None,
            usage=usage,
            cost_nanos=self.cost_nanos,
        )
        meter.metrics.attempt(receipt)
        if outcome == "ok" and not usage.estimated:
            meter.estimator.learn(self._call, usage.input)
        try:
            meter.journal.append(receipt)
        finally:
            self._settle(Cost(usage.total, self.cost_nanos or 0))

    def _settle(self, used: Cost) -> None:
        hold = self._hold
        if not hold.settled and hold.exceeded_by(used):
            self._meter.metrics.hold_exceeded()
            self._meter.log.event(
                names.HOLD_EXCEEDED,
                "warning",
                request_id=self._story.call.id,
                attempt=self._receipt.attempt,
                held_nanodollars=hold.cost.nanos,
                used_nanodollars=used.nanos,
                held_tokens=hold.cost.tokens,
                used_tokens=used.tokens,
            )
        hold.settle(used)


def tried(attempts: Sequence[Attempt]) -> list[str]:
    """Each attempt in a few words: where, why it was made, how it ended."""
    words = []
    for attempt in attempts:
        error = attempt.error
        if error is not None:
            end = error.code or str(error.status)
        else:
            end = "ok" if attempt.won else "left" if attempt.ended else "answers"
        words.append(f"{attempt.target.at} {attempt.reason}: {end}")
    return words


def _user(call: Call, principal: Principal | None) -> str | None:
    """The key's user where it has one, else whom the caller named: budgets of users count the same."""
    if principal is not None and principal.user_id is not None:
        return principal.user_id
    return call.user[:USER_LENGTH_MAX] if call.user else None


def _ms(seconds: float) -> float:
    return int(seconds * 1_000_000) / 1000

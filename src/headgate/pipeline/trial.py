"""One attempt at one target: what it takes, its answer, and all of it given back exactly once."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

from headgate.backends.balance.loads import Load
from headgate.backends.replica import Pass
from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.errors import Bug, HeadgateError, Overloaded, Truncated, UpstreamTimeout
from headgate.core.events import Event, Stream
from headgate.core.ports import Answer, Backend
from headgate.core.reply import Header
from headgate.core.rules import HoldBack
from headgate.core.tasks import finish
from headgate.core.usage import Usage
from headgate.pipeline.alarm import Alarm
from headgate.pipeline.gate import Slot
from headgate.pipeline.loop_lag import LoopLag
from headgate.pipeline.meter import Attempt
from headgate.pipeline.rescue.hold_back import hold_back
from headgate.pipeline.rescue.rescue import close

CLOSING_SECONDS = 5.0


class Trial:
    """Built with what it has taken already; `ask` gives the answer, `aclose` gives everything back. Idempotent."""

    def __init__(
        self, call: Call, attempt: Attempt, slot: Slot, leave: Pass, load: Load | None, clock: Clock, lag: LoopLag
    ) -> None:
        self.elsewhere: Callable[[], bool] = lambda: False
        """Whether its call can go on elsewhere, should it fail now."""
        self.call = call
        self.attempt = attempt
        self._slot = slot
        self._pass = leave
        self._load = load
        self._clock = clock
        self._lag = lag
        self._answer: Answer | None = None
        self._rest: Stream | None = None
        self._stream: AsyncGenerator[Event | bytes] | None = None
        self._alarm = Alarm(call.deadline.remaining(clock))
        self.closed = False
        self.body: bytes | None = None
        self.headers: Sequence[Header] = ()

    @property
    def at(self) -> str:
        return self.attempt.target.at

    async def ask(self, backend: Backend, rule: HoldBack) -> Stream | None:
        """The answer's stream from its first piece, or None: then `body` is the answer. Raises `HeadgateError`; then
        all is given back.
        """
        alarm = self._alarm
        try:
            alarm.listen()
            answer = self._answer = await backend.open(self.call, self.attempt.target)
            self._pass.heard()
            self.attempt.progress = answer.progress
            self.headers = answer.headers
            if answer.stream is None:
                self._take_body(answer)
                return None
            first, self._rest = await hold_back(answer.stream, rule, self._clock)
            if not first:
                raise Truncated("The model's answer ended before it began.")
        except asyncio.CancelledError as cancelled:
            error = alarm.taken_back()
            if error is None:
                raise
            await self._failed(error)
            raise error from cancelled
        except HeadgateError as error:
            alarm.waiter = None
            await self._failed(error)
            raise
        finally:
            alarm.waiter = None
        self._begun()
        self._stream = self._tell(first, self._rest)
        return self._stream

    @property
    def begun(self) -> bool:
        """Some of its answer is here."""
        return self._stream is not None or self.body is not None

    def give_up(self, error: HeadgateError) -> None:
        """Ends it where it is, as if its upstream had failed with this."""
        if not self.closed and not self.attempt.ended:
            self._alarm.ring(error)

    def lost(self, code: str) -> None:
        """For one that has not ended: its answer is not wanted any more. That tells nothing of its replica."""
        self._pass.dropped()
        self.attempt.desert(code)

    async def aclose(self, reason: HeadgateError | None = None) -> None:
        """`reason` is why the answer was not read to its end; None where the caller left, or it was."""
        if self.closed:
            return
        self.closed = True
        try:
            if self._stream is not None:
                await self._stream.aclose()
        finally:
            self._alarm.stop()
            try:
                if self._rest is not None and self._answer is not None and self._rest is not self._answer.stream:
                    await close(self._rest)
                if self._answer is not None:
                    await self._answer.aclose()
            finally:
                self._give_back(reason)

    def _give_back(self, reason: HeadgateError | None) -> None:
        if reason is not None:
            self.attempt.fail(reason)
        else:
            self.attempt.abandon()
        self._pass.dropped()
        if self._load is not None:
            self._load.end(self.attempt.usage.output if self.attempt.won else None)
        self._slot.leave()

    async def _failed(self, error: HeadgateError) -> None:
        """Not kept open while another target is asked."""
        if self.attempt.ended:
            return  # the answer is there and its receipt could not be kept
        self._broken(error)
        await finish(self.aclose(error), CLOSING_SECONDS)

    def _take_body(self, answer: Answer) -> None:
        if answer.body is None:
            raise Truncated("The model's answer was empty.")
        self.body = answer.body
        self.attempt.first_piece()
        self.attempt.succeed(answer.usage)
        latency = self.attempt.latency(self._lag.seconds)
        self._slot.observe(*latency)
        # How long a whole text takes says more of its length than of the server.
        self._pass.ended(None, None if self.attempt.usage.output else self.attempt.begun_s)
        # The backend has done its work, however slowly the caller reads.
        if self._load is not None:
            self._load.end(self.attempt.usage.output)
        self._slot.leave()

    def _begun(self) -> None:
        self.attempt.first_piece()
        self._slot.observe(*self.attempt.latency(self._lag.seconds))
        self._pass.began(self.attempt.begun_s)
        if self._load is not None:
            self._load.first_piece()

    async def _tell(self, first: Sequence[Event | bytes], rest: Stream) -> AsyncGenerator[Event | bytes]:
        """Passes the answer on, keeps its usage, and writes the receipt before the stream ends."""
        alarm, pulse = self._alarm, self._pass.pulse
        usage: Usage | None = None
        try:
            for item in first:
                if type(item) is Usage:
                    usage = item
                yield item
            alarm.listen()
            async for item in rest:
                alarm.waiter = None
                pulse.beats += 1
                if type(item) is Usage:
                    usage = item
                yield item
                alarm.listen()
        except asyncio.CancelledError as cancelled:
            error = alarm.taken_back()
            if error is None:
                raise
            self._broken(error)
            raise error from cancelled
        except HeadgateError as error:
            self._broken(error)
            raise
        except Exception as error:
            self._broken(Bug(f"The answer could not be read: {type(error).__name__}."))
            raise
        finally:
            alarm.waiter = None
        alarm.stop()
        self.attempt.succeed(usage)
        self._pass.ended(None)

    def _broken(self, error: HeadgateError) -> None:
        self.attempt.fail(error)
        self._pass.ended(error)
        self._slot.leave(ok=not _too_much(error))


def _too_much(error: HeadgateError) -> bool:
    """Whether the backend could not take it: it timed out, or said so. A caller's own deadline tells nothing of it."""
    if isinstance(error, Overloaded | UpstreamTimeout):
        return error.code not in {"deadline_exceeded", "backend_unavailable"}
    return error.status == 429

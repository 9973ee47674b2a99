"""One flight: a run of a call in a task of its own, and everyone who waits for its answer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from headgate.core.clock import Clock
from headgate.core.errors import Bug, HeadgateError, OverBudget, OverLimit, Overloaded
from headgate.core.events import Stream
from headgate.core.reply import Header, Reply
from headgate.core.usage import Usage
from headgate.pipeline.admission import Lease
from headgate.pipeline.flights.shared import Memory, Seat, Shared, own, too_late
from headgate.pipeline.holds import Hold
from headgate.pipeline.meter import Story

BURST = 32
"""Items in a row, before everybody else's turn: an upstream that is never waited for must not hold the loop."""
DEADLINE_S = 0.05
"""A wait that ends so little before the deadline has ended for its sake."""

Send = Callable[[Lease, Reply, Story], Awaitable[None]]
"""Fills a reply from a target. Raises `HeadgateError` before its first byte; the reply owns what it opened."""
Again = Callable[[Lease, str], Awaitable[Hold]]
"""Holds anew what the first attempt for a lease may cost, under a claim of this name. Raises `OverBudget`."""


class Flight:
    """Led by one seat at a time, whose lease and story the attempts are made with.

    The leader's caller may leave: the run goes on while somebody sits in it, and is cancelled with the last who leaves.
    A run that ends before its answer began, for a reason that is the leader's alone, is made anew for another seat.
    """

    def __init__(
        self, leader: Seat, send: Send, again: Again, clock: Clock, memory: Memory, closed: Callable[[], None]
    ) -> None:
        self.leader = leader
        self.shared = Shared(memory)
        self.shared.sit(leader)
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        """There is a head, and the answer's first piece."""
        self.status = 200
        self.headers: Sequence[Header] = ()
        self.body: bytes | None = None
        self._send = send
        self._again = again
        self._clock = clock
        self._closed = closed
        """Told once nobody can join any more."""
        self._closing = False
        self._reason: HeadgateError | None = None

    # Whoever sits in it

    def join(self, seat: Seat) -> None:
        self.shared.sit(seat)
        self.shared.allow(seat, seat.lease.call.deadline.remaining(self._clock))

    def leave(self, seat: Seat, reply: Reply) -> Awaitable[None] | None:
        """The release of a seat's reply. The last one waits until the run has ended."""
        self.shared.leave(seat)
        if self.shared.ended or self.task is None:
            return None
        if not self.shared.seats:
            self._closed()
            if not self._closing:
                self._reason = reply.reason
                self.task.cancel()
            return self._gone(self.task)
        if seat is self.leader:
            _estimate(seat.story)
        return None

    async def ready(self, seat: Seat) -> None:
        """Returns once the answer has begun. Raises why it does not."""
        while True:
            if seat.error is not None:
                raise own(seat.error) from seat.error
            if self.begun:
                return
            if self.shared.ended:
                raise self._why()
            if seat.late:
                raise too_late()
            await seat.wait()

    def _why(self) -> BaseException:
        error = self.shared.error
        if error is None:
            return Bug("A call that others had joined ended without an answer.")
        return own(error) if isinstance(error, HeadgateError) else error

    @staticmethod
    async def _gone(task: "asyncio.Task[None]") -> None:
        await asyncio.wait({task})

    # The run

    async def run(self) -> None:
        """The task of the flight."""
        while True:
            leader = self.leader
            error = await self._lead(leader)
            if error is None or self.begun or not self._alone(error, leader):
                break
            leader.error = error
            leader.wake()
            heir = self._heir(leader, error)
            if heir is None:
                break
            self.leader = heir
            heir.story.meter.metrics.flight("promoted")
        self._closed()
        self.shared.end(error)

    def ended(self, task: "asyncio.Task[None]") -> None:
        """Whatever ends the task, whoever sits in it learns it."""
        if not self.shared.ended:
            stopping = Overloaded("The server is stopping; try again.", retry_after=1.0)
            self._closed()
            self.shared.end(stopping if task.cancelled() else task.exception())

    async def _lead(self, seat: Seat) -> HeadgateError | None:
        """One run; why it failed, if it did."""
        try:
            lease = await self._lease(seat)
        except HeadgateError as error:
            return error
        inner = Reply()
        reason: HeadgateError | None = None
        try:
            await self._send(lease, inner, seat.story)
            seat.lease.waited_s = lease.waited_s
            if inner.stream is not None:
                self._begin(inner)
                await self._pass_on(inner.stream)
        except HeadgateError as error:
            reason = error
            self.headers = tuple(inner.headers)  # what was tried
        except asyncio.CancelledError:
            reason = self._reason
            raise
        except BaseException as error:
            reason = Bug(f"Unexpected {type(error).__name__}.")
            seat.story.fail(reason)
            raise
        finally:
            unused = lease.first_hold()
            if unused is not None:
                unused.settle()
            self._closing = True
            await inner.aclose(reason)
            self._closing = False
        if reason is None and inner.stream is None:
            self.body = inner.body
            self._begin(inner)
        return reason

    async def _lease(self, seat: Seat) -> Lease:
        """The seat's own is given back when its caller leaves, and the run may go on."""
        given, call, principal = seat.lease, seat.lease.call, seat.story.principal
        if principal is None:
            raise Bug("A call without a principal was to lead others.")
        hold = given.first_hold()
        if hold is None:  # it was let go when the call joined
            hold = await self._again(given, f"{call.id}/led")
        lease = Lease(principal, given.booked, hold)
        lease.slot, lease.started, lease.waited_s = given.slot, given.started, given.waited_s
        return lease

    def _begin(self, inner: Reply) -> None:
        self.begun = True
        self.status, self.headers = inner.status, tuple(inner.headers)
        leader = self.leader
        if inner.stream is not None and leader in self.shared.seats:
            self.shared.allow(leader, leader.lease.call.deadline.remaining(self._clock))
        self.shared.tell()

    async def _pass_on(self, stream: Stream) -> None:
        shared, row = self.shared, 0
        async for item in stream:
            shared.add(item)
            if shared.large:
                self._closed()
                await shared.room()
            row += 1
            if row == BURST:
                row = 0
                await asyncio.sleep(0)

    def _alone(self, error: HeadgateError, leader: Seat) -> bool:
        """Whether it is a reason for the leader to end, and none for the others."""
        if error.code == "queue_timeout":
            return leader.lease.call.deadline.remaining(self._clock) <= DEADLINE_S
        return error.code == "deadline_exceeded" or isinstance(error, OverBudget | OverLimit)

    def _heir(self, leader: Seat, error: HeadgateError) -> Seat | None:
        """The first whose turn it can be: where the leader's deadline was too early, one with a later one."""
        any_time = isinstance(error, OverBudget | OverLimit)
        end = leader.lease.call.deadline.at
        for seat in self.shared.seats:
            fits = any_time or seat.lease.call.deadline.at > end
            if seat is not leader and seat.error is None and not seat.late and fits:
                return seat
        return None


def _estimate(story: Story) -> None:
    """What a call is taken to have used when its caller leaves and its attempt goes on: for its limits of tokens."""
    for attempt in story.attempts:
        if not attempt.ended and attempt.progress is not None:
            tokens_in = story.meter.estimator.likely(story.call)
            attempt.usage = Usage(input=tokens_in, output=attempt.progress.output_tokens, estimated=True)

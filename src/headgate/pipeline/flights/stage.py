"""The stage before dispatch: joins a call to an identical one in progress, or lets others join it."""

from functools import partial

from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.errors import HeadgateError
from headgate.core.reply import Header, Reply
from headgate.core.rules import Rules
from headgate.core.tasks import Tasks
from headgate.pipeline.admission import Lease
from headgate.pipeline.flights.flight import Again, Flight, Send
from headgate.pipeline.flights.likeness import cacheable, fingerprint
from headgate.pipeline.flights.shared import Memory, Seat
from headgate.pipeline.meter import Story

FLIGHTS_MAX = 10_000
"""Runs at once; beyond it each call goes alone."""
NAME = b"x-headgate-single-flight"
LED: Header = (NAME, b"led")
JOINED: Header = (NAME, b"joined")


class Flights:
    """`len()` of it: runs in progress."""

    def __init__(self, send: Send, again: Again, clock: Clock, memory: Memory | None = None) -> None:
        self._send = send
        self._again = again
        self._clock = clock
        self._tasks = Tasks(FLIGHTS_MAX)
        self._memory = memory or Memory()
        self._flights: dict[tuple[bytes, str], Flight] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def joinable(self) -> int:
        """Runs that an identical call would join."""
        return len(self._flights)

    @property
    def held(self) -> int:
        """Bytes of answers in progress that are kept for those who join or are slow."""
        return self._memory.used

    async def send(self, lease: Lease, reply: Reply, story: Story, rules: Rules) -> bool:
        """As dispatch's, where the call is not cacheable. Whether the call got the answer of another one's run: then
        it paid nothing. Raises as dispatch does.
        """
        principal = story.principal
        if principal is None or not rules.single_flight or not cacheable(lease.call):
            await self._send(lease, reply, story)
            return False
        # A run waits in the class of its leader: an urgent call does not join one that may wait.
        key = (fingerprint(principal.tenant, lease.call), lease.ticket.priority)
        seat = Seat(lease, story)
        flight = self._flights.get(key)
        if flight is not None and self._long_enough(flight, lease.call):
            flight.join(seat)
            reply.own(partial(flight.leave, seat, reply))
            hold = lease.first_hold()
            if hold is not None:
                hold.settle()  # somebody else pays
        elif len(self._tasks) < FLIGHTS_MAX:
            flight = self._start(key, seat)
            reply.own(partial(flight.leave, seat, reply))
        else:
            await self._send(lease, reply, story)
            return False
        try:
            await flight.ready(seat)
        except HeadgateError:
            if not seat.late:
                reply.headers.extend(flight.headers)
            raise
        return self._answer(flight, seat, reply)

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Ends the runs in progress; whoever waits for one is told that the server stops."""
        await self._tasks.aclose(grace_s)

    def _long_enough(self, flight: Flight, call: Call) -> bool:
        """Whether a run may last about as long as this call. Once a stream has begun it ends at its leader's deadline:
        nobody shall be cut for somebody else's haste.
        """
        left = flight.leader.lease.call.deadline.remaining(self._clock)
        return not call.stream or left >= call.deadline.remaining(self._clock) / 2

    def _start(self, key: tuple[bytes, str], seat: Seat) -> Flight:
        flight = Flight(seat, self._send, self._again, self._clock, self._memory, lambda: self._close(key, flight))
        self._flights[key] = flight
        flight.task = self._tasks.spawn(flight.run())
        flight.task.add_done_callback(flight.ended)
        return flight

    def _close(self, key: tuple[bytes, str], flight: Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    @staticmethod
    def _answer(flight: Flight, seat: Seat, reply: Reply) -> bool:
        led = seat is flight.leader
        seat.story.meter.metrics.flight("led" if led else "joined")
        seat.story.level = flight.leader.story.level
        reply.status = flight.status
        reply.headers.extend(flight.headers)
        reply.headers.append(LED if led else JOINED)
        if flight.body is not None:
            reply.body = flight.body
            seat.story.complete()
        else:
            reply.stream = stream = flight.shared.read(seat)
            reply.own(stream.aclose)
        return not led

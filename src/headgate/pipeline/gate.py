"""The gate before a backend: as many calls inside as it takes, the others in weighted fair order, bounded and honest.

Where there is room a call passes at once, without a task or a timer. Else it waits in the fair queue (`fair_queue`)
until a slot is free, its deadline or the longest allowed wait has come, or its caller leaves. A call whose expected
wait is longer than it may wait is refused at once, with that time.
"""

import asyncio
import copy
import math
from typing import Annotated

from msgspec import Meta, Struct

from headgate.core.clock import Clock
from headgate.core.deadline import Deadline
from headgate.core.errors import HeadgateError, Overloaded
from headgate.core.policy import Priority
from headgate.pipeline.capacity import Capacity
from headgate.pipeline.fair_queue import FairQueue

FORGET_S = 30.0
"""How far back the measured drain rates look (seconds, time constant)."""

UNKNOWN_S = 1.0
"""When to try again while no call has ever left, and there is nothing to judge by."""


class GateSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How calls wait for a backend."""

    queue: Annotated[int, Meta(ge=0, le=1_000_000)] = 2_000
    """Calls that may wait; beyond it the newest call of the tenant with the most waiting is refused."""
    queue_wait_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    """Seconds a call may wait, if its deadline allows as much."""
    ageing_s: Annotated[float, Meta(gt=0, le=86_400)] = 10.0
    """A call that has waited so long counts as one class of priority higher."""


class Ticket(Struct, frozen=True):
    """What a call asks of the gate. `cost_tokens` is the prompt and the answer it may get."""

    tenant: str
    weight: float
    priority: Priority
    cost_tokens: int
    deadline: Deadline
    elsewhere: bool = False
    """Another backend may serve it too."""


class Slot:
    """Room for one call at the backend. Leave it once; leaving again does nothing."""

    __slots__ = ("_gate", "_waits", "cost", "entered", "in_flight", "left", "paused", "waited_s")

    def __init__(self, gate: "Gate", cost: float, waited_s: float, now: float) -> None:
        self._gate = gate
        self.cost = cost
        self.waited_s = waited_s
        self.entered = now
        self.in_flight = gate.active
        self.left = False
        self.paused = 0.0
        """Since when, on the gate's clock."""
        self._waits = 0
        """How many of its call's attempts wait at another gate: two, where they race."""

    def observe(self, latency_s: float, kind: str = "") -> None:
        """Tells the latency signal as soon as it is known: for a stream at its first piece, not at its end."""
        self._gate.observe(self, latency_s, kind)

    def pause(self) -> None:
        """Lends the room to others while its call waits for something else; `resume` must follow."""
        self._waits += 1
        if self._waits == 1:
            self._gate.lend(self)

    def resume(self) -> None:
        """Goes on at once, even where others have come in: then there is one more than the limit for a while."""
        self._waits -= 1
        if not self._waits:
            self._gate.take_back(self)

    def leave(self, latency_s: float | None = None, ok: bool = True, kind: str = "") -> None:
        """Gives the slot back. `ok=False`: the backend timed out or refused the call as too much (429, 503).

        Any other end, also an error, is `ok`: it says nothing about capacity. `latency_s` is the signal of
        `capacity` where it was not observed before.
        """
        if not self.left:
            self.left = True
            self._gate.give_back(self, latency_s, ok, kind)


class _Drain:
    """How fast something is served while it waits: work and calls per second, the last seconds counting most."""

    __slots__ = ("_calls", "_last", "_span", "_work", "waiting", "waiting_work")

    def __init__(self, now: float) -> None:
        self._work = self._calls = self._span = 0.0
        self._last = now
        self.waiting = 0
        self.waiting_work = 0.0

    def push(self, cost: float, now: float) -> None:
        if not self.waiting:
            self._last = now
        self.waiting += 1
        self.waiting_work += cost

    def leave(self, cost: float) -> None:
        self.waiting -= 1
        self.waiting_work = self.waiting_work - cost if self.waiting else 0.0

    def served(self, cost: float, now: float) -> None:
        elapsed = max(0.0, now - self._last)
        keep = math.exp(-elapsed / FORGET_S)
        self._work = self._work * keep + cost
        self._calls = self._calls * keep + 1
        self._span = self._span * keep + elapsed
        self._last = now

    def wait(self, work: float, expected: float, now: float) -> float:
        """Seconds until `work` has been served; `expected` stands in while little has been measured."""
        span = self._span + (now - self._last if self.waiting else 0.0)
        return work * (span + expected) / (self._work + work)

    def rates(self, calls: float, mean: float, seconds: float) -> tuple[float, float]:
        """Work and calls per second, where `calls` of `mean` work in `seconds` are taken as seen, too."""
        span = self._span + seconds
        if span <= 0:
            return 0.0, 0.0
        return (self._work + calls * mean) / span, (self._calls + calls) / span


class _Waiter:
    """One waiting call. Equal to itself only."""

    __slots__ = ("arrived", "cost", "place", "ticket", "until")

    def __init__(self, ticket: Ticket, cost: float, arrived: float, until: float) -> None:
        self.ticket = ticket
        self.cost = cost
        self.arrived = arrived
        self.until = until
        self.place: asyncio.Future[Slot] = asyncio.get_running_loop().create_future()


class Gate:
    """State of one backend's door. Decisions are synchronous; only a call that waits awaits."""

    def __init__(self, name: str, capacity: Capacity, settings: GateSettings, clock: Clock) -> None:
        self.name = name
        self.capacity = capacity
        self.settings = settings
        self.active = 0
        self._clock = clock
        self._queue: FairQueue[_Waiter] = FairQueue(settings.ageing_s)
        self._waiters: set[_Waiter] = set()
        self._drain = _Drain(clock.monotonic())
        self._lines: dict[tuple[str, Priority], _Drain] = {}
        self._hold_s = 0.0
        self._mean_cost = 0.0

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def limit(self) -> int:
        return self.capacity.limit

    def use(self, capacity: Capacity, settings: GateSettings) -> None:
        """New settings, from now on: who waits enters where there is more room, and those inside stay."""
        self.capacity = capacity
        self.settings = settings
        self._queue.ageing_s = settings.ageing_s
        self._let_in()

    async def enter(self, ticket: Ticket, held: Slot | None = None) -> Slot:
        """Raises `Overloaded` with `queue_full` or `queue_timeout` and the time after which to try again.

        `held` is the call's slot at another gate, which others may use while the call waits here: else those that wait
        for one backend would keep out those that another could serve.
        """
        now = self._clock.monotonic()
        if self.active < self.capacity.limit and not self._queue:
            self.active += 1
            return Slot(self, ticket.cost_tokens, 0.0, now)
        return await self._wait(ticket, now, held)

    def expected_wait(self, ticket: Ticket) -> float:
        """Seconds such a call would wait if it came now: what is before it in fair order, at the rate measured."""
        if self.active < self.capacity.limit and not self._queue:
            return 0.0
        now = self._clock.monotonic()
        cost = max(1.0, ticket.cost_tokens)
        limit = self.capacity.limit
        calls = limit if self._hold_s else 0
        work_rate, call_rate = self._drain.rates(calls, self._mean_cost, self._hold_s)
        if not work_rate:
            return 0.0  # nothing has ever left: there is nothing to judge by
        ahead = self._queue.ahead_of_new(ticket.tenant, ticket.weight, ticket.priority)
        expected = ahead.work / work_rate + 1 / call_rate
        line = self._lines.get((ticket.tenant, ticket.priority))
        if line is None:
            return expected
        return line.wait(line.waiting_work + cost, expected, now)

    def observe(self, slot: Slot, latency_s: float, kind: str) -> None:
        """For `Slot.observe`."""
        self.capacity.sample(latency_s, slot.in_flight, self._clock.monotonic(), kind, self._hold_s)
        if self._queue:
            self._let_in()

    def turn_away(self, error: HeadgateError) -> None:
        """Those who can go elsewhere wait here no longer."""
        for waiter in [waiter for waiter in self._waiters if waiter.ticket.elsewhere]:
            self._forget(waiter)
            if not waiter.place.done():
                waiter.place.set_exception(copy.copy(error))

    def lend(self, slot: Slot) -> None:
        """For `Slot.pause`."""
        slot.paused = self._clock.monotonic()
        self.active -= 1
        if self._queue:
            self._let_in()

    def take_back(self, slot: Slot) -> None:
        """For `Slot.resume`."""
        slot.entered += self._clock.monotonic() - slot.paused
        self.active += 1

    def give_back(self, slot: Slot, latency_s: float | None, ok: bool, kind: str) -> None:
        """For `Slot.leave`."""
        now = self._clock.monotonic()
        self.active -= 1
        held = now - slot.entered
        self._hold_s += 0.1 * (held - self._hold_s) if self._hold_s else held
        self._mean_cost += 0.1 * (slot.cost - self._mean_cost) if self._mean_cost else slot.cost
        if not ok:
            self.capacity.dropped(slot.in_flight, now)
        elif latency_s is not None:
            self.capacity.sample(latency_s, slot.in_flight, now, kind, self._hold_s)
        if self._queue:
            self._let_in()

    async def _wait(self, ticket: Ticket, now: float, held: Slot | None) -> Slot:
        waiter = self._line_up(ticket, now)
        self._waiters.add(waiter)
        if held is not None:
            held.pause()
        try:
            async with asyncio.timeout(waiter.until - now):
                return await waiter.place
        except BaseException as error:
            place = waiter.place
            if not place.done() or place.cancelled():
                self._forget(waiter)
            elif place.exception() is None:
                place.result().leave()  # it came together with the end of the wait
            if isinstance(error, TimeoutError):
                raise self._too_late(waiter) from error
            raise
        finally:
            self._waiters.discard(waiter)
            if held is not None:
                held.resume()

    def _line_up(self, ticket: Ticket, now: float) -> _Waiter:
        left = max(0.0, ticket.deadline.at - now)
        # Some of it is for the answer: a call let in at its deadline would only take another's room.
        answer = self._hold_s * max(1.0, ticket.cost_tokens / self._mean_cost) if self._mean_cost else 0.0
        allowed = min(self.settings.queue_wait_s, left - min(answer, left / 2))
        expected = self.expected_wait(ticket)
        if expected > allowed:
            raise Overloaded(
                f"'{self.name}' is busy: a wait of about {expected:.1f} s is expected, and this call may wait "
                f"{allowed:.1f} s. Try again later, or allow more time with x-headgate-timeout-s.",
                code="queue_timeout",
                retry_after=expected,
            )
        if len(self._queue) >= self.settings.queue:
            self._make_room(ticket, expected)
        waiter = _Waiter(ticket, max(1.0, ticket.cost_tokens), now, now + allowed)
        self._queue.push(ticket.tenant, ticket.weight, waiter.cost, ticket.priority, now, waiter)
        self._drain.push(waiter.cost, now)
        key = (ticket.tenant, ticket.priority)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Drain(now)
        line.push(waiter.cost, now)
        return waiter

    def _make_room(self, ticket: Ticket, expected: float) -> None:
        evicted = self._queue.gives_way(ticket.tenant, ticket.weight, ticket.priority) if self.settings.queue else None
        if evicted is None:
            raise self._full(expected)
        after = self.expected_wait(evicted.ticket)
        self._forget(evicted)
        if not evicted.place.done():
            evicted.place.set_exception(self._full(after))

    def _let_in(self) -> None:
        now = self._clock.monotonic()
        while self.active < self.capacity.limit and (waiter := self._queue.pop(now)) is not None:
            self._drop_line(waiter)
            if waiter.place.done():
                continue  # its caller has left in this very turn
            if waiter.until < now:
                waiter.place.set_exception(self._too_late(waiter))
                continue
            self._drain.served(waiter.cost, now)
            line = self._lines.get((waiter.ticket.tenant, waiter.ticket.priority))
            if line is not None:
                line.served(waiter.cost, now)
            self.active += 1
            waiter.place.set_result(Slot(self, waiter.cost, now - waiter.arrived, now))

    def _forget(self, waiter: _Waiter) -> None:
        if self._queue.remove(waiter):
            self._drop_line(waiter)

    def _drop_line(self, waiter: _Waiter) -> None:
        """One less waits. A tenant's measured rate lasts as long as it has something waiting."""
        self._drain.leave(waiter.cost)
        key = (waiter.ticket.tenant, waiter.ticket.priority)
        line = self._lines[key]
        line.leave(waiter.cost)
        if not line.waiting:
            del self._lines[key]

    def _full(self, expected: float) -> Overloaded:
        return Overloaded(
            f"Too many calls wait for '{self.name}' already, and this tenant has its share of the places. "
            f"Try again later.",
            code="queue_full",
            retry_after=expected or UNKNOWN_S,
        )

    def _too_late(self, waiter: _Waiter) -> Overloaded:
        waited = self._clock.monotonic() - waiter.arrived
        return Overloaded(
            f"'{self.name}' had no room for this call within {waited:.1f} s. "
            f"Try again later, or allow more time with x-headgate-timeout-s.",
            code="queue_timeout",
            retry_after=self.expected_wait(waiter.ticket) or UNKNOWN_S,
        )

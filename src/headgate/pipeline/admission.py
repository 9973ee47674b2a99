"""The door: every limit and budget of a call in one decision, then a place in the fair queue."""

from typing import Annotated

from msgspec import Meta, structs

from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.errors import Overloaded
from headgate.core.limiter import Cost
from headgate.core.policy import PRIORITIES, Limit, Policy, Priority
from headgate.core.principal import Principal
from headgate.core.reply import Header
from headgate.core.target import Target
from headgate.ledger.journal import Journal
from headgate.pipeline.booking import Booked, Booking, FindTargets
from headgate.pipeline.capacity import Fixed
from headgate.pipeline.costing import CostingSettings
from headgate.pipeline.gate import Gate, GateSettings, Slot, Ticket
from headgate.pipeline.holds import Hold
from headgate.pipeline.plans import Terms

_Limit = Annotated[int, Meta(ge=1, le=1_000_000_000_000)]
_Size = Annotated[int, Meta(ge=0, le=1_000_000)]


class AdmissionSettings(CostingSettings, frozen=True, forbid_unknown_fields=True):
    """Limits of the whole process, and the defaults of a key without limits of its own."""

    concurrency: _Limit = 1_000
    """Calls in progress at once; more wait. Those that wait for a backend do not count."""
    queue: _Size = 2_000
    """Calls that may wait; more are refused with 503."""
    queue_wait_s: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    """Seconds a call may wait; one that would wait longer is refused at once with 503."""
    ageing_s: Annotated[float, Meta(gt=0, le=86_400)] = 10.0
    """A call that has waited so long counts as one class of priority higher."""
    key_concurrency: _Limit = 1_000
    """Calls of one key in progress or waiting."""
    key_requests_per_minute: _Limit = 60_000
    key_tokens_per_minute: _Limit = 20_000_000
    """Prompt and answer together."""

    def key_policy(self) -> Policy:
        return Policy(
            limits=(
                Limit("requests", self.key_requests_per_minute),
                Limit("tokens", self.key_tokens_per_minute),
                Limit("concurrency", self.key_concurrency),
            )
        )


class Lease:
    """Room held for one call, given back by `Admission.leave`. Only what admission gave can be dispatched."""

    __slots__ = ("_hold", "booked", "call", "headers", "routed", "slot", "started", "ticket", "waited_s")

    def __init__(self, principal: Principal, booked: Booked, hold: Hold | None) -> None:
        self.booked = booked
        terms = booked.terms
        rank = priority(terms, booked.call)
        self.call = structs.replace(booked.call, tenant=principal.tenant, priority=rank)
        self.routed = booked.routed
        self.headers: list[Header] = booked.headers
        self._hold = hold
        self.ticket = Ticket(
            tenant=principal.tenant,
            weight=terms.weight,
            priority=rank,
            cost_tokens=max(1, booked.work),
            deadline=self.call.deadline,
            elsewhere=len(booked.routed.targets) > 1,
        )
        self.slot: Slot | None = None
        self.waited_s = 0.0
        self.started = 0.0

    def first_hold(self) -> Hold | None:
        """What budgets hold for the first attempt; whoever takes it settles it."""
        hold, self._hold = self._hold, None
        return hold


class Admission:
    """State: who is in, who waits. Limits and budgets are the booking's."""

    def __init__(
        self, settings: AdmissionSettings, booking: Booking, gate: Gate, journal: Journal, clock: Clock
    ) -> None:
        self.settings = settings
        self.booking = booking
        self.gate = gate
        self._journal = journal
        self._clock = clock
        self._hold_s = 1.0
        """How long a call holds its place, smoothed: the basis of an honest Retry-After."""
        booking.use(settings, settings.key_policy())

    async def admit(self, principal: Principal, call: Call, find: FindTargets) -> Lease:
        """Raises `OverLimit` and `OverBudget` (the caller's limits) or `Overloaded` (ours), each with the time after
        which to try again, and what `find` raises.
        """
        self._refuse_if_broken()
        # Limits before the queue: a key over its rate would fill it with calls that are refused in the end.
        booked = await self.booking.book(principal, call, find, self._hold_s)
        return await self._enter(
            Lease(principal, booked, Hold(self.booking.limiter, call.id, booked.terms, booked.cost))
        )

    async def visit(self, principal: Principal, call: Call) -> Lease:
        """For an answer that is there already: a request, no place, no tokens, no money, no upstream."""
        booked = await self.booking.visit(principal, call)
        lease = Lease(principal, booked, None)
        lease.started = self._clock.monotonic()
        return lease

    async def again(self, lease: Lease, target: Target, claim: str) -> Hold:
        """Holds what one more attempt may cost. Raises `OverBudget`."""
        return await self.booking.again(lease.booked, target, claim)

    async def lead(self, lease: Lease, claim: str) -> Hold:
        """Holds what the first attempt of a call may cost that had joined another, and must run itself now.

        Raises `OverBudget`.
        """
        return await self.booking.anew(lease.booked, claim)

    def use(self, settings: AdmissionSettings, gate: GateSettings) -> None:
        """New settings, from now on: who waits enters where there is more room, and those inside stay."""
        self.settings = settings
        self.gate.use(Fixed(settings.concurrency), gate)
        self.booking.use(settings, settings.key_policy())

    def leave(self, lease: Lease, used_tokens: int) -> None:
        """Gives everything back, and trues the token limits up from what was reserved to what was used."""
        if lease.slot is not None:
            lease.slot.leave()
            self._hold_s += 0.1 * (self._clock.monotonic() - lease.started - self._hold_s)
        hold = lease.first_hold()
        if hold is not None:
            hold.settle()  # no attempt was made
        booked = lease.booked
        self.booking.limiter.settle(lease.call.id, booked.terms.rest, booked.cost, Cost(used_tokens))

    async def _enter(self, lease: Lease) -> Lease:
        arrived = self._clock.monotonic()
        try:
            if lease.booked.delay_s > 0:
                await self._pace(lease)
            lease.slot = await self.gate.enter(lease.ticket)
        except BaseException:
            self.leave(lease, 0)
            raise
        lease.started = self._clock.monotonic()
        lease.waited_s = lease.started - arrived
        return lease

    async def _pace(self, lease: Lease) -> None:
        """A leaky bucket's wait. Raises `Overloaded` where the call's deadline comes first."""
        delay_s = lease.booked.delay_s
        if lease.call.deadline.remaining(self._clock) <= delay_s:
            raise Overloaded(
                f"To keep the limit's pace this call must wait {delay_s:.1f} s, which its deadline does not allow. "
                "Allow more time with x-headgate-timeout-s.",
                code="queue_timeout",
                retry_after=delay_s,
            )
        await self._clock.sleep(delay_s)

    def _refuse_if_broken(self) -> None:
        self._journal.check_room()
        if self._journal.broken is not None:
            self._journal.probe()
            if self._journal.broken is not None:
                raise Overloaded(
                    f"The usage ledger cannot be written ({self._journal.broken}); no new work is taken until it can.",
                    code="ledger_unavailable",
                    retry_after=1.0,
                )


def priority(terms: Terms, call: Call) -> Priority:
    """The class the call waits in: what it asks for, but no higher than its policies allow."""
    if call.priority is None:
        return terms.priority
    return max(call.priority, terms.priority, key=PRIORITIES.index)

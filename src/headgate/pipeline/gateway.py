"""The request path, top to bottom. The order is policy; it is read here and nowhere else."""

from collections.abc import Callable, Mapping, Sequence

from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.errors import Bug, HeadgateError
from headgate.core.ports import Backend
from headgate.core.principal import Principal
from headgate.core.reply import Reply, printable
from headgate.core.switches import Diversion, Switch, Switches, refusal
from headgate.core.target import Routed, RouteTable
from headgate.pipeline.admission import Admission, Lease
from headgate.pipeline.auth import Auth, may_use
from headgate.pipeline.booking import with_model
from headgate.pipeline.degraded import Degraded
from headgate.pipeline.flights.stage import Flights
from headgate.pipeline.meter import Meter, Story
from headgate.pipeline.route import choose, named

TOLD_S = 0.001
"""A shorter wait is not worth a header."""


class Gateway:
    """Built once from its stages. `routes` and `switches` are snapshots, replaced by one assignment."""

    def __init__(
        self, auth: Auth, admission: Admission, flights: Flights, degraded: Degraded, meter: Meter, clock: Clock
    ) -> None:
        self.auth = auth
        self.admission = admission
        self.flights = flights
        self.degraded = degraded
        self.meter = meter
        self.backends: Mapping[str, Backend] = {}
        """By replica."""
        self.switches: Callable[[], Switches] = Switches
        self.routes = RouteTable(0, {})
        self.pools: Mapping[str, Sequence[str]] = {}
        """The replicas of each backend."""
        self._clock = clock

    async def handle(self, call: Call) -> Reply:
        """A reply whose answer has begun. The caller must close it. Raises `HeadgateError` before the first byte."""
        reply = Reply()
        story = self.meter.begin(call)
        reply.own(story.done)
        try:
            principal = self.auth.check(call.credential, "inference", call.model)
            story.principal = principal
            call = self._switched(call, principal, story, reply)

            lease = await self.admission.admit(principal, call, self._targets)
            reply.own(lambda: self.admission.leave(lease, story.usage.total))
            reply.headers.extend(lease.headers)
            story.queue_s = lease.waited_s

            story.overhead_s = self._clock.monotonic() - call.received - lease.waited_s
            self.meter.metrics.overhead(story.overhead_s)
            await self._answer(lease, reply, story)
            story.queue_s = lease.waited_s
            reply.headers.append((b"x-headgate-overhead-ms", b"%.3f" % (story.overhead_s * 1000)))
            if story.queue_s >= TOLD_S:
                reply.headers.append((b"x-headgate-queue-ms", b"%.0f" % (story.queue_s * 1000)))
        except HeadgateError as error:
            story.fail(error)
            error.headers = error.headers or reply.headers
            await reply.aclose(error)
            raise
        except BaseException as error:
            bug = Bug(f"Unexpected {type(error).__name__}.") if isinstance(error, Exception) else None
            if bug is not None:
                story.fail(bug)
            else:
                story.go_on()  # left between two attempts: that the first one failed is not what became of the call
            await reply.aclose(bug)
            raise
        return reply

    async def replay(self, call: Call) -> Reply:
        """An empty reply for an answer that is kept already: the same door, no upstream, no cost. The caller must fill
        and close it, and say before whether it is `whole`. Raises `HeadgateError`.
        """
        reply = Reply()
        story = self.meter.begin(call)
        story.replayed = True
        reply.own(story.done)
        reply.own(lambda: _told(reply, story))
        try:
            principal = self.auth.check(call.credential, "inference", call.model)
            story.principal = principal
            self._diversion(call, principal)  # the answer is there: its own headers say which model gave it
            lease = await self.admission.visit(principal, call)
            reply.own(lambda: self.admission.leave(lease, 0))
            reply.headers.extend(lease.headers)
        except HeadgateError as error:
            story.fail(error)
            await reply.aclose(error)
            raise
        return reply

    async def _answer(self, lease: Lease, reply: Reply, story: Story) -> None:
        """From an identical call in flight, from a target, or where none answers from what the route keeps for that."""
        rules = lease.routed.rules
        try:
            story.joined = await self.flights.send(lease, reply, story, rules)
        except HeadgateError as error:
            level = self.degraded.serve(rules, lease, reply, story, error)
            if level is None:
                raise
            story.level = level
            return
        if not story.joined:
            self.degraded.keep(rules, lease, reply, story)

    def _switched(self, call: Call, principal: Principal, story: Story, reply: Reply) -> Call:
        """The call, or the one that a kill switch makes of it. Raises `Overloaded` (`switched_off`)."""
        found = self._diversion(call, principal)
        if found is None:
            return call
        self.meter.metrics.switched(found.switch.kind, "diverted")
        story.switched_from = call.model
        reply.headers.append((b"x-headgate-switched-from", printable(call.model)))
        reply.headers.append((b"x-headgate-model", printable(found.model)))
        return with_model(call, found.model)

    def _diversion(self, call: Call, principal: Principal) -> Diversion | None:
        """The model that a kill switch has the call go to. Raises `Overloaded` (`switched_off`)."""
        switches = self.switches()
        if not switches.in_force:
            return None
        now = self._clock.now()
        found = switches.judge(call.model, principal.tenant, call.tags, now)
        if found is None:
            return None
        if isinstance(found, Switch) or call.operation == "passthrough" or not may_use(principal, found.model):
            switch = found if isinstance(found, Switch) else found.switch
            self.meter.metrics.switched(switch.kind, "refused")
            raise refusal(switch, now)
        return found

    def _targets(self, call: Call) -> Routed:
        """Asked again for each model that a budget would rather use: that one may be off too."""
        switches, off = self.switches(), None
        if switches.in_force:
            now = self._clock.now()
            switch = switches.model(call.model, now)
            if switch is not None:
                raise refusal(switch, now)
            off = switches.off(now)
        if call.backend is not None:
            return named(call, self.backends, self.pools, off)
        return choose(call, self.routes, off)


def _told(reply: Reply, story: Story) -> None:
    """How it ended for a caller whose answer was there already."""
    if reply.reason is not None:
        story.fail(reply.reason)
    elif reply.whole:
        story.complete()

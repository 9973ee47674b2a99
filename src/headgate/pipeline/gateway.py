"""The request path, top to bottom. The order is policy; it is read here and nowhere else."""

import random
from collections.abc import Callable, Sequence

from headgate.core.call import Call
from headgate.core.clock import Clock
from headgate.core.errors import Bug, HeadgateError
from headgate.core.reply import Reply
from headgate.core.target import RouteTable, Target
from headgate.pipeline.admission import Admission
from headgate.pipeline.auth import Auth
from headgate.pipeline.dispatch import Dispatch
from headgate.pipeline.meter import Meter
from headgate.pipeline.route import choose, named


class Gateway:
    """Built once from its stages. `routes` is a snapshot, replaced by one assignment."""

    def __init__(
        self, auth: Auth, admission: Admission, dispatch: Dispatch, meter: Meter, clock: Clock, rng: random.Random
    ) -> None:
        self.auth = auth
        self.admission = admission
        self.dispatch = dispatch
        self.meter = meter
        self.routes = RouteTable(0, {})
        self.usable: Callable[[str], bool] = lambda backend: True
        self._clock = clock
        self._rng = rng

    async def handle(self, call: Call) -> Reply:
        """A reply whose answer has begun. The caller must close it. Raises `HeadgateError` before the first byte."""
        reply = Reply()
        story = self.meter.begin(call)
        reply.own(story.done)
        try:
            principal = self.auth.check(call.credential, "inference", call.model)
            story.principal = principal

            lease = await self.admission.admit(principal, call, self._targets)
            reply.own(lambda: self.admission.leave(lease, story.usage.total))
            reply.headers.extend(lease.headers)
            story.queue_s = lease.waited_s

            story.overhead_s = self._clock.monotonic() - call.received - lease.waited_s
            self.meter.metrics.overhead(story.overhead_s)
            await self.dispatch.send(lease, reply, story)
            story.queue_s = lease.waited_s
        except HeadgateError as error:
            story.fail(error)
            error.headers = error.headers or reply.headers
            await reply.aclose(error)
            raise
        except BaseException as error:
            bug = Bug(f"Unexpected {type(error).__name__}.") if isinstance(error, Exception) else None
            if bug is not None:
                story.fail(bug)
            await reply.aclose(bug)
            raise
        return reply

    async def replay(self, call: Call) -> Reply:
        """An empty reply for an answer that is kept already: the same door, no upstream, no cost. The caller must fill
        and close it. Raises `HeadgateError`.
        """
        reply = Reply()
        story = self.meter.begin(call)
        story.replayed = True
        reply.own(story.done)
        try:
            principal = self.auth.check(call.credential, "inference", call.model)
            story.principal = principal
            lease = await self.admission.visit(principal, call)
            reply.own(lambda: self.admission.leave(lease, 0))
            reply.headers.extend(lease.headers)
        except HeadgateError as error:
            story.fail(error)
            await reply.aclose(error)
            raise
        story.complete()
        return reply

    def _targets(self, call: Call) -> Sequence[Target]:
        if call.backend is not None:
            return named(call, self.dispatch.backends)
        return choose(call, self.routes, self._rng, self.usable)
